//! Where a request comes from: the client, its scheme and the port that it connected to. A trusted proxy
//! may name them for its clients; redirects, cookies, limits, lists and logs all use these values.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use crate::{
    client::Client,
    fields::{elements, first},
};

pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub(crate) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The client of a trusted proxy that does not name it by an address. No list of networks has it but one
/// for all addresses.
const UNKNOWN: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The client's address; behind trusted proxies it is not the peer's.
    pub(crate) client: IpAddr,
    /// Whether the client used TLS, to this proxy or to a trusted one.
    pub(crate) is_secure: bool,
    /// The port that the client connected to.
    pub(crate) port: u16,
    /// Whether the peer is a trusted proxy.
    pub(crate) is_trusted: bool,
}

impl Origin {
    /// The origin of a request with these headers. `Forwarded` (RFC 7239) is not read.
    pub(crate) fn of(connection: &Client, headers: &HeaderMap, trusted: &[IpNet]) -> Self {
        if let Some(origin) = Self::of_untrusted(connection, trusted) {
            return origin;
        }
        let peer = connection.peer.ip();
        let port = connection.port();
        let is_secure = scheme(headers).unwrap_or(connection.is_secure);
        let named = first(headers, &FORWARDED_PORT).and_then(|port| port.parse().ok());
        let usual = match (is_secure == connection.is_secure, is_secure) {
            (true, _) => port,
            (false, true) => 443,
            (false, false) => 80,
        };
        Self {
            client: client(peer, headers, trusted),
            is_secure,
            port: named.unwrap_or(usual),
            is_trusted: true,
        }
    }

    /// The origin of all requests of a connection whose peer is no trusted proxy.
    pub(crate) fn of_untrusted(connection: &Client, trusted: &[IpNet]) -> Option<Self> {
        let peer = connection.peer.ip();
        (!contains(trusted, peer)).then(|| Self {
            client: peer,
            is_secure: connection.is_secure,
            port: connection.port(),
            is_trusted: false,
        })
    }

    /// The scheme that the client used.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.is_secure { "https" } else { "http" }
    }
}

fn contains(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

/// Whether the client used TLS, by `X-Forwarded-Proto`.
fn scheme(headers: &HeaderMap) -> Option<bool> {
    match first(headers, &FORWARDED_PROTO)?
        .to_ascii_lowercase()
        .as_str()
    {
        "https" | "wss" => Some(true),
        "http" | "ws" => Some(false),
        _ => None,
    }
}

/// Returns the last address in the chain of proxies that is not trusted, or the first if all are.
fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer;
    for element in elements(headers, &FORWARDED_FOR).rev() {
        client = address(element).unwrap_or(UNKNOWN);
        if !contains(trusted, client) {
            break;
        }
    }
    client
}

