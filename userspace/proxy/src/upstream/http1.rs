//! Connections that speak HTTP/1.1: one request at a time, then the next.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout},
};

use super::progress::RequestBody;

/// Idle connections of an upstream; a few more if several threads put one back at once.
const MOST_IDLE: usize = 320;

/// How long the end of an exchange is waited for. It takes that long if the endpoint has answered but
/// does not read the rest of the request.
const LONGEST_END: Duration = Duration::from_millis(100);

/// A connection on which a request can be sent.
pub(super) type Sender = http1::SendRequest<RequestBody>;

/// Begins to speak HTTP/1.1. A task drives the connection until it is closed.
pub(super) async fn start(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> hyper::Result<Sender> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to an endpoint ended");
        }
    });
    Ok(sender)
}

async fn becomes_ready(sender: &mut Sender) -> bool {
    let ready = timeout(LONGEST_END, sender.ready()).await;
    ready.is_ok_and(|ready| ready.is_ok())
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
    waiting: Vec<(Instant, Sender)>,
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
    pub(super) async fn take(&self) -> Option<Sender> {
        loop {
            let mut sender = self.pop()?;
            // Its task may have yet to see that the last answer has ended.
            if sender.is_ready() || becomes_ready(&mut sender).await {
                return Some(sender);
            }
        }
    }

    fn pop(&self) -> Option<Sender> {
        let (_, sender) = self.lock().waiting.pop()?;
        self.forget(1);
        Some(sender)
    }

    /// Keeps a connection whose response has ended.
    pub(super) fn put(&self, sender: Sender) {
        let mut stack = self.lock();
        if stack.is_closed || sender.is_closed() || self.count.load(Relaxed) >= MOST_IDLE {
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

    /// Closes those that wait since before `limit`.
    pub(super) fn sweep(&self, limit: Instant) {
        let mut stack = self.lock();
        let old = stack.waiting.partition_point(|(since, _)| *since < limit);
        stack.waiting.drain(..old);
        self.forget(old);
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
