//! Gateways of manifests, down to what a proxy is given.

use std::{fs, time::Duration};

use headgate_control::{EdgeOptions, IngressStatus, manifests, run_ingress};
use headgate_model::{edge::Edge, gateway::GatewayOptions, ingress::IngressOptions};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use crate::server::{PATIENCE, Received, Server};

const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: headgate}
spec: {controllerName: headgate.io/gateway}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web, namespace: shop}
spec:
  gatewayClassName: headgate
  listeners:
  - {name: http, port: 80, protocol: HTTP}
  - {name: other, port: 8080, protocol: HTTP}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}
";

fn route(backend: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: cart, namespace: shop}}
spec:
  parentRefs: [{{name: web, sectionName: http}}]
  hostnames: [shop.example.com]
  rules: [{{backendRefs: [{{name: {backend}, port: 80}}]}}]
"
    )
}

async fn until(received: &mut watch::Receiver<Received>, is_it: impl Fn(&Edge) -> bool) -> Edge {
    let found = received.wait_for(|received| received.edge.as_ref().is_some_and(&is_it));
    let found = timeout(PATIENCE, found).await.unwrap().unwrap();
    found.edge.clone().unwrap()
}

fn backends(edge: &Edge) -> Vec<String> {
    edge.upstreams().map(ToString::to_string).collect()
}

#[tokio::test]
async fn g18_g137_gateways_of_manifests_are_served_while_they_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    fs::write(file("gateway.yaml"), GATEWAY).unwrap();
    fs::write(file("route.yaml"), route("cart")).unwrap();
    let options = EdgeOptions {
        ingress: IngressOptions::default(),
        gateways: Some(GatewayOptions::default()),
    };
    let (events, receiver) = mpsc::channel(64);
    let path = folder.path().to_owned();
    tokio::spawn(manifests::follow_ingresses(
        path,
        options.interest(),
        events,
    ));
    let (sender, mut received) = watch::channel(Received::default());
    let (status, _statuses) = watch::channel(IngressStatus::default());
    let stop = tokio::time::sleep(Duration::from_secs(600));
    tokio::spawn(run_ingress(receiver, options, Server(sender), status, stop));
    let edge = until(&mut received, |edge| edge.gateways.len() == 2).await;
    assert_eq!(backends(&edge), ["shop/cart:80"]);
    let ports: Vec<u16> = edge
        .gateways
        .values()
        .map(|port| port.target_port)
        .collect();
    let hosts = edge
        .gateways
        .values()
        .map(|port| port.listeners[0].hosts.keys());
    assert_eq!(hosts.flatten().collect::<Vec<_>>(), ["shop.example.com"]);
    // Without a backend the route stays, and its port as well.
    fs::write(file("route.yaml"), route("none")).unwrap();
    let edge = until(&mut received, |edge| backends(edge).is_empty()).await;
    let now: Vec<u16> = edge
        .gateways
        .values()
        .map(|port| port.target_port)
        .collect();
    assert_eq!(now, ports);
    fs::remove_file(file("gateway.yaml")).unwrap();
    until(&mut received, |edge| edge.gateways.is_empty()).await;
}
