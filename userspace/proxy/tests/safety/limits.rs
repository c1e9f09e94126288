//! The limit of client connections.

use headgate_proxy::Settings;

use crate::{
    client::Client,
    setup::{Setup, objects},
};

const REQUEST: &str = "GET /a HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Connections over the limit wait in the kernel, and are served once others close.
#[tokio::test]
async fn l89_connections_over_the_limit_wait() {
    let settings = Settings {
        max_connections: 2,
        ..Settings::default()
    };
    let setup = Setup::with(settings, &objects(&[])).await;
    let mut first = Client::connect(setup.http).await;
    let mut second = Client::connect(setup.http).await;
    for client in [&mut first, &mut second] {
        client.send(REQUEST).await;
        client.until("ok\n").await;
    }
    let mut third = Client::connect(setup.http).await;
    third.send(REQUEST).await;
    // Accepted connections are served meanwhile.
    for _ in 0..20 {
        first.send(REQUEST).await;
        first.until("ok\n").await;
    }
    assert_eq!(setup.web.targets().len(), 22);
    drop(second);
    third.until("ok\n").await;
    assert_eq!(setup.web.targets().len(), 23);
}

/// Upgraded connections count as long as they are open.
#[tokio::test]
async fn l137_upgraded_connections_count() {
    let settings = Settings {
        max_connections: 2,
        ..Settings::default()
    };
    let setup = Setup::with(settings, &objects(&[])).await;
    let mut upgraded = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(setup.http).await;
        let fields = "Host: a.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        client
            .send(format!("GET /switch HTTP/1.1\r\n{fields}"))
            .await;
        client.until("\r\n\r\n").await;
        upgraded.push(client);
    }
    let mut third = Client::connect(setup.http).await;
    third.send(REQUEST).await;
    // Both work meanwhile.
    for client in &mut upgraded {
        client.send("late").await;
        client.until("LATE").await;
    }
    assert_eq!(setup.web.targets(), ["/switch", "/switch"]);
    upgraded.pop();
    third.until("ok\n").await;
}
