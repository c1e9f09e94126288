//! Events of the sources.

use std::collections::BTreeSet;

use headgate_model::{
    EndpointSlice, NamespacedName, ObjectName, Refusal, Service,
    edge::{Secret, UpstreamService},
    gateway::object::Change,
    ingress::{Ingress, IngressClass},
};

/// A kind of object that a source lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Services.
    Service,
    /// EndpointSlices.
    EndpointSlice,
    /// The Node that the agent runs on.
    Node,
    /// Ingresses.
    Ingress,
    /// IngressClasses.
    IngressClass,
    /// Secrets.
    Secret,
    /// GatewayClasses.
    GatewayClass,
    /// Gateways.
    Gateway,
    /// ListenerSets.
    ListenerSet,
    /// HTTPRoutes.
    HttpRoute,
    /// GRPCRoutes.
    GrpcRoute,
    /// TLSRoutes.
    TlsRoute,
    /// TCPRoutes.
    TcpRoute,
    /// UDPRoutes.
    UdpRoute,
    /// ReferenceGrants.
    ReferenceGrant,
    /// BackendTLSPolicies.
    BackendTlsPolicy,
    /// RoutePolicies.
    RoutePolicy,
    /// Namespaces.
    Namespace,
    /// ConfigMaps.
    ConfigMap,
}

/// Kinds that an agent needs: those of Services, then those of TCP and UDP listeners of Gateways.
const AGENT_KINDS: &[Kind] = &[
    Kind::Service,
    Kind::EndpointSlice,
    Kind::Node,
    Kind::GatewayClass,
    Kind::Gateway,
    Kind::ListenerSet,
    Kind::TcpRoute,
    Kind::UdpRoute,
    Kind::ReferenceGrant,
    Kind::Namespace,
];
const SERVICE_KINDS: &[Kind] = AGENT_KINDS.split_at(3).0;
/// Kinds that a proxy needs: those of Ingresses alone, those of both, then those that only the Gateway API uses.
const PROXY_KINDS: &[Kind] = &[
    Kind::EndpointSlice,
    Kind::Ingress,
    Kind::IngressClass,
    Kind::Service,
    Kind::Secret,
    Kind::GatewayClass,
    Kind::Gateway,
    Kind::ListenerSet,
    Kind::HttpRoute,
    Kind::GrpcRoute,
    Kind::TlsRoute,
    Kind::TcpRoute,
    Kind::UdpRoute,
    Kind::ReferenceGrant,
    Kind::BackendTlsPolicy,
    Kind::RoutePolicy,
    Kind::Namespace,
    Kind::ConfigMap,
];
const INGRESS_KINDS: &[Kind] = PROXY_KINDS.split_at(5).0;
/// What verdicts need: routes name Services, and certificates are judged.
const VERDICT_KINDS: &[Kind] = PROXY_KINDS.split_at(3).1;

impl Kind {
    /// Parses the `kind` of a manifest.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "Service" => Some(Self::Service),
            "EndpointSlice" => Some(Self::EndpointSlice),
            "Node" => Some(Self::Node),
            "Ingress" => Some(Self::Ingress),
            "IngressClass" => Some(Self::IngressClass),
            "Secret" => Some(Self::Secret),
            _ => {
                let mut kinds = PROXY_KINDS.iter().copied();
                kinds.find(|kind| kind.gateway_name() == Some(name))
            }
        }
    }

    /// The name of a kind that only the Gateway API uses.
    pub(crate) fn gateway_name(self) -> Option<&'static str> {
        Some(match self {
            Self::GatewayClass => "GatewayClass",
            Self::Gateway => "Gateway",
            Self::ListenerSet => "ListenerSet",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TlsRoute => "TLSRoute",
            Self::TcpRoute => "TCPRoute",
            Self::UdpRoute => "UDPRoute",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::BackendTlsPolicy => "BackendTLSPolicy",
            Self::RoutePolicy => "RoutePolicy",
            Self::Namespace => "Namespace",
            Self::ConfigMap => "ConfigMap",
            _ => return None,
        })
    }

    /// Whether only the Gateway API uses the kind.
    pub(crate) fn is_of_gateways(self) -> bool {
        self.gateway_name().is_some()
    }

    /// The object of this kind and name.
    pub(crate) fn object(self, name: &NamespacedName) -> ObjectName {
        match self {
            Self::Service => ObjectName::Service(name.clone()),
            Self::EndpointSlice => ObjectName::EndpointSlice(name.clone()),
            Self::Node => ObjectName::Node(name.name.clone()),
            Self::Ingress => ObjectName::Ingress(name.clone()),
            Self::IngressClass => ObjectName::IngressClass(name.name.clone()),
            Self::Secret => ObjectName::Secret(name.clone()),
            other => ObjectName::Gateway(other.gateway_name().unwrap_or_default(), name.clone()),
        }
    }

    /// The events that delete an object.
    pub(crate) fn gone(self, name: NamespacedName, interest: Interest) -> Vec<Event> {
        let upstream = Event::Upstream(name.clone(), None);
        match (self, interest) {
            (Self::Service, Interest::Services) => vec![Event::Service(name, None)],
            (Self::Service, Interest::Listeners) => vec![Event::Service(name, None), upstream],
            (Self::Service, _) => vec![upstream],
            _ => vec![self.deleted(name)],
        }
    }

    fn deleted(self, name: NamespacedName) -> Event {
        match self {
            Self::Service => Event::Service(name, None),
            Self::EndpointSlice => Event::Slice(name, None),
            Self::Node => Event::Node(NodeState::default()),
            Self::Ingress => Event::Ingress(name, None),
            Self::IngressClass => Event::IngressClass(name.name.clone(), None),
            Self::Secret => Event::Secret(name, None),
            Self::GatewayClass => {
                Event::Gateway(Change::GatewayClass(name.name.clone(), None).into())
            }
            Self::Namespace => Event::Gateway(Change::Namespace(name.name.clone(), None).into()),
            Self::Gateway => Event::Gateway(Change::Gateway(name, None).into()),
            Self::ListenerSet => Event::Gateway(Change::ListenerSet(name, None).into()),
            Self::HttpRoute => Event::Gateway(Change::HttpRoute(name, None).into()),
            Self::GrpcRoute => Event::Gateway(Change::GrpcRoute(name, None).into()),
            Self::TlsRoute => Event::Gateway(Change::TlsRoute(name, None).into()),
            Self::TcpRoute => Event::Gateway(Change::TcpRoute(name, None).into()),
            Self::UdpRoute => Event::Gateway(Change::UdpRoute(name, None).into()),
            Self::ReferenceGrant => Event::Gateway(Change::ReferenceGrant(name, None).into()),
            Self::BackendTlsPolicy => Event::Gateway(Change::BackendTlsPolicy(name, None).into()),
            Self::RoutePolicy => Event::Gateway(Change::RoutePolicy(name, None).into()),
            Self::ConfigMap => Event::Gateway(Change::ConfigMap(name, None).into()),
        }
    }
}

