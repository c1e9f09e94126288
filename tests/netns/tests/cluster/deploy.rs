//! The roles and capabilities in `deploy/` are exactly those that agent and proxy need.

use std::{
    fs::{self, Permissions},
    net::IpAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    common::{CLUSTER_V4, cluster_without_agents, eventually, names, on, pods_over_http},
    services::{http_answers, is_refused},
};
use headgate_abi::SocketEntry;
use headgate_apiserver::{ASSETS, ApiServer, Attributes, GATEWAY_API_CRDS, TestServer};
use headgate_dataplane::Maps;
use headgate_netns::{Cluster, LISTENERS, PROXY_USER, Process, SERVICE, Talk, binary, get, slices};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::Container,
    events::v1::Event,
    networking::v1::{Ingress, ServiceCIDR},
    rbac::v1::ClusterRole,
};
use nix::sys::signal::Signal;
use serde::{Deserialize, de::DeserializeOwned};

const RBAC: &str = include_str!("../../../../deploy/base/rbac.yaml");
const GATEWAY_RBAC: &str = include_str!("../../../../deploy/gateway/rbac.yaml");
/// What a controller makes for the Gateway of the example, and its class.
const MADE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: headgate}
spec: {controllerName: headgate.io/gateway}
---
apiVersion: v1
kind: Service
metadata: {name: gateway-lines}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.21
  ports:
  - {name: tcp-9000, port: 9000}
  - {name: udp-9000, port: 9000, protocol: UDP}
status: {loadBalancer: {ingress: [{ip: 203.0.113.21}]}}
";
const DAEMONSET: &str = include_str!("../../../../deploy/base/daemonset.yaml");

/// The object of a kind and name in a manifest. Fails if the API lacks a field.
pub(crate) fn object<K: DeserializeOwned>(text: &str, kind: &str, name: &str) -> K {
    let documents = yaml_serde::Deserializer::from_str(text)
        .map(|document| yaml_serde::Value::deserialize(document).unwrap());
    let mut wanted = documents.filter(|document| {
        document["kind"].as_str() == Some(kind)
            && document["metadata"]["name"].as_str() == Some(name)
    });
    let mut unknown = Vec::new();
    let object = serde_ignored::deserialize(wanted.next().unwrap(), |path| {
        unknown.push(path.to_string());
    });
    assert!(unknown.is_empty(), "the API has no {unknown:?}");
    object.unwrap()
}

/// The resource of a request, in the form that roles use.
fn resource(request: &Attributes) -> String {
    match &request.subresource {
        Some(part) => format!("{}/{part}", request.resource),
        None => request.resource.clone(),
    }
}

/// Whether a role allows a request.
fn allows(role: &ClusterRole, request: &Attributes) -> bool {
    let has = |list: &Option<Vec<String>>, value: &String| {
        list.as_ref().is_some_and(|list| list.contains(value))
    };
    role.rules.iter().flatten().any(|rule| {
        has(&rule.api_groups, &request.group)
            && has(&rule.resources, &resource(request))
            && rule.verbs.contains(&request.verb)
    })
}

pub(crate) type Requests = Arc<Mutex<Vec<Attributes>>>;

/// Serves an API that allows what a role allows; returns the requests that it gets.
pub(crate) fn serve_role(cluster: &mut Cluster, role: &ClusterRole) -> Requests {
    let asked = Requests::default();
    let (log, enforced) = (asked.clone(), role.clone());
    cluster
        .serve_api_to(Some(Arc::new(move |request: &Attributes| {
            log.lock().unwrap().push(request.clone());
            allows(&enforced, request)
        })))
        .unwrap();
    asked
}

pub(crate) fn api(cluster: &Cluster) -> &ApiServer {
    match &cluster.api {
        Some(TestServer::StandIn(api)) => api,
        _ => unreachable!("the stand-in runs unless the real one is named"),
    }
}

/// Asserts that no request was refused, and that each permission of the role was used, except these
/// verbs.
pub(crate) fn assert_fits(role: &ClusterRole, asked: &Requests, spare: &[&str]) {
    let asked = asked.lock().unwrap();
    let refused: Vec<_> = asked
        .iter()
        .filter(|request| !allows(role, request))
        .collect();
    assert!(refused.is_empty(), "{refused:?}");
    for rule in role.rules.iter().flatten() {
        for name in rule.resources.iter().flatten() {
            for verb in &rule.verbs {
                let mut asked = asked.iter();
                let is_used = asked.any(|it| resource(it) == *name && it.verb == *verb);
                let is_spare = spare.contains(&verb.as_str());
                assert!(is_used || is_spare, "{verb} {name} is not used");
            }
        }
    }
}

