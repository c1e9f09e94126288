//! One request to one endpoint, and its answer.

use std::{error::Error, net::SocketAddr};

use headgate_model::ingress::Timeouts;
use http::{Request, Response, header::UPGRADE};
use hyper::{body::Incoming, client::conn::TrySendError};

use super::{
    ErrorKind, SendError,
    connect::{ConnectError, Connection, Dialer, Purpose},
    endpoint::Endpoint,
    error::Late,
    http1, http2,
    progress::{Phase, Progress, RequestBody},
    reply::Lease,
    silence, target,
};
use crate::Body;

/// An answer, and what its body comes on.
pub(super) type Answer = (Response<Incoming>, Lease);

/// Sends a request. One that a kept connection did not take any more, as the endpoint had closed it,
/// is sent on a new one.
pub(super) async fn exchange(
    dialer: &Dialer,
    endpoint: &Endpoint,
    request: Request<Body>,
    timeouts: &Timeouts,
    client: Option<(SocketAddr, SocketAddr)>,
) -> Result<Answer, SendError> {
    let mut purpose = Purpose {
        client,
        is_upgrade: request.headers().contains_key(UPGRADE),
        may_reuse: dialer.keeps(),
    };
    let mut request = request;
    if purpose.may_reuse
        && let Some(kept) = dialer.reuse(endpoint, purpose.is_upgrade).await
    {
        match send(dialer, kept, request, timeouts).await {
            Err(SendError {
                request: Some(unsent),
                ..
            }) => request = *unsent,
            result => return result,
        }
        purpose.may_reuse = false;
    }
    match dialer.connect(endpoint, purpose, timeouts.connect).await {
        Ok(connection) => send(dialer, connection, request, timeouts).await,
        Err(error) => Err(unsent(error, request)),
    }
}

fn unsent((kind, source): ConnectError, request: Request<Body>) -> SendError {
    SendError {
        kind,
        is_sent: false,
        request: Some(Box::new(request)),
        source,
    }
}

async fn send(
    dialer: &Dialer,
    connection: Connection,
    request: Request<Body>,
    timeouts: &Timeouts,
) -> Result<Answer, SendError> {
    let request = request.map(RequestBody::new);
    match connection {
        Connection::Http1(sender) => send_http1(dialer, sender, request, timeouts).await,
        Connection::Http2(stream) => send_http2(dialer, stream, request, timeouts).await,
    }
}

async fn send_http1(
    dialer: &Dialer,
    mut sender: http1::Sender,
    mut request: Request<RequestBody>,
    timeouts: &Timeouts,
) -> Result<Answer, SendError> {
    target::for_http1(&mut request, &dialer.host);
    let progress = request.body().progress();
    let answer = sender.try_send_request(request);
    let answer = silence::headers(answer, progress.as_deref(), timeouts).await;
    let response = response(answer, progress.as_deref())?;
    let lease = match dialer.keeps() {
        true => Lease::Http1(sender, progress),
        false => Lease::Once,
    };
    Ok((response, lease))
}

async fn send_http2(
    dialer: &Dialer,
    mut stream: http2::Stream,
    mut request: Request<RequestBody>,
    timeouts: &Timeouts,
) -> Result<Answer, SendError> {
    target::for_http2(&mut request, &dialer.host, dialer.scheme());
    let progress = request.body().progress();
    let answer = stream.sender.try_send_request(request);
    let answer = silence::headers(answer, progress.as_deref(), timeouts).await;
    if answer.is_err() {
        stream.doubt();
    }
    let response = response(answer, progress.as_deref())?;
    Ok((response, Lease::Http2(stream)))
}

type Sent = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>;

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
