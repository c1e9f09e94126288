//! Responses that end before they are complete.

use std::sync::atomic::Ordering::Relaxed;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

use crate::{
    certificates::handshake,
    client::{Client, LONGEST},
    frames::{self, DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, frame},
    logs::logging,
    messages::writing,
    setup::{HOST, Setup, until},
};

/// What backends write before they close the connection, and what clients get of it: the status, and the end
/// of the response.
const CUT: [(&str, &str, &str); 5] = [
    ("", "502", ""),
    ("HTTP/1.1 200 OK\r\nContent-Le", "502", ""),
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
        "200",
        "\r\n\r\n",
    ),
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhel",
        "200",
        "\r\n\r\nhel",
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n8",
        "200",
        "3\r\nhel\r\n",
    ),
];

/// As nginx does: a cut head is 502; a cut body is passed on and cut as well, and never looks complete. The log
/// has the status that was sent.
#[tokio::test]
async fn l149_a_cut_response_is_cut_for_the_client() {
    let (setup, written) = logging().await;
    let request = format!("GET /a HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    for (bytes, status, end) in CUT {
        let (address, connections) = writing(bytes.as_bytes()).await;
        setup.place_all(address);
        for is_tls in [false, true] {
            let mut text = Vec::new();
            if is_tls {
                let mut client = handshake(&setup, HOST).await;
                client.write_all(request.as_bytes()).await.unwrap();
                let read = client.read_to_end(&mut text);
                if status == "200" {
                    // Closed without a notice, or with one: either way the body is too short.
                    drop(timeout(LONGEST, read).await.unwrap());
                } else {
                    text.resize(12, 0);
                    client.read_exact(&mut text).await.unwrap();
                }
            } else {
                let mut client = Client::connect(setup.http).await;
                client.send(&request).await;
                text = match status {
                    "200" => client.rest().await.into_bytes(),
                    _ => client.until("\r\n\r\n").await.into_bytes(),
                };
            }
            let text = String::from_utf8(text).unwrap();
            assert_eq!(text.get(9..12), Some(status), "{bytes:?}: {text:?}");
            assert!(text.ends_with(end) || status != "200", "{text:?}");
            until("a line", || !written.lines().is_empty()).await;
            let line = written.take();
            assert_eq!(line["status"].to_string(), status, "{bytes:?}: {line}");
            assert_eq!(line["bytes"] == 3, bytes.contains("hel"), "{line}");
        }
        // A request whose response has begun is not sent again.
        if status == "200" {
            assert_eq!(connections.load(Relaxed), 2, "{bytes:?}");
        }
    }
}

#[tokio::test]
async fn l149_a_cut_response_over_http2_is_reset() {
    let (setup, written) = logging().await;
    for (bytes, status, _) in CUT {
        let (address, _) = writing(bytes.as_bytes()).await;
        setup.place_all(address);
        let mut client = frames::connect(setup.http).await;
        let section = frames::request("GET", "/a", &[]);
        client
            .send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &section))
            .await;
        let mut body = Vec::new();
        let mut has_head = false;
        let is_whole = loop {
            let (kind, flags, stream, payload) = frames::next(&mut client).await.unwrap();
            match kind {
                HEADERS => has_head = true,
                DATA => body.extend(payload),
                RST_STREAM => break false,
                _ => {}
            }
            if stream == 1 && flags & END_STREAM != 0 {
                break true;
            }
        };
        assert!(has_head, "{bytes:?}");
        assert_eq!(is_whole, status != "200", "{bytes:?}");
        if status == "200" {
            assert_eq!(body == b"hel", bytes.contains("hel"), "{bytes:?}");
        }
        until("a line", || !written.lines().is_empty()).await;
        assert_eq!(written.take()["status"].to_string(), status, "{bytes:?}");
    }
}

/// Only END_STREAM completes a body, whatever the code of a reset (RFC 9113, 8.1).
#[tokio::test]
async fn l149_an_upload_that_is_reset_over_http2_is_cut_for_the_backend() {
    const NO_ERROR: [u8; 4] = [0; 4];
    const CANCEL: [u8; 4] = [0, 0, 0, 8];
    let setup = Setup::new().await;
    for code in [NO_ERROR, CANCEL] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        setup.place_all(listener.local_addr().unwrap());
        let mut client = frames::connect(setup.http).await;
        let section = frames::request("POST", "/a", &[]);
        client.send(frame(HEADERS, END_HEADERS, 1, &section)).await;
        client.send(frame(DATA, 0, 1, b"hel")).await;
        let (mut stream, _) = timeout(LONGEST, listener.accept()).await.unwrap().unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"hel\r\n") {
            let read = timeout(LONGEST, stream.read_buf(&mut seen)).await;
            assert_ne!(read.unwrap().unwrap(), 0);
        }
        client.send(frame(RST_STREAM, 0, 1, &code)).await;
        // The connection ends, perhaps by a reset.
        drop(
            timeout(LONGEST, stream.read_to_end(&mut seen))
                .await
                .unwrap(),
        );
        let seen = String::from_utf8(seen).unwrap();
        assert!(seen.ends_with("hel\r\n"), "{code:?}: {seen}");
    }
}

/// A response that breaks off in its head is a failed request: another endpoint gets it, if it may be sent
/// twice.
#[tokio::test]
async fn l149_a_cut_head_is_retried() {
    for bytes in ["", "HTTP/1.1 200 OK\r\nContent-Le"] {
        let setup = Setup::new().await;
        let (address, connections) = writing(bytes.as_bytes()).await;
        let both = [(address, 1), (setup.web.address, 1)].into();
        for state in setup.proxy.upstreams() {
            setup.proxy.place(&state.key, &both);
        }
        for (method, is_repeated) in [("GET", true), ("PUT", true), ("POST", false)] {
            connections.store(0, Relaxed);
            let mut statuses = Vec::new();
            while connections.load(Relaxed) == 0 {
                let mut client = Client::connect(setup.http).await;
                let length = "Content-Length: 0\r\nConnection: close";
                let head = format!("{method} /a HTTP/1.1\r\nHost: {HOST}\r\n{length}\r\n\r\n");
                client.send(head).await;
                statuses.push(client.rest().await[9..12].to_owned());
            }
            let last = if is_repeated { "200" } else { "502" };
            assert_eq!(statuses.last().unwrap(), last, "{method} {bytes:?}");
        }
    }
}
