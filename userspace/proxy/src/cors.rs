//! Cross-origin requests (Fetch standard, 3.3).

use headgate_model::edge::{Cors, CorsList, CorsOrigin, CorsOrigins, HostMode};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header, request::Parts};

use crate::{fields::has, headers::insert};

/// Whether a request is a preflight.
pub(crate) fn is_preflight(parts: &Parts) -> bool {
    parts.method == Method::OPTIONS
        && parts.headers.contains_key(header::ORIGIN)
        && parts
            .headers
            .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Sets the headers that allow a page of `origin` to read a response, in place of the backend's.
pub(crate) fn allow(cors: &Cors, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    for name in [
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
        header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
    ] {
        headers.remove(name);
    }
    let allowed = match &cors.origins {
        // Also without an origin: a cache may give the response to a page that has one.
        CorsOrigins::All => HeaderValue::from_static("*"),
        origins => {
            vary_by_origin(headers);
            let Some(origin) = origin.filter(|origin| is_allowed(origins, origin)) else {
                return;
            };
            origin.clone()
        }
    };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    // Never by `*`: every page could read what cookies protect.
    if cors.credentials && cors.origins != CorsOrigins::All {
        let value = HeaderValue::from_static("true");
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, value);
    }
    if let Some(expose) = &cors.expose {
        insert(headers, header::ACCESS_CONTROL_EXPOSE_HEADERS, expose);
    }
}

/// Adds `Origin` to `Vary`, unless it is there.
fn vary_by_origin(headers: &mut HeaderMap) {
    if !has(headers, &header::VARY, "Origin") {
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
    }
}

/// Sets the headers of the response to a preflight with the headers `asked`.
pub(crate) fn allow_preflight(cors: &Cors, asked: &HeaderMap, headers: &mut HeaderMap) {
    allow(cors, asked.get(header::ORIGIN), headers);
    if !headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
        return;
    }
    let mut list = |name: HeaderName, list: &CorsList, asking: HeaderName| match list {
        CorsList::Listed(list) if list.is_empty() => {}
        CorsList::Listed(list) => insert(headers, name, list),
        CorsList::Asked => {
            if let Some(asked) = asked.get(asking) {
                headers.insert(name, asked.clone());
            }
        }
    };
    let asking = header::ACCESS_CONTROL_REQUEST_METHOD;
    list(header::ACCESS_CONTROL_ALLOW_METHODS, &cors.methods, asking);
    let asking = header::ACCESS_CONTROL_REQUEST_HEADERS;
    list(header::ACCESS_CONTROL_ALLOW_HEADERS, &cors.headers, asking);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, cors.max_age_s.into());
}

fn is_allowed(origins: &CorsOrigins, origin: &HeaderValue) -> bool {
    match origins {
        CorsOrigins::All | CorsOrigins::Each => true,
        CorsOrigins::Listed(origins) => {
            let text = origin.to_str().unwrap_or_default().to_ascii_lowercase();
            origins.iter().any(|allowed| is_same(allowed, &text))
        }
    }
}

fn is_same(allowed: &CorsOrigin, origin: &str) -> bool {
    let Some(rest) = origin.strip_prefix(allowed.scheme.as_str()) else {
        return false;
    };
    let [(host, port), (known, known_port)] =
        [rest, &allowed.host].map(|text| split_port(text, &allowed.scheme));
    let labels = match allowed.wildcard {
        None => return (host, port) == (known, known_port),
        Some(_) if known.is_empty() => Some(host),
        Some(_) => host
            .strip_suffix(known)
            .and_then(|labels| labels.strip_suffix('.')),
    };
    let is_below = labels.is_some_and(|labels| {
        let is_one = allowed.wildcard == Some(HostMode::OneLabel);
        let is_several = labels.contains('.');
        !labels.split('.').any(str::is_empty) && (!is_one || !is_several)
    });
    is_below && port == known_port
}

