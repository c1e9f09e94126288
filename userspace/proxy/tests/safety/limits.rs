//! The limit of client connections.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use headgate_proxy::Settings;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, pki_types::ServerName};

use crate::{
    client::Client,
    setup::{Setup, objects, until},
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

const PASSTHROUGH: (&str, &str) = ("nginx.ingress.kubernetes.io/ssl-passthrough", "true");

/// The first bytes of a TLS connection: a ClientHello for `a.test`.
fn client_hello() -> Vec<u8> {
    let config = ClientConfig::builder().with_root_certificates(RootCertStore::empty());
    let config = Arc::new(config.with_no_client_auth());
    let name = ServerName::try_from("a.test").unwrap();
    let mut bytes = Vec::new();
    let mut client = ClientConnection::new(config, name).unwrap();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// A client whose connection is passed through, and the backend's echo of its first bytes is read.
struct Passed(Client);

impl Passed {
    async fn connect(setup: &Setup) -> Self {
        let mut client = Client::connect(setup.https).await;
        client.send(client_hello()).await;
        Self(client)
    }

    async fn echo(&mut self, bytes: &[u8]) {
        self.0.send(bytes).await;
        self.read(bytes.len()).await;
    }

    async fn read(&mut self, length: usize) {
        let mut echoed = vec![0; length];
        self.0.0.read_exact(&mut echoed).await.unwrap();
    }
}

/// A backend that sends back what it gets. Counts connections.
async fn echoing() -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = accepted.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Relaxed);
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                drop(tokio::io::copy(&mut read, &mut write).await);
                drop(write.shutdown().await);
            });
        }
    });
    (address, accepted)
}

/// Connections that are passed through have no requests, and count as long as they are open: against the
/// limit, in the number of open ones, and at their endpoint.
#[tokio::test]
async fn l146_passed_connections_count() {
    let settings = Settings {
        max_connections: 2,
        ..Settings::default()
    };
    let setup = Setup::with(settings, &objects(&[PASSTHROUGH])).await;
    let (address, accepted) = echoing().await;
    setup.place_all(address);
    let length = client_hello().len();
    let mut passed = Vec::new();
    for _ in 0..2 {
        let mut client = Passed::connect(&setup).await;
        client.read(length).await;
        passed.push(client);
    }
    assert_eq!(setup.proxy.open_connections(), 2);
    let in_flight = || {
        let states = setup.proxy.upstreams();
        let endpoints = states.iter().flat_map(|state| &state.endpoints);
        endpoints.map(|endpoint| endpoint.in_flight).sum::<u32>()
    };
    assert_eq!(in_flight(), 2);
    let mut third = Passed::connect(&setup).await;
    // Both work meanwhile.
    for _ in 0..20 {
        for client in &mut passed {
            client.echo(b"more").await;
        }
    }
    assert_eq!(accepted.load(Relaxed), 2);
    passed.pop();
    third.read(length).await;
    drop((third, passed));
    until("no connection", || setup.proxy.open_connections() == 0).await;
    assert_eq!(in_flight(), 0);
}

/// Whether the kernel probes the other end of each TCP connection from or to a port of this host (timer 2 in
/// `/proc/net/tcp`). `None` without such connections.
fn are_probed(local: Option<u16>, remote: Option<u16>) -> Option<bool> {
    const ESTABLISHED: &str = "01";
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let is_port = |text: &str, port: Option<u16>| {
        port.is_none_or(|port| text.ends_with(&format!(":{port:04X}")))
    };
    let lines = table.lines().skip(1).map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        (fields[1], fields[2], fields[3], fields[5])
    });
    let ours = lines.filter(|(from, to, state, _)| {
        *state == ESTABLISHED && is_port(from, local) && is_port(to, remote)
    });
    let timers: Vec<bool> = ours.map(|(.., timer)| timer.starts_with("02:")).collect();
    (!timers.is_empty()).then(|| timers.iter().all(|is_probe| *is_probe))
}

/// A connection may be silent for as long as its ends like, but not once one of them has vanished: also if it
/// was upgraded, or is passed through.
#[tokio::test]
async fn l146_the_ends_of_silent_connections_are_probed() {
    let setup = Setup::new().await;
    // Once this is answered, the listener has its options, which later connections inherit.
    setup.serves_others().await;
    let mut plain = Client::connect(setup.http).await;
    plain.send(REQUEST).await;
    plain.until("ok\n").await;
    let mut upgraded = Client::connect(setup.http).await;
    let fields = "Host: a.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    upgraded
        .send(format!("GET /switch HTTP/1.1\r\n{fields}"))
        .await;
    upgraded.until("\r\n\r\n").await;
    let (http, web) = (Some(setup.http.port()), Some(setup.web.address.port()));
    until("clients are probed", || {
        are_probed(http, None) == Some(true)
    })
    .await;
    until("endpoints are probed", || {
        are_probed(None, web) == Some(true)
    })
    .await;

    setup.serve(&objects(&[PASSTHROUGH]));
    let (address, _) = echoing().await;
    setup.place_all(address);
    let mut passed = Passed::connect(&setup).await;
    passed.read(client_hello().len()).await;
    let (https, backend) = (Some(setup.https.port()), Some(address.port()));
    until("the client is probed", || {
        are_probed(https, None) == Some(true)
    })
    .await;
    until("the endpoint is probed", || {
        are_probed(None, backend) == Some(true)
    })
    .await;
}
