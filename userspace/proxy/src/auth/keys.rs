//! What signatures of JSON Web Tokens are checked with (RFC 7515, RFC 7517).

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use headgate_model::ingress::JwtKeys;
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

use crate::fetch::Fetch;

/// How long a set of keys is believed without a look at it.
const FRESH: Duration = Duration::from_secs(600);
/// How long one is believed whose address does not answer any more.
const STALE: Duration = Duration::from_secs(3600);
/// How long to wait between two looks: unknown keys are easily made up.
const PAUSE: Duration = Duration::from_secs(10);

/// Keys.
pub(super) enum Keys {
    One(DecodingKey),
    Set(Box<KeySet>),
}

impl Keys {
    pub(super) fn new(keys: &JwtKeys) -> Result<Self> {
        Ok(match keys {
            JwtKeys::Shared(secret) => Self::One(DecodingKey::from_secret(&secret.0)),
            JwtKeys::Public(pem) => Self::One(public_key(pem)?),
            JwtKeys::Url(server) => {
                let fetch = Fetch::new(server.authorities.as_deref())?;
                Self::Set(KeySet::new(server.url.clone(), fetch).into())
            }
        })
    }

    /// What a token says, if it is signed with one of the keys. Fails if nobody knows the keys.
    pub(super) async fn open(&self, token: &str) -> Result<Option<Value>> {
        let Ok(header) = decode_header(token) else {
            return Ok(None);
        };
        // What must be understood is not (RFC 7515, 4.1.11).
        if header.crit.is_some() {
            return Ok(None);
        }
        match self {
            Self::One(key) => Ok(verified(token, key)),
            Self::Set(set) => set.open(token, &header).await,
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
    key.context("public.pem is no key of RSA, EC or Ed25519")
}

/// Only algorithms of the key's own kind are taken: no public key is ever a shared secret.
fn verified(token: &str, key: &DecodingKey) -> Option<Value> {
    let mut rules = Validation::new_for_family(key.family());
    // What is said is looked at once, for tokens of every kind.
    rules.required_spec_claims.clear();
    rules.validate_exp = false;
    rules.validate_aud = false;
    decode(token, key, &rules).ok().map(|data| data.claims)
}

/// A set of keys at an address.
pub(super) struct KeySet {
    url: String,
    fetch: Fetch,
    known: RwLock<Option<(Instant, Arc<JwkSet>)>>,
    /// When somebody looked last; whoever looks holds it.
    turn: Mutex<Option<Instant>>,
}

impl KeySet {
    pub(super) fn new(url: String, fetch: Fetch) -> Self {
        Self {
            url,
            fetch,
            known: RwLock::default(),
            turn: Mutex::default(),
        }
    }

    async fn open(&self, token: &str, header: &Header) -> Result<Option<Value>> {
        let set = self.keys(header.kid.as_deref()).await?;
        let mut keys = set.keys.iter().filter(|key| fits(key, header));
        Ok(keys.find_map(|key| verified(token, &DecodingKey::from_jwk(key).ok()?)))
    }

    /// The set, looked at again if it is old or has no such key.
    async fn keys(&self, kid: Option<&str>) -> Result<Arc<JwkSet>> {
        let has = |set: &JwkSet| kid.is_none_or(|kid| set.find(kid).is_some());
        match self.known() {
            Some((age, set)) if has(&set) && age < FRESH => return Ok(set),
            Some((age, set)) if has(&set) && age < STALE => {
                // One looks, the others go on.
                if let Ok(turn) = self.turn.try_lock() {
                    self.look(turn).await;
                }
                return Ok(self.known().map_or(set, |(_, set)| set));
            }
            _ => self.look(self.turn.lock().await).await,
        }
        match self.known() {
            Some((age, set)) if age < STALE => Ok(set),
            _ => bail!("no keys are known of {}", self.url),
        }
    }

    fn known(&self) -> Option<(Duration, Arc<JwkSet>)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let (since, set) = known.as_ref()?;
        Some((since.elapsed(), set.clone()))
    }

    async fn look(&self, mut turn: MutexGuard<'_, Option<Instant>>) {
        if turn.is_some_and(|last| last.elapsed() < PAUSE) {
            return;
        }
        *turn = Some(Instant::now());
        match self.fetched().await {
            Ok(set) => {
                let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
                *known = Some((Instant::now(), Arc::new(set)));
            }
            Err(error) => warn!("keys could not be read: {error:#}"),
        }
    }

    async fn fetched(&self) -> Result<JwkSet> {
        let answer = self.fetch.get(&self.url).await?;
        serde_json::from_value(answer).with_context(|| format!("{} has no set of keys", self.url))
    }
}

/// Whether a key may have signed a token. One that anybody can read is no shared secret.
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
