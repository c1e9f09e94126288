//! What sources tell.

use headgate_model::{EndpointSlice, ObjectName, Refusal, Service, ServiceName};

/// A kind of object that a source lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Services.
    Service,
    /// EndpointSlices.
    EndpointSlice,
    /// The Node that the agent runs on.
    Node,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Service, Self::EndpointSlice, Self::Node];

    /// The object of this kind and name.
    pub(crate) fn object(self, name: &ServiceName) -> ObjectName {
        match self {
            Self::Service => ObjectName::Service(name.clone()),
            Self::EndpointSlice => ObjectName::EndpointSlice(name.clone()),
            Self::Node => ObjectName::Node(name.name.clone()),
        }
    }

    /// Says that an object is gone.
    pub(crate) fn gone(self, name: ServiceName) -> Event {
        match self {
            Self::Service => Event::Service(name, None),
            Self::EndpointSlice => Event::Slice(name, None),
            Self::Node => Event::Node(NodeState::default()),
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
    Service(ServiceName, Option<Service>),
    /// An EndpointSlice is so, or gone.
    Slice(ServiceName, Option<EndpointSlice>),
    /// The Node of the agent is so.
    Node(NodeState),
    /// Every object of a kind was told at least once.
    Listed(Kind),
    /// What is refused of an object, by its name; nothing if all of it is taken.
    Refused(ObjectName, Vec<Refusal>),
    /// The source cannot be reached, or can again.
    Connected(Result<(), String>),
}
