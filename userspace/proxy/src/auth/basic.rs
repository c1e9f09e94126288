//! Names and passwords (RFC 7617).

use std::{collections::HashMap, sync::Arc, thread::available_parallelism, time::Duration};

use anyhow::{Context, Result};
use headgate_model::ingress::Basic;
use http::request::Parts;
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::{Checked, USER, cache::Cache, credentials, htpasswd::Hash, tell, unauthorized};

/// How long a password that was right is taken without hashing it again.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Users and what they are checked with.
pub(super) struct BasicCheck {
    challenge: String,
    users: HashMap<String, Hash>,
    cache: Cache<()>,
    /// Hashing is meant to be slow: more at the same time would be slower still, for everybody.
    turns: Arc<Semaphore>,
}

impl BasicCheck {
    pub(super) fn new(basic: &Basic) -> Result<Self> {
        let users = basic.users.iter().map(|(user, hash)| {
            let hash = Hash::parse(&hash.0).with_context(|| format!("user {user}"))?;
            Ok((user.clone(), hash))
        });
        let turns = available_parallelism().map_or(1, usize::from);
        Ok(Self {
            challenge: challenge(&basic.realm),
            users: users.collect::<Result<_>>()?,
            cache: Cache::new()?,
            turns: Arc::new(Semaphore::new(turns)),
        })
    }

    pub(super) async fn pass(&self, parts: &mut Parts) -> Checked {
        let Some((user, password)) = credentials::basic(&parts.headers) else {
            return Err(unauthorized(&self.challenge));
        };
        if !self.is_right(&user, password).await {
            return Err(unauthorized(&self.challenge));
        }
        tell(&mut parts.headers, &USER, &user);
        Ok(Vec::new())
    }

    async fn is_right(&self, user: &str, password: String) -> bool {
        let known = self.users.get(user);
        // As much work for users that are not there: nobody finds out who is.
        let Some(hash) = known.or_else(|| self.users.values().next()).cloned() else {
            return false;
        };
        let proof = [user.as_bytes(), password.as_bytes()];
        if self.cache.get(&proof).is_some() {
            return true;
        }
        let Ok(turn) = self.turns.clone().acquire_owned().await else {
            return false;
        };
        let tried = password.clone();
        let hashed = spawn_blocking(move || {
            let is_right = hash.is_of(&tried);
            drop(turn);
            is_right
        });
        let is_right = known.is_some() && hashed.await.unwrap_or(false);
        if is_right {
            let proof = [user.as_bytes(), password.as_bytes()];
            self.cache.insert(&proof, (), REMEMBERED);
        }
        is_right
    }
}

/// What asks for a name and a password. Realms have no quotes.
pub(super) fn challenge(realm: &str) -> String {
    format!("Basic realm=\"{realm}\", charset=\"UTF-8\"")
}

#[cfg(test)]
mod tests {
    use headgate_model::ingress::{Auth, Basic, Hidden};

    use super::super::tests::{authenticator, authorize, basic_header, request};

    fn demand() -> Auth {
        let hash = |text: &str| Hidden(text.into());
        let users = [
            (
                "ada",
                "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW",
            ),
            ("bob", "$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/"),
        ];
        Auth::Basic(Basic {
            realm: "the shop".into(),
            users: users.map(|(user, text)| (user.into(), hash(text))).into(),
        })
    }

    #[tokio::test]
    async fn l60_auth_basic_lets_users_with_their_password_through() {
        let gate = authenticator(demand());
        // The second time from memory.
        for user in ["ada", "bob", "ada"] {
            let mut parts = request("/").header("authorization", basic_header(user, "secret"));
            let parts = authorize(&gate, &mut parts).await.unwrap();
            assert_eq!(parts.headers["x-auth-user"], user);
        }
        for (user, password) in [("ada", "wrong"), ("eve", "secret"), ("", ""), ("bob", "")] {
            let mut parts = request("/").header("authorization", basic_header(user, password));
            let denied = authorize(&gate, &mut parts).await.unwrap_err();
            assert_eq!(denied.status(), 401, "{user}");
        }
        let denied = authorize(&gate, &mut request("/")).await.unwrap_err();
        let challenge = "Basic realm=\"the shop\", charset=\"UTF-8\"";
        assert_eq!(denied.headers()["www-authenticate"], challenge);
    }

    #[tokio::test]
    async fn l60_auth_basic_takes_one_header_of_its_scheme() {
        let gate = authenticator(demand());
        let right = basic_header("ada", "secret");
        let mut twice = request("/")
            .header("authorization", right.clone())
            .header("authorization", right.clone());
        authorize(&gate, &mut twice).await.unwrap_err();
        let other = right.replace("Basic", "Bearer");
        authorize(&gate, &mut request("/").header("authorization", other))
            .await
            .unwrap_err();
    }
}
