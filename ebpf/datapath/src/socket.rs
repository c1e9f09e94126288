//! Load balancing at the socket: connect and sendmsg choose the backend once.

use headgate_abi::{
    Addr, BackendEntry, CtEntry, FlowKey, FrontendFlags, FrontendKey, PodSockets, Port, Protocol,
    Reason, ServiceEntry,
};

use crate::{select::choose, tables::Tables};

/// What to do with an application's destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Not a service: leave it.
    Leave,
    /// Use this backend instead.
    Backend {
        /// Service id.
        service: u32,
        /// Backend id.
        id: u32,
        /// Where to.
        entry: BackendEntry,
    },
    /// Refuse at once.
    Refuse(Reason),
}

/// The destination of a connect or sendmsg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Address.
    pub address: Addr,
    /// Port.
    pub port: Port,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Cookie of the socket's network namespace.
    pub netns: u64,
    /// Whether that namespace is the node's.
    pub is_node: bool,
    /// The backend that this socket got last for this destination, with its id; id 0 if it got no backend yet.
    pub last: (u32, BackendEntry),
}

/// Chooses a backend and emits the event. The source port is not known yet, so `random` replaces
/// the hash.
#[inline(always)]
pub fn translate<T: Tables>(tables: &mut T, wanted: &Destination, random: u32) -> Decision {
    let decision = decide(tables, wanted, random);
    let flow = FlowKey {
        source: Addr::of_netns(wanted.netns),
        destination: wanted.address,
        destination_port: wanted.port,
        protocol: wanted.protocol,
        ..FlowKey::default()
    };
    match &decision {
        Decision::Leave => {}
        Decision::Refuse(reason) => tables.emit(*reason, &flow, &CtEntry::default()),
        Decision::Backend { service, id, entry } => {
            tables.count(*service, *id, 0, true);
            let entry = CtEntry {
                source: flow.source,
                destination: entry.address,
                destination_port: entry.port,
                service: *service,
                backend: *id,
                ..CtEntry::default()
            };
            tables.emit(Reason::SocketTranslated, &flow, &entry);
        }
    }
    decision
}

#[inline(always)]
fn decide<T: Tables>(tables: &mut T, wanted: &Destination, random: u32) -> Decision {
    if !matches!(wanted.protocol, Protocol::TCP | Protocol::UDP)
        || is_left_to_packets(tables, wanted)
    {
        return Decision::Leave;
    }
    // Node ports on loopback exist for the node's own processes; a pod's loopback is its own.
    if wanted.address.is_loopback() && !wanted.is_node {
        return Decision::Leave;
    }
    let key = FrontendKey::new(wanted.address, wanted.port, wanted.protocol);
    let Some(frontend) = tables.frontend(&key) else {
        return match tables.address(&wanted.address) {
            Some(address) if address.is_service() => Decision::Refuse(Reason::NoPort),
            None if tables.is_in_service_range(&wanted.address) => {
                Decision::Refuse(Reason::NoService)
            }
            _ => Decision::Leave,
        };
    };
    let address = tables.address(&wanted.address).unwrap_or_default();
    if frontend.is_left_to_node(address) {
        return Decision::Leave;
    }
    if frontend.flags.contains(FrontendFlags::SOURCE_RANGES) {
        // A pod's address is not known here: its packets are checked at TC.
        if !wanted.is_node {
            return Decision::Leave;
        }
        let node = tables.config().node_address(wanted.address.family());
        if !tables.admits(frontend.outside, &node) {
            return Decision::Refuse(Reason::SourceRange);
        }
    }
    let reason = if frontend.flags.contains(FrontendFlags::DROP_INSIDE) {
        Reason::NoLocalBackend
    } else {
        Reason::NoBackend
    };
    let Some(service) = tables.service(frontend.inside) else {
        return Decision::Refuse(reason);
    };
    if is_last_ready(tables, &service, wanted) {
        let (id, entry) = wanted.last;
        return Decision::Backend {
            service: frontend.inside,
            id,
            entry,
        };
    }
    let client = Addr::of_netns(wanted.netns);
    match choose(tables, frontend.inside, &service, &client, random) {
        None => Decision::Refuse(reason),
        Some((_, entry)) if entry.is_empty() => Decision::Refuse(Reason::StaleBackend),
        Some((id, entry)) => Decision::Backend {
            service: frontend.inside,
            id,
            entry,
        },
    }
}

/// Whether the packets of a socket are translated instead, at the device of its pod. Pods on the network of the node
/// have no such device.
#[inline(always)]
fn is_left_to_packets<T: Tables>(tables: &T, wanted: &Destination) -> bool {
    match tables.config().leaves_pods {
        PodSockets::NONE => false,
        PodSockets::OPTED_OUT => !wanted.is_node && tables.has_opted_out(),
        _ => !wanted.is_node,
    }
}

/// Whether the backend that the socket got last is ready. The agent forgets the backend of a socket that its
/// Service does not send to any more, and clears the entry of one that no Service sends to.
#[inline(always)]
fn is_last_ready<T: Tables>(tables: &T, service: &ServiceEntry, wanted: &Destination) -> bool {
    let (id, last) = &wanted.last;
    if *id == 0 || service.affinity_timeout_s != 0 || service.slots().count == 0 {
        return false;
    }
    let now = tables.backend(*id).unwrap_or_default();
    now.address == last.address && now.port == last.port && !now.is_empty()
}
