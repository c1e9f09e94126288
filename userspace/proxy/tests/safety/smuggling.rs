//! Request smuggling: the backend gets each request as the proxy parsed it, and the proxy reads nothing
//! after a request that it cannot parse (RFC 9112, 6.3 and 11.2).

use crate::{
    client::Client,
    frames::{self, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, frame},
    setup::Setup,
};

/// The request that an attacker tries to smuggle to the backend.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Sends bytes, and returns the status codes of all responses. The proxy must close the connection.
async fn statuses(setup: &Setup, bytes: &[u8]) -> Vec<String> {
    let mut client = Client::connect(setup.http).await;
    client.send(bytes).await;
    let answers = client.rest().await;
    let mut lines = answers.split("HTTP/1.1 ");
    lines.next();
    lines.map(|line| line[..3].into()).collect()
}

/// A request with an ambiguous head reaches no backend, and neither does what follows it.
#[tokio::test]
async fn l80_ambiguous_heads_reach_no_backend() {
    let setup = Setup::new().await;
    for fields in [
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;a=b",
        "Transfer-Encoding:\x0bchunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        "Transfer-Encoding\r\n : chunked",
        "Transfer-Encoding:\r\n chunked",
        " Transfer-Encoding: chunked",
        "X: y\r\n Transfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "X: y\0Transfer-Encoding: chunked",
        "Transfer\0-Encoding: chunked",
        "Transfer-Encoding: chunked\0",
        "Transfer-Encoding",
        "Content-Length: 3\r\nContent-Length: 4",
        "Content-Length: 3, 4",
        "Content-Length: 3, 3",
        "Content-Length: +3",
        "Content-Length: -3",
        "Content-Length: 0x3",
        "Content-Length: 3 3",
        "Content-Length: 3_0",
        "Content-Length: 3.0",
        "Content-Length:",
        "Content-Length : 3",
        "Content-Length: 99999999999999999999",
        "Content-Length: 3\r\nTransfer-Encoding: chunked, identity",
    ] {
        let bytes =
            format!("POST /a HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\n0\r\n\r\n{HIDDEN}");
        let statuses = statuses(&setup, bytes.as_bytes()).await;
        assert!(
            statuses == ["400"] || statuses == ["501"],
            "{fields:?}: {statuses:?}"
        );
        assert_eq!(setup.web.targets(), [""; 0], "{fields:?}");
    }
    for line in [
        "GET  /a HTTP/1.1",
        "GET /a  HTTP/1.1",
        "GET /a HTTP/1.1 ",
        "GET\t/a HTTP/1.1",
        "GET /a HTTP/1.2",
        "GET /a HTTP/2.0",
        "GET /a http/1.1",
        "GET /a",
        "GET /a\rb HTTP/1.1",
        "GET /a\0b HTTP/1.1",
        "GET a HTTP/1.1",
        "G(T /a HTTP/1.1",
        "POST /a HTTP/1.0\r\nTransfer-Encoding: chunked",
        "GET /a HTTP/1.1\r\nHost: a.test",
    ] {
        let bytes = format!("{line}\r\nHost: a.test\r\n\r\n{HIDDEN}");
        let statuses = statuses(&setup, bytes.as_bytes()).await;
        assert_eq!(statuses, ["400"], "{line:?}");
        assert_eq!(setup.web.targets(), [""; 0], "{line:?}");
    }
    setup.serves_others().await;
}

/// With `Content-Length` and `Transfer-Encoding` the latter counts, and the connection ends.
#[tokio::test]
async fn l80_of_two_lengths_one_counts_and_the_connection_ends() {
    let setup = Setup::new().await;
    let chunk = format!("{:x}\r\n{HIDDEN}\r\n0\r\n\r\n", HIDDEN.len());
    for (fields, body, arrives) in [
        (
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "0\r\n\r\n",
            "",
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "0\r\n\r\n",
            "",
        ),
        (
            "Content-Length: 4\r\nTransfer-Encoding: chunked",
            &chunk,
            HIDDEN,
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 4",
            &chunk,
            HIDDEN,
        ),
    ] {
        let bytes = format!("POST /a HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\n{body}{HIDDEN}");
        assert_eq!(
            statuses(&setup, bytes.as_bytes()).await,
            ["200"],
            "{fields:?}"
        );
        let seen = setup.web.seen();
        assert_eq!(setup.web.targets(), ["/a"], "{fields:?}");
        assert_eq!(seen[0].body, arrives.as_bytes(), "{fields:?}");
        setup.serves_others().await;
        setup.web.forget();
    }
}

