//! Responses that we give ourselves.

use http::{HeaderValue, Response, StatusCode, header};

use crate::{body::Body, headers::insert};

/// A response of a status and one line that says why.
pub(crate) fn error(status: StatusCode, why: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{status}: {why}\n")));
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
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
