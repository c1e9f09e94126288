//! JSON Web Tokens (RFC 7519).

use anyhow::Result;
use headgate_model::edge::{Claims, Jwt};
use http::request::Parts;

use crate::reach::Reach;

use super::{CheckResult, bearer, keys::Keys, service_failed};

/// Checks the signature and claims of tokens.
pub(super) struct JwtCheck {
    keys: Keys,
    claims: Claims,
}

impl JwtCheck {
    pub(super) fn new(rule: &Jwt, reach: &Reach) -> Result<Self> {
        Ok(Self {
            keys: Keys::new(&rule.keys, reach)?,
            claims: rule.claims.clone(),
        })
    }

    pub(super) async fn pass(&self, parts: &mut Parts) -> CheckResult {
        let token = bearer::token(&parts.headers)?;
        let verified = self.keys.verify(token).await;
        let token = verified.map_err(|error| service_failed("auth-server", &error))?;
        bearer::accept(&mut parts.headers, token, &self.claims)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc, Mutex,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use axum::{Router, routing::get};
    use headgate_model::edge::{Auth, Claims, Hidden, Jwt, JwtKeys, Server};
    use jsonwebtoken::{
        Algorithm, EncodingKey, Header, encode,
        jwk::{Jwk, JwkSet},
    };
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256};
    use serde_json::{Value, json};

    use super::super::{
        Authenticator,
        claims::now,
        tests::{NOWHERE, authenticator, authorize, request, serve},
    };

    fn rule(keys: JwtKeys) -> Auth {
        Auth::Jwt(Jwt {
            keys,
            claims: Claims {
                issuer: Some("issuer".into()),
                audiences: vec!["shop".into()],
                leeway: Duration::from_secs(5),
                headers: [("x-email".into(), "email".into())].into(),
            },
        })
    }

    fn claims() -> Value {
        json!({"sub": "ada", "email": "ada@shop.example", "iss": "issuer", "aud": "shop", "exp": now().as_secs() + 60})
    }

    fn token(header: &Header, key: &EncodingKey) -> String {
        encode(header, &claims(), key).unwrap()
    }

    async fn status(guard: &Authenticator, token: &str) -> u16 {
        let mut builder = request("/").header("authorization", format!("Bearer {token}"));
        match authorize(guard, &mut builder).await {
            Ok(parts) => {
                assert_eq!(parts.headers["x-auth-user"], "ada");
                assert_eq!(parts.headers["x-email"], "ada@shop.example");
                200
            }
            Err(denied) => denied.status().as_u16(),
        }
    }

    fn pair(kind: &'static rcgen::SignatureAlgorithm) -> (Vec<u8>, Vec<u8>) {
        let pair = KeyPair::generate_for(kind).unwrap();
        (pair.serialize_pem().into(), pair.public_key_pem().into())
    }

    #[tokio::test]
    async fn l66_auth_tokens_of_each_key_type_are_accepted() {
        let shared = EncodingKey::from_secret(b"shared");
        let guard = authenticator(rule(JwtKeys::Shared(Hidden("shared".into()))));
        assert_eq!(
            status(&guard, &token(&Header::new(Algorithm::HS256), &shared)).await,
            200
        );
        assert_eq!(
            status(&guard, &token(&Header::new(Algorithm::HS512), &shared)).await,
            200
        );
        let other = EncodingKey::from_secret(b"other");
        assert_eq!(
            status(&guard, &token(&Header::new(Algorithm::HS256), &other)).await,
            401
        );

        let (rsa, rsa_public) = pair(&PKCS_RSA_SHA256);
        let (ec, ec_public) = pair(&PKCS_ECDSA_P256_SHA256);
        let (ed, ed_public) = pair(&PKCS_ED25519);
        for (algorithm, key, public) in [
            (
                Algorithm::RS256,
                EncodingKey::from_rsa_pem(&rsa),
                rsa_public.clone(),
            ),
            (
                Algorithm::PS384,
                EncodingKey::from_rsa_pem(&rsa),
                rsa_public,
            ),
            (Algorithm::ES256, EncodingKey::from_ec_pem(&ec), ec_public),
            (Algorithm::EdDSA, EncodingKey::from_ed_pem(&ed), ed_public),
        ] {
            let guard = authenticator(rule(JwtKeys::Public(public.clone())));
            let right = token(&Header::new(algorithm), &key.unwrap());
            assert_eq!(status(&guard, &right).await, 200, "{algorithm:?}");
            // Algorithm confusion: an attacker uses the public key as an HMAC secret.
            let confused = EncodingKey::from_secret(&public);
            let confused = token(&Header::new(Algorithm::HS256), &confused);
            assert_eq!(status(&guard, &confused).await, 401, "{algorithm:?}");
            let (head, _) = right.rsplit_once('.').unwrap();
            assert_eq!(
                status(&guard, &format!("{head}.")).await,
                401,
                "{algorithm:?}"
            );
        }
    }

