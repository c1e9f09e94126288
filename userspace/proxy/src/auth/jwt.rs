//! JSON Web Tokens (RFC 7519).

use anyhow::Result;
use headgate_model::ingress::{Claims, Jwt};
use http::request::Parts;

use super::{Checked, claims, credentials, failed, keys::Keys, unauthorized};

/// What tells clients that a token is missing or wrong (RFC 6750, 3).
pub(super) const BEARER: &str = "Bearer";
pub(super) const INVALID_TOKEN: &str = "Bearer error=\"invalid_token\"";

/// Keys, and what tokens must say.
pub(super) struct JwtCheck {
    keys: Keys,
    claims: Claims,
}

impl JwtCheck {
    pub(super) fn new(rule: &Jwt) -> Result<Self> {
        Ok(Self {
            keys: Keys::new(&rule.keys)?,
            claims: rule.claims.clone(),
        })
    }

    pub(super) async fn pass(&self, parts: &mut Parts) -> Checked {
        let Some(token) = credentials::bearer(&parts.headers) else {
            return Err(unauthorized(BEARER));
        };
        let opened = self.keys.open(token).await;
        let token = opened.map_err(|error| failed("auth-server", &error))?;
        let token = token.filter(|token| claims::check(token, &self.claims).is_ok());
        let Some(token) = token else {
            return Err(unauthorized(INVALID_TOKEN));
        };
        claims::tell_all(&mut parts.headers, &token, &self.claims.headers);
        Ok(Vec::new())
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
    use headgate_model::ingress::{Auth, Claims, Hidden, Jwt, JwtKeys, Server};
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

    async fn status(gate: &Authenticator, token: &str) -> u16 {
        let mut asked = request("/").header("authorization", format!("Bearer {token}"));
        match authorize(gate, &mut asked).await {
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
    async fn l66_auth_tokens_of_each_kind_of_key_are_taken() {
        let shared = EncodingKey::from_secret(b"shared");
        let gate = authenticator(rule(JwtKeys::Shared(Hidden("shared".into()))));
        assert_eq!(
            status(&gate, &token(&Header::new(Algorithm::HS256), &shared)).await,
            200
        );
        assert_eq!(
            status(&gate, &token(&Header::new(Algorithm::HS512), &shared)).await,
            200
        );
        let other = EncodingKey::from_secret(b"other");
        assert_eq!(
            status(&gate, &token(&Header::new(Algorithm::HS256), &other)).await,
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
            let gate = authenticator(rule(JwtKeys::Public(public.clone())));
            let right = token(&Header::new(algorithm), &key.unwrap());
            assert_eq!(status(&gate, &right).await, 200, "{algorithm:?}");
            // Whoever has the public key signs with it as if it were a shared secret.
            let confused = EncodingKey::from_secret(&public);
            let confused = token(&Header::new(Algorithm::HS256), &confused);
            assert_eq!(status(&gate, &confused).await, 401, "{algorithm:?}");
            let (head, _) = right.rsplit_once('.').unwrap();
            assert_eq!(
                status(&gate, &format!("{head}.")).await,
                401,
                "{algorithm:?}"
            );
        }
    }

    #[tokio::test]
    async fn l66_auth_tokens_without_signature_or_sense_are_not_taken() {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        let gate = authenticator(rule(JwtKeys::Shared(Hidden("shared".into()))));
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let body = part(claims());
        for none in ["none", "None", "NONE", ""] {
            let head = part(json!({"alg": none, "typ": "JWT"}));
            assert_eq!(
                status(&gate, &format!("{head}.{body}.")).await,
                401,
                "{none}"
            );
        }
        let mut header = Header::new(Algorithm::HS256);
        header.crit = Some(vec!["exp".into()]);
        let critical = token(&header, &EncodingKey::from_secret(b"shared"));
        assert_eq!(status(&gate, &critical).await, 401);
        for text in ["", ".", "..", "a.b.c"] {
            assert_eq!(status(&gate, text).await, 401, "{text}");
        }
        let denied = authorize(&gate, &mut request("/")).await.unwrap_err();
        assert_eq!(denied.headers()["www-authenticate"], "Bearer");
    }

    /// A set of keys that can be changed, and how often somebody looked.
    async fn key_set(keys: &Arc<Mutex<JwkSet>>, looks: &Arc<AtomicUsize>) -> Server {
        let (keys, looks) = (keys.clone(), looks.clone());
        let answer = move || {
            looks.fetch_add(1, Ordering::Relaxed);
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
    async fn l66_auth_set_of_keys_is_read_again_when_it_lacks_one() {
        let (first, first_public, first_header) = named("first");
        let (second, second_public, second_header) = named("second");
        let keys = Arc::new(Mutex::new(JwkSet {
            keys: vec![first_public],
        }));
        let looks = Arc::default();
        let server = key_set(&keys, &looks).await;
        let gate = authenticator(rule(JwtKeys::Url(server)));
        for _ in 0..3 {
            assert_eq!(status(&gate, &token(&first_header, &first)).await, 200);
        }
        assert_eq!(looks.load(Ordering::Relaxed), 1);
        // The key of another name is not tried.
        assert_eq!(status(&gate, &token(&second_header, &first)).await, 401);
        keys.lock().unwrap().keys.push(second_public);
        assert_eq!(
            status(&gate, &token(&second_header, &second)).await,
            401,
            "looked just now"
        );
        assert_eq!(looks.load(Ordering::Relaxed), 1);
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(10)).await;
        tokio::time::resume();
        assert_eq!(status(&gate, &token(&second_header, &second)).await, 200);
        assert_eq!(looks.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn l66_auth_shared_secret_in_a_set_that_anybody_reads_is_none() {
        let secret = EncodingKey::from_secret(b"everybody knows");
        let public = Jwk::from_encoding_key(&secret, Algorithm::HS256).unwrap();
        let keys = Arc::new(Mutex::new(JwkSet { keys: vec![public] }));
        let gate = authenticator(rule(JwtKeys::Url(key_set(&keys, &Arc::default()).await)));
        assert_eq!(
            status(&gate, &token(&Header::new(Algorithm::HS256), &secret)).await,
            401
        );
    }

    #[tokio::test]
    async fn l66_auth_set_of_keys_that_does_not_answer_lets_nothing_through() {
        let server = Server {
            url: NOWHERE.into(),
            authorities: None,
        };
        let gate = authenticator(rule(JwtKeys::Url(server)));
        let (key, _, header) = named("first");
        assert_eq!(status(&gate, &token(&header, &key)).await, 503);
    }
}
