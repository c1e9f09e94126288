//! The way of a request: understood, routed, guarded, sent, answered.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use headgate_model::ingress::{PathMatch, Policy, Retry};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header,
    request::Parts, uri::PathAndQuery,
};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tracing::debug;

use crate::{
    Proxy,
    access_log::{Entry, Sent},
    activity::{Activity, InProgress},
    answer,
    auth::{self, Tls},
    body::{Body, Fate, Held, Upload},
    canary,
    compress::{Accepted, compress},
    cors,
    headers::{self, Arrival},
    limits::Admission,
    message::{Ask, Misunderstood},
    path,
    serving::{ServedRoute, ServedTarget},
    upstream::{self, ErrorKind, NoEndpoint, Pick, SendError, Upstream},
};

/// Where certificates are proven over HTTP (RFC 8555, 8.3): never redirected to HTTPS, which may
/// not work yet.
const ACME: &str = "/.well-known/acme-challenge/";
const TOO_LARGE: &str = "the body is too large";
const TOO_LATE: &str = "the body did not come in time";

/// What requests come by.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) is_secure: bool,
    pub(crate) tls: Tls,
    /// The next answer is the last.
    pub(crate) is_closing: AtomicBool,
    /// As far as requests have told.
    pub(crate) is_http2: AtomicBool,
    pub(crate) activity: Arc<Activity>,
}

/// A request whose route is known.
struct Call {
    route: Arc<ServedRoute>,
    client: IpAddr,
    host: String,
    /// In its one form.
    path: String,
}

/// What became of a request.
struct Outcome {
    response: Response<Body>,
    /// Kept until the body is sent.
    guard: Option<Guard>,
    sent: Option<Sent>,
}

type Guard = (Pick, Option<Admission>);

impl From<Response<Body>> for Outcome {
    fn from(response: Response<Body>) -> Self {
        Self {
            response,
            guard: None,
            sent: None,
        }
    }
}

