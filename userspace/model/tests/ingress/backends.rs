use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use headgate_model::{
    Endpoint, EndpointPort, EndpointSlice, Protocol,
    edge::{PortName, UpstreamKey, UpstreamService, endpoints},
    ingress::{Ingress, IngressBackend, IngressOptions, Objects, routes},
};

use crate::build::{
    Build, Prefix, answer, find, get, ingress, name, objects, refusals, routes_of, service, target,
};

/// One path whose backend is this port of `many`, and that Service.
fn world(port_name: PortName) -> Objects {
    let mut asking = ingress("a").rule("foo.com", Prefix, "/", "many");
    asking.rules[0].paths[0].backend = IngressBackend::Service {
        name: "many".into(),
        port: port_name,
    };
    let mut objects = objects([asking]);
    let many = service(&[("http", 80), ("admin", 8080)]);
    objects.services.insert(name("many"), many);
    objects
}

#[test]
fn l08_ports_are_found_by_name_and_number() {
    let named = |text: &str| PortName::Name(text.into());
    for (asked, expected) in [
        (named("http"), Some(80)),
        (named("admin"), Some(8080)),
        (PortName::Number(80), Some(80)),
        (PortName::Number(8080), Some(8080)),
        (named("dns"), None),
        (PortName::Number(81), None),
    ] {
        let routes = routes(&world(asked.clone()), &IngressOptions::default());
        let found = target(find(&routes, &get("foo.com", "/")).unwrap());
        let found = found.upstream().map(|key| key.port);
        assert_eq!(found, expected, "{asked}");
        let reason = format!(
            "Ingress default/a: spec.rules[0].http.paths[0].backend.service: \
             Service default/many has no TCP port {asked}"
        );
        let expected = expected.map_or(vec![reason], |_| Vec::new());
        assert_eq!(refusals(&routes), expected);
    }
}

#[test]
fn l08_a_service_that_is_missing_leaves_a_route_that_answers_503() {
    let asking = || {
        ingress("a")
            .rule("foo.com", Prefix, "/", "rest")
            .rule("foo.com", Prefix, "/a", "missing")
    };
    let routes = routes_of([asking()]);
    assert_eq!(answer(&routes, "foo.com", "/a"), "503");
    assert_eq!(answer(&routes, "foo.com", "/b"), "rest");
    assert_eq!(
        refusals(&routes),
        [
            "Ingress default/a: spec.rules[1].http.paths[0].backend.service: \
          there is no Service default/missing"
        ]
    );
}

#[test]
fn l08_a_service_of_another_namespace_is_not_used() {
    let mut objects = objects([ingress("a").rule("foo.com", Prefix, "/", "web")]);
    objects.services.remove(&name("default/web"));
    let routes = routes(&objects, &IngressOptions::default());
    assert_eq!(answer(&routes, "foo.com", "/"), "503");
}

fn endpoint(address: [u8; 4], node: &str, state: &str) -> Endpoint {
    Endpoint {
        address: IpAddr::from(address),
        node: Some(node.into()),
        ready: state == "ready",
        serving: state == "ready" || state == "serving",
        terminating: state == "serving" || state == "gone",
        zone_hints: Vec::new(),
        node_hints: Vec::new(),
    }
}

/// Slices of `many`, with its ports at 8000 and 8001.
fn with_slices(mut objects: Objects, slices: Vec<Vec<Endpoint>>) -> Objects {
    let target = |name: &str, protocol, port| EndpointPort {
        name: name.into(),
        protocol,
        port,
    };
    let slices = slices.into_iter().map(|endpoints| EndpointSlice {
        service: name("many"),
        ports: vec![
            target("http", Protocol::Udp, 7999),
            target("admin", Protocol::Tcp, 8001),
            target("http", Protocol::Tcp, 8000),
        ],
        endpoints,
        triggered: None,
    });
    let named = slices.enumerate();
    let named = named.map(|(index, slice)| (name(&format!("slice-{index}")), slice));
    objects.slices.insert(name("many"), named.collect());
    objects
}

