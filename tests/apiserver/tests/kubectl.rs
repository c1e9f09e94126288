//! The stand-in API server with its two real clients: kubectl, and the kube crate.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::process::{Command, Stdio};

use headgate_apiserver::{ApiServer, Options};
use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client, Config, config::Kubeconfig};

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {ports: [{port: 80, targetPort: 9376}]}
";

async fn start() -> ApiServer {
    let token = Some("secret".into());
    ApiServer::start(Options {
        token,
        ..Options::default()
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_applies_gets_and_deletes() {
    if Command::new("kubectl")
        .arg("help")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        println!("SKIPPED: kubectl is not on the PATH");
        return;
    }
    let server = start().await;
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, server.kubeconfig()).unwrap();
    let manifest = folder.path().join("web.yaml");
    std::fs::write(&manifest, SERVICE).unwrap();
    let kubectl = |words: &str| {
        let mut command = Command::new("kubectl");
        command
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .args(words.split(' '));
        let output = command
            .env("HOME", folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "kubectl {words}: {error}");
        String::from_utf8(output.stdout).unwrap()
    };
    let applied = kubectl(&format!("apply -f {}", manifest.display()));
    assert!(applied.contains("service/web created"), "{applied}");
    let table = kubectl("get services");
    assert!(
        table.contains("CLUSTER-IP") && table.contains("web"),
        "{table}"
    );
    let deleted = kubectl("delete service web");
    assert!(deleted.contains("deleted"), "{deleted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kube_lists_what_was_applied() {
    let server = start().await;
    server.apply_yaml(SERVICE).unwrap();
    let kubeconfig = Kubeconfig::from_yaml(&server.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default())
        .await
        .unwrap();
    let services: Api<Service> = Api::default_namespaced(Client::try_from(config).unwrap());
    let web = services.get("web").await.unwrap();
    let address = web.spec.unwrap().cluster_ip.unwrap();
    assert!(address.starts_with("10.96."), "{address}");
}
