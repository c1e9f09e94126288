//! A server that records its calls.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use headgate_control::{Endpoints, Serve};
use headgate_model::{
    ObjectName, Refusal,
    edge::{Edge, Target, UpstreamKey},
};
use tokio::sync::watch;

/// Timeout of every wait; far longer than any of them takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a server received.
#[derive(Clone, Default)]
pub(crate) struct Received {
    pub(crate) edge: Option<Edge>,
    places: BTreeMap<UpstreamKey, Endpoints>,
    /// Each call, in order.
    pub(crate) calls: Vec<String>,
}

impl Received {
    /// One line for each route and each certificate.
    pub(crate) fn dump(&self) -> String {
        let mut lines = String::new();
        let Some(edge) = &self.edge else {
            return "nothing\n".into();
        };
        for (host, at) in &edge.ingress.hosts {
            for route in &at.routes {
                let target = match &route.targets[0].target {
                    Target::Upstream(key) => format!("{key} {}", list(&self.places[key])),
                    other => format!("{other:?}"),
                };
                writeln!(lines, "{host} {} {target}", route.path).unwrap();
            }
        }
        for (host, certificate) in &edge.ingress.certificates {
            let chain = String::from_utf8_lossy(&certificate.chain);
            writeln!(lines, "{host} certificate {chain}").unwrap();
        }
        lines
    }
}

fn list(endpoints: &Endpoints) -> String {
    let texts = endpoints.keys().map(ToString::to_string);
    format!("[{}]", texts.collect::<Vec<_>>().join(" "))
}

/// Publishes what it received after each call. Refuses certificate `bad`.
pub(crate) struct Server(pub(crate) watch::Sender<Received>);

impl Serve for Server {
    fn serve(&mut self, edge: Edge) -> Vec<Refusal> {
        let certificates = edge.ingress.certificates.values();
        let bad = certificates.filter(|certificate| certificate.chain == b"bad");
        let refusals = bad.map(|certificate| {
            let object = ObjectName::Secret(certificate.secret.clone());
            Refusal::new(object, "data[tls.crt]", "is not a certificate")
        });
        let refusals = refusals.collect();
        self.0.send_modify(|received| {
            for key in edge.upstreams() {
                assert!(
                    received.places.contains_key(key),
                    "{key} was not placed before"
                );
            }
            let hosts: Vec<&str> = edge.ingress.hosts.keys().map(String::as_str).collect();
            received.calls.push(format!("serve {}", hosts.join(" ")));
            received.edge = Some(edge);
        });
        refusals
    }

    fn place(&mut self, key: &UpstreamKey, endpoints: Endpoints) {
        self.0.send_modify(|received| {
            received
                .calls
                .push(format!("place {key} {}", list(&endpoints)));
            received.places.insert(key.clone(), endpoints);
        });
    }
}
