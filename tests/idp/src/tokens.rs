//! Keys and id tokens of the provider.

use std::{
    sync::atomic::Ordering,
    time::{SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use rcgen::KeyPair;
use serde_json::json;

use crate::{CLIENT, Fault, Idp, USER};

/// A new signing key with this key id.
pub(crate) fn key(name: &str) -> (EncodingKey, Jwk) {
    let pair = KeyPair::generate().unwrap();
    let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
    let mut public = Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
    public.common.key_id = Some(name.into());
    (key, public)
}

pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_secs() as i64
}

/// An id token (OpenID Connect Core, 2) with the current fault.
pub(crate) fn id_token(idp: &Idp, nonce: Option<&str>) -> String {
    let or = |fault, wrong: &'static str, right: &str| match idp.has(fault) {
        true => wrong.to_owned(),
        false => right.to_owned(),
    };
    let lifetime_s = match idp.has(Fault::Expired) {
        true => -3600,
        false => idp.0.lifetime_s.load(Ordering::SeqCst),
    };
    let claims = json!({
        "iss": or(Fault::Issuer, "https://elsewhere.example", idp.issuer()),
        "aud": or(Fault::Audience, "another", CLIENT),
        "sub": USER,
        "nonce": nonce.map(|nonce| or(Fault::Nonce, "another", nonce)),
        "iat": now(),
        "exp": now() + lifetime_s,
    });
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some("first".into());
    let (key, _) = &idp.0.keys[usize::from(idp.has(Fault::Key))];
    encode(&header, &claims, key).unwrap()
}
