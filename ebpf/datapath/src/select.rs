//! Choosing a backend for a new connection.

use headgate_abi::{
    Addr, AffinityEntry, AffinityKey, BackendEntry, MemberKey, Reason, ServiceEntry,
};

use crate::{hash::client_hash, tables::Tables};

/// Returns the backend of the slot that `hash` falls on, with its id.
///
/// # Errors
///
/// `empty` if the service has no slot, [`Reason::StaleBackend`] if the slot's backend was removed
/// after the slot was read: its entry is then empty, and has no address to send to.
#[inline(always)]
fn select<T: Tables>(
    tables: &T,
    service: &ServiceEntry,
    hash: u32,
    empty: Reason,
) -> Result<(u32, BackendEntry), Reason> {
    let slots = service.slots();
    if slots.count == 0 {
        return Err(empty);
    }
    // Scales the hash to the table without a division.
    let slot = (u64::from(hash) * u64::from(slots.count)) >> 32;
    let id = tables.slot(slots.first.wrapping_add(slot as u32));
    let id = id.ok_or(Reason::StaleBackend)?;
    let backend = live_backend(tables, id).ok_or(Reason::StaleBackend)?;
    Ok((id, backend))
}

/// The backend of an id; `None` if its entry is empty.
#[inline(always)]
fn live_backend<T: Tables>(tables: &T, id: u32) -> Option<BackendEntry> {
    tables.backend(id).filter(|entry| entry.port.word() != 0)
}

/// Returns the backend for a new connection of `client`, with its id. With session affinity it is
/// the backend that the client got last, if that is still eligible and the timeout has not passed;
/// every new connection renews it.
///
/// # Errors
///
/// As [`select`].
#[inline(always)]
pub(crate) fn choose<T: Tables>(
    tables: &mut T,
    id: u32,
    service: &ServiceEntry,
    client: &Addr,
    hash: u32,
    empty: Reason,
) -> Result<(u32, BackendEntry), Reason> {
    if service.affinity_timeout_s == 0 {
        return select(tables, service, hash, empty);
    }
    let key = AffinityKey {
        client: *client,
        service: id,
    };
    let chosen = match last_backend(tables, &key, service.affinity_timeout_s) {
        Some(last) => last,
        None => {
            // By address alone: two connections that a client opens at once get the same backend.
            let hash = client_hash(client, 0, tables.config().seed);
            select(tables, service, hash, empty)?
        }
    };
    let entry = AffinityEntry {
        backend: chosen.0,
        seen_s: tables.now_s(),
    };
    tables.put_affinity(&key, &entry);
    Ok(chosen)
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
    Some((last.backend, live_backend(tables, last.backend)?))
}
