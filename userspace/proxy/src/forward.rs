//! The steps of a request: check, route, guard, send, respond.

use std::{
    borrow::Cow,
    sync::{Arc, atomic::Ordering},
};

use headgate_model::edge::RouteKind;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts,
};
use hyper::body::Body as _;
use tokio::time::Instant;
use tracing::{Instrument, Span, debug_span, field::Empty};

use crate::{
    access_log::{Delivery, Entry, Pending},
    activity::InProgress,
    answer,
    body::Body,
    call::Call,
    choice::{self, Chosen},
    client::Client,
    compress::{Accepted, compress},
    cors,
    direct::FirstTry,
    error_pages::PageRequest,
    guard::{guard, local_response},
    headers,
    held::Held,
    limits::Admission,
    message::receive,
    mirror::mirror,
    observed::Observed,
    origin::Origin,
    prepare::prepare,
    proxy::Proxy,
    received::Received,
    rewrite::rewrite,
    routing::{refuse, route},
    send::send,
    serving::{ServedRoute, ServedTarget},
    trace::{Arrival, Trace},
    upload::{self, UploadEnd, upload},
    upstream::{Pick, PickInput, Upstream},
};

/// The response to a request, and what the request holds.
struct Forwarded {
    response: Response<Body>,
    /// Kept until the body is sent.
    permits: Option<Permits>,
    sent: Option<Delivery>,
}

pub(crate) type Permits = (Pick, Option<Admission>);

/// What a request holds until the body of its response is sent.
pub(crate) type RequestHeld = (Option<Permits>, Option<InProgress>, Option<Trace>);

/// The response to a client. The request is in progress until the body is sent.
pub(crate) type Answer = Response<Answered>;

/// The body of a response to a client.
pub(crate) type Answered = Observed<Body, Held<RequestHeld>>;

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
/// `first` is its first try, if it was a direct one.
pub(crate) async fn answer(
    proxy: &Proxy,
    client: &Client,
    request: Request<Received>,
    first: Option<Box<FirstTry>>,
) -> Answer {
    let span = debug_span!(
        parent: &client.span,
        "request",
        method = %request.method(),
        host = Empty,
        route = Empty
    );
    let is_head = request.method() == Method::HEAD;
    let mut answer = respond(proxy, client, request, first, &span)
        .instrument(span.clone())
        .await;
    // In HTTP/1.1 the HTTP library leaves out the body itself.
    if is_head && answer.version() == Version::HTTP_2 {
        let length = answer.body().size_hint().exact();
        let body = std::mem::replace(&mut answer.body_mut().body, Body::empty());
        if let Some(length) = length.filter(|_| !body.is_end_stream()) {
            let headers = answer.headers_mut();
            let named = headers.entry(header::CONTENT_LENGTH);
            named.or_insert_with(|| length.into());
        }
    }
    answer
}

