//! Options of a server.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Decides whether a request is allowed.
pub type Authorize = Arc<dyn Fn(&Attributes) -> bool + Send + Sync>;

/// The attributes of a request that an authorizer gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verb: String,
    /// Empty for the core group.
    pub group: String,
    /// Plural name: `services`.
    pub resource: String,
    /// `status` for a request to that subresource.
    pub subresource: Option<String>,
    /// `None` for cluster-wide resources and for lists over all namespaces.
    pub namespace: Option<String>,
    /// `None` for collections.
    pub name: Option<String>,
    /// The bearer token of the request.
    pub token: Option<String>,
}

/// Options of a server. The default is a dual-stack cluster on a free port of 127.0.0.1.
#[derive(Clone)]
pub struct Options {
    /// Address to listen on. With port 0 the server chooses a free port, and keeps it for `resume`.
    pub listen: SocketAddr,
    /// Use TLS, with its own authority.
    pub tls: bool,
    /// Bearer token that every request must carry, except for health and version.
    pub token: Option<String>,
    /// Further names for the certificate, besides `localhost` and those of a cluster.
    pub names: Vec<String>,
    /// Ranges of cluster addresses, at most one of each family, the primary family first.
    pub service_cidrs: Vec<IpNet>,
    /// Range of node ports.
    pub node_ports: RangeInclusive<u16>,
    /// Interval of bookmarks in a quiet watch. The API uses about a minute.
    pub bookmark_interval: Duration,
    /// Number of changes that are kept. Older ones are compacted.
    pub history: usize,
    /// Create the Service `kubernetes`, with the first cluster address, as the API does, and its
    /// EndpointSlice, unless the server listens on loopback, which is not a valid endpoint.
    pub kubernetes_service: bool,
    /// Delete objects whose `ownerReferences` all name objects that do not exist, as the controller manager
    /// does. The real server of [`crate::TestServer`] runs without one, and ignores this.
    pub collects_garbage: bool,
    /// Decides about each request for a resource. `None` allows everything.
    pub authorize: Option<Authorize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tls: true,
            token: None,
            names: Vec::new(),
            service_cidrs: vec![
                IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16)),
                IpNet::V6(Ipv6Net::new_assert(
                    [0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0].into(),
                    112,
                )),
            ],
            node_ports: 30_000..=32_767,
            bookmark_interval: Duration::from_secs(10),
            history: 100_000,
            kubernetes_service: true,
            collects_garbage: false,
            authorize: None,
        }
    }
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address could not be bound, or its thread not be started.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The requested address.
        address: SocketAddr,
        /// The error of the system.
        source: std::io::Error,
    },
    /// No certificate could be made.
    #[error("cannot set up TLS: {source}")]
    Tls {
        /// The error of the library.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The objects every cluster has could not be created.
    #[error("cannot create the first objects: {0}")]
    FirstObjects(#[from] crate::ApiError),
}
