//! The access log has a line for every request.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use headgate_model::ingress::Objects;
use headgate_proxy::{AccessLog, LogFormat, Settings};
use serde_json::Value;

use crate::{
    client::Client,
    frames::{self, CONTINUATION, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, frame},
    setup::{Setup, objects, until},
};

/// What the log wrote.
#[derive(Clone, Default)]
pub(crate) struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    pub(crate) fn lines(&self) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().unwrap()
    }

    /// Removes all lines, and returns the first.
    pub(crate) fn take(&self) -> Value {
        let line = self.lines().remove(0);
        self.0.lock().unwrap().clear();
        line
    }
}

pub(crate) async fn logging() -> (Setup, Written) {
    logging_with(Settings::default(), &objects(&[])).await
}

async fn logging_with(settings: Settings, objects: &Objects) -> (Setup, Written) {
    let written = Written::default();
    let log = AccessLog::new(LogFormat::Json, written.clone());
    let settings = Settings {
        log: Some(Arc::new(log)),
        ..settings
    };
    (Setup::with(settings, objects).await, written)
}

/// Also for requests that the proxy or the HTTP library refuses. The path is that by which the route was
/// selected, the target that of the client.
#[tokio::test]
async fn l140_refused_requests_are_logged() {
    let (setup, written) = logging().await;
    for (head, method, status, path) in [
        (
            "GET /x//%61 HTTP/1.1\r\nHost: a.test\r\n",
            "GET",
            200,
            Some("/x/a"),
        ),
        ("GET /a%00 HTTP/1.1\r\nHost: a.test\r\n", "GET", 400, None),
        ("GET /a HTTP/1.1\r\nHost: other.test\r\n", "GET", 404, None),
        (
            "CONNECT a.test:80 HTTP/1.1\r\nHost: a.test\r\n",
            "CONNECT",
            405,
            None,
        ),
        ("TRACE /a HTTP/1.1\r\nHost: a.test\r\n", "TRACE", 405, None),
        ("GET /a HTTP/1.7\r\nHost: a.test\r\n", "-", 400, None),
        (
            "GET /a?q=\"<>\" HTTP/1.1\r\nHost: a.test\r\n",
            "-",
            400,
            None,
        ),
        ("GET /a HTTP/1.1\r\nHost : a.test\r\n", "-", 400, None),
    ] {
        let mut client = Client::connect(setup.http).await;
        client
            .send(format!("{head}Connection: close\r\n\r\n"))
            .await;
        let text = client.rest().await;
        assert_eq!(text[9..12], status.to_string(), "{head}");
        until("a line", || !written.lines().is_empty()).await;
        let line = written.take();
        assert_eq!(line["method"], method, "{line}");
        assert_eq!(line["status"], status, "{line}");
        assert_eq!(line["client"], "127.0.0.1", "{line}");
        assert_eq!(line.get("path").and_then(Value::as_str), path, "{line}");
    }
    let mut client = Client::connect(setup.http).await;
    let many = "X: y\r\n".repeat(64 << 10);
    client.send(format!("GET /a HTTP/1.1\r\n{many}")).await;
    client.rest().await;
    until("a line", || written.lines().len() == 1).await;
    assert_eq!(written.lines()[0]["status"], 431);
}

/// The HTTP library answers these requests itself, or resets their streams.
#[tokio::test]
async fn l140_requests_that_the_http2_library_refuses_are_logged() {
    let (setup, written) = logging().await;
    let long = "x".repeat(120);
    let large: Vec<(&str, &str)> = (0..600).map(|_| ("x", long.as_str())).collect();
    for (malformed, is_last) in [
        (
            frames::request("GET", "/a", &[("connection", "close")]),
            false,
        ),
        // The names of fields have no capitals: the whole connection ends.
        (frames::request("GET", "/a", &[("Upper", "case")]), true),
        (frames::request("GET", "/a", &large), true),
    ] {
        let mut client = frames::connect(setup.http).await;
        let mut parts = malformed.chunks(16 << 10).peekable();
        let (mut kind, mut flags) = (HEADERS, END_STREAM);
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                flags |= END_HEADERS;
            }
            client.send(frame(kind, flags, 1, part)).await;
            (kind, flags) = (CONTINUATION, 0);
        }
        if !is_last {
            let good = frames::request("GET", "/a", &[]);
            let flags = END_HEADERS | END_STREAM;
            client.send(frame(HEADERS, flags, 3, &good)).await;
            until("a line", || !written.lines().is_empty()).await;
            assert_eq!(written.take()["status"], 200);
        }
        drop(client);
        until("a line", || !written.lines().is_empty()).await;
        let refused = written.take();
        assert_eq!(refused["status"], 400, "{refused}");
        assert_eq!(refused["method"], "-", "{refused}");
        assert_eq!(refused["protocol"], "HTTP/2.0", "{refused}");
        assert_eq!(refused["client"], "127.0.0.1", "{refused}");
    }
}

