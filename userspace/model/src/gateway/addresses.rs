//! Addresses of Gateways.

use std::collections::BTreeMap;

use super::{Problem, object::StatusAddress};
use crate::NamespacedName;

/// Addresses that Gateways have, and why one cannot have what it wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses(BTreeMap<NamespacedName, (Vec<StatusAddress>, Option<Problem>)>);

impl Addresses {
    /// Sets the addresses of a Gateway, and what is wrong with those that it wants.
    pub fn set(
        &mut self,
        gateway: NamespacedName,
        addresses: Vec<StatusAddress>,
        problem: Option<Problem>,
    ) {
        self.0.insert(gateway, (addresses, problem));
    }

    /// Returns the addresses of a Gateway.
    pub fn of(&self, gateway: &NamespacedName) -> &[StatusAddress] {
        self.0.get(gateway).map_or(&[], |(addresses, _)| addresses)
    }

    /// Returns why a Gateway cannot have the addresses that it wants.
    pub fn problem(&self, gateway: &NamespacedName) -> Option<&Problem> {
        self.0.get(gateway)?.1.as_ref()
    }
}