/// Which objects a source sends, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// What the maps are made from: Services that this agent balances.
    Services,
    /// The same with TCP and UDP listeners of Gateways. Their routes may name headless Services, so this includes
    /// slices of these.
    Listeners,
    /// What routes of a proxy are made from. An Ingress may name any Service, so this includes
    /// headless Services and those with another `service.kubernetes.io/service-proxy-name`.
    Ingress,
    /// What the verdicts and routes of the Gateway API are made from, and those of Ingresses.
    Gateways,
    /// What the verdicts of the Gateway API are made from.
    Verdicts,
}

/// Which Services an agent serves, if another service proxy serves the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// The value that their label `service.kubernetes.io/service-proxy-name` has; `None`: those without the label.
    pub proxy_name: Option<String>,
    /// Their namespaces; empty: all.
    pub namespaces: BTreeSet<String>,
}

impl Served {
    /// Whether another proxy may serve Services that this one does not see.
    pub fn is_part(&self) -> bool {
        *self != Self::default()
    }

    /// Whether it serves a Service, or uses a slice, with this value of the label.
    pub(crate) fn has(&self, namespace: &str, proxy_name: Option<&str>) -> bool {
        let is_there = self.namespaces.is_empty() || self.namespaces.contains(namespace);
        is_there && self.proxy_name.as_deref() == proxy_name
    }
}

impl Interest {
    /// The kinds that the source sends.
    pub fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Services => SERVICE_KINDS,
            Self::Listeners => AGENT_KINDS,
            Self::Ingress => INGRESS_KINDS,
            Self::Gateways => PROXY_KINDS,
            Self::Verdicts => VERDICT_KINDS,
        }
    }
}

/// What the API says of the Node that the agent runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeState {
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// Load balancers should stop sending (KEP-3836): the node is being deleted, or has the taint
    /// `ToBeDeletedByClusterAutoscaler`.
    pub is_leaving: bool,
}

/// A change of an object, or of the source.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Upserts (`Some`) or deletes (`None`) a Service that this agent balances.
    Service(NamespacedName, Option<Service>),
    /// Upserts or deletes a Service that a route may name.
    Upstream(NamespacedName, Option<UpstreamService>),
    /// Upserts or deletes an EndpointSlice.
    Slice(NamespacedName, Option<EndpointSlice>),
    /// Sets what the API says of the Node of the agent.
    Node(NodeState),
    /// Upserts or deletes an Ingress.
    Ingress(NamespacedName, Option<Ingress>),
    /// Upserts or deletes an IngressClass.
    IngressClass(String, Option<IngressClass>),
    /// Upserts or deletes a Secret.
    Secret(NamespacedName, Option<Secret>),
    /// Upserts or deletes an object that only the Gateway API uses.
    Gateway(Box<Change>),
    /// Every object of a kind was sent at least once.
    Listed(Kind),
    /// Replaces what is refused of an object; empty if everything is accepted.
    Refused(ObjectName, Vec<Refusal>),
    /// The source can be reached again, or the error if it cannot.
    Connected(Result<(), String>),
}