/// Answers a request.
pub(crate) async fn answer(
    proxy: &Proxy,
    connection: &Connection,
    mut request: Request<Incoming>,
) -> Response<Body> {
    let begin = Instant::now();
    let in_progress = connection.activity.begin();
    let protocol = headers::upgrade(request.version(), request.headers());
    let upgrade = protocol.map(|_| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    let version = parts.version;
    connection
        .is_http2
        .store(version == Version::HTTP_2, Ordering::Relaxed);
    let origin = parts.headers.get(header::ORIGIN).cloned();
    let accepted = Accepted::of(&parts.method, &parts.headers);
    let is_grpc = answer::is_grpc(&parts.headers);
    let request_id = request_id(&mut parts.headers);
    let log = proxy.settings.log.as_ref();
    let mut entry = log.map(|log| Entry::new(log.clone(), connection.peer, &parts));
    let call = match route(proxy, connection, &parts) {
        Ok(call) => call,
        Err(response) => {
            let response = finish(response, version, None, None, connection);
            return hold(response, is_grpc, None, in_progress, entry);
        }
    };
    let mut outcome = match gate(&call, connection, &mut parts).await {
        Err(response) => response.into(),
        Ok(cookies) => {
            let mut outcome = match shortcut(&call, connection, &parts) {
                Some(response) => response.into(),
                None => admit(proxy, connection, &call, parts, body, upgrade).await,
            };
            for cookie in cookies {
                let headers = outcome.response.headers_mut();
                headers.append(header::SET_COOKIE, cookie);
            }
            outcome
        }
    };
    let policy = call.route.policy();
    if policy.compress {
        outcome.response = compress(accepted, outcome.response).await;
    }
    let response = finish(
        outcome.response,
        version,
        Some(policy),
        origin.as_ref(),
        connection,
    );
    call.route.stats.count(response.status(), begin.elapsed());
    entry = entry.filter(|_| policy.access_log);
    if let Some(entry) = &mut entry {
        entry.client = call.client;
        entry.ingress = Some((*call.route).as_ref().ingress.clone());
        entry.host = call.host;
        entry.request_id = Some(request_id);
        entry.sent = outcome.sent;
    }
    hold(response, is_grpc, outcome.guard, in_progress, entry)
}

/// The response as it is sent; what the request holds is kept until then.
fn hold(
    response: Response<Body>,
    is_grpc: bool,
    guard: Option<Guard>,
    in_progress: InProgress,
    mut entry: Option<Entry>,
) -> Response<Body> {
    if let Some(entry) = &mut entry {
        entry.status = response.status();
    }
    let response = match is_grpc {
        true => answer::for_grpc(response),
        false => response,
    };
    response.map(|body| Body::boxed(Held::new(body, (guard, in_progress), entry)))
}

/// The client's name for the request, or one that we give it.
fn request_id(headers: &mut HeaderMap) -> HeaderValue {
    let named = headers.get(headers::REQUEST_ID).cloned();
    named.unwrap_or_else(|| {
        let id = format!("{:032x}", fastrand::u128(..));
        headers::insert(headers, headers::REQUEST_ID, &id);
        headers
            .get(headers::REQUEST_ID)
            .cloned()
            .unwrap_or(HeaderValue::from_static(""))
    })
}

fn route(proxy: &Proxy, connection: &Connection, parts: &Parts) -> Result<Call, Response<Body>> {
    let ask = Ask::of(parts).map_err(|why| {
        // Who knows where the next request begins.
        connection.is_closing.store(true, Ordering::Relaxed);
        let status = match why {
            Misunderstood::Method => StatusCode::METHOD_NOT_ALLOWED,
            Misunderstood::Long => StatusCode::URI_TOO_LONG,
            Misunderstood::Coding => StatusCode::NOT_IMPLEMENTED,
            Misunderstood::Host | Misunderstood::Hosts | Misunderstood::Path => {
                StatusCode::BAD_REQUEST
            }
        };
        answer::error(status, &why.to_string())
    })?;
    let trusted = &proxy.settings.trusted;
    let client = headers::client(connection.peer.ip(), &parts.headers, trusted);
    let serving = proxy.serving.load();
    let route = serving.index.find(&ask, parts, client);
    let none = || answer::error(StatusCode::NOT_FOUND, "no rule for this host and path");
    Ok(Call {
        route: route.ok_or_else(none)?.clone(),
        client,
        host: ask.host.into_owned(),
        path: ask.path.into_owned(),
    })
}

/// What stands before everything else: cookies for the client if the request may go on, or its
/// answer.
async fn gate(
    call: &Call,
    connection: &Connection,
    parts: &mut Parts,
) -> Result<Vec<HeaderValue>, Response<Body>> {
    if let Some(response) = guard(call, connection, parts) {
        return Err(response);
    }
    let Some(authenticator) = &call.route.authenticator else {
        return Ok(Vec::new());
    };
    let client = auth::Client {
        address: call.client,
        host: &call.host,
        path: &call.path,
        is_https: is_https(connection, parts, call),
        tls: &connection.tls,
    };
    authenticator.authorize(parts, &client).await
}

/// What needs no proof of anything: who is not let in anyhow, what plain HTTP gets, and preflights,
/// which browsers send without credentials.
fn guard(call: &Call, connection: &Connection, parts: &Parts) -> Option<Response<Body>> {
    let policy = call.route.policy();
    let error = |status, why| Some(answer::error(status, why));
    if policy.closed.is_some() {
        return error(
            StatusCode::SERVICE_UNAVAILABLE,
            "closed: a guard of the rule is not understood",
        );
    }
    let is_in = |networks: &[ipnet::IpNet]| networks.iter().any(|one| one.contains(&call.client));
    let allowed = policy.sources.allow.as_deref();
    if is_in(&policy.sources.deny) || allowed.is_some_and(|allowed| !is_in(allowed)) {
        return error(StatusCode::FORBIDDEN, "not for this address");
    }
    let target = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let is_challenge = call.path.starts_with(ACME);
    if policy.to_https && !is_https(connection, parts, call) && !is_challenge {
        let location = format!("https://{}{target}", call.host);
        return Some(answer::redirect(308, &location));
    }
    let cors = policy.cors.as_ref().filter(|_| cors::is_preflight(parts))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let origin = parts.headers.get(header::ORIGIN);
    cors::allow_preflight(cors, origin, response.headers_mut());
    Some(response)
}

/// What is answered without a backend.
fn shortcut(call: &Call, connection: &Connection, parts: &Parts) -> Option<Response<Body>> {
    let policy = call.route.policy();
    let target = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    if let Some(redirect) = &policy.redirect {
        let scheme = if connection.is_secure {
            "https"
        } else {
            "http"
        };
        let location = redirect.location.replace("$scheme", scheme);
        let location = location.replace("$host", &call.host);
        let location = location.replace("$request_uri", target);
        return Some(answer::redirect(redirect.code, &location));
    }
    if let Some(root) = policy.app_root.as_ref().filter(|_| call.path == "/") {
        return Some(answer::redirect(302, root));
    }
    let length = parts.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let most = policy.limits.body_bytes;
    if length.is_some_and(|length| most.is_some_and(|most| length > most)) {
        return Some(answer::error(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE));
    }
    None
}

/// Whether the client spoke TLS, to us or to a proxy that we trust.
fn is_https(connection: &Connection, parts: &Parts, call: &Call) -> bool {
    let told = || {
        let told = parts.headers.get("x-forwarded-proto");
        // Only behind a trusted proxy is the client another than the peer.
        call.client != connection.peer.ip() && told.is_some_and(|told| told == "https")
    };
    connection.is_secure || told()
}

/// Sends a request if the client's limits allow it.
async fn admit(
    proxy: &Proxy,
    connection: &Connection,
    call: &Call,
    mut parts: Parts,
    body: Incoming,
    upgrade: Option<OnUpgrade>,
) -> Outcome {
    let unavailable = |why| answer::error(StatusCode::SERVICE_UNAVAILABLE, why).into();
    let limiter = call.route.limiter.as_ref();
    let admission = match limiter.map(|limiter| limiter.admit(call.client)) {
        Some(None) => return unavailable("too many requests of this address"),
        Some(Some(admission)) => Some(admission),
        None => None,
    };
    let upstream = match canary::target(&call.route, &parts.headers) {
        ServedTarget::Upstream(upstream) => upstream.clone(),
        ServedTarget::Unavailable => return unavailable("the Service or its port is missing"),
        ServedTarget::Missing => {
            return answer::error(StatusCode::NOT_FOUND, "the backend cannot be served").into();
        }
    };
    if let Err(response) = rewrite(call, &mut parts) {
        return response.into();
    }
    prepare(proxy, connection, call, &mut parts, upgrade.is_some());
    mirror(call, connection, &parts);
    let fate = Arc::new(Fate::default());
    let most = call.route.policy().limits.body_bytes;
    let body = upload(body, most, proxy.settings.body_timeout, &fate);
    let request = Request::from_parts(parts, body);
    let (mut response, pick, sent) = match send(&upstream, call, connection, request).await {
        Ok(answered) => answered,
        Err(_) if fate.is_exceeded() => {
            return answer::error(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE).into();
        }
        Err(_) if fate.is_late() => {
            return answer::error(StatusCode::REQUEST_TIMEOUT, TOO_LATE).into();
        }
        Err(failure) => return failure.response().into(),
    };
    fate.answer();
    if let Some(cookie) = pick.cookie() {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    let mut guard = Some((pick, admission));
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        response = switch(response, upgrade, guard.take());
    } else {
        headers::strip_hop_by_hop(response.headers_mut());
    }
    Outcome {
        response,
        guard,
        sent: Some(sent),
    }
}

fn upload(body: Incoming, most: Option<u64>, longest: Duration, fate: &Arc<Fate>) -> Body {
    use hyper::body::Body as _;
    match body.is_end_stream() {
        true => Body::empty(),
        false => Body::boxed(Upload::new(body, most, longest, fate.clone())),
    }
}

/// Sets the path that the backend gets: the one form of it, or what the rule makes of that.
fn rewrite(call: &Call, parts: &mut Parts) -> Result<(), Response<Body>> {
    let rewritten = call.route.rewrite.as_ref().and_then(|template| {
        let PathMatch::Regex(pattern) = &(*call.route).as_ref().path else {
            return None;
        };
        let mut out = String::new();
        pattern
            .regex()
            .captures(&call.path)?
            .expand(template, &mut out);
        Some(out)
    });
    let path = match &rewritten {
        Some(path) => path::normal(path),
        None => Some(call.path.as_str().into()),
    };
    let bad = || answer::error(StatusCode::BAD_REQUEST, "the path is no path");
    let path = path.ok_or_else(bad)?;
    if path == parts.uri.path() && parts.uri.authority().is_none() {
        return Ok(());
    }
    let target = match parts.uri.query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path.as_ref()),
    };
    parts.uri = Uri::from(target.map_err(|_invalid| bad())?);
    Ok(())
}