/// With the status that nginx uses, 499.
#[tokio::test]
async fn l140_clients_that_leave_are_logged() {
    let (setup, written) = logging().await;
    let mut client = Client::connect(setup.http).await;
    client
        .send("GET /hold HTTP/1.1\r\nHost: a.test\r\n\r\n")
        .await;
    until("the request", || setup.web.targets().len() == 1).await;
    drop(client);
    until("a line", || written.lines().len() == 1).await;

    let mut client = frames::connect(setup.http).await;
    let section = frames::request("GET", "/hold", &[]);
    client
        .send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &section))
        .await;
    until("the request", || setup.web.targets().len() == 2).await;
    client.send(frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])).await;
    until("two lines", || written.lines().len() == 2).await;
    for line in written.lines() {
        assert_eq!(line["status"], 499, "{line}");
        assert_eq!(line["target"], "/hold", "{line}");
        assert_eq!(line["ingress"], "default/main", "{line}");
        assert_eq!(line["bytes"], 0, "{line}");
    }
}

#[tokio::test]
async fn l142_plain_http_on_the_port_of_https_is_answered() {
    let (setup, written) = logging().await;
    let mut client = Client::connect(setup.https).await;
    client.send("GET /a HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    let mut text = client.until("\n\r\n").await;
    text += &client.until("HTTPS\n").await;
    assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
    until("a line", || written.lines().len() == 1).await;
    assert_eq!(written.lines()[0]["status"], 400);
    assert_eq!(setup.web.targets(), [""; 0]);
}

/// Behind a trusted proxy, and behind one that sends the PROXY protocol, each client has its own quota, and the
/// log has its address: also for requests that are refused.
#[tokio::test]
async fn l148_limits_and_the_log_follow_the_trusted_proxy() {
    let loopback = vec!["127.0.0.0/8".parse().unwrap()];
    let forwarded = Settings {
        trusted: loopback.clone(),
        ..Settings::default()
    };
    let proxied = Settings {
        proxy_protocol: loopback,
        ..Settings::default()
    };
    let limits = [
        ("nginx.ingress.kubernetes.io/limit-rpm", "1"),
        ("nginx.ingress.kubernetes.io/limit-burst-multiplier", "1"),
    ];
    for (settings, is_header) in [(forwarded, true), (proxied, false)] {
        let (setup, written) = logging_with(settings, &objects(&limits)).await;
        let mut seen = Vec::new();
        for (client, host) in [
            ("192.0.2.1", "a.test"),
            ("192.0.2.1", "a.test"),
            ("192.0.2.1", "a.test"),
            ("192.0.2.2", "a.test"),
            ("192.0.2.3", "other.test"),
        ] {
            let (before, field) = match is_header {
                true => (String::new(), format!("X-Forwarded-For: {client}:4000\r\n")),
                false => (
                    format!("PROXY TCP4 {client} 198.51.100.1 4000 80\r\n"),
                    String::new(),
                ),
            };
            let head = format!("GET /a HTTP/1.1\r\nHost: {host}\r\n{field}");
            let mut connection = Client::connect(setup.http).await;
            connection
                .send(format!("{before}{head}Connection: close\r\n\r\n"))
                .await;
            let status = connection.rest().await[9..12].to_owned();
            until("a line", || !written.lines().is_empty()).await;
            let line = written.take();
            assert_eq!(line["client"], client, "{line}");
            assert_eq!(line["status"].to_string(), status, "{line}");
            seen.push(status);
        }
        // A burst of one beyond the first request, as in nginx.
        assert_eq!(seen, ["200", "200", "503", "200", "404"]);
    }
}
