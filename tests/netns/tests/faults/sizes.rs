//! Maps that become larger, under load.

use std::{fmt::Write, time::Duration};

use headgate_netns::{SERVICE, get, slices};
use nix::sys::signal::Signal;

use crate::{
    ALL, Traffic,
    common::{cluster_without_agents, eventually, json, on, within},
    fill,
};

/// Capacity for `web`, and for few Services more.
const SMALL: [&str; 10] = [
    "--max-frontends",
    "64",
    "--max-services",
    "64",
    "--max-backends",
    "16",
    "--max-slots",
    "8192",
    "--max-map-memory",
    "64",
];
/// Enough to verify all programs of two agents several times, beside their load.
const LONG: Duration = Duration::from_secs(120);
const MAPS: [&str; 4] = ["FRONTENDS", "SERVICES", "BACKENDS", "SLOTS"];

/// Services of a pod of each, numbered from `first`. Their cluster IPs begin at 10.97.0.0.
fn services(first: u32, last: u32) -> String {
    let mut text = String::new();
    for number in first..=last {
        let [_, _, third, fourth] = number.to_be_bytes();
        write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: more-{number}}}\nspec:\n  \
             clusterIP: 10.97.{third}.{fourth}\n  ports: [{{port: 80, targetPort: 9376}}]\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  \
             name: more-{number}\n  labels: {{kubernetes.io/service-name: more-{number}}}\n\
             addressType: IPv4\nports: [{{port: {}}}]\n\
             endpoints: [{{addresses: ['10.244.2.2'], nodeName: n2}}]\n",
            // A backend of its own for each; that of the last one answers.
            if number == last {
                9376
            } else {
                10_000 + number
            },
        )
        .unwrap();
    }
    text
}

#[test]
fn s190_fault_full_maps_become_larger() {
    let Some(mut cluster) = cluster_without_agents("s190", 2, 2) else {
        return;
    };
    cluster.write("web.yaml", SERVICE).unwrap();
    cluster.write("slices.yaml", &slices(&ALL)).unwrap();
    for index in 0..2 {
        cluster.start_agent_with(index, &SMALL).unwrap();
    }
    let load = Traffic::start(&cluster, &["web-1-1", "web-1-2", "web-2-1", "web-2-2"]);
    let pod = &cluster.nodes[0].pods[0].netns;
    // As `SMALL` says: the maps of an agent that has just started may be larger already.
    let before: [u64; 4] = [64, 64, 16, 8192];
    // Each batch is more than the maps hold after the one before.
    for (first, last) in [(1, 90), (91, 1500)] {
        let file = format!("more-{last}.yaml");
        let small = fill(&cluster.nodes[0], "SERVICES");
        cluster.write(&file, &services(first, last)).unwrap();
        within(LONG, "the maps are larger", || {
            fill(&cluster.nodes[0], "SERVICES").1 > small.1
        });
        let [_, _, third, fourth] = u32::to_be_bytes(last);
        let newest = on([10, 97, third, fourth], 80);
        within(LONG, "the last one is served", || {
            pod.run(move || get(newest).is_ok())
        });
    }
    load.finish().report("maps become larger", 2, "");
    for node in &cluster.nodes {
        let after = MAPS.map(|map| fill(node, map).1);
        for ((map, before), after) in MAPS.iter().zip(before).zip(after) {
            let is_slots = *map == "SLOTS";
            assert!(after > before || is_slots, "{map}: {before}, then {after}");
        }
        let status = json(node, &["status"]);
        assert_eq!(status["agent"]["failures"].as_array().unwrap().len(), 0);
        assert_eq!(status["agent"]["refusals"].as_array().unwrap().len(), 0);
    }

    // An agent that is killed and starts again, with the sizes of the beginning, finds them. It may make them larger at
    // once, if the killed one was about to.
    let agent = cluster.nodes[0].agent.take().unwrap();
    agent.signal(Signal::SIGKILL).unwrap();
    drop(agent);
    let large = fill(&cluster.nodes[0], "SERVICES").1;
    cluster.start_agent_with(0, &SMALL).unwrap();
    let found = fill(&cluster.nodes[0], "SERVICES").1;
    assert!(found >= large, "{large}, then {found}");

    // Up to the limit: what is more is refused, and what is served stays.
    cluster.nodes[0].agent.take().unwrap().terminate().unwrap();
    let bounded = [&SMALL[..8], &["--max-map-memory", "0"]].concat();
    cluster.start_agent_with(0, &bounded).unwrap();
    cluster.write("more.yaml", &services(1501, 4000)).unwrap();
    let refusals = || json(&cluster.nodes[0], &["status"])["agent"]["refusals"].take();
    eventually("some are refused", || {
        !refusals().as_array().unwrap().is_empty()
    });
    let first = &refusals()[0];
    let reason = first["reason"].as_str().unwrap();
    assert!(reason.contains("--max-map-memory"), "{first}");
    // Of Services that ask for as much, and are as old, the first by name are served.
    let first = on([10, 97, 5, 220], 80);
    let client = &cluster.nodes[0].pods[0].netns;
    eventually("others are served", || {
        client.run(move || get(first).is_ok())
    });
}

#[test]
fn s188_fault_maps_of_connections_become_larger_when_an_agent_starts() {
    let Some(mut cluster) = cluster_without_agents("s188", 2, 2) else {
        return;
    };
    cluster.write("web.yaml", SERVICE).unwrap();
    cluster.write("slices.yaml", &slices(&ALL)).unwrap();
    const CACHES: [(&str, &str, u64); 3] = [
        ("--max-connections", "CONNTRACK", 8192),
        ("--max-affinities", "AFFINITY", 1024),
        ("--max-sockets", "SOCKETS", 4096),
    ];
    let options = |factor: u64| {
        CACHES
            .iter()
            .flat_map(|(option, _, size)| [(*option).to_owned(), (size * factor).to_string()])
            .collect::<Vec<String>>()
    };
    let start = |cluster: &mut headgate_netns::Cluster, index: usize, factor: u64| {
        let options = options(factor);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        cluster.start_agent_with(index, &options).unwrap();
        for (_, map, size) in CACHES {
            assert_eq!(fill(&cluster.nodes[index], map).1, size * factor.max(4));
        }
    };
    for index in 0..2 {
        let options = options(1);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        cluster.start_agent_with(index, &options).unwrap();
    }
    let load = Traffic::start(&cluster, &["web-1-1", "web-1-2", "web-2-1", "web-2-2"]);
    for index in 0..2 {
        // Larger, and with smaller sizes as they were.
        for factor in [4, 1, 8] {
            cluster.nodes[index]
                .agent
                .take()
                .unwrap()
                .terminate()
                .unwrap();
            start(&mut cluster, index, factor);
        }
    }
    load.finish()
        .report("maps of connections become larger", 4, "");
}
