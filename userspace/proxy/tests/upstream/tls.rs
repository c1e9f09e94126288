//! TLS connections to endpoints.

use std::{path::Path, process::Stdio, sync::Arc, time::Duration};

use headgate_model::edge::{SubjectName, Trust, UpstreamPolicy, UpstreamProtocol, UpstreamTls};
use headgate_proxy::{Body, ErrorKind};
use http::{
    Request, Response, Version,
    header::{CONNECTION, UPGRADE},
};
use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::aws_lc_rs,
        pki_types::PrivateKeyDer,
        server::{NoClientAuth, WebPkiClientVerifier, danger::ClientCertVerifier},
    },
};

use crate::{
    server::{Server, serve_http},
    setup::{Setup, text},
};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn certify(authority: &Authority, name: &str) -> (Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new([name.to_owned()]).unwrap();
    (params.signed_by(&key, authority).unwrap(), key)
}

/// A TLS server that responds with the client's server name (SNI), its number of certificates and the
/// HTTP version.
async fn serve(
    authority: &Authority,
    verifier: Arc<dyn ClientCertVerifier>,
    alpn: &[&str],
) -> Server {
    let (certificate, key) = certify(authority, "web.shop.svc");
    let provider = Arc::new(aws_lc_rs::default_provider());
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    Server::raw(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let session = stream.get_ref().1;
            let name = session.server_name().unwrap_or_default().to_owned();
            let shown = session.peer_certificates().map_or(0, <[_]>::len);
            let answer = move |request: Request<_>| {
                let seen = format!("{name} {shown} {:?}", request.version());
                async move { Response::new(Body::from(seen)) }
            };
            serve_http(stream, answer).await;
        }
    })
    .await
}

fn https(tls: UpstreamTls) -> UpstreamPolicy {
    UpstreamPolicy {
        protocol: UpstreamProtocol::Https,
        tls,
        ..UpstreamPolicy::default()
    }
}

fn trusting(authority: &Authority) -> UpstreamTls {
    UpstreamTls {
        trust: Trust::Authorities(authority.pem().into_bytes().into()),
        ..UpstreamTls::default()
    }
}

fn no_client_auth() -> Arc<dyn ClientCertVerifier> {
    Arc::new(NoClientAuth)
}

#[tokio::test]
async fn l42_certificate_is_verified() {
    let authority = authority();
    let server = serve(&authority, no_client_auth(), &[]).await;
    let setup = Setup::new(https(trusting(&authority)), &[server.address]);
    for _ in 0..3 {
        assert_eq!(setup.read("/").await.1, "web.shop.svc 0 HTTP/1.1");
    }
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn g109_g110_one_of_several_names_must_be_in_the_certificate() {
    let authority = authority();
    let server = serve(&authority, no_client_auth(), &[]).await;
    let dns = |name: &str| SubjectName::Dns(name.into());
    let uri = SubjectName::Uri("spiffe://shop/web".into());
    for (issuer, names, is_accepted) in [
        (
            &authority,
            vec![dns("other.example"), dns("web.shop.svc")],
            true,
        ),
        (&authority, vec![uri.clone(), dns("*.shop.svc")], true),
        (&authority, vec![dns("other.example")], false),
        (&authority, vec![uri], false),
        (&self::authority(), vec![dns("web.shop.svc")], false),
    ] {
        let tls = UpstreamTls {
            // Sent, and not verified.
            name: Some("other.example".into()),
            names: names.clone(),
            ..trusting(issuer)
        };
        let setup = Setup::new(https(tls), &[server.address]);
        match setup.get("/").await {
            Ok(_) => assert!(is_accepted, "{names:?}"),
            Err(error) => assert!(
                !is_accepted && error.kind == ErrorKind::Tls,
                "{names:?} {error}"
            ),
        }
    }
}

#[tokio::test]
async fn l42_certificate_of_another_authority_or_name_is_refused() {
    let authority = authority();
    let server = serve(&authority, no_client_auth(), &[]).await;
    let other_name = UpstreamTls {
        name: Some("other.example".into()),
        ..trusting(&authority)
    };
    for tls in [trusting(&self::authority()), other_name] {
        let setup = Setup::new(https(tls), &[server.address]);
        let error = setup.get("/").await.unwrap_err();
        assert_eq!((error.kind, error.is_sent), (ErrorKind::Tls, false));
        assert!(error.request.is_some());
        assert_eq!(setup.endpoint().failures, 1);
    }
}

#[tokio::test]
async fn l42_without_authorities_any_certificate_is_accepted() {
    let server = serve(&authority(), no_client_auth(), &[]).await;
    let tls = UpstreamTls {
        name: Some("other.example".into()),
        ..UpstreamTls::default()
    };
    let setup = Setup::new(https(tls), &[server.address]);
    assert_eq!(setup.read("/").await.1, "other.example 0 HTTP/1.1");
}

/// A server of OpenSSL with a certificate that no library of this project would show. It answers with 200.
async fn openssl(certificate: &str, version: &str) -> (Child, std::net::SocketAddr) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tls/testdata");
    let file = |end: &str| folder.join(format!("{certificate}.{end}"));
    let mut command = Command::new("openssl");
    command
        .args(["s_server", "-accept", "127.0.0.1:0", "-www", version])
        .args(["-cipher", "DEFAULT@SECLEVEL=0", "-cert"])
        .arg(file("crt"))
        .arg("-key")
        .arg(file("key"))
        .kill_on_drop(true)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut server = command.spawn().expect("openssl");
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let address = timeout(Duration::from_secs(60), async {
        loop {
            let line = lines.next_line().await.unwrap().expect("openssl ended");
            if let Some(address) = line.strip_prefix("ACCEPT ") {
                return address.parse().unwrap();
            }
        }
    });
    (server, address.await.unwrap())
}

