//! HTTP/1.1 connections: one request at a time.

use std::{
    fmt,
    future::Future,
    io::{self, ErrorKind::UnexpectedEof},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use futures::future::poll_fn;
use headgate_model::edge::Timeouts;
use http::{Request, response::Parts};
use hyper::body::{Frame, SizeHint};
use tokio::{
    task::{AbortHandle, coop::unconstrained},
    time::{Instant, Sleep, sleep_until},
};

use super::{
    error::TimedOut,
    progress::{Progress, RequestBody},
    timeout::response_head,
};
use crate::{
    body::{Body, BodyError},
    http1::{
        BadMessage, Decoder, HeadRead, Length, Outgoing, Shared, Size, Transport, final_response,
        poll_send, request_head,
    },
    stream::{Stream, Tunnel},
    worker::PerWorker,
};

/// The most connections of an upstream that a worker pools.
const MAX_POOLED: usize = 320;

/// The most informational responses (1xx) before a response.
const MAX_INTERIM: usize = 32;

/// The largest head of a response, in bytes.
const MAX_HEAD: usize = 128 << 10;

/// A connection. It has no task of its own: the request that waits for the response drives it, which
/// saves two task switches for each request.
pub(super) struct Http1Conn {
    transport: Shared,
    /// The rest of the request, while it is sent.
    upload: Option<Outgoing<RequestBody>>,
    /// Ends the task that sends the rest of the request, if there is one.
    task: Option<AbortHandle>,
    /// Whether the connection ends with the response.
    is_last: bool,
    /// Belongs to the connection because resetting it is cheaper than making one for each request.
    timer: Pin<Box<Sleep>>,
}

impl Http1Conn {
    /// A connection without requests.
    pub(super) fn new(stream: impl Stream + 'static) -> Box<Self> {
        Box::new(Self {
            transport: Shared::new(Transport::new(stream, BytesMut::new())),
            upload: None,
            task: None,
            is_last: false,
            timer: Box::pin(sleep_until(Instant::now())),
        })
    }

    /// Sends the head of a request and a body, and waits for the head of the response.
    ///
    /// # Errors
    ///
    /// Fails if a timeout ends.
    pub(super) async fn send(
        &mut self,
        request: &mut Request<Body>,
        body: RequestBody,
        progress: Option<&Progress>,
        timeouts: &Timeouts,
    ) -> Result<Result<Parts, BodyError>, TimedOut> {
        let size = Size::of(&body);
        let encoder = {
            let transport = &mut *self.transport.lock();
            transport.has_written = false;
            request_head(transport.output.flat(), request, size)
        };
        self.upload = Outgoing::new(body, encoder);
        let method = request.method().clone();
        let read = |head: &_| final_response(head, &method);
        let received = self.receive(read, progress, timeouts).await?;
        Ok(received.map(|received| {
            self.begin_response(received.length, received.is_last);
            received.parts
        }))
    }

    /// Begins a request that is its head.
    pub(super) fn begin(&mut self, head: &[u8]) {
        let transport = &mut *self.transport.lock();
        transport.has_written = false;
        transport.output.flat().extend_from_slice(head);
    }

    /// Sends a request, and waits for a head that `read` accepts as the final one.
    ///
    /// # Errors
    ///
    /// Fails if a timeout ends.
    pub(super) async fn receive<T>(
        &mut self,
        mut read: impl FnMut(&Bytes) -> Result<Option<T>, BadMessage>,
        progress: Option<&Progress>,
        timeouts: &Timeouts,
    ) -> Result<Result<T, BodyError>, TimedOut> {
        let Self {
            transport,
            upload,
            timer,
            ..
        } = self;
        let mut interim = 0;
        let response = poll_fn(|context| {
            if let Poll::Ready(Err(error)) = poll_send(upload, transport, context) {
                return Poll::Ready(Err(error));
            }
            poll_response(transport, &mut read, &mut interim, context)
        });
        response_head(response, progress, timeouts, timer.as_mut()).await
    }

    /// The body of a response begins.
    pub(super) fn begin_response(&mut self, length: Length, is_last: bool) {
        self.is_last = is_last;
        self.transport.lock().begin_body(Decoder::new(length));
    }

    /// Moves the rest of a response to the output of a client, if all of it is there.
    pub(super) fn move_body(&mut self, length: usize, client: &Shared) -> bool {
        let mut transport = self.transport.lock();
        let Some(body) = transport.input.get(..length) else {
            return false;
        };
        client.lock().output.flat().extend_from_slice(body);
        transport.input.advance(length);
        transport.begin_body(Decoder::Ended);
        true
    }

    /// Whether the endpoint may have got a part of the request.
    pub(super) fn has_begun(&self) -> bool {
        self.transport.lock().has_written
    }

    /// Whether the whole request was sent.
    pub(super) fn is_sent(&self) -> bool {
        self.upload.is_none() && self.transport.lock().is_flushed()
    }

    /// Reads the next frame of the response's body.
    pub(super) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut transport = self.transport.lock();
        match self.task {
            Some(_) => transport.poll_frame_beside(context),
            None => transport.poll_frame(context),
        }
    }

    /// Whether the whole response was read.
    pub(super) fn is_read(&self) -> bool {
        self.transport.lock().is_read()
    }

    /// What is missing of the response's body, as far as it is known.
    pub(super) fn size_hint(&self) -> SizeHint {
        self.transport.lock().size_hint()
    }

    /// Sends the rest of the request, if there is any, in a task: whether or not the response is read.
    pub(super) fn detach_upload(&mut self) {
        if self.is_sent() {
            return;
        }
        let (mut upload, transport) = (self.upload.take(), self.transport.clone());
        let task = tokio::spawn(async move {
            let sent = poll_fn(|context| poll_send(&mut upload, &transport, context)).await;
            transport.lock().end_upload(sent.is_err());
        });
        self.task = Some(task.abort_handle());
    }

    /// The connection after the endpoint switched protocols.
    pub(super) fn take_tunnel(&mut self) -> Tunnel {
        self.transport.lock().take_tunnel()
    }

    /// Whether request and response have ended, so that the connection can carry another request.
    fn is_idle(&self) -> bool {
        let transport = self.transport.lock();
        let is_read = transport.is_read() && transport.input.is_empty();
        let is_sent = transport.is_flushed() && !transport.is_broken;
        let is_free = self.task.as_ref().is_none_or(AbortHandle::is_finished);
        is_read && is_sent && is_free && !self.is_last
    }

    /// Whether the endpoint has closed the connection or sent what nothing asked for, as far as known
    /// without waiting.
    fn has_ended(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let mut transport = self.transport.lock();
        // A task that has done much in its turn would see that nothing is there.
        let fill = unconstrained(poll_fn(|context| transport.poll_fill(context)));
        pin!(fill).poll(&mut context).is_ready()
    }
}

