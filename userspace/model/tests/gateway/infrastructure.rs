use std::collections::BTreeMap;

use headgate_model::{
    Family,
    edge::GatewayPort,
    gateway::{GATEWAY_NAME, Infrastructure, World, infrastructure, resolve},
};

use crate::build::{Cluster, cluster, name};

fn gateway(name: &str, more: &str) -> String {
    format!(
        "
---
kind: Gateway
metadata: {{name: {name}, uid: '17'}}
spec:
  gatewayClassName: headgate
  {more}
  listeners: [{{name: a, port: 80, protocol: HTTP}}, {{name: b, port: 8080, protocol: HTTP}}]
"
    )
}

fn made(cluster: &Cluster) -> Vec<Infrastructure> {
    let node = |text: &str| text.parse().unwrap();
    let nodes = [
        ("n1".to_owned(), vec![node("10.0.0.1"), node("fd00::1")]),
        ("n2".to_owned(), vec![node("10.0.0.2")]),
    ];
    let all = infrastructure(&cluster.objects, &cluster.resolve(), &nodes.into());
    all.into_values().collect()
}

#[test]
fn g135_what_is_made_for_a_gateway() {
    let more = "infrastructure: {labels: {team: shop}, annotations: {a.example/b: c}}";
    let all = made(&cluster(&gateway("web", more)));
    let [one] = &all[..] else { panic!("{all:?}") };
    assert_eq!(one.owner, (name("web"), "17".into()));
    assert_eq!(one.service, name("gateway-web"));
    assert_eq!(one.labels[GATEWAY_NAME], "web");
    assert_eq!(
        (&*one.labels["team"], &*one.annotations["a.example/b"]),
        ("shop", "c")
    );
    assert_eq!(one.ports.keys().collect::<Vec<_>>(), [&80, &8080]);
    let v4: Vec<&str> = one.proxies[&Family::V4]
        .iter()
        .map(|(_, node)| &**node)
        .collect();
    assert_eq!(v4, ["n1", "n2"]);
    assert_eq!(one.proxies[&Family::V6].len(), 1);
    // Gateways that serve nothing need nothing.
    let odd = gateway(
        "web",
        "infrastructure: {parametersRef: {group: a, kind: B, name: c}}",
    );
    assert!(made(&cluster(&odd)).is_empty());
}

#[test]
fn g136_long_names_are_shortened_and_stay_unique() {
    let long = "a".repeat(253);
    let other = format!("{}b", "a".repeat(252));
    let dots = "a.b";
    let dashes = "a-b";
    let text = [&long, &other, dots, dashes]
        .map(|name| gateway(name, ""))
        .concat();
    let all = made(&cluster(&text));
    let mut names: Vec<&str> = all.iter().map(|one| &*one.service.name).collect();
    let mut labels: Vec<&str> = all.iter().map(|one| &*one.labels[GATEWAY_NAME]).collect();
    assert!(
        names
            .iter()
            .all(|name| name.len() <= 63 && !name.contains('.')),
        "{names:?}"
    );
    assert!(labels.iter().all(|label| label.len() <= 63), "{labels:?}");
    names.sort_unstable();
    names.dedup();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!((names.len(), labels.len()), (4, 4));
}

#[test]
fn g137_target_ports_are_unique_and_stay() {
    let names: Vec<String> = (0..200).map(|number| format!("g{number}")).collect();
    let text: String = names.iter().map(|name| gateway(name, "")).collect();
    let cluster = cluster(&text);
    let targets =
        |known: &BTreeMap<GatewayPort, u16>, cluster: &Cluster| -> BTreeMap<GatewayPort, u16> {
            let resolved = resolve(&World {
                objects: &cluster.objects,
                secrets: &cluster.secrets,
                services: &cluster.services,
                addresses: &Default::default(),
                target_ports: known,
                options: &cluster.options,
            });
            let ports = resolved.gateways.into_iter();
            ports
                .map(|(port, entry)| (port, entry.target_port))
                .collect()
        };
    let first = targets(&BTreeMap::new(), &cluster);
    let mut values: Vec<u16> = first.values().copied().collect();
    values.sort_unstable();
    values.dedup();
    assert_eq!((first.len(), values.len()), (400, 400));
    assert!(values.iter().all(|port| (12000..28000).contains(port)));
    // A Gateway that comes or goes moves none of the others that are known.
    let mut fewer = cluster.clone();
    fewer.objects.gateways.remove(&name("g7"));
    for (port, target) in targets(&first, &fewer) {
        assert_eq!(first[&port], target, "{port}");
    }
    let fewer = targets(&BTreeMap::new(), &fewer);
    let more = targets(&fewer, &cluster);
    assert!(fewer.iter().all(|(port, target)| more[port] == *target));
}
