//! Load balancing at the socket: the destination is chosen once, when the application names it.

use headgate_abi::{Addr, BackendEntry, FrontendFlags, FrontendKey, Port, Protocol, Reason};

use crate::{select::select, tables::Tables};

/// What to do with an application's destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Not a service: leave it.
    Leave,
    /// Use this backend instead.
    Backend {
        /// Backend id.
        id: u32,
        /// Where to.
        entry: BackendEntry,
    },
    /// Refuse at once: the service has no eligible endpoint.
    Refuse(Reason),
}

/// Where an application wants to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Address.
    pub address: Addr,
    /// Port.
    pub port: Port,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Whether the socket lives in the node's own network namespace.
    pub is_host: bool,
}

/// Chooses a backend. The source port is not known yet, so `random` takes the place of the hash.
#[inline(always)]
pub fn translate<T: Tables>(tables: &mut T, wanted: &Destination, random: u32) -> Decision {
    // Loopback node ports belong to the node's own processes; a pod's loopback is the pod's.
    if wanted.address.is_loopback() && !wanted.is_host {
        return Decision::Leave;
    }
    let key = FrontendKey {
        address: wanted.address,
        port: wanted.port,
        protocol: wanted.protocol,
        zero: 0,
    };
    let Some(frontend) = tables.frontend(&key) else {
        return Decision::Leave;
    };
    let reason = if frontend.flags.has(FrontendFlags::DROP_INSIDE) {
        Reason::NoLocalBackend
    } else {
        Reason::NoBackend
    };
    let Some(service) = tables.service(frontend.inside) else {
        return Decision::Refuse(reason);
    };
    match select(tables, &service, random) {
        None => Decision::Refuse(reason),
        Some((id, entry)) => {
            tables.count(frontend.inside, id, 0, true);
            Decision::Backend { id, entry }
        }
    }
}
