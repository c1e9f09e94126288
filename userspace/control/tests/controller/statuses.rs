//! Statuses.

use headgate_apiserver::GATEWAY_API_CRDS;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::cluster::{Cluster, GATEWAY, OTHER_CLASS, ROUTE, condition, gateway, route};

fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn g05_a_restart_writes_nothing() {
    let cluster = Cluster::new().await;
    cluster.apply(&(gateway("web") + &route("a", "web")));
    let mut first = cluster.start();
    cluster
        .gateway_is("web", "Programmed", "True/Programmed")
        .await;
    cluster.route_is("a", "Accepted", "True/Accepted").await;
    first.settle().await;
    drop(first);
    let version = cluster.server.version();
    let mut second = cluster.start();
    second.settle().await;
    assert!(second.status.borrow().writes.is_empty());
    assert_eq!(cluster.server.version(), version);
    // It is not blind: a change is written, and only where it belongs.
    cluster.apply(&route("b", "web"));
    cluster.route_is("b", "Accepted", "True/Accepted").await;
    cluster
        .wait(GATEWAY, "web", |gateway| {
            gateway["status"]["listeners"][0]["attachedRoutes"] == 2
        })
        .await;
    second.settle().await;
    let writes = second.status.borrow().writes.clone();
    let expected = [(("Gateway", "written"), 1), (("HTTPRoute", "written"), 1)];
    assert_eq!(writes, expected.into());
}

#[tokio::test(flavor = "multi_thread")]
async fn g09_two_writers_make_one_write() {
    let cluster = Cluster::new().await;
    let mut writers = [cluster.start(), cluster.start(), cluster.start()];
    for number in 0..10 {
        let name = format!("r{number}");
        cluster.apply(&(gateway(&format!("g{number}")) + &route(&name, &format!("g{number}"))));
    }
    for number in 0..10 {
        cluster
            .route_is(&format!("r{number}"), "Accepted", "True/Accepted")
            .await;
    }
    for writer in &mut writers {
        writer.settle().await;
    }
    // Each route has one version for its creation and one for the status. Those who lost judged again.
    let written: u64 = writers
        .iter()
        .map(|writer| {
            let status = writer.status.borrow();
            assert_eq!(status.failing, 0);
            let written = status.writes.get(&("HTTPRoute", "written"));
            written.copied().unwrap_or_default()
        })
        .sum();
    assert_eq!(written, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn g08_a_status_that_changed_meanwhile_is_judged_again() {
    let cluster = Cluster::new().await;
    cluster.apply(&(gateway("web") + &route("a", "web")));
    let mut controller = cluster.start();
    cluster.route_is("a", "Accepted", "True/Accepted").await;
    controller.settle().await;
    // Another controller writes an entry of its own, again and again, while ours writes too.
    let foreign = json!({
        "parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "theirs"},
        "controllerName": "example.com/other",
        "conditions": [],
    });
    let routes = cluster.api(ROUTE);
    for round in 0..10 {
        let backend = if round % 2 == 0 { "missing" } else { "web" };
        cluster.apply(
            &route("a", "web").replace("name: web, port", &format!("name: {backend}, port")),
        );
        loop {
            let mut found = cluster.get(ROUTE, "a").await;
            let version = version(&found).to_owned();
            let parents = found["status"]["parents"].as_array_mut().unwrap();
            parents.retain(|one| one["controllerName"] != "example.com/other");
            let mut entry = foreign.clone();
            entry["conditions"] = json!([{
                "type": "Accepted", "status": "True", "reason": "Accepted", "message": format!("{round}"),
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }]);
            parents.insert(0, entry);
            let patch = json!({
                "metadata": {"resourceVersion": version},
                "status": {"parents": parents},
            });
            let params = PatchParams::default();
            match routes
                .patch_status("a", &params, &Patch::Merge(patch))
                .await
            {
                Ok(_) => break,
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => panic!("{error}"),
            }
        }
        let expected = match round % 2 {
            0 => "False/BackendNotFound",
            _ => "True/ResolvedRefs",
        };
        cluster
            .wait(ROUTE, "a", |route| {
                let parents = &route["status"]["parents"];
                // Theirs is where it was, and as it was.
                parents[0]["conditions"][0]["message"] == format!("{round}")
                    && condition(&parents[1]["conditions"], "ResolvedRefs") == expected
            })
            .await;
    }
    assert_eq!(controller.status.borrow().failing, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn g13_crds_may_come_later() {
    let cluster = Cluster::bare().await;
    let mut controller = cluster.start();
    let is_synced = controller.status.wait_for(|status| status.is_synced);
    tokio::time::timeout(crate::cluster::PATIENCE, is_synced)
        .await
        .unwrap()
        .unwrap();
    cluster.apply(GATEWAY_API_CRDS);
    cluster.apply(
        "{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: headgate}, \
          spec: {controllerName: headgate.io/gateway}}",
    );
    cluster.apply(&gateway("web"));
    cluster
        .gateway_is("web", "Programmed", "True/Programmed")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g02_the_version_of_the_crds_is_in_the_status_of_the_class() {
    let cluster = Cluster::new().await;
    cluster.apply(OTHER_CLASS);
    let mut controller = cluster.start();
    let class = "gateway.networking.k8s.io/v1/GatewayClass";
    let api = cluster.cluster_api(class);
    let wait = async {
        loop {
            let found = api.get("headgate").await.unwrap();
            let conditions = &found.data["status"]["conditions"];
            if condition(conditions, "SupportedVersion") == "True/SupportedVersion" {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(crate::cluster::PATIENCE, wait)
        .await
        .unwrap();
    controller.settle().await;
    let theirs = api.get("other").await.unwrap();
    // As the CRD fills it in.
    assert_eq!(theirs.data["status"]["conditions"][0]["reason"], "Pending");
}

const POLICY: &str = "headgate.io/v1alpha1/RoutePolicy";

fn policy(name: &str, target: &str, settings: &str) -> String {
    format!(
        "apiVersion: headgate.io/v1alpha1
kind: RoutePolicy
metadata: {{name: {name}, namespace: default}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: {target}}}]
  {settings}
---
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn l189_policies_have_statuses_and_their_definition_may_come_later() {
    let cluster = Cluster::new().await;
    cluster.apply(&(gateway("web") + &route("a", "web")));
    let mut controller = cluster.start();
    cluster.route_is("a", "Accepted", "True/Accepted").await;
    cluster.apply(include_str!(
        "../../../../deploy/gateway/routepolicies.yaml"
    ));
    cluster.apply(&policy("good", "a", "maxBodySize: 1m"));
    cluster.apply(&policy("late", "a", "maxBodySize: 2m"));
    cluster.apply(&policy("lost", "b", "maxBodySize: 2m"));
    // The API server keeps a field that it does not know.
    cluster.apply(&policy("unknown", "a", "limits: {requests: 5}"));
    let expected = [
        ("good", "True/Accepted", "Gateway"),
        ("late", "False/Conflicted", "Gateway"),
        ("lost", "False/TargetNotFound", "HTTPRoute"),
        ("unknown", "False/Invalid", "Gateway"),
    ];
    for (name, accepted, kind) in expected {
        let object = cluster
            .wait(POLICY, name, |policy| {
                let ancestor = &policy["status"]["ancestors"][0];
                condition(&ancestor["conditions"], "Accepted") == accepted
            })
            .await;
        let ancestor = &object["status"]["ancestors"][0];
        assert_eq!(ancestor["ancestorRef"]["kind"], kind, "{name}");
        assert_eq!(ancestor["controllerName"], "headgate.io/gateway");
    }
    controller.settle().await;
}
