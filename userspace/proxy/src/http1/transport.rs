//! A connection with its buffers: what was read and is not parsed, and what waits to be written.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    mem,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, empty};

use super::{body::Decoder, head::Lines};
use crate::{
    body::BodyError,
    stream::{Prefixed, Stream, Tunnel},
};

/// Bytes that one read asks for: at first, and at most, after reads that got all they asked for.
const MIN_READ: usize = 8 << 10;
const MAX_READ: usize = 64 << 10;
/// The longest piece of a body that is copied, so that it is sent together with others.
const MAX_COPIED: usize = 8 << 10;
/// Bytes that wait together before a write.
const MAX_FLAT: usize = 16 << 10;

/// The client is to send the body (RFC 9110, 15.2.1).
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A connection and its buffers.
pub(crate) struct Transport {
    stream: Box<dyn Stream>,
    /// What was read and not parsed.
    pub(crate) input: BytesMut,
    pub(crate) output: Output,
    /// Counts messages: see [`Self::begin_body`].
    message: u64,
    lines: Lines,
    /// Reads the body of the message that is being received.
    decoder: Decoder,
    next_read: usize,
    /// Whether the client waits for 100 before it sends the body.
    pub(crate) owes_continue: bool,
    /// Whether the stream may hold bytes of the last write, as TLS does.
    is_unflushed: bool,
    /// Whether anything was written since this was last cleared.
    pub(crate) has_written: bool,
    /// Whether the other end cannot get the rest of a message.
    pub(crate) is_broken: bool,
    /// Whether the body failed that another task sends.
    is_upload_failed: bool,
    /// The task that waits for the other end's message while another task sends.
    reader: Option<Waker>,
}

impl Transport {
    /// A connection of which `input` was read already.
    pub(crate) fn new(stream: impl Stream + 'static, input: BytesMut) -> Self {
        Self {
            stream: Box::new(stream),
            input,
            output: Output::default(),
            message: 0,
            lines: Lines::default(),
            decoder: Decoder::Ended,
            next_read: MIN_READ,
            owes_continue: false,
            is_unflushed: false,
            has_written: false,
            is_broken: false,
            is_upload_failed: false,
            reader: None,
        }
    }

    /// Ends the part of the other task that sends: the task that reads learns whether its body failed.
    pub(crate) fn end_upload(&mut self, is_failed: bool) {
        self.is_broken |= is_failed;
        self.is_upload_failed = is_failed;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// [`Self::poll_frame`], while another task may send. Fails if the body of that task failed.
    pub(crate) fn poll_frame_beside(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.is_upload_failed {
            let error = io::Error::from(io::ErrorKind::ConnectionAborted);
            return Poll::Ready(Some(Err(error.into())));
        }
        let frame = self.poll_frame(context);
        if frame.is_pending() {
            self.reader = Some(context.waker().clone());
        }
        frame
    }

    /// Reads more. Returns 0 at the end of the connection.
    pub(crate) fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self.next_read {
            MIN_READ => self.poll_fill_short(context),
            _ => self.poll_fill_long(context),
        }
    }

    /// Reads at most [`MIN_READ`] bytes, and keeps memory for no more than what was there: most connections are
    /// silent most of the time, and space that all share stays in the caches.
    fn poll_fill_short(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        thread_local! {
            static SPACE: RefCell<[u8; MIN_READ]> = const { RefCell::new([0; MIN_READ]) };
        }
        SPACE.with_borrow_mut(|space| {
            let mut buffer = ReadBuf::new(space);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
            let read = buffer.filled();
            match self.input.is_empty() {
                true => self.input = BytesMut::from(read),
                false => self.input.extend_from_slice(read),
            }
            if read.len() == MIN_READ {
                self.next_read = 2 * MIN_READ;
            }
            Poll::Ready(Ok(read.len()))
        })
    }

