//! Errors that only manifests can have: an API server would refuse them.

use std::{fs, time::Duration};

use headgate_model::Actual;
use notify::{EventKind, Watcher, event::AccessKind};
use tokio::time::{sleep, timeout};

use crate::{
    memory::{PATIENCE, dump},
    source::{Agent, Source, service, slice},
};

#[tokio::test]
async fn s65_invalid_input_is_reported_and_the_rest_stays_in_effect() {
    let web = |ports: &str| service("web", &format!("clusterIP: 10.96.0.1, ports: {ports}"));
    let mut agent = Agent::on_manifests().await;
    let good = "tcp 10.96.0.1:80 ClusterIp in[] out[]\n";
    agent.write("web.yaml", &web("[{port: 80}]")).await;
    agent.holds(good).await;
    for (text, complaint) in [
        (web("[{port: 80"), "web.yaml: document 1"),
        (
            web("[{port: 80, prot: TCP}]"),
            "unknown field spec.ports.0.prot",
        ),
        (web("[{port: eighty}]"), "Service default/web: "),
    ] {
        agent.write("web.yaml", &text).await;
        agent.complains(complaint).await;
        agent.holds(good).await;
    }
    agent
        .write("web.yaml", &web("[{port: 80}, {name: zero, port: 0}]"))
        .await;
    agent
        .complains("Service default/web: spec.ports[1].port: 0 is not a port (1 to 65535)")
        .await;
    agent.holds(good).await;
}

#[tokio::test]
async fn s61_restart_keeps_ids_and_applies_missed_changes() {
    let pods = |address: &str| {
        let endpoint = format!("{{addresses: [{address}], nodeName: n1}}");
        slice("web-1", "web", "{name: '', port: 8080}", &endpoint)
    };
    let mut agent = Agent::on_manifests().await;
    let web = service("web", "clusterIP: 10.96.0.1, ports: [{port: 80}]");
    agent.write("web.yaml", &web).await;
    agent.write("pods.yaml", &pods("10.244.1.2")).await;
    let line = |backend: &str| {
        format!("tcp 10.96.0.1:80 ClusterIp in[{backend}:8080@here] out[{backend}:8080@here]\n")
    };
    agent.holds(&line("10.244.1.2")).await;
    let before = agent.maps.borrow().clone();
    let mut agent = agent.restart().await;
    assert_eq!(
        dump(&agent.maps.borrow()),
        line("10.244.1.2"),
        "nothing shrank"
    );
    agent.write("pods.yaml", &pods("10.244.1.9")).await;
    agent.holds(&line("10.244.1.9")).await;
    for (key, (id, _)) in &before.services {
        assert_eq!(agent.maps.borrow().services[key].0, *id, "id of {key}");
    }
    let Source::Manifests(folder) = &agent.source else {
        unreachable!("it runs on manifests");
    };
    std::fs::remove_file(folder.path().join("web.yaml")).unwrap();
    let mut maps = agent.maps.clone();
    let is_empty = maps.wait_for(|actual| *actual == Actual::default());
    timeout(PATIENCE, is_empty).await.unwrap().unwrap();
}

#[tokio::test]
async fn l107_manifests_of_sub_folders_are_read_and_followed() {
    let mut agent = Agent::on_manifests().await;
    let Source::Manifests(folder) = &agent.source else {
        unreachable!("it runs on manifests");
    };
    let below = folder.path().join("shop/base");
    std::fs::create_dir_all(&below).unwrap();
    let hidden = folder.path().join(".git");
    std::fs::create_dir_all(&hidden).unwrap();
    let other = service("other", "clusterIP: 10.96.0.2, ports: [{port: 80}]");
    std::fs::write(hidden.join("other.yaml"), other).unwrap();
    let web = service("web", "clusterIP: 10.96.0.1, ports: [{port: 80}]");
    std::fs::write(below.join("web.yaml"), web).unwrap();
    agent.holds("tcp 10.96.0.1:80 ClusterIp in[] out[]\n").await;
    std::fs::remove_dir_all(below).unwrap();
    agent.holds("").await;
}

#[tokio::test]
async fn s149_a_folder_that_does_not_change_is_not_read() {
    let mut agent = Agent::on_manifests().await;
    let web = service("web", "clusterIP: 10.96.0.1, ports: [{port: 80}]");
    agent.write("web.yaml", &web).await;
    agent.holds("tcp 10.96.0.1:80 ClusterIp in[] out[]\n").await;
    let Source::Manifests(folder) = &agent.source else {
        unreachable!()
    };
    // Whatever is still to be read for the last change.
    sleep(Duration::from_millis(300)).await;
    let (sender, events) = std::sync::mpsc::channel();
    let mut watcher = notify::recommended_watcher(sender).unwrap();
    watcher
        .watch(folder.path(), notify::RecursiveMode::NonRecursive)
        .unwrap();
    fs::read_to_string(folder.path().join("web.yaml")).unwrap();
    sleep(Duration::from_millis(500)).await;
    let opened = events.try_iter().flatten();
    let opened =
        opened.filter(|event| matches!(event.kind, EventKind::Access(AccessKind::Open(_))));
    assert_eq!(opened.count(), 1, "only this test's");
}
