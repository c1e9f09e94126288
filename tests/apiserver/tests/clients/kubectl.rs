//! Built-in resources.

use k8s_openapi::api::core::v1::Service;
use kube::Api;

use crate::{Kubectl, client, start};

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {ports: [{port: 80, targetPort: 9376}]}
";

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_applies_gets_and_deletes() {
    let server = start().await;
    let Some(kubectl) = Kubectl::of(&server) else {
        return;
    };
    let applied = kubectl.apply(SERVICE).unwrap();
    assert!(applied.contains("service/web created"), "{applied}");
    let table = kubectl.run(&["get", "services"]).unwrap();
    assert!(
        table.contains("CLUSTER-IP") && table.contains("web"),
        "{table}"
    );
    let deleted = kubectl.run(&["delete", "service", "web"]).unwrap();
    assert!(deleted.contains("deleted"), "{deleted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kube_lists_what_was_applied() {
    let server = start().await;
    server.apply_yaml(SERVICE).unwrap();
    let services: Api<Service> = Api::default_namespaced(client(&server).await);
    let web = services.get("web").await.unwrap();
    let address = web.spec.unwrap().cluster_ip.unwrap();
    assert!(address.starts_with("10.96."), "{address}");
}
