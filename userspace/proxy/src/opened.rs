//! Counts the requests that arrive over an HTTP/2 connection, before the HTTP library reads them: of those that it
//! refuses it tells nothing.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stream::write_to_stream;

/// Bytes before the first frame (RFC 9113, 3.4).
const PREFACE: usize = 24;
/// The type of frames that open a stream (RFC 9113, 6.2).
const HEADERS: u8 = 1;

/// A connection whose opened streams are counted.
pub(crate) struct Opened<S> {
    stream: S,
    frames: Frames,
    count: Arc<AtomicU64>,
}

impl<S> Opened<S> {
    pub(crate) fn new(stream: S, count: Arc<AtomicU64>) -> Self {
        Self {
            stream,
            frames: Frames::new(),
            count,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Opened<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        let opened = this
            .frames
            .opened(buffer.filled().get(before..).unwrap_or_default());
        this.count.fetch_add(opened, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opened<S> {
    write_to_stream!();

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Follows the frames of a connection by their heads (RFC 9113, 4.1).
struct Frames {
    /// Bytes until the next head.
    skip: usize,
    /// The head that arrives, and how much of it has.
    head: [u8; 9],
    filled: usize,
    /// The highest stream so far: what follows on a stream opens none.
    newest: u32,
}

impl Frames {
    fn new() -> Self {
        Self {
            skip: PREFACE,
            head: [0; 9],
            filled: 0,
            newest: 0,
        }
    }

    /// Returns how many streams these bytes open.
    fn opened(&mut self, mut bytes: &[u8]) -> u64 {
        let mut opened = 0;
        while let Some((first, rest)) = bytes.split_first() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            bytes = rest;
            if let Some(next) = self.head.get_mut(self.filled) {
                *next = *first;
                self.filled += 1;
            }
            if self.filled == self.head.len() {
                self.filled = 0;
                opened += self.begin();
            }
        }
        opened
    }

    /// Begins the frame whose head is complete; returns 1 if it opens a stream.
    fn begin(&mut self) -> u64 {
        let [a, b, c, kind, _, stream @ ..] = self.head;
        self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
        // The first bit is reserved.
        let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
        let opens = kind == HEADERS && stream > self.newest;
        if opens {
            self.newest = stream;
        }
        opens.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_counted_however_the_bytes_are_cut() {
        let frame = |kind: u8, stream: u8, length: u8| {
            let mut frame = vec![0, 0, length, kind, 0, 0x80, 0, 0, stream];
            frame.extend(std::iter::repeat_n(HEADERS, length.into()));
            frame
        };
        let frames = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(4, 0, 12),
            frame(HEADERS, 1, 30),
            frame(0, 1, 20),
            frame(HEADERS, 3, 0),
            // Trailers.
            frame(HEADERS, 1, 5),
        ]
        .concat();
        for size in 1..frames.len() {
            let mut followed = Frames::new();
            let opened = frames.chunks(size).map(|part| followed.opened(part));
            assert_eq!(opened.sum::<u64>(), 2, "in parts of {size} bytes");
        }
    }
}
