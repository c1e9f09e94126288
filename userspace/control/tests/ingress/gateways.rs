//! Objects of the Gateway API in manifests.

use std::{fs, sync::Arc};

use headgate_control::{Event, Interest, manifests};
use headgate_model::{
    ObjectName,
    gateway::object::{Change, Difference, Objects},
};

use crate::source::{Source, web};

/// The objects of a manifest, and what is refused.
fn read(text: &str) -> (Objects, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), text).unwrap();
    let mut objects = Objects::default();
    let mut refused = Vec::new();
    for event in manifests::read(folder.path(), Interest::Gateways, "") {
        match event {
            Event::Gateway(change) => {
                objects.apply(*change);
            }
            Event::Refused(_, refusals) => {
                let texts = refusals.iter().map(|one| one.reason.clone());
                refused.extend(texts);
            }
            _ => {}
        }
    }
    (objects, refused)
}

#[test]
fn g14_manifests_have_all_kinds() {
    let kinds = [
        ("GatewayClass", "controllerName: a"),
        ("Gateway", "gatewayClassName: a, listeners: []"),
        ("ListenerSet", "parentRef: {name: a}, listeners: []"),
        ("HTTPRoute", "rules: []"),
        ("GRPCRoute", "rules: []"),
        ("TLSRoute", "rules: []"),
        ("TCPRoute", "rules: []"),
        ("UDPRoute", "rules: []"),
        ("ReferenceGrant", "from: [], to: []"),
        (
            "BackendTLSPolicy",
            "targetRefs: [], validation: {hostname: a}",
        ),
        ("RoutePolicy", "targetRefs: []"),
    ];
    let mut text = String::new();
    for (kind, spec) in kinds {
        let group = match kind {
            "RoutePolicy" => "headgate.io/v1alpha1",
            _ => "gateway.networking.k8s.io/v1",
        };
        text += &format!(
            "apiVersion: {group}\nkind: {kind}\n\
             metadata: {{name: a, namespace: shop, generation: 2, uid: u}}\nspec: {{{spec}}}\n---\n"
        );
    }
    text += "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: a}}}\n---\n";
    text += "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {ca.crt: x}}\n---\n";
    // A kind of the same name in another group.
    text += "{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: other}, spec: {servers: []}}\n";
    let (objects, refused) = read(&text);
    assert_eq!(refused, Vec::<String>::new());
    let counts = [
        objects.classes.len(),
        objects.gateways.len(),
        objects.listener_sets.len(),
        objects.http_routes.len(),
        objects.grpc_routes.len(),
        objects.tls_routes.len(),
        objects.tcp_routes.len(),
        objects.udp_routes.len(),
        objects.grants.len(),
        objects.backend_tls.len(),
        objects.route_policies.len(),
        objects.namespaces.len(),
        objects.config_maps.len(),
    ];
    assert_eq!(counts, [1; 13]);
    let gateway = objects.gateways.values().next().unwrap();
    assert_eq!((&*gateway.meta.uid, gateway.meta.generation), ("u", 2));
    assert_eq!(objects.namespaces["shop"]["team"], "a");
}

#[test]
fn g14_errors_of_manifests_name_object_and_field() {
    for (object, reason) in [
        (
            "kind: Gateway\nspec: {listeners: []}",
            "missing field `gatewayClassName`",
        ),
        (
            "kind: HTTPRoute\nspec: {rules: [{match: []}]}",
            "unknown field spec.rules.0.match",
        ),
        (
            "kind: HTTPRoute\nspec: {rules: [{filters: [{}]}]}",
            "missing field `type`",
        ),
    ] {
        let (_, refused) = read(&format!("{object}\nmetadata: {{name: a}}\n"));
        assert!(
            refused.iter().any(|one| one.contains(reason)),
            "{refused:?}"
        );
    }
    let (objects, refused) = read("kind: Gateway\nmetadata: {name: a}\n");
    assert_eq!(
        (refused, objects.gateways.len()),
        (vec!["is missing".to_owned()], 0)
    );
}

#[test]
fn l194_of_a_config_map_only_the_ca_certificates_are_kept() {
    let text = "{apiVersion: v1, kind: ConfigMap, metadata: {name: NAME, namespace: shop}, data: {DATAother: y}}";
    let with = |name: &str, data: &str| text.replace("NAME", name).replace("DATA", data);
    let (objects, refused) = read(&format!(
        "{}\n---\n{}",
        with("a", "ca.crt: x, "),
        with("b", "")
    ));
    assert_eq!(refused, Vec::<String>::new());
    let kept = objects.config_maps.into_iter();
    let kept: Vec<_> = kept.map(|(name, data)| (name.name.clone(), data)).collect();
    let of_a = [("ca.crt".to_owned(), "x".to_owned())];
    assert_eq!(
        kept,
        [("a".into(), of_a.into()), ("b".into(), Default::default())]
    );
}

#[test]
fn g18_a_removed_manifest_removes_its_objects() {
    let mut objects = Objects::default();
    let (found, _) = read("kind: HTTPRoute\nmetadata: {name: a}\nspec: {}\n");
    let (name, route) = found.http_routes.into_iter().next().unwrap();
    let route = Arc::unwrap_or_clone(route);
    let mut written = route.clone();
    written.meta.version = "2".into();
    written.status.parents = Vec::new();
    let steps = [
        (Some(&route), Difference::Asked),
        (Some(&route), Difference::None),
        (Some(&written), Difference::Status),
        (None, Difference::Asked),
        (None, Difference::None),
    ];
    for (new, difference) in steps {
        let change = Change::HttpRoute(name.clone(), new.cloned());
        assert_eq!(objects.apply(change), difference);
    }
    let object = ObjectName::Gateway("HTTPRoute", name);
    assert_eq!(object.to_string(), "HTTPRoute default/a");
}

#[tokio::test]
async fn g13_kinds_that_are_not_installed_are_empty_lists() {
    let source = Source::api(headgate_apiserver::Options::default()).await;
    let Source::Api(server) = &source else {
        panic!("it runs on an API server");
    };
    server.apply_yaml(&web("one", "10.244.1.1")).unwrap();
    // Returns when every kind is listed.
    let events = source.list_for(Interest::Gateways).await;
    let is_service = |event: &&Event| matches!(event, Event::Upstream(..));
    assert_eq!(events.iter().filter(is_service).count(), 1);
    let fails = |event: &Event| matches!(event, Event::Connected(Err(_)));
    assert!(!events.iter().any(fails));
}
