//! TCP and UDP listeners of Gateways, with real sockets.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    net::{SocketAddr, TcpStream},
};

use headgate_netns::{Answer, Cluster, Netns, SERVICE, get, get_on, slices, udp_connected};

use crate::common::{cluster_without_agents, eventually, json, on, on_node};

const VIP: [u8; 4] = [192, 0, 2, 9];
/// Enough that a share is hardly ever 5 % off by chance: that is five standard deviations.
const REQUESTS: usize = 2000;

/// A Gateway without a Service of its own: the address is in its status.
const GATEWAY: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: headgate}
spec: {controllerName: headgate.io/gateway}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: lines}
spec:
  gatewayClassName: headgate
  listeners:
  - {name: stream, port: 9000, protocol: TCP}
  - {name: dgram, port: 9000, protocol: UDP}
status: {addresses: [{type: IPAddress, value: 192.0.2.9}]}
";

/// A TCPRoute and a UDPRoute to `web`, `canary` and a Service that does not exist, by these weights.
fn routes([web, canary, missing]: [u32; 3]) -> String {
    let route = |kind: &str, port: u16| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: lines}}\nspec:\n  \
             parentRefs: [{{name: lines}}]\n  rules:\n  - backendRefs:\n    \
             - {{name: web, port: {port}, weight: {web}}}\n    \
             - {{name: canary, port: {port}, weight: {canary}}}\n    \
             - {{name: missing, port: {port}, weight: {missing}}}\n"
        )
    };
    route("TCPRoute", 80) + &route("UDPRoute", 7)
}

/// A cluster where `web` is pod 1 of the first node and `canary` pod 1 of the second.
fn lines(name: &str, weights: [u32; 3]) -> Option<Cluster> {
    let mut cluster = cluster_without_agents(name, 2, 1)?;
    let canary = |text: &str| text.replace("web", "canary");
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: canary}\nspec:\n  clusterIP: None\n  \
                   ports: [{name: http, port: 80}, {name: echo, port: 7, protocol: UDP}]\n";
    for (file, text) in [
        ("web.yaml", SERVICE.to_owned()),
        ("web-slices.yaml", slices(&[(1, 1)])),
        ("canary.yaml", service.to_owned()),
        ("canary-slices.yaml", canary(&slices(&[(2, 1)]))),
        ("gateway.yaml", GATEWAY.to_owned()),
        ("routes.yaml", routes(weights)),
    ] {
        cluster.write(file, &text).unwrap();
    }
    cluster.start_agent(0).unwrap();
    cluster.start_agent(1).unwrap();
    let route = format!("route add 192.0.2.9/32 via {}", cluster.nodes[0].v4);
    cluster.client.batch(&route).unwrap();
    Some(cluster)
}

/// Which pods answer, in percent; refused ones are `refused`. Any other error fails the test.
fn shares(from: &Netns, send: fn(SocketAddr) -> io::Result<Answer>) -> BTreeMap<String, f64> {
    let mut counts = BTreeMap::new();
    for who in from.run(move || {
        (0..REQUESTS)
            .map(|_| pod(send(on(VIP, 9000))))
            .collect::<Vec<_>>()
    }) {
        *counts.entry(who).or_default() += 100.0 / REQUESTS as f64;
    }
    counts
}

fn pod(answer: io::Result<Answer>) -> String {
    match answer {
        Ok(answer) => answer.pod,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => "refused".into(),
        Err(error) => panic!("{error}"),
    }
}

fn assert_shares(shares: &BTreeMap<String, f64>, expected: &[(&str, f64)]) {
    let is_near = |(who, percent): &(&str, f64)| {
        let share = shares.get(*who);
        share.is_some_and(|share| (share - percent).abs() < 5.0)
    };
    let is_all = shares.len() == expected.len();
    assert!(
        is_all && expected.iter().all(is_near),
        "{shares:?}, not {expected:?}"
    );
}

/// Who answers one new connection.
fn one(cluster: &Cluster) -> String {
    cluster.client.run(|| pod(get(on(VIP, 9000))))
}

fn by_udp(to: SocketAddr) -> io::Result<Answer> {
    udp_connected(to).map(|(answer, _)| answer)
}

#[test]
fn g126_g129_clients_are_shared_out_by_weight_and_refused_at_once() {
    let Some(cluster) = lines("lines", [70, 30, 0]) else {
        return;
    };
    eventually("the listener is served", || one(&cluster) != "refused");
    for send in [get as fn(SocketAddr) -> io::Result<Answer>, by_udp] {
        let shares = shares(&cluster.client, send);
        assert_shares(&shares, &[("web-1-1", 70.0), ("web-2-1", 30.0)]);
    }
    let rows = json(&cluster.nodes[0], &["services"]);
    let mut rows = rows.as_array().unwrap().iter();
    let row = rows.find(|row| row["frontend"] == "192.0.2.9:9000" && row["protocol"] == "tcp");
    let row = row.unwrap();
    assert_eq!(row["service"], "default/gateway-lines");
    assert_eq!(
        row["listener"],
        "listener stream of Gateway default/lines, TCPRoute default/lines"
    );
    let words = ["explain", "192.168.50.100:1234", "tcp", "192.0.2.9:9000"];
    let explained = on_node(&cluster.nodes[0], &words).unwrap();
    assert!(
        explained.contains("listener stream of Gateway default/lines"),
        "{explained}"
    );
    // A reference that is not valid refuses its share, and nothing else.
    cluster.write("routes.yaml", &routes([40, 20, 40])).unwrap();
    eventually("some are refused", || one(&cluster) == "refused");
    for send in [get as fn(SocketAddr) -> io::Result<Answer>, by_udp] {
        let shares = shares(&cluster.client, send);
        let expected = [("refused", 40.0), ("web-1-1", 40.0), ("web-2-1", 20.0)];
        assert_shares(&shares, &expected);
    }
}

#[test]
fn g130_open_connections_outlive_weights_routes_and_gateways() {
    let Some(cluster) = lines("outlive", [50, 50, 0]) else {
        return;
    };
    eventually("the listener is served", || one(&cluster) != "refused");
    let open: Vec<(TcpStream, String)> = cluster.client.run(|| {
        let open = (0..20).map(|_| {
            let stream = TcpStream::connect(on(VIP, 9000)).unwrap();
            let pod = get_on(&stream).unwrap().pod;
            (stream, pod)
        });
        open.collect()
    });
    let continues = |after: &str| {
        for (stream, pod) in &open {
            let answer = get_on(stream).unwrap_or_else(|error| panic!("{after}: {error}"));
            assert_eq!(answer.pod, *pod, "{after}");
        }
    };
    assert!(open.iter().any(|(_, pod)| pod == "web-1-1"));
    cluster.write("routes.yaml", &routes([0, 1, 0])).unwrap();
    let all = |who: &str| (0..20).all(|_| one(&cluster) == who);
    eventually("new ones go to the other Service", || all("web-2-1"));
    continues("a weight of 0");
    cluster.write("routes.yaml", "").unwrap();
    eventually("new ones are refused", || all("refused"));
    continues("no route");
    cluster.write("gateway.yaml", "").unwrap();
    let frontends = || json(&cluster.nodes[0], &["services", "--address", "192.0.2.9"]);
    eventually("the Gateway is gone", || {
        frontends() == serde_json::json!([])
    });
    continues("no Gateway");
}
