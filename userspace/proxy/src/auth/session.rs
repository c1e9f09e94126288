//! Cookies that only we can read and make.

use anyhow::{Result, anyhow};
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
    rand,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, header};
use serde::{Serialize, de::DeserializeOwned};

use crate::message::cookie;

/// Longest cookie that browsers keep, with its name and attributes (RFC 6265, 6.1).
const MAX_COOKIE: usize = 4000;
/// Browsers take the prefix only for cookies of one host, over HTTPS (RFC 6265bis, 4.1.3.2).
const ATTRIBUTES: &str = "Path=/; Secure; HttpOnly; SameSite=Lax";

/// Encrypts and authenticates cookies.
pub(super) struct Seal(LessSafeKey);

impl Seal {
    /// `purpose` keeps apart what has the same secret.
    pub(super) fn new(secret: &[u8], purpose: &[&str]) -> Result<Self> {
        let purpose = purpose.join("\n");
        let extracted = Salt::new(HKDF_SHA256, b"headgate cookies").extract(secret);
        let info = [purpose.as_bytes()];
        let key = extracted.expand(&info, &AES_256_GCM).map(UnboundKey::from);
        let key = key.map_err(|_unspecified| anyhow!("no key can be derived"))?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// A `Set-Cookie`; `None` if browsers would not keep it.
    pub(super) fn cookie(&self, name: &str, value: &impl Serialize) -> Option<HeaderValue> {
        let mut sealed = serde_json::to_vec(value).ok()?;
        let nonce = random::<NONCE_LEN>().ok()?;
        let tag = self.0.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            // One cookie is never taken for another.
            Aad::from(name.as_bytes()),
            &mut sealed,
        );
        let all = [&nonce, &*sealed, tag.ok()?.as_ref()].concat();
        let text = format!("{name}={}; {ATTRIBUTES}", URL_SAFE_NO_PAD.encode(all));
        if text.len() > MAX_COOKIE {
            return None;
        }
        HeaderValue::try_from(text).ok()
    }

    /// What a cookie of a request holds, if we made it.
    pub(super) fn open<T: DeserializeOwned>(&self, headers: &HeaderMap, name: &str) -> Option<T> {
        let mut sealed = URL_SAFE_NO_PAD.decode(cookie(headers, name)?).ok()?;
        let (nonce, sealed) = sealed.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let opened = self
            .0
            .open_in_place(nonce, Aad::from(name.as_bytes()), sealed);
        serde_json::from_slice(opened.ok()?).ok()
    }
}

/// A `Set-Cookie` that ends a cookie.
pub(super) fn ended(name: &str) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("{name}=; Max-Age=0; {ATTRIBUTES}")).ok()
}

/// Takes cookies from a request: what backends do not have, they cannot lose.
pub(super) fn take(headers: &mut HeaderMap, names: &[&str]) {
    let fields = headers.get_all(header::COOKIE).iter();
    let texts = fields.filter_map(|value| value.to_str().ok());
    let pairs = texts.flat_map(|text| text.split(';')).map(str::trim);
    let is_ours = |pair: &str| {
        pair.split('=')
            .next()
            .is_some_and(|name| names.contains(&name))
    };
    let kept: Vec<&str> = pairs
        .filter(|pair| !pair.is_empty() && !is_ours(pair))
        .collect();
    let kept = (!kept.is_empty()).then(|| HeaderValue::try_from(kept.join("; ")));
    headers.remove(header::COOKIE);
    if let Some(Ok(kept)) = kept {
        headers.insert(header::COOKIE, kept);
    }
}

/// Numbers that nobody can guess.
pub(super) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let filled = rand::fill(&mut bytes);
    filled.map_err(|_unspecified| anyhow!("there are no random numbers"))?;
    Ok(bytes)
}

/// A text that nobody can guess.
pub(super) fn random_text() -> Result<String> {
    Ok(URL_SAFE_NO_PAD.encode(random::<32>()?))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, header};

    use super::{Seal, take};

    fn sent_back(cookie: &HeaderValue) -> HeaderMap {
        let text = cookie.to_str().unwrap();
        let (pair, _) = text.split_once(';').unwrap();
        HeaderMap::from_iter([(header::COOKIE, pair.parse().unwrap())])
    }

    #[test]
    fn l70_auth_cookies_are_nobodys_to_make_or_read() {
        let seal = Seal::new(b"secret", &["a"]).unwrap();
        let cookie = seal.cookie("name", &"value").unwrap();
        let text = cookie.to_str().unwrap();
        assert!(
            text.ends_with("; Path=/; Secure; HttpOnly; SameSite=Lax"),
            "{text}"
        );
        assert!(!text.contains("value"));
        let headers = sent_back(&cookie);
        assert_eq!(seal.open::<String>(&headers, "name").unwrap(), "value");
        for (secret, purpose) in [("secret", "b"), ("other", "a")] {
            let other = Seal::new(secret.as_bytes(), &[purpose]).unwrap();
            assert_eq!(other.open::<String>(&headers, "name"), None);
        }
        let renamed = text.replace("name=", "other=");
        let renamed = sent_back(&renamed.parse().unwrap());
        assert_eq!(
            seal.open::<String>(&renamed, "other"),
            None,
            "a cookie for something else"
        );
        for changed in [
            text.replacen("=", "=A", 1),
            "name=; ".into(),
            "name=AAAA; ".into(),
        ] {
            let changed = sent_back(&changed.parse().unwrap());
            assert_eq!(seal.open::<String>(&changed, "name"), None);
        }
        assert!(
            seal.cookie("name", &"x".repeat(4000)).is_none(),
            "no browser keeps it"
        );
    }

    #[test]
    fn l70_auth_cookies_of_ours_are_taken_from_requests() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, "a=1; ours=2; b=3".parse().unwrap());
        headers.append(header::COOKIE, "ours=4".parse().unwrap());
        take(&mut headers, &["ours"]);
        assert_eq!(headers[header::COOKIE], "a=1; b=3");
        take(&mut headers, &["a", "b"]);
        assert!(headers.is_empty());
    }
}
