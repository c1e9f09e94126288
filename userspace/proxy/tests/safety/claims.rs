//! Headers and trailers in which a client claims to be another one.

use headgate_model::edge::Secret;
use headgate_proxy::Settings;

use crate::{
    client::Client,
    frames::{self, DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, frame},
    messages::answer,
    setup::{HOST, Setup, name, objects, until},
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

/// A client that proves who it is with a key cannot be another one in trailers, over HTTP/1.1 and HTTP/2.
#[tokio::test]
async fn l123_trailers_carry_no_headers_of_guards() {
    let annotations = [
        ("headgate.io/auth-type", "api-key"),
        ("headgate.io/auth-secret", "keys"),
        ("headgate.io/auth-key-header", "X-Shop-Key"),
        ("headgate.io/request-headers", "X-Tenant: a"),
    ];
    let mut objects = objects(&annotations);
    let secret = Secret {
        type_: "Opaque".into(),
        data: [("ada".to_owned(), b"sesame".to_vec())].into(),
    };
    objects.secrets.insert(name("keys"), secret);
    let setup = Setup::with(Settings::default(), &objects).await;
    let trailers = [
        ("x-late", "1"),
        ("x-auth-user", "root"),
        ("x_auth_user", "root"),
        ("x-consumer", "root"),
        ("x-tenant", "b"),
        ("x-shop-key", "guess"),
        ("x-real-ip", "6.6.6.6"),
        ("authorization", "Basic eDp5"),
        ("cookie", "session=1"),
    ];
    let names = trailers.map(|(name, _)| name).join(", ");
    let lines: String = trailers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let head = format!(
        "POST /a HTTP/1.1\r\nHost: {HOST}\r\nX-Shop-Key: sesame\r\nTransfer-Encoding: chunked\r\n\
         Trailer: {names}\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\n{lines}\r\n"
    );
    let text = answer(&setup, head).await;
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");

    let mut client = frames::connect(setup.http).await;
    let head = [("x-shop-key", "sesame"), ("trailer", "x-late, x-auth-user")];
    let head = frames::request("POST", "/a", &head);
    client.send(frame(HEADERS, END_HEADERS, 1, &head)).await;
    client.send(frame(DATA, 0, 1, b"hello")).await;
    let last = frames::section(&trailers);
    client
        .send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &last))
        .await;
    frames::until(&mut client, &[HEADERS, RST_STREAM]).await;
    until("both requests", || {
        setup.web.seen().iter().filter(|seen| seen.is_whole).count() == 2
    })
    .await;
    for seen in setup.web.seen() {
        assert_eq!(seen.body, b"hello");
        assert_eq!(seen.all("x-auth-user"), ["ada"]);
        let lines: Vec<_> = seen
            .trailers
            .iter()
            .map(|line| line.to_ascii_lowercase())
            .collect();
        assert_eq!(lines, ["x-late: 1"]);
    }
}
