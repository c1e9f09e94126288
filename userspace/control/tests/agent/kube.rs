//! The Kubernetes source through everything that an API server does to a watch.

use headgate_apiserver::{ApiServer, Options};
use headgate_control::{Inputs, Reconciler, Status, kube as source, run};
use headgate_model::Actual;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{Client, Config};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use crate::memory::{Memory, PATIENCE, dump, node};

async fn start() -> ApiServer {
    let options = Options {
        tls: false,
        kubernetes_service: false,
        ..Options::default()
    };
    ApiServer::start(options).await.unwrap()
}

/// Runs the loop on a server, and returns its maps and its status.
async fn agent(server: &ApiServer) -> (watch::Receiver<Actual>, watch::Receiver<Status>) {
    let client = Client::try_from(Config::new(server.url().parse().unwrap())).unwrap();
    let (published, maps) = watch::channel(Actual::default());
    let memory = Memory {
        actual: Actual::default(),
        published,
    };
    let reconciler = Reconciler::new(memory, node()).unwrap();
    let (sender, events) = mpsc::channel(64);
    let (status_sender, status) = watch::channel(Status::default());
    tokio::spawn(async move { source::follow(client, "n1", sender).await });
    tokio::spawn(async move {
        let (_nodes, nodes) = watch::channel(node());
        let (_audits, audits) = mpsc::channel(1);
        let inputs = Inputs {
            events,
            nodes,
            audits,
        };
        run(reconciler, inputs, status_sender, std::future::pending()).await;
    });
    (maps, status)
}

async fn until(maps: &mut watch::Receiver<Actual>, expected: &str) {
    let result = timeout(PATIENCE, maps.wait_for(|actual| dump(actual) == expected))
        .await
        .is_ok();
    assert!(result, "expected\n{expected}have\n{}", dump(&maps.borrow()));
}

/// Service `name` with its slice `name-1`.
fn put(server: &ApiServer, name: &str, cluster_ip: &str, endpoint: &str) {
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{clusterIP: {cluster_ip}, ports: [{{port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         ports: [{{name: '', port: 8080}}]\n\
         endpoints: [{{addresses: [{endpoint}], nodeName: n1}}]\n"
    );
    server.apply_yaml(&text).unwrap();
}

fn line(frontend: &str, backend: &str) -> String {
    let backend = format!("{backend}:8080@here");
    format!("tcp {frontend}:80 ClusterIp in[{backend}] out[{backend}]\n")
}

#[tokio::test]
async fn s62_maps_follow_the_api_through_cuts_and_410() {
    let server = start().await;
    put(&server, "a", "10.96.0.1", "10.244.1.2");
    let (mut maps, _status) = agent(&server).await;
    until(&mut maps, &line("10.96.0.1", "10.244.1.2")).await;

    put(&server, "a", "10.96.0.1", "10.244.1.3");
    until(&mut maps, &line("10.96.0.1", "10.244.1.3")).await;

    // Watches end, as they do every few minutes, and go on from where they were.
    server.drop_watches();
    put(&server, "b", "10.96.0.2", "10.244.1.4");
    let both = line("10.96.0.1", "10.244.1.3") + &line("10.96.0.2", "10.244.1.4");
    until(&mut maps, &both).await;

    // What was deleted while nobody watched, and the server forgot, is found by listing again.
    server.stop().await;
    server.delete::<Service>("default", "a").unwrap();
    server.delete::<EndpointSlice>("default", "a-1").unwrap();
    put(&server, "b", "10.96.0.2", "10.244.1.5");
    server.compact(server.version());
    let lists = server.requests("list", "services");
    server.resume().await.unwrap();
    until(&mut maps, &line("10.96.0.2", "10.244.1.5")).await;
    assert!(server.requests("list", "services") > lists);

    // A watch that is told in the middle that it expired lists again as well.
    server.expire_watches();
    put(&server, "b", "10.96.0.2", "10.244.1.6");
    until(&mut maps, &line("10.96.0.2", "10.244.1.6")).await;
}

#[tokio::test]
async fn s62_absent_server_takes_nothing_away_and_is_told() {
    let server = start().await;
    put(&server, "a", "10.96.0.1", "10.244.1.2");
    let (mut maps, mut status) = agent(&server).await;
    until(&mut maps, &line("10.96.0.1", "10.244.1.2")).await;
    server.stop().await;
    let told = status.wait_for(|status| status.disconnected.is_some());
    assert!(timeout(PATIENCE, told).await.is_ok());
    assert_eq!(dump(&maps.borrow()), line("10.96.0.1", "10.244.1.2"));
    put(&server, "a", "10.96.0.1", "10.244.1.9");
    server.resume().await.unwrap();
    until(&mut maps, &line("10.96.0.1", "10.244.1.9")).await;
    let told = status.wait_for(|status| status.disconnected.is_none());
    assert!(timeout(PATIENCE, told).await.is_ok());
}
