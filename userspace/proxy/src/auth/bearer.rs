//! Bearer tokens (RFC 6750).

use headgate_model::edge::Claims;
use http::{HeaderMap, Response};
use serde_json::Value;

use crate::body::Body;

use super::{CheckResult, claims, credentials, unauthorized};

/// The challenge for a missing token (RFC 6750, 3).
pub(super) const CHALLENGE: &str = "Bearer";
/// The challenge for an invalid token (RFC 6750, 3.1).
const INVALID_TOKEN: &str = "Bearer error=\"invalid_token\"";

/// The bearer token of a request (RFC 6750, 2.1).
///
/// # Errors
///
/// The 401 response for a request without one.
pub(super) fn token(headers: &HeaderMap) -> Result<&str, Response<Body>> {
    let token = credentials::with_scheme(headers, "Bearer").filter(|token| !token.is_empty());
    token.ok_or_else(|| unauthorized(CHALLENGE))
}

/// Accepts a verified token if its claims are valid, and sets its headers for the backend.
///
/// # Errors
///
/// The 401 response if there is no verified token or a claim is not accepted.
pub(super) fn accept(headers: &mut HeaderMap, token: Option<Value>, rule: &Claims) -> CheckResult {
    let Some(token) = token.filter(|token| claims::check(token, rule).is_ok()) else {
        return Err(unauthorized(INVALID_TOKEN));
    };
    claims::set_claims(headers, &token, &rule.headers);
    Ok(Vec::new())
}
