//! The head of a request, checked (RFC 9110, 7; RFC 9112, 3; RFC 9113, 8.3.1).

use std::{borrow::Cow, net::Ipv6Addr};

use headgate_model::edge::path;
use http::{
    HeaderMap, HeaderValue, Method, Request, Uri, Version, header, request::Parts,
    uri::PathAndQuery,
};

use crate::{body::Body, headers};

/// Longest path and query, in bytes.
const MAX_TARGET: usize = 16 << 10;

/// Why a request is rejected before it is routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Misunderstood {
    #[error("the host is missing or invalid")]
    Host,
    #[error("the request names several hosts")]
    Hosts,
    #[error("the path is invalid")]
    Path,
    #[error("servers could read the path as one with other access rules")]
    Readings,
    #[error("path and query are too long")]
    Long,
    #[error("the method is not supported")]
    Method,
    #[error("the transfer coding is not supported")]
    Coding,
}

/// Checks a request, removes what concerns only its connection, and gives it the form that all later
/// steps expect: a path and query as its target, the host in `Host`, and one `Cookie`.
pub(crate) fn receive(parts: &mut Parts) -> Result<(), Misunderstood> {
    // As nginx: TRACE would show a client the headers that the proxy adds.
    if [Method::CONNECT, Method::TRACE].contains(&parts.method) {
        return Err(Misunderstood::Method);
    }
    if !is_plain_coding(&parts.headers) {
        return Err(Misunderstood::Coding);
    }
    let target = parts.uri.path_and_query();
    if target.is_some_and(|target| target.as_str().len() > MAX_TARGET) {
        return Err(Misunderstood::Long);
    }
    if let Some(authority) = authority(parts)? {
        parts.headers.insert(header::HOST, authority);
        let target = target.cloned();
        let target = target.unwrap_or_else(|| PathAndQuery::from_static("/"));
        parts.uri = Uri::from(target);
    }
    headers::strip_hop_by_hop(&mut parts.headers);
    join_cookies(&mut parts.headers);
    Ok(())
}

/// The parts of a received request that select its route.
#[derive(Debug)]
pub(crate) struct RequestHead<'a> {
    /// In lower case, without port; empty if an HTTP/1.0 client sent none.
    pub(crate) host: Cow<'a, str>,
    /// In its decoded form.
    pub(crate) path: Cow<'a, str>,
    /// Without `?`.
    pub(crate) query: Option<&'a str>,
}

impl<'a> RequestHead<'a> {
    pub(crate) fn of(parts: &'a Parts) -> Result<Self, Misunderstood> {
        let host = match parts.headers.get(header::HOST) {
            Some(host) => host.to_str().ok().and_then(name),
            None if parts.version == Version::HTTP_10 => Some("".into()),
            None => None,
        };
        Ok(Self {
            host: host.ok_or(Misunderstood::Host)?,
            path: path::decoded(parts.uri.path()).ok_or(Misunderstood::Path)?,
            query: parts.uri.query(),
        })
    }
}

/// Whether the body has no transfer coding but `chunked` (RFC 9112, 6.1).
fn is_plain_coding(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let is_chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    codings.next().is_none_or(is_chunked) && codings.next().is_none()
}

/// Returns the authority in the target, which replaces `Host` (RFC 9112, 3.2.2). In HTTP/2 both must name
/// the same host and port (RFC 9113, 8.3.1).
fn authority(parts: &Parts) -> Result<Option<HeaderValue>, Misunderstood> {
    let mut fields = parts.headers.get_all(header::HOST).iter();
    let field = match fields.next() {
        Some(value) => Some(value.to_str().map_err(|_bytes| Misunderstood::Host)?),
        None => None,
    };
    if fields.next().is_some() {
        return Err(Misunderstood::Hosts);
    }
    let Some(authority) = parts.uri.authority() else {
        return Ok(None);
    };
    if parts.uri.scheme().is_none() {
        // Authority-form, which is only for CONNECT.
        return Err(Misunderstood::Path);
    }
    let authority = authority.as_str();
    if let Some(field) = field {
        let usual = match parts.uri.scheme_str() {
            Some("https") => "443",
            _ => "80",
        };
        let [here, there] = [authority, field].map(|text| endpoint(text, usual));
        if parts.version >= Version::HTTP_2 && here != there {
            return Err(Misunderstood::Hosts);
        }
        // Checked although it is replaced: an invalid one makes the request ambiguous.
        name(field).ok_or(Misunderstood::Host)?;
    }
    let value = HeaderValue::from_str(authority);
    value.map(Some).map_err(|_invalid| Misunderstood::Host)
}

/// Name and port of an authority.
fn endpoint<'a>(text: &'a str, usual: &'a str) -> Option<(Cow<'a, str>, &'a str)> {
    let (_, port) = split_port(text)?;
    let port = port.filter(|port| !port.is_empty()).unwrap_or(usual);
    Some((name(text)?, port))
}

