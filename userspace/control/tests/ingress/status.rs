//! `status.loadBalancer` of Ingresses.

use std::collections::BTreeSet;

use headgate_apiserver::ApiServer;
use headgate_control::{Address, Publish, publish};
use headgate_model::NamespacedName;
use k8s_openapi::api::networking::v1::Ingress;
use kube::ResourceExt;
use tokio::task::JoinHandle;

use crate::{
    server::PATIENCE,
    source::{Proxy, client, ingress, our_class, rule, service},
};

fn at(addresses: &[&str]) -> Publish {
    let parse = |text: &&str| text.parse::<Address>().unwrap();
    Publish::Addresses(addresses.iter().map(parse).collect())
}

fn start(proxy: &Proxy, target: Publish) -> JoinHandle<()> {
    let (client, status) = (client(proxy.api()), proxy.status.clone());
    tokio::spawn(async move { publish(client, target, &BTreeSet::new(), status).await })
}

fn shop(name: &str) -> String {
    let host = format!("{name}.example");
    ingress(name, &format!("rules: [{}]", rule(&host, "web")))
}

/// An Ingress of another class, with this status of its controller.
fn foreign(name: &str, address: &str) -> String {
    shop(name).replace("ClassName: headgate", "ClassName: other")
        + &format!("status: {{loadBalancer: {{ingress: [{{ip: {address}}}]}}}}\n")
}

/// The status of an Ingress.
fn points(server: &ApiServer, name: &str) -> String {
    let ingress: Ingress = server.get("default", name).unwrap();
    let status = ingress.status.and_then(|status| status.load_balancer);
    let points = status.and_then(|balancer| balancer.ingress);
    let points = points.into_iter().flatten();
    let texts: Vec<String> = points
        .map(|point| point.ip.or(point.hostname).unwrap())
        .collect();
    texts.join(" ")
}

fn version(server: &ApiServer, name: &str) -> Option<String> {
    server.get::<Ingress>("default", name)?.resource_version()
}

