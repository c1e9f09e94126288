//! Invalid certificates, and certificates that change.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
};

use headgate_model::{ObjectName, Refusal, ingress::Objects};
use headgate_proxy::Settings;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    },
};

use crate::setup::{Setup, add_secret, add_tls, name, objects, until};

/// Accepts any certificate: these tests inspect it themselves.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let provider = aws_lc_rs::default_provider();
        provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

pub(crate) async fn handshake(setup: &Setup, host: &str) -> TlsStream<TcpStream> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    let stream = TcpStream::connect(setup.https).await.unwrap();
    let host = ServerName::try_from(host.to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(host, stream).await.unwrap()
}

/// Returns the certificate that is shown for a host.
async fn shown(setup: &Setup, host: &str) -> Vec<u8> {
    let stream = handshake(setup, host).await;
    let (_, session) = stream.get_ref();
    session.peer_certificates().unwrap()[0].to_vec()
}

/// A certificate: PEM, key, DER.
struct Made {
    chain: String,
    key: String,
    der: Vec<u8>,
}

fn made(host: &str) -> Made {
    signed(CertificateParams::new(vec![host.into()]).unwrap())
}

fn signed(params: CertificateParams) -> Made {
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Made {
        chain: certificate.pem(),
        key: key.serialize_pem(),
        der: certificate.der().to_vec(),
    }
}

fn two_hosts() -> Objects {
    let mut objects = objects(&[]);
    add_tls(&mut objects, "a.test", "a-tls");
    add_tls(&mut objects, "b.test", "b-tls");
    objects
}

fn refuses_a(refusals: &[Refusal]) -> bool {
    let secret = ObjectName::Secret(name("a-tls"));
    matches!(refusals, [refusal] if refusal.object == secret)
}

#[tokio::test]
async fn l86_a_bad_certificate_changes_nothing() {
    let (a, other) = (made("a.test"), made("a.test"));
    let mut objects = two_hosts();
    add_secret(&mut objects, "a-tls", &a.chain, &a.key);
    let b = made("b.test");
    add_secret(&mut objects, "b-tls", &b.chain, &b.key);
    let setup = Setup::with(Settings::default(), &objects).await;
    let broken = a.chain.replace("MII", "!!!");
    let cut = &a.chain[..a.chain.len() / 2];
    for (chain, key) in [
        (other.chain.as_str(), a.key.as_str()),
        (&a.chain, &other.key),
        (&broken, &a.key),
        (cut, &a.key),
        ("", &a.key),
        ("no certificate", &a.key),
        (&a.key, &a.key),
        (&a.chain, ""),
        (&a.chain, "no key"),
        (&a.chain, &a.chain),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            &a.key,
        ),
    ] {
        add_secret(&mut objects, "a-tls", chain, key);
        let b = made("b.test");
        add_secret(&mut objects, "b-tls", &b.chain, &b.key);
        let refusals = setup.serve(&objects);
        assert!(refuses_a(&refusals), "{chain}{key}: {refusals:?}");
        assert!(shown(&setup, "a.test").await == a.der, "{chain}{key}");
        assert!(shown(&setup, "b.test").await == b.der, "{chain}{key}");
    }
    // A host that sorts before and has no previous certificate takes none from the others.
    add_tls(&mut objects, "0.test", "a-tls");
    assert!(refuses_a(&setup.serve(&objects)));
    assert!(shown(&setup, "a.test").await == a.der);
    // A valid certificate is used again.
    add_secret(&mut objects, "a-tls", &other.chain, &other.key);
    assert_eq!(setup.serve(&objects), []);
    for host in ["0.test", "a.test"] {
        assert!(shown(&setup, host).await == other.der, "{host}");
    }
}

