//! Connections that speak HTTP/1.1: one request at a time, then the next.

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
    task::coop::unconstrained,
    time::{Instant, Sleep, sleep_until, timeout},
};

use super::{
    error::Late,
    progress::{Progress, RequestBody},
    silence,
};

/// Idle connections of an upstream; a few more if several threads put one back at once.
const MOST_IDLE: usize = 320;

/// How long the end of an exchange is waited for. It takes that long if the endpoint has answered but
/// does not read the rest of the request.
const LONGEST_END: Duration = Duration::from_millis(100);

/// A connection on which a request can be sent. It has no task: who waits for its answer drives it,
/// which saves two changes of tasks for each request.
pub(super) struct Sender {
    requests: http1::SendRequest<RequestBody>,
    /// `None` once it has a task or has ended.
    driver: Option<Driver>,
    /// Kept with the connection, since moving its end is cheaper than making one for each request.
    timer: Pin<Box<Sleep>>,
}

type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An answer, or why there is none.
pub(super) type Sent = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>;

/// Begins to speak HTTP/1.1.
pub(super) async fn start(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> hyper::Result<Box<Sender>> {
    let (requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to an endpoint ended");
        }
    };
    Ok(Box::new(Sender {
        requests,
        driver: Some(Box::pin(driver)),
        timer: Box::pin(sleep_until(Instant::now())),
    }))
}

impl Sender {
    /// Sends a request and waits for the head of the answer.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
        progress: Option<&Progress>,
        timeouts: &Timeouts,
    ) -> Result<Sent, Late> {
        let mut answer = pin!(self.requests.try_send_request(request));
        let driver = &mut self.driver;
        let answer = poll_fn(|context| {
            poll_driven(driver, context, |context| answer.as_mut().poll(context))
        });
        silence::headers(answer, progress, timeouts, self.timer.as_mut()).await
    }

    /// Polls what the connection brings about.
    pub(super) fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        poll_driven(&mut self.driver, context, poll)
    }

    /// Leaves the connection to a task: it has to go on whether or not the answer is read.
    pub(super) fn detach(&mut self) {
        self.driver.take().map(tokio::spawn);
    }

    /// Whether it takes another request. That may take a moment after the end of an answer.
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
        let ready = timeout(LONGEST_END, ready).await;
        ready.is_ok_and(|ready| ready.is_ok())
    }

    /// Whether it has ended, as far as can be seen without waiting.
    fn has_ended(&mut self) -> bool {
        drive(&mut self.driver, &mut Context::from_waker(Waker::noop()));
        self.requests.is_closed()
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Sender").field(&self.requests).finish()
    }
}

/// Polls what a connection brings about. Nothing but the connection does, so none but the connection
/// wakes the task; without the budget of the task, as a poll must not fail for want of that.
fn poll_driven<T>(
    driver: &mut Option<Driver>,
    context: &mut Context<'_>,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Poll<T> {
    if driver.is_none() {
        return poll(context);
    }
    let mut silently = || {
        let mut context = Context::from_waker(Waker::noop());
        pin!(unconstrained(poll_fn(&mut poll))).poll(&mut context)
    };
    if let ready @ Poll::Ready(_) = silently() {
        return ready;
    }
    drive(driver, context);
    match driver {
        Some(_) => silently(),
        None => poll(context),
    }
}

fn drive(driver: &mut Option<Driver>, context: &mut Context<'_>) {
    let ended = driver.as_mut().map(|driver| driver.as_mut().poll(context));
    if ended.is_some_and(|ended| ended.is_ready()) {
        *driver = None;
    }
}

/// Connections of an endpoint that wait for a request.
#[derive(Debug)]
pub(super) struct Idle {
    stack: Mutex<Stack>,
    /// How many there are in the whole upstream.
    count: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Stack {
    /// With the time since when they wait, the latest last.
    waiting: Vec<(Instant, Box<Sender>)>,
    is_closed: bool,
}

impl Idle {
    /// None yet.
    pub(super) fn new(count: Arc<AtomicUsize>) -> Self {
        Self {
            stack: Mutex::default(),
            count,
        }
    }

    /// The connection that has waited least: the others can be closed if they are not needed, and
    /// its memory is still warm.
    pub(super) async fn take(&self) -> Option<Box<Sender>> {
        loop {
            let mut sender = self.pop()?;
            if sender.becomes_ready().await {
                return Some(sender);
            }
        }
    }

    fn pop(&self) -> Option<Box<Sender>> {
        let (_, sender) = self.lock().waiting.pop()?;
        self.forget(1);
        Some(sender)
    }

    /// Keeps a connection whose response has ended.
    pub(super) fn put(&self, mut sender: Box<Sender>) {
        if sender.has_ended() || self.count.load(Relaxed) >= MOST_IDLE {
            return;
        }
        let mut stack = self.lock();
        if stack.is_closed {
            return;
        }
        self.count.fetch_add(1, Relaxed);
        stack.waiting.push((Instant::now(), sender));
    }

    /// Closes all, and those to come.
    pub(super) fn close(&self) {
        let mut stack = self.lock();
        stack.is_closed = true;
        self.forget(stack.waiting.len());
        stack.waiting.clear();
    }

    /// Closes those that wait since before `limit`, and those that the endpoint has closed.
    pub(super) fn sweep(&self, limit: Instant) {
        let waiting = &mut self.lock().waiting;
        let before = waiting.len();
        waiting.retain_mut(|(since, sender)| *since >= limit && !sender.has_ended());
        self.forget(before - waiting.len());
    }

    fn forget(&self, count: usize) {
        self.count.fetch_sub(count, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Stack> {
        self.stack.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.close();
    }
}
