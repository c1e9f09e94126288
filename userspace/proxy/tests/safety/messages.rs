//! Fields and bodies between HTTP versions, and around early responses.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use headgate_proxy::Settings;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    backend::Backend,
    client::Client,
    floods::memory,
    frames::{self, DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, frame},
    setup::{HOST, Setup, objects, until},
};

/// A backend that reads one request head on each connection and writes these bytes. Counts connections.
pub(crate) async fn writing(bytes: &'static [u8]) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else {
                        return;
                    };
                    head.push(byte);
                }
                drop(stream.write_all(bytes).await);
                drop(stream.shutdown().await);
            });
        }
    });
    (address, connections)
}

async fn setup_for(address: SocketAddr, annotations: &[(&str, &str)]) -> Setup {
    let objects = objects(annotations);
    let setup = Setup::with(Settings::default(), &objects).await;
    setup.place_all(address);
    setup
}

pub(crate) async fn answer(setup: &Setup, request: impl AsRef<[u8]>) -> String {
    let mut client = Client::connect(setup.http).await;
    client.send(request).await;
    client.rest().await
}

fn get(target: &str, more: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n{more}Connection: close\r\n\r\n")
}

/// Also in the copies for the authentication service and for the mirror.
#[tokio::test]
async fn l126_cookies_of_http2_reach_backends_as_one_field() {
    let asked = Backend::start().await;
    let url = format!("http://{}/check", asked.address);
    let annotations = [
        ("nginx.ingress.kubernetes.io/auth-url", url.as_str()),
        ("headgate.io/mirror-service", "admin:80"),
    ];
    let settings = Settings {
        auth_local: vec!["127.0.0.0/8".parse().unwrap()],
        ..Settings::default()
    };
    let setup = Setup::with(settings, &objects(&annotations)).await;
    let mut client = frames::connect(setup.http).await;
    let cookies = [
        ("cookie", "session=1"),
        ("cookie", "theme=dark"),
        ("cookie", "csrf=2"),
    ];
    let section = frames::request("GET", "/a", &cookies);
    client
        .send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &section))
        .await;
    frames::until(&mut client, &[HEADERS, RST_STREAM]).await;
    until("the copy", || setup.admin.targets() == ["/a"]).await;
    for backend in [&setup.web, &setup.admin, &asked] {
        let seen = backend.seen();
        assert_eq!(seen[0].all("cookie"), ["session=1; theme=dark; csrf=2"]);
    }
}

/// `Connection` names fields of the connection. It cannot remove what a guard says about the client.
#[tokio::test]
async fn l123_connection_cannot_remove_headers_of_guards() {
    let asked = Backend::start().await;
    let url = format!("http://{}/user", asked.address);
    let annotations = [
        ("nginx.ingress.kubernetes.io/auth-url", url.as_str()),
        (
            "nginx.ingress.kubernetes.io/auth-response-headers",
            "X-User,X-Request-ID",
        ),
    ];
    let settings = Settings {
        auth_local: vec!["127.0.0.0/8".parse().unwrap()],
        ..Settings::default()
    };
    let setup = Setup::with(settings, &objects(&annotations)).await;
    for options in [
        "X-User",
        "x-user, X-Named",
        "close, X-Request-ID, X-User, X-Real-IP",
    ] {
        let head = format!(
            "GET /a HTTP/1.1\r\nHost: {HOST}\r\nX-User: root\r\nX-Request-ID: root\r\nX-Named: 1\r\nConnection: {options}\r\n\r\n"
        );
        let mut client = Client::connect(setup.http).await;
        client.send(head).await;
        client.until("ok\n").await;
        let seen = setup.web.seen().remove(0);
        assert_eq!(seen.all("x-user"), ["ada"], "{options}");
        assert_eq!(seen.all("x-real-ip"), ["127.0.0.1"], "{options}");
        // The service sets none, so that it is a new one.
        assert_eq!(seen.all("x-request-id").len(), 1, "{options}");
        assert_ne!(seen.all("x-request-id"), ["root"], "{options}");
        let is_named = options.contains("X-Named");
        assert_eq!(seen.all("x-named").is_empty(), is_named, "{options}");
        setup.web.forget();
        asked.forget();
    }
}

