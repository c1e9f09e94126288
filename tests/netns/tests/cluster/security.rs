//! Promises of SECURITY.md: what must not be reachable is not, and secrets appear in no output.

use std::{
    fs,
    io::{ErrorKind, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use crate::common::{
    BALANCER, CLUSTER_V4, CLUSTER_V6, SHOP, browser::fetch, cluster_without_agents, curl,
    eventually, headgate, names, on, on_node, pods_over_http,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use headgate_apiserver::{ASSETS, ApiServer, TestServer};
use headgate_netns::{Certificate, Cluster, INGRESSES, Netns, PROXY_USER, SERVICE, get, slices};
use k8s_openapi::api::{events::v1::Event, networking::v1::Ingress};
use serde_json::json;

/// A port on the loopback of the node that no other machine may reach.
const PRIVATE: u16 = 9100;

/// Listens on the loopback of a namespace, in both families, and sends `hello` to every client.
fn listen_on_loopback(netns: &Netns, port: u16) {
    for address in ["127.0.0.1", "::1"] {
        let address = on(address.parse::<IpAddr>().unwrap(), port);
        let listener = netns.run(move || TcpListener::bind(address).unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                // The client may have closed the connection.
                let _gone = stream.and_then(|mut stream| stream.write_all(b"hello"));
            }
        });
    }
}

/// Connects to an address.
fn connect(from: &Netns, address: SocketAddr) -> Result<(), ErrorKind> {
    let wait = Duration::from_secs(1);
    let result = from.run(move || TcpStream::connect_timeout(&address, wait));
    result.map(|_| ()).map_err(|error| error.kind())
}

/// Makes a namespace send packets for 127.0.0.1 to a neighbour, as an attacker would.
fn send_loopback_away(netns: &Netns, via: &str) {
    netns
        .batch(&format!(
            "address del 127.0.0.1/8 dev lo\n\
             route add 127.0.0.0/8 via {via}"
        ))
        .unwrap();
    netns
        .sysctl(&[("ipv4/conf/all/route_localnet", "1")])
        .unwrap();
}

/// CVE-2020-8558.
#[test]
fn s90_loopback_of_the_node_is_not_reached_from_outside() {
    let Some(mut cluster) = cluster_without_agents("s90", 1, 2) else {
        return;
    };
    cluster.write("web.yaml", SERVICE).unwrap();
    cluster.write("slices.yaml", &slices(&[(1, 1)])).unwrap();
    let private = on([127, 0, 0, 1], PRIVATE);
    {
        let node = &cluster.nodes[0];
        listen_on_loopback(&node.netns, PRIVATE);
        // As kube-proxy sets it. Without it the kernel drops such packets.
        node.netns
            .sysctl(&[("ipv4/conf/all/route_localnet", "1")])
            .unwrap();
        send_loopback_away(&cluster.client, &node.v4.to_string());
        send_loopback_away(&node.pods[1].netns, "169.254.1.1");
        for attacker in [&cluster.client, &node.pods[1].netns] {
            assert_eq!(connect(attacker, private), Ok(()), "the way is open");
        }
    }
    cluster.start_agent(0).unwrap();
    let node = &cluster.nodes[0];
    for attacker in [&cluster.client, &node.pods[1].netns] {
        for port in [PRIVATE, 30080, 10249] {
            let error = connect(attacker, on([127, 0, 0, 1], port));
            assert_eq!(error, Err(ErrorKind::TimedOut), "{port}");
        }
    }
    let (_, status) = headgate(node, &["status"]);
    assert!(status.contains("spoofed"), "{status}");
    assert!(node.netns.run(move || TcpStream::connect(private).is_ok()));
    // A pod does not reach node ports over its own loopback, although the node does over its.
    let url = "http://127.0.0.1:30080/";
    assert!(curl(&node.netns, &node.cgroup, url).is_ok());
    assert!(curl(&node.pods[0].netns, &node.cgroup, url).is_err());
}

/// A Service that claims these external IPs, and is older than others.
fn thief(external_ips: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\n\
         metadata: {{name: thief, creationTimestamp: '2020-01-01T00:00:00Z'}}\n\
         spec:\n  clusterIP: 10.96.0.66\n  externalIPs: [{external_ips}]\n  \
         ports: [{{name: http, port: 80}}]\n"
    )
}

