//! PASETO tokens of version 4, signed (`public`) or encrypted (`local`).

use anyhow::{Result, anyhow};
use headgate_model::edge::{Claims, Paseto, PasetoKey};
use http::request::Parts;
use pasetors::{
    Local, Public,
    keys::{AsymmetricPublicKey, SymmetricKey},
    token::UntrustedToken,
    version4::{LocalToken, PublicToken, V4},
};
use serde_json::Value;

use super::{CheckResult, bearer};

/// Checks the key and claims of tokens.
pub(super) struct PasetoCheck {
    key: Key,
    claims: Claims,
}

enum Key {
    Public(AsymmetricPublicKey<V4>),
    Local(SymmetricKey<V4>),
}

impl PasetoCheck {
    pub(super) fn new(rule: &Paseto) -> Result<Self> {
        let key = match &rule.key {
            PasetoKey::Public(text) => {
                let key = AsymmetricPublicKey::try_from(text.as_str());
                Key::Public(
                    key.map_err(|error| anyhow!("public is not a k4.public key: {error:?}"))?,
                )
            }
            PasetoKey::Local(text) => {
                let key = SymmetricKey::try_from(str::from_utf8(&text.0)?);
                Key::Local(key.map_err(|error| anyhow!("local is not a k4.local key: {error:?}"))?)
            }
        };
        Ok(Self {
            key,
            claims: rule.claims.clone(),
        })
    }

    pub(super) fn pass(&self, parts: &mut Parts) -> CheckResult {
        let token = self.verify(bearer::token(&parts.headers)?);
        bearer::accept(&mut parts.headers, token, &self.claims)
    }

    fn verify(&self, token: &str) -> Option<Value> {
        let trusted = match &self.key {
            Key::Public(key) => {
                let token = UntrustedToken::<Public, V4>::try_from(token).ok()?;
                PublicToken::verify(key, &token, None, None).ok()?
            }
            Key::Local(key) => {
                let token = UntrustedToken::<Local, V4>::try_from(token).ok()?;
                LocalToken::decrypt(key, &token, None, None).ok()?
            }
        };
        serde_json::from_str(trusted.payload()).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use headgate_model::edge::{Auth, Claims, Hidden, Paseto, PasetoKey};
    use pasetors::{
        keys::{AsymmetricKeyPair, Generate, SymmetricKey},
        paserk::FormatAsPaserk,
        version4::{LocalToken, PublicToken, V4},
    };
    use serde_json::{Value, json};

    use super::super::{
        Authenticator,
        tests::{authenticator, status_with_token as status},
    };

    fn rule(key: PasetoKey) -> Auth {
        Auth::Paseto(Paseto {
            key,
            claims: Claims {
                issuer: Some("issuer".into()),
                audiences: vec!["shop".into()],
                leeway: Duration::from_secs(5),
                ..Claims::default()
            },
        })
    }

    fn claims(changed: Value) -> Vec<u8> {
        let mut all = json!({"sub": "ada", "iss": "issuer", "aud": "shop", "exp": "2999-01-01T00:00:00+00:00"});
        all.as_object_mut()
            .unwrap()
            .extend(changed.as_object().unwrap().clone());
        all.to_string().into()
    }

    fn changes() -> [(Value, u16); 6] {
        [
            (json!({}), 200),
            (json!({"nbf": "2001-01-01T00:00:00Z"}), 200),
            (json!({"exp": "2001-01-01T00:00:00Z"}), 401),
            (json!({"nbf": "2999-01-01T00:00:00Z"}), 401),
            (json!({"iss": "other"}), 401),
            (json!({"aud": "other"}), 401),
        ]
    }

    #[tokio::test]
    async fn l69_auth_signed_pasetos_are_accepted() {
        let pair = AsymmetricKeyPair::<V4>::generate().unwrap();
        let other = AsymmetricKeyPair::<V4>::generate().unwrap();
        let mut public = String::new();
        pair.public.fmt(&mut public).unwrap();
        let guard = authenticator(rule(PasetoKey::Public(public)));
        for (change, expected) in changes() {
            let token = PublicToken::sign(&pair.secret, &claims(change.clone()), None, None);
            assert_eq!(status(&guard, &token.unwrap()).await, expected, "{change}");
        }
        let forged = PublicToken::sign(&other.secret, &claims(json!({})), None, None).unwrap();
        assert_eq!(status(&guard, &forged).await, 401);
        assert_eq!(status(&guard, "v4.public.").await, 401);
    }

    #[tokio::test]
    async fn l69_auth_encrypted_pasetos_are_accepted() {
        let key = SymmetricKey::<V4>::generate().unwrap();
        let mut text = String::new();
        key.fmt(&mut text).unwrap();
        let guard = authenticator(rule(PasetoKey::Local(Hidden(text.into()))));
        for (change, expected) in changes() {
            let token = LocalToken::encrypt(&key, &claims(change.clone()), None, None);
            assert_eq!(status(&guard, &token.unwrap()).await, expected, "{change}");
        }
        let other = SymmetricKey::<V4>::generate().unwrap();
        let forged = LocalToken::encrypt(&other, &claims(json!({})), None, None).unwrap();
        assert_eq!(status(&guard, &forged).await, 401);
    }

    #[test]
    fn l69_auth_invalid_keys_are_refused() {
        let reach = crate::reach::Reach::everything();
        assert!(
            Authenticator::new(&[rule(PasetoKey::Public("k4.local.x".into()))], &reach).is_err()
        );
        assert!(Authenticator::new(&[rule(PasetoKey::Local(Hidden("x".into())))], &reach).is_err());
    }
}
