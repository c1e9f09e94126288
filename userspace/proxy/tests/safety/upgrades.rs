//! Upgrades: no bytes flow before the backend agrees, and no upgrade hides requests.

use crate::{
    client::Client,
    setup::{Setup, until},
};

const UPGRADE: &str = "Host: a.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: a.test\r\n\r\n";

#[tokio::test]
async fn l82_bytes_flow_after_the_backend_agrees() {
    let setup = Setup::new().await;
    let mut client = Client::connect(setup.http).await;
    client
        .send(format!("GET /switch HTTP/1.1\r\n{UPGRADE}early "))
        .await;
    let head = client.until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    client.send("late").await;
    assert_eq!(client.until("LATE").await, "EARLY LATE");
    assert_eq!(setup.web.targets(), ["/switch"]);
}

/// If the backend does not agree, early bytes are the next request: they are parsed and guarded as one,
/// and are not part of the first request.
#[tokio::test]
async fn l82_bytes_before_the_response_are_held_back() {
    let setup = Setup::new().await;
    let mut client = Client::connect(setup.http).await;
    let rule = "GET /admin/x HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    client
        .send(format!("GET /hold HTTP/1.1\r\n{UPGRADE}{rule}"))
        .await;
    until("the request", || {
        setup.web.seen().iter().any(|seen| seen.is_whole)
    })
    .await;
    setup.serves_others().await;
    assert_eq!(setup.web.targets(), ["/hold", "/other"]);
    assert_eq!(setup.admin.targets(), [""; 0]);
    setup.web.release.notify_one();
    client.rest().await;
    assert_eq!(setup.web.targets(), ["/hold", "/other"]);
    assert_eq!(setup.admin.targets(), ["/admin/x"]);
}

#[tokio::test]
async fn l82_h2c_and_incomplete_upgrades_are_not_forwarded() {
    let setup = Setup::new().await;
    for (version, fields) in [
        (
            "1.1",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAM",
        ),
        ("1.1", "Connection: upgrade\r\nUpgrade: H2C"),
        ("1.1", "Connection: upgrade\r\nUpgrade: websocket, h2c"),
        ("1.1", "Upgrade: websocket"),
        ("1.0", "Connection: upgrade\r\nUpgrade: websocket"),
    ] {
        let mut client = Client::connect(setup.http).await;
        let head = format!("GET /switch HTTP/{version}\r\nHost: a.test\r\n{fields}\r\n");
        client
            .send(format!("{head}Connection: close\r\n\r\n{HIDDEN}"))
            .await;
        let answer = client.until("\r\n\r\n").await;
        assert!(!answer.contains(" 101 "), "{fields}: {answer}");
        let seen = setup.web.seen();
        assert_eq!(setup.web.targets(), ["/switch"], "{fields}");
        assert_eq!(seen[0].all("upgrade"), [""; 0], "{fields}");
        assert_eq!(seen[0].all("http2-settings"), [""; 0], "{fields}");
        setup.web.forget();
    }
}

#[tokio::test]
async fn l82_connect_is_refused() {
    let setup = Setup::new().await;
    for target in ["a.test:80", "127.0.0.1:22", "/a"] {
        let mut client = Client::connect(setup.http).await;
        let head = format!("CONNECT {target} HTTP/1.1\r\nHost: a.test\r\n\r\n");
        client.send(format!("{head}{HIDDEN}")).await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 40"), "{target}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{target}: {answer}");
    }
    assert_eq!(setup.web.targets(), [""; 0]);
}
