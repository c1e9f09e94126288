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
