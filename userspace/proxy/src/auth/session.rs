//! Encrypted and authenticated cookies.

use anyhow::{Result, anyhow};
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
    rand,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, header};
use serde::{Serialize, de::DeserializeOwned};

use crate::message::{cookies, crumbs};

/// The longest `Set-Cookie`, in bytes: below the 4096 that browsers store (RFC 6265, 6.1).
const MAX_COOKIE: usize = 4000;
/// The attributes that the `__Host-` prefix requires, and more (RFC 6265bis, 4.1.3.2).
const ATTRIBUTES: &str = "Path=/; Secure; HttpOnly; SameSite=Lax";

/// Encrypts cookies with AES-256-GCM.
pub(super) struct CookieCipher(LessSafeKey);

impl CookieCipher {
    /// Derives the key from `secret` (HKDF, RFC 5869). `purpose` separates users of the same secret.
    ///
    /// # Errors
    ///
    /// Fails if no key can be derived.
    pub(super) fn new(secret: &[u8], purpose: &[&str]) -> Result<Self> {
        let purpose = purpose.join("\n");
        let extracted = Salt::new(HKDF_SHA256, b"headgate cookies").extract(secret);
        let info = [purpose.as_bytes()];
        let key = extracted.expand(&info, &AES_256_GCM).map(UnboundKey::from);
        let key = key.map_err(|_unspecified| anyhow!("no key can be derived"))?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// A `Set-Cookie` with an encrypted value; `None` if it is too long for browsers.
    pub(super) fn cookie(&self, name: &str, value: &impl Serialize) -> Option<HeaderValue> {
        let mut sealed = serde_json::to_vec(value).ok()?;
        let nonce = random::<NONCE_LEN>().ok()?;
        let tag = self.0.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            // The name is authenticated, so that one cookie cannot be used as another.
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

    /// The decrypted value of a request's cookie; `None` if no cookie of the name is authentic.
    pub(super) fn open<T: DeserializeOwned>(&self, headers: &HeaderMap, name: &str) -> Option<T> {
        cookies(headers, name).find_map(|text| self.opened(name, text))
    }

    fn opened<T: DeserializeOwned>(&self, name: &str, text: &str) -> Option<T> {
        let mut sealed = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (nonce, sealed) = sealed.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let opened = self
            .0
            .open_in_place(nonce, Aad::from(name.as_bytes()), sealed);
        serde_json::from_slice(opened.ok()?).ok()
    }
}

/// A `Set-Cookie` that deletes a cookie.
pub(super) fn expired(name: &str) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("{name}=; Max-Age=0; {ATTRIBUTES}")).ok()
}

/// Removes cookies from a request, so that backends do not see them.
pub(super) fn remove_cookies(headers: &mut HeaderMap, names: &[&str]) {
    let is_ours = |crumb: &&[u8]| {
        let name = crumb.split(|byte| *byte == b'=').next();
        name.is_some_and(|name| names.iter().any(|ours| ours.as_bytes() == name))
    };
    let kept: Vec<&[u8]> = crumbs(headers).filter(|crumb| !is_ours(crumb)).collect();
    let kept = (!kept.is_empty()).then(|| HeaderValue::from_bytes(&kept.join(&b"; "[..])));
    headers.remove(header::COOKIE);
    if let Some(Ok(kept)) = kept {
        headers.insert(header::COOKIE, kept);
    }
}

/// Bytes of the system's cryptographic random number generator.
///
/// # Errors
///
/// Fails if the generator does.
pub(super) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let filled = rand::fill(&mut bytes);
    filled.map_err(|_unspecified| anyhow!("the random number generator failed"))?;
    Ok(bytes)
}

/// 32 random bytes as text.
///
/// # Errors
///
/// Fails if the random number generator does.
pub(super) fn random_text() -> Result<String> {
    Ok(URL_SAFE_NO_PAD.encode(random::<32>()?))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, header};

    use super::{CookieCipher, remove_cookies};

    fn sent_back(cookie: &HeaderValue) -> HeaderMap {
        let text = cookie.to_str().unwrap();
        let (pair, _) = text.split_once(';').unwrap();
        HeaderMap::from_iter([(header::COOKIE, pair.parse().unwrap())])
    }

    #[test]
    fn l70_auth_cookies_cannot_be_read_or_forged() {
        let cipher = CookieCipher::new(b"secret", &["a"]).unwrap();
        let cookie = cipher.cookie("name", &"value").unwrap();
        let text = cookie.to_str().unwrap();
        assert!(
            text.ends_with("; Path=/; Secure; HttpOnly; SameSite=Lax"),
            "{text}"
        );
        assert!(!text.contains("value"));
        let headers = sent_back(&cookie);
        assert_eq!(cipher.open::<String>(&headers, "name").unwrap(), "value");
        let pair = headers[header::COOKIE].to_str().unwrap();
        let pairs = format!("name=AAAA; {pair}; name=x").parse().unwrap();
        let several = HeaderMap::from_iter([(header::COOKIE, pairs)]);
        assert_eq!(cipher.open::<String>(&several, "name").unwrap(), "value");
        for (secret, purpose) in [("secret", "b"), ("other", "a")] {
            let other = CookieCipher::new(secret.as_bytes(), &[purpose]).unwrap();
            assert_eq!(other.open::<String>(&headers, "name"), None);
        }
        let renamed = text.replace("name=", "other=");
        let renamed = sent_back(&renamed.parse().unwrap());
        assert_eq!(
            cipher.open::<String>(&renamed, "other"),
            None,
            "a cookie with another name"
        );
        for changed in [
            text.replacen("=", "=A", 1),
            "name=; ".into(),
            "name=AAAA; ".into(),
        ] {
            let changed = sent_back(&changed.parse().unwrap());
            assert_eq!(cipher.open::<String>(&changed, "name"), None);
        }
        assert!(
            cipher.cookie("name", &"x".repeat(4000)).is_none(),
            "too long for browsers"
        );
    }

    #[test]
    fn l70_auth_session_cookies_are_removed_from_requests() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, "a=1; ours=2; b=3".parse().unwrap());
        headers.append(header::COOKIE, "ours=4".parse().unwrap());
        let other = HeaderValue::from_bytes(b"c=\xff; ours=\xff").unwrap();
        headers.append(header::COOKIE, other);
        remove_cookies(&mut headers, &["ours"]);
        assert_eq!(headers[header::COOKIE].as_bytes(), b"a=1; b=3; c=\xff");
        remove_cookies(&mut headers, &["a", "b", "c"]);
        assert!(headers.is_empty());
    }
}