/// Splits a host and its port, if it has one.
fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    let end = match text.starts_with('[') {
        true => text.find(']')? + 1,
        false => text.find(':').unwrap_or(text.len()),
    };
    let (host, rest) = text.split_at_checked(end)?;
    match rest.strip_prefix(':') {
        Some(port) => Some((host, Some(port))),
        None => rest.is_empty().then_some((host, None)),
    }
}

/// Returns a host in lower case, without port and without final dot: a name or an address (RFC 3986,
/// 3.2.2).
pub(crate) fn name(text: &str) -> Option<Cow<'_, str>> {
    let (host, port) = split_port(text)?;
    let is_port =
        |port: &str| port.is_empty() || port.parse::<u16>().is_ok() && !port.starts_with('+');
    if !port.is_none_or(is_port) {
        return None;
    }
    let address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = host.strip_suffix('.').unwrap_or(host);
    // RFC 1035, 2.3.4: 255 octets on the wire.
    if host.len() > 253 {
        return None;
    }
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let is_name = |host: &str| host.bytes().all(is_fit) && !host.split('.').any(str::is_empty);
    let is_valid = match address {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => is_name(host),
    };
    is_valid.then(
        || match host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => host.to_ascii_lowercase().into(),
            false => host.into(),
        },
    )
}

/// Joins cookies to one field. HTTP/2 clients split it (RFC 9113, 8.2.3), HTTP/1.1 servers expect one.
fn join_cookies(headers: &mut HeaderMap) {
    let mut fields = headers.get_all(header::COOKIE).iter();
    if fields.nth(1).is_none() {
        return;
    }
    let fields = headers.get_all(header::COOKIE).iter();
    let lines: Vec<&[u8]> = fields
        .map(|field| field.as_bytes().trim_ascii())
        .filter(|line| !line.is_empty())
        .collect();
    let joined = HeaderValue::from_bytes(&lines.join(&b"; "[..]));
    headers.remove(header::COOKIE);
    if let Ok(joined) = joined {
        headers.insert(header::COOKIE, joined);
    }
}

/// Returns the value of a cookie, the first if there are several.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    cookies(headers, name).next()
}

/// Returns the values of all cookies of a name: a client has several for different paths and domains.
pub(crate) fn cookies<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    crumbs(headers).filter_map(move |crumb| {
        let value = crumb.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        str::from_utf8(value).ok()
    })
}

/// Returns the cookies of a request, each `NAME=VALUE`. They are bytes: scripts put any text there, and one that cannot be
/// read must not hide the others (RFC 6265, 5.4).
pub(crate) fn crumbs(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let fields = headers.get_all(header::COOKIE).iter();
    let crumbs = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    crumbs
        .map(<[u8]>::trim_ascii)
        .filter(|crumb| !crumb.is_empty())
}

/// Returns a query parameter as it was written.
pub(crate) fn raw_parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    let mut pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
}

/// Returns the values of a query parameter.
pub(crate) fn parameters<'a>(
    query: Option<&'a str>,
    name: &'a str,
) -> impl Iterator<Item = Cow<'a, str>> {
    let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    pairs.filter_map(move |(key, value)| (key == name).then_some(value))
}

