//! Connections that speak HTTP/2: many requests at a time on one.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::ready,
};

use futures::future::poll_fn;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use super::progress::RequestBody;

/// What a stream may have on its way: enough for a gigabit over 8 ms, and no more, as each of a
/// hundred streams may use it up.
const STREAM_WINDOW: u32 = 1 << 20;

/// What all streams of a connection may have on their way.
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Streams at once until the endpoint says how many it takes (RFC 9113, 6.5.2, recommends no fewer
/// than 100).
const FIRST_STREAMS: usize = 100;

/// Begins to speak HTTP/2. A task drives the connection until it is closed.
pub(super) async fn start(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> hyper::Result<Link> {
    let handshake = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_max_send_streams(FIRST_STREAMS)
        .handshake(TokioIo::new(stream));
    let (sender, mut connection) = handshake.await?;
    let streams = Arc::new(Streams::new());
    let known = streams.clone();
    tokio::spawn(async move {
        let driven = poll_fn(|context| {
            let result = Pin::new(&mut connection).poll(context);
            known
                .most
                .store(connection.current_max_send_streams(), Relaxed);
            let result = ready!(result);
            std::task::Poll::Ready(result)
        });
        if let Err(error) = driven.await {
            tracing::debug!(%error, "connection to an endpoint ended");
        }
    });
    Ok(Link { sender, streams })
}

/// A connection.
#[derive(Clone, Debug)]
pub(super) struct Link {
    sender: http2::SendRequest<RequestBody>,
    streams: Arc<Streams>,
}

impl Link {
    /// The first stream of it; if the endpoint takes none, the request waits.
    pub(super) fn first(&self) -> Stream {
        self.streams.open.fetch_add(1, Relaxed);
        self.stream()
    }

    /// A stream of it, unless it has as many as the endpoint takes.
    fn take(&self) -> Option<Stream> {
        let may = |open| (open < self.streams.most.load(Relaxed)).then_some(open + 1);
        let taken = self.streams.open.fetch_update(Relaxed, Relaxed, may);
        taken.ok().map(|_| self.stream())
    }

    fn stream(&self) -> Stream {
        Stream {
            sender: self.sender.clone(),
            streams: self.streams.clone(),
        }
    }

    fn is_usable(&self) -> bool {
        !self.sender.is_closed() && !self.streams.is_doubtful.load(Relaxed)
    }
}

/// The streams of a connection.
#[derive(Debug)]
struct Streams {
    open: AtomicUsize,
    most: AtomicUsize,
    /// Whether a request took too long, so that the endpoint may be gone without a word.
    is_doubtful: AtomicBool,
    /// When the last one ended.
    used: Mutex<Instant>,
}

impl Streams {
    fn new() -> Self {
        Self {
            open: AtomicUsize::new(0),
            most: AtomicUsize::new(FIRST_STREAMS),
            is_doubtful: AtomicBool::new(false),
            used: Mutex::new(Instant::now()),
        }
    }

    fn used(&self) -> MutexGuard<'_, Instant> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream, counted as long as it is here.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) sender: http2::SendRequest<RequestBody>,
    streams: Arc<Streams>,
}

impl Stream {
    /// No more requests on this connection.
    pub(super) fn doubt(&self) {
        self.streams.is_doubtful.store(true, Relaxed);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.streams.open.fetch_sub(1, Relaxed) == 1 {
            *self.streams.used() = Instant::now();
        }
    }
}

/// Connections of an endpoint.
#[derive(Debug, Default)]
pub(super) struct Links {
    open: Mutex<Open>,
    /// Held by the one that connects, so that others wait for its connection instead of making
    /// their own.
    pub(super) connecting: tokio::sync::Mutex<()>,
    /// Whether the endpoint has chosen HTTP/2 before.
    pub(super) is_chosen: AtomicBool,
}

#[derive(Debug, Default)]
struct Open {
    links: Vec<Link>,
    is_closed: bool,
}

impl Links {
    /// A stream on any of them.
    pub(super) fn take(&self) -> Option<Stream> {
        let mut open = self.lock();
        open.links.retain(Link::is_usable);
        open.links.iter().find_map(Link::take)
    }

    /// Keeps a connection.
    pub(super) fn put(&self, link: Link) {
        let mut open = self.lock();
        if !open.is_closed {
            open.links.push(link);
        }
    }

    /// Closes each when its requests have ended, and those to come.
    pub(super) fn close(&self) {
        let mut open = self.lock();
        open.is_closed = true;
        open.links.clear();
    }

    /// Closes those without requests since before `limit`.
    pub(super) fn sweep(&self, limit: Instant) {
        let is_used =
            |link: &Link| link.streams.open.load(Relaxed) > 0 || *link.streams.used() >= limit;
        self.lock().links.retain(is_used);
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
