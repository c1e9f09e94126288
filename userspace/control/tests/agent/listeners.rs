//! TCP and UDP listeners of Gateways, from both sources: the maps of the agent on node `n1`.

use headgate_apiserver::GATEWAY_API_CRDS;
use headgate_control::{ServedListener, Status};
use headgate_model::NamespacedName;
use tokio::time::timeout;

use crate::{
    memory::PATIENCE,
    source::{Agent, Source, service, slice},
};

/// Runs a case on manifests, and on an API server whose watches break often.
macro_rules! on_both_sources {
    ($($name:ident;)+) => {
        mod manifests {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(crate::listeners::on_manifests().await).await;
            })+
        }
        mod api {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(crate::listeners::on_api().await).await;
            })+
        }
    };
}

on_both_sources! {
    g126_listeners_send_to_backends_by_weight;
    g129_what_cannot_be_reached_refuses_its_share;
    g130_routes_and_gateways_come_and_go;
}

async fn on_manifests() -> Agent {
    Agent::with_gateways(Source::manifests()).await
}

async fn on_api() -> Agent {
    let source = Source::api().await;
    let Source::Api(server) = &source else {
        unreachable!("it is one")
    };
    server.apply_yaml(GATEWAY_API_CRDS).unwrap();
    Agent::with_gateways(source).await
}

/// A Gateway whose Service the controller has made, with its address.
const GATEWAY: &str = "\
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: headgate}
spec: {controllerName: headgate.io/gateway}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: shop}
spec:
  gatewayClassName: headgate
  listeners:
  - {name: db, port: 5432, protocol: TCP}
  - {name: dns, port: 53, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: gateway-shop}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.9
  externalTrafficPolicy: Local
  ports:
  - {name: tcp-5432, port: 5432, protocol: TCP}
  - {name: udp-53, port: 53, protocol: UDP}
  - {name: tcp-80, port: 80, protocol: TCP}
status: {loadBalancer: {ingress: [{ip: 203.0.113.9}]}}
";

fn route(kind: &str, name: &str, listener: &str, backends: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\n\
         spec: {{parentRefs: [{{name: shop, sectionName: {listener}}}], rules: [{{backendRefs: [{backends}]}}]}}\n"
    )
}

/// Services `a` (two pods), `b` (headless, one pod, a port by name) and `c` (no slice).
fn backends() -> String {
    let ports = "{name: pg, port: 5432, protocol: TCP}, {name: q, port: 53, protocol: UDP}";
    let port = "{name: pg, port: 15432}, {name: q, port: 1053, protocol: UDP}";
    let pods = |first: u8, count: u8| {
        let pods = (first..first + count).map(|last| {
            format!("{{addresses: [10.244.1.{last}], nodeName: n1, conditions: {{ready: true}}}}")
        });
        pods.collect::<Vec<_>>().join(", ")
    };
    let headless = slice("b-1", "b", port, &pods(9, 1)).replace(
        "kubernetes.io/service-name: b}",
        "kubernetes.io/service-name: b, service.kubernetes.io/headless: ''}",
    );
    service("a", &format!("clusterIP: 10.96.0.1, ports: [{ports}]"))
        + &service("b", &format!("clusterIP: None, ports: [{ports}]"))
        + &service("c", &format!("clusterIP: 10.96.0.3, ports: [{ports}]"))
        + &slice("a-1", "a", port, &pods(1, 2))
        + &headless
}

/// What the addresses of the Gateway send to, by port.
fn at(tcp: &str, udp: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for (protocol, port, backends) in [("tcp", 80, ""), ("tcp", 5432, tcp), ("udp", 53, udp)] {
        for (address, kind) in [("10.96.0.9", "ClusterIp"), ("203.0.113.9", "LoadBalancer")] {
            lines.push(format!(
                "{protocol} {address}:{port} {kind} in[{backends}] out[{backends}]\n"
            ));
        }
    }
    lines
}

/// Waits until the addresses of the Gateway send to these.
async fn sends(agent: &mut Agent, tcp: &str, udp: &str) {
    agent.has(&at(tcp, udp)).await;
}

async fn g126_listeners_send_to_backends_by_weight(mut agent: Agent) {
    agent.write("gateway.yaml", GATEWAY).await;
    sends(&mut agent, "", "").await;
    agent.write("backends.yaml", &backends()).await;
    let shares = "{name: a, port: 5432, weight: 70}, {name: b, port: 5432, weight: 30}, \
                  {name: c, port: 5432, weight: 0}";
    let tcp = route("TCPRoute", "db", "db", shares);
    // Equal weights need no shares: two to one.
    let even = "{name: a, port: 53, weight: 2}, {name: b, port: 53, weight: 1}";
    let udp = route("UDPRoute", "dns", "dns", even);
    agent.write("routes.yaml", &(tcp + &udp)).await;
    sends(
        &mut agent,
        "10.244.1.1:15432@here=35% 10.244.1.2:15432@here=35% 10.244.1.9:15432@here=30%",
        "10.244.1.1:1053@here 10.244.1.2:1053@here 10.244.1.9:1053@here",
    )
    .await;
    let served = |status: &Status| {
        let mut listeners = status.listeners.iter();
        listeners.any(|one| {
            let route = NamespacedName::new("default", "db");
            let ServedListener {
                port,
                listener,
                route: found,
                ..
            } = one;
            *port == 5432 && listener == "db" && *found == Some(route)
        })
    };
    timeout(PATIENCE, agent.status.wait_for(served))
        .await
        .unwrap()
        .unwrap();
}

