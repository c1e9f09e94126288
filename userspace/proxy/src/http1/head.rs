//! Heads of messages, and the length of the body that follows (RFC 9112, 2 to 6).

use std::mem::{self, MaybeUninit};

use bytes::{Buf, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING},
    request, response,
};
use httparse::Status;
use hyper::ext::ReasonPhrase;
use memchr::memchr_iter;

use crate::fields::has;

/// Fields in one head, or in the trailers of one body.
pub(super) const MAX_FIELDS: usize = 256;

/// The longest body, in bytes: what a signed number of 64 bits can state.
const MAX_LENGTH: u64 = i64::MAX as u64;

/// The length of a body (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    Exact(u64),
    Chunked,
    /// Until the connection ends.
    Close,
}

/// Why a message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadMessage {
    #[error("the message is invalid")]
    Invalid,
    #[error("the head is too large")]
    TooLarge,
}

impl BadMessage {
    /// The response to a request that is refused.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Invalid => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        }
    }
}

/// Finds the end of a head whose bytes arrive little by little, and reads none of them twice.
#[derive(Debug, Default)]
pub(super) struct Lines {
    seen: usize,
}

impl Lines {
    /// Splits a head off once its last, empty line is there. Removes empty lines before it.
    pub(super) fn split_head(&mut self, buffer: &mut BytesMut) -> Option<Bytes> {
        if self.seen < 2 {
            skip_empty_lines(buffer);
            self.seen = 0;
        }
        // The last line end may lack its successor.
        let begin = self.seen.saturating_sub(2);
        let unseen = buffer.get(begin..).unwrap_or_default();
        for at in memchr_iter(b'\n', unseen) {
            let after = match unseen.get(at + 1..) {
                Some([b'\n', ..]) => 2,
                Some([b'\r', b'\n', ..]) => 3,
                _ => continue,
            };
            self.seen = 0;
            let length = begin + at + after;
            let head = match length == buffer.len() {
                // Without a count of the holders of both parts.
                true => mem::take(buffer),
                false => buffer.split_to(length),
            };
            return Some(head.freeze());
        }
        self.seen = buffer.len();
        None
    }
}

/// Removes empty lines before a message (RFC 9112, 2.2).
fn skip_empty_lines(buffer: &mut BytesMut) {
    loop {
        match buffer.as_ref() {
            [b'\r', b'\n', ..] => buffer.advance(2),
            [b'\n', ..] => buffer.advance(1),
            _ => return,
        }
    }
}

/// Whether the begin of a request is invalid, whatever follows.
pub(crate) fn is_hopeless(begin: &[u8]) -> bool {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut line = httparse::Request::new(&mut []);
    line.parse_with_uninit_headers(begin, &mut fields).is_err()
}

/// The head of a request.
#[derive(Debug)]
pub(crate) struct ReceivedRequest {
    pub(crate) parts: request::Parts,
    pub(crate) length: Length,
    /// Whether the connection ends with its response.
    pub(crate) is_last: bool,
    /// Whether the client waits for 100 before it sends the body (RFC 9110, 10.1.1).
    pub(crate) expects_continue: bool,
}

/// Reads the head of a request.
///
/// # Errors
///
/// If it is invalid, or the length of its body is ambiguous.
pub(crate) fn request(head: &Bytes) -> Result<ReceivedRequest, BadMessage> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut line = httparse::Request::new(&mut []);
    let parsed = line.parse_with_uninit_headers(head, &mut fields);
    complete(parsed, head)?;
    let (mut parts, ()) = Request::new(()).into_parts();
    let method = line.method.unwrap_or_default().as_bytes();
    parts.method = Method::from_bytes(method).map_err(invalid)?;
    let target = head.slice_ref(line.path.unwrap_or_default().as_bytes());
    parts.uri = Uri::from_maybe_shared(target).map_err(invalid)?;
    parts.version = version(line.version);
    parts.headers = headers(head, line.headers)?;
    let (length, is_twofold) = request_length(parts.version, &mut parts.headers)?;
    let mut expected = parts.headers.get_all(EXPECT).iter();
    let is_continue = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    Ok(ReceivedRequest {
        is_last: is_twofold || ends(parts.version, &parts.headers),
        expects_continue: parts.version == Version::HTTP_11
            && expected.next_back().is_some_and(is_continue),
        length,
        parts,
    })
}

/// The head of a response.
#[derive(Debug)]
pub(crate) struct ReceivedResponse {
    pub(crate) parts: response::Parts,
    pub(crate) length: Length,
    /// Whether the connection ends with its body.
    pub(crate) is_last: bool,
}

/// Reads the head of a response to a request with this method. `None` if another response follows
/// (RFC 9110, 15.2).
///
/// # Errors
///
/// If it is invalid, or the length of its body is.
pub(crate) fn final_response(
    head: &Bytes,
    method: &Method,
) -> Result<Option<ReceivedResponse>, BadMessage> {
    let received = response(head, method)?;
    let status = received.parts.status;
    let is_final = !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS;
    Ok(is_final.then_some(received))
}

