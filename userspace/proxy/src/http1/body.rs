//! Bodies as they are received (RFC 9112, 6 and 7).

use bytes::{Buf, Bytes, BytesMut};
use hyper::body::Frame;
use memchr::memchr;

use super::head::{BadMessage, Length, trailers};

/// The longest line with the size of a chunk, in bytes, and the most bytes of chunk extensions in a body.
const MAX_LINE: usize = 4 << 10;
const MAX_EXTENSIONS: usize = 16 << 10;
/// The longest trailers, in bytes.
const MAX_TRAILERS: usize = 16 << 10;

/// Splits a body into frames.
#[derive(Debug)]
pub(crate) enum Decoder {
    /// Bytes that are missing.
    Exact(u64),
    Chunked(Chunks),
    /// The body ends with the connection.
    Close,
    Ended,
    /// It is unknown where an invalid body ends.
    Failed,
}

/// The state of a chunked body.
#[derive(Debug)]
pub(crate) struct Chunks {
    place: Place,
    /// Bytes of all chunk extensions so far.
    extensions: usize,
    /// Bytes of trailers that hold no empty line.
    searched: usize,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Size,
    /// Bytes of the chunk that are missing.
    Data(u64),
    /// The line end after the data of a chunk.
    DataEnd,
    Trailers,
}

impl Decoder {
    pub(crate) fn new(length: Length) -> Self {
        match length {
            Length::Exact(0) => Self::Ended,
            Length::Exact(length) => Self::Exact(length),
            Length::Chunked => Self::Chunked(Chunks {
                place: Place::Size,
                extensions: 0,
                searched: 0,
            }),
            Length::Close => Self::Close,
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self, Self::Ended)
    }

    /// The number of bytes to come, if it is known.
    pub(crate) fn remaining(&self) -> Option<u64> {
        match self {
            Self::Exact(remaining) => Some(*remaining),
            Self::Chunked(_) | Self::Close | Self::Failed => None,
            Self::Ended => Some(0),
        }
    }

    /// Returns the next frame. `None` if the body has ended, or more bytes are needed.
    ///
    /// # Errors
    ///
    /// If a chunk is invalid, from then on.
    pub(crate) fn decode(
        &mut self,
        buffer: &mut BytesMut,
    ) -> Result<Option<Frame<Bytes>>, BadMessage> {
        let decoded = self.decode_valid(buffer);
        if decoded.is_err() {
            *self = Self::Failed;
        }
        decoded
    }

    fn decode_valid(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame<Bytes>>, BadMessage> {
        let frame = match self {
            Self::Exact(remaining) => {
                let data = split(buffer, remaining);
                if *remaining == 0 {
                    *self = Self::Ended;
                }
                data.map(Frame::data)
            }
            Self::Chunked(chunks) => {
                let step = chunks.decode(buffer)?;
                if matches!(step, Step::End(_)) {
                    *self = Self::Ended;
                }
                match step {
                    Step::Frame(frame) => Some(frame),
                    Step::End(trailers) => trailers,
                    Step::Wait => None,
                }
            }
            Self::Close => {
                let all = buffer.split().freeze();
                (!all.is_empty()).then(|| Frame::data(all))
            }
            Self::Ended => None,
            Self::Failed => return Err(BadMessage::Invalid),
        };
        Ok(frame)
    }

    /// The connection ends. Returns whether the body has ended as well.
    pub(crate) fn end(&mut self) -> bool {
        let is_end = matches!(self, Self::Close | Self::Ended);
        if is_end {
            *self = Self::Ended;
        }
        is_end
    }
}

/// The result of reading a chunked body.
enum Step {
    Frame(Frame<Bytes>),
    /// With trailers, if there are any.
    End(Option<Frame<Bytes>>),
    /// More bytes are needed.
    Wait,
}

impl Chunks {
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Step, BadMessage> {
        loop {
            match &mut self.place {
                Place::Size => match self.size(buffer)? {
                    None => return Ok(Step::Wait),
                    Some(0) => self.place = Place::Trailers,
                    Some(size) => self.place = Place::Data(size),
                },
                Place::Data(remaining) => {
                    let data = split(buffer, remaining);
                    if *remaining == 0 {
                        self.place = Place::DataEnd;
                    }
                    return Ok(data.map_or(Step::Wait, |data| Step::Frame(Frame::data(data))));
                }
                Place::DataEnd => match buffer.as_ref() {
                    [] | [b'\r'] => return Ok(Step::Wait),
                    [b'\r', b'\n', ..] => {
                        buffer.advance(2);
                        self.place = Place::Size;
                    }
                    _ => return Err(BadMessage::Invalid),
                },
                Place::Trailers => return self.trailers(buffer),
            }
        }
    }

    /// Reads the line before a chunk: its size, and extensions, which nothing reads.
    fn size(&mut self, buffer: &mut BytesMut) -> Result<Option<u64>, BadMessage> {
        let Some(end) = memchr(b'\n', buffer) else {
            return match buffer.len() > MAX_LINE {
                true => Err(BadMessage::Invalid),
                false => Ok(None),
            };
        };
        let line = buffer.split_to(end + 1);
        let line = line.strip_suffix(b"\r\n").ok_or(BadMessage::Invalid)?;
        let digits = line
            .iter()
            .take_while(|byte| byte.is_ascii_hexdigit())
            .count();
        let (digits, rest) = line.split_at(digits);
        let extension = rest.trim_ascii_start();
        self.extensions += rest.len();
        let is_valid = matches!(extension, [] | [b';', ..])
            && !extension
                .iter()
                .any(|byte| byte.is_ascii_control() && *byte != b'\t')
            && rest.iter().all(|byte| !matches!(byte, b'\r' | b'\x0c'))
            && self.extensions <= MAX_EXTENSIONS;
        let size = str::from_utf8(digits).ok().filter(|_| is_valid);
        let size = size.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        size.map(Some).ok_or(BadMessage::Invalid)
    }

    /// Reads trailers and the empty line that ends them.
    fn trailers(&mut self, buffer: &mut BytesMut) -> Result<Step, BadMessage> {
        if buffer.starts_with(b"\r\n") {
            buffer.advance(2);
            return Ok(Step::End(None));
        }
        let begin = self.searched.saturating_sub(3);
        let unseen = buffer.get(begin..).unwrap_or_default();
        let end = unseen.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let Some(end) = end.map(|end| begin + end + 4) else {
            self.searched = buffer.len();
            return match buffer.len() > MAX_TRAILERS {
                true => Err(BadMessage::TooLarge),
                false => Ok(Step::Wait),
            };
        };
        let block = buffer.split_to(end).freeze();
        let is_plain = block.len() <= MAX_TRAILERS && has_whole_line_ends(&block);
        match is_plain {
            true => Ok(Step::End(Some(Frame::trailers(trailers(&block)?)))),
            false => Err(BadMessage::Invalid),
        }
    }
}

/// Whether `\r` and `\n` occur only together.
fn has_whole_line_ends(block: &[u8]) -> bool {
    let pairs = block.windows(2).filter(|pair| pair == b"\r\n").count();
    let count = |wanted: u8| block.iter().filter(|byte| **byte == wanted).count();
    count(b'\r') == pairs && count(b'\n') == pairs
}

/// Splits off what there is of `remaining` bytes.
fn split(buffer: &mut BytesMut, remaining: &mut u64) -> Option<Bytes> {
    if buffer.is_empty() {
        return None;
    }
    let length = usize::try_from(*remaining).map_or(buffer.len(), |most| most.min(buffer.len()));
    *remaining -= length as u64;
    Some(buffer.split_to(length).freeze())
}
