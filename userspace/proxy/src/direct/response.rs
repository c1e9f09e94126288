//! The head of a response as bytes: what the endpoint sent, with the edits of every route.

use std::{
    fmt::Write as _,
    mem::MaybeUninit,
    sync::atomic::{AtomicBool, Ordering},
};

use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;
use httparse::Status;

use super::line;
use crate::http1::{Encoder, Length, date};

/// Fields of a direct response. A response with more takes the general way.
const MAX_FIELDS: usize = 64;

/// What the head of a response depends on besides the endpoint.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) is_head: bool,
    /// Whether the client asks for the end of its connection.
    pub(crate) is_last: bool,
    /// Whether the proxy ends the connection.
    pub(crate) is_closing: &'a AtomicBool,
    /// `Strict-Transport-Security`; empty for none.
    pub(crate) hsts: &'a str,
}

/// A response whose head was written.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    /// The length of the body that the endpoint sends.
    pub(crate) length: Length,
    /// Whether the connection to the endpoint ends with it.
    pub(crate) is_last: bool,
    /// Whether the client's connection ends with it.
    pub(crate) ends: bool,
    /// Sends the body to the client.
    pub(crate) encoder: Encoder,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Copied,
    Connection,
    Length,
    Coding,
    Date,
    Server,
    Hsts,
    /// Only for the connection.
    Dropped,
    /// Something that the general way is for.
    Rare,
}

fn kind(name: &str) -> Kind {
    let is = |known: &str| name.eq_ignore_ascii_case(known);
    match name.len() {
        2 if is("te") => Kind::Rare,
        4 if is("date") => Kind::Date,
        // `Connection: close` would name it.
        5 if is("close") => Kind::Rare,
        6 if is("server") => Kind::Server,
        7 if is("trailer") => Kind::Rare,
        7 if is("upgrade") => Kind::Dropped,
        10 if is("connection") => Kind::Connection,
        10 if is("keep-alive") => Kind::Dropped,
        14 if is("content-length") => Kind::Length,
        16 if is("proxy-connection") => Kind::Dropped,
        17 if is("transfer-encoding") => Kind::Coding,
        18 if is("proxy-authenticate") => Kind::Dropped,
        19 if is("proxy-authorization") => Kind::Dropped,
        25 if is("strict-transport-security") => Kind::Hsts,
        _ => Kind::Copied,
    }
}

/// What the fields of a response say about its body and its connection.
#[derive(Default)]
struct Facts {
    length: Option<u64>,
    is_chunked: bool,
    is_last: bool,
    has_connection: bool,
    has_date: bool,
    has_server: bool,
}

impl Facts {
    /// `None` if the response must take the general way.
    fn of(fields: &[httparse::Header<'_>], asked: Asked<'_>) -> Option<Self> {
        let mut facts = Self::default();
        for field in fields {
            match kind(field.name) {
                Kind::Rare => return None,
                Kind::Connection => {
                    facts.is_last = field.value.eq_ignore_ascii_case(b"close");
                    let is_plain = facts.is_last || field.value.eq_ignore_ascii_case(b"keep-alive");
                    if facts.has_connection || !is_plain {
                        return None;
                    }
                    facts.has_connection = true;
                }
                Kind::Length => {
                    if facts.length.is_some() || facts.is_chunked {
                        return None;
                    }
                    facts.length = Some(number(field.value)?);
                }
                Kind::Coding => {
                    let is_plain = field.value.eq_ignore_ascii_case(b"chunked");
                    if facts.length.is_some() || facts.is_chunked || !is_plain {
                        return None;
                    }
                    facts.is_chunked = true;
                }
                Kind::Date => facts.has_date = true,
                Kind::Server => facts.has_server = true,
                Kind::Hsts | Kind::Dropped | Kind::Copied => {}
            }
        }
        // The response to HEAD has the fields of a body, and none.
        (!asked.is_head || !facts.is_chunked).then_some(facts)
    }
}

/// A length of up to 18 digits.
fn number(digits: &[u8]) -> Option<u64> {
    let is_plain = matches!(digits.len(), 1..=18) && digits.iter().all(u8::is_ascii_digit);
    str::from_utf8(digits)
        .ok()?
        .parse()
        .ok()
        .filter(|_| is_plain)
}

/// Writes the head of a response to the client of a direct request, with HTTP/1.1. `None` if the response
/// must take the general way; then nothing was written.
pub(crate) fn relay(head: &Bytes, out: &mut BytesMut, asked: Asked<'_>) -> Option<Head> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut head_line = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let parsed = config.parse_response_with_uninit_headers(&mut head_line, head, &mut fields);
    let is_whole = matches!(parsed, Ok(Status::Complete(length)) if length == head.len());
    let code = head_line.code.filter(|code| *code >= 200)?;
    if !is_whole || head_line.version != Some(1) {
        return None;
    }
    let status = StatusCode::from_u16(code).ok()?;
    let facts = Facts::of(head_line.headers, asked)?;
    let has_no_body =
        asked.is_head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let length = match (has_no_body, facts.is_chunked, facts.length) {
        (true, ..) => Length::Exact(0),
        (_, true, _) => Length::Chunked,
        (_, _, Some(length)) => Length::Exact(length),
        (_, _, None) => Length::Close,
    };
    let encoder = match length {
        Length::Exact(0) => Encoder::Ended,
        Length::Exact(length) => Encoder::Exact(length),
        Length::Chunked | Length::Close => Encoder::Chunked(Vec::new()),
    };
    out.reserve(head.len() + 256);
    for part in [
        "HTTP/1.1 ",
        status.as_str(),
        " ",
        head_line.reason.unwrap_or_default(),
        "\r\n",
    ] {
        out.put_slice(part.as_bytes());
    }
    for field in &*head_line.headers {
        let is_copied = match kind(field.name) {
            Kind::Copied | Kind::Date | Kind::Server => true,
            Kind::Hsts => asked.hsts.is_empty(),
            Kind::Connection | Kind::Length | Kind::Coding | Kind::Dropped | Kind::Rare => false,
        };
        if is_copied {
            line(out, field.name, field.value);
        }
    }
    if !facts.has_server {
        out.put_slice(b"server: headgate\r\n");
    }
    if !asked.hsts.is_empty() {
        line(out, "strict-transport-security", asked.hsts.as_bytes());
    }
    let stated = facts.length.filter(|_| !has_no_body || asked.is_head);
    if let Some(length) = stated {
        // Writing to memory does not fail.
        let _written = write!(out, "content-length: {length}\r\n");
    }
    if matches!(encoder, Encoder::Chunked(_)) {
        out.put_slice(b"transfer-encoding: chunked\r\n");
    }
    let ends = asked.is_last || asked.is_closing.load(Ordering::Relaxed);
    if ends {
        out.put_slice(b"connection: close\r\n");
    }
    if !facts.has_date {
        date(out);
    }
    out.put_slice(b"\r\n");
    Some(Head {
        status,
        length,
        is_last: facts.is_last || length == Length::Close,
        ends,
        encoder,
    })
}
