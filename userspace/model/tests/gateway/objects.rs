use std::{fs, path::Path};

use headgate_model::gateway::object::{
    BackendTlsPolicySpec, FilterType, FromNamespaces, GatewayClassSpec, GatewayClassStatus,
    GatewaySpec, GatewayStatus, GrpcRouteSpec, HttpRouteSpec, L4RouteSpec, LabelSelector,
    ListenerProtocol, ListenerSetSpec, ListenerSetStatus, Object, PolicyStatus, ReferenceGrantSpec,
    RouteStatus, TlsRouteSpec,
};
use yaml_serde::Value;

use crate::build::{cluster, object};

fn example(channel: &str, plural: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gateway/examples");
    let file = folder.join(channel).join(format!("{plural}.yaml"));
    yaml_serde::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

/// The examples have every field that the schemas of the channel have.
#[test]
fn g14_every_field_of_every_schema_is_decoded() {
    for channel in ["standard", "experimental"] {
        let read = |plural| example(channel, plural);
        let _: Object<GatewayClassSpec, GatewayClassStatus> = object(read("gatewayclasses"));
        let _: Object<GatewaySpec, GatewayStatus> = object(read("gateways"));
        let _: Object<ListenerSetSpec, ListenerSetStatus> = object(read("listenersets"));
        let http: Object<HttpRouteSpec, RouteStatus> = object(read("httproutes"));
        let _: Object<GrpcRouteSpec, RouteStatus> = object(read("grpcroutes"));
        let _: Object<TlsRouteSpec, RouteStatus> = object(read("tlsroutes"));
        let _: Object<L4RouteSpec, RouteStatus> = object(read("tcproutes"));
        let _: Object<L4RouteSpec, RouteStatus> = object(read("udproutes"));
        let _: Object<ReferenceGrantSpec> = object(read("referencegrants"));
        let _: Object<BackendTlsPolicySpec, PolicyStatus> = object(read("backendtlspolicies"));
        let filters = &http.spec.rules[0].filters;
        let unknown = |one: &FilterType| matches!(one, FilterType::Other(_));
        assert!(!filters.iter().any(|filter| unknown(&filter.type_)));
    }
}

#[test]
fn g14_values_that_are_not_known_are_kept_as_text() {
    let cluster = cluster(
        "
kind: Gateway
metadata: {name: web}
spec:
  gatewayClassName: headgate
  allowedListeners: {namespaces: {from: Moon}}
  listeners:
  - {name: a, port: 80, protocol: example.com/FTP}
---
kind: HTTPRoute
metadata: {name: web}
spec:
  rules:
  - filters: [{type: Teleport}]
",
    );
    let gateway = cluster.objects.gateways.values().next().unwrap();
    let protocol = &gateway.spec.listeners[0].protocol;
    assert_eq!(*protocol, ListenerProtocol::Other("example.com/FTP".into()));
    let allowed = gateway.spec.allowed_listeners.clone().unwrap();
    let from = allowed.namespaces.unwrap().from.unwrap();
    assert_eq!(from, FromNamespaces::Other("Moon".into()));
    let route = cluster.objects.http_routes.values().next().unwrap();
    let filter = &route.spec.rules[0].filters[0];
    assert_eq!(filter.type_, FilterType::Other("Teleport".into()));
}

#[test]
fn g49_selectors_compare_labels() {
    let labels = [("team".to_owned(), "shop".to_owned())].into();
    for (selector, selects) in [
        ("{}", true),
        ("{matchLabels: {team: shop}}", true),
        ("{matchLabels: {team: core}}", false),
        (
            "{matchExpressions: [{key: team, operator: In, values: [a, shop]}]}",
            true,
        ),
        (
            "{matchExpressions: [{key: team, operator: In, values: [a]}]}",
            false,
        ),
        (
            "{matchExpressions: [{key: team, operator: NotIn, values: [a]}]}",
            true,
        ),
        (
            "{matchExpressions: [{key: other, operator: NotIn, values: [a]}]}",
            true,
        ),
        (
            "{matchExpressions: [{key: team, operator: NotIn, values: [shop]}]}",
            false,
        ),
        ("{matchExpressions: [{key: team, operator: Exists}]}", true),
        (
            "{matchExpressions: [{key: other, operator: Exists}]}",
            false,
        ),
        (
            "{matchExpressions: [{key: other, operator: DoesNotExist}]}",
            true,
        ),
        (
            "{matchExpressions: [{key: team, operator: DoesNotExist}]}",
            false,
        ),
        ("{matchExpressions: [{key: team, operator: Near}]}", false),
        (
            "{matchLabels: {team: shop}, matchExpressions: [{key: team, operator: DoesNotExist}]}",
            false,
        ),
    ] {
        let parsed: LabelSelector = yaml_serde::from_str(selector).unwrap();
        assert_eq!(parsed.selects(&labels), selects, "{selector}");
    }
}
