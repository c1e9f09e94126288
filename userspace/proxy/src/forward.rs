//! The steps of a request: check, route, guard, send, respond.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use headgate_model::ingress::Policy;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header, request::Parts,
};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tracing::{Instrument, Span, debug, debug_span, field::Empty};

use crate::{
    access_log::{Delivery, Entry},
    activity::InProgress,
    answer,
    body::Body,
    call::{Call, Client, TOO_LARGE},
    canary,
    compress::{Accepted, compress},
    cors,
    guard::{guard, local_response},
    headers,
    held::Held,
    limits::Admission,
    message::{Misunderstood, RequestHead},
    mirror::mirror,
    observed::Observed,
    prepare::{prepare, rewrite},
    proxy::Proxy,
    send::send,
    serving::{ServedTarget, Serving},
    trace::{Arrival, Trace},
    upload::{Upload, UploadEnd},
    upstream::{Pick, Upstream},
};

const TOO_LATE: &str = "the request body did not arrive in time";

/// The response to a request, and what the request holds.
struct Forwarded {
    response: Response<Body>,
    /// Kept until the body is sent.
    permits: Option<Permits>,
    sent: Option<Delivery>,
}

type Permits = (Pick, Option<Admission>);

/// The response to a client. The request is in progress until the body is sent.
type Answer = Response<Observed<Body, Held<(Option<Permits>, InProgress, Option<Trace>)>>>;

impl From<Response<Body>> for Forwarded {
    fn from(response: Response<Body>) -> Self {
        Self {
            response,
            permits: None,
            sent: None,
        }
    }
}

/// Answers a request, in a span of its own.
pub(crate) async fn answer(proxy: &Proxy, client: &Client, request: Request<Incoming>) -> Answer {
    let span = debug_span!(
        parent: &client.span,
        "request",
        method = %request.method(),
        host = Empty,
        route = Empty
    );
    respond(proxy, client, request, &span)
        .instrument(span.clone())
        .await
}

async fn respond(
    proxy: &Proxy,
    client: &Client,
    mut request: Request<Incoming>,
    span: &Span,
) -> Answer {
    let begin = Instant::now();
    let in_progress = client.activity.begin();
    let protocol = headers::upgrade(request.version(), request.headers());
    let upgrade = protocol.map(|_| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    let version = parts.version;
    client
        .is_http2
        .store(version == Version::HTTP_2, Ordering::Relaxed);
    let origin = parts.headers.get(header::ORIGIN).cloned();
    let is_grpc = answer::is_grpc(&parts.headers);
    let request_id = request_id(&mut parts.headers);
    let log = proxy.settings.log.as_ref();
    let mut entry = log.map(|log| Box::new(Entry::new(log.clone(), client.peer, &parts)));
    let routed = route(proxy, &proxy.serving.load(), client, &parts);
    let trace = trace(proxy, client, routed.as_ref().ok(), &mut parts, begin);
    if let (Some(entry), Some(trace)) = (&mut entry, &trace) {
        entry.trace = Some(trace.id);
    }
    let mut call = match routed {
        Ok(call) => call,
        Err(response) => {
            let response = finish(response, version, None, None, client);
            return hold(response, is_grpc, None, in_progress, entry, trace);
        }
    };
    call.trace = trace;
    call.record(span);
    let is_compressed = call.route.policy().compress;
    let accepted = Accepted::of(&parts.method, &parts.headers).filter(|_| is_compressed);
    let mut forwarded = match guard(&call, client, &mut parts).await {
        Err(response) => response.into(),
        Ok(cookies) => {
            let mut forwarded = match local_response(&call, client, &parts) {
                Some(response) => response.into(),
                None => forward(proxy, client, &call, parts, body, upgrade).await,
            };
            for cookie in cookies {
                let headers = forwarded.response.headers_mut();
                headers.append(header::SET_COOKIE, cookie);
            }
            forwarded
        }
    };
    let policy = call.route.policy();
    if let Some(accepted) = accepted {
        forwarded.response = compress(accepted, forwarded.response).await;
    }
    let response = finish(
        forwarded.response,
        version,
        Some(policy),
        origin.as_ref(),
        client,
    );
    call.route.stats.count(response.status(), begin.elapsed());
    entry = entry.filter(|_| policy.access_log);
    if let Some(entry) = &mut entry {
        entry.client = call.client;
        entry.ingress = Some((*call.route).as_ref().ingress.clone());
        entry.host = call.host;
        entry.request_id = Some(request_id);
        entry.sent = forwarded.sent;
    }
    hold(
        response,
        is_grpc,
        forwarded.permits,
        in_progress,
        entry,
        call.trace,
    )
}

/// Returns the response whose body holds what the request holds.
fn hold(
    response: Response<Body>,
    is_grpc: bool,
    permits: Option<Permits>,
    in_progress: InProgress,
    mut entry: Option<Box<Entry>>,
    mut trace: Option<Trace>,
) -> Answer {
    if let Some(entry) = &mut entry {
        entry.status = response.status();
    }
    if let Some(trace) = &mut trace {
        trace.set_status(response.status());
    }
    let response = match is_grpc {
        true => answer::for_grpc(response),
        false => response,
    };
    let held = Held::new((permits, in_progress, trace), entry);
    response.map(|body| Observed::new(body, held))
}

/// Returns the request id of the client, or sets a random one.
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

fn trace(
    proxy: &Proxy,
    client: &Client,
    call: Option<&Call>,
    parts: &mut Parts,
    since: Instant,
) -> Option<Trace> {
    let tracer = proxy.settings.tracer.as_ref()?;
    let arrival = Arrival {
        peer: client.peer,
        port: client.local.port(),
        is_secure: client.is_secure,
        since,
    };
    tracer.begin(
        arrival,
        call.map(Call::routed),
        &proxy.settings.trusted,
        parts,
    )
}

pub(crate) fn route(
    proxy: &Proxy,
    serving: &Serving,
    client: &Client,
    parts: &Parts,
) -> Result<Call, Response<Body>> {
    let head = RequestHead::of(parts).map_err(|why| {
        // It is unknown where the next request begins.
        client.is_closing.store(true, Ordering::Relaxed);
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
    let address = headers::client(client.peer.ip(), &parts.headers, trusted);
    let route = serving.index.find(&head, parts, address);
    let none = || answer::error(StatusCode::NOT_FOUND, "no rule for this host and path");
    Ok(Call {
        route: route.ok_or_else(none)?.clone(),
        client: address,
        host: head.host.into_owned(),
        path: head.path.into_owned(),
        trace: None,
    })
}

/// Sends a request if the client's limits allow it.
async fn forward(
    proxy: &Proxy,
    client: &Client,
    call: &Call,
    mut parts: Parts,
    body: Incoming,
    upgrade: Option<OnUpgrade>,
) -> Forwarded {
    let unavailable = |why| answer::error(StatusCode::SERVICE_UNAVAILABLE, why).into();
    let limiter = call.route.limiter.as_ref();
    let admission = match limiter.map(|limiter| limiter.admit(call.client)) {
        Some(None) => return unavailable("too many requests from this client address"),
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
    let trusted = &proxy.settings.trusted;
    prepare(trusted, client, call, &mut parts, upgrade.is_some());
    let end = Arc::new(UploadEnd::default());
    let most = call.route.policy().limits.body_bytes;
    let body = upload(body, most, proxy.settings.body_timeout, &end);
    let mut request = Box::new(Request::from_parts(parts, body));
    mirror(call, client, &mut request);
    let (mut response, pick, sent) = match send(&upstream, call, client, request).await {
        Ok(answered) => answered,
        Err(_) if end.is_exceeded() => {
            return answer::error(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE).into();
        }
        Err(_) if end.is_late() => {
            return answer::error(StatusCode::REQUEST_TIMEOUT, TOO_LATE).into();
        }
        Err(failure) => return failure.response().into(),
    };
    end.answer();
    if let Some(cookie) = pick.cookie() {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    let mut permits = Some((pick, admission));
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        response = switch(response, upgrade, permits.take());
    } else {
        headers::strip_hop_by_hop(response.headers_mut());
    }
    Forwarded {
        response,
        permits,
        sent: Some(sent),
    }
}

/// Returns the upstream of a target, or the response if it has none.
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
            "the backend is not supported",
        )),
    }
}

