//! Requests whose head is bytes already, and which have no body.

use std::net::SocketAddr;

use bytes::Bytes;
use headgate_model::edge::Timeouts;
use http::{Method, Response};
use tokio::time::Instant;

use super::{
    ErrorKind, Pick, SendError, Upstream,
    connect::{Purpose, UpstreamConn},
    exchange::{late, lease},
    http1::Http1Conn,
    port::with_body,
    reply::Leased,
    timeout::IdleTimeout,
};
use crate::{
    body::{Body, BodyError},
    direct::{Asked, ResponseHead, relay_response},
    http1::{Encoder, Length, ReceivedResponse, Shared, final_response},
};

/// The longest body that is copied together with its head, in bytes.
const MAX_COPIED: u64 = 8 << 10;

/// A request as an endpoint gets it.
pub(crate) struct DirectRequest<'a> {
    pub(crate) head: &'a [u8],
    pub(crate) method: &'a Method,
    pub(crate) asked: Asked<'a>,
    /// The client's address, and the address that it connected to.
    pub(crate) ends: (SocketAddr, SocketAddr),
}

/// A response.
pub(crate) enum DirectResponse {
    /// Head and body are in the output to the client; the body has this number of bytes.
    Whole(ResponseHead, u64),
    /// The head is in the output to the client, and the body follows.
    Head(ResponseHead, Body),
    /// Nothing is in the output to the client.
    Other(Response<Body>),
}

enum Received {
    Direct(ResponseHead),
    Other(ReceivedResponse),
}

impl Upstream {
    /// Whether requests can be sent to it as bytes.
    pub(crate) fn takes_bytes(&self) -> bool {
        self.dialer.is_plain_http1() && !self.reads_headers()
    }

    /// Sends a request, which began at `begin`, to the picked endpoint, and writes the head of the response to the
    /// output to the client.
    ///
    /// # Errors
    ///
    /// Fails without a response, and without output; see [`ErrorKind`].
    pub(crate) async fn relay(
        &self,
        pick: &Pick,
        request: &DirectRequest<'_>,
        timeouts: &Timeouts,
        begin: Instant,
        client: &Shared,
    ) -> Result<DirectResponse, SendError> {
        let endpoint = pick.endpoint();
        let relayed = self.exchange(pick, request, timeouts, client).await;
        let (conn, received) =
            relayed.inspect_err(|error| self.record_failure(endpoint, error, begin))?;
        let idle = || IdleTimeout::new(timeouts.read);
        match received {
            Received::Direct(head) => {
                endpoint.record_response(head.status, begin.elapsed());
                Ok(respond(conn, head, pick, idle, client))
            }
            Received::Other(ReceivedResponse { parts, .. }) => {
                let body = lease(conn, parts.status, &self.dialer);
                let body = body.map_err(|why| SendError {
                    is_sent: true,
                    ..error((ErrorKind::Broken, why.into()))
                });
                let body = body.inspect_err(|error| self.record_failure(endpoint, error, begin))?;
                endpoint.record_response(parts.status, begin.elapsed());
                let response = Response::from_parts(parts, body);
                Ok(DirectResponse::Other(with_body(
                    response,
                    pick,
                    idle(),
                    None,
                )))
            }
        }
    }

    async fn exchange(
        &self,
        pick: &Pick,
        request: &DirectRequest<'_>,
        timeouts: &Timeouts,
        client: &Shared,
    ) -> Result<(Box<Http1Conn>, Received), SendError> {
        let endpoint = pick.endpoint();
        if let Some(UpstreamConn::Http1(pooled)) = self.dialer.take_pooled(endpoint, false) {
            match exchange(pooled, request, timeouts, client).await {
                Err(SendError { is_sent: false, .. }) => {}
                result => return result,
            }
        }
        let purpose = Purpose {
            client: Some(request.ends),
            is_upgrade: false,
            may_reuse: false,
        };
        // Boxed: large and rarely polled; inlined it would grow the future of every request.
        let connected = Box::pin(self.dialer.connect(endpoint, purpose, timeouts.connect)).await;
        match connected.map_err(error)? {
            UpstreamConn::Http1(conn) => exchange(conn, request, timeouts, client).await,
            UpstreamConn::Http2(_) => Err(error((ErrorKind::Broken, "not HTTP/1.1".into()))),
        }
    }
}

/// The error of a request of which nothing was sent.
fn error((kind, source): (ErrorKind, BodyError)) -> SendError {
    SendError {
        kind,
        is_sent: false,
        request: None,
        source,
    }
}

async fn exchange(
    mut conn: Box<Http1Conn>,
    request: &DirectRequest<'_>,
    timeouts: &Timeouts,
    client: &Shared,
) -> Result<(Box<Http1Conn>, Received), SendError> {
    conn.begin(request.head);
    let read = |head: &Bytes| {
        let output = &mut client.lock().output;
        if let Some(head) = relay_response(head, output.flat(), request.asked) {
            return Ok(Some(Received::Direct(head)));
        }
        let received = final_response(head, request.method)?;
        Ok(received.map(Received::Other))
    };
    match conn.receive(read, None, timeouts).await {
        Ok(Ok(received)) => {
            match &received {
                Received::Direct(head) => conn.begin_response(head.length, head.is_last),
                Received::Other(other) => conn.begin_response(other.length, other.is_last),
            }
            Ok((conn, received))
        }
        Ok(Err(source)) => Err(SendError {
            is_sent: conn.has_begun(),
            ..error((ErrorKind::Broken, source))
        }),
        Err(timed_out) => Err(late(timed_out, None)),
    }
}

/// Adds the body to the output to the client if all of it is there.
fn respond(
    mut conn: Box<Http1Conn>,
    mut head: ResponseHead,
    pick: &Pick,
    idle: impl Fn() -> IdleTimeout,
    client: &Shared,
) -> DirectResponse {
    conn.detach_upload();
    if let Length::Exact(length @ ..=MAX_COPIED) = head.length
        && conn.move_body(length as usize, client)
    {
        pick.endpoint().http1.put(conn);
        head.encoder = Encoder::Ended;
        return DirectResponse::Whole(head, length);
    }
    let body = Response::new(Leased::Http1(conn, true));
    let body = with_body(body, pick, idle(), None).into_body();
    DirectResponse::Head(head, body)
}
