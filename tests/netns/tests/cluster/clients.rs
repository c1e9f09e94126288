//! Common clients (curl, openssl, h2load, gRPC, WebSocket), from outside through the proxy of a node to
//! pods that also serve other protocols than plain HTTP.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Output, Stdio},
};

use crate::common::{cluster_without_agents, eventually};
use futures::{SinkExt, StreamExt};
use headgate_netns::{
    Certificate, Cluster, INGRESSES, PROXY_USER, Process, SERVICE, binary, slices,
};
use tokio_tungstenite::{client_async, tungstenite::Message};
use tonic::{
    Code, Request,
    transport::{Channel, ClientTlsConfig, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

const SHOP: &str = "shop.example.com";
const API: &str = "api.example.com";
const MORE: &str = "more.example.com";
/// Port on which pods serve other protocols than `headgate-echo`.
const PORT: u16 = 9400;

/// A cluster of one node with two pods. Its proxy serves the example, and another host over TLS for the
/// Service `more` with these annotations. Returns the certificates of the example and of that host.
fn cluster(
    name: &str,
    annotations: &str,
    options: &[&str],
) -> Option<(Cluster, Certificate, Certificate)> {
    let mut cluster = cluster_without_agents(name, 1, 2)?;
    let (shop, more) = (
        Certificate::new(&[SHOP]).unwrap(),
        Certificate::new(&[MORE]).unwrap(),
    );
    for (file, text) in [
        ("web.yaml", SERVICE),
        ("slices.yaml", &slices(&[(1, 1), (1, 2)])),
        ("ingress.yaml", INGRESSES),
        ("shop-tls.yaml", &shop.secret("shop-tls")),
        ("more-tls.yaml", &more.secret("more-tls")),
        ("more.yaml", &service()),
        ("more-slices.yaml", &more_slices(&[1])),
        ("more-ingress.yaml", &ingress(annotations)),
    ] {
        cluster.write(file, text).unwrap();
    }
    fs::write(trust(&cluster, "shop"), &shop.authority).unwrap();
    fs::write(trust(&cluster, "more"), &more.authority).unwrap();
    cluster
        .start_agent_with(0, &["--proxy-user", PROXY_USER])
        .unwrap();
    cluster.start_proxy(0, options).unwrap();
    Some((cluster, shop, more))
}

/// The path of the certificate file of an authority.
fn trust(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.manifests().with_file_name(format!("{name}.pem"))
}

fn service() -> String {
    format!(
        "apiVersion: v1\n\
         kind: Service\n\
         metadata: {{name: more}}\n\
         spec:\n  clusterIP: 10.96.0.99\n  ports:\n  - {{port: 80, targetPort: {PORT}}}\n"
    )
}

/// The EndpointSlice of `more` for pods of the node, by number.
fn more_slices(pods: &[u8]) -> String {
    let pods = pods.iter().map(|pod| {
        let host = pod + 1;
        format!("- {{addresses: [10.244.1.{host}], nodeName: n1, conditions: {{ready: true}}}}\n")
    });
    format!(
        "apiVersion: discovery.k8s.io/v1\n\
         kind: EndpointSlice\n\
         metadata:\n  name: more\n  labels: {{kubernetes.io/service-name: more}}\n\
         addressType: IPv4\n\
         ports:\n- {{port: {PORT}}}\n\
         endpoints:\n{}",
        pods.collect::<String>()
    )
}

fn ingress(annotations: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\n\
         kind: Ingress\n\
         metadata:\n  name: more\n  annotations: {{{annotations}}}\n\
         spec:\n  ingressClassName: headgate\n  \
         tls: [{{hosts: [{MORE}], secretName: more-tls}}]\n  \
         rules:\n  - host: {MORE}\n    http:\n      paths:\n      \
         - path: /\n        pathType: Prefix\n        \
         backend: {{service: {{name: more, port: {{number: 80}}}}}}\n"
    )
}

/// Starts a server for another protocol in a pod.
fn serve(cluster: &Cluster, pod: usize, words: &[&str]) -> Process {
    let node = &cluster.nodes[0];
    let program = binary("headgate-serve").unwrap();
    let mut command = node.pods[pod].netns.command(program, Some(&node.cgroup));
    command.args(["--port", &PORT.to_string()]).args(words);
    Process::start(command, "ready").unwrap()
}

/// The external address of the node.
fn node(cluster: &Cluster, port: u16) -> SocketAddr {
    (cluster.nodes[0].v4, port).into()
}

/// Runs a program outside of the cluster.
fn run(cluster: &Cluster, program: &str, words: &[&str], input: &str) -> Output {
    let mut command = cluster.client.command(program, None);
    command.args(words);
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The process may have ended already.
    drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
    child.wait_with_output().unwrap()
}

fn text(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout);
    format!("{out}{}", String::from_utf8_lossy(&output.stderr))
}

