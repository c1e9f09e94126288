//! What sources tell.

use headgate_model::{
    EndpointSlice, NamespacedName, ObjectName, Refusal, Service,
    ingress::{Ingress, IngressClass, Secret},
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
}

impl Kind {
    /// The kind of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "Service" => Some(Self::Service),
            "EndpointSlice" => Some(Self::EndpointSlice),
            "Node" => Some(Self::Node),
            "Ingress" => Some(Self::Ingress),
            "IngressClass" => Some(Self::IngressClass),
            "Secret" => Some(Self::Secret),
            _ => None,
        }
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
        }
    }

    /// Says that an object is gone.
    pub(crate) fn gone(self, name: NamespacedName) -> Event {
        match self {
            Self::Service => Event::Service(name, None),
            Self::EndpointSlice => Event::Slice(name, None),
            Self::Node => Event::Node(NodeState::default()),
            Self::Ingress => Event::Ingress(name, None),
            Self::IngressClass => Event::IngressClass(name.name.clone(), None),
            Self::Secret => Event::Secret(name, None),
        }
    }
}

/// What somebody wants to know of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// What the maps are made from.
    Services,
    /// What routes of the proxy are made from. An Ingress may name any Service, so headless ones are
    /// told as well, and those that are another kube-proxy's.
    Ingress,
}

impl Interest {
    /// The kinds that are told.
    pub fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Services => &[Kind::Service, Kind::EndpointSlice, Kind::Node],
            Self::Ingress => &[
                Kind::Service,
                Kind::EndpointSlice,
                Kind::Ingress,
                Kind::IngressClass,
                Kind::Secret,
            ],
        }
    }
}

/// What the API says of the Node that the agent runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeState {
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// Load balancers should send no more (KEP-3836): it is being deleted, or the autoscaler said
    /// that it will be.
    pub is_leaving: bool,
}

/// Something happened to an object, or to the source.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A Service is so, or gone.
    Service(NamespacedName, Option<Service>),
    /// An EndpointSlice is so, or gone.
    Slice(NamespacedName, Option<EndpointSlice>),
    /// The Node of the agent is so.
    Node(NodeState),
    /// An Ingress is so, or gone.
    Ingress(NamespacedName, Option<Ingress>),
    /// An IngressClass is so, or gone.
    IngressClass(String, Option<IngressClass>),
    /// A Secret is so, or gone.
    Secret(NamespacedName, Option<Secret>),
    /// Every object of a kind was told at least once.
    Listed(Kind),
    /// What is refused of an object, by its name; nothing if all of it is taken.
    Refused(ObjectName, Vec<Refusal>),
    /// The source cannot be reached, or can again.
    Connected(Result<(), String>),
}
