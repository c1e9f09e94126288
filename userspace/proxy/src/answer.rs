//! Responses that the proxy makes.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use crate::{body::Body, headers::insert};

/// The reason of an error response of the proxy, for gRPC.
#[derive(Clone)]
struct Reason(String);

/// Returns a response with a status and the reason as its body, in one line.
pub(crate) fn error(status: StatusCode, why: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{status}: {why}\n")));
    response.extensions_mut().insert(Reason(why.into()));
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}

/// Whether a request is a gRPC call.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Converts an error of the proxy into a failed gRPC call: status 200, with the error in headers.
pub(crate) fn for_grpc(mut response: Response<Body>) -> Response<Body> {
    let Some(Reason(why)) = response.extensions_mut().remove() else {
        return response;
    };
    let code = grpc_code(response.status());
    *response.status_mut() = StatusCode::OK;
    *response.body_mut() = Body::empty();
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("application/grpc");
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(HeaderName::from_static("grpc-status"), code.into());
    insert(headers, HeaderName::from_static("grpc-message"), &why);
    response
}

/// Maps an HTTP status to a gRPC code (gRPC's `http-grpc-status-mapping.md`).
fn grpc_code(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// Returns a redirect, or 400 if `location`, which contains parts of the request, is not a valid header
/// value.
pub(crate) fn redirect(code: u16, location: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::FOUND);
    insert(response.headers_mut(), header::LOCATION, location);
    match response.headers().contains_key(header::LOCATION) {
        true => response,
        false => error(StatusCode::BAD_REQUEST, "the redirect target is invalid"),
    }
}
