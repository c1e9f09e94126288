//! What the proxy serves, as a table for operators.

use headgate_model::edge::{GatewayPort, Route, UpstreamKey};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    choice::{self, Chosen},
    proxy::Proxy,
    relay::ServedStream,
    serving::{ServedListener, ServedRoute, ServedTarget, Serving},
    stats::Counted,
    tls::facts::{CertificateFacts, CertificateKind},
    upstream::{EndpointState, UpstreamState},
    words,
};

/// What the proxy serves at a moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Table {
    /// The moment.
    pub time: Timestamp,
    /// Routes by host, those of a host by precedence. TLS passthrough is first, the default is last.
    pub routes: Vec<RouteRow>,
    /// Certificates by Secret.
    pub certificates: Vec<CertificateRow>,
    /// Backends by Service and port.
    pub backends: Vec<BackendRow>,
    /// Responses by Ingress and rule.
    pub answers: Vec<AnswersRow>,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRow {
    /// Exact, with `*.`, `any other`, or `default`.
    pub host: String,
    /// Paths that match.
    pub path: String,
    /// Conditions that must hold as well.
    pub conditions: Vec<String>,
    /// The listener of a Gateway that it is for, by Gateway, port and name; `None` for Ingresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// The Ingress that defines it, or kind, name and rule of another object; empty for TLS passthrough.
    pub ingress: String,
    /// Service and port, or `none` with the reason; several with their weights.
    pub target: String,
    /// The target of the canary.
    pub canary: Option<String>,
    /// Access rules, redirects, limits and rewrites, in the order in which they apply.
    pub front: Vec<String>,
}

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRow {
    /// Which hosts it is for.
    pub kind: CertificateKind,
    /// Hosts whose clients are shown it.
    pub hosts: Vec<String>,
    /// The Secret that holds it; `None` if the proxy signed it.
    pub secret: Option<String>,
    /// Subject alternative names: host names and addresses.
    pub names: Vec<String>,
    /// End of its validity; `None` if it cannot be parsed.
    pub not_after: Option<Timestamp>,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendRow {
    /// The Service.
    pub service: String,
    /// Its port.
    pub port: u16,
    /// How endpoints are chosen.
    pub balance: String,
    /// Why no request can be sent, e.g. invalid TLS settings.
    pub error: Option<String>,
    /// Whether most endpoints are unhealthy, so that all of them are used.
    pub is_panicking: bool,
    /// Endpoints by address.
    pub endpoints: Vec<EndpointRow>,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointRow {
    /// Address and port.
    pub address: String,
    /// Weight among the endpoints; at least 1.
    pub weight: u32,
    /// `well`, or why it gets no requests.
    pub health: String,
    /// Requests and passed-through connections in progress.
    pub in_flight: u32,
    /// Requests and passed-through connections so far.
    pub requests: u64,
    /// Failed ones of these.
    pub failures: u64,
    /// Moving average of the response time, in milliseconds.
    pub time_ms: f64,
}

/// Responses of an Ingress or a rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswersRow {
    /// The Ingress, or kind, name and rule of another object.
    pub ingress: String,
    /// Responses by the first digit of their status.
    pub by_class: [u64; 6],
    /// Sum of all response times, in seconds.
    pub seconds: f64,
}

impl Proxy {
    /// Returns what the proxy serves now.
    pub fn table(&self) -> Table {
        let serving = self.serving.load();
        let answers = self.answers().into_iter().filter_map(|(counted, answers)| {
            // Requests of a listener are those of its rules.
            let Counted::Rule(origin) = counted else {
                return None;
            };
            Some(AnswersRow {
                ingress: words::origin(&origin),
                by_class: answers.by_class,
                seconds: answers.seconds,
            })
        });
        let mut answers: Vec<AnswersRow> = answers.collect();
        answers.sort_by(|a, b| a.ingress.cmp(&b.ingress));
        let rows = serving.listeners().flat_map(|(port, _, served)| {
            let listener = listener(port, &served.name);
            let mut rows = passed_rows(served);
            let routes = served.index.routes();
            rows.extend(routes.map(|(host, route)| route_row(host, route)));
            rows.into_iter().map(move |row| RouteRow {
                listener: listener.clone(),
                ..row
            })
        });
        Table {
            time: Timestamp::now(),
            routes: rows.collect(),
            certificates: certificate_rows(&serving),
            backends: self.upstreams().iter().map(backend_row).collect(),
            answers,
        }
    }

    /// Returns the certificates that clients are shown, by Secret.
    pub fn certificates(&self) -> Vec<CertificateRow> {
        certificate_rows(&self.serving.load())
    }
}

/// The name of a listener of a port.
pub(crate) fn listener(port: Option<&GatewayPort>, name: &str) -> Option<String> {
    port.map(|port| format!("{port} {name}"))
}

/// The hosts whose requests are not read.
fn passed_rows(listener: &ServedListener) -> Vec<RouteRow> {
    let passed = listener.passthrough.iter();
    let rows = passed.map(|(host, upstream)| RouteRow {
        host: host.clone(),
        path: "TLS passthrough".into(),
        conditions: Vec::new(),
        listener: None,
        ingress: String::new(),
        target: upstream.key().to_string(),
        canary: None,
        front: Vec::new(),
    });
    let mut rows: Vec<RouteRow> = rows.collect();
    if let Some(streams) = &listener.streams {
        let path = match streams.is_decrypted {
            true => "TLS, decrypted",
            false => "TLS passthrough",
        };
        rows.extend(streams.hosts().map(|(host, stream)| RouteRow {
            host: words::host(host),
            path: path.into(),
            conditions: Vec::new(),
            listener: None,
            ingress: words::origin(&stream.origin),
            target: stream_targets(stream),
            canary: None,
            front: Vec::new(),
        }));
    }
    rows.sort_by(|a, b| a.host.cmp(&b.host));
    rows
}

fn stream_targets(stream: &ServedStream) -> String {
    let targets = stream.targets.iter().map(|(weight, upstream)| {
        let target = match upstream {
            Some(upstream) => upstream.key().to_string(),
            None => "none: the reference to the backend is invalid".into(),
        };
        (weight, target)
    });
    let targets: Vec<(&u64, String)> = targets.collect();
    match &targets[..] {
        [] => "none: no backend has a weight".into(),
        [(_, only)] => only.clone(),
        several => {
            let texts = several.iter();
            let texts = texts.map(|(weight, target)| format!("{weight} {target}"));
            texts.collect::<Vec<_>>().join(", ")
        }
    }
}

fn certificate_rows(serving: &Serving) -> Vec<CertificateRow> {
    let facts = serving.listeners().flat_map(|(port, hostname, listener)| {
        let mut facts = listener.certificates.facts();
        for one in facts.iter_mut().filter(|_| port.is_some()) {
            // Listeners of Gateways have certificates for all of their hosts.
            let names = one.hosts.iter_mut().filter(|host| host.is_empty());
            names.for_each(|host| hostname.clone_into(host));
        }
        facts
    });
    let mut rows: Vec<CertificateRow> = facts.map(certificate_row).collect();
    rows.sort_by(|a, b| (a.kind, &a.secret, &a.hosts).cmp(&(b.kind, &b.secret, &b.hosts)));
    rows
}

fn certificate_row(facts: CertificateFacts) -> CertificateRow {
    let CertificateFacts {
        kind,
        hosts,
        secret,
        names,
        not_after,
    } = facts;
    let mut hosts: Vec<String> = hosts.iter().map(|host| words::host(host)).collect();
    hosts.sort();
    CertificateRow {
        kind,
        hosts,
        secret,
        names,
        not_after,
    }
}

pub(crate) fn route_row(host: Option<&str>, served: &ServedRoute) -> RouteRow {
    let route: &Route = served.as_ref();
    RouteRow {
        host: host.map_or_else(|| "default".into(), words::host),
        path: words::path(&route.path),
        conditions: route.conditions.iter().map(words::condition).collect(),
        listener: None,
        ingress: words::origin(&route.origin),
        target: targets(served),
        canary: served.canary.as_ref().map(|(_, canary)| target(canary)),
        front: words::front(&route.policy),
    }
}

/// The targets of a route that get requests: the one, or all with their weights.
fn targets(served: &ServedRoute) -> String {
    let chosen: Vec<Chosen<'_>> = choice::weighted(served).collect();
    match &chosen[..] {
        [] if served.policy().redirect.is_some() => "none: a redirect".into(),
        [] => "none: the backend is not supported".into(),
        [only] => target(only.target),
        several => {
            let texts = several.iter();
            let texts = texts.map(|one| format!("{} {}", one.weight(), target(one.target)));
            texts.collect::<Vec<_>>().join(", ")
        }
    }
}

pub(crate) fn target(target: &ServedTarget) -> String {
    match target {
        ServedTarget::Upstream(upstream) => upstream.key().to_string(),
        ServedTarget::Unavailable => "none: the Service or its port is missing".into(),
        ServedTarget::Missing => "none: the backend is not supported".into(),
        ServedTarget::Invalid(why) => format!("none: {why}"),
    }
}

pub(crate) fn backend_row(state: &UpstreamState) -> BackendRow {
    let UpstreamKey {
        service,
        port,
        policy,
    } = &state.key;
    BackendRow {
        service: service.to_string(),
        port: *port,
        balance: words::balance(policy),
        error: state.error.clone(),
        is_panicking: state.is_panicking,
        endpoints: state.endpoints.iter().map(endpoint_row).collect(),
    }
}

fn endpoint_row(state: &EndpointState) -> EndpointRow {
    EndpointRow {
        address: state.address.to_string(),
        weight: state.weight,
        health: words::health(&state.health),
        in_flight: state.in_flight,
        requests: state.requests,
        failures: state.failures,
        time_ms: state.time.as_secs_f64() * 1000.0,
    }
}