#[tokio::test]
async fn l86_without_a_certificate_there_is_the_default() {
    let setup = Setup::with(Settings::default(), &two_hosts()).await;
    let fallback = shown(&setup, "c.test").await;
    let (a, b) = (made("a.test"), made("b.test"));
    let mut objects = two_hosts();
    add_secret(&mut objects, "a-tls", &a.chain, &a.key);
    add_secret(&mut objects, "b-tls", &b.chain, &b.key);
    setup.serve(&objects);
    for is_empty in [true, false] {
        match is_empty {
            true => objects
                .secrets
                .get_mut(&name("a-tls"))
                .unwrap()
                .data
                .clear(),
            false => drop(objects.secrets.remove(&name("a-tls"))),
        }
        let refusals = setup.serve(&objects);
        assert_eq!(refusals.len(), 1, "{refusals:?}");
        assert!(refusals[0].reason.contains("default/a-tls"), "{refusals:?}");
        assert!(shown(&setup, "a.test").await == fallback);
        assert!(shown(&setup, "b.test").await == b.der);
    }
}

/// Clients decide about an expired certificate: the clock of the node may be wrong.
#[tokio::test]
async fn l86_an_expired_certificate_is_shown_and_reported() {
    let mut params = CertificateParams::new(vec!["a.test".into()]).unwrap();
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(2001, 1, 1);
    let (old, b) = (signed(params), made("b.test"));
    let mut objects = two_hosts();
    add_secret(&mut objects, "a-tls", &old.chain, &old.key);
    add_secret(&mut objects, "b-tls", &b.chain, &b.key);
    let setup = Setup::with(Settings::default(), &objects).await;
    assert!(shown(&setup, "a.test").await == old.der);
    assert!(shown(&setup, "b.test").await == b.der);
    // It is reported on every update.
    let refusals = setup.serve(&objects);
    let [refusal] = &refusals[..] else {
        panic!("{refusals:?}");
    };
    assert_eq!(refusal.object, ObjectName::Secret(name("a-tls")));
    assert!(refusal.reason.contains("2001-01-01"), "{refusal:?}");
}

/// Clients decide about the version of a certificate.
#[tokio::test]
async fn l139_a_certificate_of_version_1_is_shown() {
    const CHAIN: &str = include_str!("../../src/tls/testdata/version-1.crt");
    const KEY: &str = include_str!("../../src/tls/testdata/version-1.key");
    let mut objects = objects(&[]);
    add_tls(&mut objects, "a.test", "a-tls");
    add_secret(&mut objects, "a-tls", CHAIN, KEY);
    let setup = Setup::with(Settings::default(), &objects).await;
    assert_eq!(setup.serve(&objects), []);
    let der = CertificateDer::from_pem_slice(CHAIN.as_bytes()).unwrap();
    let mut stream = handshake(&setup, "a.test").await;
    let (_, session) = stream.get_ref();
    assert_eq!(session.peer_certificates().unwrap(), [der]);
    ask(&mut stream).await.unwrap();
}

async fn ask(stream: &mut TlsStream<TcpStream>) -> std::io::Result<()> {
    stream
        .write_all(b"GET /a HTTP/1.1\r\nHost: a.test\r\n\r\n")
        .await?;
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\nok\n") {
        bytes.push(stream.read_u8().await?);
    }
    Ok(())
}

#[tokio::test]
async fn l86_rotation_loses_nothing() {
    let mut objects = two_hosts();
    let b = made("b.test");
    add_secret(&mut objects, "b-tls", &b.chain, &b.key);
    let first = made("a.test");
    add_secret(&mut objects, "a-tls", &first.chain, &first.key);
    let setup = Arc::new(Setup::with(Settings::default(), &objects).await);
    let (ends, answers) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let client = |is_new_each_time: bool| {
        let (setup, ends, answers) = (setup.clone(), ends.clone(), answers.clone());
        tokio::spawn(async move {
            let mut stream = handshake(&setup, "a.test").await;
            while !ends.load(Relaxed) {
                if is_new_each_time {
                    stream = handshake(&setup, "a.test").await;
                }
                ask(&mut stream).await.unwrap();
                answers.fetch_add(1, Relaxed);
            }
        })
    };
    let clients = [client(true), client(false)];
    for _ in 0..30 {
        let next = made("a.test");
        add_secret(&mut objects, "a-tls", &next.chain, &next.key);
        assert_eq!(setup.serve(&objects), []);
        assert!(shown(&setup, "a.test").await == next.der, "at once");
        let before = answers.load(Relaxed);
        until("answers", || answers.load(Relaxed) > before + 4).await;
    }
    ends.store(true, Relaxed);
    for client in clients {
        client.await.unwrap();
    }
}