    /// Reads a part of a long message.
    fn poll_fill_long(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.capacity() - self.input.len() < MIN_READ / 2 {
            self.input.reserve(self.next_read);
        }
        let room = self.input.capacity() - self.input.len();
        let Poll::Ready(count) = pin!(self.stream.read_buf(&mut self.input)).poll(context) else {
            if self.input.is_empty() {
                // The connection may be silent for long.
                (self.input, self.next_read) = (BytesMut::new(), MIN_READ);
            }
            return Poll::Pending;
        };
        let count = count?;
        self.next_read = match count {
            _ if count == room => (self.next_read * 2).min(MAX_READ),
            _ if count < MIN_READ => MIN_READ,
            _ => self.next_read,
        };
        Poll::Ready(Ok(count))
    }

    /// Reads a head of at most `most` bytes.
    pub(crate) fn poll_head(
        &mut self,
        most: usize,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<HeadRead>> {
        loop {
            match self.lines.split_head(&mut self.input) {
                Some(head) if head.len() <= most => return Poll::Ready(Ok(HeadRead::Head(head))),
                None if self.input.len() < most => {}
                Some(_) | None => return Poll::Ready(Ok(HeadRead::TooLarge)),
            }
            if ready!(self.poll_fill(context))? == 0 {
                return Poll::Ready(Ok(HeadRead::End));
            }
        }
    }

    /// The next bytes are the body of a message. Returns the number of the message: whatever still holds its
    /// body later must not read the next one.
    pub(crate) fn begin_body(&mut self, decoder: Decoder) -> u64 {
        self.decoder = decoder;
        self.message += 1;
        self.message
    }

    /// The body of the message with this number. `None` if the message has ended.
    pub(crate) fn body_of(&mut self, message: u64) -> Option<&mut Self> {
        (self.message == message).then_some(self)
    }

    /// Whether the body was read.
    pub(crate) fn is_read(&self) -> bool {
        self.decoder.has_ended()
    }

    /// What is missing of the body, as far as it is known.
    pub(crate) fn size_hint(&self) -> SizeHint {
        let remaining = self.decoder.remaining();
        remaining.map(SizeHint::with_exact).unwrap_or_default()
    }

    /// Ready once the other end has closed the connection, although all of its message was read. Reads at
    /// most a part of the next message meanwhile.
    pub(crate) fn poll_hangup(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.decoder.has_ended() || !self.input.is_empty() {
            return Poll::Pending;
        }
        match ready!(self.poll_fill(context)) {
            Ok(1..) => Poll::Pending,
            Ok(0) | Err(_) => Poll::Ready(()),
        }
    }

    /// Ends a message, and skips what there is of a body that nothing has read. Returns whether the body has
    /// ended as well.
    pub(crate) fn end_message(&mut self) -> bool {
        self.message += 1;
        self.skip_read()
    }

    /// Skips what was read of a body. Returns whether the body has ended.
    fn skip_read(&mut self) -> bool {
        while let Ok(Some(_)) = self.decoder.decode(&mut self.input) {}
        self.decoder.has_ended()
    }

    /// Skips what has arrived of a body that nothing reads, at most 64 KiB more than was read. Returns whether the
    /// body has ended.
    pub(crate) fn skip_body(&mut self, context: &mut Context<'_>) -> bool {
        let mut left = MAX_READ;
        while !self.skip_read() {
            match self.poll_fill(context) {
                Poll::Ready(Ok(count @ 1..)) if count <= left => left -= count,
                _ => return false,
            }
        }
        true
    }

    /// Reads the next frame of a body.
    pub(crate) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if mem::take(&mut self.owes_continue) {
            self.output.flat().extend_from_slice(CONTINUE);
            // What is left is sent with the response.
            drop(self.poll_flush(context));
        }
        loop {
            match self.decoder.decode(&mut self.input) {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) if self.decoder.has_ended() => return Poll::Ready(None),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
            let count = ready!(self.poll_fill(context));
            if count.as_ref().is_ok_and(|count| *count > 0) {
                continue;
            }
            return Poll::Ready(match count {
                Ok(_) if self.decoder.end() => None,
                Ok(_) => Some(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())),
                Err(error) => Some(Err(error.into())),
            });
        }
    }

    /// Writes all that waits.
    pub(crate) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(self.poll_write_out(context));
        self.is_broken |= flushed.is_err();
        Poll::Ready(flushed)
    }

    fn poll_write_out(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let mut stream = Pin::new(&mut self.stream);
            let is_flat = self.output.data.is_empty() && self.output.tail.is_empty();
            let written = match is_flat {
                true => stream.as_mut().poll_write(context, &self.output.flat),
                false => stream
                    .as_mut()
                    .poll_write_vectored(context, &self.output.slices()),
            };
            match ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.output.advance(count),
            }
            (self.is_unflushed, self.has_written) = (true, true);
        }
        if self.is_unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.is_unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether all that was added to the output was written.
    pub(crate) fn is_flushed(&self) -> bool {
        self.output.is_empty() && !self.is_unflushed
    }

    /// Ends the sending side.
    pub(crate) fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    /// Takes the connection as a tunnel, from what was read and not parsed on.
    pub(crate) fn take_tunnel(&mut self) -> Tunnel {
        let stream = mem::replace(&mut self.stream, Box::new(empty()));
        Tunnel::new(Prefixed::new(self.input.split(), stream))
    }
}

