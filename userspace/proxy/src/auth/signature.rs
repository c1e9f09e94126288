//! Requests signed with a shared secret (`draft-cavage-http-signatures`, as in Kong's `hmac-auth`):
//! `Authorization: hmac username="ada", algorithm="hmac-sha256", headers="date request-line",
//! signature="…"`.
//!
//! The date and the request line must be signed. Bodies are not checked; a backend can compare one
//! with a signed `Digest`.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use aws_lc_rs::hmac::{self, HMAC_SHA256, HMAC_SHA384, HMAC_SHA512, Key};
use base64::{Engine, engine::general_purpose::STANDARD};
use headgate_model::edge::{Hidden, Hmac};
use http::{Version, request::Parts};

use super::{CheckResult, USER, credentials, set_header, target, unauthorized};

const CHALLENGE: &str = "hmac realm=\"headgate\"";

/// Checks signatures of users with their secrets.
pub(super) struct HmacCheck {
    users: HashMap<String, Hidden>,
    /// The largest difference between `Date` and our clock.
    skew: Duration,
}

/// The signature parameters in `Authorization`.
struct SignatureParams<'a> {
    user: &'a str,
    algorithm: hmac::Algorithm,
    headers: Vec<&'a str>,
    signature: Vec<u8>,
}

impl HmacCheck {
    pub(super) fn new(rule: &Hmac) -> Self {
        Self {
            users: rule.users.clone().into_iter().collect(),
            skew: rule.skew,
        }
    }

    pub(super) fn pass(&self, parts: &mut Parts) -> CheckResult {
        let Some(user) = self.user(parts) else {
            return Err(unauthorized(CHALLENGE));
        };
        set_header(&mut parts.headers, &USER, &user);
        Ok(Vec::new())
    }

    fn user(&self, parts: &Parts) -> Option<String> {
        let params = SignatureParams::parse(credentials::with_scheme(&parts.headers, "hmac")?)?;
        let signs = |name: &str| {
            params
                .headers
                .iter()
                .any(|signed| signed.eq_ignore_ascii_case(name))
        };
        let date = ["x-date", "date"].into_iter().find(|name| signs(name))?;
        if !(signs("request-line") || signs("@request-target")) || !self.is_current(parts, date) {
            return None;
        }
        let secret = self.users.get(params.user)?;
        let key = Key::new(params.algorithm, &secret.0);
        let text = signed_text(parts, &params.headers)?;
        hmac::verify(&key, text.as_bytes(), &params.signature).ok()?;
        Some(params.user.into())
    }

    fn is_current(&self, parts: &Parts, date: &str) -> bool {
        let text = parts.headers.get(date).and_then(|date| date.to_str().ok());
        let Some(signed) = text.and_then(|text| httpdate::parse_http_date(text).ok()) else {
            return false;
        };
        let now = SystemTime::now();
        let difference = now
            .duration_since(signed)
            .or_else(|_| signed.duration_since(now));
        difference.is_ok_and(|difference| difference <= self.skew)
    }
}

impl<'a> SignatureParams<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let pairs = text.split(',').map(|pair| {
            let (name, value) = pair.trim().split_once('=')?;
            Some((name, value.strip_prefix('"')?.strip_suffix('"')?))
        });
        let pairs: HashMap<&str, &str> = pairs.collect::<Option<_>>()?;
        Some(Self {
            user: pairs.get("username")?,
            algorithm: match *pairs.get("algorithm")? {
                "hmac-sha256" => HMAC_SHA256,
                "hmac-sha384" => HMAC_SHA384,
                "hmac-sha512" => HMAC_SHA512,
                _ => return None,
            },
            headers: pairs.get("headers")?.split_ascii_whitespace().collect(),
            signature: STANDARD.decode(pairs.get("signature")?).ok()?,
        })
    }
}

