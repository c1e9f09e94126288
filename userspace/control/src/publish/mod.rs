//! What is written back to the API server: Events, and the status of Ingresses.

pub(crate) mod events;
pub(crate) mod ingress_status;