/// The result of reading a head.
pub(crate) enum HeadRead {
    Head(Bytes),
    TooLarge,
    /// The connection ends before it.
    End,
}

/// Bytes that wait to be written.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Heads, and short pieces of bodies.
    flat: BytesMut,
    /// One long piece of a body, and the end of its chunk. They follow `flat`.
    data: Bytes,
    tail: &'static [u8],
}

impl Output {
    pub(crate) fn is_empty(&self) -> bool {
        self.flat.is_empty() && self.data.is_empty() && self.tail.is_empty()
    }

    /// Whether more may be added.
    pub(crate) fn has_room(&self) -> bool {
        self.data.is_empty() && self.tail.is_empty() && self.flat.len() < MAX_FLAT
    }

    /// The buffer for heads.
    pub(crate) fn flat(&mut self) -> &mut BytesMut {
        &mut self.flat
    }

    /// Adds a piece of a body and what follows it.
    pub(super) fn push(&mut self, data: Bytes, tail: &'static [u8]) {
        if data.len() > MAX_COPIED {
            (self.data, self.tail) = (data, tail);
            return;
        }
        self.flat.extend_from_slice(&data);
        self.flat.extend_from_slice(tail);
    }

    /// Adds the last chunk, which is empty.
    pub(super) fn end_chunks(&mut self) {
        match self.tail {
            b"\r\n" => self.tail = b"\r\n0\r\n\r\n",
            _ => self.flat.extend_from_slice(b"0\r\n\r\n"),
        }
    }

    /// Drops all: it cannot be written.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    fn slices(&self) -> [IoSlice<'_>; 3] {
        [&self.flat, &self.data[..], self.tail].map(IoSlice::new)
    }

    fn advance(&mut self, mut count: usize) {
        let flat = count.min(self.flat.len());
        match flat == self.flat.len() {
            // Nothing may follow for long, and new memory is more likely in the caches.
            true => self.flat = BytesMut::new(),
            false => self.flat.advance(flat),
        }
        count -= flat;
        let data = count.min(self.data.len());
        self.data.advance(data);
        self.tail = self.tail.get(count - data..).unwrap_or_default();
    }
}

/// A connection whose two directions may be used by two tasks.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<Transport>>);

impl Shared {
    pub(crate) fn new(transport: Transport) -> Self {
        Self(Arc::new(Mutex::new(transport)))
    }

    /// The number of holders.
    pub(crate) fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Transport> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
