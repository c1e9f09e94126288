//! Choosing a backend for a new connection.

use headgate_abi::{Addr, AffinityEntry, AffinityKey, BackendEntry, MemberKey, ServiceEntry};

use crate::{hash::client_hash, tables::Tables};

/// Returns the backend that `hash` falls on, with its id; `None` if the service has no slot, or the slot refuses
/// ([`REFUSED`](headgate_abi::REFUSED)): no backend has its id. The entry may be empty, see [`BackendEntry`].
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

/// Returns the backend for a new connection of `client`, with its id. With session affinity it is
/// the backend that the client got last, if that is still eligible and the timeout has not passed;
/// every new connection renews it.
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
    let now_s = tables.now_s();
    let last = tables.affinity(&key).unwrap_or_default();
    let is_over = last.age_s(now_s) > service.affinity_timeout_s;
    let member = MemberKey {
        service: id,
        backend: last.backend,
    };
    let chosen = match last.backend != 0 && !is_over && tables.is_member(&member) {
        true => (last.backend, tables.backend(last.backend)?),
        // By address, and by the time of the last connection if the affinity is over: two
        // connections that a client opens at once get the same backend, and one that comes later
        // gets a new choice.
        false => {
            let salt = if is_over { last.seen_s } else { 0 };
            let hash = client_hash(client, salt, tables.config().seed);
            select(tables, service, hash)?
        }
    };
    let entry = AffinityEntry {
        backend: chosen.0,
        seen_s: now_s,
    };
    tables.put_affinity(&key, &entry);
    Some(chosen)
}
