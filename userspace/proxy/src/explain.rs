//! Explains what the proxy would do with a request, step by step up to the choice of an endpoint. No
//! other service is asked, and no limit is used up.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use headgate_model::edge::GatewayPort;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, header, request::Parts, uri::PathAndQuery,
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    body::Body,
    call::Call,
    choice::{self, Chosen},
    client::Client,
    forward, guard,
    index::{Lack, RouteSearch},
    message::{RequestHead, receive},
    origin::Origin,
    proxy::Proxy,
    rewrite::rewrite,
    routing,
    serving::{ServedRoute, Serving},
    table::{BackendRow, RouteRow, backend_row, route_row, target},
    upstream::Upstream,
    words,
};

/// A request to explain.
#[derive(Clone, Debug)]
pub struct ExplainRequest {
    /// Host, with or without a port.
    pub host: String,
    /// Path and query.
    pub path: PathAndQuery,
    /// Its method.
    pub method: Method,
    /// Its headers. Without `Host` among them, [`Self::host`] is used.
    pub headers: HeaderMap,
    /// The address that connects to the proxy.
    pub client: IpAddr,
    /// Whether the connection uses TLS.
    pub is_tls: bool,
    /// The port of a Gateway that the client connects to; `None` for Ingresses.
    pub gateway: Option<GatewayPort>,
}

/// What the proxy would do with a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// The request.
    pub request: String,
    /// The host whose routes decide: exact, with `*.`, or `any other`. `None` without such routes.
    pub host: Option<String>,
    /// How the host was found.
    pub matched: HostMatch,
    /// Routes of the host with precedence that do not match.
    pub passed: Vec<PassedRow>,
    /// The selected route.
    pub route: Option<RouteRow>,
    /// The steps in their order.
    pub steps: Vec<String>,
    /// The response, if the request needs no backend.
    pub answer: Option<AnswerRow>,
    /// The backend that gets the request.
    pub backend: Option<BackendRow>,
}

/// How the routes of a host were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostMatch {
    /// By its name.
    Exact,
    /// By `*.` for its first label.
    Wildcard,
    /// By rules without host.
    AnyOther,
    /// No rules apply to the host.
    None,
}

/// A route that does not match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedRow {
    /// Paths of the route.
    pub path: String,
    /// Its Ingress.
    pub ingress: String,
    /// The first condition that does not hold.
    pub why: String,
}

/// A response that needs no backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerRow {
    /// Status code.
    pub status: u16,
    /// The location of a redirect, else the body or the status as text.
    pub says: String,
}

impl Explanation {
    fn new(question: &ExplainRequest) -> Self {
        let scheme = if question.is_tls { "https" } else { "http" };
        let ExplainRequest {
            method,
            host,
            path,
            client,
            ..
        } = question;
        Self {
            request: format!("{method} {scheme}://{host}{path} from {client}"),
            host: None,
            matched: HostMatch::None,
            passed: Vec::new(),
            route: None,
            steps: Vec::new(),
            answer: None,
            backend: None,
        }
    }

    fn step(&mut self, step: impl Into<String>) {
        self.steps.push(step.into());
    }

    fn answer(&mut self, response: Response<Body>) {
        let status = response.status().as_u16();
        let location = response.headers().get(header::LOCATION);
        let location = location.and_then(|location| location.to_str().ok());
        let says = match (location, response.body()) {
            (Some(location), _) => location.into(),
            (None, Body::Full(Some(text))) => String::from_utf8_lossy(text).trim().into(),
            (None, _) => response.status().to_string(),
        };
        self.answer = Some(AnswerRow { status, says });
    }

    fn send(&mut self, upstream: &Upstream) {
        let state = upstream.state();
        let key = upstream.key();
        self.step(match (&state.error, state.endpoints.len()) {
            (Some(why), _) => format!("{key} cannot be used: {why}"),
            (None, 0) => format!("{key} has no endpoint: 503 until it has one"),
            (None, 1) => format!("it goes to the one endpoint of {key}"),
            (None, count) => {
                let balance = words::balance(&key.policy);
                format!("it goes to one of {count} endpoints of {key}, {balance}")
            }
        });
        self.backend = Some(backend_row(&state));
    }
}

