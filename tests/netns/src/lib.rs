//! Clusters of network namespaces for demo and tests: nodes, pods and a client outside, on one
//! machine. Everything that a cluster makes carries one prefix and is removed when it is dropped.

#[cfg(feature = "api")]
mod api;
mod client;
mod cluster;
mod layout;
mod load;
mod manifests;
mod netns;
mod process;
pub mod rules;
mod talk;

pub use client::{Answer, get, get_on, http, udp, udp_connected, udp_exchange, udp_of_length};
pub use cluster::{Cluster, Node, PROXY_USER, Pod};
pub use layout::Layout;
pub use load::{Client, Load, Miss, Tally, connection, connections, datagrams, talk};
pub use manifests::{Certificate, GATEWAY, INGRESSES, LISTENERS, SERVICE, slices};
pub use netns::Netns;
pub use process::{Process, binary};
pub use talk::Talk;