/// Sends a GET for a host to the node with curl; returns status and body.
fn curl(cluster: &Cluster, host: &str, scheme: &str, more: &[&str]) -> (String, String) {
    let node = cluster.nodes[0].v4;
    let (http, https) = (format!("{host}:80:{node}"), format!("{host}:443:{node}"));
    let url = format!("{scheme}://{host}/");
    let words = [
        "-sS",
        "--noproxy",
        "*",
        "--max-time",
        "10",
        "-w",
        "\n%{http_code}",
    ];
    let words = [
        &words[..],
        &["--resolve", &http, "--resolve", &https],
        more,
        &[&url],
    ]
    .concat();
    let output = run(cluster, "curl", &words, "");
    let text = text(&output);
    let (body, status) = text.rsplit_once('\n').unwrap_or(("", &text));
    (status.into(), body.into())
}

#[test]
fn l24_many_concurrent_streams_all_succeed() {
    let Some((cluster, ..)) = cluster("clih2", "", &["--access-log", "off"]) else {
        return;
    };
    let node = cluster.nodes[0].v4;
    for (scheme, host, path, port) in [("https", SHOP, "/", 443), ("http", API, "/v1/", 80)] {
        let url = format!("{scheme}://{host}{path}");
        let to = format!("--connect-to={node}:{port}");
        let words = ["-n", "4000", "-c", "20", "-m", "100", &to, &url];
        let text = text(&run(&cluster, "h2load", &words, ""));
        let all = "4000 total, 4000 started, 4000 done, 4000 succeeded, 0 failed, 0 errored";
        assert!(text.contains(all), "{text}");
        assert!(text.contains("4000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{text}");
    }
}

#[test]
fn l25_openssl_gets_what_it_asks_for() {
    let Some((cluster, ..)) = cluster("clissl", "", &[]) else {
        return;
    };
    let at = node(&cluster, 443).to_string();
    let client = |host: &str, authority: &str, more: &[&str]| {
        let trust = trust(&cluster, authority);
        let words = ["s_client", "-connect", &at, "-servername", host, "-CAfile"];
        let rest = [
            trust.to_str().unwrap(),
            "-verify_return_error",
            "-verify_hostname",
            host,
        ];
        let words = [&words[..], &rest, more].concat();
        // The session tickets arrive before the answer.
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let input = if more.contains(&"-ign_eof") {
            &*request
        } else {
            ""
        };
        text(&run(&cluster, "openssl", &words, input))
    };
    for (host, authority) in [(SHOP, "shop"), (MORE, "more")] {
        let text = client(host, authority, &["-alpn", "h2,http/1.1"]);
        assert!(text.contains("Verification: OK"), "{text}");
        assert!(text.contains("ALPN protocol: h2"), "{text}");
    }
    let wrong = client(SHOP, "more", &[]);
    assert!(!wrong.contains("Verification: OK"), "SNI chooses: {wrong}");
    let old = client(SHOP, "shop", &["-alpn", "http/1.1"]);
    assert!(old.contains("ALPN protocol: http/1.1"), "{old}");

    for (option, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let session = trust(&cluster, option);
        let session = session.to_str().unwrap();
        let first = client(SHOP, "shop", &[option, "-ign_eof", "-sess_out", session]);
        assert!(first.contains(&format!("New, {version}")), "{first}");
        assert!(first.contains("HTTP/1.1 200 OK"), "{first}");
        let again = client(SHOP, "shop", &[option, "-ign_eof", "-sess_in", session]);
        assert!(again.contains(&format!("Reused, {version}")), "{again}");
        assert!(again.contains("HTTP/1.1 200 OK"), "{again}");
    }
    for option in ["-tls1", "-tls1_1"] {
        let text = client(SHOP, "shop", &[option, "-cipher", "ALL:@SECLEVEL=0"]);
        assert!(text.contains("Cipher is (NONE)"), "{text}");
        assert!(text.contains(" alert "), "{text}");
    }
}

/// Runs a client in the namespace outside of the cluster.
fn outside<T: Send + 'static>(
    cluster: &Cluster,
    client: impl Future<Output = T> + Send + 'static,
) -> T {
    cluster.client.run(move || {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        runtime.block_on(client)
    })
}