/// Sets the headers that the backend gets.
fn prepare(
    proxy: &Proxy,
    connection: &Connection,
    call: &Call,
    parts: &mut Parts,
    is_upgrade: bool,
) {
    let policy = call.route.policy();
    let headers = &mut parts.headers;
    let upgrade = is_upgrade.then(|| headers.get(header::UPGRADE).cloned());
    headers::strip_hop_by_hop(headers);
    if let Some(protocol) = upgrade.flatten() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    let mut trusted = proxy.settings.trusted.iter();
    let arrival = Arrival {
        peer: connection.peer.ip(),
        client: call.client,
        is_secure: connection.is_secure,
        port: connection.local.port(),
        host: &call.host,
        prefix: policy.forwarded_prefix.as_deref(),
    };
    headers::set_forwarded(
        headers,
        arrival,
        trusted.any(|net| net.contains(&arrival.peer)),
    );
    if !headers.contains_key(headers::REQUEST_ID) {
        headers::insert(
            headers,
            headers::REQUEST_ID,
            &format!("{:032x}", fastrand::u128(..)),
        );
    }
    match &policy.host {
        Some(host) => headers::insert(headers, header::HOST, host),
        // Over HTTP/2 the host is in the target.
        None if !headers.contains_key(header::HOST) => {
            headers::insert(headers, header::HOST, &call.host);
        }
        None => {}
    }
    headers::remove_lookalikes(headers, &policy.request_headers);
    headers::edit(headers, &policy.request_headers);
}

