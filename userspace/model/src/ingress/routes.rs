//! The routes of all Ingresses.

use crate::{NamespacedName, Refusal, edge::Listener};

/// The routes of all Ingresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// What they ask for.
    pub listener: Listener,
    /// Fields that are not served as written.
    pub refusals: Vec<Refusal>,
    /// Ingresses that are served.
    pub served: Vec<NamespacedName>,
}