    #[tokio::test]
    async fn l66_auth_unsigned_and_malformed_tokens_are_refused() {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        let guard = authenticator(rule(JwtKeys::Shared(Hidden("shared".into()))));
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let body = part(claims());
        for none in ["none", "None", "NONE", ""] {
            let head = part(json!({"alg": none, "typ": "JWT"}));
            assert_eq!(
                status(&guard, &format!("{head}.{body}.")).await,
                401,
                "{none}"
            );
        }
        let mut header = Header::new(Algorithm::HS256);
        header.crit = Some(vec!["exp".into()]);
        let critical = token(&header, &EncodingKey::from_secret(b"shared"));
        assert_eq!(status(&guard, &critical).await, 401);
        for text in ["", ".", "..", "a.b.c"] {
            assert_eq!(status(&guard, text).await, 401, "{text}");
        }
        let denied = authorize(&guard, &mut request("/")).await.unwrap_err();
        assert_eq!(denied.headers()["www-authenticate"], "Bearer");
    }

    /// A server with a changeable key set, which counts fetches.
    async fn key_set(keys: &Arc<Mutex<JwkSet>>, fetches: &Arc<AtomicUsize>) -> Server {
        let (keys, fetches) = (keys.clone(), fetches.clone());
        let answer = move || {
            fetches.fetch_add(1, Ordering::Relaxed);
            let keys = keys.lock().unwrap().clone();
            async move { axum::Json(keys) }
        };
        let url = serve(Router::new().route("/keys", get(answer))).await + "/keys";
        Server {
            url,
            authorities: None,
        }
    }

    fn named(name: &str) -> (EncodingKey, Jwk, Header) {
        let (private, _) = pair(&PKCS_ECDSA_P256_SHA256);
        let key = EncodingKey::from_ec_pem(&private).unwrap();
        let mut public = Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
        public.common.key_id = Some(name.into());
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(name.into());
        (key, public, header)
    }

    #[tokio::test]
    async fn l66_auth_key_set_is_fetched_again_for_an_unknown_key() {
        let (first, first_public, first_header) = named("first");
        let (second, second_public, second_header) = named("second");
        let keys = Arc::new(Mutex::new(JwkSet {
            keys: vec![first_public],
        }));
        let fetches = Arc::default();
        let server = key_set(&keys, &fetches).await;
        let guard = authenticator(rule(JwtKeys::Url(server)));
        for _ in 0..3 {
            assert_eq!(status(&guard, &token(&first_header, &first)).await, 200);
        }
        assert_eq!(fetches.load(Ordering::Relaxed), 1);
        // A key with another id is not tried.
        assert_eq!(status(&guard, &token(&second_header, &first)).await, 401);
        keys.lock().unwrap().keys.push(second_public);
        assert_eq!(
            status(&guard, &token(&second_header, &second)).await,
            401,
            "fetched less than 10 s ago"
        );
        assert_eq!(fetches.load(Ordering::Relaxed), 1);
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(10)).await;
        tokio::time::resume();
        assert_eq!(status(&guard, &token(&second_header, &second)).await, 200);
        assert_eq!(fetches.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn l66_auth_shared_secret_in_a_public_key_set_is_ignored() {
        let secret = EncodingKey::from_secret(b"public");
        let public = Jwk::from_encoding_key(&secret, Algorithm::HS256).unwrap();
        let keys = Arc::new(Mutex::new(JwkSet { keys: vec![public] }));
        let guard = authenticator(rule(JwtKeys::Url(key_set(&keys, &Arc::default()).await)));
        assert_eq!(
            status(&guard, &token(&Header::new(Algorithm::HS256), &secret)).await,
            401
        );
    }

    #[tokio::test]
    async fn l66_auth_unreachable_key_set_refuses_all_requests() {
        let server = Server {
            url: NOWHERE.into(),
            authorities: None,
        };
        let guard = authenticator(rule(JwtKeys::Url(server)));
        let (key, _, header) = named("first");
        assert_eq!(status(&guard, &token(&header, &key)).await, 503);
    }
}
