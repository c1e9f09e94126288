//! Cross-origin requests (Fetch standard, 3.3).

use headgate_model::ingress::{Cors, Origin};
use http::{HeaderMap, HeaderValue, Method, header, request::Parts};

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
    let is_for_all = cors.origins.is_empty();
    let allowed = match is_for_all {
        // Also without an origin: a cache may give the response to a page that has one.
        true => HeaderValue::from_static("*"),
        false => {
            vary_by_origin(headers);
            let Some(origin) = origin.filter(|origin| is_allowed(&cors.origins, origin)) else {
                return;
            };
            origin.clone()
        }
    };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    // Never for every page: it could read what cookies protect.
    if cors.credentials && !is_for_all {
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

/// Sets the headers of the response to a preflight.
pub(crate) fn allow_preflight(cors: &Cors, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    allow(cors, origin, headers);
    if headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
        insert(headers, header::ACCESS_CONTROL_ALLOW_METHODS, &cors.methods);
        insert(headers, header::ACCESS_CONTROL_ALLOW_HEADERS, &cors.headers);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, cors.max_age_s.into());
    }
}

fn is_allowed(origins: &[Origin], origin: &HeaderValue) -> bool {
    let text = origin.to_str().unwrap_or_default().to_ascii_lowercase();
    origins.iter().any(|allowed| {
        let Some(host) = text.strip_prefix(allowed.scheme.as_str()) else {
            return false;
        };
        match allowed.is_wildcard {
            true => host
                .split_once('.')
                .is_some_and(|(label, rest)| !label.is_empty() && rest == allowed.host),
            false => host == allowed.host,
        }
    })
}

#[cfg(test)]
mod tests {
    use headgate_model::ingress::{Cors, Origin};
    use http::{HeaderMap, HeaderValue};

    use super::{allow, allow_preflight};

    fn cors(origins: Vec<Origin>, credentials: bool) -> Cors {
        Cors {
            origins,
            methods: "GET, PUT".into(),
            headers: "X-A".into(),
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
        let origin = |is_wildcard| Origin {
            scheme: "https://".into(),
            is_wildcard,
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
        let listed = Origin {
            scheme: "https://".into(),
            is_wildcard: false,
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
            for set in [allow, allow_preflight] {
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
        allow_preflight(&cors(Vec::new(), false), Some(&origin), &mut headers);
        assert_eq!(headers["access-control-allow-methods"], "GET, PUT");
        assert_eq!(headers["access-control-allow-headers"], "X-A");
        assert_eq!(headers["access-control-max-age"], "60");
    }
}
