//! Credentials in `Authorization` (RFC 9110, 11.4).

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, header};

/// The credentials of the `Authorization` header, if it has this scheme and is the only one.
pub(super) fn with_scheme<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let field = fields.next()?.to_str().ok()?;
    // With two headers, the backend might use the other one.
    if fields.next().is_some() {
        return None;
    }
    let (found, rest) = field.split_once(' ')?;
    found.eq_ignore_ascii_case(scheme).then(|| rest.trim())
}

/// User and password (RFC 7617).
pub(super) fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let decoded = STANDARD.decode(with_scheme(headers, "Basic")?).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.into(), password.into()))
}
