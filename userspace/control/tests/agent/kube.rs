//! Behaviour of the agent that only an API server can cause.

use std::{future::pending, time::Duration};

use headgate_control::{Inputs, Kind, Outputs, Reconciler, Status, run};
use headgate_model::Actual;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice, events::v1::Event};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use crate::{
    memory::{PATIENCE, PublishedMaps, dump, node},
    source::{Agent, service, slice},
};

/// Service `name` with its slice `name-1`.
fn web(name: &str, cluster_ip: &str, endpoint: &str) -> String {
    let endpoint = format!("{{addresses: [{endpoint}], nodeName: n1}}");
    service(
        name,
        &format!("clusterIP: {cluster_ip}, ports: [{{port: 80}}]"),
    ) + &slice(
        &format!("{name}-1"),
        name,
        "{name: '', port: 8080}",
        &endpoint,
    )
}

fn line(frontend: &str, backend: &str) -> String {
    let backend = format!("{backend}:8080@here");
    format!("tcp {frontend}:80 ClusterIp in[{backend}] out[{backend}]\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn s62_changes_missed_by_watches_are_found_by_listing() {
    let mut agent = Agent::on_api().await;
    let text = web("a", "10.96.0.1", "10.244.1.2") + &web("b", "10.96.0.2", "10.244.1.4");
    agent.api().apply_yaml(&text).unwrap();
    let both = line("10.96.0.1", "10.244.1.2") + &line("10.96.0.2", "10.244.1.4");
    agent.holds(&both).await;
    let server = agent.api();
    server.stop().await;
    server.delete::<Service>("default", "a").unwrap();
    server.delete::<EndpointSlice>("default", "a-1").unwrap();
    server.compact(server.version());
    let lists = server.requests("list", "services");
    server.resume().await.unwrap();
    agent.holds(&line("10.96.0.2", "10.244.1.4")).await;
    assert!(agent.api().requests("list", "services") > lists);
}

#[tokio::test(flavor = "multi_thread")]
async fn s62_an_absent_server_removes_nothing_and_is_reported() {
    let mut agent = Agent::on_api().await;
    agent
        .api()
        .apply_yaml(&web("a", "10.96.0.1", "10.244.1.2"))
        .unwrap();
    agent.holds(&line("10.96.0.1", "10.244.1.2")).await;
    agent.api().stop().await;
    let disconnected = agent
        .status
        .wait_for(|status| status.source.disconnected.is_some());
    assert!(timeout(PATIENCE, disconnected).await.is_ok());
    assert_eq!(dump(&agent.maps.borrow()), line("10.96.0.1", "10.244.1.2"));
    agent
        .api()
        .apply_yaml(&web("a", "10.96.0.1", "10.244.1.9"))
        .unwrap();
    agent.api().resume().await.unwrap();
    agent.holds(&line("10.96.0.1", "10.244.1.9")).await;
    let connected = agent
        .status
        .wait_for(|status| status.source.disconnected.is_none());
    assert!(timeout(PATIENCE, connected).await.is_ok());
}

/// The maps and the status after an hour of a loop that starts from these maps, and whose source
/// sends only that these kinds are listed.
async fn after_an_hour(actual: Actual, listed: &[Kind]) -> (Actual, Status) {
    tokio::time::pause();
    let (published, maps) = watch::channel(actual.clone());
    let reconciler = Reconciler::new(PublishedMaps { actual, published }, node()).unwrap();
    let (sender, events) = mpsc::channel(4);
    for kind in listed {
        sender
            .send(headgate_control::Event::Listed(*kind))
            .await
            .unwrap();
    }
    let (_nodes, nodes) = watch::channel(node());
    let (_audits, audits) = mpsc::channel(1);
    let (status, statuses) = watch::channel(Status::default());
    let inputs = Inputs {
        events,
        nodes,
        audits,
    };
    let outputs = Outputs {
        status,
        passes: mpsc::unbounded_channel().0,
    };
    let hour = Duration::from_secs(3600);
    timeout(hour, run(reconciler, inputs, outputs, pending()))
        .await
        .unwrap_err();
    (maps.borrow().clone(), statuses.borrow().clone())
}

#[tokio::test]
async fn s62_an_agent_that_starts_without_a_server_leaves_the_maps_unchanged() {
    let mut agent = Agent::on_manifests().await;
    agent
        .write("web.yaml", &web("a", "10.96.0.1", "10.244.1.2"))
        .await;
    let expected = line("10.96.0.1", "10.244.1.2");
    agent.holds(&expected).await;
    let actual = agent.maps.borrow().clone();
    drop(agent);
    for listed in [&[][..], &[Kind::Service, Kind::Node]] {
        let (maps, status) = after_an_hour(actual.clone(), listed).await;
        assert_eq!(dump(&maps), expected, "{listed:?}");
        assert!(!status.is_synced, "{listed:?}");
        tokio::time::resume();
    }
    // The zone of the Node is optional.
    let listed = [Kind::Service, Kind::EndpointSlice];
    let (maps, status) = after_an_hour(actual, &listed).await;
    assert_eq!(dump(&maps), "");
    assert!(status.is_synced);
}

#[tokio::test(flavor = "multi_thread")]
async fn s62_a_stalled_watch_is_noticed() {
    let mut agent = Agent::on_api().await;
    agent
        .api()
        .apply_yaml(&web("a", "10.96.0.1", "10.244.1.2"))
        .unwrap();
    agent.holds(&line("10.96.0.1", "10.244.1.2")).await;
    agent.api().stall_watches(true);
    agent
        .api()
        .apply_yaml(&web("a", "10.96.0.1", "10.244.1.9"))
        .unwrap();
    let disconnected = agent
        .status
        .wait_for(|status| status.source.disconnected.is_some());
    assert!(timeout(PATIENCE, disconnected).await.is_ok());
    agent.api().stall_watches(false);
    agent.holds(&line("10.96.0.1", "10.244.1.9")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s65_refusals_become_events() {
    let mut agent = Agent::on_api().await;
    let text = service(
        "web",
        "clusterIP: 10.96.0.1, externalIPs: [192.168.50.1], ports: [{port: 80}]",
    );
    agent.api().apply_yaml(&text).unwrap();
    agent
        .complains("192.168.50.1 is an address of this node")
        .await;
    let is_written = |agent: &Agent| {
        agent.api().list::<Event>().into_iter().any(|event| {
            let note = event.note.unwrap_or_default();
            let name = event.regarding.and_then(|object| object.name);
            note.contains("192.168.50.1") && name.as_deref() == Some("web")
        })
    };
    for _ in 0..1000 {
        if is_written(&agent) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("no Event: {:?}", agent.api().list::<Event>());
}

/// As kube-proxy does: StatefulSets have large headless slices, which nothing here uses.
#[tokio::test(flavor = "multi_thread")]
async fn s149_the_server_is_not_asked_for_headless_slices() {
    let mut agent = Agent::on_api().await;
    let labelled = |label: &str| {
        let text = web("other", "10.96.0.9", "10.244.1.9");
        let own = format!("metadata: {{labels: {{{label}: x}}, ");
        let text = text.replacen("metadata: {", &own, 1);
        text.replace("labels: {kube", &format!("labels: {{{label}: x, kube"))
    };
    for label in [
        "service.kubernetes.io/headless",
        "service.kubernetes.io/service-proxy-name",
    ] {
        agent.api().apply_yaml(&labelled(label)).unwrap();
    }
    agent
        .api()
        .apply_yaml(&web("a", "10.96.0.1", "10.244.1.2"))
        .unwrap();
    agent.holds(&line("10.96.0.1", "10.244.1.2")).await;
    for kind in [Kind::Service, Kind::EndpointSlice] {
        let counted = agent
            .status
            .wait_for(|status| status.source.events.contains_key(&kind));
        let status = timeout(PATIENCE, counted).await.unwrap().unwrap();
        assert_eq!(status.source.events[&kind], 1, "{kind:?}");
    }
}
