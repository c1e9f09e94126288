//! TLSRoutes, TCPRoutes and UDPRoutes.

use headgate_model::{
    Protocol,
    edge::{Target, UpstreamPort},
    gateway::{L4Listener, Resolved, RouteKind},
};

use crate::build::{Cluster, attached, cluster, condition, listener, name, route};

const GATEWAY: &str = "
kind: Gateway
metadata: {name: web}
spec:
  gatewayClassName: headgate
  listeners:
  - {name: pass, port: 443, hostname: '*.pass.example', protocol: TLS, tls: {mode: Passthrough}}
  - {name: open, port: 443, hostname: '*.open.example', protocol: TLS, tls: {mode: Terminate, certificateRefs: [{name: tls}]}}
  - {name: https, port: 443, hostname: '*.web.example', protocol: HTTPS, tls: {certificateRefs: [{name: tls}]}}
  - {name: http, port: 80, protocol: HTTP}
  - {name: tcp, port: 9000, protocol: TCP}
  - {name: tcp-two, port: 9001, protocol: TCP}
  - {name: udp, port: 9000, protocol: UDP}
";

fn with(kind: &str, short: &str, age: i64, spec: &str) -> String {
    format!(
        "
---
kind: {kind}
metadata: {{name: {short}, creationTimestamp: {age}}}
spec: {{parentRefs: [{{name: web}}], {spec}}}
"
    )
}

fn to(backends: &str) -> String {
    format!("rules: [{{backendRefs: [{backends}]}}]")
}

/// Hosts of a listener of port 443, with Services and weights.
fn streams(resolved: &Resolved, label: &str) -> Vec<(String, Vec<(u32, String)>)> {
    let ports = resolved.gateways.iter();
    let mut listeners = ports.flat_map(|(_, port)| &port.listeners);
    let listener = listeners.find(|one| one.name == label).unwrap();
    let hosts = listener.streams.as_ref().unwrap().hosts.iter();
    let hosts = hosts.map(|(host, stream)| {
        let targets = stream.targets.iter().map(|one| {
            let service = match &one.target {
                Target::Upstream(key) => key.service.name.clone(),
                _ => "none".into(),
            };
            (one.weight, service)
        });
        (host.clone(), targets.collect())
    });
    hosts.collect()
}

fn state(resolved: &Resolved, kind: RouteKind, short: &str, type_: &str) -> String {
    condition(&route(resolved, kind, short).parents[0].1, type_)
}

#[test]
fn g27_g122_g124_tls_routes_of_both_modes_beside_https() {
    let mut cluster = cluster(GATEWAY);
    let both = to("{name: web, port: 80, weight: 7}, {name: api, port: 80, weight: 3}");
    cluster.add(&with(
        "TLSRoute",
        "a",
        1,
        &format!("hostnames: [a.pass.example, '*.open.example'], {both}"),
    ));
    // The older one has the host.
    cluster.add(&with(
        "TLSRoute",
        "b",
        2,
        &format!("hostnames: ['*.example'], {}", to("{name: old, port: 80}")),
    ));
    let resolved = cluster.resolve();
    for one in ["pass", "open", "https"] {
        for type_ in ["Accepted", "Programmed", "ResolvedRefs"] {
            let state = listener(&resolved, "web", one, type_);
            assert_eq!(state, format!("True/{type_}"), "{one}");
        }
    }
    let shares = vec![(7, "web".to_owned()), (3, "api".to_owned())];
    let old = vec![(1, "old".to_owned())];
    assert_eq!(
        streams(&resolved, "pass"),
        [
            ("*.pass.example".into(), old),
            ("a.pass.example".into(), shares.clone())
        ]
    );
    assert_eq!(
        streams(&resolved, "open"),
        [("*.open.example".into(), shares)]
    );
    let counts = ["pass", "open", "https"].map(|one| attached(&resolved, "web", one));
    assert_eq!(counts, [2, 2, 0]);
    for name in ["a", "b"] {
        assert_eq!(
            state(&resolved, RouteKind::Tls, name, "Accepted"),
            "True/Accepted"
        );
    }
}

