//! A client's connection that speaks HTTP/1.1: one request after the other (RFC 9112, 9.3).

use std::{
    future::Future,
    io, mem,
    pin::pin,
    sync::atomic::Ordering,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::future::poll_fn;
use http::{Request, Response, Version};
use tokio::sync::watch;

use crate::{
    access_log::Entry,
    body::{Body, BodyError},
    client::Client,
    direct::{self, Direct, FirstTry},
    forward::{self, Answer, Answered},
    http1::{
        Asked, BadMessage, Decoder, HeadRead, Outgoing, ReceivedRequest, Shared, Size, Transport,
        is_hopeless, poll_send, request, response_head,
    },
    proxy::Proxy,
    received::Received,
    stream::{Stream, Tunnel},
    upstream::IdleTimeout,
};

/// Largest head of a request, in bytes.
pub(crate) const MAX_HEAD: usize = 32 << 10;
/// How long clients may be silent after a stop. Only a response can announce the end of the connection; a
/// request that the client sends meanwhile would be lost.
pub(crate) const LAST_IDLE: Duration = Duration::from_secs(5);
/// How the first bytes of a client that speaks HTTP/2 look to HTTP/1.1 (RFC 9113, 3.4).
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// Holders of a transport while nothing reads the body of a request: [`serve`] and its connection.
const HOLDERS: usize = 2;

/// Changes when the listener stops.
pub(crate) type Stopping = watch::Receiver<bool>;

/// A connection between two requests.
struct Connection<'a> {
    proxy: &'a Proxy,
    client: &'a Client,
    transport: Shared,
    stopping: Stopping,
    /// Waits for the head of the next request.
    head_timeout: IdleTimeout,
    last_idle: IdleTimeout,
    /// Whether no request was read.
    is_first: bool,
}

/// What there is instead of another request.
enum Instead {
    /// The client speaks HTTP/2; these bytes were read.
    Http2(BytesMut),
    /// A head that is too large.
    TooLarge,
    /// The connection ends.
    Closed(io::Result<()>),
}

/// What follows the requests of a connection.
pub(crate) enum After {
    Nothing,
    /// The client speaks HTTP/2.
    Http2(Tunnel),
    /// Client and endpoint switched protocols.
    Switch(Tunnel, Tunnel),
}

/// Serves the requests of a connection, of which `read` was read already.
///
/// # Errors
///
/// If the connection fails, or a body does.
pub(crate) async fn serve(
    proxy: &Proxy,
    client: &Client,
    stream: impl Stream + 'static,
    read: BytesMut,
    stopping: Stopping,
) -> Result<After, BodyError> {
    let mut stopped = stopping.clone();
    let mut stopped = pin!(stopped.changed());
    // Polled once, so that a stop wakes this task: then `stopping` has changed.
    poll_fn(|context| {
        let _pending = stopped.as_mut().poll(context);
        Poll::Ready(())
    })
    .await;
    let transport = Shared::new(Transport::new(stream, read));
    let mut connection = Connection {
        proxy,
        client,
        transport: transport.clone(),
        stopping,
        head_timeout: IdleTimeout::new(proxy.settings.head_timeout),
        last_idle: IdleTimeout::new(LAST_IDLE),
        is_first: true,
    };
    let end = match connection.serve_direct().await? {
        Ok(end) => end,
        // Boxed: large. Inlined it would grow the task of every connection, which is copied when it begins.
        Err(general) => Box::pin(connection.serve_all(general)).await?,
    };
    match end {
        End::Switch(endpoint) => {
            let client = transport.lock().take_tunnel();
            return Ok(After::Switch(client, endpoint));
        }
        End::Instead(Instead::Http2(read)) => {
            let mut transport = transport.lock();
            transport.input = read;
            return Ok(After::Http2(transport.take_tunnel()));
        }
        End::Instead(Instead::TooLarge) => connection.refuse(BadMessage::TooLarge).await?,
        End::Instead(Instead::Closed(result)) => result?,
        End::Answered => {}
    }
    poll_fn(|context| transport.lock().poll_shutdown(context)).await?;
    Ok(After::Nothing)
}

/// Why no further request of a connection is served.
enum End {
    /// The last response was sent.
    Answered,
    Switch(Tunnel),
    Instead(Instead),
}

