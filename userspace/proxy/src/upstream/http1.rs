//! HTTP/1.1 connections: one request at a time.

use std::{
    fmt,
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::future::poll_fn;
use headgate_model::ingress::Timeouts;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::{AbortHandle, coop::unconstrained},
    time::{Instant, Sleep, sleep_until, timeout},
};

use super::{
    error::TimedOut,
    progress::{Progress, RequestBody},
    timeout::response_head,
};

/// The most pooled connections of an upstream; a few more if several threads return one at once.
const MAX_POOLED: usize = 320;

/// Fields in the head of a response.
const MAX_FIELDS: usize = 256;

/// Bytes of a response that are read ahead, and the largest head.
const MAX_BUFFER: usize = 128 << 10;

/// How long a pooled connection may need to become ready. It needs that long if the endpoint has sent
/// its response but does not read the rest of the request.
const MAX_READY_WAIT: Duration = Duration::from_millis(100);

/// A connection. It has no task of its own: the request that waits for the response drives it, which
/// saves two task switches for each request.
pub(super) struct Http1Conn {
    requests: http1::SendRequest<RequestBody>,
    /// `None` once the connection has a task or has ended.
    driver: Option<Driver>,
    /// Ends the task, if the connection has one.
    task: Option<AbortHandle>,
    /// Belongs to the connection because resetting it is cheaper than making one for each request.
    timer: Pin<Box<Sleep>>,
}

type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A response, or the error of the connection.
pub(super) type SendResult = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>;

/// Starts HTTP/1.1 on a stream.
///
/// # Errors
///
/// Fails if the stream is closed.
pub(super) async fn start(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> hyper::Result<Box<Http1Conn>> {
    let handshake = http1::Builder::new()
        .max_headers(MAX_FIELDS)
        .max_buf_size(MAX_BUFFER)
        .handshake(TokioIo::new(stream));
    let (requests, connection) = handshake.await?;
    let driver = async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to an endpoint ended");
        }
    };
    Ok(Box::new(Http1Conn {
        requests,
        driver: Some(Box::pin(driver)),
        task: None,
        timer: Box::pin(sleep_until(Instant::now())),
    }))
}

impl Http1Conn {
    /// Sends a request and waits for the head of the response.
    ///
    /// # Errors
    ///
    /// Fails if a timeout ends.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
        progress: Option<&Progress>,
        timeouts: &Timeouts,
    ) -> Result<SendResult, TimedOut> {
        let mut response = pin!(self.requests.try_send_request(request));
        let driver = &mut self.driver;
        let response = poll_fn(|context| {
            poll_driven(driver, context, |context| response.as_mut().poll(context))
        });
        response_head(response, progress, timeouts, self.timer.as_mut()).await
    }

    /// Polls something that only progress of this connection completes.
    pub(super) fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        poll_driven(&mut self.driver, context, poll)
    }

    /// Moves the connection to a task, so that it continues whether or not the response is read.
    pub(super) fn detach(&mut self) {
        let task = self.driver.take().map(tokio::spawn);
        self.task = task.map(|task| task.abort_handle());
    }

    /// Closes the connection although the endpoint has not read the whole request.
    pub(super) fn abort(self) {
        if let Some(task) = self.task {
            task.abort();
        }
    }

    /// Whether the connection accepts another request, possibly a moment after the end of a response.
    async fn becomes_ready(&mut self) -> bool {
        let Self {
            requests, driver, ..
        } = self;
        poll_fn(|context| {
            drive(driver, context);
            Poll::Ready(())
        })
        .await;
        if requests.is_ready() || requests.is_closed() {
            return !requests.is_closed();
        }
        let ready =
            poll_fn(|context| poll_driven(driver, context, |context| requests.poll_ready(context)));
        let ready = timeout(MAX_READY_WAIT, ready).await;
        ready.is_ok_and(|ready| ready.is_ok())
    }

    /// Whether the connection has ended, as far as known without waiting.
    fn has_ended(&mut self) -> bool {
        drive(&mut self.driver, &mut Context::from_waker(Waker::noop()));
        self.requests.is_closed()
    }
}

impl fmt::Debug for Http1Conn {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Http1Conn").field(&self.requests).finish()
    }
}

/// Polls something that only progress of the connection completes, and drives the connection. So only
/// the connection needs to wake the task. Polls outside of tokio's cooperative budget, because the
/// poll must not be pending for lack of budget: nothing would wake the task then.
fn poll_driven<T>(
    driver: &mut Option<Driver>,
    context: &mut Context<'_>,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Poll<T> {
    if driver.is_none() {
        return poll(context);
    }
    let mut poll_without_waker = || {
        let mut context = Context::from_waker(Waker::noop());
        pin!(unconstrained(poll_fn(&mut poll))).poll(&mut context)
    };
    if let ready @ Poll::Ready(_) = poll_without_waker() {
        return ready;
    }
    drive(driver, context);
    match driver {
        Some(_) => poll_without_waker(),
        None => poll(context),
    }
}

fn drive(driver: &mut Option<Driver>, context: &mut Context<'_>) {
    let ended = driver.as_mut().map(|driver| driver.as_mut().poll(context));
    if ended.is_some_and(|ended| ended.is_ready()) {
        *driver = None;
    }
}

/// The pooled connections of an endpoint.
#[derive(Debug)]
pub(super) struct Http1Pool {
    stack: Mutex<Stack>,
    /// The number of pooled connections in the whole upstream.
    count: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Stack {
    /// With the time of their return, the latest last.
    conns: Vec<(Instant, Box<Http1Conn>)>,
    is_closed: bool,
}

impl Http1Pool {
    /// An empty pool.
    pub(super) fn new(count: Arc<AtomicUsize>) -> Self {
        Self {
            stack: Mutex::default(),
            count,
        }
    }

    /// Takes the connection that was returned last: its memory is in the caches, and the others can be
    /// closed if they stay idle.
    pub(super) async fn take(&self) -> Option<Box<Http1Conn>> {
        loop {
            let mut conn = self.pop()?;
            if conn.becomes_ready().await {
                return Some(conn);
            }
        }
    }

    fn pop(&self) -> Option<Box<Http1Conn>> {
        let (_, conn) = self.lock().conns.pop()?;
        self.uncount(1);
        Some(conn)
    }

    /// Adds a connection whose response has ended.
    pub(super) fn put(&self, mut conn: Box<Http1Conn>) {
        if conn.has_ended() || self.count.load(Relaxed) >= MAX_POOLED {
            return;
        }
        let mut stack = self.lock();
        if stack.is_closed {
            return;
        }
        self.count.fetch_add(1, Relaxed);
        stack.conns.push((Instant::now(), conn));
    }

    /// Closes all connections, and every one returned later.
    pub(super) fn close(&self) {
        let mut stack = self.lock();
        stack.is_closed = true;
        self.uncount(stack.conns.len());
        stack.conns.clear();
    }

    /// Closes connections idle since before `limit`, and those that the endpoint has closed.
    pub(super) fn close_idle(&self, limit: Instant) {
        let conns = &mut self.lock().conns;
        let before = conns.len();
        conns.retain_mut(|(since, conn)| *since >= limit && !conn.has_ended());
        self.uncount(before - conns.len());
    }

    fn uncount(&self, count: usize) {
        self.count.fetch_sub(count, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Stack> {
        self.stack.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Http1Pool {
    fn drop(&mut self) {
        self.close();
    }
}