/// An address as proxies write it: with or without port, brackets and quotes. IPv4 addresses may be
/// written as IPv6 ones.
fn address(text: &str) -> Option<IpAddr> {
    let text = text
        .strip_prefix('"')
        .map_or(text, |text| text.trim_end_matches('"'));
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let plain = bare.unwrap_or(text).parse::<IpAddr>();
    let address = plain.or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::Origin;
    use crate::client::Client;

    /// The origin of a request from 10.0.0.1, a trusted proxy, to port 80.
    fn origin(lines: &[(&'static str, &str)]) -> Origin {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            headers.append(HeaderName::from_static(name), value);
        }
        let connection = Client::new(
            "10.0.0.1:1000".parse().unwrap(),
            "10.0.0.9:80".parse().unwrap(),
            false,
        );
        let trusted = [
            "10.0.0.0/8".parse().unwrap(),
            "2001:db8:1::/48".parse().unwrap(),
        ];
        Origin::of(&connection, &headers, &trusted)
    }

    #[test]
    fn l130_the_client_is_the_last_address_that_is_not_trusted() {
        for (lines, client) in [
            (&[][..], "10.0.0.1"),
            (&["192.0.2.1"], "192.0.2.1"),
            (&["192.0.2.9, 192.0.2.1"], "192.0.2.1"),
            (&["192.0.2.9, 192.0.2.1,10.2.3.4 , 10.0.0.2"], "192.0.2.1"),
            (&["10.2.3.4, 10.0.0.2"], "10.2.3.4"),
            // HAProxy adds a line.
            (&["6.6.6.6", "192.0.2.1"], "192.0.2.1"),
            (&["6.6.6.6", "192.0.2.1", "10.0.0.2"], "192.0.2.1"),
            (&["192.0.2.1", ""], "192.0.2.1"),
            (&["", " , "], "10.0.0.1"),
            // Azure Application Gateway adds a port.
            (&["192.0.2.1:51234"], "192.0.2.1"),
            (&["192.0.2.9, 192.0.2.1:51234, 10.0.0.2:80"], "192.0.2.1"),
            (&["[2001:db8::1]:51234"], "2001:db8::1"),
            (&["[2001:db8::1]"], "2001:db8::1"),
            (&["2001:db8::1"], "2001:db8::1"),
            (&["\"[2001:db8::1]:5\""], "2001:db8::1"),
            (&["192.0.2.1, 2001:db8:1::7"], "192.0.2.1"),
            // A socket for both families writes IPv4 addresses so.
            (&["::ffff:192.0.2.1"], "192.0.2.1"),
            (&["[::ffff:192.0.2.1]:80"], "192.0.2.1"),
            (&["192.0.2.1, ::ffff:10.0.0.2"], "192.0.2.1"),
            // An unknown client is in no list, and is not the proxy.
            (&["unknown"], "0.0.0.0"),
            (&["192.0.2.1, unknown"], "0.0.0.0"),
            (&["192.0.2.1, _hidden, 10.0.0.2"], "0.0.0.0"),
            (&["192.0.2.1, caf\u{e9}"], "0.0.0.0"),
            (&["192.0.2.1:"], "0.0.0.0"),
            (&["192.0.2.1:99999"], "0.0.0.0"),
        ] {
            let fields: Vec<_> = lines
                .iter()
                .map(|line| ("x-forwarded-for", *line))
                .collect();
            let expected: IpAddr = client.parse().unwrap();
            assert_eq!(origin(&fields).client, expected, "{lines:?}");
        }
    }

    #[test]
    fn l130_scheme_and_port_are_those_of_the_trusted_proxy() {
        for (fields, is_secure, port) in [
            (&[][..], false, 80),
            (&[("x-forwarded-proto", "https")], true, 443),
            (&[("x-forwarded-proto", "HTTPS")], true, 443),
            (&[("x-forwarded-proto", "https,http")], true, 443),
            (
                &[
                    ("x-forwarded-proto", "https"),
                    ("x-forwarded-proto", "http"),
                ],
                true,
                443,
            ),
            (&[("x-forwarded-proto", "wss")], true, 443),
            (&[("x-forwarded-proto", "http")], false, 80),
            (&[("x-forwarded-proto", "gopher")], false, 80),
            (
                &[("x-forwarded-proto", "https"), ("x-forwarded-port", "8443")],
                true,
                8443,
            ),
            (
                &[
                    ("x-forwarded-proto", "https"),
                    ("x-forwarded-port", "8443, 80"),
                ],
                true,
                8443,
            ),
            (
                &[("x-forwarded-proto", "https"), ("x-forwarded-port", "x")],
                true,
                443,
            ),
            (
                &[
                    ("x-forwarded-proto", "https"),
                    ("x-forwarded-for", "192.0.2.1"),
                ],
                true,
                443,
            ),
        ] {
            let found = origin(fields);
            assert_eq!(
                (found.is_secure, found.port),
                (is_secure, port),
                "{fields:?}"
            );
        }
    }

    #[test]
    fn l22_other_clients_cannot_name_their_origin() {
        let headers = [
            ("x-forwarded-for", "9.9.9.9"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "443"),
        ];
        let headers = headers.map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        let headers = HeaderMap::from_iter(headers);
        let connection = Client::new(
            "192.0.2.1:1000".parse().unwrap(),
            "10.0.0.9:80".parse().unwrap(),
            false,
        );
        let found = Origin::of(&connection, &headers, &["10.0.0.0/8".parse().unwrap()]);
        let expected = Origin {
            client: "192.0.2.1".parse().unwrap(),
            is_secure: false,
            port: 80,
            is_trusted: false,
        };
        assert_eq!(found, expected);
    }
}
