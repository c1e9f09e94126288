//! TLS of clients.

use headgate_model::edge::{Listener, Scheme};

use crate::{
    client::get,
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