async fn g129_what_cannot_be_reached_refuses_its_share(mut agent: Agent) {
    agent.write("gateway.yaml", GATEWAY).await;
    agent.write("backends.yaml", &backends()).await;
    // A Service without endpoints, one that is missing, and one of another namespace without a grant.
    let shares = "{name: a, port: 5432, weight: 40}, {name: c, port: 5432, weight: 30}, \
                  {name: no, port: 5432, weight: 20}, {name: a, namespace: other, port: 5432, weight: 10}";
    // What has no weight, and what refuses everything.
    let none = "{name: a, port: 53, weight: 0}";
    let routes = |shares: &str, none: &str| {
        route("TCPRoute", "db", "db", shares) + &route("UDPRoute", "dns", "dns", none)
    };
    agent.write("routes.yaml", &routes(shares, none)).await;
    let tcp = "10.244.1.1:15432@here=20% 10.244.1.2:15432@here=20% refused=60%";
    sends(&mut agent, tcp, "").await;
    let wrong = "{kind: ConfigMap, name: a, port: 53}";
    agent.write("routes.yaml", &routes(shares, wrong)).await;
    sends(&mut agent, tcp, "").await;
    // The share is served as soon as there is an endpoint, also if that terminates.
    let port = "{name: pg, port: 15432}";
    let leaving = "{addresses: [10.244.1.7], nodeName: n1, \
                   conditions: {ready: false, serving: true, terminating: true}}";
    agent
        .write("c.yaml", &slice("c-1", "c", port, leaving))
        .await;
    let tcp =
        "10.244.1.1:15432@here=20% 10.244.1.2:15432@here=20% 10.244.1.7:15432@here=30% refused=30%";
    sends(&mut agent, tcp, "").await;
}

async fn g130_routes_and_gateways_come_and_go(mut agent: Agent) {
    // Without a Service of the Gateway its addresses are those of its status.
    let (gateway, made) = GATEWAY.split_once("---\napiVersion: v1").unwrap();
    let gateway =
        format!("{gateway}status: {{addresses: [{{type: IPAddress, value: 203.0.113.8}}]}}\n");
    agent.write("backends.yaml", &backends()).await;
    agent.write("gateway.yaml", &gateway).await;
    let to_a = route("TCPRoute", "db", "db", "{name: a, port: 5432}");
    agent.write("routes.yaml", &to_a).await;
    let both = "10.244.1.1:15432@here 10.244.1.2:15432@here";
    let line = |address: &str, kind: &str, to: &str| {
        format!("tcp {address}:5432 {kind} in[{to}] out[{to}]\n")
    };
    agent
        .has(&[line("203.0.113.8", "LoadBalancer", both)])
        .await;
    // Once there is one, it has them.
    let made = format!("---\napiVersion: v1{made}");
    agent.write("made.yaml", &made).await;
    agent.has(&at(both, "")).await;
    agent.lacks("203.0.113.8").await;
    // Without the route the port refuses, and without the Gateway it is an ordinary port of the Service.
    agent.write("routes.yaml", "").await;
    agent.has(&at("", "")).await;
    agent.write("routes.yaml", &to_a).await;
    agent.has(&at(both, "")).await;
    agent.write("made.yaml", "").await;
    agent
        .has(&[line("203.0.113.8", "LoadBalancer", both)])
        .await;
    agent.write("gateway.yaml", "").await;
    agent.lacks("203.0.113.8").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g129_other_services_are_served_without_the_kinds_of_gateways() {
    // No CRDs: empty lists.
    let mut agent = Agent::with_gateways(Source::api().await).await;
    agent.write("backends.yaml", &backends()).await;
    let line = "tcp 10.96.0.1:5432 ClusterIp in[10.244.1.1:15432@here 10.244.1.2:15432@here]";
    agent.has(&[line.into()]).await;
    // A Service of another proxy is not served, but routes may name it while its slices have no such label.
    let other = service("a", "clusterIP: 10.96.0.1, ports: [{name: pg, port: 5432}]").replace(
        "metadata: {name: a}",
        "metadata: {name: a, labels: {service.kubernetes.io/service-proxy-name: other}}",
    );
    agent.api().apply_yaml(&other).unwrap();
    agent.lacks("10.96.0.1:5432").await;
    agent.api().apply_yaml(GATEWAY_API_CRDS).unwrap();
    agent.write("gateway.yaml", GATEWAY).await;
    let to_a = route("TCPRoute", "db", "db", "{name: a, port: 5432}");
    agent.write("routes.yaml", &to_a).await;
    let both = "10.244.1.1:15432@here 10.244.1.2:15432@here";
    agent.has(&at(both, "")).await;
}
