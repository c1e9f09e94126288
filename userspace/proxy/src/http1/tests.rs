//! The parser beside that of hyper: random messages are refused, or read exactly as hyper reads them.

use std::{
    convert::Infallible,
    fmt,
    sync::{Arc, Mutex},
    task::Poll,
};

use bytes::{Bytes, BytesMut};
use futures::future::poll_fn;
use http::{HeaderMap, Method, Request, Response, Version};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::{Body, Incoming},
    client, server,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::{Decoder, HeadRead, Transport, head::response, request};

/// Messages of one run.
const RUNS: u64 = 3000;
const MAX_HEAD: usize = 32 << 10;

/// A message as a parser reads it.
#[derive(Debug, PartialEq)]
struct Seen {
    /// Method and target, or status.
    line: String,
    version: Version,
    headers: HeaderMap,
    body: ReadBody,
}

#[derive(Debug, PartialEq)]
enum ReadBody {
    Whole(Vec<u8>, Option<HeaderMap>),
    Refused,
}

/// Reads a body.
async fn read<E: fmt::Debug>(mut body: impl Body<Data = Bytes, Error = E> + Unpin) -> ReadBody {
    let (mut bytes, mut trailers) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        match frame.map(|frame| {
            frame
                .into_data()
                .map_err(|frame| frame.into_trailers().unwrap())
        }) {
            Ok(Ok(data)) => bytes.extend_from_slice(&data),
            Ok(Err(map)) => trailers = Some(map),
            Err(_) => return ReadBody::Refused,
        }
    }
    ReadBody::Whole(bytes, trailers)
}

/// The other end of a connection on which these bytes arrive in pieces.
fn arriving(bytes: Vec<u8>, piece: usize) -> DuplexStream {
    let (near, far) = duplex(piece);
    let (mut rest, mut far) = tokio::io::split(far);
    tokio::spawn(async move {
        drop(far.write_all(&bytes).await);
        drop(far.shutdown().await);
    });
    tokio::spawn(async move { rest.read_to_end(&mut Vec::new()).await });
    near
}

