//! What would become of a request, told step by step. It takes the way of requests up to the choice of
//! an endpoint; nobody is asked and nothing is used up.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, header, request::Parts, uri::PathAndQuery,
};
use serde::{Deserialize, Serialize};

use crate::{
    body::Body,
    call::{Call, Client},
    canary, forward, guard, headers,
    index::{Lack, RouteSearch},
    message::RequestHead,
    prepare,
    proxy::Proxy,
    serving::{ServedRoute, Serving},
    table::{BackendRow, RouteRow, backend_row, route_row, target},
    upstream::Upstream,
    words,
};

/// A request that somebody wonders about.
#[derive(Clone, Debug)]
pub struct ExplainRequest {
    /// Host, with or without a port.
    pub host: String,
    /// Path and query.
    pub path: PathAndQuery,
    /// Its method.
    pub method: Method,
    /// Its headers; `Host` is the host if it is not among them.
    pub headers: HeaderMap,
    /// Who sends it, to us.
    pub client: IpAddr,
    /// Whether it comes over TLS.
    pub is_tls: bool,
}

/// What would become of a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// The request.
    pub request: String,
    /// The host whose routes decide: exact, with `*.`, or `any other`; none if nobody has it.
    pub host: Option<String>,
    /// How that was found.
    pub matched: HostMatch,
    /// Routes of the host that come before and do not match.
    pub passed: Vec<PassedRow>,
    /// The route that is taken.
    pub route: Option<RouteRow>,
    /// What happens, one thing after the other.
    pub steps: Vec<String>,
    /// What is answered without a backend.
    pub answer: Option<AnswerRow>,
    /// Who gets the request.
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
    /// They are for every host that has none.
    AnyOther,
    /// There are none.
    None,
}

/// A route that does not match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedRow {
    /// Which paths.
    pub path: String,
    /// Who asked for it.
    pub ingress: String,
    /// What does not hold.
    pub why: String,
}

/// What is answered without a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerRow {
    /// Status code.
    pub status: u16,
    /// What is said with it: a line, or where to go.
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
            (None, 0) => format!("{key} has no endpoint: 503 until there is one"),
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
    /// Tells what would become of a request now.
    pub fn explain(&self, question: &ExplainRequest) -> Explanation {
        let mut explained = Explanation::new(question);
        let Some(mut parts) = parts(question) else {
            explained.step("the host is no host");
            return explained;
        };
        let serving = self.serving.load();
        let client = client(question);
        if question.is_tls && tell_tls(&serving, &parts, &mut explained) {
            return explained;
        }
        let call = forward::route(self, &serving, &client, &parts);
        let call = match call {
            Ok(call) => Some(call),
            Err(response) => {
                explained.answer(response);
                None
            }
        };
        if let Ok(head) = RequestHead::of(&parts) {
            let address = headers::client(question.client, &parts.headers, &self.settings.trusted);
            let search = serving.index.search(&head, &parts, address);
            tell_host(&search, &mut explained);
            if let Some(call) = &call {
                tell_route(call, &search, &mut explained);
            }
        }
        if let Some(call) = call {
            tell_call(&call, &client, &mut parts, &mut explained);
        }
        explained
    }
}

/// The head of the request, as it would come over HTTP/1.1.
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

/// What the handshake does. Whether that is all, for the connection goes on unopened.
fn tell_tls(serving: &Serving, parts: &Parts, explained: &mut Explanation) -> bool {
    let Ok(head) = RequestHead::of(parts) else {
        return false;
    };
    if let Some(upstream) = serving.passthrough(&head.host) {
        explained
            .step("TLS of this host is not opened: the connection goes to its backend as it is");
        explained.send(upstream);
        return true;
    }
    let secret = serving.certificates.secret(Some(&head.host));
    explained.step(match secret {
        Some(secret) => format!("TLS shows the certificate of Secret {secret}"),
        None => "TLS shows a certificate that we signed ourselves: nobody trusts it".into(),
    });
    if serving.asks_certificate(Some(&head.host)) {
        explained.step("TLS asks the client for a certificate");
    }
    false
}