/// CVE-2020-8554.
#[test]
fn s91_external_ips_cannot_take_addresses_of_other_services() {
    let Some(mut cluster) = cluster_without_agents("s91", 1, 2) else {
        return;
    };
    let node_ip = cluster.nodes[0].v4;
    let free: IpAddr = "203.0.113.66".parse().unwrap();
    let victims = format!("10.96.0.10, 'fd96::10', 203.0.113.10, {node_ip}, 127.0.0.1, {free}");
    cluster.write("web.yaml", SERVICE).unwrap();
    cluster.write("thief.yaml", &thief(&victims)).unwrap();
    let of_thief = slices(&[(1, 2)])
        .replace("name: web-", "name: thief-")
        .replace("service-name: web", "service-name: thief");
    let all = slices(&[(1, 1)]) + &of_thief;
    cluster.write("slices.yaml", &all).unwrap();
    listen_on_loopback(&cluster.nodes[0].netns, 80);
    cluster.start_agent(0).unwrap();
    let (own, stolen) = (names(&["web-1-1"]), names(&["web-1-2"]));
    {
        let pod = &cluster.nodes[0].pods[0].netns;
        for address in [CLUSTER_V4, CLUSTER_V6, BALANCER] {
            assert_eq!(pods_over_http(pod, on(address, 80)), own, "{address}");
        }
        let target = on(node_ip, 80);
        let error = cluster.client.run(move || get(target).unwrap_err().kind());
        assert_eq!(error, ErrorKind::ConnectionRefused, "the node's own port");
        let node = &cluster.nodes[0];
        let hello = curl(&node.netns, &node.cgroup, "http://127.0.0.1/");
        assert!(hello.is_err(), "no answer of a pod: {hello:?}");
        assert_eq!(pods_over_http(&cluster.client, on(free, 80)), stolen);
    }
    let log = cluster.nodes[0].agent.take().unwrap();
    for lost in [
        "10.96.0.10:80 belongs to default/web",
        "[fd96::10]:80 belongs to default/web",
        "203.0.113.10:80 belongs to default/web",
        "192.168.50.1 is an address of this node",
        "127.0.0.1 is not an address of a Service",
    ] {
        assert!(log.log().contains(lost), "{lost} in\n{}", log.log());
    }
    log.terminate().unwrap();
    cluster.start_agent_with(0, &["--no-external-ips"]).unwrap();
    let (_, services) = headgate(&cluster.nodes[0], &["services"]);
    assert!(!services.contains(&free.to_string()), "{services}");
    let pod = &cluster.nodes[0].pods[0].netns;
    assert_eq!(pods_over_http(pod, on(CLUSTER_V4, 80)), own);
}

/// CVE-2021-25737, and the part of CVE-2021-25740 that a service proxy can refuse.
#[test]
fn s92_endpoints_that_only_the_node_can_reach_are_refused() {
    let Some(mut cluster) = cluster_without_agents("s92", 1, 1) else {
        return;
    };
    listen_on_loopback(&cluster.nodes[0].netns, 9376);
    cluster.write("web.yaml", SERVICE).unwrap();
    let to = |v4: &str, v6: &str| {
        slices(&[(1, 1)])
            .replace("10.244.1.2", v4)
            .replace("fd44:1::2", v6)
    };
    let bad = [
        ("127.0.0.1", "::1"),
        ("169.254.169.254", "fe80::1"),
        ("0.0.0.0", "::"),
        ("224.0.0.1", "ff02::1"),
        ("127.0.0.1", "::ffff:127.0.0.1"),
    ];
    cluster
        .write("slices.yaml", &to(bad[0].0, bad[0].1))
        .unwrap();
    cluster.start_agent(0).unwrap();
    let node = &cluster.nodes[0];
    for (v4, v6) in bad {
        cluster.write("slices.yaml", &to(v4, v6)).unwrap();
        let complains = |address: &str| {
            let reason = format!("{address} is not an address");
            let log = node.agent.as_ref().unwrap().log();
            log.lines()
                .any(|line| line.contains("endpoints[0].addresses[0]") && line.contains(&reason))
        };
        eventually("both are refused", || {
            complains(v4) && complains(v6.strip_prefix("::ffff:").unwrap_or(v6))
        });
        let (_, backends) = headgate(node, &["backends"]);
        assert!(!backends.contains(":9376"), "{backends}");
        for address in [IpAddr::from(node.v4), node.v6.into()] {
            let error = connect(&cluster.client, on(address, 30080));
            assert_eq!(error, Err(ErrorKind::ConnectionRefused), "{v4} {v6}");
        }
        assert_eq!(
            curl(&node.netns, &node.cgroup, "http://10.96.0.10/"),
            Err(7)
        );
    }
}