/// The signed text: a line for each signed part. `None` if a signed header is missing or repeated.
fn signed_text(parts: &Parts, headers: &[&str]) -> Option<String> {
    let line = |name: &&str| {
        let name = name.to_ascii_lowercase();
        let method = &parts.method;
        Some(match name.as_str() {
            "request-line" => format!("{method} {} {}", target(parts), version(parts.version)),
            "@request-target" => {
                let method = method.as_str().to_ascii_lowercase();
                format!("{name}: {method} {}", target(parts))
            }
            // HTTP/2 has the host in the target.
            "host" => format!("host: {}", super::authority(parts)?),
            _ => {
                let mut fields = parts.headers.get_all(&name).iter();
                let value = fields.next()?.to_str().ok()?;
                if fields.next().is_some() {
                    return None;
                }
                format!("{name}: {value}")
            }
        })
    };
    let lines: Vec<String> = headers.iter().map(line).collect::<Option<_>>()?;
    Some(lines.join("\n"))
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use aws_lc_rs::hmac::{self, HMAC_SHA256, HMAC_SHA512, Key};
    use base64::{Engine, engine::general_purpose::STANDARD};
    use headgate_model::edge::{Auth, Hidden, Hmac};

    use super::super::tests::{authenticator, authorize, request};

    fn sign(algorithm: &str, headers: &str, text: &str) -> String {
        let kind = if algorithm == "hmac-sha512" {
            HMAC_SHA512
        } else {
            HMAC_SHA256
        };
        let signature = hmac::sign(&Key::new(kind, b"shared"), text.as_bytes());
        let signature = STANDARD.encode(signature);
        format!(
            r#"hmac username="ada", algorithm="{algorithm}", headers="{headers}", signature="{signature}""#
        )
    }

    fn date(seconds_ago: u64) -> String {
        httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(seconds_ago))
    }

    #[tokio::test]
    async fn l64_auth_signed_requests_are_accepted_only_as_signed() {
        let guard = authenticator(Auth::Hmac(Hmac {
            users: [("ada".into(), Hidden("shared".into()))].into(),
            skew: Duration::from_secs(300),
        }));
        let now = date(0);
        let line = "GET /a?b=c HTTP/1.1";
        let lines = format!("date: {now}\n{line}");
        let signed = sign("hmac-sha256", "date request-line", &lines);
        let build = |target, date: &str, signature: &str| {
            request(target)
                .header("date", date)
                .header("authorization", signature)
        };
        let parts = authorize(&guard, &mut build("/a?b=c", &now, &signed))
            .await
            .unwrap();
        assert_eq!(parts.headers["x-auth-user"], "ada");
        let more = format!("host: shop.example\n@request-target: get /a?b=c\ndate: {now}");
        let more = sign("hmac-sha512", "host @request-target date", &more);
        assert!(
            authorize(&guard, &mut build("/a?b=c", &now, &more))
                .await
                .is_ok()
        );

        let old = date(301);
        let past = sign(
            "hmac-sha256",
            "date request-line",
            &format!("date: {old}\n{line}"),
        );
        let no_date = sign("hmac-sha256", "request-line", line);
        let no_line = sign("hmac-sha256", "date", &format!("date: {now}"));
        let weak = sign("hmac-sha1", "date request-line", &lines);
        for (target, date, signature) in [
            ("/other", &now, &signed),
            ("/a?b=c", &date(1), &signed),
            ("/a?b=c", &old, &past),
            ("/a?b=c", &now, &no_date),
            ("/a?b=c", &now, &no_line),
            ("/a?b=c", &now, &weak),
            ("/a?b=c", &now, &signed.replace("ada", "eve")),
            ("/a?b=c", &now, &signed.replace("username=\"ada\", ", "")),
        ] {
            let denied = authorize(&guard, &mut build(target, date, signature))
                .await
                .unwrap_err();
            assert_eq!(denied.status(), 401, "{signature}");
        }
        let mut posted = build("/a?b=c", &now, &signed).method("POST");
        authorize(&guard, &mut posted).await.unwrap_err();
    }
}
