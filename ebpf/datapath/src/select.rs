//! Choosing a backend for a new connection.

use headgate_abi::{Addr, AffinityEntry, AffinityKey, BackendEntry, MemberKey, ServiceEntry};

use crate::{hash::client_hash, tables::Tables};

/// Returns the backend that `hash` falls on, with its id; `None` if the service has no slot. The
/// entry may be empty, see [`BackendEntry`].
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
    let chosen = match last_backend(tables, &key, service.affinity_timeout_s) {
        Some(last) => last,
        // By address alone: two connections that a client opens at once get the same backend.
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
    if last.age_s(tables.now_s()) > timeout_s || !tables.is_member(&member) {
        return None;
    }
    Some((last.backend, tables.backend(last.backend)?))
}
