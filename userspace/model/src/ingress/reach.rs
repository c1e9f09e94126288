//! Authentication services at addresses of the node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::edge::{Auth, Introspection, Jwt, JwtKeys};

/// Returns the annotation that names an address of the node, with the reason, as error. Names of hosts
/// are checked by the proxy when it connects.
pub(super) fn check(auth: &Auth, allowed: &[IpNet]) -> Result<(), (&'static str, String)> {
    let (annotation, url) = match auth {
        Auth::External(external) => ("auth-url", external.url.to_string()),
        Auth::Jwt(Jwt {
            keys: JwtKeys::Url(server),
            ..
        })
        | Auth::Introspection(Introspection { server, .. }) => ("auth-server", server.url.clone()),
        Auth::Ldap(ldap) => ("auth-server", ldap.server.url.clone()),
        Auth::Oidc(oidc) => ("auth-issuer", oidc.issuer.url.clone()),
        _ => return Ok(()),
    };
    match refusal(host(&url), allowed) {
        Some(reason) => Err((annotation, reason)),
        None => Ok(()),
    }
}

/// The host of an address, without port and brackets.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    }
}

/// Returns why a host must not be asked.
fn refusal(host: &str, allowed: &[IpNet]) -> Option<String> {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    let is_localhost = name == "localhost" || name.ends_with(".localhost");
    let addresses = match name.parse::<IpAddr>() {
        Ok(address) => vec![address.to_canonical()],
        Err(_) if is_localhost => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        // Some libraries read `127.1`, `0x7f000001` and `2130706433` as addresses.
        Err(_) if is_number(name.rsplit('.').next().unwrap_or_default()) => {
            return Some(format!("`{host}` is neither a name nor a whole address"));
        }
        Err(_) => return None,
    };
    let is_allowed = |address: &IpAddr| allowed.iter().any(|network| network.contains(address));
    let is_local = addresses.iter().copied().any(is_of_every_node);
    let is_refused = is_local && !addresses.iter().any(is_allowed);
    is_refused
        .then(|| format!("`{host}` belongs to the node: see --auth-local-networks of the proxy"))
}

fn is_number(label: &str) -> bool {
    match label.strip_prefix("0x") {
        Some(digits) => digits.bytes().all(|digit| digit.is_ascii_hexdigit()),
        None => !label.is_empty() && label.bytes().all(|digit| digit.is_ascii_digit()),
    }
}

/// Returns whether an address means the node itself, or its link, on every node.
pub fn is_of_every_node(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let is_this_network = address.octets()[0] == 0;
            address.is_loopback()
                || address.is_link_local()
                || address.is_multicast()
                || address.is_broadcast()
                || is_this_network
        }
        IpAddr::V6(address) => {
            let is_compatible = address.to_ipv4().is_some();
            is_compatible || address.is_unicast_link_local() || address.is_multicast()
        }
    }
}
