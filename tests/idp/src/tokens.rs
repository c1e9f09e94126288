//! What it signs.

use std::{
    sync::atomic::Ordering,
    time::{SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use rcgen::KeyPair;
use serde_json::json;

use crate::{CLIENT, Fault, Idp, USER};

/// A key with a name.
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

/// Who logged in (OpenID Connect Core, 2).
pub(crate) fn id_token(idp: &Idp, nonce: Option<&str>) -> String {
    let or = |fault, wrong: &'static str, right: &str| match idp.has(fault) {
        true => wrong.to_owned(),
        false => right.to_owned(),
    };
    let life = match idp.has(Fault::Expired) {
        true => -3600,
        false => idp.0.life.load(Ordering::SeqCst),
    };
    let claims = json!({
        "iss": or(Fault::Issuer, "https://elsewhere.example", idp.issuer()),
        "aud": or(Fault::Audience, "another", CLIENT),
        "sub": USER,
        "nonce": nonce.map(|nonce| or(Fault::Nonce, "another", nonce)),
        "iat": now(),
        "exp": now() + life,
    });
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some("first".into());
    let (key, _) = &idp.0.keys[usize::from(idp.has(Fault::Key))];
    encode(&header, &claims, key).unwrap()
}
