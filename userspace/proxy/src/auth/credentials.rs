//! Credentials in `Authorization` (RFC 9110, 11.4).

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, header};

/// Longest password, in bytes. The time of SHA-crypt grows with the square of the length
/// (CVE-2016-20013).
const MAX_PASSWORD: usize = 512;

/// The credentials of the `Authorization` header, if it has this scheme and is the only one.
pub(super) fn with_scheme<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let field = fields.next()?.to_str().ok()?;
    // With two headers, the backend might use the other one.
    if fields.next().is_some() {
        return None;
    }
    of_scheme(field, scheme)
}

fn of_scheme<'a>(field: &'a str, scheme: &str) -> Option<&'a str> {
    let (found, rest) = field.split_once(' ')?;
    found.eq_ignore_ascii_case(scheme).then(|| rest.trim())
}

/// User and password (RFC 7617). `None` without them, and if the password is too long.
pub(super) fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    decode(with_scheme(headers, "Basic")?)
}

/// The same, of the value of the only `Authorization` header.
pub(super) fn basic_of(field: &[u8]) -> Option<(String, String)> {
    decode(of_scheme(str::from_utf8(field).ok()?, "Basic")?)
}

fn decode(credentials: &str) -> Option<(String, String)> {
    let decoded = STANDARD.decode(credentials).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (user, password) = text.split_once(':')?;
    (password.len() <= MAX_PASSWORD).then(|| (user.into(), password.into()))
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{basic_header, request},
        MAX_PASSWORD, basic,
    };

    #[test]
    fn l134_long_passwords_are_no_credentials() {
        for (length, is_read) in [(MAX_PASSWORD, true), (MAX_PASSWORD + 1, false)] {
            let header = basic_header("ada", &"x".repeat(length));
            let (parts, ()) = request("/")
                .header("authorization", header)
                .body(())
                .unwrap()
                .into_parts();
            assert_eq!(basic(&parts.headers).is_some(), is_read, "{length}");
        }
    }
}