/// A certificate that is not verified may be of X.509 version 1, and its key too short: nginx asks no more of
/// it either.
#[tokio::test]
async fn l139_l147_without_authorities_any_key_is_accepted() {
    for version in ["-tls1_2", "-tls1_3"] {
        for certificate in ["version-1", "rsa-1024"] {
            let (_server, address) = openssl(certificate, version).await;
            let setup = Setup::new(https(UpstreamTls::default()), &[address]);
            let (status, text) = setup.read("/").await;
            assert_eq!(status, 200, "{certificate} {version}: {text}");
            let strict = UpstreamTls {
                name: Some("a.test".into()),
                ..trusting(&authority())
            };
            let error = Setup::new(https(strict), &[address]).get("/").await;
            let error = error.expect_err("verified");
            assert_eq!(error.kind, ErrorKind::Tls, "{certificate} {version}");
        }
    }
}

#[tokio::test]
async fn l42_client_certificate_is_sent() {
    let authority = authority();
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
    let server = serve(&authority, verifier.build().unwrap(), &[]).await;
    let (certificate, key) = certify(&authority, "headgate");
    let identity = (
        certificate.pem().into_bytes(),
        key.serialize_pem().into_bytes(),
    );
    let tls = UpstreamTls {
        identity: Some(identity),
        ..trusting(&authority)
    };
    let setup = Setup::new(https(tls), &[server.address]);
    assert_eq!(setup.read("/").await.1, "web.shop.svc 1 HTTP/1.1");

    let setup = Setup::new(https(trusting(&authority)), &[server.address]);
    assert!(
        setup.get("/").await.is_err(),
        "the server demands a certificate"
    );
}

#[tokio::test]
async fn l42_endpoint_chooses_the_http_version() {
    let authority = authority();
    let server = serve(&authority, no_client_auth(), &["h2", "http/1.1"]).await;
    let setup = Setup::new(https(trusting(&authority)), &[server.address]);
    for _ in 0..3 {
        let response = setup.get("/").await.unwrap();
        assert_eq!(response.version(), Version::HTTP_2);
        assert_eq!(text(response).await, "web.shop.svc 0 HTTP/2.0");
    }
    assert_eq!(server.accepted(), 1);

    let upgrade = Request::get("/")
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, "websocket");
    let response = setup
        .send(upgrade.body(Body::empty()).unwrap())
        .await
        .unwrap();
    assert_eq!(
        text(response).await,
        "web.shop.svc 0 HTTP/1.1",
        "only HTTP/1.1 supports upgrades"
    );
}

#[tokio::test]
async fn l42_invalid_settings_fail_every_request() {
    let server = serve(&authority(), no_client_auth(), &[]).await;
    let bad = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec();
    let broken = |tls: UpstreamTls, expected: &'static str| (tls, expected);
    let cases = [
        broken(
            UpstreamTls {
                trust: Trust::Authorities(b"nothing".to_vec().into()),
                ..UpstreamTls::default()
            },
            "authorities: no certificate",
        ),
        broken(
            UpstreamTls {
                trust: Trust::Authorities(bad.clone().into()),
                ..UpstreamTls::default()
            },
            "authorities: ",
        ),
        broken(
            UpstreamTls {
                identity: Some((Vec::new(), Vec::new())),
                ..UpstreamTls::default()
            },
            "own certificate: no certificate",
        ),
        broken(
            UpstreamTls {
                identity: Some((bad, b"x".to_vec())),
                ..UpstreamTls::default()
            },
            "own key: ",
        ),
        broken(
            UpstreamTls {
                name: Some("not a name".into()),
                ..UpstreamTls::default()
            },
            "name not a name: ",
        ),
    ];
    for (tls, expected) in cases {
        let setup = Setup::new(https(tls), &[server.address]);
        let error = setup.get("/").await.unwrap_err();
        assert_eq!(
            (error.kind, error.is_sent, error.request.is_some()),
            (ErrorKind::Tls, false, true)
        );
        assert!(error.source.to_string().starts_with(expected), "{error}");
        assert!(setup.state().error.unwrap().starts_with(expected));
        assert_eq!(
            setup.endpoint().failures,
            0,
            "not a failure of the endpoint"
        );
    }
}