/// Sends a copy, without body, of some requests.
fn mirror(call: &Call, connection: &Connection, parts: &Parts) {
    let Some((upstream, percent)) = &call.route.mirror else {
        return;
    };
    if fastrand::u8(..100) >= *percent {
        return;
    }
    let mut copy = Request::from_parts(parts.clone(), Body::empty());
    copy.headers_mut().remove(header::CONTENT_LENGTH);
    let (upstream, ends) = (upstream.clone(), (connection.peer, connection.local));
    let (client, timeouts) = (call.client, call.route.policy().timeouts);
    tokio::spawn(async move {
        let (parts, body) = copy.into_parts();
        let ask = upstream::Ask {
            client,
            parts: &parts,
        };
        if let Ok(pick) = upstream.pick(&ask, &[]) {
            let copy = Request::from_parts(parts, body);
            let sent = upstream.send(&pick, copy, &timeouts, Some(ends)).await;
            if let Err(error) = sent {
                debug!("a copy was not sent: {error}");
            }
        }
    });
}

/// Why no endpoint answered.
enum Failure {
    NoEndpoint(NoEndpoint),
    Send(SendError),
}

impl Failure {
    fn response(&self) -> Response<Body> {
        match self {
            Self::NoEndpoint(why) => {
                answer::error(StatusCode::SERVICE_UNAVAILABLE, &why.to_string())
            }
            Self::Send(error) if error.kind == ErrorKind::Timeout => {
                answer::error(StatusCode::GATEWAY_TIMEOUT, "the endpoint took too long")
            }
            Self::Send(error) if error.kind == ErrorKind::Body => {
                answer::error(StatusCode::BAD_REQUEST, "the body broke off")
            }
            Self::Send(_) => answer::error(StatusCode::BAD_GATEWAY, "the endpoint failed"),
        }
    }
}

