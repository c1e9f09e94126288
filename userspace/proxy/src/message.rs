//! The head of a request, checked (RFC 9110, 7; RFC 9113, 8.3.1).

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, Method, Request, Version, header, request::Parts};

use crate::{body::Body, path};

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
    #[error("path and query are too long")]
    Long,
    #[error("the method is not supported")]
    Method,
    #[error("the transfer coding is not supported")]
    Coding,
}

/// The parts of a request that select its route.
#[derive(Debug)]
pub(crate) struct RequestHead<'a> {
    /// In lower case, without port; empty if an HTTP/1.0 client sent none.
    pub(crate) host: Cow<'a, str>,
    /// In its normal form.
    pub(crate) path: Cow<'a, str>,
    /// Without `?`.
    pub(crate) query: Option<&'a str>,
}

impl<'a> RequestHead<'a> {
    pub(crate) fn of(parts: &'a Parts) -> Result<Self, Misunderstood> {
        if parts.method == Method::CONNECT {
            return Err(Misunderstood::Method);
        }
        if !is_plain_coding(&parts.headers) {
            return Err(Misunderstood::Coding);
        }
        let target = parts.uri.path_and_query();
        if target.is_some_and(|target| target.as_str().len() > MAX_TARGET) {
            return Err(Misunderstood::Long);
        }
        Ok(Self {
            host: host(parts)?,
            path: path::normal(parts.uri.path()).ok_or(Misunderstood::Path)?,
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

/// Returns the host of the target if it has one, else that of `Host`. Both must be the same.
fn host(parts: &Parts) -> Result<Cow<'_, str>, Misunderstood> {
    let mut fields = parts.headers.get_all(header::HOST).iter();
    let field = match fields.next() {
        Some(value) => Some(value.to_str().map_err(|_bytes| Misunderstood::Host)?),
        None => None,
    };
    if fields.next().is_some() {
        return Err(Misunderstood::Hosts);
    }
    let authority = parts.uri.authority().map(|authority| authority.as_str());
    match (authority, field) {
        (Some(authority), Some(field)) if !authority.eq_ignore_ascii_case(field) => {
            Err(Misunderstood::Hosts)
        }
        (Some(host), _) | (None, Some(host)) => name(host).ok_or(Misunderstood::Host),
        (None, None) if parts.version == Version::HTTP_10 => Ok("".into()),
        (None, None) => Err(Misunderstood::Host),
    }
}

/// Returns a host in lower case, without port and without final dot.
fn name(text: &str) -> Option<Cow<'_, str>> {
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let host = match text.rsplit_once(':') {
        Some((host, port)) if is_port(port) && !host.is_empty() => host,
        Some(_) if text.ends_with(']') => text,
        Some(_) => return None,
        None => text,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte);
    if host.is_empty() || !host.bytes().all(is_fit) {
        return None;
    }
    Some(match host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => host.to_ascii_lowercase().into(),
        false => host.into(),
    })
}

/// Returns the value of a cookie.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let fields = headers.get_all(header::COOKIE).iter();
    let texts = fields.filter_map(|value| value.to_str().ok());
    let mut cookies = texts.flat_map(|text| text.split(';'));
    cookies.find_map(|cookie| {
        let (key, value) = cookie.trim().split_once('=')?;
        (key == name).then_some(value)
    })
}

/// Returns the values of a query parameter.
pub(crate) fn parameters<'a>(
    query: Option<&'a str>,
    name: &'a str,
) -> impl Iterator<Item = Cow<'a, str>> {
    let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    pairs.filter_map(move |(key, value)| (key == name).then_some(value))
}

/// Copies a request except for its body. Boxed, as requests to endpoints are moved often.
pub(crate) fn without_body(request: &Request<Body>) -> Box<Request<Body>> {
    let mut copy = Box::new(Request::new(Body::empty()));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

#[cfg(test)]
mod tests {
    use http::{Request, Version};

    use super::{Misunderstood, RequestHead, cookie, name, parameters};

    fn host_of(request: http::request::Builder) -> Result<String, Misunderstood> {
        let (parts, ()) = request.body(()).unwrap().into_parts();
        RequestHead::of(&parts).map(|head| head.host.into_owned())
    }

    #[test]
    fn l22_hosts_are_lower_case_without_port_and_dot() {
        for (text, expected) in [
            ("Example.COM:8080", Some("example.com")),
            ("example.com.", Some("example.com")),
            ("example.com.:80", Some("example.com")),
            ("[::1]:443", Some("[::1]")),
            ("[::1]", Some("[::1]")),
            ("10.0.0.1", Some("10.0.0.1")),
            ("", None),
            (":80", None),
            ("a:b", None),
            ("a b", None),
            ("a/b", None),
            ("user@host", None),
        ] {
            assert_eq!(name(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn l22_a_request_has_exactly_one_host() {
        let host = |text| Request::get("/").header("host", text);
        assert_eq!(host_of(host("a.b")), Ok("a.b".into()));
        assert_eq!(
            host_of(host("a").header("host", "a")),
            Err(Misunderstood::Hosts)
        );
        assert_eq!(host_of(Request::get("/")), Err(Misunderstood::Host));
        let old = Request::get("/").version(Version::HTTP_10);
        assert_eq!(host_of(old), Ok(String::new()));
        let absolute = Request::get("http://a.b/");
        assert_eq!(host_of(absolute.header("host", "A.b")), Ok("a.b".into()));
        let other = Request::get("http://a.b/").header("host", "c.d");
        assert_eq!(host_of(other), Err(Misunderstood::Hosts));
        assert_eq!(
            host_of(Request::connect("a.b:80")),
            Err(Misunderstood::Method)
        );
        let star = Request::options("*").header("host", "a.b");
        assert_eq!(host_of(star), Err(Misunderstood::Path));
    }

    #[test]
    fn cookies_and_parameters_are_found() {
        let request = Request::get("/")
            .header("cookie", "a=1; b=2")
            .header("cookie", "c=3");
        let (parts, ()) = request.body(()).unwrap().into_parts();
        assert_eq!(cookie(&parts.headers, "b"), Some("2"));
        assert_eq!(cookie(&parts.headers, "c"), Some("3"));
        assert_eq!(cookie(&parts.headers, "d"), None);
        let values: Vec<_> = parameters(Some("x=1&y=%20z&x=2"), "x").collect();
        assert_eq!(values, ["1", "2"]);
    }
}