async fn channel(at: SocketAddr, authority: String) -> Channel {
    let trust = tonic::transport::Certificate::from_pem(authority);
    let tls = ClientTlsConfig::new()
        .ca_certificate(trust)
        .domain_name(MORE);
    let endpoint = Endpoint::from_shared(format!("https://{at}")).unwrap();
    let endpoint = endpoint.origin(format!("https://{MORE}").parse().unwrap());
    endpoint.tls_config(tls).unwrap().connect().await.unwrap()
}

#[test]
fn l26_grpc_has_streams_and_status_codes() {
    let note = "nginx.ingress.kubernetes.io/backend-protocol: GRPC";
    let Some((cluster, _, more)) = cluster("cligrpc", note, &[]) else {
        return;
    };
    let pod = serve(&cluster, 0, &["grpc"]);
    let at = node(&cluster, 443);
    let ask = |service: &str| {
        Request::new(HealthCheckRequest {
            service: service.into(),
        })
    };
    let authority = more.authority.clone();
    let statuses = outside(&cluster, async move {
        let mut client = HealthClient::new(channel(at, authority).await);
        let whole = client.check(ask("")).await.unwrap().into_inner();
        assert_eq!(whole.status(), ServingStatus::Serving);
        let missing = client.check(ask("missing")).await.unwrap_err();
        assert_eq!(missing.code(), Code::NotFound, "{missing:?}");
        let mut watch = client.watch(ask("toggle")).await.unwrap().into_inner();
        let mut statuses = Vec::new();
        while statuses.len() < 6 {
            let status = watch.message().await.unwrap().unwrap().status();
            // Other calls on the same connection are answered meanwhile.
            client.check(ask("")).await.unwrap();
            statuses.push(status);
        }
        statuses
    });
    assert!(
        statuses.windows(2).all(|two| two[0] != two[1]),
        "{statuses:?}"
    );
    // Without a pod the answer is a gRPC status, not an HTTP error.
    drop(pod);
    let authority = more.authority.clone();
    let gone = outside(&cluster, async move {
        let mut client = HealthClient::new(channel(at, authority).await);
        client.check(ask("")).await.unwrap_err()
    });
    assert_eq!(gone.code(), Code::Unavailable, "{gone:?}");
}

#[test]
fn l27_a_websocket_outlives_fifty_changes() {
    let plain = "nginx.ingress.kubernetes.io/ssl-redirect: 'false'";
    let Some((cluster, ..)) = cluster("cliws", plain, &[]) else {
        return;
    };
    let _pods = [0, 1].map(|pod| serve(&cluster, pod, &["websocket"]));
    let at = node(&cluster, 80);
    let (sender, mut texts) = tokio::sync::mpsc::channel::<String>(1);
    let (echoes, received) = std::sync::mpsc::channel();
    let client = cluster.client.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(at).await.unwrap();
            let url = format!("ws://{MORE}/");
            let (mut socket, _) = client_async(url, stream).await.unwrap();
            while let Some(text) = texts.recv().await {
                socket.send(Message::text(text)).await.unwrap();
                let echo = socket.next().await.unwrap().unwrap();
                echoes.send(echo.into_text().unwrap().to_string()).unwrap();
            }
            socket.close(None).await.unwrap();
        });
    });
    let echo = |text: String| {
        sender.blocking_send(text.clone()).unwrap();
        assert_eq!(received.recv().unwrap(), text);
    };
    echo("begin".into());
    for round in 0..50 {
        // Its endpoint leaves and returns, and its route changes.
        let pods: &[u8] = [&[2][..], &[1, 2], &[1]][round % 3];
        cluster
            .write("more-slices.yaml", &more_slices(pods))
            .unwrap();
        let note = format!("{plain}, headgate.io/response-headers: 'X-Round: {round}'");
        cluster.write("more-ingress.yaml", &ingress(&note)).unwrap();
        let expected = format!("x-round: {round}\r\n");
        eventually("the new route", || {
            curl(&cluster, MORE, "http", &["--include"])
                .1
                .contains(&expected)
        });
        echo(format!("round {round}"));
    }
    drop(sender);
    client.join().unwrap();
}