impl Proxy {
    /// Explains what the proxy would do with a request now. Never blocks.
    pub fn explain(&self, question: &ExplainRequest) -> Explanation {
        let mut explained = Explanation::new(question);
        let Some(mut parts) = parts(question) else {
            explained.step("the host is invalid");
            return explained;
        };
        let serving = self.serving.load();
        let mut client = client(question);
        client.gateway = question.gateway.clone().map(Arc::new);
        if let Err(why) = receive(&mut parts) {
            explained.answer(routing::refuse(&client, why));
            return explained;
        }
        let host = RequestHead::of(&parts).map(|head| head.host.into_owned());
        if question.is_tls && explain_tls(&serving, &client, &parts, &mut explained) {
            return explained;
        }
        if question.is_tls {
            client.is_encrypted = true;
            client.handshake.server_name = host.ok();
        }
        let origin = Origin::of(&client, &parts.headers, &self.settings.trusted);
        let call = routing::route(&serving, &client, origin, Instant::now(), &parts);
        let call = match call {
            Ok(call) => Some(call),
            Err(response) => {
                explained.answer(response);
                None
            }
        };
        if let Ok(head) = RequestHead::of(&parts) {
            let listener = routing::listener(&serving, &client, &head.host);
            if let Ok(listener) = listener {
                let search = listener.index.search(&head, &parts, origin.client);
                explain_host(&search, &mut explained);
                if let Some(call) = &call {
                    explain_route(call, &search, &mut explained);
                }
            }
        }
        if let Some(call) = call {
            explain_call(&call, &mut parts, &mut explained);
        }
        explained
    }
}

/// Returns the head of the request, as of HTTP/1.1.
fn parts(question: &ExplainRequest) -> Option<Parts> {
    let request = Request::builder()
        .method(&question.method)
        .uri(question.path.as_str());
    let (mut parts, ()) = request.body(()).ok()?.into_parts();
    parts.headers = question.headers.clone();
    let host = HeaderValue::from_str(&question.host).ok()?;
    parts.headers.entry(header::HOST).or_insert(host);
    Some(parts)
}

fn client(question: &ExplainRequest) -> Client {
    let peer = SocketAddr::new(question.client, 0);
    let local = SocketAddr::new(IpAddr::from(Ipv4Addr::UNSPECIFIED), 0);
    Client::new(peer, local, question.is_tls)
}

/// Explains the handshake. Returns whether the connection is passed through, which is the last step.
fn explain_tls(
    serving: &Serving,
    client: &Client,
    parts: &Parts,
    explained: &mut Explanation,
) -> bool {
    let Ok(head) = RequestHead::of(parts) else {
        return false;
    };
    let Ok(listener) = routing::listener(serving, client, &head.host) else {
        explained.step("no listener is for this host: the connection is closed");
        return true;
    };
    if let Some(streams) = &listener.streams {
        let backend = streams.backend(&head.host);
        explained.step(match (backend, streams.is_decrypted) {
            (None, _) => "no backend is for this host: the connection is closed",
            (Some(_), true) => "the backend gets the decrypted bytes of the connection",
            (Some(_), false) => "TLS passthrough: the backend gets the connection as it is",
        });
        if let Some(upstream) = backend {
            explained.send(upstream);
        }
        return true;
    }
    if let Some(upstream) = listener.passthrough(&head.host) {
        explained.step("TLS passthrough: the backend gets the connection as it is");
        explained.send(upstream);
        return true;
    }
    let secret = listener.certificates.secret(Some(&head.host));
    explained.step(match secret {
        Some(secret) => format!("TLS shows the certificate of Secret {secret}"),
        None if client.gateway.is_some() => {
            "the handshake fails: the listener has no certificate".into()
        }
        None => "TLS shows a self-signed certificate, which no client trusts".into(),
    });
    if listener.asks_certificate(Some(&head.host)) {
        explained.step("TLS requests a client certificate");
    }
    false
}

