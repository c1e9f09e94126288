//! Responses before the final one, and before the end of a request.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use headgate_model::edge::Secret;
use headgate_model::ingress::NGINX;
use headgate_proxy::Settings;
use http::Response;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    certificates::handshake,
    client::{Client, LONGEST},
    frames::{self, DATA, END_HEADERS, END_STREAM, HEADERS, frame},
    setup::{HOST, Setup, name, objects},
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";
const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
const PROCESSING: &str = "HTTP/1.1 102 Processing\r\n\r\n";
const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n";

/// Reads the head of a request. `None` at the end of the connection.
async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// An endpoint that answers each request, of which a body of one byte is read, with these pieces, one to a
/// packet. Counts connections.
async fn answering(pieces: Vec<&'static str>) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            stream.set_nodelay(true).unwrap();
            let pieces = pieces.clone();
            tokio::spawn(async move {
                while let Some(head) = head(&mut stream).await {
                    if head.contains("content-length: 1\r\n") {
                        stream.read_u8().await.unwrap();
                    }
                    for piece in &pieces {
                        drop(stream.write_all(piece.as_bytes()).await);
                        tokio::task::yield_now().await;
                    }
                }
            });
        }
    });
    (address, connections)
}

async fn setup_for(address: SocketAddr, annotations: &[(&str, &str)]) -> Setup {
    let setup = Setup::with(Settings::default(), &objects(annotations)).await;
    setup.place_all(address);
    setup
}

/// Informational responses of endpoints end at the proxy, and the final one arrives unchanged.
#[tokio::test]
async fn l143_informational_responses_leave_the_final_one_alone() {
    let hints = HINTS.repeat(20).leak();
    for pieces in [
        vec![HINTS, OK],
        vec![CONTINUE, PROCESSING, HINTS, HINTS, OK],
        vec![hints, OK],
        vec![
            "HTTP/1.1 103 Early",
            " Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 2",
            &OK[10..],
        ],
        vec![format!("{CONTINUE}{HINTS}{OK}").leak()],
    ] {
        let (address, connections) = answering(pieces.clone()).await;
        let setup = setup_for(address, &[]).await;
        let mut client = Client::connect(setup.http).await;
        for request in ["GET /a", "POST /a", "GET /a", "HEAD /a"] {
            let body = request.starts_with("POST");
            let length = if body {
                "Content-Length: 1\r\n\r\nx"
            } else {
                "\r\n"
            };
            let text = format!("{request} HTTP/1.1\r\nHost: {HOST}\r\n{length}");
            client.send(text).await;
            let end = if request.starts_with("HEAD") {
                "\r\n\r\n"
            } else {
                "ok\n"
            };
            let answer = client.until(end).await;
            assert!(
                answer.starts_with("HTTP/1.1 200 OK\r\n"),
                "{pieces:?}: {answer}"
            );
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
            assert!(!answer.contains("link"), "{answer}");
        }
        assert_eq!(connections.load(Ordering::Relaxed), 1, "{pieces:?}");

        let mut client = frames::connect(setup.http).await;
        let section = frames::request("GET", "/a", &[]);
        let flags = END_HEADERS | END_STREAM;
        client.send(frame(HEADERS, flags, 1, &section)).await;
        let mut kinds = Vec::new();
        while kinds.last() != Some(&DATA) {
            let (kind, ..) = frames::next(&mut client).await.unwrap();
            kinds.push(kind);
        }
        let heads = kinds.iter().filter(|kind| **kind == HEADERS).count();
        assert_eq!(heads, 1, "{kinds:?}");
    }
}