#[test]
fn l28_passthrough_shows_the_certificate_of_the_pod() {
    let note = "nginx.ingress.kubernetes.io/ssl-passthrough: 'true'";
    let Some((cluster, ..)) = cluster("clipass", note, &[]) else {
        return;
    };
    let own = Certificate::new(&[MORE]).unwrap();
    let files = ["own", "chain", "key"].map(|name| trust(&cluster, name));
    for (file, text) in files.iter().zip([&own.authority, &own.chain, &own.key]) {
        fs::write(file, text).unwrap();
    }
    let [authority, chain, key] = files.each_ref().map(|file| file.to_str().unwrap());
    let _pod = serve(&cluster, 0, &["tls", "--chain", chain, "--key", key]);
    let answer = curl(&cluster, MORE, "https", &["--cacert", authority]);
    assert_eq!(answer, ("200".into(), "over TLS of the pod".into()));
    let proxys = trust(&cluster, "more");
    let (status, _) = curl(
        &cluster,
        MORE,
        "https",
        &["--cacert", proxys.to_str().unwrap()],
    );
    assert_ne!(
        status, "200",
        "the proxy has another certificate for the name"
    );
    // The proxy still terminates TLS for other names.
    let shop = trust(&cluster, "shop");
    let (status, _) = curl(
        &cluster,
        SHOP,
        "https",
        &["--cacert", shop.to_str().unwrap()],
    );
    assert_eq!(status, "200");
}

/// Sends bytes to the proxy; returns everything that it sends until it closes the connection.
fn bytes(cluster: &Cluster, port: u16, bytes: String) -> String {
    let at = node(cluster, port);
    cluster.client.run(move || {
        let mut stream = TcpStream::connect(at).unwrap();
        stream.write_all(bytes.as_bytes()).unwrap();
        let mut answer = String::new();
        // A refused connection may end with a reset.
        drop(stream.read_to_string(&mut answer));
        answer
    })
}

#[test]
fn l29_proxy_protocol_in_and_out() {
    let note = "headgate.io/proxy-protocol: 'true', \
        nginx.ingress.kubernetes.io/ssl-redirect: 'false'";
    let options = ["--proxy-protocol-from", "192.168.50.100/32"];
    let Some((cluster, ..)) = cluster("cliprox", note, &options) else {
        return;
    };
    let _pod = serve(&cluster, 0, &["proxy"]);
    // A load balancer that sends a request of its own.
    let trusted = trust(&cluster, "shop");
    let words = ["--haproxy-protocol", "--cacert", trusted.to_str().unwrap()];
    let (status, body) = curl(&cluster, SHOP, "https", &words);
    assert_eq!(status, "200");
    assert!(
        body.contains(r#""x-forwarded-for":"192.168.50.100""#),
        "{body}"
    );
    // A load balancer that forwards the connection of a client.
    let header = "PROXY TCP4 203.0.113.7 192.168.50.1 4000 80\r\n";
    let get = |host: &str, path: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
    };
    let inside = bytes(&cluster, 80, format!("{header}{}", get(API, "/v1/")));
    assert!(
        inside.contains(r#""x-forwarded-for":"203.0.113.7""#),
        "{inside}"
    );
    let out = bytes(&cluster, 80, format!("{header}{}", get(MORE, "/")));
    assert!(out.ends_with("\r\n\r\n203.0.113.7"), "{out}");
    // Without the header the connection of a load balancer is closed.
    assert_eq!(bytes(&cluster, 80, get(API, "/v1/")), "");
}