/// Part of every secret of the next test.
const MARK: &str = "hush";
/// `hush-key` in base64, as in the API.
const KEY: &str = "aHVzaC1rZXk=";

/// A Secret, and its values in base64, as in the API.
struct Hush {
    object: serde_json::Value,
    values: Vec<String>,
}

fn hush(name: &str, pairs: &[(&str, &str)]) -> Hush {
    let mut data = serde_json::Map::new();
    let mut values = Vec::new();
    for (key, value) in pairs {
        let encoded = BASE64_STANDARD.encode(value);
        if value.contains(MARK) {
            values.push(encoded.clone());
        }
        data.insert((*key).into(), encoded.into());
    }
    let object = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"name": name}, "data": data,
    });
    Hush { object, values }
}

/// An Ingress for its own host, with annotations.
fn guarded(name: &str, annotations: &[(&str, &str)]) -> serde_json::Value {
    let pairs = annotations
        .iter()
        .map(|(key, value)| (format!("headgate.io/{key}"), json!(value)));
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {
            "name": name,
            "annotations": pairs.collect::<serde_json::Map<_, _>>(),
        },
        "spec": {
            "ingressClassName": "headgate",
            "rules": [{
                "host": format!("{name}.example.com"),
                "http": {"paths": [{
                    "path": "/", "pathType": "Prefix",
                    "backend": {"service": {"name": "web", "port": {"number": 80}}},
                }]},
            }],
        },
    })
}

/// Ingresses with every kind of authentication that uses Secrets, some of them invalid. The servers that
/// they refer to do not answer, which is logged.
fn guards() -> (Vec<Hush>, Vec<serde_json::Value>) {
    const CLOSED: &str = "http://127.0.0.1:9/";
    let client = [
        ("client-id", "shop"),
        ("client-secret", "hush-client-password"),
        ("cookie-key", "hush-cookie-key-of-32-bytes-long"),
    ];
    let secrets = vec![
        hush(
            "users",
            &[("auth", "ada:{SHA}hushhushhushhushhushhushhus=")],
        ),
        hush("torn", &[("auth", "ada:{SHA}hush-that-is-no-hash")]),
        hush("map", &[("ada", "$apr1$hushsalt$hushhushhushhushhushhu")]),
        hush("signers", &[("ada", "hush-shared-with-ada")]),
        hush("keys", &[("ada", "hush-key-of-ada")]),
        hush("jwt", &[("secret", "hush-secret-of-tokens-of-32-bytes")]),
        hush("client", &client),
        hush(
            "short",
            &[
                ("client-id", "a"),
                ("client-secret", "hush-2"),
                ("cookie-key", "hush-3"),
            ],
        ),
        hush(
            "finder",
            &[
                ("bind-dn", "cn=finder"),
                ("bind-password", "hush-of-finder"),
            ],
        ),
        hush("paseto", &[("local", "k4.local.hush-that-is-no-key")]),
    ];
    let with = |kind, secret, more: &[(&'static str, &'static str)]| {
        [&[("auth-type", kind), ("auth-secret", secret)], more].concat()
    };
    let server = [("auth-server", CLOSED)];
    let issuer = [("auth-issuer", "https://127.0.0.1:9")];
    let directory = [
        ("auth-server", "ldap://127.0.0.1:9"),
        ("auth-ldap-base", "dc=example"),
        ("auth-ldap-filter", "(uid={user})"),
    ];
    let ingresses = [
        ("basic", with("basic", "users", &[])),
        ("torn", with("basic", "torn", &[])),
        (
            "map",
            with("basic", "map", &[("auth-secret-type", "auth-map")]),
        ),
        ("hmac", with("hmac", "signers", &[])),
        (
            "key",
            with("api-key", "keys", &[("auth-key-header", "X-API-Key")]),
        ),
        ("jwt", with("jwt", "jwt", &[])),
        ("introspection", with("introspection", "client", &server)),
        ("ldap", with("ldap", "finder", &directory)),
        ("paseto", with("paseto", "paseto", &[])),
        ("oidc", with("oidc", "client", &issuer)),
        ("short", with("oidc", "short", &issuer)),
    ];
    let ingresses = ingresses.map(|(name, annotations)| guarded(name, &annotations));
    (secrets, ingresses.into())
}

