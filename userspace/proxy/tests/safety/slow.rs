//! Slow clients.

use std::{net::SocketAddr, time::Duration};

use headgate_proxy::Settings;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::sleep,
};

use crate::{
    client::Client,
    frames::{self, ACK, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, SETTINGS, frame},
    setup::{Setup, objects, until},
};

/// Returns a proxy with timeouts as short as a busy machine allows.
async fn impatient() -> Setup {
    let settings = Settings {
        head_timeout: Duration::from_secs(1),
        body_timeout: Duration::from_secs(1),
        ..Settings::default()
    };
    Setup::with(settings, &objects(&[])).await
}

#[tokio::test]
async fn l83_an_incomplete_head_times_out() {
    let setup = impatient().await;
    let mut clients = Vec::new();
    for begin in [
        "",
        "P",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n",
        "G",
        "GET /a HTTP/1.1\r\n",
        "GET /a HTTP/1.1\r\nHost: a.test\r\nX: y",
    ] {
        let mut client = Client::connect(setup.http).await;
        client.send(begin).await;
        clients.push(client);
    }
    clients.push(Client::connect(setup.https).await);
    for mut client in clients {
        client.rest().await;
    }
    assert_eq!(setup.web.targets(), [""; 0]);
    setup.serves_others().await;
}

/// Bytes that arrive slowly do not extend the timeout of the head.
#[tokio::test]
async fn l83_a_slow_head_times_out() {
    let setup = impatient().await;
    let (mut reader, mut writer) = Client::connect(setup.http).await.0.into_split();
    let trickle = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let head = b"GET /a HTTP/1.1\r\nHost: a.test\r\n";
        let mut is_open = writer.write_all(head).await.is_ok();
        while is_open {
            is_open = writer.write_all(b"X: y\r\n").await.is_ok();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut answer = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut answer);
    let read = tokio::time::timeout(crate::client::LONGEST, read).await;
    drop(read.expect("the connection is still open"));
    trickle.abort();
    assert_eq!(setup.web.targets(), [""; 0]);
}

/// The endpoint is released, and the failure is not counted against it.
#[tokio::test]
async fn l83_a_stalled_body_releases_its_endpoint() {
    let setup = impatient().await;
    for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let mut client = Client::connect(setup.http).await;
        let head = format!("POST /a HTTP/1.1\r\nHost: a.test\r\n{framing}\r\n\r\n");
        client.send(format!("{head}3\r\nabc\r\n")).await;
        until("the request", || setup.web.targets() == ["/a"]).await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        until("the endpoint is free", || setup.web.open() == 0).await;
        assert!(!setup.web.seen()[0].is_whole);
        setup.web.forget();
    }
    let states = setup.proxy.upstreams();
    let endpoints = states.iter().flat_map(|state| &state.endpoints);
    assert!(endpoints.clone().count() > 0);
    assert!(
        endpoints.into_iter().all(|endpoint| endpoint.failures == 0),
        "{states:?}"
    );
}

/// The client may be silent while the endpoint processes the request.
#[tokio::test]
async fn l83_a_waiting_client_does_not_time_out() {
    let setup = impatient().await;
    let mut client = Client::connect(setup.http).await;
    client
        .send("POST /hold HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc")
        .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    setup.web.release.notify_one();
    let answer = client.until("ok\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(!answer.contains("connection: close"), "{answer}");
}

/// Over HTTP/2 it is the client's window that stays closed, not that of the connection. A response that waits for its
/// backend is no such.
#[tokio::test]
async fn l83_a_client_that_opens_no_window_is_disconnected() {
    let settings = Settings {
        answer_timeout: Duration::from_secs(1),
        ..Settings::default()
    };
    let setup = Setup::with(settings, &objects(&[])).await;
    setup.place_all(hesitant().await);
    for (window, is_ended) in [(0, true), (65_535, false)] {
        let mut client = frames::connect(setup.http).await;
        let window = [&[0, 4][..], &u32::to_be_bytes(window)].concat();
        client.send(frame(SETTINGS, 0, 0, &window)).await;
        let section = frames::request("GET", "/a", &[]);
        let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, &section);
        client.send(head).await;
        let mut has_ended = false;
        for _ in 0..60 {
            // The connection is alive: only the window is closed.
            client.send(frame(PING, 0, 0, &[0; 8])).await;
            has_ended |= frames::until(&mut client, &[PING]).await.is_none();
            if has_ended {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(has_ended, is_ended);
    }
}

/// A backend that sends a part of each response, and nothing more.
async fn hesitant() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let part = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart";
            stream.read_u8().await.unwrap();
            stream.write_all(part).await.unwrap();
            open.push(stream);
        }
    });
    address
}

/// The response exceeds the buffers of the sockets: the kernel ends the connection, and another one is
/// accepted.
#[tokio::test]
async fn l83_a_client_that_reads_nothing_is_disconnected() {
    let settings = Settings {
        max_connections: 1,
        answer_timeout: Duration::from_secs(1),
        ..Settings::default()
    };
    let setup = Setup::with(settings, &objects(&[])).await;
    // Existing connections keep their timeout.
    setup.serves_others().await;
    setup.web.forget();
    let mut greedy = Client::connect(setup.http).await;
    greedy
        .send("GET /huge HTTP/1.1\r\nHost: a.test\r\n\r\n")
        .await;
    until("the request", || setup.web.targets() == ["/huge"]).await;
    setup.serves_others().await;
    assert_eq!(setup.web.targets().len(), 2);
    until("the endpoint is free", || setup.web.open() <= 1).await;
    drop(greedy);
}

#[tokio::test]
async fn l83_connections_without_requests_end() {
    let setup = impatient().await;
    let mut client = Client::connect(setup.http).await;
    client.send("GET /a HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert!(client.rest().await.starts_with("HTTP/1.1 200 "));

    // A connection that replies to every ping, and had a request.
    let mut client = frames::connect(setup.http).await;
    client.send(frame(SETTINGS, ACK, 0, &[])).await;
    let request = frames::request("GET", "/a", &[]);
    client
        .send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &request))
        .await;
    let mut kinds = Vec::new();
    while let Some((kind, flags, _, payload)) = frames::next(&mut client).await {
        if kind == PING && flags & ACK == 0 {
            client.send(frame(PING, ACK, 0, &payload)).await;
        }
        kinds.push(kind);
    }
    assert!(
        kinds.contains(&HEADERS) && kinds.contains(&GOAWAY),
        "{kinds:?}"
    );
}
