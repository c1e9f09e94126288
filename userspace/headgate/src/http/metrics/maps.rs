//! Counters and fill of the pinned maps, read for each scrape.

use std::{collections::BTreeMap, path::Path};

use anyhow::Result;
use headgate_abi::Traffic;

use super::{Labels, Metric};
use crate::view::{View, fate};

/// Label of Services and backends without a series of their own.
const OTHER: &str = "other";

/// Traffic by labels.
#[derive(Default)]
struct TrafficByLabels(BTreeMap<Labels, Traffic>);

impl TrafficByLabels {
    fn add(&mut self, labels: Labels, traffic: Traffic) {
        let sum = self.0.entry(labels).or_default();
        sum.connections += traffic.connections;
        sum.packets += traffic.packets;
        sum.bytes += traffic.bytes;
    }

    fn counter(&self, name: &'static str, help: &'static str, read: fn(&Traffic) -> u64) -> Metric {
        let values = self.0.iter();
        let values = values.map(|(labels, traffic)| (labels.clone(), read(traffic)));
        Metric::counter(name, help, values)
    }
}

/// Reads the maps below `pins`. The first `max_series` Services, and backends, have series of their
/// own; the others are summed up as `other`. Ids are assigned from the lowest, so the first ones are
/// mostly the oldest.
pub(super) fn read(pins: &Path, max_series: usize) -> Result<Vec<Metric>> {
    let view = View::open(pins)?;
    let services = services(&view, max_series)?;
    let backends = backends(&view, max_series)?;
    let mut metrics = vec![
        services.counter(
            "headgate_service_connections",
            "Connections to a Service.",
            |traffic| traffic.connections,
        ),
        services.counter(
            "headgate_service_packets",
            "Packets translated for a Service, in both directions.",
            |traffic| traffic.packets,
        ),
        services.counter(
            "headgate_service_bytes",
            "Bytes of the packets translated for a Service, link headers included.",
            |traffic| traffic.bytes,
        ),
        backends.counter(
            "headgate_backend_connections",
            "Connections to a backend.",
            |traffic| traffic.connections,
        ),
        backends.counter(
            "headgate_backend_packets",
            "Packets translated for a backend, in both directions.",
            |traffic| traffic.packets,
        ),
        backends.counter(
            "headgate_backend_bytes",
            "Bytes of the packets translated for a backend, link headers included.",
            |traffic| traffic.bytes,
        ),
    ];
    metrics.push(reasons(&view)?);
    metrics.extend(usage(&view, pins)?);
    Ok(metrics)
}

fn services(view: &View, max_series: usize) -> Result<TrafficByLabels> {
    let mut traffic = TrafficByLabels::default();
    let mut listed = BTreeMap::new();
    for id in view.service_ids() {
        let name = view.service_name(id);
        let has_capacity = listed.len() < max_series;
        let is_listed = *listed.entry(name.clone()).or_insert(has_capacity);
        let name = name.split_once('/').filter(|_| is_listed);
        let (namespace, service) = name.unwrap_or((OTHER, OTHER));
        let labels = vec![("namespace", namespace.into()), ("service", service.into())];
        traffic.add(labels, view.maps.service_traffic(id)?);
    }
    Ok(traffic)
}

fn backends(view: &View, max_series: usize) -> Result<TrafficByLabels> {
    let mut traffic = TrafficByLabels::default();
    for (at, row) in view.backends()?.into_iter().enumerate() {
        let backend = match at < max_series {
            true => row.backend,
            false => OTHER.into(),
        };
        let labels = vec![("backend", backend), ("protocol", row.protocol.into())];
        let row = Traffic {
            connections: row.connections,
            packets: row.packets,
            bytes: row.bytes,
        };
        traffic.add(labels, row);
    }
    Ok(traffic)
}

fn reasons(view: &View) -> Result<Metric> {
    let counts = view.maps.reasons()?.into_iter().map(|(reason, count)| {
        let labels = vec![
            ("fate", fate(reason).into()),
            ("reason", reason.name().into()),
        ];
        (labels, count)
    });
    Ok(Metric::counter(
        "headgate_packets",
        "Packets and sockets by outcome and reason.",
        counts,
    ))
}

fn usage(view: &View, pins: &Path) -> Result<[Metric; 3]> {
    let usage = view.maps.usage(pins)?;
    let labels = |name: &str| vec![("map", name.to_owned())];
    let entries = usage
        .iter()
        .map(|map| (labels(map.name), map.entries as i64));
    let capacities = usage
        .iter()
        .map(|map| (labels(map.name), map.capacity.into()));
    let bytes = usage.iter().map(|map| (labels(map.name), map.bytes as i64));
    Ok([
        Metric::gauge("headgate_map_entries", "Entries in a map.", entries),
        Metric::gauge(
            "headgate_map_capacity",
            "Maximum number of entries of a map.",
            capacities,
        ),
        Metric::gauge(
            "headgate_map_bytes",
            "Memory of a map in the kernel, in bytes.",
            bytes,
        ),
    ])
}