#[tokio::test]
async fn l123_trailers_of_clients_are_cleaned() {
    let setup = setup_for("127.0.0.1:1".parse().unwrap(), &[]).await;
    setup.place_all(setup.web.address);
    let head = format!("POST /a HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n");
    let body = "Connection: close\r\nTrailer: x-late, x-real-ip, x_forwarded_for, authorization\r\nTE: trailers\r\n\r\n5\r\nhello\r\n0\r\n\
        X-Late: 1\r\nX-Real-IP: 6.6.6.6\r\nHost: evil\r\nContent-Length: 3\r\n\
        X_Forwarded_For: 6.6.6.6\r\nAuthorization: x\r\n\r\n";
    let text = answer(&setup, format!("{head}{body}")).await;
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    let seen = setup.web.seen().remove(0);
    let names: Vec<_> = seen
        .trailers
        .iter()
        .map(|line| line.to_ascii_lowercase())
        .collect();
    assert_eq!(names, ["x-late: 1"]);
}

/// Over HTTP/1.1 and HTTP/2 the backend gets host and port as the client sent them.
#[tokio::test]
async fn l127_host_and_port_arrive_over_both_versions() {
    let setup = Setup::new().await;
    answer(
        &setup,
        "GET /a HTTP/1.1\r\nHost: A.test:8443\r\nConnection: close\r\n\r\n",
    )
    .await;
    answer(
        &setup,
        "GET http://A.test:8443/a HTTP/1.1\r\nHost: b.test\r\nConnection: close\r\n\r\n",
    )
    .await;
    let mut client = frames::connect(setup.http).await;
    let section = frames::request_to("A.test:8443", "GET", "/a", &[]);
    client
        .send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &section))
        .await;
    until("three requests", || setup.web.targets().len() == 3).await;
    for seen in setup.web.seen() {
        assert_eq!(seen.all("host"), ["A.test:8443"]);
        assert_eq!(seen.all("x-forwarded-host"), ["A.test:8443"]);
    }
}

/// `Transfer-Encoding` of a backend counts, and a list of equal lengths is one.
#[tokio::test]
async fn l128_the_length_of_a_response_is_stated_once() {
    const CHUNKS: &str = "\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    for (head, body) in [
        ("Content-Length: 1\r\nTransfer-Encoding: chunked", CHUNKS),
        ("Transfer-Encoding: chunked\r\nContent-Length: 9", CHUNKS),
        ("Content-Length: 5, 5", "\r\n\r\nhello"),
        ("Content-Length: 5\r\nContent-Length: 5", "\r\n\r\nhello"),
    ] {
        let bytes = format!("HTTP/1.1 200 OK\r\n{head}{body}").leak().as_bytes();
        let (address, _) = writing(bytes).await;
        let setup = setup_for(address, &[]).await;
        let text = answer(&setup, get("/a", "")).await;
        assert!(text.starts_with("HTTP/1.1 200 "), "{head}: {text}");
        let (fields, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(body.contains("hello"), "{head}: {text}");
        let lengths = fields
            .lines()
            .filter(|line| line.starts_with("content-length"));
        let lengths: Vec<_> = lengths.collect();
        assert!(
            lengths.is_empty() || lengths == ["content-length: 5"],
            "{text}"
        );
        let is_chunked = fields.contains("transfer-encoding: chunked");
        assert_eq!(lengths.is_empty(), is_chunked, "{text}");
    }
}

#[tokio::test]
async fn l129_many_fields_are_served() {
    let setup = Setup::new().await;
    let many: String = (0..200)
        .map(|number| format!("X-{number}: y\r\n"))
        .collect();
    assert!(
        answer(&setup, get("/a", &many))
            .await
            .starts_with("HTTP/1.1 200 ")
    );
    assert_eq!(setup.web.seen()[0].all("x-199"), ["y"]);

    let cookies: String = (0..200)
        .map(|number| format!("Set-Cookie: c{number}=1\r\n"))
        .collect();
    let bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{cookies}\r\n").leak();
    let (address, _) = writing(bytes.as_bytes()).await;
    let setup = setup_for(address, &[]).await;
    let text = answer(&setup, get("/a", "")).await;
    assert_eq!(text.matches("set-cookie: c").count(), 200, "{text}");
}

/// A GET that no endpoint answers in time is sent to each endpoint once, so here once.
#[tokio::test]
async fn l132_a_slow_endpoint_gets_a_request_once() {
    let setup = Setup::with(
        Settings::default(),
        &objects(&[("nginx.ingress.kubernetes.io/proxy-read-timeout", "1")]),
    )
    .await;
    let text = answer(&setup, get("/hold", "")).await;
    assert!(text.starts_with("HTTP/1.1 504 "), "{text}");
    assert_eq!(setup.web.targets(), ["/hold"]);
}