fn api(cluster: &Cluster) -> &ApiServer {
    match &cluster.api {
        Some(TestServer::StandIn(server)) => server,
        _ => unreachable!("the stand-in runs unless the real one is named"),
    }
}

/// A cluster that logs at the level `debug`, with a stand-in API that requires a secret token.
fn debug_cluster(certificate: &Certificate, token: &str) -> Option<Cluster> {
    let mut cluster = cluster_without_agents("s93", 1, 1)?;
    cluster.serve_api().unwrap();
    api(&cluster).set_token(Some(token.into()));
    let kubeconfig = api(&cluster).kubeconfig();
    assert!(kubeconfig.contains(token));
    fs::write(cluster.kubeconfig(), kubeconfig).unwrap();
    let tls = certificate.secret("shop-tls");
    for text in [SERVICE, &slices(&[(1, 1)]), INGRESSES, &tls] {
        api(&cluster).apply_yaml(text).unwrap();
    }
    cluster.log = Some("debug");
    Some(cluster)
}

/// Sends requests to every host, with secrets of the client.
fn send_secrets(cluster: &Cluster, secrets: &[&str]) {
    let [password, key, bearer] = secrets else {
        unreachable!("three kinds")
    };
    let node = &cluster.nodes[0];
    let (_, ingresses) = guards();
    for ingress in ingresses {
        let host = ingress["spec"]["rules"][0]["host"].as_str().unwrap();
        let (scheme, port) = match host.starts_with("oidc") {
            true => ("https", 443),
            false => ("http", 80),
        };
        let resolve = format!("{host}:{port}:{}", node.v4);
        let url = format!("{scheme}://{host}/");
        let key = format!("X-API-Key: {key}");
        let bearer = format!("Authorization: Bearer {bearer}");
        let cookie = format!("Cookie: __Host-headgate={password}");
        let user = format!("ada:{password}");
        for more in [
            ["--user", &user],
            ["--header", &key],
            ["--header", &bearer],
            ["--header", &cookie],
        ] {
            let words = [
                "--insecure",
                "--resolve",
                &resolve,
                "--output",
                "/dev/null",
                &url,
            ];
            let words = [&words[..], &more].concat();
            assert!(fetch(node, &words).status.success(), "{host} answers");
        }
    }
}

/// Creates a Secret with an invalid key, and an Ingress that refers to it. Responses of the API that cannot
/// be parsed contain this key, too.
fn apply_broken_certificate(cluster: &Cluster, certificate: &Certificate) {
    let broken = certificate
        .secret("broken-tls")
        .replace("tls.key: ", &format!("tls.key: {KEY}\n  x: "));
    api(cluster).apply_yaml(&broken).unwrap();
    let mut ingress = guarded("broken", &[]);
    ingress["spec"]["tls"] = json!([{"hosts": ["broken.example.com"], "secretName": "broken-tls"}]);
    api(cluster).apply_value(ingress).unwrap();
}

/// Waits until Events name what is wrong; returns all Events as text.
fn events(cluster: &Cluster) -> String {
    let events = || {
        let events: Vec<Event> = api(cluster).list();
        serde_json::to_string(&events).unwrap()
    };
    eventually("Events name what is wrong", || {
        let names = ["paseto", "short", "torn", "broken-tls"];
        names.iter().all(|name| events().contains(name))
    });
    events()
}

