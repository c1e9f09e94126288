//! Ingress on a real cluster: the unprivileged proxy of a node, to which its agent steers connections,
//! and curl as the client outside.

use std::{
    collections::BTreeSet,
    net::TcpListener,
    sync::{Arc, Mutex},
};

use crate::common::{API, SHOP, eventually, finish, ingress_cluster, requests};
use axum::{Router, body::Bytes, routing::post};
use headgate_netns::{Certificate, Cluster, INGRESSES, Node, PROXY_USER, slices};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use serde_json::Value;
use tokio::runtime::Runtime;

/// Status, headers and body.
#[derive(Debug)]
struct Response {
    status: u16,
    head: String,
    body: String,
}

impl Response {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn pod(&self) -> String {
        self.json()["pod"].as_str().unwrap().into()
    }

    fn header(&self, name: &str) -> Option<String> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let found = lines.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim().into())
    }
}

/// Runs curl outside of the cluster; the example's hosts resolve to the node, with `--ipv6` to its IPv6
/// address.
fn curl(cluster: &Cluster, words: &[&str]) -> Response {
    let node = &cluster.nodes[0];
    let v6 = words.contains(&"--ipv6");
    let address = if v6 {
        format!("[{}]", node.v6)
    } else {
        node.v4.to_string()
    };
    let mut command = cluster.client.command("curl", None);
    command.args([
        "--silent",
        "--show-error",
        "--include",
        "--noproxy",
        "*",
        "--max-time",
        "10",
    ]);
    for host in [SHOP, API, "other.example.com"] {
        for port in [80, 443] {
            command.args(["--resolve", &format!("{host}:{port}:{address}")]);
        }
    }
    let output = command.args(words).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "curl {words:?}: {complaint}");
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Response {
        status,
        head: head.into(),
        body: body.into(),
    }
}

#[test]
fn l01_l10_hosts_paths_and_tls_from_outside() {
    let Some((cluster, authority)) = ingress_cluster("inghost", &[]) else {
        return;
    };
    let trust = ["--cacert", authority.to_str().unwrap()];
    let https = format!("https://{SHOP}/cart?id=7");
    for version in ["--http1.1", "--http2"] {
        for family in ["--ipv4", "--ipv6"] {
            let words = [&trust[..], &[version, family, &https]].concat();
            let answer = curl(&cluster, &words);
            assert_eq!(answer.status, 200, "{answer:?}");
            let json = answer.json();
            assert_eq!(json["target"], "/cart?id=7");
            assert_eq!(json["headers"]["host"], SHOP);
            assert_eq!(json["headers"]["x-forwarded-proto"], "https");
            let client = match family {
                "--ipv4" => "192.168.50.100",
                _ => "fd50::100",
            };
            assert_eq!(
                json["headers"]["x-forwarded-for"], client,
                "the client's address"
            );
            let hsts = answer.header("strict-transport-security");
            assert!(hsts.unwrap().starts_with("max-age=31536000"));
        }
    }
    let plain = curl(&cluster, &[&format!("http://{SHOP}/cart?id=7")]);
    assert_eq!((plain.status, plain.header("location")), (308, Some(https)));

    let answer = curl(&cluster, &[&format!("http://{API}/v1/users/1?x=y")]);
    assert_eq!(answer.json()["target"], "/users/1?x=y");
    for (url, status) in [
        (format!("http://{API}/v2"), 404),
        ("http://other.example.com/".into(), 404),
    ] {
        assert_eq!(curl(&cluster, &[&url]).status, status, "{url}");
    }
    let pods: BTreeSet<String> = (0..4)
        .map(|_| curl(&cluster, &[&format!("http://{API}/v1/")]).pod())
        .collect();
    assert_eq!(pods.len(), 2, "every endpoint gets a share");
    // For a name without a certificate the proxy presents its self-signed one.
    let other = curl(&cluster, &["--insecure", "https://other.example.com/"]);
    assert_eq!(other.status, 404);
}

#[test]
fn l36_a_cookie_keeps_a_client_at_its_pod() {
    let Some((cluster, _)) = ingress_cluster("ingcook", &[]) else {
        return;
    };
    let url = format!("http://{API}/v1/");
    let first = curl(&cluster, &[&url]);
    let cookie = first.header("set-cookie").unwrap();
    let (cookie, attributes) = cookie.split_once(';').unwrap();
    assert_eq!(attributes, " Path=/v1; HttpOnly");
    for _ in 0..6 {
        let again = curl(&cluster, &["--cookie", cookie, &url]);
        assert_eq!(again.pod(), first.pod());
        assert_eq!(again.header("set-cookie"), None);
    }
    // The pod leaves: the client moves to the next one, and stays there.
    let rest = if first.pod() == "web-1-1" {
        (1, 2)
    } else {
        (1, 1)
    };
    cluster.write("slices.yaml", &slices(&[rest])).unwrap();
    eventually("the other pod", || {
        curl(&cluster, &["--cookie", cookie, &url]).pod() != first.pod()
    });
    assert!(
        curl(&cluster, &["--cookie", cookie, &url])
            .header("set-cookie")
            .is_some()
    );
}

