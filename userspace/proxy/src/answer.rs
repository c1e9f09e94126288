//! Responses that we give ourselves.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use crate::{body::Body, headers::insert};

/// Why we answer with an error ourselves.
#[derive(Clone)]
struct Why(String);

/// A response of a status and one line that says why.
pub(crate) fn error(status: StatusCode, why: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{status}: {why}\n")));
    response.extensions_mut().insert(Why(why.into()));
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}

/// Whether a request is one of gRPC.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Says an error of our own as clients of gRPC expect it: in headers, as if the call had failed.
pub(crate) fn for_grpc(mut response: Response<Body>) -> Response<Body> {
    let Some(Why(why)) = response.extensions_mut().remove() else {
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

/// The code that stands for a status (gRPC's `http-grpc-status-mapping.md`).
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

/// Sends the client elsewhere. `location` was made of the request; if it is no header, that is the
/// request's fault.
pub(crate) fn redirect(code: u16, location: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::FOUND);
    insert(response.headers_mut(), header::LOCATION, location);
    match response.headers().contains_key(header::LOCATION) {
        true => response,
        false => error(StatusCode::BAD_REQUEST, "the target is no location"),
    }
}