async fn respond(
    proxy: &Proxy,
    client: &Client,
    request: Request<Received>,
    mut first: Option<Box<FirstTry>>,
    span: &Span,
) -> Answer {
    let begin = first
        .as_ref()
        .map_or_else(Instant::now, |first| first.begin);
    // For the timeout of an idle connection: HTTP/1.1 has its own.
    let is_http2 = request.version() == Version::HTTP_2;
    let in_progress = is_http2.then(|| client.activity.begin());
    let protocol = headers::upgrade(request.version(), request.headers());
    let (mut parts, body) = request.into_parts();
    let version = parts.version;
    let log = proxy.settings.log.as_ref();
    let mut pending =
        Pending::new(log.map(|log| Entry::new(log.clone(), client.peer, &parts).begun(begin)));
    let has_body = version < Version::HTTP_2 && !body.is_end_stream();
    client.is_unread.store(has_body, Ordering::Relaxed);
    // Without 100 the client may keep its body (RFC 9110, 10.1.1): nothing can follow on the connection.
    let waits = has_body && parts.headers.contains_key(header::EXPECT);
    let end_if_waiting = || {
        if waits && client.is_unread.load(Ordering::Relaxed) {
            client.is_closing.store(true, Ordering::Relaxed);
        }
    };
    let received = receive(&mut parts);
    let origin = Origin::of(client, &parts.headers, &proxy.settings.trusted);
    let page = parts.headers.get(header::ORIGIN).cloned();
    let is_grpc = answer::is_grpc(&parts.headers);
    let request_id = headers::request_id(&mut parts.headers);
    let routed = match (received, &first) {
        (Ok(()), Some(first)) => first.call(client, origin, &parts),
        (Ok(()), None) => route(&proxy.serving.load(), client, origin, begin, &parts),
        (Err(why), _) => Err(refuse(client, why)),
    };
    let trace = trace(
        proxy,
        client,
        origin,
        routed.as_ref().ok(),
        &mut parts,
        begin.into_std(),
    );
    if let Some(entry) = pending.entry() {
        entry.client = origin.client;
        entry.request_id = Some(request_id);
        entry.trace = trace.as_ref().map(|trace| trace.id);
    }
    let mut call = match routed {
        Ok(call) => call,
        Err(response) => {
            end_if_waiting();
            let response = finish(response, version, None, None, client);
            let held = (None, in_progress, trace);
            return hold(response, is_grpc, held, pending.answered(), client, None);
        }
    };
    let is_logged = call.route.policy().access_log;
    if let Some(entry) = pending.entry() {
        entry.route = Some(call.route.clone());
        entry.host.clone_from(&call.host);
        entry.path = Some(call.path.clone());
    }
    if !is_logged {
        drop(pending.answered());
        pending = Pending::new(None);
    }
    call.trace = trace;
    call.record(span);
    let is_compressed = call.route.policy().compress;
    let accepted = is_compressed.then(|| Accepted::of(&parts.method, &parts.headers));
    let mut forwarded = match guard(&call, client, &mut parts, first.as_deref_mut()).await {
        Err(response) => response.into(),
        Ok(pass) => {
            let error_page = PageRequest::of(&call, &parts);
            let mut forwarded = match local_response(&call, &parts) {
                Some(response) => response.into(),
                None => {
                    let request = Request::from_parts(parts, body);
                    let first = first.take();
                    forward(
                        proxy,
                        client,
                        &call,
                        request,
                        protocol,
                        pass.admission,
                        first,
                    )
                    .await
                }
            };
            if let Some(error_page) = error_page {
                forwarded = with_page(error_page, &call, client, forwarded).await;
            }
            for cookie in pass.cookies {
                let headers = forwarded.response.headers_mut();
                headers.append(header::SET_COOKIE, cookie);
            }
            forwarded
        }
    };
    if let Some(accepted) = accepted {
        forwarded.response = compress(accepted, forwarded.response).await;
    }
    end_if_waiting();
    let page = page.as_ref();
    let response = finish(forwarded.response, version, Some(&call), page, client);
    call.route.count(response.status(), begin.elapsed());
    if let Some(entry) = pending.entry() {
        entry.sent = forwarded.sent;
    }
    let held = (forwarded.permits, in_progress, call.trace);
    let route = Some(call.route);
    hold(response, is_grpc, held, pending.answered(), client, route)
}

/// Replaces a response by the error page for its status, if there is one.
async fn with_page(
    page: PageRequest,
    call: &Call,
    client: &Client,
    forwarded: Forwarded,
) -> Forwarded {
    let status = forwarded.response.status();
    // Boxed: large and rarely polled.
    let page = Box::pin(page.page(call, client, status)).await;
    let Some((response, pick, sent)) = page else {
        return forwarded;
    };
    let admission = forwarded.permits.and_then(|(_, admission)| admission);
    Forwarded {
        response,
        permits: Some((pick, admission)),
        sent: forwarded.sent.or(Some(sent)),
    }
}

/// Returns the response whose body holds what the request holds.
fn hold(
    response: Response<Body>,
    is_grpc: bool,
    mut held: RequestHeld,
    mut entry: Option<Box<Entry>>,
    client: &Client,
    route: Option<Arc<ServedRoute>>,
) -> Answer {
    if let Some(entry) = &mut entry {
        entry.status = Some(response.status());
    }
    if let (_, _, Some(trace)) = &mut held {
        trace.set_status(response.status());
    }
    let response = match is_grpc {
        true => answer::for_grpc(response),
        false => response,
    };
    let is_http2 = response.version() == Version::HTTP_2;
    let budget = is_http2.then(|| client.budget.clone());
    let held = Held::new(held, entry, budget, route);
    response.map(|body| Observed::new(body, held))
}

fn trace(
    proxy: &Proxy,
    client: &Client,
    origin: Origin,
    call: Option<&Call>,
    parts: &mut Parts,
    since: std::time::Instant,
) -> Option<Trace> {
    let tracer = proxy.settings.tracer.as_ref()?;
    let arrival = Arrival {
        peer: client.peer,
        port: origin.port,
        is_secure: origin.is_secure,
        is_trusted: origin.is_trusted,
        since,
    };
    tracer.begin(arrival, call.map(Call::routed), parts)
}

