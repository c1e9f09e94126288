//! Prometheus metrics of the controller.

use anyhow::Result;
use headgate_control::ControllerStatus;
use prometheus_client::{encoding::text::encode, registry::Registry};

use crate::http::metrics::{Metric, Reader, Scrape};

const GAUGES: [Reader<ControllerStatus>; 5] = [
    Reader {
        name: "headgate_controller_gateways",
        help: "Gateways of this controller.",
        read: |status| status.gateways as u64,
    },
    Reader {
        name: "headgate_controller_pending",
        help: "Objects that are to be written.",
        read: |status| status.pending as u64,
    },
    Reader {
        name: "headgate_controller_failing",
        help: "Objects whose last write failed.",
        read: |status| status.failing as u64,
    },
    Reader {
        name: "headgate_source_connected",
        help: "1 while the source is reachable.",
        read: |status| status.source.disconnected.is_none().into(),
    },
    Reader {
        name: "headgate_synced",
        help: "1 if all objects were listed.",
        read: |status| status.is_synced.into(),
    },
];

/// All metrics in the text format.
pub(super) fn text(status: &ControllerStatus, is_leading: bool) -> Result<String> {
    let writes = status.writes.iter().map(|((kind, result), count)| {
        let labels = vec![
            ("kind", (*kind).to_owned()),
            ("result", (*result).to_owned()),
        ];
        (labels, *count)
    });
    let mut metrics = vec![
        Metric::gauge(
            "headgate_controller_leading",
            "1 at the replica that writes.",
            [(Vec::new(), i64::from(is_leading))],
        ),
        Metric::counter(
            "headgate_controller_writes",
            "Writes by kind of object and result: written, conflict, gone or failed.",
            writes,
        ),
    ];
    metrics.extend(Metric::gauges(&GAUGES, status));
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(metrics)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}