#[test]
fn l08_without_endpoints_the_answer_is_503_until_there_are_some() {
    let Some((cluster, _)) = ingress_cluster("ingnone", &[]) else {
        return;
    };
    let url = format!("http://{API}/v1/");
    let status = || curl(&cluster, &[&url]).status;
    assert_eq!(status(), 200);
    cluster.write("slices.yaml", &slices(&[])).unwrap();
    eventually("503", || status() == 503);
    cluster.write("slices.yaml", &slices(&[(1, 1)])).unwrap();
    eventually("200", || status() == 200);
    cluster.write("ingress.yaml", "").unwrap();
    eventually("404", || status() == 404);
}

/// Names of the spans that a collector received, with the node that sent them.
type Spans = Arc<Mutex<BTreeSet<(String, String)>>>;

/// A collector (OTLP over HTTP) on the loopback of a node.
fn collector(node: &Node, spans: &Spans) -> Runtime {
    let listen = || TcpListener::bind("127.0.0.1:4318").unwrap();
    let listener = node.netns.run(listen);
    listener.set_nonblocking(true).unwrap();
    let spans = spans.clone();
    let take = move |body: Bytes| async move {
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        for of_resource in request.resource_spans {
            let node = format!("{:?}", of_resource.resource.unwrap().attributes);
            let of_scopes = of_resource.scope_spans.into_iter();
            let of_scopes = of_scopes.flat_map(|scope| scope.spans);
            let names = of_scopes.map(|span| (span.name, node.clone()));
            spans.lock().unwrap().extend(names);
        }
    };
    let runtime = Runtime::new().unwrap();
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let app = Router::new().route("/v1/traces", post(take));
        axum::serve(listener, app).await
    });
    runtime
}

#[test]
fn l93_spans_reach_the_collector_at_the_latest_when_the_proxy_ends() {
    let options = ["--otlp-endpoint", "http://127.0.0.1:4318"];
    let Some((mut cluster, _)) = ingress_cluster("ingtrace", &options) else {
        return;
    };
    let spans = Spans::default();
    let _collector = collector(&cluster.nodes[0], &spans);
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let header = format!("traceparent: {parent}");
    let answer = curl(
        &cluster,
        &["--header", &header, &format!("http://{API}/v1/")],
    );
    let sent = answer.json()["headers"]["traceparent"].clone();
    let sent = sent.as_str().unwrap();
    assert!(sent.starts_with(&parent[..36]) && sent != parent, "{sent}");
    let metrics = || {
        let mut command = cluster.nodes[0].netns.command("curl", None);
        command.args(["--silent", "http://127.0.0.1:10245/metrics"]);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    eventually("the spans are sent", || {
        metrics().contains("headgate_proxy_spans_total{result=\"exported\"} 2\n")
    });
    spans.lock().unwrap().clear();
    curl(&cluster, &[&format!("http://{API}/nowhere")]);
    let proxy = cluster.nodes[0].proxy.take().unwrap();
    proxy.terminate().unwrap();
    let spans = spans.lock().unwrap();
    let (name, node) = spans.first().unwrap();
    assert_eq!((spans.len(), name.as_str()), (1, "GET"));
    let name = &cluster.nodes[0].name;
    assert!(
        node.contains("k8s.node.name") && node.contains(name),
        "{node}"
    );
}

#[test]
fn l57_no_request_is_lost_while_everything_changes() {
    let Some((mut cluster, _)) = ingress_cluster("ingload", &["--access-log", "off"]) else {
        return;
    };
    let load = requests(&cluster);
    for round in 0..5 {
        // Another route, certificate and endpoint.
        let more = INGRESSES.replace(SHOP, &format!("shop{round}.example.com"));
        cluster.write("ingress.yaml", &more).unwrap();
        let secret = Certificate::new(&[SHOP]).unwrap().secret("shop-tls");
        cluster.write("secret.yaml", &secret).unwrap();
        cluster
            .write("slices.yaml", &slices(&[(1, 1 + round % 2)]))
            .unwrap();
        let url = format!("http://shop{round}.example.com/");
        let host = format!("shop{round}.example.com:80:{}", cluster.nodes[0].v4);
        eventually("the new route", || {
            curl(&cluster, &["--resolve", &host, &url]).status == 308
        });
    }
    // Another proxy takes over while the old one finishes its requests.
    let before = cluster.start_proxy(0, &["--access-log", "off"]).unwrap();
    before.unwrap().terminate().unwrap();
    cluster.nodes[0].agent.take().unwrap().kill().unwrap();
    cluster
        .start_agent_with(0, &["--proxy-user", PROXY_USER])
        .unwrap();
    finish(load);
}
