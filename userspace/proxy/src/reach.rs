//! Which addresses guards may ask. Ingresses name the services that check their requests; the proxy is on
//! the network of its node, so it must not open for them what only the node can reach.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use headgate_model::ingress::is_of_every_node;
use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

/// Longest time for one address of a host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// The device on which kube-proxy, in mode IPVS, has the addresses of Services.
const IPVS_DEVICE: &str = "kube-ipvs0";

/// The addresses that may be asked.
#[derive(Clone, Debug)]
pub(crate) struct Reach(Option<Arc<Rules>>);

#[derive(Debug)]
struct Rules {
    /// Allowed although only the node can reach them.
    allowed: Vec<IpNet>,
    /// Ports of the node on which its proxy serves all clients.
    public_ports: Vec<u16>,
}

impl Reach {
    /// Every address.
    pub(crate) fn everything() -> Self {
        Self(None)
    }

    /// Every address, except loopback, link-local, multicast and unspecified ones, and those of the node
    /// but on `public_ports`. `allowed` are exceptions.
    pub(crate) fn beyond_node(allowed: Vec<IpNet>, public_ports: Vec<u16>) -> Self {
        Self(Some(Arc::new(Rules {
            allowed,
            public_ports,
        })))
    }

    /// Connects to a host. Its addresses are checked after their look-up, so that a name cannot change
    /// its address in between.
    ///
    /// # Errors
    ///
    /// If no address of the host may be asked, or none accepts a connection in time.
    pub(crate) async fn connect(&self, host: &str, port: u16) -> Result<TcpStream> {
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let found = lookup_host((bare.unwrap_or(host), port)).await;
        let mut last = None;
        for address in found.with_context(|| format!("look-up of {host}"))? {
            let connected = match self.has(address) {
                true => connect(address).await.with_context(|| address.to_string()),
                false => Err(anyhow::anyhow!(
                    "{host} is {}, which belongs to the node: see --auth-local-networks",
                    address.ip()
                )),
            };
            match connected {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        match last {
            Some(error) => Err(error),
            None => bail!("{host} has no address"),
        }
    }

    /// Whether an address may be asked.
    fn has(&self, address: SocketAddr) -> bool {
        let Some(rules) = &self.0 else {
            return true;
        };
        let ip = address.ip().to_canonical();
        let is_allowed = rules.allowed.iter().any(|network| network.contains(&ip));
        let is_public = rules.public_ports.contains(&address.port());
        is_allowed || !is_of_every_node(ip) && (is_public || !is_of_this_node(ip))
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whether a device of this node has the address. If that cannot be read, yes.
fn is_of_this_node(ip: IpAddr) -> bool {
    let Ok(addresses) = getifaddrs() else {
        return true;
    };
    let mut own = addresses.filter(|one| one.interface_name != IPVS_DEVICE);
    own.any(|one| {
        let Some(address) = one.address else {
            return false;
        };
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        let v6 = || address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip()));
        v4.or_else(v6) == Some(ip)
    })
}

#[cfg(test)]
mod tests {
    use super::Reach;

    #[test]
    fn l124_guards_do_not_reach_what_only_the_node_can() {
        let reach = Reach::beyond_node(vec!["127.0.0.8/32".parse().unwrap()], vec![80, 443]);
        for (address, is_reached) in [
            ("192.0.2.1:80", true),
            ("10.96.0.1:8080", true),
            ("[2001:db8::1]:80", true),
            ("[fd00::1]:80", true),
            ("127.0.0.1:80", false),
            ("127.9.9.9:8080", false),
            ("127.0.0.8:8080", true),
            ("0.0.0.0:80", false),
            ("0.1.2.3:80", false),
            ("169.254.169.254:80", false),
            ("224.0.0.1:80", false),
            ("255.255.255.255:80", false),
            ("[::1]:80", false),
            ("[::]:80", false),
            ("[::7f00:1]:80", false),
            ("[::ffff:127.0.0.1]:80", false),
            ("[::ffff:127.0.0.8]:80", true),
            ("[::ffff:169.254.169.254]:80", false),
            ("[::ffff:192.0.2.1]:80", true),
            ("[fe80::1]:80", false),
            ("[ff02::1]:80", false),
        ] {
            let found = reach.has(address.parse().unwrap());
            assert_eq!(found, is_reached, "{address}");
            assert!(Reach::everything().has(address.parse().unwrap()));
        }
    }

    #[tokio::test]
    async fn l124_addresses_are_checked_after_their_look_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let reach = Reach::beyond_node(Vec::new(), vec![port]);
        for host in [
            "127.0.0.1",
            "localhost",
            "0.0.0.0",
            "[::ffff:127.0.0.1]",
            "0x7f.1",
            "2130706433",
        ] {
            let refused = reach.connect(host, port).await.unwrap_err().to_string();
            let is_unknown = refused.starts_with("look-up");
            assert!(
                is_unknown || refused.contains("belongs to the node"),
                "{refused}"
            );
        }
        let local = Reach::beyond_node(vec!["127.0.0.0/8".parse().unwrap()], Vec::new());
        local.connect("127.0.0.1", port).await.unwrap();
    }

    /// Addresses of the node itself, as far as it has others than loopback.
    #[test]
    fn l124_the_node_is_reached_on_the_ports_of_the_proxy() {
        let own = nix::ifaddrs::getifaddrs().unwrap();
        let own = own.filter_map(|one| Some(one.address?.as_sockaddr_in()?.ip()));
        let reach = Reach::beyond_node(Vec::new(), vec![443]);
        for ip in own.filter(|ip| !ip.is_loopback() && !ip.is_link_local()) {
            assert!(!reach.has((ip, 10250).into()), "{ip}");
            assert!(reach.has((ip, 443).into()), "{ip}");
        }
    }
}