/// The endpoint has not read the whole request: nothing waits to send the rest.
impl Drop for Http1Conn {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl fmt::Debug for Http1Conn {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = out.debug_struct("Http1Conn");
        out.field("is_last", &self.is_last).finish_non_exhaustive()
    }
}

/// Reads heads up to the one that `read` accepts as the final one. `interim` counts those before it.
fn poll_response<T>(
    transport: &Shared,
    read: &mut impl FnMut(&Bytes) -> Result<Option<T>, BadMessage>,
    interim: &mut usize,
    context: &mut Context<'_>,
) -> Poll<Result<T, BodyError>> {
    loop {
        let head = match ready!(transport.lock().poll_head(MAX_HEAD, context))? {
            HeadRead::Head(head) => head,
            HeadRead::TooLarge => return Poll::Ready(Err(BadMessage::TooLarge.into())),
            HeadRead::End => return Poll::Ready(Err(io::Error::from(UnexpectedEof).into())),
        };
        if let Some(received) = read(&head)? {
            return Poll::Ready(Ok(received));
        }
        *interim += 1;
        if *interim > MAX_INTERIM {
            return Poll::Ready(Err(BadMessage::Invalid.into()));
        }
    }
}

/// The pooled connections of an endpoint. A worker uses those that it has opened.
#[derive(Debug)]
pub(super) struct Http1Pool {
    stacks: PerWorker<Mutex<Stack>>,
    /// The number of pooled connections of each worker in the whole upstream.
    counts: Arc<PerWorker<AtomicUsize>>,
}

#[derive(Debug, Default)]
struct Stack {
    /// With the time of their return, the latest last.
    conns: Vec<(Instant, Box<Http1Conn>)>,
    is_closed: bool,
}

impl Http1Pool {
    /// An empty pool.
    pub(super) fn new(workers: usize, counts: Arc<PerWorker<AtomicUsize>>) -> Self {
        Self {
            stacks: PerWorker::new(workers),
            counts,
        }
    }

    /// Takes the connection that was returned last: its memory is in the caches, and the others can be
    /// closed if they stay idle.
    pub(super) fn take(&self) -> Option<Box<Http1Conn>> {
        loop {
            let (_, mut conn) = lock(self.stacks.own()).conns.pop()?;
            self.counts.own().fetch_sub(1, Relaxed);
            if !conn.has_ended() {
                return Some(conn);
            }
        }
    }

    /// Adds a connection whose response has ended, unless it cannot be used again. Whether the endpoint has closed
    /// it is read when it is taken.
    pub(super) fn put(&self, conn: Box<Http1Conn>) {
        let count = self.counts.own();
        if !conn.is_idle() || count.load(Relaxed) >= MAX_POOLED {
            return;
        }
        let mut stack = lock(self.stacks.own());
        if stack.is_closed {
            return;
        }
        count.fetch_add(1, Relaxed);
        stack.conns.push((Instant::now(), conn));
    }

    /// Closes all connections, and every one returned later.
    pub(super) fn close(&self) {
        for (stack, count) in self.all() {
            let mut stack = lock(stack);
            stack.is_closed = true;
            count.fetch_sub(stack.conns.len(), Relaxed);
            stack.conns.clear();
        }
    }

    /// Closes connections idle since before `limit`, and those that the endpoint has closed.
    pub(super) fn close_idle(&self, limit: Instant) {
        for (stack, count) in self.all() {
            let conns = &mut lock(stack).conns;
            let before = conns.len();
            conns.retain_mut(|(since, conn)| *since >= limit && !conn.has_ended());
            count.fetch_sub(before - conns.len(), Relaxed);
        }
    }

    fn all(&self) -> impl Iterator<Item = (&Mutex<Stack>, &AtomicUsize)> {
        self.stacks.all().zip(self.counts.all())
    }
}

/// Only a change of endpoints makes a worker wait here.
fn lock(stack: &Mutex<Stack>) -> MutexGuard<'_, Stack> {
    stack.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Http1Pool {
    fn drop(&mut self) {
        self.close();
    }
}
