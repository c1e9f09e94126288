//! Listeners: what is served at which port, to clients that ask for which host.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use crate::NamespacedName;

use super::{HostMode, Route, Streams, Target, UpstreamKey};

/// Everything that a proxy serves. A connection to a port of a Gateway is for the listeners of this port
/// only, every other one for Ingresses: they never see each other's requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edge {
    /// What Ingresses ask for.
    pub ingress: Listener,
    /// What Gateways ask for.
    pub gateways: BTreeMap<GatewayPort, PortListeners>,
}

impl Edge {
    /// Returns every backend that is named.
    pub fn upstreams(&self) -> impl Iterator<Item = &UpstreamKey> {
        self.listeners().flat_map(Listener::upstreams)
    }

    /// Returns all listeners.
    pub fn listeners(&self) -> impl Iterator<Item = &Listener> {
        let ports = self.gateways.values();
        let of_gateways = ports.flat_map(|port| &port.listeners).map(|one| &**one);
        std::iter::once(&self.ingress).chain(of_gateways)
    }
}

impl From<Listener> for Edge {
    /// Serves Ingresses only.
    fn from(ingress: Listener) -> Self {
        Self {
            ingress,
            gateways: BTreeMap::new(),
        }
    }
}

/// A port of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GatewayPort {
    /// The Gateway.
    pub gateway: NamespacedName,
    /// The port that clients connect to.
    pub port: u16,
}

impl fmt::Display for GatewayPort {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.gateway, self.port)
    }
}

/// The listeners of a port of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortListeners {
    /// The port at which a proxy gets the connections, unique among all ports of all Gateways.
    pub target_port: u16,
    /// What clients speak.
    pub scheme: Scheme,
    /// The listeners, each with another hostname.
    pub listeners: Vec<Arc<Listener>>,
}

/// The protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP.
    Http,
    /// HTTP over TLS, and TLS that is passed to a backend without decryption.
    Https,
}

impl Scheme {
    /// Returns the port that addresses with this scheme need not name.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// Returns its name in addresses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// What is served to clients that ask for hosts of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listener {
    /// Its name among those of the port.
    pub name: String,
    /// The hosts that it is for: exact, with `*.` for one label or more, or empty for all that no other
    /// listener of the port is for.
    pub hostname: String,
    /// Which hosts a wildcard in `hosts` has.
    pub mode: HostMode,
    /// Hosts by name: exact, with `*.`, or empty for every other host.
    pub hosts: BTreeMap<String, Host>,
    /// The route for requests that no host has a route for; without it they get 404.
    pub default: Option<Arc<Route>>,
    /// Certificates by host: exact, with `*.` for any one label in front, or empty for every other host.
    pub certificates: BTreeMap<String, Arc<Certificate>>,
    /// Hosts that get no certificate of `certificates` but one of their own name: the wildcard
    /// certificate that covers them is of a younger Ingress of another namespace.
    pub withheld: BTreeSet<String>,
    /// The certificate for other hosts. Without it Ingresses have one that the proxy signs; handshakes for
    /// a listener of a Gateway fail.
    pub default_certificate: Option<Arc<Certificate>>,
    /// Hosts whose TLS connections are forwarded to a backend without decryption.
    pub passthrough: BTreeMap<String, UpstreamKey>,
    /// What is asked of the certificates of clients; `None` if they are not asked for one.
    pub client_check: Option<ClientCheck>,
    /// Where TLS connections go, if their requests are not read.
    pub streams: Option<Streams>,
}

/// What a listener asks of the certificates of clients.
#[derive(Clone, PartialEq, Eq)]
pub enum ClientCheck {
    /// Clients are asked for one. They need none, and any is accepted.
    Asked,
    /// The handshake fails without one that these CA certificates (PEM) verify.
    Required(Arc<[u8]>),
}

impl fmt::Debug for ClientCheck {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Asked => "Asked",
            Self::Required(_) => "Required",
        })
    }
}

impl Listener {
    /// Returns the hosts for requests for `name` (lower case, without port), the best first. The first one
    /// with a route that matches is used.
    pub fn hosts<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Host> {
        let known = self.mode.all(name, |name| self.hosts.get(name));
        known.take(self.mode.most_tried())
    }

    /// Returns every backend that its routes name.
    pub fn upstreams(&self) -> impl Iterator<Item = &UpstreamKey> {
        let routes = self.hosts.values().flat_map(|host| &host.routes);
        let of_routes = routes.chain(&self.default).flat_map(|route| {
            let canary = route.canary.iter().map(|canary| &canary.target);
            let weighted = route.targets.iter().map(|weighted| &weighted.target);
            let keys = weighted.chain(canary).filter_map(Target::upstream);
            let mirrors = route.policy.mirrors.iter().map(|mirror| &mirror.upstream);
            let pages = route.policy.error_pages.iter();
            keys.chain(mirrors)
                .chain(pages.map(|pages| &pages.upstream))
        });
        let streams = self
            .streams
            .iter()
            .flat_map(|streams| streams.hosts.values());
        of_routes
            .chain(self.passthrough.values())
            .chain(streams.flat_map(|stream| stream.upstreams()))
    }
}

/// A host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Whether clients must be asked for a certificate.
    pub asks_certificate: bool,
    /// Its routes; the first that matches is used.
    pub routes: Vec<Arc<Route>>,
}

/// A certificate with its key, both PEM. The key is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The Secret it is from.
    pub secret: NamespacedName,
    /// The chain, its own certificate first.
    pub chain: Vec<u8>,
    /// The key.
    pub key: Vec<u8>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Certificate({})", self.secret)
    }
}