#[test]
fn g123_bad_backends_of_tls_routes_close_connections() {
    for (backend, reason) in [
        ("{name: no, port: 80}", "False/BackendNotFound"),
        (
            "{name: web, port: 80, namespace: team}",
            "False/RefNotPermitted",
        ),
        ("{name: web, port: 80, kind: Odd}", "False/InvalidKind"),
    ] {
        let mut cluster = cluster(GATEWAY);
        let spec = format!("hostnames: ['*.pass.example'], {}", to(backend));
        cluster.add(&with("TLSRoute", "a", 1, &spec));
        let resolved = cluster.resolve();
        assert_eq!(
            state(&resolved, RouteKind::Tls, "a", "ResolvedRefs"),
            reason
        );
        assert_eq!(
            state(&resolved, RouteKind::Tls, "a", "Accepted"),
            "True/Accepted"
        );
        let expected = vec![(1, "none".to_owned())];
        assert_eq!(
            streams(&resolved, "pass"),
            [("*.pass.example".into(), expected)]
        );
    }
}

/// Protocol and port of a listener, its route, and Services with weights.
type L4Row = (Protocol, u16, String, Vec<(u32, String)>);

/// The TCP and UDP listeners.
fn l4(resolved: &Resolved) -> Vec<L4Row> {
    let all = resolved.l4.iter().map(|(key, target)| {
        let L4Listener {
            gateway,
            port,
            protocol,
        } = key;
        assert_eq!(*gateway, name("web"));
        let backends = target.backends.iter().map(|one| {
            let port = one.port.as_ref();
            let text = port.map_or("none".into(), |one| {
                format!("{}:{}", one.service.name, one.port)
            });
            (one.weight, text)
        });
        let route = target
            .route
            .as_ref()
            .map_or(String::new(), |name| name.name.clone());
        (*protocol, *port, route, backends.collect())
    });
    all.collect()
}

fn l4_cluster() -> Cluster {
    let mut cluster = cluster(GATEWAY);
    for service in cluster.services.values_mut() {
        service.udp_ports = vec![UpstreamPort {
            name: "dns".into(),
            port: 53,
            app_protocol: None,
        }];
    }
    cluster
}

#[test]
fn g126_g127_g128_the_oldest_route_of_each_listener_is_served_by_weight() {
    let mut cluster = l4_cluster();
    let nothing = |protocol, port| (protocol, port, String::new(), vec![]);
    assert_eq!(
        l4(&cluster.resolve()),
        [
            nothing(Protocol::Tcp, 9000),
            nothing(Protocol::Udp, 9000),
            nothing(Protocol::Tcp, 9001)
        ]
    );
    let shares = to(
        "{name: web, port: 80, weight: 70}, {name: no, port: 80, weight: 30}, {name: api, port: 80, weight: 0}",
    );
    cluster.add(&with("TCPRoute", "young", 5, &to("{name: old, port: 80}")));
    cluster.add(&with("TCPRoute", "aged", 4, &shares));
    cluster.add(&with(
        "UDPRoute",
        "u",
        1,
        &to("{name: web, port: 53}, {name: api, port: 80}"),
    ));
    let resolved = cluster.resolve();
    let tcp = || {
        vec![
            (70, "web:80".to_owned()),
            (30, "none".to_owned()),
            (0, "api:80".to_owned()),
        ]
    };
    let udp = vec![(1, "web:53".to_owned()), (1, "none".to_owned())];
    assert_eq!(
        l4(&resolved),
        [
            (Protocol::Tcp, 9000, "aged".into(), tcp()),
            (Protocol::Udp, 9000, "u".into(), udp),
            (Protocol::Tcp, 9001, "aged".into(), tcp()),
        ]
    );
    for (kind, short, refs) in [
        (RouteKind::Tcp, "young", "True/ResolvedRefs"),
        (RouteKind::Tcp, "aged", "False/BackendNotFound"),
        (RouteKind::Udp, "u", "False/BackendNotFound"),
    ] {
        assert_eq!(
            state(&resolved, kind, short, "Accepted"),
            "True/Accepted",
            "{short}"
        );
        assert_eq!(
            state(&resolved, kind, short, "ResolvedRefs"),
            refs,
            "{short}"
        );
    }
    let counts = ["tcp", "tcp-two", "udp"].map(|one| attached(&resolved, "web", one));
    assert_eq!(counts, [2, 2, 1]);
    // The oldest goes: the next one is served.
    cluster.objects.tcp_routes.remove(&name("aged"));
    assert_eq!(l4(&cluster.resolve())[0].2, "young");
}
