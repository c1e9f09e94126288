//! Tokens that mean nothing to us: their issuer says what they are (RFC 7662).

use std::time::Duration;

use anyhow::Result;
use base64::{Engine, engine::general_purpose::STANDARD};
use headgate_model::ingress::Introspection;
use http::{Request, header, request::Parts};
use serde_json::{Value, json};

use crate::fetch::Fetch;

use super::{
    Checked,
    cache::Cache,
    claims, credentials, failed,
    jwt::{BEARER, INVALID_TOKEN},
    unauthorized,
};

/// How long an answer holds at most: a token that was taken back is taken that much longer.
const REMEMBERED: Duration = Duration::from_secs(60);
/// The end of tokens that have none, in seconds since 1970.
const NO_END: u64 = u32::MAX as u64;

/// The issuer.
pub(super) struct IntrospectionCheck {
    rule: Introspection,
    fetch: Fetch,
    cache: Cache<Value>,
}

impl IntrospectionCheck {
    pub(super) fn new(rule: &Introspection) -> Result<Self> {
        Ok(Self {
            fetch: Fetch::new(rule.server.authorities.as_deref())?,
            cache: Cache::new()?,
            rule: rule.clone(),
        })
    }

    pub(super) async fn pass(&self, parts: &mut Parts) -> Checked {
        let Some(token) = credentials::bearer(&parts.headers) else {
            return Err(unauthorized(BEARER));
        };
        let known = self.known(token).await;
        let known = known.map_err(|error| failed("auth-server", &error))?;
        if !self.is_good(&known) {
            return Err(unauthorized(INVALID_TOKEN));
        }
        claims::tell_all(&mut parts.headers, &known, &self.rule.claims.headers);
        Ok(Vec::new())
    }

    async fn known(&self, token: &str) -> Result<Value> {
        let proof = [token.as_bytes()];
        if let Some(known) = self.cache.get(&proof) {
            return Ok(known);
        }
        let mut known = self.fetch.json(self.question(token)?).await?;
        if known.get("exp").is_none()
            && let Some(known) = known.as_object_mut()
        {
            known.insert("exp".into(), json!(NO_END));
        }
        if self.is_good(&known) {
            let end = claims::end(&known).unwrap_or_default();
            let rest = Duration::from_secs(end).saturating_sub(claims::now());
            self.cache
                .insert(&proof, known.clone(), rest.min(REMEMBERED));
        }
        Ok(known)
    }

    fn question(&self, token: &str) -> Result<Request<http_body_util::Full<bytes::Bytes>>> {
        let Introspection {
            server,
            client_id,
            client_secret,
            ..
        } = &self.rule;
        let encode = |text: &[u8]| form_urlencoded::byte_serialize(text).collect::<String>();
        // Both are form-encoded first (RFC 6749, 2.3.1).
        let (user, password) = (encode(client_id.as_bytes()), encode(&client_secret.0));
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("token", token)
            .append_pair("token_type_hint", "access_token")
            .finish();
        let request = Request::post(&server.url)
            .header(
                header::AUTHORIZATION,
                format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))),
            )
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json");
        Ok(request.body(form.into())?)
    }

    fn is_good(&self, known: &Value) -> bool {
        let is_active = known.get("active") == Some(&Value::Bool(true));
        let scopes = known
            .get("scope")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let has = |wanted: &String| scopes.split(' ').any(|scope| scope == wanted);
        is_active
            && self.rule.scopes.iter().all(has)
            && claims::check(known, &self.rule.claims).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use axum::{Form, Json, Router, routing::post};
    use headgate_model::ingress::{Auth, Claims, Hidden, Introspection, Server};
    use http::{HeaderMap, StatusCode};
    use serde_json::{Value, json};

    use super::super::{
        Authenticator,
        claims::now,
        tests::{NOWHERE, authenticator, authorize, request, serve},
    };

    fn rule(url: String) -> Auth {
        Auth::Introspection(Introspection {
            server: Server {
                url,
                authorities: None,
            },
            client_id: "gate".into(),
            client_secret: Hidden("s:e c".into()),
            scopes: vec!["read".into()],
            claims: Claims {
                leeway: Duration::from_secs(1),
                ..Claims::default()
            },
        })
    }

    /// Knows what tokens are by their names.
    async fn issuer(looks: Arc<AtomicUsize>) -> String {
        let answer = move |headers: HeaderMap, Form(form): Form<Vec<(String, String)>>| {
            looks.fetch_add(1, Ordering::Relaxed);
            // `gate:s%3Ae+c`
            let is_known = headers["authorization"] == "Basic Z2F0ZTpzJTNBZStj";
            let (_, token) = form.into_iter().find(|(name, _)| name == "token").unwrap();
            let (name, exp) = ("ada", now().as_secs() + 60);
            let said: Value = match token.as_str() {
                "good" => json!({"active": true, "scope": "write read", "sub": name, "exp": exp}),
                "endless" => json!({"active": true, "scope": "read", "sub": name}),
                "past" => json!({"active": true, "scope": "read", "sub": name, "exp": exp - 120}),
                "little" => json!({"active": true, "scope": "write", "sub": name, "exp": exp}),
                "text" => json!({"active": "true", "scope": "read", "sub": name, "exp": exp}),
                _ => json!({"active": false}),
            };
            let status = if is_known {
                StatusCode::OK
            } else {
                StatusCode::UNAUTHORIZED
            };
            async move { (status, Json(said)) }
        };
        serve(Router::new().route("/", post(answer))).await
    }

    async fn status(gate: &Authenticator, token: &str) -> u16 {
        let mut asked = request("/").header("authorization", format!("Bearer {token}"));
        authorize(gate, &mut asked).await.map_or_else(
            |denied| denied.status().as_u16(),
            |parts| {
                assert_eq!(parts.headers["x-auth-user"], "ada");
                200
            },
        )
    }

    #[tokio::test]
    async fn l67_auth_issuer_says_what_tokens_are() {
        let looks = Arc::<AtomicUsize>::default();
        let gate = authenticator(rule(issuer(looks.clone()).await));
        for (token, expected) in [
            ("good", 200),
            ("good", 200),
            ("endless", 200),
            ("past", 401),
            ("little", 401),
            ("text", 401),
            ("unknown", 401),
        ] {
            assert_eq!(status(&gate, token).await, expected, "{token}");
        }
        assert_eq!(
            looks.load(Ordering::Relaxed),
            6,
            "what is good is remembered"
        );
    }

    #[tokio::test]
    async fn l67_auth_issuer_that_fails_lets_nothing_through() {
        assert_eq!(
            status(&authenticator(rule(NOWHERE.into())), "good").await,
            503
        );
        // No such place.
        let url = issuer(Arc::default()).await + "/elsewhere";
        assert_eq!(status(&authenticator(rule(url)), "good").await, 503);
    }
}
