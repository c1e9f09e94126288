//! What `Authorization` carries (RFC 9110, 11.4).

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, header};

/// The rest of the one `Authorization` header, if it has this scheme.
pub(super) fn with_scheme<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let field = fields.next()?.to_str().ok()?;
    // Of two nobody knows which one the backend believes.
    if fields.next().is_some() {
        return None;
    }
    let (found, rest) = field.split_once(' ')?;
    found.eq_ignore_ascii_case(scheme).then(|| rest.trim())
}

/// Name and password (RFC 7617).
pub(super) fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let decoded = STANDARD.decode(with_scheme(headers, "Basic")?).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.into(), password.into()))
}

/// A token (RFC 6750, 2.1).
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    with_scheme(headers, "Bearer").filter(|token| !token.is_empty())
}