/// Sends a request to one endpoint, and to others if that fails in a way that allows it.
async fn send(
    upstream: &Arc<Upstream>,
    call: &Call,
    connection: &Connection,
    mut request: Request<Body>,
) -> Result<(Response<Body>, Pick, Sent), Failure> {
    let begin = Instant::now();
    let policy = call.route.policy();
    let ends = Some((connection.peer, connection.local));
    let mut tried = Vec::new();
    loop {
        let (parts, body) = request.into_parts();
        let ask = upstream::Ask {
            client: call.client,
            parts: &parts,
        };
        let pick = upstream.pick(&ask, &tried).map_err(Failure::NoEndpoint)?;
        tried.push(pick.address());
        let is_last = tried.len() >= policy.retry.tries as usize;
        let spare =
            (!is_last && is_repeatable(&parts, &body, &policy.retry)).then(|| parts.clone());
        let spare = spare.map(|parts| Request::from_parts(parts, Body::empty()));
        let sent = upstream
            .send(
                &pick,
                Request::from_parts(parts, body),
                &policy.timeouts,
                ends,
            )
            .await;
        request = match sent {
            Ok(response) => {
                let is_bad = policy.retry.on_codes.contains(&response.status().as_u16());
                match spare.filter(|_| is_bad) {
                    Some(spare) => spare,
                    None => {
                        let sent = Sent {
                            upstream: upstream.key().clone(),
                            endpoint: pick.address(),
                            tries: tried.len(),
                            took: begin.elapsed(),
                        };
                        return Ok((response, pick, sent));
                    }
                }
            }
            Err(mut error) => {
                debug!(upstream = %upstream.key(), endpoint = %pick.address(), "{error}");
                let is_meant = match error.kind {
                    ErrorKind::Timeout => policy.retry.on_timeout,
                    _ => policy.retry.on_error,
                };
                let again = match error.is_sent {
                    // Given back as it was, whatever the method.
                    false => error.request.take().map(|request| *request).or(spare),
                    true => spare,
                };
                match again.filter(|_| is_meant && !is_last) {
                    Some(again) => again,
                    None => return Err(Failure::Send(error)),
                }
            }
        };
    }
}

/// Whether a request may be sent again although an endpoint may have acted on it.
fn is_repeatable(parts: &Parts, body: &Body, retry: &Retry) -> bool {
    use hyper::body::Body as _;
    let is_idempotent =
        parts.method.is_safe() || matches!(parts.method, Method::PUT | Method::DELETE);
    body.is_end_stream() && (is_idempotent || retry.non_idempotent)
}

/// Joins client and backend once both speak another protocol.
fn switch(
    mut response: Response<Body>,
    upgrade: Option<OnUpgrade>,
    guards: impl Send + 'static,
) -> Response<Body> {
    let Some(client) = upgrade else {
        return answer::error(
            StatusCode::BAD_GATEWAY,
            "the endpoint changed the protocol unasked",
        );
    };
    let backend = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        let Ok((client, backend)) = tokio::try_join!(client, backend) else {
            return;
        };
        let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
        if let Err(error) = copy_bidirectional(&mut client, &mut backend).await {
            debug!("an upgraded connection ended: {error}");
        }
        drop(guards);
    });
    let mut out = Response::new(Body::empty());
    *out.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *out.headers_mut() = std::mem::take(response.headers_mut());
    out
}

/// What every response gets.
fn finish(
    mut response: Response<Body>,
    version: Version,
    policy: Option<&Policy>,
    origin: Option<&HeaderValue>,
    connection: &Connection,
) -> Response<Body> {
    *response.version_mut() = version;
    let headers: &mut HeaderMap = response.headers_mut();
    if connection.is_closing.load(Ordering::Relaxed) && version < Version::HTTP_2 {
        let close = HeaderValue::from_static("close");
        headers.entry(header::CONNECTION).or_insert(close);
    }
    let server = HeaderValue::from_static("headgate");
    headers.entry(header::SERVER).or_insert(server);
    let Some(policy) = policy else {
        return response;
    };
    if connection.is_secure && !policy.hsts.is_empty() {
        headers::insert(headers, header::STRICT_TRANSPORT_SECURITY, &policy.hsts);
    }
    if let Some(cors) = policy.cors.as_ref().filter(|_| origin.is_some()) {
        cors::allow(cors, origin, headers);
    }
    headers::edit(headers, &policy.response_headers);
    response
}
