//! What is made for Gateways.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use headgate_apiserver::Attributes;
use headgate_model::gateway::GatewayOptions;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::cluster::{Cluster, GATEWAY, OTHER_CLASS, SERVICE, SLICE, condition, gateway};

/// Sets what the kubelet says of a proxy.
async fn set_pod(cluster: &Cluster, name: &str, address: &str, is_ready: bool) {
    let api: Api<Pod> = Api::namespaced(cluster.client(), "kube-system");
    let status = if is_ready { "True" } else { "False" };
    let status = json!({"status": {
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": status}],
    }});
    let patch = Patch::Merge(status);
    let params = PatchParams::default();
    api.patch_status(name, &params, &patch).await.unwrap();
}

/// The endpoints of a slice, as `10.0.0.1 ready`.
fn endpoints(slice: &Value) -> Vec<String> {
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    let texts = endpoints.map(|one| {
        let is_ready = one["conditions"]["ready"] == true;
        let address = one["addresses"][0].as_str().unwrap();
        format!("{address} {}", if is_ready { "ready" } else { "not ready" })
    });
    texts.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn g126_listeners_of_the_kernel_are_ports_that_no_slice_has() {
    let cluster = Cluster::new().await;
    let mut controller = cluster.start();
    let listeners = "[{name: db, port: 5432, protocol: TCP}, {name: dns, port: 53, protocol: UDP}]";
    let http = "[{name: http, port: 80, protocol: HTTP}]";
    cluster.apply(&gateway("web").replace(http, listeners));
    let found = cluster
        .gateway_is("web", "Programmed", "True/Programmed")
        .await;
    for listener in found["status"]["listeners"].as_array().unwrap() {
        let programmed = condition(&listener["conditions"], "Programmed");
        assert_eq!(programmed, "True/Programmed", "{listener}");
    }
    let service = cluster.get(SERVICE, "gateway-web").await;
    let ports = service["spec"]["ports"].as_array().unwrap().iter();
    let ports = ports.map(|port| {
        (
            port["name"].clone(),
            port["protocol"].clone(),
            port["port"].clone(),
        )
    });
    let expected = [("tcp-5432", "TCP", 5432), ("udp-53", "UDP", 53)];
    assert!(ports.eq(expected.map(|(name, protocol, port)| (
        name.into(),
        protocol.into(),
        port.into()
    ))));
    controller.settle().await;
    let slice = cluster.get(SLICE, "gateway-web-ipv4-0").await;
    assert!(
        slice["ports"].as_array().is_none_or(Vec::is_empty),
        "{slice}"
    );
    // Nothing is written again and again.
    let version = |slice: &Value| slice["metadata"]["resourceVersion"].clone();
    controller.settle().await;
    assert_eq!(
        version(&cluster.get(SLICE, "gateway-web-ipv4-0").await),
        version(&slice)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn g131_a_gateway_gets_a_service_an_address_and_the_proxies() {
    let cluster = Cluster::new().await;
    set_pod(&cluster, "proxy-a", "10.0.0.1", true).await;
    set_pod(&cluster, "proxy-b", "10.0.0.2", true).await;
    let _controller = cluster.start();
    cluster.apply(&gateway("web").replace(
        "spec:\n",
        "spec:\n  infrastructure: {labels: {team: shop}, annotations: {a.example/b: c}}\n",
    ));
    let found = cluster
        .gateway_is("web", "Programmed", "True/Programmed")
        .await;
    assert_eq!(
        found["status"]["addresses"],
        json!([{"type": "IPAddress", "value": "192.0.2.1"}])
    );
    let service = cluster.get(SERVICE, "gateway-web").await;
    let (metadata, spec) = (&service["metadata"], &service["spec"]);
    assert_eq!(metadata["labels"]["team"], "shop");
    assert_eq!(
        metadata["labels"]["gateway.networking.k8s.io/gateway-name"],
        "web"
    );
    assert_eq!(metadata["annotations"]["a.example/b"], "c");
    assert_eq!(
        metadata["ownerReferences"][0]["uid"],
        found["metadata"]["uid"]
    );
    assert_eq!(spec["type"], "LoadBalancer");
    assert_eq!(spec["externalTrafficPolicy"], "Local");
    assert_eq!(spec["loadBalancerClass"], "headgate.io/gateway-pool");
    assert_eq!(spec["ports"][0]["port"], 80);
    assert!(spec["ports"][0].get("nodePort").is_none());
    let target = &spec["ports"][0]["targetPort"];
    let slice = cluster.get(SLICE, "gateway-web-ipv4-0").await;
    assert_eq!(endpoints(&slice), ["10.0.0.1 ready", "10.0.0.2 ready"]);
    assert_eq!(slice["ports"][0]["port"], *target);
    assert_eq!(slice["ports"][0]["name"], spec["ports"][0]["name"]);
    assert_eq!(slice["endpoints"][0]["nodeName"], "node-a");

    // A proxy that is not ready gets no connections.
    set_pod(&cluster, "proxy-a", "10.0.0.1", false).await;
    let left = ["10.0.0.1 not ready", "10.0.0.2 ready"];
    let is_left = |slice: &Value| endpoints(slice) == left;
    cluster.wait(SLICE, "gateway-web-ipv4-0", is_left).await;
    // A label that is no longer asked for goes, and what others added stays.
    let other = json!({"metadata": {"labels": {"other": "stays"}}});
    let params = PatchParams::default();
    let services = cluster.api(SERVICE);
    services
        .patch("gateway-web", &params, &Patch::Merge(other))
        .await
        .unwrap();
    let merge = Patch::Merge(json!({"spec": {"infrastructure": null}}));
    cluster
        .api(GATEWAY)
        .patch("web", &params, &merge)
        .await
        .unwrap();
    let is_clean = |service: &Value| {
        let labels = &service["metadata"]["labels"];
        labels.get("team").is_none() && labels["other"] == "stays"
    };
    cluster.wait(SERVICE, "gateway-web", is_clean).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g133_without_a_pool_the_load_balancer_of_the_cluster_gives_addresses() {
    let cluster = Cluster::new().await;
    let _controller = cluster.start_with(&[]);
    let named = "spec:\n  addresses: [{type: IPAddress, value: 198.51.100.7}]\n";
    let named = gateway("named").replace("spec:\n", named);
    cluster.apply(&(gateway("any") + &named));
    cluster
        .gateway_is("any", "Programmed", "False/AddressNotAssigned")
        .await;
    cluster
        .gateway_is("named", "Programmed", "False/AddressNotUsable")
        .await;
    let service = cluster.get(SERVICE, "gateway-named").await;
    assert_eq!(service["spec"]["loadBalancerIP"], "198.51.100.7");
    assert!(service["spec"].get("loadBalancerClass").is_none());
    for (service, point) in [
        ("gateway-any", json!({"hostname": "lb.example"})),
        ("gateway-named", json!({"ip": "198.51.100.7"})),
    ] {
        let status = json!({"status": {"loadBalancer": {"ingress": [point]}}});
        let services = cluster.api(SERVICE);
        services
            .patch_status(service, &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
    }
    let any = cluster
        .gateway_is("any", "Programmed", "True/Programmed")
        .await;
    assert_eq!(
        any["status"]["addresses"],
        json!([{"type": "Hostname", "value": "lb.example"}])
    );
    cluster
        .gateway_is("named", "Programmed", "True/Programmed")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g135_services_of_others_stay_and_ours_go_with_the_class() {
    let cluster = Cluster::new().await;
    let other = "
apiVersion: v1
kind: Service
metadata: {name: gateway-taken, namespace: default}
spec: {ports: [{port: 5432}]}
---
";
    cluster.apply(&(other.to_owned() + &gateway("taken") + &gateway("web")));
    let mut controller = cluster.start();
    cluster
        .gateway_is("web", "Programmed", "True/Programmed")
        .await;
    cluster
        .gateway_is("taken", "Programmed", "False/AddressNotAssigned")
        .await;
    controller.settle().await;
    let taken = cluster.get(SERVICE, "gateway-taken").await;
    assert_eq!(taken["spec"]["ports"][0]["port"], 5432);
    assert_eq!(taken["spec"]["type"], "ClusterIP");

    // A Gateway that serves nothing for a while keeps its Service: its address could be lost.
    let before = cluster.get(SERVICE, "gateway-web").await;
    let broken = gateway("web").replace("protocol: HTTP", "protocol: example.org/foo");
    cluster.apply(&broken);
    cluster
        .gateway_is("web", "Accepted", "False/ListenersNotValid")
        .await;
    controller.settle().await;
    assert_eq!(cluster.get(SERVICE, "gateway-web").await, before);
    // A Gateway of another class has no Service of ours.
    cluster.apply(OTHER_CLASS);
    cluster.apply(&gateway("web").replace("ClassName: headgate", "ClassName: other"));
    cluster
        .wait(SERVICE, "gateway-web", |service| service.is_null())
        .await;
    cluster
        .wait(SLICE, "gateway-web-ipv4-0", |slice| slice.is_null())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l193_a_gateway_says_which_of_its_objects_cannot_be_written() {
    let is_allowed = Arc::new(AtomicBool::new(false));
    let allowed = is_allowed.clone();
    let authorize = move |asked: &Attributes| {
        let is_refused = asked.resource == "endpointslices" && asked.verb == "create";
        !is_refused || allowed.load(Ordering::Relaxed)
    };
    let cluster = Cluster::with(Some(Arc::new(authorize))).await;
    set_pod(&cluster, "proxy-a", "10.0.0.1", true).await;
    cluster.apply(&(gateway("web") + &gateway("taken")));
    let other = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: gateway-taken-ipv4-0, namespace: default}
addressType: IPv4
endpoints: []
";
    cluster.apply(other);
    let controller = cluster.start();
    for name in ["web", "taken"] {
        let refused = cluster
            .gateway_is(name, "Programmed", "False/NoResources")
            .await;
        let conditions = refused["status"]["conditions"].as_array().unwrap();
        let mut programmed = conditions.iter();
        let programmed = programmed.find(|one| one["type"] == "Programmed").unwrap();
        let message = programmed["message"].as_str().unwrap();
        let begin = format!("cannot write EndpointSlice default/gateway-{name}-ipv4-0: ");
        assert!(message.starts_with(&begin), "{message}");
        // Its address is known.
        assert_eq!(
            refused["status"]["addresses"][0]["value"]
                .as_str()
                .map(|text| text.starts_with("192.0.2.")),
            Some(true)
        );
    }
    assert_eq!(controller.status.borrow().failing, 2);
    is_allowed.store(true, Ordering::Relaxed);
    cluster
        .gateway_is("web", "Programmed", "True/Programmed")
        .await;
    cluster
        .gateway_is("taken", "Programmed", "False/NoResources")
        .await;
    let params = DeleteParams::default();
    let slices = cluster.api(SLICE);
    slices
        .delete("gateway-taken-ipv4-0", &params)
        .await
        .unwrap();
    cluster
        .gateway_is("taken", "Programmed", "True/Programmed")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g135_what_others_change_is_corrected() {
    let cluster = Cluster::new().await;
    cluster.apply(&gateway("web"));
    let mut controller = cluster.start();
    cluster
        .gateway_is("web", "Programmed", "True/Programmed")
        .await;
    controller.settle().await;
    let managed = "app.kubernetes.io/managed-by";
    let changed = json!({
        "metadata": {"labels": {managed: null}},
        "spec": {"externalTrafficPolicy": "Cluster", "ports": [
            {"name": "tcp-80", "port": 80, "targetPort": 22},
            {"name": "more", "port": 22, "targetPort": 22},
        ]},
    });
    let services = cluster.api(SERVICE);
    let params = PatchParams::default();
    let patch = Patch::Merge(changed);
    services
        .patch("gateway-web", &params, &patch)
        .await
        .unwrap();
    let is_corrected = |service: &Value| {
        let spec = &service["spec"];
        service["metadata"]["labels"][managed] == "headgate"
            && spec["externalTrafficPolicy"] == "Local"
            && spec["ports"].as_array().unwrap().len() == 1
            && spec["ports"][0]["targetPort"].as_u64() > Some(12000)
    };
    cluster.wait(SERVICE, "gateway-web", is_corrected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g131_an_address_outlives_its_service_and_its_class() {
    let cluster = Cluster::new().await;
    cluster.apply(&(gateway("a") + &gateway("b")));
    let mut controller = cluster.start();
    for name in ["a", "b"] {
        cluster
            .gateway_is(name, "Programmed", "True/Programmed")
            .await;
    }
    let address = |gateway: Value| gateway["status"]["addresses"][0]["value"].clone();
    let before = address(cluster.get(GATEWAY, "b").await);
    // There are lower addresses for it then.
    let params = DeleteParams::default();
    cluster.api(GATEWAY).delete("a", &params).await.unwrap();
    cluster
        .wait(SERVICE, "gateway-a", |service| service.is_null())
        .await;
    let services = cluster.api(SERVICE);
    services.delete("gateway-b", &params).await.unwrap();
    let has_address =
        |service: &Value| service["status"]["loadBalancer"]["ingress"][0]["ip"] == before;
    cluster.wait(SERVICE, "gateway-b", has_address).await;
    // A class that comes back.
    let service = cluster.get(SERVICE, "gateway-b").await;
    let classes = cluster.cluster_api("gateway.networking.k8s.io/v1/GatewayClass");
    classes.delete("headgate", &params).await.unwrap();
    controller.settle().await;
    let after = cluster.get(SERVICE, "gateway-b").await;
    assert_eq!(after["metadata"]["uid"], service["metadata"]["uid"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g135_another_controller_touches_nothing_of_ours() {
    let cluster = Cluster::new().await;
    cluster.apply(&gateway("web"));
    let mut ours = cluster.start();
    cluster
        .gateway_is("web", "Programmed", "True/Programmed")
        .await;
    ours.settle().await;
    let options = GatewayOptions {
        controller: "example.com/other".into(),
        ..GatewayOptions::default()
    };
    let mut theirs = cluster.start_as(options, &["198.51.100.0/24"]);
    theirs.settle().await;
    cluster.apply(&gateway("other"));
    cluster
        .gateway_is("other", "Programmed", "True/Programmed")
        .await;
    theirs.settle().await;
    assert!(theirs.status.borrow().writes.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn g131_a_pool_that_comes_or_goes_makes_services_again() {
    let cluster = Cluster::new().await;
    cluster.apply(&gateway("web"));
    let mut first = cluster.start_with(&[]);
    cluster
        .gateway_is("web", "Programmed", "False/AddressNotAssigned")
        .await;
    first.settle().await;
    drop(first);
    let _second = cluster.start();
    let found = cluster
        .gateway_is("web", "Programmed", "True/Programmed")
        .await;
    assert_eq!(found["status"]["addresses"][0]["value"], "192.0.2.1");
    let service = cluster.get(SERVICE, "gateway-web").await;
    assert_eq!(
        service["spec"]["loadBalancerClass"],
        "headgate.io/gateway-pool"
    );
}