/// The capabilities of a container, in the form of setpriv(1).
fn capabilities(container: &Container) -> String {
    let context = container.security_context.clone().unwrap();
    let added = context.capabilities.unwrap().add.unwrap_or_default();
    let added = added
        .iter()
        .map(|name| format!(",+{}", name.to_lowercase()));
    format!("-all{}", added.collect::<String>())
}

fn container(text: &str, name: &str) -> Container {
    let daemonset: DaemonSet = object(text, "DaemonSet", name);
    let pod = daemonset.spec.unwrap().template.spec.unwrap();
    pod.containers[0].clone()
}

/// A ServiceCIDR, as the API server makes one of its options.
const RANGES: &str = "
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.96.0.0/16, 'fd96::/112']}
";

#[test]
fn s116_ranges_of_service_addresses_come_from_the_api() {
    let Some(mut cluster) = api_cluster("cidr") else {
        return;
    };
    cluster.start_agent(0).unwrap();
    let node = &cluster.nodes[0];
    let pod = &node.pods[0].netns;
    let addresses = ["10.96.9.9", "fd96::999"].map(|text| text.parse().unwrap());
    let [unused, unused_v6]: [IpAddr; 2] = addresses;
    assert!(!is_refused(pod, on(unused, 80)), "the API has no range yet");
    api(&cluster).apply_yaml(RANGES).unwrap();
    eventually("both ranges are written", || {
        is_refused(pod, on(unused, 80)) && is_refused(pod, on(unused_v6, 80))
    });
    assert!(http_answers(pod, on(CLUSTER_V4, 80)));
    api(&cluster)
        .delete::<ServiceCIDR>("", "kubernetes")
        .unwrap();
    eventually("the ranges are removed", || {
        !is_refused(pod, on(unused, 80))
    });
}

/// What operators read of a container: the log without a terminal and without `RUST_LOG`, with the API as
/// source.
#[test]
fn s154_the_log_is_plain_and_does_not_grow_with_changes() {
    let Some(mut cluster) = api_cluster("log") else {
        return;
    };
    cluster.log = Some("");
    cluster.start_agent(0).unwrap();
    let node = &cluster.nodes[0];
    let target = on(node.v4, 30080);
    let log = || node.agent.as_ref().unwrap().log();
    let moves_to = |pod: u8| {
        api(&cluster).apply_yaml(&slices(&[(1, pod)])).unwrap();
        let only = names(&[&format!("web-1-{pod}")]);
        eventually("the endpoint moved", || {
            pods_over_http(&cluster.client, target) == only
        });
    };
    moves_to(2);
    eventually("the first pass", || {
        log().contains("the maps follow the source")
    });
    let first = log();
    for pod in [1, 2].repeat(5) {
        moves_to(pod);
    }
    let all = log();
    assert_eq!(all.lines().count(), first.lines().count(), "{all}");
    // The devices and the start have a line each.
    assert!(all.lines().count() <= 20, "{all}");
    assert!(!all.contains('\u{1b}'), "no colours: {all}");
    for level in ["DEBUG", "TRACE"] {
        assert!(!all.contains(level), "{all}");
    }
}

/// A cluster with an API, which has a Service; its agent does not run yet. `None` if only the real API server
/// can be used.
fn api_cluster(name: &str) -> Option<Cluster> {
    if std::env::var_os(ASSETS).is_some() {
        println!("SKIPPED: {name}: the objects of the real API server are its own");
        return None;
    }
    let mut cluster = cluster_without_agents(name, 1, 2)?;
    cluster.serve_api().unwrap();
    api(&cluster).apply_yaml(SERVICE).unwrap();
    api(&cluster).apply_yaml(&slices(&[(1, 1)])).unwrap();
    Some(cluster)
}

#[test]
fn agent_needs_exactly_its_role_and_capabilities() {
    agent_needs_exactly("deploy", &object(RBAC, "ClusterRole", "headgate"), &[]);
}

