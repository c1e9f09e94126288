//! Password hashes as written by `htpasswd` and `mkpasswd`.

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{SHA1_FOR_LEGACY_USE_ONLY, digest},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use md5::{Digest, Md5};
use sha_crypt::{PasswordVerifier, ShaCrypt};

const APR1: &str = "$apr1$";
const SHA1: &str = "{SHA}";
/// Rounds of Apache's MD5 (`apr1`).
const APR1_ROUNDS: usize = 1000;
/// The base64 alphabet of `crypt`.
const DIGITS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A hash of a password.
#[derive(Clone)]
pub(super) enum PasswordHash {
    Bcrypt(String),
    Apr1 { salt: String, sum: String },
    Sha1(Vec<u8>),
    ShaCrypt(String),
}

impl PasswordHash {
    /// Parses a hash of bcrypt, apr1, SHA-1 or SHA-crypt.
    ///
    /// # Errors
    ///
    /// Fails if the hash is malformed or of another kind.
    pub(super) fn parse(text: &[u8]) -> Result<Self> {
        let text = str::from_utf8(text).context("the hash is not UTF-8")?;
        let starts = |all: &[&str]| all.iter().any(|start| text.starts_with(start));
        if starts(&["$2y$", "$2a$", "$2b$"]) {
            text.parse::<bcrypt::HashParts>()
                .context("the bcrypt hash is malformed")?;
            return Ok(Self::Bcrypt(text.into()));
        }
        if let Some(rest) = text.strip_prefix(APR1) {
            let (salt, sum) = rest.split_once('$').context("the apr1 hash has no salt")?;
            ensure!(sum.len() == 22, "the apr1 hash does not have 22 characters");
            let (salt, sum) = (salt.into(), sum.into());
            return Ok(Self::Apr1 { salt, sum });
        }
        if let Some(sum) = text.strip_prefix(SHA1) {
            let sum = STANDARD
                .decode(sum)
                .context("the SHA-1 hash is not base64")?;
            return Ok(Self::Sha1(sum));
        }
        if starts(&["$5$", "$6$"]) {
            sha_crypt::PasswordHash::new(text).map_err(|error| anyhow::anyhow!("{error}"))?;
            return Ok(Self::ShaCrypt(text.into()));
        }
        bail!("the hash is not bcrypt, apr1, SHA-1 or SHA-crypt")
    }

    /// Returns what the time of [`PasswordHash::matches`] depends on: the kind, and its cost or rounds.
    pub(super) fn cost(&self) -> String {
        match self {
            Self::Bcrypt(hash) => format!("bcrypt {}", hash.get(4..6).unwrap_or_default()),
            Self::Apr1 { .. } => APR1.into(),
            Self::Sha1(_) => SHA1.into(),
            // What is before the salt: `$5$` or `$6$`, perhaps with rounds.
            Self::ShaCrypt(hash) => hash.rsplitn(3, '$').last().unwrap_or_default().into(),
        }
    }

    /// Whether the password has this hash. Slow by design.
    pub(super) fn matches(&self, password: &str) -> bool {
        match self {
            Self::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            Self::Apr1 { salt, sum } => {
                let computed = apr1(password.as_bytes(), salt.as_bytes());
                verify_slices_are_equal(computed.as_bytes(), sum.as_bytes()).is_ok()
            }
            Self::Sha1(sum) => {
                let computed = digest(&SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes());
                verify_slices_are_equal(computed.as_ref(), sum).is_ok()
            }
            Self::ShaCrypt(hash) => {
                let hasher = ShaCrypt::default();
                hasher
                    .verify_password(password.as_bytes(), hash.as_str())
                    .is_ok()
            }
        }
    }
}

/// Apache's MD5 crypt (`apr_md5_encode`): hashes password and salt 1000 times, in an order that depends
/// on the length of the password and the number of the round.
fn apr1(password: &[u8], salt: &[u8]) -> String {
    let salt = salt.get(..8).unwrap_or(salt);
    let mut sum = md5(&[password, salt, password]);
    let mut first = Md5::new();
    first.update(password);
    first.update(APR1);
    first.update(salt);
    for chunk in password.chunks(sum.len()) {
        first.update(sum.get(..chunk.len()).unwrap_or_default());
    }
    let mut length = password.len();
    while length > 0 {
        match length % 2 {
            1 => first.update([0]),
            _ => first.update(password.get(..1).unwrap_or_default()),
        }
        length /= 2;
    }
    sum = first.finalize().into();
    for round in 0..APR1_ROUNDS {
        let (front, back): (&[u8], &[u8]) = match round % 2 {
            1 => (password, &sum),
            _ => (&sum, password),
        };
        let salt = if round % 3 == 0 { &[] } else { salt };
        let middle = if round % 7 == 0 { &[] } else { password };
        sum = md5(&[front, salt, middle, back]);
    }
    encoded(&sum)
}

fn md5(parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Md5::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// Encodes three bytes at a time, lowest digit first, in the byte order of `crypt`.
fn encoded(sum: &[u8; 16]) -> String {
    const ORDER: [[usize; 3]; 5] = [[0, 6, 12], [1, 7, 13], [2, 8, 14], [3, 9, 15], [4, 10, 5]];
    let mut out = String::new();
    let mut push = |mut bits: u32, digits: usize| {
        for _ in 0..digits {
            out.push(char::from(DIGITS[(bits % 64) as usize]));
            bits /= 64;
        }
    };
    for [high, middle, low] in ORDER {
        let bytes = [0, sum[high], sum[middle], sum[low]];
        push(u32::from_be_bytes(bytes), 4);
    }
    push(sum[11].into(), 2);
    out
}

#[cfg(test)]
mod tests {
    use super::PasswordHash;

    /// Hashes of the password `secret`, made by `openssl passwd` and `crypt`.
    const HASHES: [&str; 5] = [
        "$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/",
        "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
        "$5$abcdefgh$gruCpC7VkOTspMQTTSAR8mtlO9Upms.fwqE5y16JVM.",
        "$6$abcdefgh$ltjgWl6579NluT/Vi1nwEvcil.G5Nbc4NiXZaNGStk8PSwGfQv72N2CKPPrVACtLtip/cZ/1GM/O6IND4WQhG.",
        "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW",
    ];

    #[test]
    fn l60_auth_hashes_of_every_kind_match_only_their_password() {
        for text in HASHES {
            let hash = PasswordHash::parse(text.as_bytes()).unwrap();
            assert!(hash.matches("secret"), "{text}");
            for other in ["", "Secret", "secret ", "secre"] {
                assert!(!hash.matches(other), "{text}: `{other}`");
            }
        }
        let costs = HASHES.map(|text| PasswordHash::parse(text.as_bytes()).unwrap().cost());
        assert_eq!(costs, ["$apr1$", "{SHA}", "$5", "$6", "bcrypt 04"]);
        let rounds = "$5$rounds=9999$abcdefgh$gruCpC7VkOTspMQTTSAR8mtlO9Upms.fwqE5y16JVM.";
        let rounds = PasswordHash::parse(rounds.as_bytes()).unwrap();
        assert_eq!(rounds.cost(), "$5$rounds=9999");
        let long = "$apr1$abcdefgh$9wNjZP6hfPqE9ZxqFGA2A/";
        let long = PasswordHash::parse(long.as_bytes()).unwrap();
        assert!(long.matches("a longer password of many characters"));
        for text in [
            "",
            "secret",
            "{PLAIN}secret",
            "$1$a$b",
            "$2y$05$short",
            "$apr1$a",
            "$6$",
        ] {
            assert!(PasswordHash::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