fn upload(body: Incoming, most: Option<u64>, longest: Duration, end: &Arc<UploadEnd>) -> Body {
    use hyper::body::Body as _;
    match body.is_end_stream() {
        true => Body::empty(),
        false => Body::boxed(Upload::limited(body, most, longest, end.clone())),
    }
}

/// Joins client and backend after both switched protocols.
fn switch(
    mut response: Response<Body>,
    upgrade: Option<OnUpgrade>,
    permits: impl Send + 'static,
) -> Response<Body> {
    let Some(client) = upgrade else {
        return answer::error(
            StatusCode::BAD_GATEWAY,
            "the endpoint switched protocols without a request",
        );
    };
    let backend = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        let Ok((client, backend)) = tokio::try_join!(client, backend) else {
            return;
        };
        let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
        if let Err(error) = copy_bidirectional(&mut client, &mut backend).await {
            debug!(%error, "upgraded connection failed");
        }
        drop(permits);
    });
    let mut out = Response::new(Body::empty());
    *out.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *out.headers_mut() = std::mem::take(response.headers_mut());
    out
}

/// Sets the headers of every response.
fn finish(
    mut response: Response<Body>,
    version: Version,
    policy: Option<&Policy>,
    origin: Option<&HeaderValue>,
    client: &Client,
) -> Response<Body> {
    *response.version_mut() = version;
    let headers: &mut HeaderMap = response.headers_mut();
    if client.is_closing.load(Ordering::Relaxed) && version < Version::HTTP_2 {
        let close = HeaderValue::from_static("close");
        headers.entry(header::CONNECTION).or_insert(close);
    }
    let server = HeaderValue::from_static("headgate");
    headers.entry(header::SERVER).or_insert(server);
    let Some(policy) = policy else {
        return response;
    };
    if client.is_secure && !policy.hsts.is_empty() {
        headers::insert(headers, header::STRICT_TRANSPORT_SECURITY, &policy.hsts);
    }
    if let Some(cors) = policy.cors.as_ref().filter(|_| origin.is_some()) {
        cors::allow(cors, origin, headers);
    }
    headers::edit(headers, &policy.response_headers);
    response
}