/// The head of a request that takes the general way, with its first try.
type General = (Bytes, Option<Box<FirstTry>>);

/// What follows a response.
enum Then {
    Next,
    End,
    Switch(Tunnel),
}

impl Connection<'_> {
    /// Serves direct requests, up to the first request that takes the general way.
    async fn serve_direct(&mut self) -> Result<Result<End, General>, BodyError> {
        loop {
            let head = match self.next().await {
                Ok(head) => head,
                Err(instead) => return Ok(Ok(End::Instead(instead))),
            };
            let mut space = BytesMut::new();
            let (proxy, client) = (self.proxy, self.client);
            let answer = direct::answer(proxy, client, &head, &self.transport, &mut space);
            let answer = self.unless_hangup(answer).await?;
            let sent = match answer {
                Direct::Sent(sent) => sent,
                Direct::No(first) => return Ok(Err((head, first))),
            };
            drop(head);
            let outgoing = Outgoing::new(sent.body, sent.encoder);
            if let Then::End = self.finish(outgoing, None, sent.is_last).await? {
                return Ok(Ok(End::Answered));
            }
        }
    }

    /// Serves all requests.
    async fn serve_all(&mut self, mut general: General) -> Result<End, BodyError> {
        loop {
            let (head, first) = general;
            let then = self.answer(&head, first).await?;
            // It shares memory with what was read.
            drop(head);
            match then {
                Then::Next => {}
                Then::End => return Ok(End::Answered),
                Then::Switch(endpoint) => return Ok(End::Switch(endpoint)),
            }
            match self.serve_direct().await? {
                Ok(end) => return Ok(end),
                Err(next) => general = next,
            }
        }
    }

    /// Waits for the head of a request.
    async fn next(&mut self) -> Result<Bytes, Instead> {
        let is_first = mem::take(&mut self.is_first);
        self.head_timeout.reset();
        let mut is_checked = false;
        let read = poll_fn(|context| {
            let mut transport = self.transport.lock();
            if let read @ Poll::Ready(_) = transport.poll_head(MAX_HEAD, context) {
                return read;
            }
            // Once: a client may send its head byte by byte.
            let is_http2 = is_first && HTTP2.starts_with(&transport.input);
            if !is_checked && !is_http2 && transport.input.contains(&b'\n') {
                is_checked = true;
                if is_hopeless(&transport.input) {
                    return Poll::Ready(Ok(HeadRead::Head(transport.input.split().freeze())));
                }
            }
            drop(transport);
            let timeout = match self.is_stopping() {
                true => &mut self.last_idle,
                false => &mut self.head_timeout,
            };
            ready!(timeout.poll_elapsed(context));
            Poll::Ready(Ok(HeadRead::End))
        });
        match read.await {
            Ok(HeadRead::Head(head)) if is_first && head == HTTP2 => {
                let mut read = BytesMut::from(head);
                read.unsplit(self.transport.lock().input.split());
                Err(Instead::Http2(read))
            }
            Ok(HeadRead::Head(head)) => Ok(head),
            Ok(HeadRead::TooLarge) => Err(Instead::TooLarge),
            Ok(HeadRead::End) => Err(Instead::Closed(Ok(()))),
            Err(error) => Err(Instead::Closed(Err(error))),
        }
    }

    /// Whether the listener stops. Then the next response is the last.
    fn is_stopping(&self) -> bool {
        let is_stopping = self.stopping.has_changed().unwrap_or(true);
        if is_stopping {
            self.client.is_closing.store(true, Ordering::Relaxed);
        }
        is_stopping
    }

    /// Answers a request in the general way.
    async fn answer(&self, head: &Bytes, first: Option<Box<FirstTry>>) -> Result<Then, BodyError> {
        let received = match request(head) {
            Ok(received) => received,
            Err(why) => {
                self.refuse(why).await?;
                return Ok(Then::End);
            }
        };
        let asked = Asked::by(&received.parts, received.is_last);
        let body = self.body(&received);
        let request = Request::from_parts(received.parts, body);
        let answer = forward::answer(self.proxy, self.client, request, first);
        let answer = self.unless_hangup(answer).await?;
        self.send(answer, asked).await
    }

    /// Waits for an answer, unless the client leaves.
    async fn unless_hangup<T>(&self, answer: impl Future<Output = T>) -> Result<T, BodyError> {
        let mut answer = pin!(answer);
        poll_fn(|context| {
            self.is_stopping();
            match answer.as_mut().poll(context) {
                Poll::Ready(answer) => Poll::Ready(Ok(answer)),
                Poll::Pending => self.poll_hangup(context).map(Err),
            }
        })
        .await
    }

    /// The body of a request, which whatever reads it takes from the connection.
    fn body(&self, received: &ReceivedRequest) -> Received {
        let decoder = Decoder::new(received.length);
        if decoder.has_ended() {
            return Received::Empty;
        }
        let mut transport = self.transport.lock();
        transport.owes_continue = received.expects_continue;
        let message = transport.begin_body(decoder);
        Received::Http1(self.transport.clone(), message)
    }

    /// Sends a response.
    async fn send(&self, answer: Answer, mut asked: Asked) -> Result<Then, BodyError> {
        let (head, mut answered) = answer.into_parts();
        let body = &mut answered.body;
        let tunnel = match mem::replace(body, Body::empty()) {
            Body::Tunnel(tunnel) => Some(tunnel),
            other => {
                *body = other;
                None
            }
        };
        // A body that nothing reads is skipped if it is there; else the connection ends, and says so (RFC 9112, 9.6).
        let is_left = poll_fn(|context| {
            let is_left =
                self.transport.holders() == HOLDERS && !self.transport.lock().skip_body(context);
            Poll::Ready(is_left)
        });
        asked.is_last |= is_left.await;
        let encoder = {
            let transport = &mut *self.transport.lock();
            transport.owes_continue = false;
            response_head(
                transport.output.flat(),
                &head,
                Size::of(&answered),
                &mut asked,
            )
        };
        let outgoing = Outgoing::new(answered, encoder);
        self.finish(outgoing, tunnel, asked.is_last).await
    }

    /// Sends what is in the output, and a body.
    async fn finish(
        &self,
        mut outgoing: Option<Outgoing<Answered>>,
        tunnel: Option<Tunnel>,
        is_last: bool,
    ) -> Result<Then, BodyError> {
        // The end of the connection follows the response at once.
        let is_ending = is_last && outgoing.is_none() && tunnel.is_none();
        self.client.is_ending.store(is_ending, Ordering::Relaxed);
        poll_fn(
            |context| match poll_send(&mut outgoing, &self.transport, context) {
                Poll::Pending => self.poll_hangup(context).map(Err),
                sent @ Poll::Ready(_) => sent,
            },
        )
        .await?;
        let mut transport = self.transport.lock();
        if transport.is_broken {
            return Err(hangup());
        }
        if let Some(tunnel) = tunnel {
            return Ok(Then::Switch(tunnel));
        }
        let is_read = transport.end_message();
        if is_read && !is_last {
            self.client.is_unread.store(false, Ordering::Relaxed);
            return Ok(Then::Next);
        }
        // With bytes that nothing reads, a close would reset the connection, and the response with it.
        let is_unread = !is_read || !transport.input.is_empty();
        self.client.is_unread.store(is_unread, Ordering::Relaxed);
        Ok(Then::End)
    }

    /// Ready once the client has left.
    fn poll_hangup(&self, context: &mut Context<'_>) -> Poll<BodyError> {
        self.transport
            .lock()
            .poll_hangup(context)
            .map(|()| hangup())
    }

    /// Refuses a request that cannot be read. It is unknown where the next one begins.
    async fn refuse(&self, why: BadMessage) -> io::Result<()> {
        let status = why.status();
        if let Some(log) = &self.proxy.settings.log {
            let client = self.client.peer.ip();
            Entry::refused(log.clone(), client, Version::HTTP_11, status).write(0);
        }
        self.client.is_unread.store(true, Ordering::Relaxed);
        let (mut head, ()) = Response::new(()).into_parts();
        head.status = status;
        {
            let output = &mut self.transport.lock().output;
            response_head(output.flat(), &head, Size::Exact(0), &mut Asked::unknown());
        }
        poll_fn(|context| self.transport.lock().poll_flush(context)).await
    }
}

fn hangup() -> BodyError {
    io::Error::from(io::ErrorKind::ConnectionAborted).into()
}
