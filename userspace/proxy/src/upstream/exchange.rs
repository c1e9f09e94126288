//! Sends one request to one endpoint and waits for the head of its response.

use std::{error::Error, mem, net::SocketAddr, pin::pin};

use headgate_model::edge::Timeouts;
use http::{Request, Response, StatusCode, header::UPGRADE};
use hyper::client::conn::TrySendError;
use tokio::time::{Instant, sleep_until};

use super::{
    ErrorKind, SendError,
    connect::{ConnectError, Dialer, Purpose, UpstreamConn},
    endpoint::Endpoint,
    error::TimedOut,
    http1::Http1Conn,
    http2,
    progress::{Phase, Progress, RequestBody},
    reply::Leased,
    target,
    timeout::response_head,
};
use crate::{body::Body, http1::BadMessage, message::copy};

/// Timeouts, and when the caller no longer waits.
type Limits<'a> = (&'a Timeouts, Option<Instant>);

/// Sends a request on a pooled connection or a new one. If nothing of it could be sent on the pooled
/// connection, because the endpoint had closed it, sends it on a new one.
///
/// # Errors
///
/// Fails if no connection can be opened, a timeout ends, or the connection breaks. The error says
/// whether the endpoint may have acted on the request.
pub(super) async fn exchange(
    dialer: &Dialer,
    endpoint: &Endpoint,
    mut request: Box<Request<Body>>,
    timeouts: Limits<'_>,
    client: Option<(SocketAddr, SocketAddr)>,
) -> Result<Response<Leased>, SendError> {
    let mut purpose = Purpose {
        client,
        is_upgrade: request.headers().contains_key(UPGRADE),
        may_reuse: dialer.is_pooling(),
    };
    if purpose.may_reuse
        && let Some(pooled) = dialer.take_pooled(endpoint, purpose.is_upgrade)
    {
        match send(dialer, pooled, request, timeouts).await {
            Err(SendError {
                is_sent: false,
                request: Some(unsent),
                ..
            }) => request = unsent,
            result => return result,
        }
        purpose.may_reuse = false;
    }
    // Boxed: large and rarely polled; inlined it would grow the future of every request.
    let connected = Box::pin(dialer.connect(endpoint, purpose, timeouts.0.connect)).await;
    match connected {
        Ok(conn) => send(dialer, conn, request, timeouts).await,
        Err(error) => Err(unsent(error, request)),
    }
}

fn unsent((kind, source): ConnectError, request: Box<Request<Body>>) -> SendError {
    SendError {
        kind,
        is_sent: false,
        request: Some(request),
        source,
    }
}

async fn send(
    dialer: &Dialer,
    conn: UpstreamConn,
    request: Box<Request<Body>>,
    timeouts: Limits<'_>,
) -> Result<Response<Leased>, SendError> {
    match conn {
        UpstreamConn::Http1(conn) => send_http1(dialer, conn, request, timeouts.0).await,
        UpstreamConn::Http2(stream) => send_http2(dialer, stream, request, timeouts).await,
    }
}

async fn send_http1(
    dialer: &Dialer,
    mut conn: Box<Http1Conn>,
    mut request: Box<Request<Body>>,
    timeouts: &Timeouts,
) -> Result<Response<Leased>, SendError> {
    target::for_http1(&mut request, &dialer.host);
    let kept = request.body().in_memory().map(Body::from);
    let is_kept = kept.is_some();
    let body = mem::replace(request.body_mut(), kept.unwrap_or_else(Body::empty));
    let body = RequestBody::recording(body);
    let progress = body.progress();
    let sent = conn
        .send(&mut request, body, progress.as_deref(), timeouts)
        .await;
    let again = is_kept.then_some(request);
    let parts = match sent {
        Ok(Ok(parts)) => parts,
        Ok(Err(source)) => {
            return Err(SendError {
                kind: kind(progress.as_deref()),
                is_sent: conn.has_begun(),
                request: again,
                source,
            });
        }
        Err(timed_out) => return Err(late(timed_out, again)),
    };
    match lease(conn, parts.status, dialer) {
        Ok(body) => Ok(Response::from_parts(parts, body)),
        Err(source) => Err(SendError {
            kind: ErrorKind::Broken,
            is_sent: true,
            request: again,
            source: source.into(),
        }),
    }
}

/// Returns the body of a response whose head is here.
///
/// # Errors
///
/// If the endpoint switched protocols before it had the whole request: what is left of it would become
/// a part of the other protocol.
pub(super) fn lease(
    mut conn: Box<Http1Conn>,
    status: StatusCode,
    dialer: &Dialer,
) -> Result<Leased, BadMessage> {
    match status {
        StatusCode::SWITCHING_PROTOCOLS if !conn.is_sent() => Err(BadMessage::Invalid),
        StatusCode::SWITCHING_PROTOCOLS => Ok(Leased::Tunnel(conn.take_tunnel())),
        _ => {
            conn.detach_upload();
            Ok(Leased::Http1(conn, dialer.is_pooling()))
        }
    }
}

async fn send_http2(
    dialer: &Dialer,
    mut stream: http2::Http2Stream,
    mut request: Box<Request<Body>>,
    (timeouts, end): Limits<'_>,
) -> Result<Response<Leased>, SendError> {
    target::for_http2(&mut request, &dialer.host, dialer.scheme());
    let is_short = request.body().in_memory().is_some();
    let spare = is_short.then(|| copy(&request));
    let request = request.map(RequestBody::recording);
    let progress = request.body().progress();
    let sent = stream.sender.try_send_request(request);
    // The caller drops this future then.
    stream.retire_at(end);
    let timer = pin!(sleep_until(Instant::now()));
    let sent = response_head(sent, progress.as_deref(), timeouts, timer).await;
    stream.retire_at(None);
    if sent.is_err() {
        stream.retire();
    }
    let response = match sent {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            let mut error = broken(error, progress.as_deref());
            error.request = error.request.or(spare);
            return Err(error);
        }
        Err(timed_out) => return Err(late(timed_out, spare)),
    };
    Ok(response.map(|body| Leased::Http2(body, stream)))
}

pub(super) fn late(timed_out: TimedOut, request: Option<Box<Request<Body>>>) -> SendError {
    SendError {
        kind: ErrorKind::Timeout,
        is_sent: true,
        request,
        source: timed_out.into(),
    }
}

/// The kind of an error of the connection.
fn kind(progress: Option<&Progress>) -> ErrorKind {
    match progress.map(Progress::phase) {
        Some(Phase::Broken) => ErrorKind::Body,
        _ => ErrorKind::Broken,
    }
}

fn broken(mut error: TrySendError<Request<RequestBody>>, progress: Option<&Progress>) -> SendError {
    let request = error.take_message();
    let request = request.map(|request| Box::new(request.map(RequestBody::into_body)));
    SendError {
        kind: kind(progress),
        is_sent: request.is_none() && !is_refused(error.error()),
        request,
        source: error.into_error().into(),
    }
}

/// Whether the endpoint says that it did not process the request (RFC 9113, 8.7).
fn is_refused(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(<dyn Error>::downcast_ref);
    cause.is_some_and(|cause: &h2::Error| {
        let refuses = cause.reason() == Some(h2::Reason::REFUSED_STREAM);
        let leaves = cause.is_go_away() && cause.reason() == Some(h2::Reason::NO_ERROR);
        cause.is_remote() && (refuses || leaves)
    })
}
