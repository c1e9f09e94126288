//! The head of a request as bytes: what the client sent, with the edits of every route.

use std::{borrow::Cow, mem::MaybeUninit};

use bytes::{BufMut, Bytes, BytesMut};
use headgate_model::edge::path;
use http::{HeaderValue, Method};
use httparse::Status;

use super::line;
use crate::{auth::USER, message};

/// Fields of a direct request. A request with more takes the general way.
const MAX_FIELDS: usize = 64;
/// Longest path and query, in bytes.
const MAX_TARGET: usize = 8 << 10;

/// What the steps of a direct request read.
pub(crate) struct Head<'a> {
    pub(crate) method: Method,
    /// The path, which is its own decoded form.
    pub(crate) path: &'a str,
    /// Without `?`.
    pub(crate) query: Option<&'a str>,
    /// Path and query.
    pub(crate) target: &'a str,
    /// As the client wrote it.
    named: &'a str,
    /// In lower case, without port.
    pub(crate) host: Cow<'a, str>,
    /// Whether the connection ends with the response.
    pub(crate) is_last: bool,
    pub(crate) id: Option<&'a [u8]>,
    pub(crate) authorization: Option<&'a [u8]>,
    pub(crate) referer: Option<&'a [u8]>,
    pub(crate) agent: Option<&'a [u8]>,
}

/// What is done with a field.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Copied,
    Host,
    Authorization,
    Connection,
    Cookie,
    RequestId,
    Referer,
    Agent,
    /// Set by the proxy, or only for the connection.
    Dropped,
    /// Something that the general way is for.
    Rare,
}

/// The kind of a field with this name. See [`crate::headers`] for what is dropped.
fn kind(name: &str) -> Kind {
    let is = |known: &str| name.eq_ignore_ascii_case(known);
    let starts = |known: &str| {
        let start = name.get(..known.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(known))
    };
    match name.len() {
        2 if is("te") => Kind::Rare,
        4 if is("host") => Kind::Host,
        5 if is("proxy") => Kind::Dropped,
        // `Connection: close` would name it.
        5 if is("close") => Kind::Rare,
        6 if is("cookie") => Kind::Cookie,
        6 if is("expect") => Kind::Rare,
        7 if is("upgrade") || is("trailer") => Kind::Rare,
        7 if is("referer") => Kind::Referer,
        8 if is("x-scheme") => Kind::Dropped,
        9 if is("x-real-ip") || is("forwarded") => Kind::Dropped,
        10 if is("connection") => Kind::Connection,
        10 if is("keep-alive") => Kind::Dropped,
        10 if is("user-agent") => Kind::Agent,
        // Guards set it.
        11 if is("x-auth-user") => Kind::Rare,
        12 if is("x-request-id") => Kind::RequestId,
        12 if is("content-type") => Kind::Rare,
        13 if is("authorization") => Kind::Authorization,
        14 if is("content-length") => Kind::Rare,
        16 if is("proxy-connection") => Kind::Dropped,
        17 if is("transfer-encoding") => Kind::Rare,
        18 if is("proxy-authenticate") => Kind::Dropped,
        19 if is("proxy-authorization") => Kind::Dropped,
        24 if is("x-original-forwarded-for") => Kind::Dropped,
        _ if starts("x-forwarded-") => Kind::Dropped,
        // CGI servers read it as another field.
        _ if name.contains('_') => Kind::Rare,
        _ => Kind::Copied,
    }
}

