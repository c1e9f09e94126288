//! Prometheus metrics of the L7 proxy.

use std::{collections::BTreeMap, fmt};

use anyhow::Result;
use headgate_control::IngressStatus;
use headgate_model::edge::RouteKind;
use headgate_proxy::{
    Answers, BUCKETS, CertificateRow, Counted, EndpointHealth, Proxy, SpanCounts,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet, text::encode},
    metrics::MetricType,
    registry::Registry,
};

use crate::http::metrics::{Labels, Metric, Reader, Scrape};

const COUNTERS: [Reader<IngressStatus>; 1] = [Reader {
    name: "headgate_proxy_passes",
    help: "Passes of the loop that makes routes of Ingresses.",
    read: |status| status.revision,
}];

const GAUGES: [Reader<IngressStatus>; 4] = [
    Reader {
        name: "headgate_proxy_ingresses",
        help: "Ingresses that are served.",
        read: |status| status.ingresses.len() as u64,
    },
    Reader {
        name: "headgate_refusals",
        help: "Fields of objects that are refused.",
        read: |status| status.refusals.len() as u64,
    },
    Reader {
        name: "headgate_source_connected",
        help: "1 while the source is reachable.",
        read: |status| status.source.disconnected.is_none().into(),
    },
    Reader {
        name: "headgate_synced",
        help: "1 while the routes hold all that the completely listed source asks for.",
        read: |status| status.is_synced.into(),
    },
];

/// Durations of requests by Ingress or rule.
#[derive(Debug)]
struct Durations(Vec<(Counted, Answers)>);

