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