/// Everything that agent and proxy show, by place: Events, status, HTTP endpoints, commands.
fn outputs(cluster: &Cluster) -> Vec<(String, String)> {
    let node = &cluster.nodes[0];
    let mut outputs = vec![("Events".to_owned(), events(cluster))];
    let ingresses: Vec<Ingress> = api(cluster).list();
    outputs.extend(ingresses.into_iter().map(|ingress| {
        let text = serde_json::to_string(&ingress.status).unwrap();
        ("status".into(), text)
    }));
    for target in [
        "127.0.0.1:10249/metrics",
        "127.0.0.1:10245/metrics",
        "127.0.0.1:10245/table",
        "127.0.0.1:10245/explain?url=http://basic.example.com/",
        "127.0.0.1:10254/api/sample",
        "127.0.0.1:10255/api/sample",
        "127.0.0.1:10255/api/table",
        "127.0.0.1:10256/healthz",
        "127.0.0.1:10246/readyz",
    ] {
        let output = fetch(node, &["--include", &format!("http://{target}")]);
        outputs.push((target.into(), String::from_utf8(output.stdout).unwrap()));
    }
    for command in ["status", "services", "routes", "certificates"] {
        outputs.push((command.into(), on_node(node, &[command]).unwrap()));
    }
    for host in ["basic", "key", "oidc", "hmac"] {
        let url = format!("http://{host}.example.com/");
        let output = on_node(node, &["explain", "request", &url, "-o", "json"]).unwrap();
        outputs.push((format!("explain {url}"), output));
    }
    outputs
}

/// The logs of agent and proxy, with their complaints about a response of the API that cannot be parsed.
fn logs(cluster: &Cluster) -> [(String, String); 2] {
    let node = &cluster.nodes[0];
    let agent = || node.agent.as_ref().unwrap().log();
    let proxy = || node.proxy.as_ref().unwrap().log();
    assert!(!proxy().contains("disconnected"));
    api(cluster).garble(true);
    api(cluster).drop_watches();
    eventually("the proxy logs that the watch failed", || {
        proxy().contains("disconnected")
    });
    let logs = [("agent".into(), agent()), ("proxy".into(), proxy())];
    for (_, log) in &logs {
        assert!(log.contains("DEBUG"), "the level is debug");
    }
    logs
}

/// Every text that may appear nowhere: values of Secrets, lines of the key, and the client's password.
fn forbidden(secrets: &[Hush], certificate: &Certificate, password: &str) -> Vec<String> {
    let values = secrets.iter().flat_map(|secret| secret.values.clone());
    let mut forbidden: Vec<String> = values.collect();
    let lines = certificate.key.lines().filter(|line| line.len() > 60);
    let before = forbidden.len();
    forbidden.extend(lines.map(String::from));
    assert!(forbidden.len() > before, "the key has long lines");
    forbidden.push(BASE64_STANDARD.encode(format!("ada:{password}")));
    forbidden.extend([MARK.into(), KEY.into()]);
    forbidden
}

#[test]
fn s93_secrets_appear_in_no_output() {
    const NAME: &str = "s93_secrets_appear_in_no_output";
    if std::env::var_os(ASSETS).is_some() {
        println!("SKIPPED: {NAME}: the stand-in accepts objects that the real API refuses");
        return;
    }
    let token = format!("{MARK}-token-of-the-api");
    let certificate = Certificate::new(&[SHOP]).unwrap();
    let Some(mut cluster) = debug_cluster(&certificate, &token) else {
        return;
    };
    let (secrets, ingresses) = guards();
    let objects = secrets.iter().map(|secret| &secret.object);
    for object in objects.chain(&ingresses) {
        api(&cluster).apply_value(object.clone()).unwrap();
    }
    apply_broken_certificate(&cluster, &certificate);

    let page = ["--page-bind-address", "127.0.0.1:10254"];
    let options = [&["--proxy-user", PROXY_USER], &page[..]].concat();
    cluster.start_agent_with(0, &options).unwrap();
    let mut options = vec!["--page-bind-address", "127.0.0.1:10255"];
    options.extend(["--auth-local-networks", "127.0.0.0/8"]);
    cluster.start_proxy(0, &options).unwrap();
    let password = "hush-password-of-ada";
    send_secrets(
        &cluster,
        &[password, "hush-key-of-a-client", "hush.bearer.token"],
    );

    let mut outputs = outputs(&cluster);
    outputs.extend(logs(&cluster));
    let forbidden = forbidden(&secrets, &certificate, password);
    for (place, text) in &outputs {
        assert!(!text.is_empty(), "{place} is empty");
        for secret in &forbidden {
            let line = text.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "{place} contains {secret}: {line:?}");
        }
    }
}