fn explain_host(search: &RouteSearch<'_, ServedRoute>, explained: &mut Explanation) {
    let Some(name) = search.host else {
        return explained.step("no rule applies to this host");
    };
    explained.host = Some(words::host(name));
    explained.matched = match name {
        "" => HostMatch::AnyOther,
        _ if name.starts_with("*.") => HostMatch::Wildcard,
        _ => HostMatch::Exact,
    };
    explained.step(match explained.matched {
        HostMatch::Exact => format!("the rules of host {name} decide"),
        HostMatch::Wildcard => format!("no rule names the host: the rules of {name} decide"),
        HostMatch::AnyOther | HostMatch::None => {
            "no rule names the host: the rules without host decide".into()
        }
    });
    for (route, lack) in &search.passed {
        let row = passed_row(route, lack);
        explained.step(format!(
            "the route for {} of {} does not match: {}",
            row.path,
            (**route).as_ref().origin,
            row.why
        ));
        explained.passed.push(row);
    }
}

fn passed_row(served: &ServedRoute, lack: &Lack<'_>) -> PassedRow {
    let route = served.as_ref();
    PassedRow {
        path: words::path(&route.path),
        ingress: words::origin(&route.origin),
        why: match lack {
            Lack::Path => "another path".into(),
            Lack::Condition(condition) => {
                format!("it requires: {}", words::condition(condition))
            }
        },
    }
}

fn explain_route(call: &Call, search: &RouteSearch<'_, ServedRoute>, explained: &mut Explanation) {
    let host = search.host.filter(|_| !search.is_default);
    let row = route_row(host, &call.route);
    explained.step(match search.is_default {
        true => "no route matches: the default backend is selected".into(),
        false => format!(
            "the route for {} of {} matches",
            row.path,
            call.route.model().origin
        ),
    });
    explained.route = Some(row);
}

/// Explains the steps from the route to the choice of an endpoint.
fn explain_call(call: &Call, parts: &mut Parts, explained: &mut Explanation) {
    let policy = call.route.policy();
    for part in &policy.parts {
        explained.step(format!("settings of {part}"));
    }
    if let Some(why) = &policy.closed {
        explained.step(format!("closed: {why}"));
    }
    if let Some(response) = guard::check_policy(call, parts) {
        explained.step("the response needs no authentication");
        return explained.answer(response);
    }
    for auth in &policy.auth {
        let proof = words::proof(auth);
        explained.step(format!("it needs {proof}, which is not checked here"));
    }
    if let Some(response) = guard::local_response(call, parts) {
        explained.step("the response needs no backend");
        return explained.answer(response);
    }
    if call.route.limiter.is_some() {
        let limits = words::limits(&policy.limits).join(", ");
        explained.step(format!("limits, which are not checked here: {limits}"));
    }
    explain_backend(call, parts, explained);
}

fn explain_backend(call: &Call, parts: &mut Parts, explained: &mut Explanation) {
    let canary = call.route.canary.as_ref().map(|(rules, canary)| {
        let weight = choice::weight(rules, &parts.headers);
        (weight, canary)
    });
    let chosen = match canary {
        Some(((weight, total), canary)) if weight >= total => {
            explained.step("it goes to the canary");
            Some(Chosen {
                target: canary,
                weighted: None,
            })
        }
        other => {
            if let Some(((weight, total), canary)) = other.filter(|((weight, _), _)| *weight > 0) {
                let canary = target(canary);
                let step = format!("{weight} of {total} such requests go to the canary, {canary}");
                explained.step(step);
            }
            explain_weights(&call.route, explained)
        }
    };
    let upstream = match forward::upstream(&call.route, chosen) {
        Ok(upstream) => upstream,
        Err(response) => return explained.answer(response),
    };
    if let Err(response) = rewrite(call, parts) {
        return explained.answer(response);
    }
    explained.step(format!("the backend gets {} {}", parts.method, parts.uri));
    for (mirror, share) in &call.route.mirrors {
        explained.step(format!(
            "{} of such requests are copied to {}",
            words::share(*share),
            mirror.key()
        ));
    }
    explained.send(upstream);
}

/// Explains the choice by weight. Returns the target with the most requests.
fn explain_weights<'a>(route: &'a ServedRoute, explained: &mut Explanation) -> Option<Chosen<'a>> {
    let targets: Vec<Chosen<'a>> = choice::weighted(route).collect();
    let total: u64 = targets.iter().map(Chosen::weight).sum();
    if targets.len() > 1 {
        for one in &targets {
            let weight = one.weight();
            let target = target(one.target);
            explained.step(format!("{weight} of {total} such requests go to {target}"));
        }
    }
    targets.into_iter().rev().max_by_key(Chosen::weight)
}
