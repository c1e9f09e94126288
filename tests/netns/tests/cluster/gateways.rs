//! Gateways of a cluster: from the API to a response, with the controller and its role.

use headgate_apiserver::{ASSETS, ApiServer, GATEWAY_API_CRDS};
use headgate_netns::{Cluster, PROXY_USER, Process, SERVICE, binary, slices};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::Service,
    discovery::v1::EndpointSlice,
    rbac::v1::{ClusterRole, Role},
};

use crate::{
    common::{cluster_without_agents, eventually, names, on, pods_over_http},
    deploy::{Requests, api, assert_fits, object, serve_role},
    services::http_answers,
};

const RBAC: &str = include_str!("../../../../deploy/gateway/rbac.yaml");
const POLICIES: &str = include_str!("../../../../deploy/gateway/routepolicies.yaml");
const CLASS: &str = include_str!("../../../../deploy/gateway/class.yaml");
const ROUTES: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: shop, namespace: default}
spec:
  gatewayClassName: headgate
  listeners: [{name: http, port: 80, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: default}
spec:
  parentRefs: [{name: shop}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
";
/// An object of each other kind that has a status.
const OTHERS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {name: more, namespace: default}
spec:
  parentRef: {name: shop}
  listeners: [{name: more, port: 8081, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: web, namespace: default}
spec: {parentRefs: [{name: shop}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: web, namespace: default}
spec:
  parentRefs: [{name: shop}]
  hostnames: [a.example]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: web, namespace: default}
spec:
  parentRefs: [{name: shop}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: UDPRoute
metadata: {name: web, namespace: default}
spec:
  parentRefs: [{name: shop}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: web, namespace: default}
spec:
  targetRefs: [{group: '', kind: Service, name: web}]
  validation: {hostname: a.example, wellKnownCACertificates: System}
---
apiVersion: headgate.io/v1alpha1
kind: RoutePolicy
metadata: {name: web, namespace: default}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web}]
  maxBodySize: 1m
";
const VIP: [u8; 4] = [192, 0, 2, 1];

/// The pod of a proxy, as the kubelet reports it.
fn proxy_pod(node: &str, address: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata:
  name: headgate-proxy-{node}
  namespace: kube-system
  labels: {{app.kubernetes.io/name: headgate, app.kubernetes.io/component: proxy}}
spec: {{nodeName: {node}, containers: [{{name: proxy, image: headgate, args: [proxy, --gateways]}}]}}
status: {{podIPs: [{{ip: {address}}}], conditions: [{{type: Ready, status: 'True'}}]}}
---
"
    )
}

/// What the controller may do: the role of the cluster and that of its namespace.
fn controller_role() -> ClusterRole {
    let mut role: ClusterRole = object(RBAC, "ClusterRole", "headgate-controller");
    let own: Role = object(RBAC, "Role", "headgate-controller");
    let rules = role.rules.get_or_insert_default();
    rules.extend(own.rules.unwrap_or_default());
    role
}

fn start_controller(cluster: &Cluster, identity: &str) -> Process {
    let mut command = cluster.client.command(binary("headgate").unwrap(), None);
    command
        .args(["controller", "--identity", identity])
        .args(["--namespace", "kube-system"])
        .args(["--address-pool", "192.0.2.0/29"])
        .args(["--healthz-bind-address", "127.0.0.1:0"])
        .args(["--metrics-bind-address", "127.0.0.1:0"])
        .env("KUBECONFIG", cluster.kubeconfig());
    Process::start(command, "ready").unwrap()
}

/// The addresses in the status of the Gateway.
fn addresses(api: &ApiServer) -> Vec<String> {
    let gateway = api.get_value("gateway.networking.k8s.io/v1", "Gateway", "default", "shop");
    let gateway = gateway.unwrap_or_default();
    let addresses = gateway["status"]["addresses"].as_array().cloned();
    let values = addresses.into_iter().flatten();
    let values = values.filter_map(|one| one["value"].as_str().map(str::to_owned));
    values.collect()
}

/// A cluster whose API has a Gateway and two proxies; nothing runs yet. `None` if only the real API server can be
/// used: nothing of the cluster says what is ready there.
fn gateway_cluster(name: &str, role: Option<&ClusterRole>) -> Option<(Cluster, Requests)> {
    if std::env::var_os(ASSETS).is_some() {
        println!("SKIPPED: {name}: pods of the real API server are not ready without a kubelet");
        return None;
    }
    let mut cluster = cluster_without_agents(name, 2, 1)?;
    let asked = match role {
        Some(role) => serve_role(&mut cluster, role),
        None => {
            cluster.serve_api().unwrap();
            Requests::default()
        }
    };
    let nodes = cluster.nodes.iter();
    let pods: String = nodes
        .map(|node| proxy_pod(&node.name, &node.v4.to_string()))
        .collect();
    let slices = slices(&[(1, 1), (2, 1)]);
    for text in [
        GATEWAY_API_CRDS,
        POLICIES,
        CLASS,
        SERVICE,
        &slices,
        &pods,
        ROUTES,
    ] {
        api(&cluster).apply_yaml(text).unwrap();
    }
    Some((cluster, asked))
}

#[test]
fn g131_clients_reach_a_gateway_at_its_address() {
    let Some((mut cluster, _)) = gateway_cluster("gateway", None) else {
        return;
    };
    for node in 0..2 {
        let user = ["--proxy-user", PROXY_USER];
        cluster.start_agent_with(node, &user).unwrap();
        cluster.start_proxy(node, &["--gateways"]).unwrap();
    }
    let first = start_controller(&cluster, "first");
    let _second = start_controller(&cluster, "second");
    eventually("the Gateway has an address", || {
        addresses(api(&cluster)) == ["192.0.2.1"]
    });
    // Either node serves it.
    let vip = on(VIP, 80);
    for node in ["192.168.50.1", "192.168.50.2"] {
        let route = format!("route replace 192.0.2.0/29 via {node}");
        cluster.client.batch(&route).unwrap();
        eventually("the Gateway answers", || http_answers(&cluster.client, vip));
        let pods = pods_over_http(&cluster.client, vip);
        assert_eq!(pods, names(&["web-1-1", "web-2-1"]));
    }
    // Traffic needs no controller, and the other replica continues.
    drop(first);
    assert!(http_answers(&cluster.client, vip));
    let moved = ROUTES.replace("port: 80, protocol", "port: 8080, protocol");
    api(&cluster).apply_yaml(&moved).unwrap();
    eventually("the Gateway listens at another port", || {
        http_answers(&cluster.client, on(VIP, 8080)) && !http_answers(&cluster.client, vip)
    });
}

#[test]
fn controller_needs_exactly_its_role() {
    let role = controller_role();
    let Some((cluster, asked)) = gateway_cluster("gwrole", Some(&role)) else {
        return;
    };
    let controller = start_controller(&cluster, "only");
    let api = api(&cluster);
    eventually("the Gateway has an address", || {
        addresses(api) == ["192.0.2.1"]
    });
    api.apply_yaml(OTHERS).unwrap();
    for (kind, path) in [
        ("ListenerSet", "/status/conditions"),
        ("GRPCRoute", "/status/parents"),
        ("TLSRoute", "/status/parents"),
        ("TCPRoute", "/status/parents"),
        ("UDPRoute", "/status/parents"),
        ("BackendTLSPolicy", "/status/ancestors"),
        ("RoutePolicy", "/status/ancestors"),
    ] {
        let name = if kind == "ListenerSet" { "more" } else { "web" };
        eventually(kind, || {
            let group = match kind {
                "RoutePolicy" => "headgate.io/v1alpha1",
                _ => "gateway.networking.k8s.io/v1",
            };
            let object = api.get_value(group, kind, "default", name);
            let found = object.and_then(|object| object.pointer(path)?.as_array().cloned());
            found.is_some_and(|entries| !entries.is_empty())
        });
    }
    // It changes what it made, and deletes it.
    let moved = ROUTES.replace("port: 80, protocol", "port: 8080, protocol");
    api.apply_yaml(&moved).unwrap();
    eventually("the Service has the other port", || {
        let service = api.get::<Service>("default", "gateway-shop");
        let ports = service.and_then(|service| service.spec?.ports);
        ports.is_some_and(|ports| ports[0].port == 8080)
    });
    eventually("the slice has the other port", || {
        let slice = api.get::<EndpointSlice>("default", "gateway-shop-ipv4-0");
        let ports = slice.and_then(|slice| slice.ports).unwrap_or_default();
        ports[0].name.as_deref() == Some("tcp-8080")
    });
    let class = CLASS.replace("name: headgate\n", "name: other\n");
    let class = class.replace("headgate.io/gateway", "example.com/other");
    api.apply_yaml(&class).unwrap();
    let other = ROUTES.replace("ClassName: headgate", "ClassName: other");
    api.apply_yaml(&other).unwrap();
    eventually("the Service is deleted", || {
        api.get::<Service>("default", "gateway-shop").is_none()
    });
    eventually("the slice is deleted", || {
        let slice = api.get::<EndpointSlice>("default", "gateway-shop-ipv4-0");
        slice.is_none()
    });
    controller.terminate().unwrap();
    assert_fits(&role, &asked, &["get"]);
    let lease: Lease = api.get("kube-system", "headgate-controller").unwrap();
    let holder = lease.spec.and_then(|spec| spec.holder_identity);
    assert_eq!(holder.as_deref(), Some(""), "it is given back");
}
