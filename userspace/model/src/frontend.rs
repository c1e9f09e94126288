//! Names and addresses.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    ops::Deref,
    str::FromStr,
    sync::Arc,
};

/// A transport protocol that is balanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// An IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Returns the family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        })
    }
}

/// Which endpoints are eligible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// All of the cluster.
    #[default]
    Cluster,
    /// Those on this node.
    Local,
}

impl fmt::Display for Scope {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Cluster => "cluster",
            Self::Local => "local",
        })
    }
}

/// Address, port and protocol that clients connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// Address.
    pub address: IpAddr,
    /// Port, not 0.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

impl fmt::Display for Frontend {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} {}",
            self.protocol,
            SocketAddr::new(self.address, self.port)
        )
    }
}

/// Where the address of a frontend comes from, in order of trust: assigned by the API server, set
/// by a load balancer, chosen by any user that can write Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendKind {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// An address of the node, with `spec.ports[].nodePort`.
    NodePort,
    /// `status.loadBalancer.ingress[].ip`.
    LoadBalancer,
    /// `spec.externalIPs`.
    ExternalIp,
}

/// Where a backend is, seen from the node that is programmed. If the slices of a Service disagree,
/// the last one here counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Location {
    /// On no node that the API names.
    Outside,
    /// On another node of the cluster.
    OtherNode,
    /// On this node.
    ThisNode,
}

/// Address, port and protocol that traffic is sent to, and where that is: two Services may disagree
/// about the place of an address, and each is served as it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Address.
    pub address: IpAddr,
    /// Port, not 0.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Where it is.
    pub location: Location,
}

impl fmt::Display for Backend {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} {}",
            self.protocol,
            SocketAddr::new(self.address, self.port)
        )
    }
}

/// A value whose clones share it: many maps hold the same name.
#[derive(PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shared<T>(Arc<T>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> From<T> for Shared<T> {
    fn from(value: T) -> Self {
        Self(Arc::new(value))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl<T: fmt::Display> fmt::Display for Shared<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// Namespace and name of a Kubernetes object. Its text is `namespace/name`.
pub type NamespacedName = Shared<NameParts>;

/// The parts of a [`NamespacedName`].
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameParts {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl NamespacedName {
    /// Creates a name from its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self::from(NameParts {
            namespace: namespace.into(),
            name: name.into(),
        })
    }
}

impl fmt::Display for NameParts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.namespace, self.name)
    }
}

/// One port of a Service, for one family and one scope: what a service id stands for.
///
/// Its text, `namespace/name:port/protocol/family/scope`, has at most 157 bytes if the names are
/// those of Kubernetes objects.
pub type ServiceKey = Shared<KeyParts>;

/// The parts of a [`ServiceKey`].
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyParts {
    /// The Service.
    pub service: NamespacedName,
    /// Name of the port; may be empty.
    pub port: String,
    /// Protocol of the port.
    pub protocol: Protocol,
    /// Family of frontends and backends.
    pub family: Family,
    /// Which endpoints are eligible.
    pub scope: Scope,
}

impl fmt::Display for KeyParts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            service,
            port,
            protocol,
            family,
            scope,
        } = self;
        write!(out, "{service}:{port}/{protocol}/{family}/{scope}")
    }
}

/// A text that is not a service key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not of the form namespace/name:port/protocol/family/scope")]
pub struct ParseKeyError(String);

impl FromStr for ServiceKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        parse_key(text).ok_or_else(|| ParseKeyError(text.into()))
    }
}

fn parse_key(text: &str) -> Option<ServiceKey> {
    let (name, rest) = text.split_once(':')?;
    let (namespace, name) = name.split_once('/')?;
    let mut words = rest.split('/');
    let parts = KeyParts {
        service: NamespacedName::new(namespace, name),
        port: words.next()?.into(),
        protocol: match words.next()? {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return None,
        },
        family: match words.next()? {
            "v4" => Family::V4,
            "v6" => Family::V6,
            _ => return None,
        },
        scope: match words.next()? {
            "cluster" => Scope::Cluster,
            "local" => Scope::Local,
            _ => return None,
        },
    };
    words.next().is_none().then(|| parts.into())
}

#[cfg(test)]
mod tests {
    use super::{ServiceKey, parse_key};

    #[test]
    fn key_survives_its_text() {
        for text in ["default/web:http/tcp/v4/cluster", "a/b:/udp/v6/local"] {
            assert_eq!(text.parse::<ServiceKey>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "web",
            "default/web",
            "default/web:http/sctp/v4/cluster",
            "a/b:/udp/v6/local/x",
        ] {
            assert_eq!(parse_key(text), None, "{text}");
        }
    }
}
