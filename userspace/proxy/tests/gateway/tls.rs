//! TLS of clients.

use std::sync::Arc;

use headgate_model::edge::{ClientCheck, Listener, PortListeners, Scheme};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    client::{ClientCertificate, get},
    setup::{Setup, listener, route},
};

async fn setup() -> Setup {
    let mut setup = Setup::new();
    let mut secured = |hostname: &str, backend: &str, names: &[&str]| {
        let certificate = setup.certificate(names);
        Listener {
            certificates: [(String::new(), certificate)].into(),
            ..listener(hostname, [("", vec![route(backend)])])
        }
    };
    let listeners = vec![
        secured("one.test", "one", &["one.test"]),
        secured("*.two.test", "two", &["*.two.test", "a.b.two.test"]),
        secured("*.a.two.test", "three", &["*.a.two.test"]),
    ];
    setup.add_port("main", 443, Scheme::Https, listeners);
    setup.serve().await;
    setup
}

#[tokio::test]
async fn g102_the_name_in_the_handshake_chooses_listener_and_certificate() {
    let setup = setup().await;
    for (name, expected) in [
        ("one.test", "one"),
        ("x.two.test", "two"),
        ("a.b.two.test", "two"),
        ("x.a.two.test", "three"),
    ] {
        // The client verifies the certificate.
        let got = setup.send_tls(443, name, get(name, "/")).await;
        assert_eq!(got.by(), expected, "{name}");
        let echo = got.echo();
        assert_eq!(echo.header("x-forwarded-proto").as_deref(), Some("https"));
        assert_eq!(echo.header("x-forwarded-port").as_deref(), Some("443"));
    }
    for name in ["two.test", "else.test"] {
        assert!(setup.shake(443, name).await.is_err(), "{name}");
    }
}

#[tokio::test]
async fn g103_a_host_of_another_listener_is_misdirected() {
    let setup = setup().await;
    for (name, host, expected) in [
        ("one.test", "one.test:443", "one"),
        ("one.test", "x.two.test", "421"),
        ("one.test", "else.test", "404"),
        ("x.two.test", "y.two.test", "two"),
        ("x.two.test", "y.a.two.test", "421"),
        ("x.a.two.test", "y.two.test", "421"),
    ] {
        let got = setup.send_tls(443, name, get(host, "/")).await;
        assert_eq!(got.by(), expected, "{name} {host}");
    }
}