#[test]
fn agent_needs_exactly_its_roles_for_gateways() {
    let mut role: ClusterRole = object(RBAC, "ClusterRole", "headgate");
    let gateways: ClusterRole = object(GATEWAY_RBAC, "ClusterRole", "headgate-gateways");
    let rules = role.rules.get_or_insert_default();
    rules.extend(gateways.rules.unwrap_or_default());
    agent_needs_exactly("gwdeploy", &role, &["--gateways"]);
}

/// Starts an agent with these options on an API that has a Service, and a listener of a Gateway for it.
fn agent_needs_exactly(name: &str, role: &ClusterRole, options: &[&str]) {
    if std::env::var_os(ASSETS).is_some() {
        println!("SKIPPED: {name}: the role is enforced by the stand-in alone");
        return;
    }
    let Some(mut cluster) = cluster_without_agents(name, 1, 1) else {
        return;
    };
    let asked = serve_role(&mut cluster, role);
    for text in [GATEWAY_API_CRDS, LISTENERS, MADE] {
        api(&cluster).apply_yaml(text).unwrap();
    }
    // An external IP that is an address of the node is refused, so the agent writes an Event.
    let node_ip = cluster.nodes[0].v4;
    let service = SERVICE.replace("  type: ", &format!("  externalIPs: [{node_ip}]\n  type: "));
    api(&cluster).apply_yaml(&service).unwrap();
    api(&cluster).apply_yaml(&slices(&[(1, 1)])).unwrap();

    let capabilities = capabilities(&container(DAEMONSET, "headgate"));
    cluster.start_agent_as(0, &capabilities, options).unwrap();
    let target = on(node_ip, 30080);
    assert_eq!(pods_over_http(&cluster.client, target), names(&["web-1-1"]));
    let listener = on([203, 0, 113, 21], 9000);
    // Of its two Services one does not exist.
    match options.is_empty() {
        true => assert!(!http_answers(&cluster.client, listener)),
        false => eventually("the listener is served", || {
            http_answers(&cluster.client, listener)
        }),
    }
    let has_written = || {
        let asked = asked.lock().unwrap();
        asked
            .iter()
            .any(|request| request.resource == "events" && request.verb == "create")
    };
    eventually("an Event is written", has_written);
    let watches = || {
        let asked = asked.lock().unwrap();
        let mut asked = asked.iter();
        asked.any(|request| resource(request) == "servicecidrs" && request.verb == "watch")
    };
    eventually("the ranges of Services are watched", watches);
    assert_fits(role, &asked, &["get"]);
    let log = cluster.nodes[0].agent.as_ref().unwrap().log();
    assert!(
        !log.contains("ERROR") && !log.contains("disconnected"),
        "{log}"
    );
}

/// Checks that an agent with these capabilities does everything: it attaches, gives the proxy its map,
/// and ends the UDP sockets of a backend that goes. The error is its log.
fn is_enough(name: &str, capabilities: &str) -> Result<(), String> {
    let mut cluster = cluster_without_agents(name, 1, 2).unwrap();
    cluster.write("web.yaml", SERVICE).unwrap();
    cluster.write("slices.yaml", &slices(&[(1, 1)])).unwrap();
    let started = cluster.start_agent_as(0, capabilities, &["--proxy-user", PROXY_USER]);
    started.map_err(|error| error.to_string())?;
    let node = &cluster.nodes[0];
    let service = on(CLUSTER_V4, 7);
    let mut talk = Talk::start(&node.pods[1].netns, &node.cgroup, Some(service)).unwrap();
    assert!(talk.to(service).unwrap().starts_with("web-1-1 "));
    cluster.write("slices.yaml", &slices(&[(1, 2)])).unwrap();
    let log = || node.agent.as_ref().unwrap().log();
    let complains = || log().contains("WARN") || log().contains("ERROR");
    let maps = Maps::open(&node.pins).unwrap();
    // The agent changes the entries after it ended the sockets.
    let is_lost = |entry: SocketEntry| entry.backend_id == 0;
    eventually("sockets are ended, or not", || {
        complains()
            || maps
                .sockets
                .iter()
                .flatten()
                .any(|(_, entry)| is_lost(entry))
    });
    match complains() || !talk.to(service).unwrap().starts_with("error ") {
        true => Err(log()),
        false => Ok(()),
    }
}

