//! Sends one request to one endpoint and waits for the head of its response.

use std::{error::Error, net::SocketAddr, pin::pin};

use headgate_model::ingress::Timeouts;
use http::{Request, Response, StatusCode, header::UPGRADE};
use hyper::{body::Incoming, client::conn::TrySendError};
use tokio::time::{Instant, sleep_until};

use super::{
    ErrorKind, SendError,
    connect::{ConnectError, Dialer, Purpose, UpstreamConn},
    endpoint::Endpoint,
    error::TimedOut,
    http1::{self, SendResult},
    http2,
    progress::{Phase, Progress, RequestBody},
    reply::{Lease, Leased, is_done},
    target,
    timeout::response_head,
};
use crate::body::Body;

/// Sends a request on a pooled connection or a new one. If the endpoint had closed the pooled
/// connection before any of the request was sent, sends it on a new one.
///
/// # Errors
///
/// Fails if no connection can be opened, a timeout ends, or the connection breaks. The error says
/// whether the endpoint may have acted on the request.
pub(super) async fn exchange(
    dialer: &Dialer,
    endpoint: &Endpoint,
    mut request: Box<Request<Body>>,
    timeouts: &Timeouts,
    client: Option<(SocketAddr, SocketAddr)>,
) -> Result<Response<Leased>, SendError> {
    let mut purpose = Purpose {
        client,
        is_upgrade: request.headers().contains_key(UPGRADE),
        may_reuse: dialer.is_pooling(),
    };
    if purpose.may_reuse
        && let Some(pooled) = dialer.take_pooled(endpoint, purpose.is_upgrade).await
    {
        match send(dialer, pooled, request, timeouts).await {
            Err(SendError {
                request: Some(unsent),
                ..
            }) => request = unsent,
            result => return result,
        }
        purpose.may_reuse = false;
    }
    // Boxed: large and rarely polled; inlined it would grow the future of every request.
    let connected = Box::pin(dialer.connect(endpoint, purpose, timeouts.connect)).await;
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
    timeouts: &Timeouts,
) -> Result<Response<Leased>, SendError> {
    match conn {
        UpstreamConn::Http1(conn) => send_http1(dialer, conn, request, timeouts).await,
        UpstreamConn::Http2(stream) => send_http2(dialer, stream, request, timeouts).await,
    }
}

async fn send_http1(
    dialer: &Dialer,
    mut conn: Box<http1::Http1Conn>,
    mut request: Box<Request<Body>>,
    timeouts: &Timeouts,
) -> Result<Response<Leased>, SendError> {
    target::for_http1(&mut request, &dialer.host);
    let request = request.map(RequestBody::recording);
    let progress = request.body().progress();
    let sent = conn.send(request, progress.as_deref(), timeouts).await;
    let response = response(sent, progress.as_deref())?;
    let is_switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if is_switched || !is_done(progress.as_deref()) {
        conn.detach();
    }
    let lease = match dialer.is_pooling() {
        true => Lease::Http1(conn, progress),
        false => Lease::Once(conn, progress),
    };
    Ok(response.map(|body| Leased::new(body, lease)))
}

async fn send_http2(
    dialer: &Dialer,
    mut stream: http2::Http2Stream,
    mut request: Box<Request<Body>>,
    timeouts: &Timeouts,
) -> Result<Response<Leased>, SendError> {
    target::for_http2(&mut request, &dialer.host, dialer.scheme());
    let request = request.map(RequestBody::recording);
    let progress = request.body().progress();
    let sent = stream.sender.try_send_request(request);
    let timer = pin!(sleep_until(Instant::now()));
    let sent = response_head(sent, progress.as_deref(), timeouts, timer).await;
    if sent.is_err() {
        stream.retire();
    }
    let response = response(sent, progress.as_deref())?;
    Ok(response.map(|body| Leased::new(body, Lease::Http2(stream))))
}

fn response(
    sent: Result<SendResult, TimedOut>,
    progress: Option<&Progress>,
) -> Result<Response<Incoming>, SendError> {
    match sent {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(broken(error, progress)),
        Err(timed_out) => Err(SendError {
            kind: ErrorKind::Timeout,
            is_sent: true,
            request: None,
            source: timed_out.into(),
        }),
    }
}

fn broken(mut error: TrySendError<Request<RequestBody>>, progress: Option<&Progress>) -> SendError {
    let request = error.take_message();
    let request = request.map(|request| Box::new(request.map(RequestBody::into_body)));
    SendError {
        kind: match progress.map(Progress::phase) {
            Some(Phase::Broken) => ErrorKind::Body,
            _ => ErrorKind::Broken,
        },
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
