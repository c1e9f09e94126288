//! Makes ambiguous requests, and the bytes that may precede them: PROXY headers, TLS, HTTP/2.

use fastrand::Rng;

use crate::input::{mutate, noise, one};

const METHODS: [&str; 8] = ["GET", "POST", "PUT", "OPTIONS", "CONNECT", "get", "G(T", ""];
const TARGETS: [&str; 22] = [
    "/",
    "/a",
    "/a/../b",
    "//a//b",
    "/%2e%2e/a",
    "/a%2Fb",
    "/a%2fb/%2E",
    "/%",
    "/%zz",
    "/a\\b",
    "*",
    "http://a.test/x",
    "http://b.test/x",
    "/a?x=%00&y=/../",
    "/a#b",
    "a.test:80",
    "/\u{e9}",
    "/a;b=c/..;/d",
    "/%25%32%65",
    "/a b",
    "/.",
    "/a/..",
];
const VERSIONS: [&str; 6] = [
    "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "http/1.1",
];
const ENDS: [&str; 6] = ["\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r"];
const FIELDS: [&str; 34] = [
    "Content-Length: 5",
    "Content-Length: 0",
    "Content-Length: 5, 5",
    "Content-Length: +5",
    "Content-Length: 5\r\nContent-Length: 6",
    "Content-Length: 18446744073709551616",
    "Content-Length : 5",
    "content-length:5",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: Chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding:\x0bchunked",
    "Transfer-Encoding : chunked",
    "Transfer_Encoding: chunked",
    " Transfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nContent-Length: 5",
    "Host: b.test",
    "Host:",
    "Connection: close",
    "Connection: keep-alive, Content-Length",
    "Connection: Transfer-Encoding",
    "Connection: Host",
    "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    "Upgrade: websocket\r\nConnection: upgrade",
    "Expect: 100-continue",
    "X-Forwarded-For: 1.2.3.4, ::ffff:1.2.3.4",
    "Trailer: Content-Length",
    "TE: trailers",
    "X: a\tb",
    "X: \u{e9}",
    "X:",
    "Keep-Alive: timeout=5",
    "Cookie: a=b; =; ;;",
];
const BODIES: [&str; 12] = [
    "",
    "hello",
    "0\r\n\r\n",
    "5\r\nhello\r\n0\r\n\r\n",
    "5;x=\"\r\n\"\r\nhello\r\n0\r\n\r\n",
    "00000005\r\nhello\r\n0\r\nX: y\r\n\r\n",
    "5\nhello\n0\n\n",
    "-1\r\n",
    "FFFFFFFFFFFFFFFFF\r\n",
    "5\r\nhello0\r\n\r\n",
    "0\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n",
    "5\r\nGET /hidden HTTP/1.1\r\nHost: a.test\r\n\r\n",
];

/// An input: the listener, the position where the bytes are split, and the bytes.
pub(super) fn input(rng: &mut Rng) -> Vec<u8> {
    let listener = *one(rng, &[0, 0, 0, 1, 2]);
    let mut bytes = match listener {
        1 => proxy_header(rng),
        _ => Vec::new(),
    };
    match (listener, rng.u8(..6)) {
        (2, _) => bytes.extend(client_hello(rng)),
        (_, 0) => bytes.extend(http2(rng)),
        _ => {
            for _ in 0..rng.usize(1..4) {
                bytes.extend(request(rng));
            }
        }
    }
    if rng.u8(..3) == 0 {
        mutate(rng, &mut bytes);
    }
    let mut input = vec![listener, rng.u8(..)];
    input.extend(bytes);
    input
}

fn request(rng: &mut Rng) -> Vec<u8> {
    let end = |rng: &mut Rng| *one(rng, &ENDS);
    let mut text = format!(
        "{} {} {}",
        one(rng, &METHODS),
        one(rng, &TARGETS),
        one(rng, &VERSIONS)
    );
    text += end(rng);
    if rng.u8(..8) != 0 {
        text += "Host: a.test\r\n";
    }
    for _ in 0..rng.usize(..4) {
        text += one::<&str>(rng, &FIELDS);
        text += end(rng);
    }
    text += "\r\n";
    text += one::<&str>(rng, &BODIES);
    text.into_bytes()
}

