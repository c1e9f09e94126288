//! Services and Secrets, as far as a proxy needs them.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use crate::Protocol;

/// A Service, reduced to what a proxy needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamService {
    /// Its random id (`metadata.uid`), which all nodes know and clients do not. May be empty in
    /// manifests: then namespace and name stand for it, which clients may guess.
    pub uid: String,
    /// Its TCP ports.
    pub ports: Vec<UpstreamPort>,
    /// Its UDP ports.
    pub udp_ports: Vec<UpstreamPort>,
    /// Cluster IPs of one or two families; empty if it is headless.
    pub cluster_ips: Vec<IpAddr>,
    /// Whether its type is `ExternalName`: it cannot be a backend.
    pub is_external: bool,
}

impl UpstreamService {
    /// Returns the port of this number.
    pub(crate) fn port(&self, protocol: Protocol, number: u16) -> Option<&UpstreamPort> {
        let ports = match protocol {
            Protocol::Tcp => &self.ports,
            Protocol::Udp => &self.udp_ports,
        };
        ports.iter().find(|port| port.port == number)
    }
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamPort {
    /// Name; may be empty if it is the only one.
    pub name: String,
    /// Port of the cluster IP, not 0.
    pub port: u16,
    /// `appProtocol`: what its endpoints speak, for routes of Gateways.
    pub app_protocol: Option<String>,
}

/// Which port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortName {
    /// By name.
    Name(String),
    /// By number.
    Number(u16),
}

impl fmt::Display for PortName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => out.write_str(name),
            Self::Number(number) => write!(out, "{number}"),
        }
    }
}

/// A Secret. Its values are never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// `type`.
    pub type_: String,
    /// `data`, decoded.
    pub data: BTreeMap<String, Vec<u8>>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.data.keys();
        write!(
            out,
            "Secret({}, {:?})",
            self.type_,
            keys.collect::<Vec<_>>()
        )
    }
}