#[tokio::test]
async fn g102_a_listener_without_certificate_ends_the_handshake() {
    let mut setup = Setup::new();
    let bare = listener("bare.test", [("", vec![route("web")])]);
    setup.add_port("main", 443, Scheme::Https, vec![bare]);
    setup.serve().await;
    assert!(setup.shake(443, "bare.test").await.is_err());
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn client_certificate(authority: &Authority) -> ClientCertificate {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["client".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    (certificate.der().clone(), key.serialize_der())
}

/// A listener at port 443, and what it asks of clients.
struct Guarded {
    setup: Setup,
    listener: Listener,
}

impl Guarded {
    fn new() -> Self {
        let mut setup = Setup::new();
        let listener = Listener {
            default_certificate: Some(setup.certificate(&["a.test"])),
            ..listener("", [("", vec![route("web")])])
        };
        Self { setup, listener }
    }

    async fn serve(&mut self, check: Option<ClientCheck>) {
        self.listener.client_check = check;
        let listeners = vec![self.listener.clone()];
        self.setup.add_port("main", 443, Scheme::Https, listeners);
        self.setup.serve().await;
    }

    /// Who answers a client with this certificate.
    async fn answer(&self, own: Option<&ClientCertificate>) -> Option<String> {
        let config = self.setup.client_config(own);
        let got = self.setup.try_tls(443, "a.test", &config).await;
        got.map(|got| got.by())
    }
}

fn required(authority: &Authority) -> Option<ClientCheck> {
    Some(ClientCheck::Required(authority.pem().into_bytes().into()))
}

#[tokio::test]
async fn g105_only_clients_with_a_valid_certificate_finish_the_handshake() {
    let (ours, theirs) = (authority(), authority());
    let (good, bad) = (client_certificate(&ours), client_certificate(&theirs));
    let mut guarded = Guarded::new();
    guarded.serve(required(&ours)).await;
    let web = || Some("web".to_owned());
    assert_eq!(guarded.answer(Some(&good)).await, web());
    assert_eq!(guarded.answer(Some(&bad)).await, None);
    assert_eq!(guarded.answer(None).await, None);
    // Other authorities: from the next connection on.
    guarded.serve(required(&theirs)).await;
    assert_eq!(guarded.answer(Some(&good)).await, None);
    assert_eq!(guarded.answer(Some(&bad)).await, web());
    guarded.serve(None).await;
    assert_eq!(guarded.answer(None).await, web());
}

#[tokio::test]
async fn g105_a_session_from_before_a_check_does_not_continue() {
    let mut guarded = Guarded::new();
    guarded.serve(None).await;
    let config = guarded.setup.client_config(None);
    let before = guarded.setup.try_tls(443, "a.test", &config).await;
    assert_eq!(before.unwrap().by(), "web");
    guarded.serve(required(&authority())).await;
    // The client has a ticket.
    assert!(
        guarded
            .setup
            .try_tls(443, "a.test", &config)
            .await
            .is_none()
    );
}

#[tokio::test]
async fn g105_an_open_connection_does_not_outlive_a_check() {
    let mut guarded = Guarded::new();
    guarded.serve(None).await;
    let config = guarded.setup.client_config(None);
    let stream = guarded.setup.shake_by(443, "a.test", &config).await;
    let mut stream = stream.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut first = [0; 15];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    guarded.serve(required(&authority())).await;
    stream.write_all(request).await.unwrap();
    let mut rest = Vec::new();
    // It ends, with or without an alert.
    drop(stream.read_to_end(&mut rest).await);
    let rest = String::from_utf8_lossy(&rest);
    assert!(rest.contains("HTTP/1.1 421 "), "{rest}");
    assert_eq!(rest.matches("HTTP/1.1 200 OK").count(), 0, "{rest}");
}

#[tokio::test]
async fn g105_g107_without_valid_authorities_no_handshake_succeeds() {
    let ours = authority();
    let mut guarded = Guarded::new();
    guarded.serve(required(&ours)).await;
    let good = client_certificate(&ours);
    assert!(guarded.answer(Some(&good)).await.is_some());
    let none = ClientCheck::Required(b"nothing".to_vec().into());
    guarded.serve(Some(none)).await;
    assert_eq!(guarded.answer(Some(&good)).await, None);
    assert_eq!(guarded.answer(None).await, None);
}

#[tokio::test]
async fn g106_with_insecure_fallback_any_certificate_or_none_is_accepted() {
    let mut guarded = Guarded::new();
    guarded.serve(Some(ClientCheck::Asked)).await;
    let other = client_certificate(&authority());
    for own in [None, Some(&other)] {
        assert_eq!(guarded.answer(own).await.as_deref(), Some("web"));
    }
}

#[tokio::test]
async fn a_listener_that_stays_the_same_is_not_made_again() {
    let mut guarded = Guarded::new();
    guarded.serve(None).await;
    let same: Vec<Arc<Listener>> = guarded
        .setup
        .edge
        .gateways
        .values()
        .flat_map(|port: &PortListeners| port.listeners.clone())
        .collect();
    guarded.answer(None).await.unwrap();
    // Another port, and this one as it was.
    guarded.setup.add_port(
        "main",
        80,
        Scheme::Http,
        vec![listener("", [("", vec![route("web")])])],
    );
    guarded.setup.serve().await;
    let port = guarded.setup.edge.gateways.values().next_back().unwrap();
    assert!(Arc::ptr_eq(&port.listeners[0], &same[0]));
    assert_eq!(guarded.answer(None).await.as_deref(), Some("web"));
    let served = guarded.setup.send(80, get("a.test", "/")).await;
    assert_eq!(served.by(), "web");
    // Its counters are still there.
    let listeners = guarded
        .setup
        .proxy
        .answers()
        .into_iter()
        .filter_map(|(counted, answers)| {
            let headgate_proxy::Counted::Listener(port, _) = counted else {
                return None;
            };
            Some((port.port, answers.by_class[2]))
        });
    let mut listeners: Vec<(u16, u64)> = listeners.collect();
    listeners.sort_unstable();
    assert_eq!(listeners, [(80, 1), (443, 2)]);
    let rules = guarded
        .setup
        .proxy
        .answers()
        .into_iter()
        .filter_map(|(counted, answers)| {
            let is_rule = matches!(counted, headgate_proxy::Counted::Rule(_));
            is_rule.then_some(answers.by_class[2])
        });
    assert_eq!(rules.collect::<Vec<u64>>(), [3], "a rule is counted once");
}