/// The endpoint closes a kept connection as the request comes: requests that may be repeated are sent
/// again, with their body.
#[tokio::test]
async fn l132_idempotent_requests_are_sent_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let all = seen.clone();
    // Every second request on a connection gets no response.
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let all = all.clone();
            tokio::spawn(async move {
                for number in 0..2 {
                    let mut bytes = Vec::new();
                    while !bytes.ends_with(b"\r\n\r\nx") && !bytes.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else {
                            return;
                        };
                        bytes.push(byte);
                    }
                    let has_body = String::from_utf8_lossy(&bytes).contains("content-length: 1");
                    if has_body && !bytes.ends_with(b"x") {
                        bytes.push(stream.read_u8().await.unwrap());
                    }
                    let method = bytes.split(|byte| *byte == b' ').next().unwrap().to_vec();
                    all.lock()
                        .unwrap()
                        .push((number, String::from_utf8(method).unwrap()));
                    if number == 0 {
                        let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";
                        drop(stream.write_all(ok).await);
                    }
                }
            });
        }
    });
    for (method, body, status) in [
        ("GET", "", "200"),
        ("DELETE", "", "200"),
        ("PUT", "x", "200"),
        ("DELETE", "x", "200"),
        ("POST", "x", "502"),
    ] {
        let setup = setup_for(address, &[]).await;
        seen.lock().unwrap().clear();
        let mut client = Client::connect(setup.http).await;
        client
            .send(format!("GET /a HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))
            .await;
        client.until("ok\n").await;
        let length = if body.is_empty() {
            String::new()
        } else {
            "Content-Length: 1\r\n".into()
        };
        let head = format!(
            "{method} /a HTTP/1.1\r\nHost: {HOST}\r\n{length}Connection: close\r\n\r\n{body}"
        );
        client.send(head).await;
        let text = client.rest().await;
        assert_eq!(
            text[9..12],
            *status,
            "{method} {body}: {:?}",
            seen.lock().unwrap()
        );
    }
}

/// A backend that sends 50 MB for each request, as far as they are read.
async fn endless() -> (SocketAddr, Arc<AtomicUsize>) {
    static PIECE: [u8; 64 << 10] = [b'x'; 64 << 10];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = count.clone();
            tokio::spawn(async move {
                let mut head = [0; 4096];
                drop(stream.read(&mut head).await);
                count.fetch_add(1, Ordering::Relaxed);
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 50 << 20);
                let mut sent = stream.write_all(head.as_bytes()).await;
                while sent.is_ok() {
                    sent = stream.write_all(&PIECE).await;
                }
            });
        }
    });
    (address, requests)
}

/// Eight clients ask for 50 MB a hundred times each over HTTP/2, and read nothing: the bodies wait at the
/// backend.
#[tokio::test]
async fn l138_responses_that_are_not_read_wait_at_the_backend() {
    let (address, requests) = endless().await;
    let setup = setup_for(address, &[]).await;
    let before = memory();
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = frames::connect_greedy(setup.http).await;
        for number in 0..100 {
            let section = frames::request("GET", "/a", &[]);
            let flags = END_HEADERS | END_STREAM;
            client
                .send(frame(HEADERS, flags, 2 * number + 1, &section))
                .await;
        }
        clients.push(client);
    }
    until("all requests", || requests.load(Ordering::Relaxed) == 800).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let grown = memory().saturating_sub(before);
    assert!(grown < 50 << 20, "{} MiB", grown >> 20);
    drop(clients);
}

/// Also if the proxy itself answers: a body would end the stream with an error at the client.
#[tokio::test]
async fn l152_responses_to_head_have_no_body() {
    let deny = [(
        "nginx.ingress.kubernetes.io/denylist-source-range",
        "0.0.0.0/0",
    )];
    for annotations in [&[][..], &deny] {
        let setup = Setup::with(Settings::default(), &objects(annotations)).await;
        for host in [HOST, "other.test"] {
            let mut client = frames::connect(setup.http).await;
            let section = frames::request_to(host, "HEAD", "/a", &[]);
            client
                .send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &section))
                .await;
            loop {
                let (kind, flags, ..) = frames::next(&mut client).await.unwrap();
                assert_ne!(kind, DATA, "{annotations:?} {host}");
                if kind == HEADERS {
                    assert_ne!(flags & END_STREAM, 0, "{annotations:?} {host}");
                    break;
                }
            }
            let head = format!("HEAD /a HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            let text = answer(&setup, head).await;
            assert!(text.ends_with("\r\n\r\n"), "{text}");
        }
    }
}
