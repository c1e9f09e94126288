//! TLSRoutes.

use std::{collections::BTreeMap, sync::Arc};

use headgate_model::{
    NamespacedName,
    edge::{
        HostMode, Listener, RouteKind, RouteOrigin, Scheme, Stream, Streams, Target, Trust,
        UpstreamPolicy, UpstreamProtocol, UpstreamTls, WeightedTarget,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName,
};

use crate::{
    client::get,
    setup::{Setup, listener, route, to, weighted, with},
};

fn stream(targets: Vec<WeightedTarget>) -> Arc<Stream> {
    Arc::new(Stream {
        origin: RouteOrigin {
            kind: RouteKind::TlsRoute,
            name: NamespacedName::new("shop", "tls"),
            rule: Some("0".into()),
        },
        targets,
    })
}

/// A listener of TLSRoutes.
fn streaming<'a>(
    hostname: &str,
    is_decrypted: bool,
    hosts: impl IntoIterator<Item = (&'a str, Vec<WeightedTarget>)>,
) -> Listener {
    let hosts = hosts.into_iter();
    let hosts = hosts.map(|(name, targets)| (name.to_owned(), stream(targets)));
    Listener {
        name: format!("stream-{hostname}"),
        hostname: hostname.into(),
        mode: HostMode::Suffix,
        streams: Some(Streams {
            is_decrypted,
            hosts: hosts.collect(),
        }),
        ..Listener::default()
    }
}

/// Listeners of all kinds at port 443, and one at port 8443 that stands for a backend with TLS.
async fn setup() -> Setup {
    let mut setup = Setup::new();
    let inner = setup.certificate(&["a.pass.test", "b.pass.test"]);
    let open = setup.certificate(&["a.open.test", "no.open.test", "again.open.test"]);
    let web = setup.certificate(&["a.web.test"]);
    let tls = UpstreamPolicy {
        protocol: UpstreamProtocol::Https,
        tls: UpstreamTls {
            trust: Trust::Authorities(inner.chain.clone().into()),
            name: Some("b.pass.test".into()),
            ..UpstreamTls::default()
        },
        ..UpstreamPolicy::default()
    };
    let only = |target: Target| vec![weighted(1, target)];
    let invalid = Target::Invalid("no such Service".into());
    let passing = streaming(
        "*.pass.test",
        false,
        [
            ("a.pass.test", only(to("inner"))),
            ("*.pass.test", only(to("dead"))),
            ("bad.pass.test", only(invalid.clone())),
            ("none.pass.test", vec![weighted(0, to("inner"))]),
            ("empty.pass.test", only(to("empty"))),
        ],
    );
    let opening = Listener {
        default_certificate: Some(open),
        ..streaming(
            "*.open.test",
            true,
            [
                ("a.open.test", only(to("web"))),
                ("again.open.test", only(with("again", tls))),
                ("no.open.test", only(invalid)),
            ],
        )
    };
    let https = Listener {
        default_certificate: Some(web),
        ..listener("*.web.test", [("", vec![route("web")])])
    };
    setup.add_port("main", 443, Scheme::Https, vec![passing, opening, https]);
    let backend = Listener {
        default_certificate: Some(inner),
        ..listener("", [("", vec![route("behind")])])
    };
    setup.add_port("inner", 8443, Scheme::Https, vec![backend]);
    setup.serve().await;
    let place = BTreeMap::from([(setup.address(8443), 1)]);
    let keys: Vec<_> = setup.edge.upstreams().cloned().collect();
    for key in keys {
        if ["inner", "again"].contains(&&*key.service.name) {
            setup.proxy.place(&key, &place);
        }
    }
    setup
}

#[tokio::test]
async fn g27_g122_g125_connections_are_passed_or_decrypted_beside_https() {
    let setup = setup().await;
    for (name, expected) in [
        // The backend has the certificate that the client verifies.
        ("a.pass.test", "behind"),
        ("a.open.test", "web"),
        // TLS again towards the backend.
        ("again.open.test", "behind"),
        ("a.web.test", "web"),
    ] {
        let got = setup.send_tls(443, name, get(name, "/")).await;
        assert_eq!(got.by(), expected, "{name}");
    }
}

/// What a client is sent after the first message of a handshake, until the end of the connection.
async fn answer_to_hello(setup: &Setup, name: Option<&str>) -> Vec<u8> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.enable_sni = name.is_some();
    let name = ServerName::try_from(name.unwrap_or("x.test").to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let mut stream = TcpStream::connect(setup.address(443)).await.unwrap();
    stream.write_all(&hello).await.unwrap();
    let mut answer = Vec::new();
    // Fails if the connection is reset.
    drop(stream.read_to_end(&mut answer).await);
    answer
}

#[tokio::test]
async fn g123_connections_without_a_backend_are_closed_without_an_alert() {
    let setup = setup().await;
    for name in [
        None,
        Some("else.test"),
        Some("else.open.test"),
        Some("no.open.test"),
        Some("bad.pass.test"),
        Some("none.pass.test"),
        Some("empty.pass.test"),
        // The wildcard, whose backend is dead.
        Some("else.pass.test"),
    ] {
        let answer = answer_to_hello(&setup, name).await;
        assert!(answer.is_empty(), "{name:?}: {answer:?}");
    }
    assert!(
        !answer_to_hello(&setup, Some("a.open.test"))
            .await
            .is_empty()
    );
}

#[tokio::test]
async fn g124_backends_of_connections_by_weight() {
    let mut setup = Setup::new();
    let certificate = setup.certificate(&["a.test"]);
    let targets = vec![
        weighted(70, to("one")),
        weighted(30, to("two")),
        weighted(0, to("none")),
    ];
    let listener = Listener {
        default_certificate: Some(certificate),
        ..streaming("a.test", true, [("a.test", targets)])
    };
    setup.add_port("main", 443, Scheme::Https, vec![listener]);
    setup.serve().await;
    const COUNT: usize = 300;
    for _ in 0..COUNT {
        setup.send_tls(443, "a.test", get("a.test", "/")).await;
    }
    let hits = ["one", "two", "none"].map(|name| setup.hits(name));
    assert_eq!((hits[0] + hits[1], hits[2]), (COUNT, 0));
    // Six standard deviations.
    assert!(hits[0].abs_diff(210) < 48, "{hits:?}");
}
