//! Changes that were not made.

use std::{net::IpAddr, time::SystemTime};

use headgate_model::{Actual, Backend, Change, Frontend, ServiceKey, Touched};

use super::status::Failure;

/// What a change is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Backend(Backend),
    Service(ServiceKey),
    Frontend(Frontend),
    Address(IpAddr),
    /// The work that follows changes.
    Connections,
}

impl Key {
    pub(super) fn of(change: &Change) -> Self {
        match change {
            Change::PutBackend { backend, .. } | Change::DeleteBackend { backend, .. } => {
                Self::Backend(*backend)
            }
            Change::PutService { key, .. } | Change::DeleteService { key, .. } => {
                Self::Service(key.clone())
            }
            Change::PutFrontend { frontend, .. } | Change::DeleteFrontend { frontend } => {
                Self::Frontend(*frontend)
            }
            Change::PutAddress { address, .. } | Change::DeleteAddress { address } => {
                Self::Address(*address)
            }
        }
    }

    /// Makes the next pass compare it.
    pub(super) fn touch(&self, touched: &mut Touched) {
        match self {
            Self::Backend(backend) => drop(touched.backends.insert(*backend)),
            Self::Service(key) => drop(touched.services.insert(key.clone())),
            Self::Frontend(frontend) => drop(touched.frontends.insert(*frontend)),
            Self::Address(address) => drop(touched.addresses.insert(*address)),
            Self::Connections => {}
        }
    }
}

/// Whether everything that a change refers to exists, and nothing refers to what it removes.
pub(super) fn is_possible(actual: &Actual, change: &Change) -> bool {
    match change {
        Change::PutService { spec, .. } => spec
            .backends
            .iter()
            .all(|backend| actual.backends.contains_key(backend)),
        Change::PutFrontend { spec, .. } => [&spec.inside, &spec.outside]
            .into_iter()
            .all(|key| actual.services.contains_key(key)),
        Change::DeleteService { key, .. } => !actual
            .frontends
            .values()
            .any(|spec| spec.inside == *key || spec.outside == *key),
        Change::DeleteBackend { backend, .. } => !actual
            .services
            .values()
            .any(|(_, spec)| spec.backends.contains(backend)),
        Change::PutBackend { .. }
        | Change::PutAddress { .. }
        | Change::DeleteAddress { .. }
        | Change::DeleteFrontend { .. } => true,
    }
}

/// The failure of a change, by the object that a user knows.
pub(super) fn failure(change: &Change, reason: String) -> Failure {
    let (service, object) = match change {
        Change::PutBackend { backend, .. } | Change::DeleteBackend { backend, .. } => {
            (None, format!("backend {backend}"))
        }
        Change::PutService { key, .. } | Change::DeleteService { key, .. } => {
            (Some(key.service.clone()), format!("Service {key}"))
        }
        Change::PutFrontend { frontend, spec, .. } => {
            let service = &spec.inside.service;
            (
                Some(service.clone()),
                format!("Service {service}, frontend {frontend}"),
            )
        }
        Change::DeleteFrontend { frontend } => (None, format!("frontend {frontend}")),
        Change::PutAddress { address, .. } | Change::DeleteAddress { address } => {
            (None, format!("address {address}"))
        }
    };
    Failure {
        service,
        object,
        reason,
        since: SystemTime::now(),
    }
}
