//! TC programs as filters of clsact, as on kernels without TCX.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use std::{collections::BTreeMap, fs, time::Duration};

use common::{
    CLUSTER_V4, cluster_without_agents, doctor, eventually, finish, json, names, on, on_node,
    pods_over_http,
};
use headgate_dataplane::{TcAttach, pin_folder};
use headgate_netns::{Cluster, Load, Node, SERVICE, connections, slices};
use nix::sys::signal::Signal;

const CLSACT: [&str; 2] = ["--tc-attach", "clsact"];
const PLACES: [&str; 4] = ["eth0 ingress", "eth0 egress", "lxc1 ingress", "lxc1 egress"];

fn cluster(name: &str, nodes: u8, serving: &[(u8, u8)]) -> Option<Cluster> {
    let mut cluster = cluster_without_agents(name, nodes, 1)?;
    cluster.write("web.yaml", SERVICE).unwrap();
    cluster.write("slices.yaml", &slices(serving)).unwrap();
    for index in 0..nodes.into() {
        cluster.start_agent_with(index, &CLSACT).unwrap();
    }
    Some(cluster)
}

fn tc(node: &Node, words: &[&str]) -> String {
    let mut command = node.netns.command("tc", None);
    let output = command.args(words).output().unwrap();
    assert!(output.status.success(), "tc {words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Programs and their ids by place, from the output of tc(8).
fn filters(node: &Node) -> BTreeMap<&'static str, Vec<(String, String)>> {
    let after = |line: &str, word: &str| {
        let mut words = line.split_whitespace();
        words.find(|other| *other == word)?;
        words.next().map(String::from)
    };
    let place = |place: &'static str| {
        let (device, side) = place.split_once(' ').unwrap();
        let text = tc(node, &["filter", "show", "dev", device, side]);
        let programs = text
            .lines()
            .filter_map(|line| Some((after(line, "name")?, after(line, "id")?)));
        (place, programs.collect())
    };
    PLACES.map(place).into_iter().collect()
}

fn programs(node: &Node) -> Vec<(&'static str, String)> {
    let filters = filters(node).into_iter();
    let names = filters
        .flat_map(|(place, programs)| programs.into_iter().map(move |(name, _)| (place, name)));
    names.collect()
}

fn all_programs() -> Vec<(&'static str, String)> {
    let place = |(place, name): (&'static str, &str)| (place, name.to_owned());
    let all = [
        ("eth0 egress", "hg_tc_egress"),
        ("eth0 ingress", "hg_tc_external"),
        ("lxc1 egress", "hg_tc_egress"),
        ("lxc1 ingress", "hg_tc_pod"),
    ];
    all.map(place).into()
}

fn links_of_tc(node: &Node) -> usize {
    let links = fs::read_dir(pin_folder(&node.pins).join("links")).unwrap();
    let names = links.map(|link| link.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("hg_tc_")).count()
}

fn hooks(node: &Node) -> String {
    let status = json(node, &["status"]);
    format!("{} {}", status["hooks"]["eth0"], status["hooks"]["lxc1"])
}

#[test]
fn s61_filters_of_clsact_are_replaced_without_a_loss() {
    let Some(mut cluster) = cluster("flt", 2, &[(1, 1), (2, 1)]) else {
        return;
    };
    let both = names(&["web-1-1", "web-2-1"]);
    let target = on(cluster.nodes[0].v4, 30080);
    let inside = on(CLUSTER_V4, 80);
    assert_eq!(programs(&cluster.nodes[0]), all_programs());
    assert_eq!(links_of_tc(&cluster.nodes[0]), 0);
    assert_eq!(pods_over_http(&cluster.client, target), both);
    assert_eq!(
        pods_over_http(&cluster.nodes[0].pods[0].netns, inside),
        both
    );
    let shown = hooks(&cluster.nodes[0]);

    // A low rate, because emulated processors must start agents meanwhile.
    let pause = Duration::from_millis(20);
    let load = Load::new()
        .with(&cluster.client, pause, connections(target))
        .with(&cluster.nodes[0].pods[0].netns, pause, connections(inside));
    for _ in 0..3 {
        let before = filters(&cluster.nodes[0]);
        cluster.nodes[0].agent.take().unwrap().kill().unwrap();
        cluster.start_agent_with(0, &CLSACT).unwrap();
        assert_eq!(programs(&cluster.nodes[0]), all_programs());
        let after = filters(&cluster.nodes[0]);
        let is_new = |place: &str| before[place][0].1 != after[place][0].1;
        assert!(PLACES.into_iter().all(is_new), "{before:?}");
    }
    let has_tcx = TcAttach::best().unwrap() == TcAttach::Tcx;
    if !has_tcx {
        println!("no TCX here: the change from filters to links is not tested");
    }
    // An upgrade to a kernel with TCX, and a downgrade to one without.
    let upgrades = [(&[][..], vec![], 4), (&CLSACT, all_programs(), 0)];
    for (options, filters, links) in upgrades.into_iter().filter(|_| has_tcx) {
        cluster.nodes[0].agent.take().unwrap().terminate().unwrap();
        cluster.start_agent_with(0, options).unwrap();
        let node = &cluster.nodes[0];
        assert_eq!((programs(node), links_of_tc(node)), (filters, links));
        assert_eq!(hooks(node), shown);
    }
    finish(load);
}

#[test]
fn filters_that_were_removed_are_reported_and_restored() {
    let Some(mut cluster) = cluster("lost", 1, &[(1, 1)]) else {
        return;
    };
    let node = &cluster.nodes[0];
    assert!(!doctor(node).contains("ERROR"), "{}", doctor(node));
    for device in ["eth0", "lxc1"] {
        let agent = node.agent.as_ref().unwrap();
        // A running agent restores the filters within a minute.
        agent.signal(Signal::SIGSTOP).unwrap();
        tc(node, &["qdisc", "del", "dev", device, "clsact"]);
        let complaint = format!("programs are missing on {device}");
        assert!(doctor(node).contains(&complaint), "{}", doctor(node));
        agent.signal(Signal::SIGCONT).unwrap();
        agent.signal(Signal::SIGHUP).unwrap();
        eventually("restored", || programs(node) == all_programs());
        let log = agent.log();
        let lines = log.lines();
        let mut lines = lines.filter(|line| line.contains("programs are missing"));
        assert!(lines.any(|line| line.contains(device)), "{log}");
        eventually("all is well", || !doctor(node).contains("ERROR"));
    }

    // A filter that is not ours stays.
    let theirs = ["filter", "add", "dev", "lxc1", "ingress", "pref", "2"];
    let nothing = ["bpf", "bytecode", "1,6 0 0 0,"];
    tc(node, &[&theirs[..], &nothing].concat());
    cluster.nodes[0].agent.take().unwrap().terminate().unwrap();
    let node = &cluster.nodes[0];
    assert_eq!(programs(node), all_programs());
    on_node(node, &["cleanup"]).unwrap();
    assert_eq!(programs(node), []);
    let left = tc(node, &["filter", "show", "dev", "lxc1", "ingress"]);
    assert!(left.contains("pref 2 bpf"), "{left}");
    assert!(!pin_folder(&node.pins).exists());
}