#[test]
fn s94_the_agent_needs_each_of_its_capabilities() {
    const NAME: &str = "s94_the_agent_needs_each_of_its_capabilities";
    let Some(overlay) = overlay(NAME) else { return };
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: {NAME}: only root can give capabilities");
        return;
    }
    let all = capabilities(&container(&overlay, "headgate"));
    let without = |list: &str, name: &str| {
        let shorter = list.replace(&format!(",+{name}"), "");
        assert_ne!(shorter, list, "{name} is in the list");
        shorter
    };
    assert_eq!(is_enough("capall", &all), Ok(()));
    for name in ["net_admin", "sys_admin", "sys_ptrace", "chown"] {
        let missing = is_enough("capsome", &without(&all, name));
        assert!(missing.is_err(), "it does without {name}");
    }
    // SYS_ADMIN includes these two; they are needed where SYS_ADMIN is removed.
    let few = without(&without(&all, "sys_admin"), "sys_ptrace");
    for name in ["bpf", "perfmon"] {
        let missing = is_enough("capfew", &without(&few, name)).unwrap_err();
        assert!(
            missing.contains("not ready"),
            "it starts without {name}: {missing}"
        );
    }
    // Everything works except ending sockets.
    let missing = is_enough("caprest", &few).unwrap_err();
    assert!(!missing.contains("not ready"), "{missing}");
}

/// An Ingress for every host, with an annotation that is refused.
const INGRESS: &str = "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: web
  annotations: {nginx.ingress.kubernetes.io/server-snippet: return 204;}
spec:
  ingressClassName: headgate
  defaultBackend: {service: {name: web, port: {number: 80}}}
";
const BALANCER: &str = "192.0.2.80";

/// The objects of the overlay; `None` without kubectl or with the real API server.
fn overlay(name: &str) -> Option<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/ingress");
    let output = Command::new("kubectl").args(["kustomize", folder]).output();
    if output.is_err() || std::env::var_os(ASSETS).is_some() {
        println!("SKIPPED: {name}: this needs kubectl, and the stand-in API server");
        return None;
    }
    Some(String::from_utf8(output.unwrap().stdout).unwrap())
}

/// A node whose agent has the capabilities of the overlay and waits for a proxy, and an API with an
/// Ingress. Returns the cluster and the requests of the proxy to the API.
fn proxy_cluster(name: &str, overlay: &str) -> Option<(Cluster, Requests)> {
    let mut cluster = cluster_without_agents(name, 1, 1)?;
    // The role is for the proxy only, so the agent reads manifests.
    let agent = container(overlay, "headgate");
    let options: Vec<&str> = agent.args.iter().flatten().map(String::as_str).collect();
    let options: Vec<&str> = options
        .into_iter()
        .filter(|option| option.starts_with("--proxy-user"))
        .collect();
    cluster
        .start_agent_as(0, &capabilities(&agent), &options)
        .unwrap();
    let role = object(overlay, "ClusterRole", "headgate-proxy");
    let asked = serve_role(&mut cluster, &role);
    let service = object::<yaml_serde::Value>(overlay, "Service", "headgate-ingress");
    let mut service = serde_json::to_value(service).unwrap();
    service["status"] = serde_json::json!({"loadBalancer": {"ingress": [{"ip": BALANCER}]}});
    let class = object::<yaml_serde::Value>(overlay, "IngressClass", "headgate");
    let api = api(&cluster);
    api.apply_value(service).unwrap();
    api.apply_value(serde_json::to_value(class).unwrap())
        .unwrap();
    for text in [SERVICE, &slices(&[(1, 1)]), INGRESS] {
        api.apply_yaml(text).unwrap();
    }
    Some((cluster, asked))
}

/// The options of the proxy in the pod, with a folder of the test in place of its volume.
fn proxy_options(overlay: &str, health: &Path) -> Vec<String> {
    let container = container(overlay, "headgate-proxy");
    assert_eq!(capabilities(&container), "-all");
    let words = container.args.unwrap().into_iter();
    let words = words.filter(|word| word != "proxy" && !word.starts_with("--pins="));
    let folder = health.to_str().unwrap();
    words
        .map(|word| word.replace("$(POD_NAMESPACE)", "kube-system"))
        .map(|word| word.replace("/run/headgate/health", folder))
        .collect()
}

/// Makes a folder that stands for a volume of a pod.
fn volume(cluster: &Cluster, name: &str) -> PathBuf {
    let folder = cluster.manifests().with_file_name(name);
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
    folder
}

fn start_proxy(cluster: &mut Cluster, overlay: &str, health: &Path) -> Option<Process> {
    let options = proxy_options(overlay, health);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    cluster.start_proxy(0, &options).unwrap()
}

