//! Choosing a backend for a new connection.

use headgate_abi::{BackendEntry, FlowKey, ServiceEntry};

use crate::tables::Tables;

/// Hash of the client's end of a flow. Every node with the same seed gets the same value, whatever
/// address the client used to get in, so a flow that moves to another node keeps its backend.
#[inline(always)]
pub fn flow_hash(flow: &FlowKey, seed: u32) -> u32 {
    let [a, b, c, d] = flow.source.words();
    let ports = u32::from(flow.source_port.word()) << 8 | u32::from(flow.protocol.0);
    let mut hash = seed;
    for word in [a, b, c, d, ports] {
        // MurmurHash3's step: one multiply a word is what a packet can afford.
        hash = (hash ^ word.wrapping_mul(0xcc9e_2d51))
            .rotate_left(13)
            .wrapping_mul(5);
        hash = hash.wrapping_add(0xe654_6b64);
    }
    mix(hash)
}

/// MurmurHash3's finalizer: every input bit reaches every output bit.
#[inline(always)]
pub(crate) const fn mix(mut hash: u32) -> u32 {
    hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

/// The backend that `hash` falls on, with its id; `None` if the service has none.
#[inline(always)]
pub fn select<T: Tables>(
    tables: &T,
    service: &ServiceEntry,
    hash: u32,
) -> Option<(u32, BackendEntry)> {
    let slots = service.slots();
    if slots.count == 0 {
        return None;
    }
    // Scales the hash to the table without a division.
    let slot = (u64::from(hash) * u64::from(slots.count)) >> 32;
    let id = tables.slot(slots.first.wrapping_add(slot as u32))?;
    Some((id, tables.backend(id)?))
}
