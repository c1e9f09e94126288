//! Verification keys of JSON Web Tokens (RFC 7515, RFC 7517).

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use headgate_model::edge::JwtKeys;
use jsonwebtoken::{
    DecodingKey, Header, Validation, decode, decode_header,
    jwk::{AlgorithmParameters, Jwk, JwkSet, PublicKeyUse},
};
use serde_json::Value;
use tokio::{
    sync::{Mutex, MutexGuard},
    time::Instant,
};
use tracing::warn;

use crate::{fetch::Fetch, reach::Reach};

/// How long a fetched key set is used before it is fetched again.
const FRESH: Duration = Duration::from_secs(600);
/// How long a key set is used if it cannot be fetched again.
const STALE: Duration = Duration::from_secs(3600);
/// The shortest time between two fetches: clients can send unknown key ids at any rate.
const MIN_INTERVAL: Duration = Duration::from_secs(10);

/// The keys that may have signed a token.
pub(super) enum Keys {
    One(DecodingKey),
    Set(Box<KeySet>),
}

impl Keys {
    /// # Errors
    ///
    /// Fails if the public key or an authority of the server is malformed.
    pub(super) fn new(keys: &JwtKeys, reach: &Reach) -> Result<Self> {
        Ok(match keys {
            JwtKeys::Shared(secret) => Self::One(DecodingKey::from_secret(&secret.0)),
            JwtKeys::Public(pem) => Self::One(public_key(pem)?),
            JwtKeys::Url(server) => {
                let fetch = Fetch::new(server.authorities.as_deref(), reach)?;
                Self::Set(KeySet::new(server.url.clone(), fetch).into())
            }
        })
    }

    /// The claims of a token, or `None` if none of the keys has signed it.
    ///
    /// # Errors
    ///
    /// Fails if the key set cannot be fetched and none is cached.
    pub(super) async fn verify(&self, token: &str) -> Result<Option<Value>> {
        let Ok(header) = decode_header(token) else {
            return Ok(None);
        };
        // No critical extension is supported (RFC 7515, 4.1.11).
        if header.crit.is_some() {
            return Ok(None);
        }
        match self {
            Self::One(key) => Ok(verified(token, key)),
            Self::Set(set) => set.verify(token, &header).await,
        }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Keys")
    }
}

fn public_key(pem: &[u8]) -> Result<DecodingKey> {
    let kinds = [
        DecodingKey::from_rsa_pem,
        DecodingKey::from_ec_pem,
        DecodingKey::from_ed_pem,
    ];
    let key = kinds.iter().find_map(|kind| kind(pem).ok());
    key.context("public.pem is not an RSA, EC or Ed25519 public key")
}

/// Accepts only algorithms of the key's family, so that a public key is never used as an HMAC secret.
fn verified(token: &str, key: &DecodingKey) -> Option<Value> {
    let mut rules = Validation::new_for_family(key.family());
    // `claims::check` validates the claims, for tokens of every format.
    rules.required_spec_claims.clear();
    rules.validate_exp = false;
    rules.validate_aud = false;
    decode(token, key, &rules).ok().map(|data| data.claims)
}

/// A key set at a URL, cached.
pub(super) struct KeySet {
    url: String,
    fetch: Fetch,
    cached: RwLock<Option<(Instant, Arc<JwkSet>)>>,
    /// The time of the last fetch. Held during a fetch, so that there is one at a time.
    last_fetch: Mutex<Option<Instant>>,
}

impl KeySet {
    pub(super) fn new(url: String, fetch: Fetch) -> Self {
        Self {
            url,
            fetch,
            cached: RwLock::default(),
            last_fetch: Mutex::default(),
        }
    }

    async fn verify(&self, token: &str, header: &Header) -> Result<Option<Value>> {
        let set = self.keys(header.kid.as_deref()).await?;
        let mut keys = set.keys.iter().filter(|key| fits(key, header));
        Ok(keys.find_map(|key| verified(token, &DecodingKey::from_jwk(key).ok()?)))
    }

    /// The key set, fetched again if it is old or lacks the key.
    async fn keys(&self, kid: Option<&str>) -> Result<Arc<JwkSet>> {
        let has = |set: &JwkSet| kid.is_none_or(|kid| set.find(kid).is_some());
        match self.cached() {
            Some((age, set)) if has(&set) && age < FRESH => return Ok(set),
            Some((age, set)) if has(&set) && age < STALE => {
                // One request fetches the set, the others use the cached one.
                if let Ok(last) = self.last_fetch.try_lock() {
                    self.refresh(last).await;
                }
                return Ok(self.cached().map_or(set, |(_, set)| set));
            }
            _ => self.refresh(self.last_fetch.lock().await).await,
        }
        match self.cached() {
            Some((age, set)) if age < STALE => Ok(set),
            _ => bail!("no key set from {}", self.url),
        }
    }

    fn cached(&self) -> Option<(Duration, Arc<JwkSet>)> {
        let cached = self.cached.read().unwrap_or_else(PoisonError::into_inner);
        let (since, set) = cached.as_ref()?;
        Some((since.elapsed(), set.clone()))
    }

    async fn refresh(&self, mut last_fetch: MutexGuard<'_, Option<Instant>>) {
        if last_fetch.is_some_and(|last| last.elapsed() < MIN_INTERVAL) {
            return;
        }
        *last_fetch = Some(Instant::now());
        match self.fetch_set().await {
            Ok(set) => {
                let mut cached = self.cached.write().unwrap_or_else(PoisonError::into_inner);
                *cached = Some((Instant::now(), Arc::new(set)));
            }
            Err(error) => warn!("key set cannot be fetched: {error:#}"),
        }
    }

    async fn fetch_set(&self) -> Result<JwkSet> {
        let answer = self.fetch.get(&self.url).await?;
        serde_json::from_value(answer)
            .with_context(|| format!("{} did not send a key set", self.url))
    }
}

/// Whether a key may have signed a token. Shared secrets in a public key set are ignored.
fn fits(key: &Jwk, header: &Header) -> bool {
    let common = &key.common;
    let is_named = header.kid.is_none() || common.key_id == header.kid;
    let is_for_signatures = !matches!(common.public_key_use, Some(PublicKeyUse::Encryption));
    let algorithm = common
        .key_algorithm
        .map(|algorithm| format!("{algorithm:?}"));
    let is_same = algorithm.is_none_or(|algorithm| algorithm == format!("{:?}", header.alg));
    let is_shared = matches!(key.algorithm, AlgorithmParameters::OctetKey(_));
    is_named && is_for_signatures && is_same && !is_shared
}
