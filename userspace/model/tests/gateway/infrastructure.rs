use std::collections::BTreeMap;

use headgate_model::{
    edge::GatewayPort,
    gateway::{GATEWAY_NAME, Infrastructure, infrastructure},
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
    let all = infrastructure(&cluster.objects, &cluster.resolve());
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
    // Of a Gateway that serves nothing, what was made stays.
    let odd = gateway(
        "web",
        "infrastructure: {parametersRef: {group: a, kind: B, name: c}}",
    );
    let all = made(&cluster(&odd));
    let [one] = &all[..] else { panic!("{all:?}") };
    assert!(one.ports.is_empty());
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
    let targets = |cluster: &Cluster| -> BTreeMap<GatewayPort, u16> {
        let ports = cluster.resolve().gateways.into_iter();
        ports
            .map(|(port, entry)| (port, entry.target_port))
            .collect()
    };
    let first = targets(&cluster);
    let mut values: Vec<u16> = first.values().copied().collect();
    values.sort_unstable();
    values.dedup();
    assert_eq!((first.len(), values.len()), (400, 400));
    assert!(values.iter().all(|port| (12000..28000).contains(port)));
    // A Gateway moves none of those that are older.
    let mut more = cluster.clone();
    for number in 0..50 {
        more.add(&gateway(&format!("young{number}"), ""));
    }
    let more = targets(&more);
    assert_eq!(more.len(), 500);
    assert!(first.iter().all(|(port, target)| more[port] == *target));
    // One that serves nothing for a while keeps its ports, and moves no other one.
    let mut broken = cluster.clone();
    let one = broken.objects.gateways.get_mut(&name("g7")).unwrap();
    let spec = &mut one.spec;
    spec.listeners[1].name = spec.listeners[0].name.clone();
    let served = targets(&broken);
    assert!(served.len() < 400);
    assert!(served.iter().all(|(port, target)| first[port] == *target));
    assert_eq!(targets(&cluster), first);
}