/// Sends a request to a backend.
async fn forward(
    proxy: &Proxy,
    client: &Client,
    call: &Call,
    request: Request<Received>,
    protocol: Option<HeaderValue>,
    admission: Option<Admission>,
    first: Option<Box<FirstTry>>,
) -> Forwarded {
    let (mut parts, body) = request.into_parts();
    let chosen = choice::choose(&call.route, &parts.headers);
    let upstream = match upstream(&call.route, chosen) {
        Ok(upstream) => upstream.clone(),
        Err(response) => return response.into(),
    };
    let weighted = chosen.and_then(|chosen| chosen.weighted);
    let uri = parts.uri.clone();
    let headers = match upstream.reads_headers() {
        true => parts.headers.clone(),
        false => HeaderMap::new(),
    };
    let asked = PickInput {
        client: call.origin.client,
        host: &call.host,
        path: Cow::Borrowed(&call.path),
        query: uri.query(),
        headers: &headers,
    };
    let is_asked = protocol.is_some();
    prepare(client, call, &mut parts, protocol);
    if let Err(response) = rewrite(call, &mut parts) {
        return response.into();
    }
    let end = Arc::new(UploadEnd::default());
    let body = upload(body, call, proxy.settings.body_timeout, &end, client);
    let body = match upload::keep_if_short(body, call, &parts.method).await {
        Ok(body) => body,
        Err(_) => return end.response().into(),
    };
    let mut request = Box::new(Request::from_parts(parts, body));
    mirror(call, client, &mut request);
    if let Some(weighted) = weighted.filter(|weighted| !weighted.request_headers.is_empty()) {
        let headers = request.headers_mut();
        headers::remove_lookalikes(headers, &weighted.request_headers);
        headers::edit(headers, &weighted.request_headers);
    }
    let (mut response, pick, sent) =
        match send(&upstream, call, client, &asked, request, first).await {
            Ok(answered) => answered,
            Err(_) if end.is_exceeded() || end.is_late() => return end.response().into(),
            Err(failure) => return failure.response().into(),
        };
    end.answer();
    let cookie = pick.cookie();
    let mut permits = Some((pick, admission));
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        match response.body_mut() {
            Body::Tunnel(tunnel) if is_asked => tunnel.hold(permits.take()),
            _ => {
                let why = "the endpoint switched protocols without a request";
                return answer::error(StatusCode::BAD_GATEWAY, why).into();
            }
        }
    } else {
        headers::end_framing(response.headers_mut());
        headers::strip_hop_by_hop(response.headers_mut());
    }
    if let Some(weighted) = weighted {
        headers::edit(response.headers_mut(), &weighted.response_headers);
    }
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Forwarded {
        response,
        permits,
        sent: Some(sent),
    }
}

/// Returns the upstream for requests to a target, or the response if it has no upstream. The backend of the
/// error pages stands in for a target without endpoints.
#[allow(
    clippy::result_large_err,
    reason = "a response is moved once, either way"
)]
pub(crate) fn upstream<'a>(
    route: &'a ServedRoute,
    chosen: Option<Chosen<'a>>,
) -> Result<&'a Arc<Upstream>, Response<Body>> {
    // For gRPC this is UNAVAILABLE, and 500 would be UNKNOWN.
    let invalid = match (*route).as_ref().origin.kind {
        RouteKind::GrpcRoute => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let target = match chosen {
        Some(chosen) => chosen.target,
        None => return Err(answer::error(invalid, "the rule has no backend")),
    };
    let has_endpoints = match target {
        ServedTarget::Upstream(upstream) => upstream.has_endpoints(),
        ServedTarget::Unavailable => false,
        ServedTarget::Missing | ServedTarget::Invalid(_) => true,
    };
    if let Some(pages) = route.error_pages.as_ref().filter(|_| !has_endpoints) {
        return Ok(pages);
    }
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
        ServedTarget::Invalid(_) => Err(answer::error(
            invalid,
            "the reference to the backend is invalid",
        )),
    }
}

/// Sets the headers of every response. `page` is the origin of the page that asks.
fn finish(
    mut response: Response<Body>,
    version: Version,
    call: Option<&Call>,
    page: Option<&HeaderValue>,
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
    let Some(call) = call else {
        return response;
    };
    let policy = call.route.policy();
    if call.origin.is_secure && !policy.hsts.is_empty() {
        headers::insert(headers, header::STRICT_TRANSPORT_SECURITY, &policy.hsts);
    }
    if let Some(cors) = &policy.cors {
        cors::allow(cors, page, headers);
    }
    headers::edit(headers, &policy.response_headers);
    response
}
