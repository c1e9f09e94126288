//! The agent's binary and the Kubernetes API: what `kubectl` applies is served on real sockets.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use crate::common::{
    BALANCER, cluster_without_agents, count, curl, eventually, headgate, names, on, pods_over_http,
};
use headgate_apiserver::{ASSETS, ApiServer, TestServer};
use headgate_netns::{Cluster, SERVICE, get, http, slices, udp};

fn can_run(name: &str) -> bool {
    let has_kubectl = Command::new("kubectl").arg("help").output().is_ok();
    if !has_kubectl {
        println!("SKIPPED: {name}: kubectl is not on the PATH");
    }
    has_kubectl
}

fn api(cluster: &Cluster) -> &ApiServer {
    match &cluster.api {
        Some(TestServer::StandIn(server)) => server,
        _ => panic!("the stand-in runs unless the real one is named"),
    }
}

fn apply(cluster: &Cluster, text: &str) {
    cluster.kubectl(&["apply", "-f", "-"], text).unwrap();
}

#[test]
fn s01_s12_what_kubectl_applies_is_served() {
    if !can_run("s01_s12_what_kubectl_applies_is_served") {
        return;
    }
    let Some(mut cluster) = cluster_without_agents("api", 2, 1) else {
        return;
    };
    cluster.serve_api().unwrap();
    for index in 0..2 {
        cluster.start_agent(index).unwrap();
    }
    apply(&cluster, SERVICE);
    apply(&cluster, &slices(&[(1, 1), (2, 1)]));
    let node = on(cluster.nodes[0].v4, 30080);
    let both = names(&["web-1-1", "web-2-1"]);
    eventually("the node port answers", || {
        cluster.client.run(move || get(node).is_ok())
    });
    assert_eq!(pods_over_http(&cluster.client, node), both);
    let datagrams = on(cluster.nodes[0].v6, 30007);
    let (_, peer) = cluster.client.run(move || udp(datagrams).unwrap());
    assert_eq!(peer, datagrams);

    // The controller of the load balancer writes its address into the status.
    let balancer = on(BALANCER, 80);
    assert!(cluster.client.run(move || get(balancer).is_err()));
    let status = r#"{"status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.10"}]}}}"#;
    let patch = [
        "patch",
        "service",
        "web",
        "--subresource=status",
        "--type=merge",
        "-p",
        status,
    ];
    cluster.kubectl(&patch, "").unwrap();
    eventually("the load balancer's address answers", || {
        cluster.client.run(move || get(balancer).is_ok())
    });
    let table = cluster.kubectl(&["get", "services"], "").unwrap();
    assert!(
        table.contains("203.0.113.10") && table.contains("80:30080/TCP"),
        "{table}"
    );

    // An agent that starts again applies what changed while it was away.
    cluster.nodes[0].agent.take().unwrap().kill().unwrap();
    apply(&cluster, &slices(&[(2, 1)]));
    assert_eq!(
        pods_over_http(&cluster.client, node),
        both,
        "while the agent is dead"
    );
    cluster.start_agent(0).unwrap();
    assert_eq!(pods_over_http(&cluster.client, node), names(&["web-2-1"]));

    cluster.kubectl(&["delete", "service", "web"], "").unwrap();
    eventually("the service is gone", || {
        cluster.client.run(move || get(node).is_err())
    });
    let log = cluster.nodes[0].agent.as_ref().unwrap().log();
    assert!(!log.contains("ERROR"), "{log}");
}

#[test]
fn s62_absent_api_removes_nothing() {
    if std::env::var_os(ASSETS).is_some() {
        println!("SKIPPED: s62_absent_api_removes_nothing: the real API server cannot be cut off");
        return;
    }
    let Some(mut cluster) = cluster_without_agents("noapi", 1, 2) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    cluster.serve_api().unwrap();
    api(&cluster).apply_yaml(SERVICE).unwrap();
    api(&cluster).apply_yaml(&slices(&[(1, 1)])).unwrap();
    cluster.start_agent(0).unwrap();
    let node = on(cluster.nodes[0].v4, 30080);
    assert_eq!(pods_over_http(&cluster.client, node), names(&["web-1-1"]));
    runtime.block_on(api(&cluster).stop());
    let log = || cluster.nodes[0].agent.as_ref().unwrap().log();
    eventually("the agent logs it", || log().contains("disconnected"));
    assert_eq!(pods_over_http(&cluster.client, node), names(&["web-1-1"]));
    api(&cluster).apply_yaml(&slices(&[(1, 2)])).unwrap();
    runtime.block_on(api(&cluster).resume()).unwrap();
    eventually("what changed meanwhile is served", || {
        pods_over_http(&cluster.client, node) == names(&["web-1-2"])
    });
}

