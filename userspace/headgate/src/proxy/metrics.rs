//! Metrics of the L7 proxy.

use anyhow::Result;
use headgate_control::IngressStatus;
use headgate_model::NamespacedName;
use headgate_proxy::{Answers, BUCKETS, CertificateRow, EndpointHealth, Proxy, SpanCounts};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet, text::encode},
    metrics::MetricType,
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::Registry,
};

/// Times to answer, by Ingress.
#[derive(Debug)]
struct Times(Vec<(NamespacedName, Answers)>);

/// All of them in the text format.
pub(super) fn text(proxy: &Proxy, status: &IngressStatus) -> Result<String> {
    let mut registry = Registry::default();
    let answers = proxy.answers();
    register_answers(&mut registry, &answers);
    registry.register_collector(Box::new(Times(answers)));
    register_endpoints(&mut registry, proxy);
    register_certificates(&mut registry, &proxy.certificates());
    if let Some(spans) = proxy.spans() {
        register_spans(&mut registry, spans);
    }
    for (name, help, value) in [
        (
            "headgate_proxy_ingresses",
            "Ingresses that are served",
            status.ingresses.len(),
        ),
        (
            "headgate_refusals",
            "What was asked for and is refused",
            status.refusals.len(),
        ),
        (
            "headgate_source_connected",
            "1 while the source can be reached",
            status.disconnected.is_none().into(),
        ),
        (
            "headgate_synced",
            "1 when routes are what a full list of the source asks for",
            status.is_synced.into(),
        ),
    ] {
        registry.register(name, help, ConstGauge::new(value as i64));
    }
    let passes = ConstCounter::new(status.revision);
    registry.register("headgate_proxy_passes", "Passes of the loop", passes);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn labels(ingress: &NamespacedName) -> [(&'static str, String); 2] {
    [
        ("namespace", ingress.namespace.clone()),
        ("ingress", ingress.name.clone()),
    ]
}

fn register_answers(registry: &mut Registry, answers: &[(NamespacedName, Answers)]) {
    let requests: Family<[(&'static str, String); 3], Counter> = Family::default();
    for (ingress, answers) in answers {
        let [namespace, name] = labels(ingress);
        for (class, count) in answers.by_class.iter().enumerate().skip(1) {
            let labels = [
                namespace.clone(),
                name.clone(),
                ("code", format!("{class}xx")),
            ];
            requests.get_or_create(&labels).inc_by(*count);
        }
    }
    registry.register(
        "headgate_proxy_requests",
        "Requests by Ingress and first digit of the status",
        requests,
    );
}

fn register_endpoints(registry: &mut Registry, proxy: &Proxy) {
    let endpoints: Family<[(&'static str, String); 4], Gauge> = Family::default();
    for upstream in proxy.upstreams() {
        let service = &upstream.key.service;
        for endpoint in &upstream.endpoints {
            let state = match endpoint.health {
                EndpointHealth::Healthy => "well",
                EndpointHealth::Unhealthy { .. } => "down",
                EndpointHealth::Ejected { .. } => "ejected",
            };
            let labels = [
                ("namespace", service.namespace.clone()),
                ("service", service.name.clone()),
                ("port", upstream.key.port.to_string()),
                ("state", state.to_owned()),
            ];
            endpoints.get_or_create(&labels).inc();
        }
    }
    registry.register(
        "headgate_proxy_endpoints",
        "Endpoints by Service, port, and whether they get requests",
        endpoints,
    );
}

/// Of several certificates of one Secret, the one that ends first counts: one that is refused leaves
/// the one before in its place.
fn register_certificates(registry: &mut Registry, rows: &[CertificateRow]) {
    let ends: Family<[(&'static str, String); 2], Gauge> = Family::default();
    for row in rows {
        let secret = row.secret.as_deref().and_then(|name| name.split_once('/'));
        let (Some((namespace, secret)), Some(end)) = (secret, row.not_after) else {
            continue;
        };
        let labels = [
            ("namespace", namespace.to_owned()),
            ("secret", secret.to_owned()),
        ];
        let gauge = ends.get_or_create_owned(&labels);
        let end = end.as_second();
        let known = gauge.get();
        if known == 0 || end < known {
            gauge.set(end);
        }
    }
    registry.register(
        "headgate_proxy_certificate_not_after_seconds",
        "When the certificate of a Secret ends, as seconds since 1970",
        ends,
    );
}

fn register_spans(registry: &mut Registry, counts: SpanCounts) {
    let spans: Family<[(&'static str, &'static str); 1], Counter> = Family::default();
    for (result, count) in [
        ("exported", counts.exported),
        ("dropped", counts.dropped),
        ("refused", counts.refused),
    ] {
        let counter = spans.get_or_create_owned(&[("result", result)]);
        counter.inc_by(count);
    }
    registry.register(
        "headgate_proxy_spans",
        "Spans that the collector took, that found no room while it was away, that it did not want",
        spans,
    );
}

impl Collector for Times {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut metric = encoder.encode_descriptor(
            "headgate_proxy_request_duration_seconds",
            "Time from a request to the head of its response",
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
