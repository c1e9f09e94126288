//! Connections of clients: some bytes were read before, some are read after the response.

use std::{
    fmt,
    future::Future,
    io,
    mem::MaybeUninit,
    os::fd::AsRawFd,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use nix::{
    libc,
    sys::socket::{MsgFlags, send},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

/// The methods of [`AsyncWrite`] that give everything to `self.stream`, all but `poll_shutdown`.
macro_rules! write_to_stream {
    () => {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.stream).poll_write(context, bytes)
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            slices: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.stream).poll_write_vectored(context, slices)
        }

        fn is_write_vectored(&self) -> bool {
            self.stream.is_write_vectored()
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(context)
        }
    };
}
pub(crate) use write_to_stream;

/// A connection of any kind.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Reads `prefix`, then `stream`.
#[derive(Debug)]
pub(crate) struct Prefixed<S> {
    prefix: Bytes,
    stream: S,
}

impl<S> Prefixed<S> {
    pub(crate) fn new(prefix: impl Into<Bytes>, stream: S) -> Self {
        Self {
            prefix: prefix.into(),
            stream,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let len = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(self.prefix.get(..len).unwrap_or_default());
        self.prefix.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    write_to_stream!();

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The connection to an endpoint after it switched protocols (RFC 9110, 7.8).
pub struct Tunnel {
    stream: Prefixed<Box<dyn Stream>>,
    /// Kept as long as the tunnel.
    held: Option<Box<dyn Send>>,
}

impl Tunnel {
    pub(crate) fn new(stream: Prefixed<Box<dyn Stream>>) -> Self {
        Self { stream, held: None }
    }

    /// Keeps a value as long as the tunnel.
    pub(crate) fn hold(&mut self, held: impl Send + 'static) {
        self.held = Some(Box::new(held));
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_held = self.held.is_some();
        out.debug_struct("Tunnel")
            .field("is_held", &is_held)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Tunnel {
    write_to_stream!();

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A connection of a client without TLS.
#[derive(Debug)]
pub(crate) struct Plain {
    stream: TcpStream,
    /// Whether the next write is the last one.
    is_ending: Arc<AtomicBool>,
}

impl Plain {
    pub(crate) fn new(stream: TcpStream, is_ending: Arc<AtomicBool>) -> Self {
        Self { stream, is_ending }
    }

    /// Writes what the end of the connection follows at once: the kernel sends both in one segment.
    fn poll_write_last(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::from_bits_retain(libc::MSG_MORE);
        loop {
            ready!(self.stream.poll_write_ready(context))?;
            let sent = self.stream.try_io(Interest::WRITABLE, || {
                Ok(send(self.stream.as_raw_fd(), bytes, flags)?)
            });
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }
}

impl AsyncRead for Plain {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Plain {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.is_ending.load(Ordering::Relaxed) {
            true => self.poll_write_last(context, bytes),
            false => Pin::new(&mut self.stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Longest time in which the rest of a request is read after the response, in total and without a byte,
/// and the most bytes of it. nginx: `lingering_time`, `lingering_timeout`.
const LINGER: Duration = Duration::from_secs(30);
const LINGER_SILENCE: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 256 << 20;

/// A connection that is closed in two steps if the client may still be sending (RFC 9112, 9.6): otherwise
/// the kernel resets it, and the client may lose the response.
#[derive(Debug)]
pub(crate) struct Lingering<S> {
    stream: S,
    /// Whether part of a request was not read.
    is_unread: Arc<AtomicBool>,
    rest: Option<Rest>,
}

/// The progress of reading what nothing needs.
#[derive(Debug)]
struct Rest {
    end: Pin<Box<Sleep>>,
    silence: Pin<Box<Sleep>>,
    bytes: usize,
}

impl<S> Lingering<S> {
    pub(crate) fn new(stream: S, is_unread: Arc<AtomicBool>) -> Self {
        Self {
            stream,
            is_unread,
            rest: None,
        }
    }
}

impl Rest {
    fn new() -> Self {
        Self {
            end: Box::pin(sleep(LINGER)),
            silence: Box::pin(sleep(LINGER_SILENCE)),
            bytes: 0,
        }
    }

    /// Reads until the client closes its side, or a limit is reached.
    fn poll(
        &mut self,
        stream: Pin<&mut (impl AsyncRead + ?Sized)>,
        context: &mut Context<'_>,
    ) -> Poll<()> {
        let mut stream = stream;
        let mut space = [MaybeUninit::uninit(); 8 << 10];
        loop {
            let mut buffer = ReadBuf::uninit(&mut space);
            match stream.as_mut().poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.bytes += buffer.filled().len();
                    self.silence.as_mut().reset(Instant::now() + LINGER_SILENCE);
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    let is_silent = self.silence.as_mut().poll(context).is_ready();
                    let is_over = is_silent || self.end.as_mut().poll(context).is_ready();
                    return if is_over {
                        Poll::Ready(())
                    } else {
                        Poll::Pending
                    };
                }
            }
            if self.bytes > LINGER_BYTES || self.end.is_elapsed() {
                return Poll::Ready(());
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    write_to_stream!();

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.rest.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
            if !this.is_unread.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
        }
        let rest = this.rest.get_or_insert_with(Rest::new);
        rest.poll(Pin::new(&mut this.stream), context).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read},
        net::{TcpListener, TcpStream},
        sync::{Arc, atomic::AtomicBool},
    };

    use tokio::io::AsyncWriteExt;

    use super::Plain;

    /// Sends a last response over a new connection. Returns whether it waited for the end of the connection.
    async fn waits(is_ending: bool) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        for stream in [&client, &stream] {
            stream.set_nonblocking(true).unwrap();
        }
        stream.set_nodelay(true).unwrap();
        let stream = tokio::net::TcpStream::from_std(stream).unwrap();
        let mut plain = Plain::new(stream, Arc::new(AtomicBool::new(is_ending)));
        plain.write_all(b"last").await.unwrap();
        let is_waiting =
            matches!(client.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
        plain.shutdown().await.unwrap();
        client.set_nonblocking(false).unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, "last");
        is_waiting
    }

    #[tokio::test]
    async fn l209_the_last_response_is_sent_with_the_end_of_the_connection() {
        let (mut waited, mut others) = (0, 0);
        // The kernel waits for 200 ms at most, which a slow machine can take between two calls.
        for _ in 0..20 {
            waited += u32::from(waits(true).await);
            others += u32::from(waits(false).await);
        }
        assert!(waited > 0);
        assert_eq!(others, 0);
    }
}