#[test]
fn time_from_a_change_to_the_maps_is_measured_once() {
    if !can_run("time_from_a_change_to_the_maps_is_measured_once") {
        return;
    }
    let Some(mut cluster) = cluster_without_agents("lat", 1, 1) else {
        return;
    };
    cluster.serve_api().unwrap();
    apply(&cluster, SERVICE);
    let with_trigger = |at: &str| {
        let annotation = format!(
            "annotations: {{endpoints.kubernetes.io/last-change-trigger-time: \"{at}\"}}\n  labels:"
        );
        slices(&[(1, 1)]).replacen("labels:", &annotation, 1)
    };
    apply(&cluster, &with_trigger("2020-01-01T00:00:00Z"));
    cluster.start_agent(0).unwrap();
    let count = || {
        let address = SocketAddr::from(([127, 0, 0, 1], 10249));
        let ask = move || http(address, "/metrics").unwrap().1;
        let text = cluster.nodes[0].netns.run(ask);
        let line = text.lines().find_map(|line| {
            line.strip_prefix("kubeproxy_network_programming_duration_seconds_count ")
        });
        line.unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(
        count(),
        0,
        "a change before the agent started is not measured"
    );
    let later = with_trigger("2099-01-01T00:00:00Z");
    apply(&cluster, &later);
    eventually("the change is measured", || count() == 1);
    // Other contents with the trigger time of the same change.
    apply(&cluster, &later.replace("9376", "9377"));
    let is_taken_up = || {
        headgate(&cluster.nodes[0], &["backends"])
            .1
            .contains(":9377")
    };
    eventually("the other contents are there", is_taken_up);
    assert_eq!(count(), 1);
}

#[test]
fn s173_agent_starts_while_the_named_api_server_is_away() {
    let Some(mut cluster) = cluster_without_agents("apis", 1, 1) else {
        return;
    };
    cluster.serve_api().unwrap();
    let file = cluster.manifests().with_file_name("api-servers");
    let options = ["--api-servers-file", file.to_str().unwrap()];
    cluster.start_agent_with(0, &options).unwrap();
    let known = || std::fs::read_to_string(&file).unwrap_or_default();
    eventually("the API server is remembered", || !known().is_empty());
    assert_eq!(known(), "https://192.168.50.100:6443/\n");
    cluster.nodes[0].agent.take().unwrap().terminate().unwrap();
    // Nothing listens on this port.
    let kubeconfig = std::fs::read_to_string(cluster.kubeconfig()).unwrap();
    let away = kubeconfig.replace(":6443", ":6444");
    std::fs::write(cluster.kubeconfig(), away).unwrap();
    api(&cluster).apply_yaml(SERVICE).unwrap();
    api(&cluster).apply_yaml(&slices(&[(1, 1)])).unwrap();
    cluster.start_agent_with(0, &options).unwrap();
    let node = on(cluster.nodes[0].v4, 30080);
    let found = pods_over_http(&cluster.client, node);
    assert_eq!(found, names(&["web-1-1"]));
    let log = cluster.nodes[0].agent.as_ref().unwrap().log();
    assert!(log.contains("asking another one"), "{log}");
}

/// A pod that opts out.
const OPTED_OUT: &str = "apiVersion: v1
kind: Pod
metadata: {name: sidecar, labels: {headgate.io/socket-balancing: disabled}}
spec: {nodeName: n1, containers: [{name: proxy, image: proxy}]}
";

#[test]
fn s178_pods_opt_out_of_socket_balancing_by_a_label() {
    if !can_run("s178_pods_opt_out_of_socket_balancing_by_a_label") {
        return;
    }
    let Some(mut cluster) = cluster_without_agents("optout", 1, 2) else {
        return;
    };
    const OPTIONS: &[&str] = &["--socket-scope", "opt-out"];
    cluster.serve_api().unwrap();
    apply(&cluster, SERVICE);
    apply(&cluster, &slices(&[(1, 1)]));
    apply(&cluster, OPTED_OUT);
    cluster.start_agent_with(0, OPTIONS).unwrap();
    let uid = cluster.kubectl(
        &["get", "pod", "sidecar", "-o", "jsonpath={.metadata.uid}"],
        "",
    );
    let uid = uid.unwrap();
    // As the kubelet names them; it makes the cgroup later than the API shows the pod.
    let slice = |uid: &str| format!("kubepods-besteffort-pod{}.slice", uid.replace('-', "_"));
    let pods = cluster.nodes[0]
        .cgroup
        .join("kubepods.slice/kubepods-besteffort.slice");
    let container = pods.join(slice(&uid)).join("cri-containerd-1.scope");
    let other = pods.join(slice("4b0d")).join("cri-containerd-2.scope");
    fs::create_dir_all(&container).unwrap();
    fs::create_dir_all(&other).unwrap();
    let is_left = |cgroup: &Path| {
        let node = &cluster.nodes[0];
        let before = count(node, "socket-translated");
        let body = curl(&node.pods[1].netns, cgroup, "http://10.96.0.10/").unwrap();
        assert!(body.contains("web-1-1"), "{body}");
        count(node, "socket-translated") == before
    };
    eventually("the pod's sockets are left", || is_left(&container));
    assert!(is_left(&pods.join(slice(&uid))));
    assert!(!is_left(&other));
    let (_, maps) = headgate(&cluster.nodes[0], &["maps"]);
    let line = maps
        .lines()
        .find(|line| line.contains("LEFT_CGROUPS"))
        .unwrap();
    assert!(line.split_whitespace().any(|word| word == "1"), "{maps}");
    // The label is gone, and comes back.
    let label = |change: &str| {
        cluster
            .kubectl(&["label", "pod", "sidecar", change], "")
            .unwrap();
    };
    label("headgate.io/socket-balancing-");
    eventually("the pod's sockets are balanced", || !is_left(&container));
    label("headgate.io/socket-balancing=disabled");
    eventually("they are left again", || is_left(&container));
}

#[test]
fn s178_pods_stay_opted_out_without_an_agent() {
    if !can_run("s178_pods_stay_opted_out_without_an_agent") {
        return;
    }
    let Some(mut cluster) = cluster_without_agents("optoff", 1, 2) else {
        return;
    };
    cluster.serve_api().unwrap();
    apply(&cluster, SERVICE);
    apply(&cluster, &slices(&[(1, 1)]));
    apply(&cluster, OPTED_OUT);
    let uid = cluster.kubectl(
        &["get", "pod", "sidecar", "-o", "jsonpath={.metadata.uid}"],
        "",
    );
    let container = cluster.nodes[0]
        .cgroup
        .join(format!("kubepods/pod{}/1", uid.unwrap()));
    fs::create_dir_all(&container).unwrap();
    cluster
        .start_agent_with(0, &["--socket-scope", "opt-out"])
        .unwrap();
    let left = |cluster: &Cluster| {
        let (_, maps) = headgate(&cluster.nodes[0], &["maps"]);
        let line = maps.lines().find(|line| line.contains("LEFT_CGROUPS"));
        line.is_some_and(|line| line.split_whitespace().any(|word| word == "1"))
    };
    eventually("the cgroup is known", || left(&cluster));
    cluster.nodes[0].agent.take().unwrap().kill().unwrap();
    let node = &cluster.nodes[0];
    let before = count(node, "socket-translated");
    let body = curl(&node.pods[1].netns, &container, "http://10.96.0.10/").unwrap();
    assert!(body.contains("web-1-1"), "{body}");
    assert_eq!(count(node, "socket-translated"), before);
    // The next one finds that the pod is gone.
    cluster
        .kubectl(&["delete", "pod", "sidecar", "--now"], "")
        .unwrap();
    cluster
        .start_agent_with(0, &["--socket-scope", "opt-out"])
        .unwrap();
    eventually("the cgroup is forgotten", || !left(&cluster));
}
