//! HTTP Basic authentication (RFC 7617).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    thread::available_parallelism,
    time::Duration,
};

use anyhow::{Context, Result};
use headgate_model::edge::Basic;
use http::request::Parts;
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::{
    CheckResult, USER, cache::Cache, credentials, htpasswd::PasswordHash, set_header, unauthorized,
};

/// How long a correct password is accepted without hashing it again.
const CACHE_TIME: Duration = Duration::from_secs(60);

/// Checks users and passwords against password hashes.
pub(super) struct BasicCheck {
    challenge: String,
    users: HashMap<String, PasswordHash>,
    /// One hash of each cost.
    costs: BTreeMap<String, PasswordHash>,
    cache: Cache<()>,
    /// Limits concurrent hashing, which is slow by design, to the number of CPUs.
    hashing: Arc<Semaphore>,
}

impl BasicCheck {
    pub(super) fn new(basic: &Basic) -> Result<Self> {
        let users = basic.users.iter().map(|(user, hash)| {
            let hash = PasswordHash::parse(&hash.0).with_context(|| format!("user {user}"))?;
            Ok((user.clone(), hash))
        });
        let users: HashMap<_, _> = users.collect::<Result<_>>()?;
        let costs = users.values().map(|hash| (hash.cost(), hash.clone()));
        let cpus = available_parallelism().map_or(1, usize::from);
        Ok(Self {
            challenge: challenge(&basic.realm),
            costs: costs.collect(),
            users,
            cache: Cache::new()?,
            hashing: Arc::new(Semaphore::new(cpus)),
        })
    }

    pub(super) async fn pass(&self, parts: &mut Parts) -> CheckResult {
        let Some((user, password)) = credentials::basic(&parts.headers) else {
            return Err(unauthorized(&self.challenge));
        };
        if !self.is_correct(&user, password).await {
            return Err(unauthorized(&self.challenge));
        }
        set_header(&mut parts.headers, &USER, &user);
        Ok(Vec::new())
    }

    /// The user of an `Authorization` header, if the password was correct lately.
    pub(super) fn known(&self, authorization: &[u8]) -> Option<String> {
        let (user, password) = credentials::basic_of(authorization)?;
        self.is_known(&user, &password).then_some(user)
    }

    fn is_known(&self, user: &str, password: &str) -> bool {
        let credential = [user.as_bytes(), password.as_bytes()];
        self.cache.get(&credential).is_some()
    }

    async fn is_correct(&self, user: &str, password: String) -> bool {
        if self.is_known(user, &password) {
            return true;
        }
        let Ok(permit) = self.hashing.clone().acquire_owned().await else {
            return false;
        };
        let (hashes, own) = self.hashes(user);
        let attempt = password.clone();
        let hashed = spawn_blocking(move || {
            let results: Vec<bool> = hashes.iter().map(|hash| hash.matches(&attempt)).collect();
            drop(permit);
            results
        });
        let results = hashed.await.unwrap_or_default();
        let is_correct = own.is_some_and(|own| results.get(own).is_some_and(|result| *result));
        if is_correct {
            let credential = [user.as_bytes(), password.as_bytes()];
            self.cache.insert(&credential, (), CACHE_TIME);
        }
        is_correct
    }

    /// The hashes to compute for a user, and which of them is the user's. There is one of each cost for
    /// every user, known or not, so that the time does not show which users exist.
    fn hashes(&self, user: &str) -> (Vec<PasswordHash>, Option<usize>) {
        let mut hashes: Vec<PasswordHash> = self.costs.values().cloned().collect();
        let own = self.users.get(user).and_then(|hash| {
            let place = self.costs.keys().position(|cost| *cost == hash.cost())?;
            hashes[place] = hash.clone();
            Some(place)
        });
        (hashes, own)
    }
}

/// The challenge for a user and a password. Realms contain no quotes.
pub(super) fn challenge(realm: &str) -> String {
    format!("Basic realm=\"{realm}\", charset=\"UTF-8\"")
}

#[cfg(test)]
mod tests {
    use headgate_model::edge::{Auth, Basic, Hidden};

    use super::super::{
        htpasswd::PasswordHash,
        tests::{authenticator, authorize, basic_header, request},
    };

    fn rule() -> Auth {
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
    async fn l60_auth_basic_accepts_users_with_their_password() {
        let guard = authenticator(rule());
        // The second request of `ada` is answered from the cache.
        for user in ["ada", "bob", "ada"] {
            let mut parts = request("/").header("authorization", basic_header(user, "secret"));
            let parts = authorize(&guard, &mut parts).await.unwrap();
            assert_eq!(parts.headers["x-auth-user"], user);
        }
        for (user, password) in [("ada", "wrong"), ("eve", "secret"), ("", ""), ("bob", "")] {
            let mut parts = request("/").header("authorization", basic_header(user, password));
            let denied = authorize(&guard, &mut parts).await.unwrap_err();
            assert_eq!(denied.status(), 401, "{user}");
        }
        let denied = authorize(&guard, &mut request("/")).await.unwrap_err();
        let challenge = "Basic realm=\"the shop\", charset=\"UTF-8\"";
        assert_eq!(denied.headers()["www-authenticate"], challenge);
    }

    /// As many hashes of each cost are computed for a user that does not exist.
    #[tokio::test]
    async fn l134_unknown_users_cost_as_much_time() {
        let Auth::Basic(rule) = rule() else {
            unreachable!()
        };
        let check = super::BasicCheck::new(&rule).unwrap();
        // Hashing has to wait for this permit.
        let permits = check.hashing.available_permits() as u32;
        let held = check
            .hashing
            .clone()
            .acquire_many_owned(permits)
            .await
            .unwrap();
        for user in ["ada", "bob", "eve"] {
            let checked = check.is_correct(user, "wrong".into());
            let checked = futures::poll!(std::pin::pin!(checked));
            assert!(checked.is_pending(), "{user}");
            let (hashes, own) = check.hashes(user);
            let costs: Vec<_> = hashes.iter().map(PasswordHash::cost).collect();
            assert_eq!(costs, ["$apr1$", "bcrypt 04"], "{user}");
            assert_eq!(own.is_some(), user != "eve", "{user}");
        }
        drop(held);
        // The result is awaited for unknown users, too: no hashing continues afterwards.
        for user in ["ada", "eve"] {
            assert!(!check.is_correct(user, "wrong".into()).await, "{user}");
            let available = check.hashing.available_permits();
            assert_eq!(available, permits as usize, "{user}");
        }
    }

    #[tokio::test]
    async fn l60_auth_basic_requires_exactly_one_header_of_its_scheme() {
        let guard = authenticator(rule());
        let right = basic_header("ada", "secret");
        let mut twice = request("/")
            .header("authorization", right.clone())
            .header("authorization", right.clone());
        authorize(&guard, &mut twice).await.unwrap_err();
        let other = right.replace("Basic", "Bearer");
        authorize(&guard, &mut request("/").header("authorization", other))
            .await
            .unwrap_err();
    }
}
