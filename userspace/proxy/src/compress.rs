//! Compressed responses (RFC 9110, 8.4), for clients that accept them.

use std::{convert::Infallible, future::ready};

use http::{
    Extensions, HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header,
};
use tower::{Service, ServiceExt, service_fn};
use tower_http::{
    CompressionLevel,
    compression::{Compression, Predicate, predicate::SizeAbove},
};

use crate::{body::Body, fields};

/// Smallest response that is compressed, in bytes.
const MIN_SIZE: u64 = 256;
/// Compressible types besides `text/…`.
const TYPES: [&str; 12] = [
    "application/javascript",
    "application/json",
    "application/ld+json",
    "application/manifest+json",
    "application/rss+xml",
    "application/vnd.ms-fontobject",
    "application/wasm",
    "application/xhtml+xml",
    "application/xml",
    "application/x-javascript",
    "font/opentype",
    "image/svg+xml",
];

/// What a request accepts of our encodings.
#[derive(Debug)]
pub(crate) struct Accepted {
    encodings: Option<HeaderValue>,
    is_head: bool,
}

impl Accepted {
    /// All lines of `Accept-Encoding` are one list (RFC 9110, 5.3).
    pub(crate) fn of(method: &Method, headers: &HeaderMap) -> Self {
        let lines = headers.get_all(header::ACCEPT_ENCODING).iter();
        let lines: Vec<&[u8]> = lines.map(HeaderValue::as_bytes).collect();
        let list = HeaderValue::from_bytes(&lines.join(&b", "[..])).ok();
        let is_some = |list: &HeaderValue| list.to_str().is_ok_and(accepts_one);
        Self {
            encodings: list.filter(is_some),
            is_head: *method == Method::HEAD,
        }
    }
}

/// Whether a list accepts one of our encodings. A client that accepts none, not even the plain response
/// (`identity;q=0`), gets that: RFC 9110, 12.5.3 allows it.
fn accepts_one(list: &str) -> bool {
    list.split(',').any(|element| {
        let (name, weight) = element.split_once(';').unwrap_or((element, ""));
        let is_ours = ["zstd", "br", "gzip", "*"].contains(&&*name.trim().to_ascii_lowercase());
        let weight = weight.trim().to_ascii_lowercase();
        let weight = weight
            .strip_prefix("q=")
            .map(|weight| weight.trim().parse::<f32>());
        is_ours && weight.is_none_or(|weight| weight.is_ok_and(|weight| weight > 0.0))
    })
}

/// Compresses a response with zstd, brotli or gzip if the client accepts one of them and the response
/// is large and compressible. What has no body gets the fields that the response with the body has (RFC 9110, 9.3.2 and
/// 15.4.5).
pub(crate) async fn compress(accepted: Accepted, mut response: Response<Body>) -> Response<Body> {
    let is_unmodified = response.status() == StatusCode::NOT_MODIFIED;
    let has_body = !accepted.is_head && !is_unmodified;
    let is_large = match has_body {
        true => SizeAbove::new(MIN_SIZE).should_compress(&response),
        false => length(response.headers()).is_none_or(|length| length >= MIN_SIZE),
    };
    if !is_large || !is_compressible(response.status(), response.headers()) {
        return response;
    }
    let is_accepted = accepted.encodings.is_some();
    let encodings = accepted.encodings.filter(|_| has_body);
    let Some(encodings) = encodings else {
        // Caches must not give this response to clients that would get another.
        let vary = HeaderValue::from_static("accept-encoding");
        response.headers_mut().append(header::VARY, vary);
        if is_unmodified && is_accepted {
            weaken(response.headers_mut());
        }
        return response;
    };
    // Boxed: encoders are large and would grow every request's future.
    Box::pin(encode(encodings, response)).await
}

async fn encode(encodings: HeaderValue, response: Response<Body>) -> Response<Body> {
    let mut request = Request::new(());
    request
        .headers_mut()
        .insert(header::ACCEPT_ENCODING, encodings);
    let mut response = Some(response);
    let once = service_fn(move |_request| {
        let response = response
            .take()
            .unwrap_or_else(|| Response::new(Body::empty()));
        ready(Ok::<_, Infallible>(response))
    });
    let mut layer = Compression::new(once)
        .no_deflate()
        .quality(CompressionLevel::Fastest)
        .compress_when(always);
    let Ok(service) = layer.ready().await;
    let Ok(response) = service.call(request).await;
    let mut response = response.map(Body::boxed);
    if response.headers().contains_key(header::CONTENT_ENCODING) {
        weaken(response.headers_mut());
    }
    response
}

fn always(_: StatusCode, _: Version, _: &HeaderMap, _: &Extensions) -> bool {
    true
}

fn is_compressible(status: StatusCode, headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default();
    let kind = kind.trim().to_ascii_lowercase();
    // Server-sent events must not wait for others.
    let is_text = kind.starts_with("text/") && kind != "text/event-stream";
    let is_unknown = status == StatusCode::NOT_MODIFIED && kind.is_empty();
    let is_whole = status != StatusCode::PARTIAL_CONTENT && status != StatusCode::NO_CONTENT;
    is_whole
        && (is_text || is_unknown || TYPES.contains(&kind.as_str()))
        && !fields::has(headers, &header::CACHE_CONTROL, "no-transform")
}

