//! Session affinity: request hashes and sticky cookies.

use std::{collections::HashMap, hash::Hasher, net::SocketAddr, sync::Arc};

use aws_lc_rs::hmac::{self, HMAC_SHA256, Key};
use headgate_model::edge::{Balance, HashBy, Sticky, UpstreamPolicy};
use http::{HeaderMap, HeaderValue};
use siphasher::sip::SipHasher13;

use super::{PickInput, endpoint::Endpoint};
use crate::message::{cookie, cookies};

/// A hasher with constant keys, so that every node and every version computes the same hashes.
fn hasher() -> SipHasher13 {
    SipHasher13::new_with_keys(0x6865_6164_6761_7465, 0x7570_7374_7265_616d)
}

/// Whether the endpoint of a request depends on its headers.
pub(super) fn reads_headers(policy: &UpstreamPolicy) -> bool {
    policy.sticky.is_some() || matches!(&policy.balance, Balance::Hash(by) if by.reads_headers())
}

/// Hashes the part of a request that `by` names. `None` if the request lacks it.
pub(super) fn hash(by: &HashBy, input: &PickInput<'_>) -> Option<u64> {
    match by {
        HashBy::Source => Some(hash_client(input)),
        HashBy::Header(name) => {
            let values = input.headers.get_all(name).into_iter();
            hash_texts(values.map(HeaderValue::as_bytes))
        }
        HashBy::Cookie(name) => hash_texts(cookie(input.headers, name).map(str::as_bytes)),
        HashBy::Query(name) => {
            let query = input.query.unwrap_or_default();
            let named = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == name);
            hash_texts(named.map(|(_, value)| value.into_owned()))
        }
        HashBy::Uri => hash_texts([&*input.path, input.query.unwrap_or_default()]),
        HashBy::Path => hash_texts([&*input.path]),
        HashBy::Args => hash_texts(input.query),
        HashBy::Host => hash_texts(Some(input.host).filter(|host| !host.is_empty())),
        HashBy::Several(all) => {
            let parts: Vec<_> = all.iter().map(|by| hash(by, input)).collect();
            parts.iter().find(|part| part.is_some())?;
            let texts = parts
                .iter()
                .map(|part| part.unwrap_or_default().to_be_bytes());
            hash_texts(texts)
        }
    }
}

fn hash_client(input: &PickInput<'_>) -> u64 {
    let mut hasher = hasher();
    match input.client.to_canonical() {
        std::net::IpAddr::V4(address) => hasher.write(&address.octets()),
        std::net::IpAddr::V6(address) => hasher.write(&address.octets()),
    }
    hasher.finish()
}

fn hash_texts(texts: impl IntoIterator<Item: AsRef<[u8]>>) -> Option<u64> {
    let mut texts = texts.into_iter().peekable();
    texts.peek()?;
    let mut hasher = hasher();
    for text in texts {
        hasher.write(text.as_ref());
        hasher.write_u8(0);
    }
    Some(hasher.finish())
}

/// The sticky cookies of an upstream: endpoint by cookie value, and `Set-Cookie` by endpoint.
#[derive(Debug)]
pub(super) struct Cookies {
    name: String,
    endpoints: HashMap<String, Arc<Endpoint>>,
    cookies: HashMap<SocketAddr, HeaderValue>,
}

impl Cookies {
    /// One cookie for each endpoint.
    pub(super) fn new(sticky: &Sticky, endpoints: &[Arc<Endpoint>]) -> Self {
        let Sticky {
            name,
            path,
            attributes,
            secret,
        } = sticky;
        let key = Key::new(HMAC_SHA256, secret.as_bytes());
        let by_value =
            |endpoint: &Arc<Endpoint>| (cookie_value(&key, endpoint.address), endpoint.clone());
        let header = |endpoint: &Arc<Endpoint>| {
            let address = endpoint.address;
            let value = cookie_value(&key, address);
            let text = format!("{name}={value}; Path={path}{attributes}");
            Some((address, HeaderValue::from_str(&text).ok()?))
        };
        Self {
            name: name.clone(),
            endpoints: endpoints.iter().map(by_value).collect(),
            cookies: endpoints.iter().filter_map(header).collect(),
        }
    }

    /// The endpoint that a cookie of the request names. One that names none may be of an endpoint that is
    /// gone, or of another site.
    pub(super) fn endpoint(&self, headers: &HeaderMap) -> Option<&Arc<Endpoint>> {
        cookies(headers, &self.name).find_map(|value| self.endpoints.get(value))
    }

    /// The `Set-Cookie` value that pins a client to an endpoint.
    pub(super) fn cookie(&self, endpoint: &Endpoint) -> Option<HeaderValue> {
        self.cookies.get(&endpoint.address).cloned()
    }
}

/// The same for an endpoint on every node. Without the key an address cannot be found for it.
fn cookie_value(key: &Key, address: SocketAddr) -> String {
    let tag = hmac::sign(key, address.to_string().as_bytes());
    tag.as_ref()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