/// Waits until an Ingress has this status.
async fn has(server: &ApiServer, name: &str, expected: &str) {
    let wait = async {
        while points(server, name) != expected {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let result = tokio::time::timeout(PATIENCE, wait).await;
    assert!(result.is_ok(), "{name}: `{}`", points(server, name));
}

#[tokio::test(flavor = "multi_thread")]
async fn l53_addresses_are_written_only_to_served_ingresses() {
    let mut proxy = Proxy::on_api().await;
    let text = our_class() + &shop("a") + &foreign("theirs", "192.0.2.9");
    proxy.api().apply_yaml(&text).unwrap();
    proxy.serves("a.example / Unavailable\n").await;
    let server = proxy.api();
    let theirs = version(server, "theirs");
    let _writer = start(&proxy, at(&["lb.example", "192.0.2.1", "2001:db8::1"]));
    has(server, "a", "192.0.2.1 2001:db8::1 lb.example").await;
    server.apply_yaml(&shop("b")).unwrap();
    has(server, "b", "192.0.2.1 2001:db8::1 lb.example").await;
    assert_eq!(version(server, "theirs"), theirs, "untouched");
}

#[tokio::test(flavor = "multi_thread")]
async fn l53_nothing_is_written_twice() {
    let proxy = Proxy::on_api().await;
    let server = proxy.api();
    server.apply_yaml(&(our_class() + &shop("a"))).unwrap();
    let writers: Vec<_> = (0..3)
        .map(|_| start(&proxy, at(&["192.0.2.1", "lb.example"])))
        .collect();
    has(server, "a", "192.0.2.1 lb.example").await;
    let first = version(server, "a");
    let writes = server.requests("patch", "ingresses");
    // A new writer finds it done, like the writers that lost a race.
    let late = start(&proxy, at(&["192.0.2.1", "lb.example"]));
    server.apply_yaml(&shop("b")).unwrap();
    has(server, "b", "192.0.2.1 lb.example").await;
    assert_eq!(version(server, "a"), first);
    let more = server.requests("patch", "ingresses") - writes;
    // Writes that lost the race for `a` or `b`, once each.
    assert!(more <= 3 + 3, "{more} writes");
    assert!(!late.is_finished() && writers.iter().all(|writer| !writer.is_finished()));
}

#[tokio::test(flavor = "multi_thread")]
async fn l53_ingresses_that_are_no_longer_served_are_cleared() {
    let proxy = Proxy::on_api().await;
    let server = proxy.api();
    let text = our_class() + &shop("a") + &shop("b") + &foreign("theirs", "192.0.2.1");
    server.apply_yaml(&text).unwrap();
    let theirs = version(server, "theirs");
    let _writer = start(&proxy, at(&["192.0.2.1"]));
    has(server, "a", "192.0.2.1").await;
    has(server, "b", "192.0.2.1").await;
    server
        .apply_yaml(&shop("a").replace("Name: headgate", "Name: other"))
        .unwrap();
    has(server, "a", "").await;
    // The next owner may write the same address; it stays.
    server.apply_yaml(&foreign("a", "192.0.2.1")).unwrap();
    let again = version(server, "a");
    server
        .delete::<k8s_openapi::api::networking::v1::IngressClass>("", "headgate")
        .unwrap();
    has(server, "b", "").await;
    assert_eq!(version(server, "a"), again, "untouched");
    assert_eq!(version(server, "theirs"), theirs, "untouched");
}

#[tokio::test(flavor = "multi_thread")]
async fn l53_a_status_that_another_controller_wrote_is_repaired() {
    let proxy = Proxy::on_api().await;
    let server = proxy.api();
    server.apply_yaml(&(our_class() + &shop("a"))).unwrap();
    let _writer = start(&proxy, at(&["192.0.2.1"]));
    has(server, "a", "192.0.2.1").await;
    let other = shop("a") + "status: {loadBalancer: {ingress: [{hostname: other.example}]}}\n";
    server.apply_yaml(&other).unwrap();
    has(server, "a", "192.0.2.1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l53_the_addresses_of_a_service_are_followed() {
    let proxy = Proxy::on_api().await;
    let server = proxy.api();
    server.apply_yaml(&(our_class() + &shop("a"))).unwrap();
    let _writer = start(
        &proxy,
        Publish::Service(NamespacedName::new("default", "lb")),
    );
    let lb = |spec: &str| service("lb", &format!("{spec}, ports: [{{port: 80}}]"));
    let balancer = lb("type: LoadBalancer, externalIPs: [192.0.2.7]")
        + "status: {loadBalancer: {ingress: [{ip: 192.0.2.1}, {hostname: lb.example}]}}\n";
    server.apply_yaml(&balancer).unwrap();
    has(server, "a", "192.0.2.1 192.0.2.7 lb.example").await;
    server
        .apply_yaml(&lb("type: NodePort, externalIPs: [192.0.2.7]"))
        .unwrap();
    has(server, "a", "192.0.2.7").await;
    server
        .apply_yaml(&lb(
            "type: ClusterIP, externalIPs: [], clusterIP: 10.96.0.9",
        ))
        .unwrap_or_default();
    server
        .delete::<k8s_openapi::api::core::v1::Service>("default", "lb")
        .unwrap();
    has(server, "a", "").await;
    server.apply_yaml(&lb("clusterIP: 10.96.0.9")).unwrap();
    has(server, "a", "10.96.0.9").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l53_a_stop_removes_nothing() {
    let proxy = Proxy::on_api().await;
    let server = proxy.api();
    server.apply_yaml(&(our_class() + &shop("a"))).unwrap();
    let writer = start(&proxy, at(&["192.0.2.1"]));
    has(server, "a", "192.0.2.1").await;
    let first = version(server, "a");
    let proxy = proxy.restart().await;
    // It ends with the loop that sends its status.
    tokio::time::timeout(PATIENCE, writer)
        .await
        .unwrap()
        .unwrap();
    let _writer = start(&proxy, at(&["192.0.2.1"]));
    proxy.api().apply_yaml(&shop("b")).unwrap();
    has(proxy.api(), "b", "192.0.2.1").await;
    assert_eq!(version(proxy.api(), "a"), first);
}
