//! The way of a request: understood, routed, guarded, sent, answered.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use headgate_model::ingress::Policy;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header, request::Parts,
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
    body::{Body, Fate, Held, Upload},
    canary,
    compress::{Accepted, compress},
    cors,
    gate::{gate, shortcut},
    headers,
    limits::Admission,
    message::{Ask, Misunderstood},
    mirror::mirror,
    prepare::{prepare, rewrite},
    send::send,
    serving::{ServedRoute, ServedTarget, Serving},
    tls::facts::Handshake,
    trace::{self, Trace},
    upstream::{Pick, Upstream},
};

pub(crate) const TOO_LARGE: &str = "the body is too large";
const TOO_LATE: &str = "the body did not come in time";

/// What requests come by.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) peer: SocketAddr,
    /// The peer's address without port, as every request tells it.
    pub(crate) peer_text: HeaderValue,
    pub(crate) local: SocketAddr,
    pub(crate) is_secure: bool,
    pub(crate) tls: Handshake,
    /// The next answer is the last.
    pub(crate) is_closing: AtomicBool,
    /// As far as requests have told.
    pub(crate) is_http2: AtomicBool,
    pub(crate) activity: Arc<Activity>,
}

impl Connection {
    pub(crate) fn new(peer: SocketAddr, local: SocketAddr, is_secure: bool) -> Self {
        let peer_text = HeaderValue::try_from(peer.ip().to_string());
        Self {
            peer,
            peer_text: peer_text.unwrap_or(HeaderValue::from_static("unknown")),
            local,
            is_secure,
            tls: Handshake::default(),
            is_closing: AtomicBool::new(false),
            is_http2: AtomicBool::new(false),
            activity: Arc::new(Activity::new()),
        }
    }
}

/// A request whose route is known.
pub(crate) struct Call {
    pub(crate) route: Arc<ServedRoute>,
    pub(crate) client: IpAddr,
    pub(crate) host: String,
    /// In its one form.
    pub(crate) path: String,
    pub(crate) trace: Option<Trace>,
}

/// What became of a request.
struct Outcome {
    response: Response<Body>,
    /// Kept until the body is sent.
    guard: Option<Guard>,
    sent: Option<Sent>,
}

type Guard = (Pick, Option<Admission>);

/// What a client gets. The request is in progress until its body is sent.
type Answer = Response<Held<(Option<Guard>, InProgress, Option<Trace>)>>;

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
) -> Answer {
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
    let is_grpc = answer::is_grpc(&parts.headers);
    let request_id = request_id(&mut parts.headers);
    let log = proxy.settings.log.as_ref();
    let mut entry = log.map(|log| Box::new(Entry::new(log.clone(), connection.peer, &parts)));
    let routed = route(proxy, &proxy.serving.load(), connection, &parts);
    let trace = trace::begin(proxy, connection, routed.as_ref().ok(), &mut parts, begin);
    if let (Some(entry), Some(trace)) = (&mut entry, &trace) {
        entry.trace = Some(trace.id);
    }
    let mut call = match routed {
        Ok(call) => call,
        Err(response) => {
            let response = finish(response, version, None, None, connection);
            return hold(response, is_grpc, None, in_progress, entry, trace);
        }
    };
    call.trace = trace;
    let is_compressed = call.route.policy().compress;
    let accepted = Accepted::of(&parts.method, &parts.headers).filter(|_| is_compressed);
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
    if let Some(accepted) = accepted {
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
    hold(
        response,
        is_grpc,
        outcome.guard,
        in_progress,
        entry,
        call.trace,
    )
}

/// The response as it is sent; what the request holds is kept until then.
fn hold(
    response: Response<Body>,
    is_grpc: bool,
    guard: Option<Guard>,
    in_progress: InProgress,
    mut entry: Option<Box<Entry>>,
    mut trace: Option<Trace>,
) -> Answer {
    if let Some(entry) = &mut entry {
        entry.status = response.status();
    }
    if let Some(trace) = &mut trace {
        trace.answers(response.status());
    }
    let response = match is_grpc {
        true => answer::for_grpc(response),
        false => response,
    };
    response.map(|body| Held::new(body, (guard, in_progress, trace), entry))
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

pub(crate) fn route(
    proxy: &Proxy,
    serving: &Serving,
    connection: &Connection,
    parts: &Parts,
) -> Result<Call, Response<Body>> {
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
    let route = serving.index.find(&ask, parts, client);
    let none = || answer::error(StatusCode::NOT_FOUND, "no rule for this host and path");
    Ok(Call {
        route: route.ok_or_else(none)?.clone(),
        client,
        host: ask.host.into_owned(),
        path: ask.path.into_owned(),
        trace: None,
    })
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
    let upstream = match upstream(canary::target(&call.route, &parts.headers)) {
        Ok(upstream) => upstream.clone(),
        Err(response) => return response.into(),
    };
    if let Err(response) = rewrite(call, &mut parts) {
        return response.into();
    }
    prepare(proxy, connection, call, &mut parts, upgrade.is_some());
    let fate = Arc::new(Fate::default());
    let most = call.route.policy().limits.body_bytes;
    let body = upload(body, most, proxy.settings.body_timeout, &fate);
    let mut request = Box::new(Request::from_parts(parts, body));
    mirror(call, connection, &mut request);
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

/// The upstream of a target, or what is answered because there is none.
#[allow(
    clippy::result_large_err,
    reason = "a response is moved once, either way"
)]
pub(crate) fn upstream(target: &ServedTarget) -> Result<&Arc<Upstream>, Response<Body>> {
    match target {
        ServedTarget::Upstream(upstream) => Ok(upstream),
        ServedTarget::Unavailable => Err(answer::error(
            StatusCode::SERVICE_UNAVAILABLE,
            "the Service or its port is missing",
        )),
        ServedTarget::Missing => Err(answer::error(
            StatusCode::NOT_FOUND,
            "the backend cannot be served",
        )),
    }
}

fn upload(body: Incoming, most: Option<u64>, longest: Duration, fate: &Arc<Fate>) -> Body {
    use hyper::body::Body as _;
    match body.is_end_stream() {
        true => Body::empty(),
        false => Body::boxed(Upload::new(body, most, longest, fate.clone())),
    }
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
