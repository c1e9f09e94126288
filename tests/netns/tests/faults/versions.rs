//! Agents whose maps have another layout, one after the other, under load.

use std::{collections::BTreeSet, thread, time::Duration};

use headgate_abi::ABI_VERSION;
use headgate_dataplane::{MapSizes, become_former, load_other_version, loaded_config};
use headgate_netns::{Cluster, Load, Node, Process, connection, datagrams};

use crate::{
    ALL, Outcome, PACE, Traffic,
    common::{cluster, eventually, json, on},
    rounds,
};

/// The versions whose maps are pinned.
fn versions(node: &Node) -> BTreeSet<String> {
    let folders = std::fs::read_dir(&node.pins).unwrap();
    let names = folders.map(|folder| folder.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).collect()
}

/// Replaces the programs of a node by those of the other version.
fn become_other(cluster: &Cluster, index: usize) {
    let node = &cluster.nodes[index];
    let pins = node.pins.clone();
    node.netns.run(move || {
        let config = loaded_config(&pins).unwrap();
        load_other_version(&pins, &config, &MapSizes::default()).unwrap();
    });
    assert_eq!(versions(node), [format!("v{}", ABI_VERSION + 1)].into());
}

#[test]
fn s187_fault_another_version_and_back() {
    let rounds = rounds(2);
    let Some(mut cluster) = cluster("s187", 2, 2, &ALL) else {
        return;
    };
    let traffic = Traffic::start(&cluster, &["web-1-1", "web-1-2", "web-2-1", "web-2-2"]);
    let ids = |node: &Node| [json(node, &["services"]), json(node, &["backends"])];
    for _ in 0..rounds {
        for index in 0..2 {
            let before = ids(&cluster.nodes[index]).map(|rows| rows.as_array().unwrap().len());
            let agent = cluster.nodes[index].agent.take().unwrap();
            agent.terminate().unwrap();
            become_other(&cluster, index);
            let sent = traffic.requests.tally().sent();
            eventually("requests", || traffic.requests.tally().sent() > sent + 100);
            cluster.start_agent(index).unwrap();
            let node = &cluster.nodes[index];
            assert_eq!(versions(node), [format!("v{ABI_VERSION}")].into());
            let after = ids(node).map(|rows| rows.as_array().unwrap().len());
            assert_eq!(after, before);
            let status = json(node, &["status"]);
            assert_eq!(status["agent"]["repaired"], 0, "{status}");
        }
    }
    let scenario = "another version of the maps, and back";
    traffic.finish().report(scenario, rounds * 2, "");
}

/// What is open before a takeover stays open, whenever agents are killed.
#[test]
fn s187_fault_agents_killed_while_they_take_over() {
    const KILLS: usize = 4;
    let rounds = rounds(4);
    let Some(mut cluster) = cluster("s187k", 1, 2, &[(1, 1), (1, 2)]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let (http, echo) = (on(node.v4, 30080), on(node.v6, 30007));
    let outside = &cluster.client;
    let mut load = Load::new();
    for _ in 0..8 {
        load = load.with(outside, PACE, connection(http));
    }
    let mut flows = Load::new().with(outside, PACE, datagrams(echo));
    let sent = |load: &Load| load.tally().answered();
    eventually("they are open", || sent(&load) > 100 && sent(&flows) > 10);
    for round in 0..rounds.div_ceil(KILLS) {
        cluster.nodes[0].agent.take().unwrap().terminate().unwrap();
        become_other(&cluster, 0);
        for step in 0..KILLS {
            let command = cluster.agent_command(0, &[]).unwrap();
            let process = Process::spawn(command).unwrap();
            thread::sleep(Duration::from_millis(
                ((round * KILLS + step) * 271 % 1500) as u64,
            ));
            process.kill().unwrap();
        }
        cluster.start_agent(0).unwrap();
        assert_eq!(
            versions(&cluster.nodes[0]),
            [format!("v{ABI_VERSION}")].into()
        );
    }
    let before = sent(&load);
    eventually("requests", || sent(&load) > before + 100);
    let outcome = Outcome {
        requests: load.finish().into_iter().sum(),
        datagrams: std::mem::take(&mut flows).finish().into_iter().sum(),
    };
    outcome.report("agents killed while they take over", rounds, "");
}

/// What is open continues over maps that have had the layouts of the ABI before, as it was: its connections have no
/// sequence numbers, and end with shorter entries.
#[test]
fn s210_fault_maps_of_the_abi_before() {
    let rounds = rounds(2);
    let Some(mut cluster) = cluster("s210", 1, 2, &[(1, 1), (1, 2)]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let (http, echo) = (on(node.v4, 30080), on(node.v6, 30007));
    let outside = &cluster.client;
    let mut load = Load::new();
    for _ in 0..8 {
        load = load.with(outside, PACE, connection(http));
    }
    let flows = Load::new().with(outside, PACE, datagrams(echo));
    let sent = |load: &Load| load.tally().answered();
    eventually("they are open", || sent(&load) > 100 && sent(&flows) > 10);
    for _ in 0..rounds {
        let node = &mut cluster.nodes[0];
        node.agent.take().unwrap().terminate().unwrap();
        let open = json(node, &["conntrack"]).as_array().unwrap().len();
        let pins = node.pins.clone();
        let former = node.netns.run(move || become_former(&pins).unwrap());
        assert_eq!(versions(node), [format!("v{former}")].into());
        cluster.start_agent(0).unwrap();
        let node = &cluster.nodes[0];
        assert_eq!(versions(node), [format!("v{ABI_VERSION}")].into());
        assert!(json(node, &["conntrack"]).as_array().unwrap().len() >= open);
        let before = sent(&load);
        eventually("requests", || sent(&load) > before + 100);
    }
    let outcome = Outcome {
        requests: load.finish().into_iter().sum(),
        datagrams: flows.finish().into_iter().sum(),
    };
    outcome.report("maps of the ABI before", rounds, "");
}
