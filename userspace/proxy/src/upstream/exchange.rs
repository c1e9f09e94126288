//! One request to one endpoint, and its answer.

use std::{error::Error, net::SocketAddr, pin::pin};

use headgate_model::ingress::Timeouts;
use http::{Request, Response, StatusCode, header::UPGRADE};
use hyper::{body::Incoming, client::conn::TrySendError};
use tokio::time::{Instant, sleep_until};

use super::{
    ErrorKind, SendError,
    connect::{ConnectError, Connection, Dialer, Purpose},
    endpoint::Endpoint,
    error::Late,
    http1::{self, Sent},
    http2,
    progress::{Phase, Progress, RequestBody},
    reply::{Lease, Leased, is_done},
    silence, target,
};
use crate::Body;

/// Sends a request. One that a kept connection did not take any more, as the endpoint had closed it,
/// is sent on a new one.
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
        may_reuse: dialer.keeps(),
    };
    if purpose.may_reuse
        && let Some(kept) = dialer.reuse(endpoint, purpose.is_upgrade).await
    {
        match send(dialer, kept, request, timeouts).await {
            Err(SendError {
                request: Some(unsent),
                ..
            }) => request = unsent,
            result => return result,
        }
        purpose.may_reuse = false;
    }
    // Large, with all that TLS needs, and seldom wanted: every request would be as large.
    let connected = Box::pin(dialer.connect(endpoint, purpose, timeouts.connect)).await;
    match connected {
        Ok(connection) => send(dialer, connection, request, timeouts).await,
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
    connection: Connection,
    request: Box<Request<Body>>,
    timeouts: &Timeouts,
) -> Result<Response<Leased>, SendError> {
    match connection {
        Connection::Http1(sender) => send_http1(dialer, sender, request, timeouts).await,
        Connection::Http2(stream) => send_http2(dialer, stream, request, timeouts).await,
    }
}

async fn send_http1(
    dialer: &Dialer,
    mut sender: Box<http1::Sender>,
    mut request: Box<Request<Body>>,
    timeouts: &Timeouts,
) -> Result<Response<Leased>, SendError> {
    target::for_http1(&mut request, &dialer.host);
    let request = request.map(RequestBody::new);
    let progress = request.body().progress();
    let answer = sender.send(request, progress.as_deref(), timeouts).await;
    let response = response(answer, progress.as_deref())?;
    let is_changed = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if is_changed || !is_done(progress.as_deref()) {
        sender.detach();
    }
    let lease = match dialer.keeps() {
        true => Lease::Http1(sender, progress),
        false => Lease::Once(sender),
    };
    Ok(response.map(|body| Leased::new(body, lease)))
}

async fn send_http2(
    dialer: &Dialer,
    mut stream: http2::Stream,
    mut request: Box<Request<Body>>,
    timeouts: &Timeouts,
) -> Result<Response<Leased>, SendError> {
    target::for_http2(&mut request, &dialer.host, dialer.scheme());
    let request = request.map(RequestBody::new);
    let progress = request.body().progress();
    let answer = stream.sender.try_send_request(request);
    let timer = pin!(sleep_until(Instant::now()));
    let answer = silence::headers(answer, progress.as_deref(), timeouts, timer).await;
    if answer.is_err() {
        stream.doubt();
    }
    let response = response(answer, progress.as_deref())?;
    Ok(response.map(|body| Leased::new(body, Lease::Http2(stream))))
}

fn response(
    answer: Result<Sent, Late>,
    progress: Option<&Progress>,
) -> Result<Response<Incoming>, SendError> {
    match answer {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(broken(error, progress)),
        Err(late) => Err(SendError {
            kind: ErrorKind::Timeout,
            is_sent: true,
            request: None,
            source: late.into(),
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

/// Whether an endpoint says that it did nothing about a request (RFC 9113, 8.7).
fn is_refused(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(<dyn Error>::downcast_ref);
    cause.is_some_and(|cause: &h2::Error| {
        let refuses = cause.reason() == Some(h2::Reason::REFUSED_STREAM);
        let leaves = cause.is_go_away() && cause.reason() == Some(h2::Reason::NO_ERROR);
        cause.is_remote() && (refuses || leaves)
    })
}
