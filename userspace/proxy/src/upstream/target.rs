//! Request targets: HTTP/1.1 names the host in `Host`, HTTP/2 in `:authority`.

use http::{
    HeaderValue, Request, Uri, Version,
    header::{HOST, TRANSFER_ENCODING},
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::body::Body;

/// Rewrites a request for HTTP/1.1: origin-form and `Host` (RFC 9112, 3.2.1). `host` is the default.
pub(super) fn for_http1<B: Body>(request: &mut Request<B>, host: &HeaderValue) {
    *request.version_mut() = Version::HTTP_11;
    if request.body().size_hint().exact().is_none() {
        // Otherwise hyper sends a GET without its body.
        let chunked = HeaderValue::from_static("chunked");
        request.headers_mut().insert(TRANSFER_ENCODING, chunked);
    }
    if !request.headers().contains_key(HOST) {
        let authority = request.uri().authority().map(Authority::as_str);
        let value = authority.and_then(|authority| HeaderValue::from_str(authority).ok());
        let value = value.unwrap_or_else(|| host.clone());
        request.headers_mut().insert(HOST, value);
    }
    if request.uri().authority().is_some() {
        let path = path(request.uri());
        *request.uri_mut() = Uri::from(path);
    }
}

/// Rewrites a request for HTTP/2: `:scheme` and `:authority`, which hyper takes from the target, and no
/// `Host` (RFC 9113, 8.3.1). `host` is the default.
pub(super) fn for_http2<B>(request: &mut Request<B>, host: &HeaderValue, scheme: Scheme) {
    *request.version_mut() = Version::HTTP_2;
    let of_target = request.uri().authority().cloned();
    let named = request.headers_mut().remove(HOST);
    let parse = |value: &HeaderValue| Authority::try_from(value.as_bytes()).ok();
    let authority = named.as_ref().and_then(parse).or(of_target);
    let mut parts = http::uri::Parts::default();
    parts.authority = authority.or_else(|| parse(host));
    parts.path_and_query = Some(path(request.uri()));
    parts.scheme = Some(scheme);
    // Fails only if the Service name is not a valid URI authority.
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

fn path(uri: &Uri) -> PathAndQuery {
    let path = uri.path_and_query().cloned();
    path.unwrap_or_else(|| PathAndQuery::from_static("/"))
}
