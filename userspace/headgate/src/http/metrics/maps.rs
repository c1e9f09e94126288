//! Counters and fill of the pinned maps, read when asked.

use std::{collections::BTreeMap, path::Path};

use anyhow::Result;
use headgate_abi::Traffic;
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::view::{View, fate};

type Labels<const N: usize> = [(&'static str, String); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;

/// Stands for whatever is not listed one by one.
const OTHER: &str = "other";

/// Traffic by service or by backend.
#[derive(Default)]
struct Flows<const N: usize> {
    connections: Counters<N>,
    packets: Counters<N>,
    bytes: Counters<N>,
}

impl<const N: usize> Flows<N>
where
    Labels<N>: Clone + std::hash::Hash + Eq,
{
    fn add(&self, labels: &Labels<N>, traffic: Traffic) {
        for (family, value) in [
            (&self.connections, traffic.connections),
            (&self.packets, traffic.packets),
            (&self.bytes, traffic.bytes),
        ] {
            family.get_or_create(labels).inc_by(value);
        }
    }
}

/// Adds what the maps below `pins` say. Of services and of backends `max_series` are told one by
/// one, those that are there for longest as a rule, since ids are given from the lowest; the rest
/// together.
pub(super) fn register(registry: &mut Registry, pins: &Path, max_series: usize) -> Result<()> {
    let view = View::open(pins)?;
    register_services(registry, &view, max_series)?;
    register_backends(registry, &view, max_series)?;
    let decisions: Counters<2> = Family::default();
    for (reason, count) in view.maps.reasons()? {
        let labels = [
            ("fate", fate(reason).into()),
            ("reason", reason.name().into()),
        ];
        decisions.get_or_create(&labels).inc_by(count);
    }
    registry.register(
        "headgate_packets",
        "Packets and sockets by what became of them, and why",
        decisions,
    );
    let (entries, capacity, bytes) = <(
        Family<Labels<1>, Gauge>,
        Family<Labels<1>, Gauge>,
        Family<Labels<1>, Gauge>,
    )>::default();
    for usage in view.maps.usage(pins)? {
        let labels = [("map", usage.name.into())];
        entries.get_or_create(&labels).set(usage.entries as i64);
        capacity.get_or_create(&labels).set(usage.capacity.into());
        bytes.get_or_create(&labels).set(usage.bytes as i64);
    }
    registry.register("headgate_map_entries", "Entries in a map", entries);
    registry.register(
        "headgate_map_capacity",
        "Entries that a map has room for",
        capacity,
    );
    registry.register("headgate_map_bytes", "Memory of a map in the kernel", bytes);
    Ok(())
}

fn register_services(registry: &mut Registry, view: &View, max_series: usize) -> Result<()> {
    let flows = Flows::<2>::default();
    let mut listed = BTreeMap::new();
    for id in view.service_ids() {
        let name = view.service_name(id);
        let is_room = listed.len() < max_series;
        let is_listed = *listed.entry(name.clone()).or_insert(is_room);
        let name = name.split_once('/').filter(|_| is_listed);
        let (namespace, service) = name.unwrap_or((OTHER, OTHER));
        let labels = [("namespace", namespace.into()), ("service", service.into())];
        flows.add(&labels, view.maps.service_traffic(id)?);
    }
    registry.register(
        "headgate_service_connections",
        "Connections made to a Service",
        flows.connections,
    );
    registry.register(
        "headgate_service_packets",
        "Packets translated for a Service, both directions",
        flows.packets,
    );
    registry.register(
        "headgate_service_bytes",
        "Bytes of these packets, link header included",
        flows.bytes,
    );
    Ok(())
}

fn register_backends(registry: &mut Registry, view: &View, max_series: usize) -> Result<()> {
    let flows = Flows::<2>::default();
    for (at, row) in view.backends()?.into_iter().enumerate() {
        let backend = if at < max_series {
            row.backend
        } else {
            OTHER.into()
        };
        let labels = [("backend", backend), ("protocol", row.protocol.into())];
        flows.add(
            &labels,
            Traffic {
                connections: row.connections,
                packets: row.packets,
                bytes: row.bytes,
            },
        );
    }
    registry.register(
        "headgate_backend_connections",
        "Connections made to a backend",
        flows.connections,
    );
    registry.register(
        "headgate_backend_packets",
        "Packets translated for a backend, both directions",
        flows.packets,
    );
    registry.register(
        "headgate_backend_bytes",
        "Bytes of these packets, link header included",
        flows.bytes,
    );
    Ok(())
}
