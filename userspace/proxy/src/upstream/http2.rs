//! HTTP/2 connections: many requests at a time.

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

/// The flow-control window of a stream, in bytes: 1 Gbit/s at a round trip of 8 ms. Not more, because
/// each of 100 streams may fill it.
const STREAM_WINDOW: u32 = 1 << 20;

/// The flow-control window of a connection, in bytes.
const CONNECTION_WINDOW: u32 = 4 << 20;

/// The limit of concurrent streams until the endpoint's SETTINGS arrive (RFC 9113, 6.5.2, recommends
/// at least 100).
const INITIAL_MAX_STREAMS: usize = 100;

/// Starts HTTP/2 on a stream. A task drives the connection until it is closed.
///
/// # Errors
///
/// Fails if the HTTP/2 handshake fails.
pub(super) async fn start(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> hyper::Result<Http2Conn> {
    let handshake = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_max_send_streams(INITIAL_MAX_STREAMS)
        .handshake(TokioIo::new(stream));
    let (sender, mut connection) = handshake.await?;
    let streams = Arc::new(Streams::new());
    let shared = streams.clone();
    tokio::spawn(async move {
        let driven = poll_fn(|context| {
            let result = Pin::new(&mut connection).poll(context);
            shared
                .max
                .store(connection.current_max_send_streams(), Relaxed);
            let result = ready!(result);
            std::task::Poll::Ready(result)
        });
        if let Err(error) = driven.await {
            tracing::debug!(%error, "connection to an endpoint ended");
        }
    });
    Ok(Http2Conn { sender, streams })
}

/// An HTTP/2 connection. Clones are the same connection.
#[derive(Clone, Debug)]
pub(super) struct Http2Conn {
    sender: http2::SendRequest<RequestBody>,
    streams: Arc<Streams>,
}

impl Http2Conn {
    /// Opens a stream on a new connection. If the endpoint allows none, the request waits.
    pub(super) fn first_stream(&self) -> Http2Stream {
        self.streams.open.fetch_add(1, Relaxed);
        self.stream()
    }

    /// Opens a stream, unless the endpoint's limit is reached.
    fn open_stream(&self) -> Option<Http2Stream> {
        let may = |open| (open < self.streams.max.load(Relaxed)).then_some(open + 1);
        let opened = self.streams.open.fetch_update(Relaxed, Relaxed, may);
        opened.ok().map(|_| self.stream())
    }

    fn stream(&self) -> Http2Stream {
        Http2Stream {
            sender: self.sender.clone(),
            streams: self.streams.clone(),
            end: None,
        }
    }

    fn is_usable(&self) -> bool {
        !self.sender.is_closed() && !self.streams.is_retired.load(Relaxed)
    }
}

/// The streams of a connection: how many are open, and how many may be.
#[derive(Debug)]
struct Streams {
    open: AtomicUsize,
    max: AtomicUsize,
    /// Whether a request timed out: the endpoint may be unreachable, so no new streams are opened.
    is_retired: AtomicBool,
    /// When a stream ended last.
    used_at: Mutex<Instant>,
}

impl Streams {
    fn new() -> Self {
        Self {
            open: AtomicUsize::new(0),
            max: AtomicUsize::new(INITIAL_MAX_STREAMS),
            is_retired: AtomicBool::new(false),
            used_at: Mutex::new(Instant::now()),
        }
    }

    fn used_at(&self) -> MutexGuard<'_, Instant> {
        self.used_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream, counted as open until dropped.
#[derive(Debug)]
pub(super) struct Http2Stream {
    pub(super) sender: http2::SendRequest<RequestBody>,
    streams: Arc<Streams>,
    /// When the wait for the head of the response ends.
    end: Option<Instant>,
}

impl Http2Stream {
    /// Opens no more streams on this connection if this one is dropped after `end`: the endpoint did not
    /// answer in time.
    pub(super) fn retire_at(&mut self, end: Option<Instant>) {
        self.end = end;
    }

    /// Opens no more streams on this connection.
    pub(super) fn retire(&self) {
        self.streams.is_retired.store(true, Relaxed);
    }
}

impl Drop for Http2Stream {
    fn drop(&mut self) {
        if self.end.is_some_and(|end| end <= Instant::now()) {
            self.retire();
        }
        if self.streams.open.fetch_sub(1, Relaxed) == 1 {
            *self.streams.used_at() = Instant::now();
        }
    }
}

/// The shared connections of an endpoint.
#[derive(Debug, Default)]
pub(super) struct Http2Pool {
    open: Mutex<Conns>,
    /// Held by the request that opens a connection, so that others wait and share it.
    pub(super) connecting: tokio::sync::Mutex<()>,
    /// Whether the endpoint has negotiated HTTP/2 before (ALPN).
    pub(super) is_negotiated: AtomicBool,
}

#[derive(Debug, Default)]
struct Conns {
    conns: Vec<Http2Conn>,
    is_closed: bool,
}

impl Http2Pool {
    /// Opens a stream on any connection with a free one.
    pub(super) fn take(&self) -> Option<Http2Stream> {
        let mut open = self.lock();
        open.conns.retain(Http2Conn::is_usable);
        open.conns.iter().find_map(Http2Conn::open_stream)
    }

    /// Adds a connection.
    pub(super) fn put(&self, conn: Http2Conn) {
        let mut open = self.lock();
        if !open.is_closed {
            open.conns.push(conn);
        }
    }

    /// Closes each connection when its requests have ended, and every one added later.
    pub(super) fn close(&self) {
        let mut open = self.lock();
        open.is_closed = true;
        open.conns.clear();
    }

    /// Closes connections idle since before `limit`.
    pub(super) fn close_idle(&self, limit: Instant) {
        let is_used = |conn: &Http2Conn| {
            conn.streams.open.load(Relaxed) > 0 || *conn.streams.used_at() >= limit
        };
        self.lock().conns.retain(is_used);
    }

    fn lock(&self) -> MutexGuard<'_, Conns> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
