//! Headers in which a client claims to be another one.

use headgate_proxy::Settings;

use crate::{
    client::Client,
    setup::{Setup, objects},
};

/// Every spelling that a backend may read as a header of the proxy.
const CLAIMS: [&str; 24] = [
    "X-Forwarded-For",
    "x_forwarded_for",
    "X_Forwarded-For",
    "X-Forwarded-Proto",
    "x_forwarded_proto",
    "X-Forwarded-Host",
    "X-Forwarded_Host",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "x_forwarded_prefix",
    "X-Forwarded-User",
    "X-Forwarded-Ssl",
    "X-Forwarded-Scheme",
    "X-Forwarded-Client-Cert",
    "X-Real-IP",
    "X_Real_IP",
    "Forwarded",
    "Proxy",
    "PROXY",
    "X-Auth-User",
    "X_Auth_User",
    "x_auth-user",
    "X-Gone",
    "x_gone",
];

#[tokio::test]
async fn l88_identity_headers_of_clients_are_replaced() {
    let edits = [(
        "headgate.io/request-headers",
        "X-Auth-User: anonymous\nX-Gone:",
    )];
    let setup = Setup::with(Settings::default(), &objects(&edits)).await;
    let claims: String = CLAIMS
        .iter()
        .map(|name| format!("{name}: claimed\r\n"))
        .collect();
    let mut client = Client::connect(setup.http).await;
    let head = format!("GET /a HTTP/1.1\r\nHost: a.test\r\nX_Other: kept\r\n{claims}");
    client
        .send(format!("{head}Connection: close\r\n\r\n"))
        .await;
    client.rest().await;
    let seen = setup.web.seen().remove(0);
    let believed = seen
        .fields
        .iter()
        .filter(|(_, value)| value.contains("claimed"));
    assert_eq!(believed.count(), 0, "{:?}", seen.fields);
    for (name, value) in [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-real-ip", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "a.test"),
        ("x-auth-user", "anonymous"),
        ("x_other", "kept"),
    ] {
        assert_eq!(seen.all(name), [value], "{name}");
    }
}

/// A trusted proxy names its clients, but not in spellings that it does not check itself.
#[tokio::test]
async fn l88_a_trusted_proxy_names_its_clients() {
    let trusted = Settings {
        trusted: vec!["127.0.0.1/32".parse().unwrap()],
        ..Settings::default()
    };
    let setup = Setup::with(trusted, &objects(&[])).await;
    let mut client = Client::connect(setup.http).await;
    let head = "GET /a HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 6.6.6.6, 9.9.9.9\r\n\
        X_Forwarded_For: 7.7.7.7\r\nX-Forwarded-Proto: https\r\nProxy: x\r\n";
    client
        .send(format!("{head}Connection: close\r\n\r\n"))
        .await;
    client.rest().await;
    let seen = setup.web.seen().remove(0);
    assert_eq!(seen.all("x-forwarded-for"), ["6.6.6.6, 9.9.9.9, 127.0.0.1"]);
    assert_eq!(seen.all("x-real-ip"), ["9.9.9.9"]);
    assert_eq!(seen.all("x-forwarded-proto"), ["https"]);
    for name in ["x_forwarded_for", "proxy"] {
        assert_eq!(seen.all(name), [""; 0], "{name}");
    }
}

/// Redirects, lists, `$scheme` and headers use what a trusted load balancer says.
#[tokio::test]
async fn l131_everything_follows_the_trusted_proxy() {
    let trusted = || Settings {
        trusted: vec!["127.0.0.0/8".parse().unwrap()],
        ..Settings::default()
    };
    let key = |name: &str| format!("nginx.ingress.kubernetes.io/{name}");
    let force = [(key("force-ssl-redirect"), "true")];
    let deny = [(key("denylist-source-range"), "0.0.0.0/0")];
    let allow = [(key("allowlist-source-range"), "127.0.0.0/8")];
    let moved = [(key("permanent-redirect"), "$scheme://b.test$request_uri")];
    for (annotations, fields, begin) in [
        (&force, "X-Forwarded-Proto: https", "HTTP/1.1 200 "),
        (&force, "X-Forwarded-Proto: HTTPS, http", "HTTP/1.1 200 "),
        (
            &force,
            "X-Forwarded-Proto: https\r\nX-Forwarded-For: 192.0.2.1:51234",
            "HTTP/1.1 200 ",
        ),
        (&force, "X-Forwarded-Proto: http", "HTTP/1.1 308 "),
        (&force, "X-Forwarded-For: 192.0.2.1", "HTTP/1.1 308 "),
        (
            &deny,
            "X-Forwarded-For: ::ffff:203.0.113.9",
            "HTTP/1.1 403 ",
        ),
        (&deny, "X-Forwarded-For: [2001:db8::1]:5", "HTTP/1.1 200 "),
        (&deny, "X-Forwarded-For: unknown", "HTTP/1.1 403 "),
        (&allow, "X-Forwarded-For: 203.0.113.9:4711", "HTTP/1.1 403 "),
        (&allow, "X-Forwarded-For: unknown", "HTTP/1.1 403 "),
        (
            &allow,
            "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 127.0.0.5",
            "HTTP/1.1 403 ",
        ),
        (&allow, "X-Forwarded-For: 127.0.0.5", "HTTP/1.1 200 "),
        (
            &moved,
            "X-Forwarded-Proto: https",
            "HTTP/1.1 301 Moved Permanently\r\nlocation: https://b.test/a",
        ),
        (
            &moved,
            "X: y",
            "HTTP/1.1 301 Moved Permanently\r\nlocation: http://b.test/a",
        ),
    ] {
        let annotations = annotations
            .each_ref()
            .map(|(key, value)| (key.as_str(), *value));
        let setup = Setup::with(trusted(), &objects(&annotations)).await;
        let mut client = Client::connect(setup.http).await;
        let head =
            format!("GET /a HTTP/1.1\r\nHost: a.test\r\n{fields}\r\nConnection: close\r\n\r\n");
        client.send(head).await;
        let text = client.rest().await;
        assert!(text.starts_with(begin), "{annotations:?} {fields}: {text}");
    }
}

/// A load balancer that ends TLS and sends the PROXY protocol names port 443.
#[tokio::test]
async fn l131_port_443_of_a_proxy_header_means_https() {
    let settings = Settings {
        proxy_protocol: vec!["127.0.0.0/8".parse().unwrap()],
        ..Settings::default()
    };
    let force = [("nginx.ingress.kubernetes.io/force-ssl-redirect", "true")];
    let setup = Setup::with(settings, &objects(&force)).await;
    for (port, status) in [(443, "200"), (80, "308")] {
        let mut client = Client::connect(setup.http).await;
        let header = format!("PROXY TCP4 192.0.2.1 198.51.100.1 4000 {port}\r\n");
        let head = "GET /a HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
        client.send(format!("{header}{head}")).await;
        assert_eq!(client.rest().await[9..12], *status, "{port}");
    }
    let seen = setup.web.seen().remove(0);
    for (name, value) in [
        ("x-forwarded-proto", "https"),
        ("x-forwarded-port", "443"),
        ("x-forwarded-for", "192.0.2.1"),
    ] {
        assert_eq!(seen.all(name), [value], "{name}");
    }
}
