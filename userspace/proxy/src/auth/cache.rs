//! A cache of successful checks.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use aws_lc_rs::{
    hmac::{self, HMAC_SHA256},
    rand::SystemRandom,
};

/// The most entries of a cache.
const MAX_ENTRIES: usize = 1 << 14;

/// HMAC with a random key: neither memory nor the time of a lookup reveals the hashed secrets.
pub(super) struct SecretHash(hmac::Key);

impl SecretHash {
    pub(super) fn new() -> Result<Self> {
        let key = hmac::Key::generate(HMAC_SHA256, &SystemRandom::new());
        Ok(Self(key.map_err(|_unspecified| {
            anyhow!("the random number generator failed")
        })?))
    }

    /// Hashes the parts of a credential. The length precedes each part, so that different parts never
    /// give the same input.
    pub(super) fn digest(&self, parts: &[&[u8]]) -> Vec<u8> {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        context.sign().as_ref().to_vec()
    }
}

/// Results by credential, with an expiry. Only hashes of the credentials are kept.
pub(super) struct Cache<T> {
    hash: SecretHash,
    entries: Mutex<HashMap<Vec<u8>, (Instant, T)>>,
}

impl<T: Clone> Cache<T> {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            hash: SecretHash::new()?,
            entries: Mutex::default(),
        })
    }

    pub(super) fn get(&self, credential: &[&[u8]]) -> Option<T> {
        let hash = self.hash.digest(credential);
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let (expiry, value) = entries.get(&hash)?;
        (Instant::now() < *expiry).then(|| value.clone())
    }

    pub(super) fn insert(&self, credential: &[&[u8]], value: T, lifetime: Duration) {
        let (hash, now) = (self.hash.digest(credential), Instant::now());
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= MAX_ENTRIES {
            entries.retain(|_, (expiry, _)| now < *expiry);
        }
        if entries.len() < MAX_ENTRIES {
            entries.insert(hash, (now + lifetime, value));
        }
    }
}
