//! Opaque tokens, which the issuer introspects (RFC 7662).

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use headgate_model::edge::Introspection;
use http::{Request, request::Parts};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::{fetch::Fetch, reach::Reach};

use super::{CheckResult, bearer, cache::Cache, claims, oauth, service_failed};

/// How long a response is cached at most. A revoked token is accepted until then.
const CACHE_TIME: Duration = Duration::from_secs(60);
/// `exp` of active tokens without one, in seconds since 1970.
const NO_EXPIRY: u64 = u32::MAX as u64;

/// Checks tokens at the issuer.
pub(super) struct IntrospectionCheck {
    rule: Introspection,
    fetch: Fetch,
    cache: Cache<Value>,
}

impl IntrospectionCheck {
    pub(super) fn new(rule: &Introspection, reach: &Reach) -> Result<Self> {
        Ok(Self {
            fetch: Fetch::new(rule.server.authorities.as_deref(), reach)?,
            cache: Cache::new()?,
            rule: rule.clone(),
        })
    }

    pub(super) async fn pass(&self, parts: &mut Parts) -> CheckResult {
        let token = bearer::token(&parts.headers)?;
        let claims = self.introspect(token).await;
        let claims = claims.map_err(|error| service_failed("auth-server", &error))?;
        let token = Some(claims).filter(|claims| self.is_active(claims));
        bearer::accept(&mut parts.headers, token, &self.rule.claims)
    }

    async fn introspect(&self, token: &str) -> Result<Value> {
        let credential = [token.as_bytes()];
        if let Some(claims) = self.cache.get(&credential) {
            return Ok(claims);
        }
        let mut claims = self.fetch.json(self.request(token)?).await?;
        if claims.get("exp").is_none()
            && let Some(claims) = claims.as_object_mut()
        {
            claims.insert("exp".into(), json!(NO_EXPIRY));
        }
        if self.is_active(&claims) && claims::check(&claims, &self.rule.claims).is_ok() {
            let expiry = claims::expiry(&claims).unwrap_or_default();
            let rest = Duration::from_secs(expiry).saturating_sub(claims::now());
            self.cache
                .insert(&credential, claims.clone(), rest.min(CACHE_TIME));
        }
        Ok(claims)
    }

    fn request(&self, token: &str) -> Result<Request<Full<Bytes>>> {
        let Introspection {
            server,
            client_id,
            client_secret,
            ..
        } = &self.rule;
        let form = [("token", token), ("token_type_hint", "access_token")];
        oauth::post_form(&server.url, client_id, client_secret, &form)
    }

    /// Whether the issuer says that the token is active, with all required scopes.
    fn is_active(&self, claims: &Value) -> bool {
        let is_active = claims.get("active") == Some(&Value::Bool(true));
        let scopes = claims
            .get("scope")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let has = |wanted: &String| scopes.split(' ').any(|scope| scope == wanted);
        is_active && self.rule.scopes.iter().all(has)
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
    use headgate_model::edge::{Auth, Claims, Hidden, Introspection, Server};
    use http::{HeaderMap, StatusCode};
    use serde_json::{Value, json};

    use super::super::{
        claims::now,
        tests::{NOWHERE, authenticator, serve, status_with_token as status},
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

    /// An issuer that recognizes tokens by name and counts requests.
    async fn issuer(requests: Arc<AtomicUsize>) -> String {
        let answer = move |headers: HeaderMap, Form(form): Form<Vec<(String, String)>>| {
            requests.fetch_add(1, Ordering::Relaxed);
            // `gate:s%3Ae+c`
            let is_known = headers["authorization"] == "Basic Z2F0ZTpzJTNBZStj";
            let (_, token) = form.into_iter().find(|(name, _)| name == "token").unwrap();
            let (name, exp) = ("ada", now().as_secs() + 60);
            let response: Value = match token.as_str() {
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
            async move { (status, Json(response)) }
        };
        serve(Router::new().route("/", post(answer))).await
    }

    #[tokio::test]
    async fn l67_auth_issuer_decides_about_tokens() {
        let requests = Arc::<AtomicUsize>::default();
        let guard = authenticator(rule(issuer(requests.clone()).await));
        for (token, expected) in [
            ("good", 200),
            ("good", 200),
            ("endless", 200),
            ("past", 401),
            ("little", 401),
            ("text", 401),
            ("unknown", 401),
        ] {
            assert_eq!(status(&guard, token).await, expected, "{token}");
        }
        assert_eq!(
            requests.load(Ordering::Relaxed),
            6,
            "an active token is cached"
        );
    }

    #[tokio::test]
    async fn l67_auth_failing_issuer_refuses_all_requests() {
        assert_eq!(
            status(&authenticator(rule(NOWHERE.into())), "good").await,
            503
        );
        // Not found.
        let url = issuer(Arc::default()).await + "/elsewhere";
        assert_eq!(status(&authenticator(rule(url)), "good").await, 503);
    }
}