/// All metrics in the text format.
pub(super) fn text(proxy: &Proxy, status: &IngressStatus) -> Result<String> {
    let is_rule = |(counted, _): &(Counted, Answers)| matches!(counted, Counted::Rule(_));
    let answers = proxy.answers().into_iter();
    let (rules, listeners): (Vec<_>, Vec<_>) = answers.partition(is_rule);
    let mut metrics = vec![
        requests(
            "headgate_proxy_requests",
            "Requests by Ingress, or by route and rule, and class of the status code.",
            &rules,
        ),
        requests(
            "headgate_proxy_listener_requests",
            "Requests by listener of a Gateway, and class of the status code. They are counted by rule as well.",
            &listeners,
        ),
        connections(proxy),
        endpoints(proxy),
        certificates(&proxy.certificates()),
    ];
    metrics.extend(proxy.spans().map(spans));
    metrics.extend(Metric::gauges(&GAUGES, status));
    metrics.extend(Metric::counters(&COUNTERS, status));
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(metrics)));
    registry.register_collector(Box::new(Durations(rules)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// What names an Ingress, a rule or a listener.
fn labels(counted: &Counted) -> Labels {
    match counted {
        Counted::Rule(origin) => {
            let kind = match origin.kind {
                RouteKind::Ingress => "ingress",
                RouteKind::HttpRoute => "httproute",
                RouteKind::GrpcRoute => "grpcroute",
                RouteKind::TlsRoute => "tlsroute",
            };
            let mut labels = vec![
                ("namespace", origin.name.namespace.clone()),
                (kind, origin.name.name.clone()),
            ];
            labels.extend(origin.rule.clone().map(|rule| ("rule", rule)));
            labels
        }
        Counted::Listener(port, listener) => vec![
            ("namespace", port.gateway.namespace.clone()),
            ("gateway", port.gateway.name.clone()),
            ("port", port.port.to_string()),
            ("listener", listener.clone()),
        ],
    }
}

fn requests(name: &'static str, help: &'static str, answers: &[(Counted, Answers)]) -> Metric {
    let requests = answers.iter().flat_map(|(ingress, answers)| {
        let classes = answers.by_class.iter().enumerate().skip(1);
        classes.map(|(class, count)| {
            let mut labels = labels(ingress);
            labels.push(("code", format!("{class}xx")));
            (labels, *count)
        })
    });
    Metric::counter(name, help, requests)
}

fn connections(proxy: &Proxy) -> Metric {
    Metric::gauge(
        "headgate_proxy_connections",
        "Open connections of clients, also upgraded ones and those that are passed through. \
         `--max-connections` limits them.",
        [(Labels::new(), proxy.open_connections() as i64)],
    )
}

fn endpoints(proxy: &Proxy) -> Metric {
    let mut counts: BTreeMap<Labels, i64> = BTreeMap::new();
    for upstream in proxy.upstreams() {
        let service = &upstream.key.service;
        for endpoint in &upstream.endpoints {
            let state = match endpoint.health {
                EndpointHealth::Healthy => "well",
                EndpointHealth::Unhealthy { .. } => "down",
                EndpointHealth::Ejected { .. } => "ejected",
            };
            let labels = vec![
                ("namespace", service.namespace.clone()),
                ("service", service.name.clone()),
                ("port", upstream.key.port.to_string()),
                ("state", state.to_owned()),
            ];
            *counts.entry(labels).or_default() += 1;
        }
    }
    Metric::gauge(
        "headgate_proxy_endpoints",
        "Endpoints by Service, port and health.",
        counts,
    )
}

/// A Secret may have several certificates, since a refused one leaves the one before in use. The one
/// that expires first counts.
fn certificates(rows: &[CertificateRow]) -> Metric {
    let mut ends: BTreeMap<Labels, i64> = BTreeMap::new();
    for row in rows {
        let secret = row.secret.as_deref().and_then(|name| name.split_once('/'));
        let (Some((namespace, secret)), Some(end)) = (secret, row.not_after) else {
            continue;
        };
        let labels = vec![
            ("namespace", namespace.to_owned()),
            ("secret", secret.to_owned()),
        ];
        let end = end.as_second();
        let first = ends.entry(labels).or_insert(end);
        *first = end.min(*first);
    }
    Metric::gauge(
        "headgate_proxy_certificate_not_after_seconds",
        "When the certificate of a Secret expires, in seconds since 1970.",
        ends,
    )
}

fn spans(counts: SpanCounts) -> Metric {
    let results = [
        ("exported", counts.exported),
        ("dropped", counts.dropped),
        ("refused", counts.refused),
    ];
    Metric::counter(
        "headgate_proxy_spans",
        "Spans by result: exported to the collector, dropped since the queue was full, or refused by \
         the collector.",
        results.map(|(result, count)| (vec![("result", result.to_owned())], count)),
    )
}

impl Collector for Durations {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(
            "headgate_proxy_request_duration_seconds",
            "Time from a request to the head of its response.",
            None,
            MetricType::Histogram,
        )?;
        for (ingress, answers) in &self.0 {
            let buckets: Vec<(f64, u64)> = BUCKETS.into_iter().zip(answers.buckets).collect();
            let count = answers.buckets.iter().sum();
            let labels = labels(ingress);
            let mut one = metric.encode_family(&labels)?;
            one.encode_histogram::<NoLabelSet>(answers.seconds, count, &buckets, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use headgate_proxy::{CertificateKind, CertificateRow};
    use jiff::Timestamp;
    use prometheus_client::{encoding::text::encode, registry::Registry};

    use super::{Scrape, certificates};

    #[test]
    fn certificate_that_expires_first_counts() {
        let row = |secret: Option<&str>, end: i64| CertificateRow {
            kind: CertificateKind::Hosts,
            hosts: Vec::new(),
            secret: secret.map(Into::into),
            names: Vec::new(),
            not_after: Some(Timestamp::from_second(end).unwrap()),
        };
        let rows = [
            row(Some("shop/tls"), 30),
            row(None, 5),
            row(Some("shop/tls"), 20),
            row(Some("shop/tls"), 40),
        ];
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Scrape(vec![certificates(&rows)])));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let line =
            "headgate_proxy_certificate_not_after_seconds{namespace=\"shop\",secret=\"tls\"} 20";
        assert_eq!(lines, [line]);
    }
}