/// Reads the head of a response to a request with this method.
///
/// # Errors
///
/// If it is invalid, or the length of its body is.
pub(crate) fn response(head: &Bytes, method: &Method) -> Result<ReceivedResponse, BadMessage> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut line = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let parsed = config.parse_response_with_uninit_headers(&mut line, head, &mut fields);
    complete(parsed, head)?;
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = StatusCode::from_u16(line.code.unwrap_or_default()).map_err(invalid)?;
    parts.version = version(line.version);
    parts.headers = headers(head, line.headers)?;
    if let Some(reason) = line.reason
        && parts.status.canonical_reason() != Some(reason)
        && let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes())
    {
        parts.extensions.insert(reason);
    }
    let length = response_length(&parts, method)?;
    Ok(ReceivedResponse {
        is_last: length == Length::Close || ends(parts.version, &parts.headers),
        length,
        parts,
    })
}

/// The fields of trailers, which end with an empty line.
pub(super) fn trailers(block: &Bytes) -> Result<HeaderMap, BadMessage> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    match httparse::parse_headers(block, &mut fields) {
        Ok(Status::Complete((length, fields))) if length == block.len() => headers(block, fields),
        _ => Err(BadMessage::Invalid),
    }
}

/// Whether all bytes of a head were read, and no others.
fn complete(parsed: httparse::Result<usize>, head: &Bytes) -> Result<(), BadMessage> {
    match parsed {
        Ok(Status::Complete(length)) if length == head.len() => Ok(()),
        Err(httparse::Error::TooManyHeaders) => Err(BadMessage::TooLarge),
        Ok(_) | Err(_) => Err(BadMessage::Invalid),
    }
}

fn invalid<E>(_why: E) -> BadMessage {
    BadMessage::Invalid
}

fn version(minor: Option<u8>) -> Version {
    match minor {
        Some(0) => Version::HTTP_10,
        _ => Version::HTTP_11,
    }
}

/// Values share the memory of the head.
fn headers(head: &Bytes, fields: &[httparse::Header<'_>]) -> Result<HeaderMap, BadMessage> {
    let mut headers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(invalid)?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value));
        headers.append(name, value.map_err(invalid)?);
    }
    Ok(headers)
}

/// Whether a connection ends after a message (RFC 9112, 9.3).
fn ends(version: Version, headers: &HeaderMap) -> bool {
    let stays = version == Version::HTTP_11 || has(headers, &CONNECTION, "keep-alive");
    !stays || has(headers, &CONNECTION, "close")
}

/// Returns the length of a request's body, and whether the request states it in two ways. Then
/// `Transfer-Encoding` counts. Repeated lengths become one.
fn request_length(version: Version, headers: &mut HeaderMap) -> Result<(Length, bool), BadMessage> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let first = lengths.next().cloned();
    let length = first.as_ref().map(digits).transpose()?;
    for other in lengths {
        if Some(digits(other)?) != length {
            return Err(BadMessage::Invalid);
        }
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(last) = codings.next_back() else {
        if let Some(first) = first {
            headers.insert(CONTENT_LENGTH, first);
        }
        return Ok((Length::Exact(length.unwrap_or(0)), false));
    };
    if version != Version::HTTP_11 || !is_chunked(last) {
        return Err(BadMessage::Invalid);
    }
    headers.remove(CONTENT_LENGTH);
    Ok((Length::Chunked, length.is_some()))
}

fn response_length(parts: &response::Parts, method: &Method) -> Result<Length, BadMessage> {
    let status = parts.status;
    let has_no_body = status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || *method == Method::HEAD;
    if has_no_body {
        return Ok(Length::Exact(0));
    }
    let mut codings = parts.headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        // Who removes a coding must decode it (RFC 9112, 7): we know no other.
        let is_chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked");
        let is_valid = is_chunked && codings.next().is_none() && parts.version != Version::HTTP_10;
        return match is_valid {
            true => Ok(Length::Chunked),
            false => Err(BadMessage::Invalid),
        };
    }
    let mut length = None;
    for line in parts.headers.get_all(CONTENT_LENGTH) {
        let line = line.to_str().map_err(invalid)?;
        for number in line.split(',') {
            let number = number_of(number.trim().as_bytes())?;
            if length.is_some_and(|length| length != number) {
                return Err(BadMessage::Invalid);
            }
            length = Some(number);
        }
    }
    Ok(length.map_or(Length::Close, Length::Exact))
}

/// Whether `chunked` is the last coding.
fn is_chunked(codings: &HeaderValue) -> bool {
    let last = codings
        .to_str()
        .ok()
        .and_then(|codings| codings.rsplit(',').next());
    last.is_some_and(|last| last.trim().eq_ignore_ascii_case("chunked"))
}

fn digits(value: &HeaderValue) -> Result<u64, BadMessage> {
    number_of(value.as_bytes())
}

/// A length: digits without sign.
fn number_of(digits: &[u8]) -> Result<u64, BadMessage> {
    let text = str::from_utf8(digits).map_err(invalid)?;
    let is_plain = digits.iter().all(u8::is_ascii_digit);
    let number = text
        .parse()
        .ok()
        .filter(|number| is_plain && *number <= MAX_LENGTH);
    number.ok_or(BadMessage::Invalid)
}