/// Host and port of an origin, without the default port of its scheme.
fn split_port<'a>(text: &'a str, scheme: &str) -> (&'a str, Option<&'a str>) {
    let usual = if scheme == "https://" { "443" } else { "80" };
    match text.rsplit_once(':') {
        // What follows a colon inside of brackets is part of an address.
        Some((host, port)) if !port.ends_with(']') => (host, (port != usual).then_some(port)),
        _ => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use headgate_model::edge::{Cors, CorsList, CorsOrigin, CorsOrigins, HostMode};
    use http::{HeaderMap, HeaderValue, header::ORIGIN};

    use super::{allow, allow_preflight};

    fn cors(origins: Vec<CorsOrigin>, credentials: bool) -> Cors {
        Cors {
            origins: match origins.is_empty() {
                true => CorsOrigins::All,
                false => CorsOrigins::Listed(origins),
            },
            methods: CorsList::Listed("GET, PUT".into()),
            headers: CorsList::Listed("X-A".into()),
            expose: None,
            credentials,
            max_age_s: 60,
        }
    }

    fn allowed(cors: &Cors, origin: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        // The header of the backend is replaced.
        headers.insert("access-control-allow-origin", HeaderValue::from_static("*"));
        allow(
            cors,
            Some(&HeaderValue::from_str(origin).unwrap()),
            &mut headers,
        );
        let value = headers.get("access-control-allow-origin")?;
        Some(value.to_str().unwrap().into())
    }

    #[test]
    fn l47_origins_match_whole_hosts() {
        let origin = |is_wildcard: bool| CorsOrigin {
            scheme: "https://".into(),
            wildcard: is_wildcard.then_some(HostMode::OneLabel),
            host: "example.com".into(),
        };
        let some = cors(vec![origin(false), origin(true)], true);
        for origin in [
            "https://example.com",
            "https://a.example.com",
            "https://A.example.com",
        ] {
            assert_eq!(allowed(&some, origin).as_deref(), Some(origin));
        }
        for origin in [
            "http://example.com",
            "https://example.com.evil.com",
            "https://evilexample.com",
            "https://a.b.example.com",
            "https://.example.com",
            "null",
        ] {
            assert_eq!(allowed(&some, origin), None, "{origin}");
        }
    }

    #[test]
    fn l133_credentials_are_only_for_listed_origins() {
        let listed = CorsOrigin {
            scheme: "https://".into(),
            wildcard: None,
            host: "a.b".into(),
        };
        for (origins, credentials, page, expected) in [
            (vec![], true, "https://evil.example", Some(("*", false))),
            (vec![], true, "null", Some(("*", false))),
            (vec![], false, "https://a.b", Some(("*", false))),
            (
                vec![listed.clone()],
                true,
                "https://a.b",
                Some(("https://a.b", true)),
            ),
            (
                vec![listed.clone()],
                false,
                "https://a.b",
                Some(("https://a.b", false)),
            ),
            (vec![listed.clone()], true, "https://evil.example", None),
            (vec![listed], true, "null", None),
        ] {
            let is_listed = !origins.is_empty();
            let cors = cors(origins, credentials);
            let page = HeaderValue::from_str(page).unwrap();
            let preflight = |cors: &Cors, page: Option<&HeaderValue>, headers: &mut HeaderMap| {
                let asked = HeaderMap::from_iter(page.map(|page| (ORIGIN, page.clone())));
                allow_preflight(cors, &asked, headers);
            };
            for set in [allow, preflight] {
                // What the backend says is replaced.
                let mut headers = HeaderMap::new();
                for (name, value) in [
                    ("access-control-allow-origin", "https://evil.example"),
                    ("access-control-allow-credentials", "true"),
                ] {
                    headers.insert(name, HeaderValue::from_static(value));
                }
                set(&cors, Some(&page), &mut headers);
                let origin = headers.get("access-control-allow-origin");
                let found = origin.map(|origin| {
                    let with = headers.get("access-control-allow-credentials");
                    (origin.to_str().unwrap(), with.is_some())
                });
                assert_eq!(found, expected, "{page:?}");
                assert_eq!(headers.contains_key("vary"), is_listed);
            }
        }
    }

    #[test]
    fn l47_preflight_lists_methods_and_headers() {
        let mut headers = HeaderMap::new();
        let origin = HeaderValue::from_static("https://a.b");
        let asked = HeaderMap::from_iter([(ORIGIN, origin)]);
        allow_preflight(&cors(Vec::new(), false), &asked, &mut headers);
        assert_eq!(headers["access-control-allow-methods"], "GET, PUT");
        assert_eq!(headers["access-control-allow-headers"], "X-A");
        assert_eq!(headers["access-control-max-age"], "60");
    }
}