#[test]
fn l58_proxy_needs_exactly_its_role_and_no_capabilities() {
    const NAME: &str = "l58_proxy_needs_exactly_its_role_and_no_capabilities";
    let Some(overlay) = overlay(NAME) else { return };
    let Some((mut cluster, asked)) = proxy_cluster("deprole", &overlay) else {
        return;
    };
    let health = volume(&cluster, "health");
    start_proxy(&mut cluster, &overlay, &health);
    let target = on(cluster.nodes[0].v4, 80);
    assert_eq!(pods_over_http(&cluster.client, target), names(&["web-1-1"]));
    let status = || {
        let ingress: Ingress = api(&cluster).get("default", "web")?;
        let points = ingress.status?.load_balancer?.ingress?;
        points.into_iter().next()?.ip
    };
    eventually("the load balancer's address is in the status", || {
        status().as_deref() == Some(BALANCER)
    });
    let is_reported = || {
        let events: Vec<Event> = api(&cluster).list();
        events.iter().any(|event| {
            let note = event.note.clone().unwrap_or_default();
            event.reason.as_deref() == Some("Refused") && note.contains("server-snippet")
        })
    };
    eventually("the refusal becomes an Event", is_reported);
    let role = object(&overlay, "ClusterRole", "headgate-proxy");
    assert_fits(&role, &asked, &["get"]);
    let proxy = cluster.nodes[0].proxy.as_ref().unwrap();
    let log = proxy.log();
    assert!(!log.contains("ERROR"), "{log}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.id())).unwrap();
    assert!(status.contains("\nSeccomp:\t2\n"), "{status}");
}

/// Whether a probe of a pod succeeds.
fn probe(health: &Path, question: &str) -> bool {
    let mut command = Command::new(binary("headgate").unwrap());
    let command = command.arg("probe").arg(health.join("socket"));
    command.arg(question).output().unwrap().status.success()
}

#[test]
fn l58_a_new_proxy_is_ready_before_the_old_one_stops() {
    const NAME: &str = "l58_a_new_proxy_is_ready_before_the_old_one_stops";
    let Some(overlay) = overlay(NAME) else { return };
    let Some((mut cluster, _)) = proxy_cluster("depsurge", &overlay) else {
        return;
    };
    let (old, new) = (volume(&cluster, "old"), volume(&cluster, "new"));
    start_proxy(&mut cluster, &overlay, &old);
    assert!(probe(&old, "livez") && probe(&old, "readyz"));
    assert!(!probe(&new, "livez"), "it does not run yet");

    let ends = Arc::new(AtomicBool::new(false));
    let target = on(cluster.nodes[0].v4, 80);
    let load = cluster.client.spawn({
        let ends = ends.clone();
        move || {
            let mut answers = 0;
            while !ends.load(Ordering::Relaxed) {
                get(target).unwrap_or_else(|error| panic!("after {answers}: {error}"));
                answers += 1;
            }
            answers
        }
    });
    // While the API answers slowly, the new proxy is live but not ready.
    api(&cluster).set_delay(Duration::from_secs(1));
    let watch = thread::spawn({
        let (old, new) = (old.clone(), new.clone());
        move || {
            eventually("the new one lives", || probe(&new, "livez"));
            let is_early = probe(&new, "readyz");
            (is_early, probe(&old, "readyz"))
        }
    });
    let first = start_proxy(&mut cluster, &overlay, &new).unwrap();
    assert_eq!(watch.join().unwrap(), (false, true), "new one, old one");
    eventually("the new one is ready", || probe(&new, "readyz"));
    assert!(probe(&old, "readyz"), "until it gets SIGTERM");

    first.signal(Signal::SIGTERM).unwrap();
    eventually("the old one accepts no more", || !probe(&old, "readyz"));
    assert!(probe(&old, "livez"), "while it drains");
    assert!(probe(&new, "readyz"));
    first.terminate().unwrap();
    assert!(probe(&new, "livez") && probe(&new, "readyz"));
    ends.store(true, Ordering::Relaxed);
    assert!(load.join().unwrap() > 10);

    // A container that starts again finds the volume as the container before left it.
    api(&cluster).set_delay(Duration::ZERO);
    start_proxy(&mut cluster, &overlay, &old);
    assert!(probe(&old, "readyz"));
}
