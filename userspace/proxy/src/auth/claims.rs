//! Claims of tokens of every format (RFC 7519, 4.1).

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use headgate_model::edge::Claims;
use http::{HeaderMap, HeaderName};
use jiff::Timestamp;
use serde_json::Value;

use super::{USER, set_header};

/// Why the claims of a token are not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidClaim {
    #[error("exp is missing, or exp or nbf is malformed")]
    Times,
    #[error("the token is expired or not valid yet")]
    Expired,
    #[error("iss is another issuer")]
    Issuer,
    #[error("aud is another audience")]
    Audience,
}

/// Checks that a token is valid now, from the issuer and for an audience of `rule`. `exp` is required.
///
/// # Errors
///
/// The first claim that is not accepted.
pub(super) fn check(token: &Value, rule: &Claims) -> Result<(), InvalidClaim> {
    let (now, leeway) = (now().as_secs(), rule.leeway.as_secs());
    let expiry = time(token, "exp")?.ok_or(InvalidClaim::Times)?;
    if now >= expiry.saturating_add(leeway) {
        return Err(InvalidClaim::Expired);
    }
    let not_before = time(token, "nbf")?.unwrap_or_default();
    if not_before > now + leeway {
        return Err(InvalidClaim::Expired);
    }
    let issuer = token.get("iss").and_then(Value::as_str);
    if rule
        .issuer
        .as_deref()
        .is_some_and(|wanted| issuer != Some(wanted))
    {
        return Err(InvalidClaim::Issuer);
    }
    if rule.audiences.is_empty() || is_for(token, &rule.audiences) {
        return Ok(());
    }
    Err(InvalidClaim::Audience)
}

fn is_for(token: &Value, audiences: &[String]) -> bool {
    let is_ours = |audience: &Value| {
        let audience = audience.as_str();
        audiences.iter().any(|ours| audience == Some(ours))
    };
    match token.get("aud") {
        Some(Value::Array(all)) => all.iter().any(is_ours),
        Some(one) => is_ours(one),
        None => false,
    }
}

/// `exp` in seconds since 1970.
pub(super) fn expiry(token: &Value) -> Option<u64> {
    time(token, "exp").ok()?
}

/// A time claim: seconds since 1970, or RFC 3339 as in PASETO.
fn time(token: &Value, name: &str) -> Result<Option<u64>, InvalidClaim> {
    let seconds = match token.get(name) {
        None => return Ok(None),
        // Fractions are allowed (RFC 7519, 2).
        Some(Value::Number(number)) => number.as_f64().map(|seconds| seconds as i64),
        Some(Value::String(text)) => text.parse().ok().map(Timestamp::as_second),
        Some(_) => None,
    };
    let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
    seconds.ok_or(InvalidClaim::Times).map(Some)
}

/// The time since 1970.
pub(super) fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Sets the headers for the backend: the user from `sub`, and the header of each wanted claim.
pub(super) fn set_claims(
    headers: &mut HeaderMap,
    token: &Value,
    wanted: &BTreeMap<String, String>,
) {
    if let Some(user) = token.get("sub").and_then(Value::as_str) {
        set_header(headers, &USER, user);
    }
    for (header, claim) in wanted {
        let value = token.get(claim).and_then(text);
        if let (Ok(header), Some(value)) = (header.parse::<HeaderName>(), value) {
            set_header(headers, &header, &value);
        }
    }
}

/// A claim as text; arrays as a comma-separated list.
fn text(claim: &Value) -> Option<String> {
    match claim {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(claim.to_string()),
        Value::Array(all) => {
            let texts: Option<Vec<String>> = all.iter().map(text).collect();
            Some(texts?.join(","))
        }
        Value::Null | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use headgate_model::edge::Claims;
    use http::HeaderMap;
    use serde_json::{Value, json};

    use super::{InvalidClaim, check, now, set_claims};

    fn rule() -> Claims {
        Claims {
            issuer: Some("i".into()),
            audiences: vec!["a".into(), "b".into()],
            leeway: Duration::from_secs(60),
            ..Claims::default()
        }
    }

    #[test]
    fn l66_auth_claims_must_be_valid_now_and_for_us() {
        let now = now().as_secs();
        let token = |claims: Value| {
            let mut token = json!({"iss": "i", "aud": ["x", "b"], "exp": now + 10});
            let all = token.as_object_mut().unwrap();
            all.extend(claims.as_object().unwrap().clone());
            all.retain(|_, value| !value.is_null());
            check(&token, &rule())
        };
        for (claims, expected) in [
            (json!({}), Ok(())),
            (json!({"aud": "a"}), Ok(())),
            (json!({"exp": now - 30}), Ok(())),
            (json!({"exp": (now + 10) as f64 + 0.5}), Ok(())),
            (json!({"exp": "2999-01-01T00:00:00+00:00"}), Ok(())),
            (json!({"nbf": now + 30}), Ok(())),
            (json!({"exp": now - 61}), Err(InvalidClaim::Expired)),
            (
                json!({"exp": "2001-01-01T00:00:00Z"}),
                Err(InvalidClaim::Expired),
            ),
            (json!({"nbf": now + 90}), Err(InvalidClaim::Expired)),
            (json!({"exp": null}), Err(InvalidClaim::Times)),
            (json!({"exp": "soon"}), Err(InvalidClaim::Times)),
            (json!({"exp": -1}), Err(InvalidClaim::Times)),
            (json!({"nbf": true}), Err(InvalidClaim::Times)),
            (json!({"iss": "other"}), Err(InvalidClaim::Issuer)),
            (json!({"iss": null}), Err(InvalidClaim::Issuer)),
            (json!({"iss": ["i"]}), Err(InvalidClaim::Issuer)),
            (json!({"aud": ["x"]}), Err(InvalidClaim::Audience)),
            (json!({"aud": null}), Err(InvalidClaim::Audience)),
        ] {
            assert_eq!(token(claims.clone()), expected, "{claims}");
        }
    }

    #[test]
    fn l66_auth_claims_become_headers() {
        let wanted = [
            ("x-groups".into(), "groups".into()),
            ("x-deep".into(), "deep".into()),
        ];
        let mut headers = HeaderMap::new();
        let token = json!({"sub": "ada", "groups": ["a", "b", 3], "deep": {"a": 1}});
        set_claims(&mut headers, &token, &wanted.into());
        assert_eq!(headers["x-auth-user"], "ada");
        assert_eq!(headers["x-groups"], "a,b,3");
        assert!(!headers.contains_key("x-deep"));
        let token = json!({"sub": "a\r\nb: c"});
        set_claims(&mut headers, &token, &Default::default());
        assert_eq!(
            headers["x-auth-user"], "ada",
            "a value that is invalid in a header is dropped"
        );
    }
}
