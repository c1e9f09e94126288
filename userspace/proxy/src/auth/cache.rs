//! What was proven lately.

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

/// Proofs that are remembered.
const MAX_ENTRIES: usize = 1 << 14;

/// Hashes with a key that nobody knows: neither memory nor the time of a look-up tells anything
/// about what is hashed.
pub(super) struct SecretHash(hmac::Key);

impl SecretHash {
    pub(super) fn new() -> Result<Self> {
        let key = hmac::Key::generate(HMAC_SHA256, &SystemRandom::new());
        Ok(Self(key.map_err(|_unspecified| {
            anyhow!("there are no random numbers")
        })?))
    }

    /// The length of each part goes before it: no two proofs are the same text.
    pub(super) fn of(&self, proof: &[&[u8]]) -> Vec<u8> {
        let mut context = hmac::Context::with_key(&self.0);
        for part in proof {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        context.sign().as_ref().to_vec()
    }
}

/// What came of proofs, which are not kept themselves.
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

    pub(super) fn get(&self, proof: &[&[u8]]) -> Option<T> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let (until, known) = entries.get(&self.hash.of(proof))?;
        (Instant::now() < *until).then(|| known.clone())
    }

    pub(super) fn insert(&self, proof: &[&[u8]], known: T, time: Duration) {
        let (hash, now) = (self.hash.of(proof), Instant::now());
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= MAX_ENTRIES {
            entries.retain(|_, (until, _)| now < *until);
        }
        if entries.len() < MAX_ENTRIES {
            entries.insert(hash, (now + time, known));
        }
    }
}
