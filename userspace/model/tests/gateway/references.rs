use headgate_model::{
    Endpoint, EndpointPort, EndpointSlice, Protocol,
    edge::endpoints,
    gateway::{Referent, Referrer, permits},
};

use crate::{
    build::{cluster, name},
    request::{find, get},
};

#[test]
fn g57_a_grant_lets_any_of_its_sources_refer_to_any_of_its_targets() {
    let cluster = cluster(
        "
kind: ReferenceGrant
metadata: {name: a, namespace: team}
spec:
  from:
  - {group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}
  - {group: gateway.networking.k8s.io, kind: Gateway, namespace: other}
  to:
  - {group: '', kind: Service, name: web}
  - {group: '', kind: Secret}
---
kind: ReferenceGrant
metadata: {name: b, namespace: shop}
spec:
  from: [{group: '', kind: HTTPRoute, namespace: default}]
  to: [{group: '', kind: Service}]
",
    );
    const GROUP: &str = "gateway.networking.k8s.io";
    for (group, kind, namespace, to, target, expected) in [
        (GROUP, "HTTPRoute", "default", "Service", "team/web", true),
        (GROUP, "HTTPRoute", "default", "Secret", "team/any", true),
        (GROUP, "Gateway", "other", "Service", "team/web", true),
        (GROUP, "HTTPRoute", "default", "Service", "team/api", false),
        (
            GROUP,
            "HTTPRoute",
            "default",
            "ConfigMap",
            "team/web",
            false,
        ),
        (GROUP, "HTTPRoute", "other", "Service", "team/web", false),
        (GROUP, "Gateway", "default", "Service", "team/web", false),
        (GROUP, "GRPCRoute", "default", "Service", "team/web", false),
        // The group of the source is not that of the route.
        (GROUP, "HTTPRoute", "default", "Service", "shop/web", false),
        // The grant is in another namespace than the target.
        (GROUP, "HTTPRoute", "default", "Service", "tea/web", false),
        (GROUP, "HTTPRoute", "default", "Service", "teams/web", false),
        // No grant is needed in one namespace.
        (GROUP, "GRPCRoute", "shop", "Service", "shop/web", true),
    ] {
        let from = Referrer {
            group,
            kind,
            namespace,
        };
        let name = name(target);
        let to = Referent {
            group: "",
            kind: to,
            name: &name,
        };
        let permitted = permits(&cluster.objects.grants, from, to);
        assert_eq!(permitted, expected, "{from:?} {to:?}");
    }
}

#[test]
fn g63_endpoints_are_those_of_slices_by_the_name_of_the_port() {
    let mut cluster = cluster(
        "
kind: Gateway
metadata: {name: web}
spec: {gatewayClassName: headgate, listeners: [{name: a, port: 80, protocol: HTTP}]}
---
kind: HTTPRoute
metadata: {name: r}
spec: {parentRefs: [{name: web}], rules: [{backendRefs: [{name: web, port: 80}]}]}
",
    );
    let slice = |ports: &[(&str, u16)], address: [u8; 4]| EndpointSlice {
        service: name("web"),
        ports: ports
            .iter()
            .map(|(name, port)| EndpointPort {
                name: (*name).into(),
                protocol: Protocol::Tcp,
                port: *port,
            })
            .collect(),
        endpoints: vec![Endpoint {
            address: address.into(),
            node: None,
            ready: true,
            serving: true,
            terminating: false,
            zone_hints: Vec::new(),
            node_hints: Vec::new(),
        }],
        triggered: None,
    };
    let written = [
        (
            "one",
            slice(&[("http", 8080), ("other", 9)], [192, 0, 2, 1]),
        ),
        // Another port of the same name.
        ("two", slice(&[("http", 3000)], [192, 0, 2, 2])),
        ("three", slice(&[("other", 80)], [192, 0, 2, 3])),
    ];
    let written = written.map(|(short, slice)| (name(short), slice));
    let slices = [(name("web"), written.into())].into();
    // Headless, and with an address.
    for cluster_ips in [vec![], vec![[10, 96, 0, 1].into()]] {
        let service = cluster.services.get_mut(&name("web")).unwrap();
        service.cluster_ips = cluster_ips;
        let resolved = cluster.resolve();
        let route = find(&resolved, &get("h", "/")).unwrap();
        let key = route.targets[0].target.upstream().unwrap();
        let found = endpoints(&cluster.services, &slices, key);
        let found: Vec<String> = found.keys().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1:8080", "192.0.2.2:3000"]);
    }
}