/// Copies a request, with its body if that is in memory. Boxed, as requests to endpoints are moved often.
pub(crate) fn copy(request: &Request<Body>) -> Box<Request<Body>> {
    let body = request.body().in_memory().unwrap_or_default();
    let mut copy = Box::new(Request::new(Body::from(body)));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

#[cfg(test)]
mod tests {
    use http::{Request, Version, header};

    use super::{Misunderstood, RequestHead, cookie, name, parameters, receive};

    /// Host for the route, and the `Host` that the backend gets.
    fn hosts(request: http::request::Builder) -> Result<(String, String), Misunderstood> {
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        receive(&mut parts)?;
        let head = RequestHead::of(&parts)?;
        let sent = parts.headers.get(header::HOST);
        let sent = sent.map_or("", |sent| sent.to_str().unwrap());
        Ok((head.host.into_owned(), sent.into()))
    }

    fn pair(route: &str, sent: &str) -> Result<(String, String), Misunderstood> {
        Ok((route.into(), sent.into()))
    }

    #[test]
    fn l22_hosts_are_lower_case_without_port_and_dot() {
        for (text, expected) in [
            ("Example.COM:8080", Some("example.com")),
            ("example.com.", Some("example.com")),
            ("example.com.:80", Some("example.com")),
            ("example.com:", Some("example.com")),
            ("[::1]:443", Some("[::1]")),
            ("[2001:DB8::1]", Some("[2001:db8::1]")),
            ("10.0.0.1", Some("10.0.0.1")),
            ("a_b.example.com", Some("a_b.example.com")),
            ("", None),
            (".", None),
            (":80", None),
            ("a:b", None),
            ("a:80:80", None),
            ("a:99999999", None),
            ("a:+80", None),
            ("evil:1.w.example.com:80", None),
            ("]evil[.w.example.com", None),
            ("[::1", None),
            ("[::1].example.com", None),
            (&"a.".repeat(127), Some(&"a.".repeat(127)[..253])),
            (&"a.".repeat(128), None),
            ("[a.example.com]", None),
            ("::1", None),
            ("a..b", None),
            (".a", None),
            ("a b", None),
            ("a/b", None),
            ("a,b", None),
            ("user@host", None),
        ] {
            assert_eq!(name(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn l22_a_request_has_exactly_one_host() {
        let host = |text| Request::get("/").header("host", text);
        assert_eq!(hosts(host("A.b:80")), pair("a.b", "A.b:80"));
        assert_eq!(
            hosts(host("a").header("host", "a")),
            Err(Misunderstood::Hosts)
        );
        assert_eq!(hosts(Request::get("/")), Err(Misunderstood::Host));
        let old = Request::get("/").version(Version::HTTP_10);
        assert_eq!(hosts(old), pair("", ""));
        assert_eq!(
            hosts(Request::connect("a.b:80")),
            Err(Misunderstood::Method)
        );
        let star = Request::options("*").header("host", "a.b");
        assert_eq!(hosts(star), Err(Misunderstood::Path));
        // Connection cannot take the host away.
        let named = host("a.b").header("connection", "host");
        assert_eq!(hosts(named), pair("a.b", "a.b"));
    }

    #[test]
    fn l127_the_authority_of_the_target_replaces_host() {
        for (target, field, expected) in [
            ("http://a.b/", "A.b", pair("a.b", "a.b")),
            ("http://A.b:8080/", "a.b", pair("a.b", "A.b:8080")),
            ("http://a.b/", "c.d:1", pair("a.b", "a.b")),
            ("http://a.b/", "c d", Err(Misunderstood::Host)),
            ("http://u@a.b/", "a.b", Err(Misunderstood::Host)),
            ("a.b", "a.b", Err(Misunderstood::Path)),
        ] {
            let request = Request::get(target).header("host", field);
            assert_eq!(hosts(request), expected, "{target} {field}");
        }
        let double = Request::get("http://a.b/").header("host", "a.b");
        assert_eq!(
            hosts(double.header("host", "a.b")),
            Err(Misunderstood::Hosts)
        );
        for (target, field, expected) in [
            ("https://a.b:8443/", None, pair("a.b", "a.b:8443")),
            ("https://a.b:443/", Some("a.b"), pair("a.b", "a.b:443")),
            ("https://a.b/", Some("A.B:443"), pair("a.b", "a.b")),
            ("http://a.b/", Some("a.b:80"), pair("a.b", "a.b")),
            ("http://a.b/", Some("a.b:443"), Err(Misunderstood::Hosts)),
            ("https://a.b/", Some("a.b:80"), Err(Misunderstood::Hosts)),
            ("https://a.b/", Some("c.d"), Err(Misunderstood::Hosts)),
        ] {
            let mut request = Request::get(target).version(Version::HTTP_2);
            if let Some(field) = field {
                request = request.header("host", field);
            }
            assert_eq!(hosts(request), expected, "{target} {field:?}");
        }
    }

    #[test]
    fn l126_cookies_are_one_field() {
        for (fields, expected) in [
            (&["a=1; b=2"][..], &["a=1; b=2"][..]),
            (
                &["session=1", "theme=dark", "csrf=2"],
                &["session=1; theme=dark; csrf=2"],
            ),
            (
                &["a=1; b=2", " c=\"x,y\"", "", "d="],
                &["a=1; b=2; c=\"x,y\"; d="],
            ),
            (&["", ""], &[""]),
            (&[], &[]),
        ] {
            let mut request = Request::get("/").header("host", "a.b");
            for field in fields {
                request = request.header("cookie", *field);
            }
            let (mut parts, ()) = request.body(()).unwrap().into_parts();
            receive(&mut parts).unwrap();
            let found: Vec<_> = parts.headers.get_all("cookie").iter().collect();
            assert_eq!(found, expected, "{fields:?}");
        }
    }

    #[test]
    fn cookies_and_parameters_are_found() {
        let request = Request::get("/")
            .header("cookie", "a=1; b=2")
            .header("cookie", "c=3")
            .header("cookie", &b"e=Zo\xc3\xab; \xff=1; f=\xff; ff=6"[..]);
        let (parts, ()) = request.body(()).unwrap().into_parts();
        assert_eq!(cookie(&parts.headers, "b"), Some("2"));
        assert_eq!(cookie(&parts.headers, "c"), Some("3"));
        assert_eq!(cookie(&parts.headers, "d"), None);
        // What cannot be read hides no other.
        assert_eq!(cookie(&parts.headers, "e"), Some("Zoë"));
        assert_eq!(cookie(&parts.headers, "f"), None);
        assert_eq!(cookie(&parts.headers, "ff"), Some("6"));
        let values: Vec<_> = parameters(Some("x=1&y=%20z&x=2"), "x").collect();
        assert_eq!(values, ["1", "2"]);
    }
}
