//! What sources tell.

use headgate_model::{EndpointSlice, Refusal, Service, ServiceName};

/// A kind of object that a source lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Services.
    Service,
    /// EndpointSlices.
    EndpointSlice,
}

/// Something happened to an object, or to the source.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A Service is so, or gone.
    Service(ServiceName, Option<Service>),
    /// An EndpointSlice is so, or gone.
    Slice(ServiceName, Option<EndpointSlice>),
    /// Every object of a kind was told at least once.
    Listed(Kind),
    /// What is refused of an object, by its name; nothing if all of it is taken.
    Refused(String, Vec<Refusal>),
    /// The source cannot be reached, or can again.
    Connected(Result<(), String>),
}