/// The length of a body is independent of the method, and is sent to the backend once.
#[tokio::test]
async fn l80_a_body_stays_a_body() {
    let setup = Setup::new().await;
    let length = HIDDEN.len();
    let chunked = format!("{length:x};ext=\"1\"\r\n{HIDDEN}\r\n0\r\nX-Late: 1\r\n\r\n");
    for method in ["GET", "POST", "DELETE", "OPTIONS"] {
        for (fields, body) in [
            (format!("Content-Length: {length}"), HIDDEN),
            (
                format!("Content-Length: {length}\r\nContent-Length: {length}"),
                HIDDEN,
            ),
            (
                format!("Content-Length: {length}\r\nConnection: close, Content-Length"),
                HIDDEN,
            ),
            (format!("content-length:\t{length}\t"), HIDDEN),
            ("Transfer-Encoding: chunked".into(), chunked.as_str()),
            (
                "Transfer-Encoding: CHUNKED\r\nConnection: Transfer-Encoding".into(),
                &chunked,
            ),
        ] {
            let last = "GET /last HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
            let bytes =
                format!("{method} /a HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\n{body}{last}");
            statuses(&setup, bytes.as_bytes()).await;
            let seen = setup.web.seen();
            assert_eq!(seen[0].target, "/a", "{method} {fields:?}");
            assert_eq!(seen[0].body, HIDDEN.as_bytes(), "{method} {fields:?}");
            let others: Vec<_> = seen[1..].iter().map(|seen| seen.target.as_str()).collect();
            assert!(others.is_empty() || others == ["/last"], "{others:?}");
            setup.web.forget();
        }
    }
    setup.serves_others().await;
}

/// After the head was sent, an invalid chunk ends both connections.
#[tokio::test]
async fn l80_an_invalid_chunk_ends_the_request() {
    let setup = Setup::new().await;
    for chunks in [
        "3\nabc\r\n0\r\n\r\n",
        "3;a\nb\r\nabc\r\n0\r\n\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "3_0\r\nabc\r\n0\r\n\r\n",
        ";\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
        "3\r\nabc\rX0\r\n\r\n",
        "FFFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n",
        "0\n\r\n",
        "0\r\nX: y\n\r\n\rz",
        // Read on after the invalid line, the body would end here.
        "3;a\nb\r\n0\r\n\r\n",
        "x\r\n0\r\n\r\n",
        "3;a\n3\r\nabc\r\n0\r\n\r\n",
    ] {
        let head = "POST /a HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
        let statuses = statuses(&setup, format!("{head}{chunks}{HIDDEN}").as_bytes()).await;
        assert!(
            statuses.is_empty() || statuses == ["400"],
            "{chunks:?}: {statuses:?}"
        );
        let seen = setup.web.seen();
        let is_least = |seen: &crate::backend::Seen| seen.target == "/a" && !seen.is_whole;
        assert!(
            seen.len() < 2 && seen.iter().all(is_least),
            "{chunks:?}: {seen:?}"
        );
        setup.serves_others().await;
        setup.web.forget();
    }
}

/// HTTP/2 frames end a request. Fields that HTTP/1.1 would read as another end are not forwarded.
#[tokio::test]
async fn l80_http2_has_no_second_length() {
    let setup = Setup::new().await;
    let ends = [HEADERS, RST_STREAM, GOAWAY];
    for more in [
        &[("content-length", "0")][..],
        &[("content-length", "3")],
        &[("content-length", "3"), ("content-length", "40")],
        &[("content-length", "+40")],
        &[("transfer-encoding", "chunked")],
        &[("connection", "close")],
        &[("upgrade", "h2c")],
        &[("te", "chunked")],
        &[("Transfer-Encoding", "chunked")],
        &[("x", "y\r\ntransfer-encoding: chunked")],
        &[("x", "y\nz")],
        &[("x", "y\0z")],
        &[("x: y\r\ntransfer-encoding", "chunked")],
        &[("host", "b.test")],
        &[(":path", "/hidden")],
    ] {
        let mut client = frames::connect(setup.http).await;
        let section = frames::request("POST", "/a", more);
        client.send(frame(HEADERS, END_HEADERS, 1, &section)).await;
        client
            .send(frame(DATA, END_STREAM, 1, HIDDEN.as_bytes()))
            .await;
        frames::until(&mut client, &ends).await;
        let seen = setup.web.seen();
        assert!(seen.iter().all(|seen| !seen.is_whole), "{more:?}: {seen:?}");
        assert!(
            seen.iter().all(|seen| seen.target == "/a"),
            "{more:?}: {seen:?}"
        );
        setup.serves_others().await;
        setup.web.forget();
    }
    for (method, path) in [
        ("GET /hidden HTTP/1.1\r\nX:", "/a"),
        ("GET", "/a HTTP/1.1\r\nHost: a.test\r\n\r\nGET /hidden"),
        ("GET", "/a b"),
        ("GET", "hidden"),
        ("GET", "*"),
        ("GET", ""),
    ] {
        let mut client = frames::connect(setup.http).await;
        let section = frames::request(method, path, &[]);
        client
            .send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &section))
            .await;
        frames::until(&mut client, &ends).await;
        assert_eq!(setup.web.targets(), [""; 0], "{method:?} {path:?}");
    }
    setup.serves_others().await;
}