fn tell_host(search: &RouteSearch<'_, ServedRoute>, explained: &mut Explanation) {
    let Some(name) = search.host else {
        return explained.step("no rule is for this host, and none for every host");
    };
    explained.host = Some(words::host(name));
    explained.matched = match name {
        "" => HostMatch::AnyOther,
        _ if name.starts_with("*.") => HostMatch::Wildcard,
        _ => HostMatch::Exact,
    };
    explained.step(match explained.matched {
        HostMatch::Exact => format!("the rules of host {name} decide"),
        HostMatch::Wildcard => format!("no rule names the host: those of {name} decide"),
        HostMatch::AnyOther | HostMatch::None => {
            "no rule names the host: those without host decide".into()
        }
    });
    for (route, lack) in &search.passed {
        let row = passed_row(route, lack);
        explained.step(format!(
            "not the route for {} of Ingress {}: {}",
            row.path, row.ingress, row.why
        ));
        explained.passed.push(row);
    }
}

fn passed_row(served: &ServedRoute, lack: &Lack<'_>) -> PassedRow {
    let route = served.as_ref();
    PassedRow {
        path: words::path(&route.path),
        ingress: route.ingress.to_string(),
        why: match lack {
            Lack::Path => "the path is another".into(),
            Lack::Condition(condition) => {
                format!("it wants: {}", words::condition(condition))
            }
        },
    }
}

fn tell_route(call: &Call, search: &RouteSearch<'_, ServedRoute>, explained: &mut Explanation) {
    let host = search.host.filter(|_| !search.is_default);
    let row = route_row(host, &call.route);
    explained.step(match search.is_default {
        true => "no route matches: the default backend gets it".into(),
        false => format!(
            "the route for {} of Ingress {} matches",
            row.path, row.ingress
        ),
    });
    explained.route = Some(row);
}

/// What is done with a request whose route is known, up to the choice of an endpoint.
fn tell_call(call: &Call, client: &Client, parts: &mut Parts, explained: &mut Explanation) {
    let policy = call.route.policy();
    if let Some(response) = guard::check_policy(call, client, parts) {
        explained.step("it is answered before it has to prove anything");
        return explained.answer(response);
    }
    for auth in &policy.auth {
        let proof = words::proof(auth);
        explained.step(format!("it needs {proof}, which is not tried here"));
    }
    if let Some(response) = guard::local_response(call, client, parts) {
        explained.step("it is answered without a backend");
        return explained.answer(response);
    }
    if call.route.limiter.is_some() {
        let limits = words::limits(&policy.limits).join(", ");
        explained.step(format!("limits, which are not looked at here: {limits}"));
    }
    tell_backend(call, parts, explained);
}

fn tell_backend(call: &Call, parts: &mut Parts, explained: &mut Explanation) {
    let chosen = match &call.route.canary {
        Some((rules, canary)) => match canary::weight(rules, &parts.headers) {
            (0, _) => &call.route.target,
            (weight, total) if weight >= total => {
                explained.step("it is the canary's");
                canary
            }
            (weight, total) => {
                let canary = target(canary);
                let step = format!("{weight} of {total} such requests go to the canary, {canary}");
                explained.step(step);
                &call.route.target
            }
        },
        None => &call.route.target,
    };
    let upstream = match forward::upstream(chosen) {
        Ok(upstream) => upstream,
        Err(response) => return explained.answer(response),
    };
    if let Err(response) = prepare::rewrite(call, parts) {
        return explained.answer(response);
    }
    explained.step(format!("the backend gets {} {}", parts.method, parts.uri));
    if let Some((mirror, percent)) = &call.route.mirror {
        explained.step(format!(
            "{percent} % of such requests are copied to {}",
            mirror.key()
        ));
    }
    explained.send(upstream);
}