/// The same of endpoints that speak HTTP/2.
#[tokio::test]
async fn l143_informational_responses_over_http2_leave_the_final_one_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    for code in [100, 102, 103, 103] {
                        let response = Response::builder().status(code).header("link", "</a>");
                        respond
                            .send_informational(response.body(()).unwrap())
                            .unwrap();
                    }
                    let mut body = respond.send_response(Response::new(()), false).unwrap();
                    body.send_data("ok\n".into(), true).unwrap();
                }
            });
        }
    });
    let protocol = format!("{NGINX}backend-protocol");
    let setup = setup_for(address, &[(&protocol, "GRPC")]).await;
    let mut client = Client::connect(setup.http).await;
    for _ in 0..2 {
        client
            .send(format!("GET /a HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))
            .await;
        let answer = client.until("0\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("\r\n3\r\nok\n\r\n"), "{answer}");
        assert!(!answer.contains("link"), "{answer}");
    }
}

/// `Expect: 100-continue` (RFC 9110, 10.1.1): 100 only if the body is wanted, and not for HTTP/1.0.
#[tokio::test]
async fn l144_clients_that_wait_for_100_get_it_or_a_final_response() {
    let deny = format!("{NGINX}denylist-source-range");
    let size = format!("{NGINX}proxy-body-size");
    let expecting = |version: &str, body: &str| {
        format!(
            "POST /a HTTP/{version}\r\nHost: {HOST}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n{body}"
        )
    };
    let setup = Setup::new().await;
    let mut client = Client::connect(setup.http).await;
    for _ in 0..2 {
        client.send(expecting("1.1", "")).await;
        assert_eq!(client.until("\r\n\r\n").await, CONTINUE);
        client.send("xxxxx").await;
        let answer = client.until("ok\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    assert!(setup.web.seen().iter().all(|seen| seen.is_whole));
    let mut client = Client::connect(setup.http).await;
    client.send(expecting("1.0", "xxxxx")).await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");

    for (annotation, status) in [((&*deny, "127.0.0.0/8"), "403"), ((&*size, "4"), "413")] {
        let setup = Setup::with(Settings::default(), &objects(&[annotation])).await;
        let mut client = Client::connect(setup.http).await;
        client.send(expecting("1.1", "")).await;
        // The client may send its body or another request: the connection cannot continue.
        let answer = client.rest().await;
        assert_eq!(answer.get(9..12), Some(status), "{answer}");
        assert!(
            answer
                .to_ascii_lowercase()
                .contains("connection: close\r\n"),
            "{answer}"
        );
        assert!(setup.web.seen().is_empty());
    }
}

/// An endpoint answers before it has read the body, and does not read it.
#[tokio::test]
async fn l144_an_early_final_response_of_an_endpoint_arrives() {
    const LENGTH: usize = 20 << 20;
    const REFUSED: &str = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 3\r\n\r\nno\n";
    const REFUSED_AND_CLOSED: &str =
        "HTTP/1.1 401 Unauthorized\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n";
    for text in [REFUSED, REFUSED_AND_CLOSED] {
        for is_chunked in [false, true] {
            for expects in [false, true] {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap();
                tokio::spawn(async move {
                    let mut held = Vec::new();
                    while let Ok((mut stream, _)) = listener.accept().await {
                        if head(&mut stream).await.is_some() {
                            stream.write_all(text.as_bytes()).await.unwrap();
                        }
                        held.push(stream);
                    }
                });
                let size = format!("{NGINX}proxy-body-size");
                let setup = setup_for(address, &[(&size, "0")]).await;
                let framing = match is_chunked {
                    true => "Transfer-Encoding: chunked".into(),
                    false => format!("Content-Length: {LENGTH}"),
                };
                let expect = if expects {
                    "Expect: 100-continue\r\n"
                } else {
                    ""
                };
                let mut client = Client::connect(setup.http).await;
                client
                    .send(format!(
                        "POST /a HTTP/1.1\r\nHost: {HOST}\r\n{framing}\r\n{expect}\r\n"
                    ))
                    .await;
                if is_chunked {
                    client.send(format!("{LENGTH:x}\r\n")).await;
                }
                let body = vec![b'x'; LENGTH];
                let sent = timeout(LONGEST, client.0.write_all(&body)).await;
                let what = format!("chunked {is_chunked}, expects {expects}");
                assert!(sent.is_ok(), "{what}: the body is not read");
                let answer = client.until("no\n").await;
                let answer = answer.strip_prefix(CONTINUE).unwrap_or(&answer);
                assert!(answer.starts_with("HTTP/1.1 401 "), "{what}: {answer}");
            }
        }
    }
}

/// The client gets the response, although it is still sending: from every guard, over TCP and TLS.
#[tokio::test]
async fn l136_an_early_response_is_not_lost() {
    let key = |name: &str| format!("nginx.ingress.kubernetes.io/{name}");
    for (guards, status, is_for_tls) in [
        (vec![(key("proxy-body-size"), "1m")], "413", true),
        (
            vec![(key("denylist-source-range"), "127.0.0.0/8")],
            "403",
            true,
        ),
        (
            vec![(key("auth-type"), "basic"), (key("auth-secret"), "users")],
            "401",
            true,
        ),
        (vec![(key("force-ssl-redirect"), "true")], "308", false),
        (
            vec![
                (key("permanent-redirect"), "https://b.test"),
                (key("permanent-redirect-code"), "308"),
            ],
            "308",
            true,
        ),
    ] {
        let guards: Vec<(&str, &str)> = guards
            .iter()
            .map(|(key, value)| (key.as_str(), *value))
            .collect();
        let mut objects = objects(&guards);
        let secret = Secret {
            type_: "Opaque".into(),
            data: [(
                "auth".to_owned(),
                b"ada:$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/".to_vec(),
            )]
            .into(),
        };
        objects.secrets.insert(name("users"), secret);
        let setup = Setup::with(Settings::default(), &objects).await;
        for is_chunked in [false, true] {
            let client = Client::connect(setup.http).await.0;
            assert_eq!(late(client, is_chunked).await, status, "{guards:?}");
            if is_for_tls {
                let client = handshake(&setup, HOST).await;
                assert_eq!(late(client, is_chunked).await, status, "{guards:?}");
            }
        }
    }
}

/// Returns the status of the response to a large upload, which is read only after everything was sent, as
/// Python's `http.client` does it. It is more than the buffers of the sockets hold.
async fn late(mut client: impl AsyncRead + AsyncWrite + Unpin, is_chunked: bool) -> String {
    const LENGTH: usize = 16 << 20;
    let framing = match is_chunked {
        true => "Transfer-Encoding: chunked".to_owned(),
        false => format!("Content-Length: {LENGTH}"),
    };
    let head = format!("POST /a HTTP/1.1\r\nHost: {HOST}\r\n{framing}\r\n\r\n");
    let (first, last) = match is_chunked {
        true => (format!("{LENGTH:x}\r\n"), "\r\n0\r\n\r\n"),
        false => (String::new(), ""),
    };
    let sent = async {
        client.write_all(head.as_bytes()).await?;
        client.write_all(first.as_bytes()).await?;
        client.write_all(&vec![b'x'; LENGTH]).await?;
        client.write_all(last.as_bytes()).await?;
        client.flush().await
    };
    timeout(LONGEST, sent).await.unwrap().unwrap();
    let mut text = [0; 12];
    client.read_exact(&mut text).await.unwrap();
    String::from_utf8(text[9..].to_vec()).unwrap()
}

/// More informational responses than any endpoint needs are an attack on all that share the worker.
#[tokio::test]
async fn l143_endless_informational_responses_are_refused() {
    for (count, status) in [(32, "200"), (33, "502")] {
        let hints = format!("{}{OK}", HINTS.repeat(count)).leak();
        let (address, _) = answering(vec![hints]).await;
        let setup = setup_for(address, &[]).await;
        let mut client = Client::connect(setup.http).await;
        client
            .send(format!("GET /a HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))
            .await;
        let answer = client.until("\r\n\r\n").await;
        assert_eq!(answer.get(9..12), Some(status), "{count}: {answer}");
    }
}

/// An endpoint that has answered waits for the rest of a body: it learns that the client has left, or that the body is
/// invalid.
#[tokio::test]
async fn l172_endpoint_learns_that_a_body_ends_after_an_early_response() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n";
    for rest in ["", "zz\r\n"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let setup = setup_for(listener.local_addr().unwrap(), &[]).await;
        let mut client = Client::connect(setup.http).await;
        let request =
            format!("POST /a HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send(request + "1\r\na\r\n").await;
        let (mut endpoint, _) = listener.accept().await.unwrap();
        head(&mut endpoint).await.unwrap();
        endpoint.write_all(HEAD.as_bytes()).await.unwrap();
        client.until("2\r\nok\r\n").await;
        client.send(rest).await;
        if rest.is_empty() {
            drop(client);
        }
        let mut bytes = Vec::new();
        let read = timeout(LONGEST, endpoint.read_to_end(&mut bytes)).await;
        // Closed or reset.
        assert!(read.is_ok(), "{rest:?}: the endpoint still waits");
    }
}

/// The body of a request that is refused may come later than its head.
#[tokio::test]
async fn l173_connection_that_ends_after_an_unread_body_says_so() {
    let (address, _) = answering(vec![OK]).await;
    let denied = [("allowlist-source-range", "192.0.2.0/24")];
    let annotations: Vec<(String, &str)> = denied
        .iter()
        .map(|(name, value)| (format!("{NGINX}{name}"), *value))
        .collect();
    let annotations: Vec<(&str, &str)> = { annotations.iter() }
        .map(|(name, value)| (name.as_str(), *value))
        .collect();
    let setup = setup_for(address, &annotations).await;
    let post = format!("POST /a HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 9\r\n\r\n");
    let get = format!("GET /a HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    // All of it is there: the connection stays open.
    let mut client = Client::connect(setup.http).await;
    client.send(format!("{post}user=ada&{get}")).await;
    for _ in 0..2 {
        let answer = client.until("address\n").await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        assert!(!answer.contains("connection: close"), "{answer}");
    }
    // The body does not come: the connection ends.
    let mut client = Client::connect(setup.http).await;
    client.send(post).await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
}