/// Reads the head of a request, and writes that of the request to the endpoint, all but what
/// [`end`] adds. `None` if the request must take the general way: it has a body, asks for more than a
/// response, could be read in two ways, or is invalid. So this accepts no request that the general
/// way refuses.
pub(super) fn relay<'a>(head: &'a Bytes, out: &mut BytesMut) -> Option<Head<'a>> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut head_line = httparse::Request::new(&mut []);
    let parsed = head_line
        .parse_with_uninit_headers(head, &mut fields)
        .ok()?;
    let is_whole = matches!(parsed, Status::Complete(length) if length == head.len());
    if !is_whole || head_line.version != Some(1) {
        return None;
    }
    let method = match head_line.method? {
        "GET" => Method::GET,
        "HEAD" => Method::HEAD,
        "POST" => Method::POST,
        "PUT" => Method::PUT,
        "DELETE" => Method::DELETE,
        "OPTIONS" => Method::OPTIONS,
        "PATCH" => Method::PATCH,
        _ => return None,
    };
    let target = head_line.path?;
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let is_plain =
        target.len() <= MAX_TARGET && target.bytes().all(is_of_target) && path::is_plain(path);
    if !is_plain {
        return None;
    }
    out.clear();
    out.reserve(head.len() + 512);
    for part in [method.as_str(), " ", target, " HTTP/1.1\r\n"] {
        out.put_slice(part.as_bytes());
    }
    let (mut host, mut id, mut referer, mut agent) = (None, None, None, None);
    let mut authorization = None;
    let (mut is_last, mut has_cookie, mut has_connection) = (false, false, false);
    for field in &*head_line.headers {
        let kind = kind(field.name);
        match kind {
            Kind::Dropped => continue,
            Kind::Rare => return None,
            Kind::Connection => {
                if has_connection {
                    return None;
                }
                has_connection = true;
                is_last = field.value.eq_ignore_ascii_case(b"close");
                if !is_last && !field.value.eq_ignore_ascii_case(b"keep-alive") {
                    return None;
                }
                continue;
            }
            Kind::Host if host.is_some() => return None,
            Kind::Host => host = Some(str::from_utf8(field.value).ok()?),
            Kind::Authorization if authorization.is_some() => return None,
            Kind::Authorization => authorization = Some(field.value),
            Kind::Cookie if has_cookie => return None,
            Kind::Cookie => has_cookie = true,
            Kind::RequestId if id.is_some() => return None,
            Kind::RequestId => id = Some(field.value),
            Kind::Referer if referer.is_none() => referer = Some(field.value),
            Kind::Agent if agent.is_none() => agent = Some(field.value),
            Kind::Referer | Kind::Agent | Kind::Copied => {}
        }
        line(out, field.name, field.value);
    }
    let named = host?;
    Some(Head {
        method,
        path,
        query,
        target,
        named,
        host: message::name(named)?,
        is_last,
        id,
        authorization,
        referer,
        agent,
    })
}

/// Bytes of a target that every reader understands in the same way (RFC 3986, 3.3 and 3.4).
fn is_of_target(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@/?%".contains(&byte)
}

/// Adds what the endpoint is sent about the client, and the end of the head.
pub(super) fn end(
    out: &mut BytesMut,
    head: &Head<'_>,
    about_client: &[u8],
    user: Option<&HeaderValue>,
    id: &[u8],
) {
    out.put_slice(about_client);
    if let Some(user) = user {
        line(out, USER.as_str(), user.as_bytes());
    }
    line(out, "x-forwarded-host", head.named.as_bytes());
    if head.id.is_none() {
        line(out, "x-request-id", id);
    }
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};

    use super::relay;

    fn sent(first: &str, fields: &str) -> Option<String> {
        let head = Bytes::from(format!("{first}\r\nHost: A.b:80\r\n{fields}\r\n"));
        let mut out = BytesMut::new();
        let read = relay(&head, &mut out)?;
        assert_eq!(read.host, "a.b");
        Some(String::from_utf8(out.to_vec()).unwrap())
    }

    #[test]
    fn l181_the_usual_fields_are_relayed_and_rare_ones_are_not() {
        let begin = "GET /a?b=%2f HTTP/1.1\r\nhost: A.b:80\r\n";
        for (fields, relayed) in [
            ("", Some("")),
            ("X-A: 1\r\nX-A:  2\r\n", Some("x-a: 1\r\nx-a: 2\r\n")),
            ("Connection: close\r\nCookie: a\r\n", Some("cookie: a\r\n")),
            (
                "X-Forwarded-Any: 1\r\nForwarded: 1\r\nProxy: 1\r\n",
                Some(""),
            ),
            ("X-Request-Id: 1\r\n", Some("x-request-id: 1\r\n")),
            ("Content-Length: 0\r\n", None),
            ("Transfer-Encoding: chunked\r\n", None),
            ("Expect: 100-continue\r\n", None),
            ("Upgrade: websocket\r\n", None),
            ("TE: trailers\r\n", None),
            ("Connection: X-A\r\n", None),
            ("Cookie: a\r\nCookie: b\r\n", None),
            ("Host: a.b\r\n", None),
            ("X_A: 1\r\n", None),
        ] {
            let expected = relayed.map(|fields| format!("{begin}{fields}"));
            assert_eq!(sent("GET /a?b=%2f HTTP/1.1", fields), expected, "{fields}");
        }
        for first in [
            "GET /a HTTP/1.0",
            "CONNECT a.b:80 HTTP/1.1",
            "TRACE / HTTP/1.1",
            "GET http://a.b/ HTTP/1.1",
            "OPTIONS * HTTP/1.1",
            "GET /%61 HTTP/1.1",
            "GET /a/../b HTTP/1.1",
            "GET /a#b HTTP/1.1",
        ] {
            assert_eq!(sent(first, ""), None, "{first}");
        }
    }
}
