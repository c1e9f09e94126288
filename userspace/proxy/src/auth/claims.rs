//! What tokens say (RFC 7519, 4.1), whatever they are made of.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use headgate_model::ingress::Claims;
use http::{HeaderMap, HeaderName};
use jiff::Timestamp;
use serde_json::Value;

use super::{USER, tell};

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Untrusted {
    #[error("it does not say when it ends, or its times are no times")]
    Times,
    #[error("it is not valid yet, or not any more")]
    Expired,
    #[error("somebody else made it")]
    Issuer,
    #[error("it is for somebody else")]
    Audience,
}

/// Whether a token is good now, and for us. A token must say when it ends.
pub(super) fn check(token: &Value, rule: &Claims) -> Result<(), Untrusted> {
    let (now, leeway) = (now().as_secs(), rule.leeway.as_secs());
    let ends = time(token, "exp")?.ok_or(Untrusted::Times)?;
    if now >= ends.saturating_add(leeway) {
        return Err(Untrusted::Expired);
    }
    let starts = time(token, "nbf")?.unwrap_or_default();
    if starts > now + leeway {
        return Err(Untrusted::Expired);
    }
    let issuer = token.get("iss").and_then(Value::as_str);
    if rule
        .issuer
        .as_deref()
        .is_some_and(|wanted| issuer != Some(wanted))
    {
        return Err(Untrusted::Issuer);
    }
    if rule.audiences.is_empty() || is_for(token, &rule.audiences) {
        return Ok(());
    }
    Err(Untrusted::Audience)
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

/// When a token ends, in seconds since 1970.
pub(super) fn end(token: &Value) -> Option<u64> {
    time(token, "exp").ok()?
}

/// Seconds since 1970, or a text as PASETO has it (RFC 3339).
fn time(token: &Value, name: &str) -> Result<Option<u64>, Untrusted> {
    let seconds = match token.get(name) {
        None => return Ok(None),
        // Fractions are allowed (RFC 7519, 2).
        Some(Value::Number(number)) => number.as_f64().map(|seconds| seconds as i64),
        Some(Value::String(text)) => text.parse().ok().map(Timestamp::as_second),
        Some(_) => None,
    };
    let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
    seconds.ok_or(Untrusted::Times).map(Some)
}

pub(super) fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Tells the backend who a token is about: `sub`, and the claims of each header.
pub(super) fn tell_all(headers: &mut HeaderMap, token: &Value, wanted: &BTreeMap<String, String>) {
    if let Some(user) = token.get("sub").and_then(Value::as_str) {
        tell(headers, &USER, user);
    }
    for (header, claim) in wanted {
        let value = token.get(claim).and_then(text);
        if let (Ok(header), Some(value)) = (header.parse::<HeaderName>(), value) {
            tell(headers, &header, &value);
        }
    }
}

/// A claim as text; several values between commas.
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

    use headgate_model::ingress::Claims;
    use http::HeaderMap;
    use serde_json::{Value, json};

    use super::{Untrusted, check, now, tell_all};

    fn rule() -> Claims {
        Claims {
            issuer: Some("i".into()),
            audiences: vec!["a".into(), "b".into()],
            leeway: Duration::from_secs(60),
            ..Claims::default()
        }
    }

    #[test]
    fn l66_auth_claims_are_of_now_and_for_us() {
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
            (json!({"exp": now - 61}), Err(Untrusted::Expired)),
            (
                json!({"exp": "2001-01-01T00:00:00Z"}),
                Err(Untrusted::Expired),
            ),
            (json!({"nbf": now + 90}), Err(Untrusted::Expired)),
            (json!({"exp": null}), Err(Untrusted::Times)),
            (json!({"exp": "soon"}), Err(Untrusted::Times)),
            (json!({"exp": -1}), Err(Untrusted::Times)),
            (json!({"nbf": true}), Err(Untrusted::Times)),
            (json!({"iss": "other"}), Err(Untrusted::Issuer)),
            (json!({"iss": null}), Err(Untrusted::Issuer)),
            (json!({"iss": ["i"]}), Err(Untrusted::Issuer)),
            (json!({"aud": ["x"]}), Err(Untrusted::Audience)),
            (json!({"aud": null}), Err(Untrusted::Audience)),
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
        tell_all(&mut headers, &token, &wanted.into());
        assert_eq!(headers["x-auth-user"], "ada");
        assert_eq!(headers["x-groups"], "a,b,3");
        assert!(!headers.contains_key("x-deep"));
        let token = json!({"sub": "a\r\nb: c"});
        tell_all(&mut headers, &token, &Default::default());
        assert_eq!(
            headers["x-auth-user"], "ada",
            "what no header can carry is not told"
        );
    }
}