async fn by_hyper(bytes: Vec<u8>) -> Vec<Seen> {
    let all: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let service = service_fn(|request: Request<Incoming>| {
        let all = all.clone();
        async move {
            let (parts, body) = request.into_parts();
            let seen = Seen {
                line: format!("{} {}", parts.method, parts.uri),
                version: parts.version,
                headers: parts.headers,
                body: read(body).await,
            };
            all.lock().unwrap().push(seen);
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let stream = TokioIo::new(arriving(bytes, 1 << 16));
    let mut rules = server::conn::http1::Builder::new();
    rules.half_close(true).max_headers(256);
    drop(rules.serve_connection(stream, service).await);
    std::mem::take(&mut *all.lock().unwrap())
}

/// Reads the body of the message whose head was read.
async fn read_ours(transport: &mut Transport) -> ReadBody {
    let (mut bytes, mut trailers) = (Vec::new(), None);
    while let Some(frame) = poll_fn(|context| transport.poll_frame(context)).await {
        match frame {
            Ok(frame) if frame.is_data() => bytes.extend_from_slice(&frame.into_data().unwrap()),
            Ok(frame) => trailers = frame.into_trailers().ok(),
            Err(_) => return ReadBody::Refused,
        }
    }
    ReadBody::Whole(bytes, trailers)
}

async fn by_us(bytes: Vec<u8>, piece: usize) -> Vec<Seen> {
    let mut transport = Transport::new(arriving(bytes, piece), BytesMut::new());
    let mut all = Vec::new();
    loop {
        let head = poll_fn(|context| transport.poll_head(MAX_HEAD, context)).await;
        let Ok(HeadRead::Head(head)) = head else {
            return all;
        };
        let Ok(received) = request(&head) else {
            return all;
        };
        transport.begin_body(Decoder::new(received.length));
        let parts = received.parts;
        let is_last = received.is_last
            || parts.version == Version::HTTP_10
            || parts.method == Method::CONNECT;
        all.push(Seen {
            line: format!("{} {}", parts.method, parts.uri),
            version: parts.version,
            headers: parts.headers,
            body: read_ours(&mut transport).await,
        });
        if !transport.end_message() || is_last {
            return all;
        }
    }
}

/// Makes bytes that are nearly messages.
struct Maker(fastrand::Rng);

impl Maker {
    fn one<'a>(&mut self, usual: &'a str, others: &[&'a str]) -> &'a str {
        match self.0.u8(..8) {
            0 => self.0.choice(others).unwrap(),
            _ => usual,
        }
    }

    fn any<'a>(&mut self, all: &[&'a str]) -> &'a str {
        self.0.choice(all).unwrap()
    }

    fn end(&mut self) -> &'static str {
        match self.0.u8(..30) {
            0 => self.any(&["\n", "\r", "\n\r", "\r\r\n", "\r\n\r\n", "\r\n ", ""]),
            _ => "\r\n",
        }
    }

    fn fields(&mut self, out: &mut String) {
        out.push_str(self.any(&[
            "",
            "Content-Length: 3\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\n\r\n",
        ]));
        if out.ends_with("\r\n\r\n") {
            return;
        }
        for _ in 0..self.0.u8(..5) {
            let name = self.any(&[
                "Content-Length",
                "Transfer-Encoding",
                "Connection",
                "Expect",
                "X-A",
                "TE",
                "Trailer",
                "Upgrade",
                "transfer-encoding",
                "CONTENT-LENGTH",
                "X A",
                "",
                "x\0",
                "Content-Length ",
                " Content-Length",
                "Content_Length",
                "Host",
            ]);
            let value = self.any(&[
                "0",
                "3",
                "5",
                "03",
                "+3",
                "-3",
                "3, 3",
                "3,4",
                "0x3",
                "3 ",
                " \t3\t ",
                "99999999999999999999",
                "18446744073709551615",
                "chunked",
                "CHUNKED",
                "gzip",
                "gzip, chunked",
                "chunked, identity",
                "\"chunked\"",
                "\x0bchunked",
                "chunked,",
                "close",
                "keep-alive",
                "close, x",
                "x, close",
                "100-continue",
                "100-Continue",
                "trailers",
                "X-T",
                "a\r\n b",
                "a\rb",
                "caf\u{e9}",
                "",
                "h2c",
                "a\0b",
            ]);
            let colon = self.one(": ", &[":", " : ", "", ":\t", "::"]);
            let end = self.end();
            out.push_str(&format!("{name}{colon}{value}{end}"));
        }
        out.push_str(self.end());
    }

    fn body(&mut self, out: &mut String) {
        if self.0.bool() {
            out.push_str(self.any(&["", "abc", "abcde", "abc\r\n", "GET / HTTP/1.1\r\n\r\n"]));
            return;
        }
        for _ in 0..self.0.u8(..4) {
            let size = self.one(
                "3",
                &[
                    "03",
                    "+3",
                    "0x3",
                    "3 ",
                    "3\t;a",
                    "3;a=1",
                    "3; a=\"\r\n\"",
                    "FFFFFFFFFFFFFFFFF",
                    "",
                    " 3",
                    "3;\n",
                    "3\x0c",
                    "A",
                    "3;\r",
                    "00000000000000000003",
                    "3 x",
                    "-1",
                ],
            );
            let data = self.one("abc", &["ab", "abcd", "abc\n", ""]);
            let (after, end) = (self.end(), self.end());
            out.push_str(&format!("{size}{after}{data}{end}"));
        }
        if self.0.u8(..4) == 0 {
            // Read on after it, the body would end.
            out.push_str(self.any(&["x\r\n", "3;a\n", "\r\n", "3\n"]));
        }
        out.push_str(self.one("0", &["00", "0;a", "-0", "", "0 "]));
        out.push_str(self.end());
        if self.0.u8(..4) == 0 {
            out.push_str(self.any(&["X-T: 1", "X T: 1", "X-T: 1\nX: 2", ":", "X-T", "X-T: a\0"]));
            out.push_str(self.end());
        }
        out.push_str(self.end());
    }

    /// Changes single bytes now and then.
    fn spoil(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        while self.0.u8(..3) == 0 && !bytes.is_empty() {
            let at = self.0.usize(..bytes.len());
            match self.0.u8(..3) {
                0 => drop(bytes.remove(at)),
                1 => bytes.insert(at, self.0.u8(..)),
                _ => bytes[at] = self.0.u8(..),
            }
        }
        bytes
    }

    fn requests(&mut self) -> Vec<u8> {
        let mut out = String::new();
        for _ in 0..=self.0.u8(..3) {
            let method = self.one(
                "POST",
                &["GET", "HEAD", "PO ST", "G(T", "get", "", "CONNECT"],
            );
            let target = self.one(
                "/a?b=c",
                &[
                    "*",
                    "http://h/x",
                    "/a b",
                    "/\u{e9}",
                    "a",
                    "",
                    "/%zz",
                    "//",
                    "h:80",
                    "/#f",
                ],
            );
            let version = self.one(
                "HTTP/1.1",
                &["HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1", ""],
            );
            let end = self.end();
            out.push_str(&format!("{method} {target} {version}{end}"));
            self.fields(&mut out);
            self.body(&mut out);
        }
        self.spoil(out.into_bytes())
    }

    fn response(&mut self) -> Vec<u8> {
        let mut out = String::new();
        if self.0.u8(..6) == 0 {
            out.push_str("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
        }
        let version = self.one("HTTP/1.1", &["HTTP/1.0", "HTTP/1.2", "HTTP/2.0", ""]);
        let status = self.one(
            "200 OK",
            &[
                "204 No Content",
                "304 Not Modified",
                "200",
                "200 Fine",
                "99 X",
                "1000 X",
                "404 caf\u{e9}",
            ],
        );
        let end = self.end();
        out.push_str(&format!("{version} {status}{end}"));
        self.fields(&mut out);
        self.body(&mut out);
        self.spoil(out.into_bytes())
    }
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).escape_debug().to_string()
}