/// The endpoints of the route of `ingress`, after `change`.
fn places(
    change: impl FnOnce(&mut Ingress),
    slices: Vec<Vec<Endpoint>>,
) -> BTreeMap<SocketAddr, u32> {
    let mut objects = with_slices(world(PortName::Number(80)), slices);
    change(objects.ingresses.get_mut(&name("a")).unwrap());
    let routes = routes(&objects, &IngressOptions::default());
    let keys: Vec<&UpstreamKey> = routes.listener.upstreams().collect();
    endpoints(&objects.services, &objects.slices, keys[0])
}

fn texts(places: &BTreeMap<SocketAddr, u32>) -> Vec<String> {
    let text = |(address, weight): (&SocketAddr, &u32)| format!("{address}={weight}");
    places.iter().map(text).collect()
}

#[test]
fn l08_endpoints_are_the_ready_ones_else_those_that_serve_while_terminating() {
    let ready = endpoint([10, 0, 0, 1], "n1", "ready");
    let serving = endpoint([10, 0, 0, 2], "n1", "serving");
    let gone = endpoint([10, 0, 0, 3], "n1", "gone");
    let starting = endpoint([10, 0, 0, 4], "n1", "starting");
    let of = |endpoints: &[&Endpoint]| {
        let each = endpoints.iter().map(|one| vec![(*one).clone()]);
        texts(&places(|_| {}, each.collect()))
    };
    assert_eq!(
        of(&[&serving, &ready, &gone, &starting]),
        ["10.0.0.1:8000=1"]
    );
    assert_eq!(of(&[&serving, &gone, &starting]), ["10.0.0.2:8000=1"]);
    assert!(of(&[&gone, &starting]).is_empty());
}

#[test]
fn l08_endpoints_of_both_families_are_used() {
    let six = Endpoint {
        address: "fd00::1".parse().unwrap(),
        ..endpoint([0; 4], "n1", "ready")
    };
    let four = endpoint([10, 0, 0, 1], "n1", "ready");
    let places = places(|_| {}, vec![vec![four], vec![six]]);
    assert_eq!(texts(&places), ["10.0.0.1:8000=1", "[fd00::1]:8000=1"]);
}

#[test]
fn l08_endpoints_have_the_weight_of_their_node() {
    let slices = vec![vec![
        endpoint([10, 0, 0, 1], "n1", "ready"),
        endpoint([10, 0, 0, 2], "n2", "ready"),
    ]];
    let weighted = |ingress: &mut Ingress| *ingress = ingress.clone().note("/weights", "n2=3");
    let places = places(weighted, slices);
    assert_eq!(texts(&places), ["10.0.0.1:8000=1", "10.0.0.2:8000=3"]);
}

#[test]
fn l08_service_upstream_uses_the_cluster_ip() {
    let slices = vec![vec![endpoint([10, 0, 0, 1], "n1", "ready")]];
    let asked = |ingress: &mut Ingress| *ingress = ingress.clone().note("service-upstream", "true");
    assert_eq!(texts(&places(asked, slices)), ["10.96.0.1:80=1"]);
}

#[test]
fn l09_a_resource_is_refused_and_the_rest_of_the_ingress_stays() {
    let mut asking = ingress("a")
        .rule("foo.com", Prefix, "/static", "web")
        .rule("foo.com", Prefix, "/", "rest");
    asking.rules[0].paths[0].backend = IngressBackend::Resource {
        kind: "StorageBucket".into(),
        name: "icons".into(),
    };
    let routes = routes_of([asking]);
    assert_eq!(answer(&routes, "foo.com", "/static/a.png"), "404");
    assert_eq!(answer(&routes, "foo.com", "/"), "rest");
    assert_eq!(
        refusals(&routes),
        [
            "Ingress default/a: spec.rules[0].http.paths[0].backend.resource: \
          StorageBucket icons is not supported as a backend"
        ]
    );
}

#[test]
fn l105_an_external_name_is_refused_as_such() {
    let mut objects = objects([ingress("a").rule("foo.com", Prefix, "/", "ext")]);
    let external = UpstreamService {
        is_external: true,
        ..service(&[("http", 80)])
    };
    objects.services.insert(name("ext"), external);
    let routes = routes(&objects, &IngressOptions::default());
    assert_eq!(answer(&routes, "foo.com", "/"), "503");
    assert!(refusals(&routes)[0].contains("of type ExternalName"));
}
