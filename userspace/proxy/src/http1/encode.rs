//! Heads and bodies as they are sent (RFC 9112, 6 and 7).

use std::{
    cell::RefCell,
    fmt::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version,
    header::{self, CONNECTION, CONTENT_LENGTH, DATE, TE, TRAILER, TRANSFER_ENCODING},
    request, response,
};
use hyper::{
    body::{Body, Frame},
    ext::ReasonPhrase,
};

use super::transport::Output;
use crate::fields::{elements, first, has};

/// What is known about the length of a body before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    Exact(u64),
    Unknown,
}

impl Size {
    pub(crate) fn of(body: &impl Body) -> Self {
        match body.is_end_stream() {
            true => Self::Exact(0),
            false => body.size_hint().exact().map_or(Self::Unknown, Self::Exact),
        }
    }
}

/// Sends a body in the form that its head announces.
#[derive(Debug)]
pub(crate) enum Encoder {
    /// Bytes that are missing.
    Exact(u64),
    /// With the trailers that may follow.
    Chunked(Vec<HeaderName>),
    /// Until the connection ends.
    Close,
    Ended,
}

impl Encoder {
    /// Adds a frame to the output, which must have room for it.
    pub(crate) fn frame(&mut self, frame: Frame<Bytes>, out: &mut Output) {
        match frame.into_data() {
            Ok(data) => self.data(data, out),
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    self.trailers(&trailers, out);
                }
            }
        }
    }

    fn data(&mut self, mut data: Bytes, out: &mut Output) {
        if data.is_empty() {
            return;
        }
        match self {
            Self::Exact(remaining) => {
                // More than the head announces would be the next message.
                data.truncate(usize::try_from(*remaining).unwrap_or(usize::MAX));
                *remaining -= data.len() as u64;
                out.push(data, b"");
            }
            Self::Chunked(_) => {
                // Writing to memory does not fail.
                let _written = write!(out.flat(), "{:x}\r\n", data.len());
                out.push(data, b"\r\n");
            }
            Self::Close => out.push(data, b""),
            Self::Ended => {}
        }
    }

    /// Sends the trailers that the head announces (RFC 9110, 6.5.1).
    fn trailers(&mut self, trailers: &HeaderMap, out: &mut Output) {
        let Self::Chunked(announced) = self else {
            return;
        };
        let may_send =
            |name: &HeaderName| announced.contains(name) && !NOT_IN_TRAILERS.contains(name);
        let mut sent = trailers
            .iter()
            .filter(|(name, _)| may_send(name))
            .peekable();
        if sent.peek().is_some() {
            let flat = out.flat();
            flat.put_slice(b"0\r\n");
            sent.for_each(|(name, value)| field(flat, name, value));
            flat.put_slice(b"\r\n");
            *self = Self::Ended;
        }
    }

    /// Ends the body. Returns false if part of it is missing.
    pub(crate) fn end(&mut self, out: &mut Output) -> bool {
        let is_whole = match self {
            Self::Exact(remaining) => *remaining == 0,
            Self::Chunked(_) => {
                out.end_chunks();
                true
            }
            Self::Close | Self::Ended => true,
        };
        *self = Self::Ended;
        is_whole
    }
}

/// Fields that change how a message is read.
const NOT_IN_TRAILERS: [HeaderName; 12] = [
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::HOST,
    header::MAX_FORWARDS,
    header::SET_COOKIE,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
];

/// Writes the head of a request, and returns what sends its body. The length is stated once: a transfer
/// coding counts before a length, and the length in the head before that of the body.
pub(crate) fn request_head<B>(out: &mut BytesMut, request: &Request<B>, size: Size) -> Encoder {
    let uri = request.uri();
    out.reserve(256);
    for part in [request.method().as_str(), " ", uri.path()] {
        out.put_slice(part.as_bytes());
    }
    if let Some(query) = uri.query() {
        out.put_u8(b'?');
        out.put_slice(query.as_bytes());
    }
    out.put_slice(b" HTTP/1.1\r\n");
    let headers = request.headers();
    let is_chunked = headers.contains_key(TRANSFER_ENCODING) && size != Size::Exact(0);
    let length = first(headers, &CONTENT_LENGTH).and_then(|length| length.parse().ok());
    for (name, value) in headers {
        let is_framing = *name == TRANSFER_ENCODING || *name == CONTENT_LENGTH && is_chunked;
        if !is_framing {
            field(out, name, value);
        }
    }
    let encoder = match (is_chunked, length, size) {
        (_, _, Size::Exact(0)) | (false, Some(0), _) => Encoder::Ended,
        (false, Some(length), _) => Encoder::Exact(length),
        (false, None, Size::Exact(length)) => {
            field(out, &CONTENT_LENGTH, &length.into());
            Encoder::Exact(length)
        }
        (true, _, _) | (false, None, Size::Unknown) => {
            out.put_slice(b"transfer-encoding: chunked\r\n");
            Encoder::Chunked(announced(headers))
        }
    };
    out.put_slice(b"\r\n");
    encoder
}

