//! What ties a client to an endpoint: hashes of requests, and cookies.

use std::{collections::HashMap, hash::Hasher, net::SocketAddr, sync::Arc};

use headgate_model::ingress::{HashBy, Sticky};
use http::{HeaderMap, HeaderValue, header::HOST};
use siphasher::sip::SipHasher13;

use super::{Ask, endpoint::Endpoint};
use crate::message::cookie;

/// The keys are constants as every node and every version hashes alike.
fn hasher() -> SipHasher13 {
    SipHasher13::new_with_keys(0x6865_6164_6761_7465, 0x7570_7374_7265_616d)
}

/// The hash of what a request has, `None` if it does not have it.
pub(super) fn hash(by: &HashBy, ask: &Ask<'_>) -> Option<u64> {
    match by {
        HashBy::Source => Some(of_address(ask)),
        HashBy::Header(name) => of_texts(
            ask.headers
                .get_all(name)
                .into_iter()
                .map(HeaderValue::as_bytes),
        ),
        HashBy::Cookie(name) => of_texts(cookie(ask.headers, name).map(str::as_bytes)),
        HashBy::Query(name) => {
            let query = ask.uri.query().unwrap_or_default();
            let named = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == name);
            of_texts(named.map(|(_, value)| value.into_owned()))
        }
        HashBy::Uri => of_texts(ask.uri.path_and_query().map(|uri| uri.as_str())),
        HashBy::Host => {
            let header = || ask.headers.get(HOST).map(HeaderValue::as_bytes);
            of_texts(ask.uri.host().map(str::as_bytes).or_else(header))
        }
    }
}

fn of_address(ask: &Ask<'_>) -> u64 {
    let mut hasher = hasher();
    match ask.client.to_canonical() {
        std::net::IpAddr::V4(address) => hasher.write(&address.octets()),
        std::net::IpAddr::V6(address) => hasher.write(&address.octets()),
    }
    hasher.finish()
}

fn of_texts(texts: impl IntoIterator<Item: AsRef<[u8]>>) -> Option<u64> {
    let mut texts = texts.into_iter().peekable();
    texts.peek()?;
    let mut hasher = hasher();
    for text in texts {
        hasher.write(text.as_ref());
        hasher.write_u8(0);
    }
    Some(hasher.finish())
}

/// Which endpoint a cookie names, and which cookie an endpoint has.
#[derive(Debug)]
pub(super) struct Cookies {
    name: String,
    endpoints: HashMap<String, Arc<Endpoint>>,
    cookies: HashMap<SocketAddr, HeaderValue>,
}

impl Cookies {
    /// Of all endpoints.
    pub(super) fn new(sticky: &Sticky, endpoints: &[Arc<Endpoint>]) -> Self {
        let Sticky { name, attributes } = sticky;
        let named = |endpoint: &Arc<Endpoint>| (value(endpoint.address), endpoint.clone());
        let header = |endpoint: &Arc<Endpoint>| {
            let address = endpoint.address;
            let text = format!("{name}={}{attributes}", value(address));
            Some((address, HeaderValue::from_str(&text).ok()?))
        };
        Self {
            name: name.clone(),
            endpoints: endpoints.iter().map(named).collect(),
            cookies: endpoints.iter().filter_map(header).collect(),
        }
    }

    /// The endpoint that a client was with.
    pub(super) fn endpoint(&self, headers: &HeaderMap) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(cookie(headers, &self.name)?)
    }

    /// What a client is told that is with an endpoint.
    pub(super) fn cookie(&self, endpoint: &Endpoint) -> Option<HeaderValue> {
        self.cookies.get(&endpoint.address).cloned()
    }
}

/// Does not show the endpoint's address to clients.
fn value(address: SocketAddr) -> String {
    let mut hasher = hasher();
    hasher.write(address.to_string().as_bytes());
    format!("{:016x}", hasher.finish())
}
