//! Statuses of Gateways that something keeps from being served.

use std::sync::{Arc, Mutex};

use headgate_apiserver::Attributes;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::cluster::{Cluster, GATEWAY, SERVICE, SLICE, condition, gateway};

fn message(gateway: &Value) -> &str {
    let mut conditions = gateway["status"]["conditions"].as_array().unwrap().iter();
    let programmed = conditions.find(|one| one["type"] == "Programmed").unwrap();
    programmed["message"].as_str().unwrap()
}

/// The pods of proxies and agents.
fn pods(cluster: &Cluster) -> Api<Pod> {
    Api::namespaced(cluster.client(), "kube-system")
}

/// A condition of a listener, by its number.
fn listener(gateway: &Value, number: usize) -> String {
    condition(
        &gateway["status"]["listeners"][number]["conditions"],
        "Programmed",
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn l193_a_gateway_whose_objects_cannot_be_written_is_not_programmed() {
    // What the API server refuses: a verb and a resource.
    let refused: Arc<Mutex<Option<[&str; 2]>>> = Arc::default();
    let known = refused.clone();
    let cluster = Cluster::with(Some(Arc::new(move |request: &Attributes| {
        let refused = known.lock().unwrap();
        let resource = match &request.subresource {
            Some(part) => format!("{}/{part}", request.resource),
            None => request.resource.clone(),
        };
        refused.is_none_or(|refused| refused != [request.verb.as_str(), resource.as_str()])
    })))
    .await;
    let refuse = |what: Option<[&'static str; 2]>| *refused.lock().unwrap() = what;
    let status = Patch::Merge(json!({"status": {"podIPs": [{"ip": "10.0.0.1"}]}}));
    let params = PatchParams::default();
    pods(&cluster)
        .patch_status("proxy-a", &params, &status)
        .await
        .unwrap();
    let _controller = cluster.start();
    for (name, verb, resource, reason, object) in [
        (
            "a",
            "create",
            "services",
            "AddressNotAssigned",
            "Service default/gateway-a",
        ),
        (
            "b",
            "patch",
            "services/status",
            "AddressNotAssigned",
            "Service default/gateway-b",
        ),
        (
            "c",
            "create",
            "endpointslices",
            "NoResources",
            "EndpointSlice default/gateway-c-ipv4-0",
        ),
    ] {
        refuse(Some([verb, resource]));
        cluster.apply(&gateway(name));
        let expected = format!("False/{reason}");
        let found = cluster.wait(GATEWAY, name, |gateway| {
            condition(&gateway["status"]["conditions"], "Programmed") == expected
                && message(gateway).contains("cannot write")
        });
        let found = found.await;
        let text = message(&found);
        assert!(
            text.starts_with(&format!("cannot write {object}: ")),
            "{text}"
        );
        assert!(text.contains("forbidden"), "{text}");
        assert_eq!(listener(&found, 0), "False/Pending");
        refuse(None);
        cluster
            .gateway_is(name, "Programmed", "True/Programmed")
            .await;
    }
    // A Service that it has cannot be changed.
    refuse(Some(["patch", "services"]));
    cluster.apply(&gateway("a").replace("port: 80,", "port: 8080,"));
    let found = cluster
        .gateway_is("a", "Programmed", "False/NoResources")
        .await;
    assert!(message(&found).starts_with("cannot write Service default/gateway-a: "));
    // What is not wanted any more does not count, even if it was never written.
    cluster.apply(&gateway("a"));
    cluster
        .gateway_is("a", "Programmed", "True/Programmed")
        .await;
    // The other Gateways are as they were.
    for name in ["b", "c"] {
        let other = cluster.get(GATEWAY, name).await;
        assert_eq!(listener(&other, 0), "True/Programmed", "{name}");
    }
    assert!(!cluster.get(SERVICE, "gateway-a").await.is_null());
    assert!(!cluster.get(SLICE, "gateway-c-ipv4-0").await.is_null());
}

/// An agent with these arguments.
fn agent(name: &str, args: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: kube-system, labels: {{app.kubernetes.io/component: agent}}}}
spec: {{nodeName: {name}, containers: [{{name: agent, image: headgate, args: [{args}]}}]}}
---
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn l196_listeners_that_no_agent_or_proxy_serves_are_not_programmed() {
    let cluster = Cluster::new().await;
    cluster.apply(&agent("agent-b", "agent"));
    let _controller = cluster.start();
    let mixed = "[{name: http, port: 80, protocol: HTTP}, {name: db, port: 5432, protocol: TCP}]";
    let lines = "[{name: db, port: 5432, protocol: TCP}, {name: dns, port: 53, protocol: UDP}]";
    let http = "[{name: http, port: 80, protocol: HTTP}]";
    cluster
        .apply(&(gateway("mixed").replace(http, mixed) + &gateway("lines").replace(http, lines)));
    let found = cluster
        .gateway_is("lines", "Programmed", "False/NoResources")
        .await;
    let text = message(&found);
    assert!(
        text.contains("--gateways") && text.ends_with(": agent-b"),
        "{text}"
    );
    assert_eq!(
        [listener(&found, 0), listener(&found, 1)],
        ["False/Pending", "False/Pending"]
    );
    let found = cluster
        .gateway_is("mixed", "Programmed", "True/Programmed")
        .await;
    assert_eq!(
        [listener(&found, 0), listener(&found, 1)],
        ["True/Programmed", "False/Pending"]
    );
    // The agent is replaced by one that serves them.
    let pods = pods(&cluster);
    let params = DeleteParams::default();
    pods.delete("agent-b", &params).await.unwrap();
    let is_programmed = |gateway: &Value| listener(gateway, 1) == "True/Programmed";
    cluster
        .gateway_is("lines", "Programmed", "True/Programmed")
        .await;
    cluster.wait(GATEWAY, "mixed", is_programmed).await;
    cluster.apply(&agent(
        "agent-c",
        "agent, --gateways, --gateway-controller=a.example/b",
    ));
    cluster
        .gateway_is("lines", "Programmed", "False/NoResources")
        .await;
    cluster.apply(&agent("agent-d", "agent, --gateways"));
    pods.delete("agent-c", &params).await.unwrap();
    cluster
        .gateway_is("lines", "Programmed", "True/Programmed")
        .await;
    // Without agents, and then without proxies.
    for pod in ["agent-a", "agent-d"] {
        pods.delete(pod, &params).await.unwrap();
    }
    let found = cluster
        .gateway_is("lines", "Programmed", "False/NoResources")
        .await;
    assert!(message(&found).contains("app.kubernetes.io/component=agent"));
    for pod in ["proxy-a", "proxy-b"] {
        pods.delete(pod, &params).await.unwrap();
    }
    let found = cluster
        .gateway_is("mixed", "Programmed", "False/NoResources")
        .await;
    assert!(message(&found).contains("a proxy"), "{}", message(&found));
}