/// What the form of a response depends on: the request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) version: Version,
    pub(crate) is_head: bool,
    pub(crate) takes_trailers: bool,
    /// Whether the connection ends with the response.
    pub(crate) is_last: bool,
}

impl Asked {
    /// A request that cannot be read.
    pub(crate) fn unknown() -> Self {
        Self {
            version: Version::HTTP_11,
            is_head: false,
            takes_trailers: false,
            is_last: true,
        }
    }

    pub(crate) fn by(parts: &request::Parts, is_last: bool) -> Self {
        Self {
            version: parts.version,
            is_head: parts.method == Method::HEAD,
            takes_trailers: has(&parts.headers, &TE, "trailers"),
            is_last,
        }
    }
}

/// Writes the head of a response, and returns what sends its body. Notes in `asked` if the connection ends
/// with it.
pub(crate) fn response_head(
    out: &mut BytesMut,
    parts: &response::Parts,
    size: Size,
    asked: &mut Asked,
) -> Encoder {
    let (status, headers) = (parts.status, &parts.headers);
    out.reserve(256);
    status_line(out, parts, asked.version);
    let says_close = has(headers, &CONNECTION, "close");
    // Nothing offers a client of HTTP/1.0 to keep its connection.
    asked.is_last |= says_close || asked.version == Version::HTTP_10;
    let has_no_body = asked.is_head
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let may_chunk = asked.version == Version::HTTP_11 && !has_no_body;
    let stated = first(headers, &CONTENT_LENGTH).and_then(|length| length.parse().ok());
    let length = match size {
        Size::Exact(0) if !has_no_body => Some(0),
        Size::Exact(length) if length > 0 => stated.or(Some(length)),
        Size::Exact(_) | Size::Unknown => stated,
    };
    let encoder = match length {
        _ if has_no_body => Encoder::Ended,
        Some(0) => Encoder::Ended,
        Some(length) => Encoder::Exact(length),
        None if may_chunk => Encoder::Chunked(match asked.takes_trailers {
            true => announced(headers),
            false => Vec::new(),
        }),
        None => Encoder::Close,
    };
    asked.is_last |= matches!(encoder, Encoder::Close);
    for (name, value) in headers {
        let is_about_body = match *name {
            TRANSFER_ENCODING | CONTENT_LENGTH => true,
            TRAILER => !may_chunk,
            _ => false,
        };
        if !is_about_body {
            field(out, name, value);
        }
    }
    // The response to HEAD states the length of the body that GET would get.
    if let Some(length) = length.filter(|_| !has_no_body || asked.is_head) {
        let _written = write!(out, "content-length: {length}\r\n");
    }
    if matches!(encoder, Encoder::Chunked(_)) {
        out.put_slice(b"transfer-encoding: chunked\r\n");
    }
    if asked.is_last && !says_close && asked.version == Version::HTTP_11 && !is_switch(status) {
        out.put_slice(b"connection: close\r\n");
    }
    if !headers.contains_key(DATE) {
        date(out);
    }
    out.put_slice(b"\r\n");
    encoder
}

fn is_switch(status: StatusCode) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS
}

fn status_line(out: &mut BytesMut, parts: &response::Parts, version: Version) {
    out.put_slice(match version {
        Version::HTTP_10 => b"HTTP/1.0 ",
        _ => b"HTTP/1.1 ",
    });
    out.put_slice(parts.status.as_str().as_bytes());
    out.put_u8(b' ');
    let usual = || {
        parts
            .status
            .canonical_reason()
            .unwrap_or("<none>")
            .as_bytes()
    };
    let named = parts.extensions.get::<ReasonPhrase>();
    out.put_slice(named.map_or_else(usual, |reason| reason.as_bytes()));
    out.put_slice(b"\r\n");
}

/// The names in `Trailer`.
fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    if !headers.contains_key(TRAILER) {
        return Vec::new();
    }
    let names = elements(headers, &TRAILER);
    names.filter_map(|name| name.parse().ok()).collect()
}

/// Adds a field.
pub(crate) fn field(out: &mut BytesMut, name: &HeaderName, value: &HeaderValue) {
    let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
    out.reserve(name.len() + value.len() + 4);
    out.put_slice(name);
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// Adds `Date`. The text is made once a second.
pub(crate) fn date(out: &mut BytesMut) {
    thread_local! {
        static LINE: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let now = SystemTime::now();
    let second = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    LINE.with_borrow_mut(|(made, line)| {
        if *made != second || line.is_empty() {
            *made = second;
            *line = format!("date: {}\r\n", httpdate::fmt_http_date(now));
        }
        out.put_slice(line.as_bytes());
    });
}