/// `Content-Length`.
fn length(headers: &HeaderMap) -> Option<u64> {
    let length = headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

/// Makes the entity tag weak: the bytes are not the backend's (RFC 9110, 8.8.1).
fn weaken(headers: &mut HeaderMap) {
    let strong = headers.get(header::ETAG).and_then(|tag| tag.to_str().ok());
    let weak = strong
        .filter(|tag| tag.starts_with('"'))
        .map(|tag| format!("W/{tag}"));
    if let Some(Ok(weak)) = weak.map(HeaderValue::try_from) {
        headers.insert(header::ETAG, weak);
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
    use http_body_util::BodyExt;

    use super::{Accepted, compress};
    use crate::body::Body;

    async fn answer(
        accepts: &str,
        method: Method,
        fields: &[(&'static str, &str)],
    ) -> Response<Body> {
        let mut headers = HeaderMap::new();
        for line in accepts.split('|') {
            let line = HeaderValue::from_str(line).unwrap();
            headers.append(header::ACCEPT_ENCODING, line);
        }
        let mut response = Response::new(Body::from("a".repeat(4096)));
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, 4096.into());
        for (name, value) in fields {
            response
                .headers_mut()
                .insert(*name, HeaderValue::from_str(value).unwrap());
        }
        compress(Accepted::of(&method, &headers), response).await
    }

    #[tokio::test]
    async fn l49_text_is_compressed_for_clients_that_accept_it() {
        let html = [
            ("content-type", "text/html; charset=utf-8"),
            ("etag", "\"1\""),
        ];
        for (accepts, encoding) in [
            ("gzip, br, zstd", "zstd"),
            ("gzip, br", "br"),
            ("gzip;q=0.5", "gzip"),
            ("br;q=0.1, gzip", "gzip"),
            ("identity|gzip", "gzip"),
            ("gzip;q=0|br", "br"),
            ("identity;q=0, GZIP", "gzip"),
        ] {
            let response = answer(accepts, Method::GET, &html).await;
            assert_eq!(
                response.headers()["content-encoding"],
                encoding,
                "{accepts}"
            );
            assert_eq!(response.headers()["etag"], "W/\"1\"");
            assert_eq!(response.headers()["vary"], "accept-encoding");
            assert!(!response.headers().contains_key("content-length"));
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert!(body.len() < 200, "{} bytes", body.len());
        }
    }

    #[tokio::test]
    async fn l49_other_responses_are_unchanged() {
        let html = ("content-type", "text/html");
        for (accepts, method, fields) in [
            ("identity", Method::GET, vec![html]),
            ("identity;q=0", Method::GET, vec![html]),
            ("*;q=0", Method::GET, vec![html]),
            ("deflate", Method::GET, vec![html]),
            ("gzip;q=0", Method::GET, vec![html]),
            ("gzip", Method::HEAD, vec![html]),
            ("gzip", Method::GET, vec![("content-type", "image/png")]),
            (
                "gzip",
                Method::GET,
                vec![("content-type", "text/event-stream")],
            ),
            (
                "gzip",
                Method::GET,
                vec![("content-type", "application/grpc")],
            ),
            ("gzip", Method::GET, vec![html, ("content-encoding", "br")]),
            (
                "gzip",
                Method::GET,
                vec![html, ("cache-control", "private, No-Transform")],
            ),
        ] {
            let response = answer(accepts, method, &fields).await;
            assert_eq!(response.status(), 200, "{accepts} {fields:?}");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body.len(), 4096, "{accepts} {fields:?}");
        }
    }

    #[tokio::test]
    async fn l49_what_has_no_body_has_the_fields_of_what_has_one() {
        let answer = async |accepts, method, status, length: Option<&str>, kind: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(accepts));
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            let fields = [
                (header::CONTENT_LENGTH, length),
                (header::CONTENT_TYPE, kind),
            ];
            for (name, value) in fields {
                if let Some(value) = value {
                    let value = HeaderValue::from_str(value).unwrap();
                    response.headers_mut().insert(name, value);
                }
            }
            let tag = HeaderValue::from_static("\"1\"");
            response.headers_mut().insert(header::ETAG, tag);
            let response = compress(Accepted::of(&method, &headers), response).await;
            let is_varied = response.headers().contains_key(header::VARY);
            (is_varied, response.headers()[header::ETAG] != "\"1\"")
        };
        let html = Some("text/html");
        for (accepts, method, status, length, kind, expected) in [
            ("gzip", Method::GET, 304, None, None, (true, true)),
            ("identity", Method::GET, 304, None, html, (true, false)),
            (
                "gzip",
                Method::GET,
                304,
                None,
                Some("image/png"),
                (false, false),
            ),
            ("gzip", Method::HEAD, 200, Some("4096"), html, (true, false)),
            ("gzip", Method::HEAD, 200, Some("100"), html, (false, false)),
            ("gzip", Method::HEAD, 200, None, None, (false, false)),
        ] {
            let found = answer(accepts, method.clone(), status, length, kind).await;
            assert_eq!(found, expected, "{accepts} {method} {status} {kind:?}");
        }
    }

    #[tokio::test]
    async fn l49_small_responses_are_unchanged() {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        let mut response = Response::new(Body::from("a".repeat(100)));
        let html = HeaderValue::from_static("text/html");
        response.headers_mut().insert(header::CONTENT_TYPE, html);
        let accepted = Accepted::of(&Method::GET, &headers);
        let response = compress(accepted, response).await;
        assert!(!response.headers().contains_key("content-encoding"));
    }
}
