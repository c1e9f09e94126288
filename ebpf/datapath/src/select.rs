//! Choosing a backend for a new connection.

use headgate_abi::{
    Addr, AffinityEntry, AffinityKey, BackendEntry, FlowKey, MemberKey, ServiceEntry,
};

use crate::{conntrack::age_s, tables::Tables};

/// Hash of the client's end of a flow. Every node with the same seed gets the same value, whatever
/// address the client used to get in, so a flow that moves to another node keeps its backend.
#[inline(always)]
pub fn flow_hash(flow: &FlowKey, seed: u32) -> u32 {
    let port = u32::from(flow.source_port.word()) << 8 | u32::from(flow.protocol.0);
    client_hash(&flow.source, port, seed)
}

#[inline(always)]
pub(crate) fn client_hash(client: &Addr, port: u32, seed: u32) -> u32 {
    let [a, b, c, d] = client.words();
    let mut hash = seed;
    for word in [a, b, c, d, port] {
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

/// The backend for a new connection of `client`. With session affinity it is the one that the
/// client got last, if that is still eligible and not too long ago; every new connection renews it.
#[inline(always)]
pub(crate) fn choose<T: Tables>(
    tables: &mut T,
    id: u32,
    service: &ServiceEntry,
    client: &Addr,
    hash: u32,
) -> Option<(u32, BackendEntry)> {
    if service.affinity_timeout_s == 0 {
        return select(tables, service, hash);
    }
    let key = AffinityKey {
        client: *client,
        service: id,
    };
    let chosen = match last_backend(tables, &key, service.affinity_timeout_s) {
        Some(last) => last,
        // Two connections that a client opens at once agree.
        None => select(
            tables,
            service,
            client_hash(client, 0, tables.config().seed),
        )?,
    };
    let entry = AffinityEntry {
        backend: chosen.0,
        seen_s: tables.now_s(),
    };
    tables.put_affinity(&key, &entry);
    Some(chosen)
}

#[inline(always)]
fn last_backend<T: Tables>(
    tables: &T,
    key: &AffinityKey,
    timeout_s: u32,
) -> Option<(u32, BackendEntry)> {
    let last = tables.affinity(key)?;
    let member = MemberKey {
        service: key.service,
        backend: last.backend,
    };
    if age_s(last.seen_s, tables.now_s()) > timeout_s || !tables.is_member(&member) {
        return None;
    }
    Some((last.backend, tables.backend(last.backend)?))
}