/// A PROXY protocol header of version 1 or 2.
fn proxy_header(rng: &mut Rng) -> Vec<u8> {
    if rng.bool() {
        let texts = [
            "PROXY TCP4 192.0.2.1 198.51.100.1 4000 80\r\n",
            "PROXY TCP6 ::ffff:192.0.2.1 ::1 4000 80\r\n",
            "PROXY UNKNOWN\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 4000 65536\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 4000 80\n",
            "PROXY ",
        ];
        return (*one(rng, &texts)).into();
    }
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([
        *one(rng, &[0x21, 0x20, 0x2f, 0x11]),
        *one(rng, &[0x11, 0x21, 0x31, 0x00, 0xff]),
    ]);
    let len = *one(rng, &[0u16, 11, 12, 36, 216, 3000]);
    bytes.extend(len.to_be_bytes());
    bytes.extend(noise(rng, len.into()));
    bytes
}

/// A record with a ClientHello that names a host (RFC 8446, 4.1.2; RFC 6066, 3).
fn client_hello(rng: &mut Rng) -> Vec<u8> {
    let host = *one(
        rng,
        &[
            "a.test",
            "passed.test",
            "PASSED.TEST",
            "",
            "passed.test.",
            "\0",
        ],
    );
    let name = [
        &[0][..],
        &(host.len() as u16).to_be_bytes(),
        host.as_bytes(),
    ]
    .concat();
    let extension = |kind: u16, body: &[u8]| {
        [
            &kind.to_be_bytes()[..],
            &(body.len() as u16).to_be_bytes(),
            body,
        ]
        .concat()
    };
    let names = [&(name.len() as u16).to_be_bytes()[..], &name].concat();
    let extensions = [
        extension(0, &names),
        extension(43, &[2, 3, 4]),
        extension(10, &[0, 2, 0, 0x1d]),
        extension(13, &[0, 2, 4, 3]),
        extension(51, &[&[0, 36, 0, 0x1d, 0, 32][..], &[7; 32]].concat()),
    ]
    .concat();
    let mut hello = vec![3, 3];
    hello.extend(noise(rng, 32));
    hello.extend([0, 0, 2, 0x13, 1, 1, 0]);
    hello.extend((extensions.len() as u16).to_be_bytes());
    hello.extend(extensions);
    let len = (hello.len() as u32).to_be_bytes();
    let message = [&[1, len[1], len[2], len[3]][..], &hello].concat();
    // In one record, or in two.
    let cut = if rng.bool() {
        message.len()
    } else {
        rng.usize(1..message.len())
    };
    let record = |part: &[u8]| [&[22, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat();
    let (first, second) = message.split_at(cut);
    match second {
        [] => record(first),
        second => [record(first), record(second)].concat(),
    }
}

/// The HTTP/2 preface and frames of any kind (RFC 9113, 4.1).
fn http2(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for _ in 0..rng.usize(1..8) {
        let stream = *one(rng, &[0u32, 1, 1, 1, 3, 2]);
        // GET, http, /, and `:authority: a.test` (RFC 7541, appendix A and 6.2.2).
        let head = b"\x82\x86\x84\x01\x06a.test";
        let (kind, payload) = match rng.u8(..8) {
            0..3 => (1, head.to_vec()),
            3 => (0, b"hello".to_vec()),
            _ => {
                let len = *one(rng, &[0, 4, 5, 6, 8, 40]);
                (rng.u8(..11), noise(rng, len))
            }
        };
        let flags = *one(rng, &[0, 1, 4, 5, 0x2d]);
        bytes.extend(&(payload.len() as u32).to_be_bytes()[1..]);
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
    }
    bytes
}