#[tokio::test]
async fn l170_requests_are_refused_or_read_as_by_hyper() {
    let (mut whole, begin) = (0, fastrand::u64(..));
    for seed in (begin..).take(RUNS as usize) {
        let mut maker = Maker(fastrand::Rng::with_seed(seed));
        let bytes = maker.requests();
        let ours = by_us(bytes.clone(), maker.0.usize(1..64)).await;
        let theirs = by_hyper(bytes.clone()).await;
        for (place, one) in ours.iter().enumerate() {
            assert_same(seed, one, theirs.get(place), &bytes);
            whole += usize::from(one.body != ReadBody::Refused);
        }
    }
    assert!(whole > RUNS as usize / 10, "{whole} requests were read");
}

#[tokio::test]
async fn l170_responses_are_refused_or_read_as_by_hyper() {
    let (mut whole, begin) = (0, fastrand::u64(..));
    for seed in (begin..).take(RUNS as usize) {
        let mut maker = Maker(fastrand::Rng::with_seed(seed));
        let bytes = maker.response();
        let method = if maker.0.u8(..8) == 0 {
            Method::HEAD
        } else {
            Method::GET
        };
        let Some(one) = response_by_us(bytes.clone(), &method, maker.0.usize(1..64)).await else {
            continue;
        };
        let other = response_by_hyper(bytes.clone(), &method).await;
        assert_same(seed, &one, other.as_ref(), &bytes);
        whole += usize::from(one.body != ReadBody::Refused);
    }
    assert!(whole > RUNS as usize / 10, "{whole} responses were read");
}

/// Asserts that a message was read as the other one, but for a body that is refused.
fn assert_same(seed: u64, one: &Seen, other: Option<&Seen>, bytes: &[u8]) {
    let is_equal = other.is_some_and(|other| match one.body {
        ReadBody::Whole(..) => one == other,
        ReadBody::Refused => (&one.line, &one.headers) == (&other.line, &other.headers),
    });
    assert!(
        is_equal,
        "seed {seed}: {one:?}\n{other:?}\n{}",
        shown(bytes)
    );
}

async fn response_by_us(bytes: Vec<u8>, method: &Method, piece: usize) -> Option<Seen> {
    let mut transport = Transport::new(arriving(bytes, piece), BytesMut::new());
    loop {
        let head = poll_fn(|context| transport.poll_head(MAX_HEAD, context)).await;
        let Ok(HeadRead::Head(head)) = head else {
            return None;
        };
        let received = response(&head, method).ok()?;
        let parts = received.parts;
        if parts.status.is_informational() {
            continue;
        }
        transport.begin_body(Decoder::new(received.length));
        return Some(Seen {
            line: parts.status.to_string(),
            version: parts.version,
            headers: parts.headers,
            body: read_ours(&mut transport).await,
        });
    }
}

async fn response_by_hyper(bytes: Vec<u8>, method: &Method) -> Option<Seen> {
    let (near, mut far) = duplex(1 << 16);
    let mut rules = client::conn::http1::Builder::new();
    rules.max_headers(256);
    let (mut requests, connection) = rules.handshake(TokioIo::new(near)).await.ok()?;
    tokio::spawn(connection);
    tokio::spawn(async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(far.read_u8().await?);
        }
        far.write_all(&bytes).await?;
        far.shutdown().await
    });
    let request = Request::builder().method(method).uri("/");
    let answered = requests
        .send_request(request.body(Empty::<Bytes>::new()).unwrap())
        .await;
    let (parts, body) = answered.ok()?.into_parts();
    Some(Seen {
        line: parts.status.to_string(),
        version: parts.version,
        headers: parts.headers,
        body: read(body).await,
    })
}

#[tokio::test]
async fn l208_a_silent_connection_keeps_no_memory_for_messages() {
    let (near, mut far) = duplex(1 << 16);
    let mut transport = Transport::new(near, BytesMut::new());
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: ";
    let long = [&request[..], &[b'x'; 20 << 10], b"\r\n\r\n"].concat();
    for request in [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), long] {
        far.write_all(&request).await.unwrap();
        let head = poll_fn(|context| transport.poll_head(MAX_HEAD, context)).await;
        assert!(matches!(head, Ok(HeadRead::Head(head)) if head == request));
        transport.output.flat().extend_from_slice(b"response");
        poll_fn(|context| transport.poll_flush(context))
            .await
            .unwrap();
        let next = poll_fn(|context| Poll::Ready(transport.poll_head(MAX_HEAD, context)));
        assert!(next.await.is_pending());
        assert_eq!(transport.input.capacity(), 0);
        assert_eq!(transport.output.flat().capacity(), 0);
    }
}
