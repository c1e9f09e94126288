//! The findings of `doctor`, and what `replace-kube-proxy` removes.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::common::{cluster, cluster_without_agents, content, on_node};
use headgate_abi::{SocketEntry, SocketKey};
use headgate_apiserver::{ASSETS, Attributes, TestServer};
use headgate_dataplane::{Maps, pin_folder};
use headgate_netns::{Cluster, Netns, SERVICE, binary, slices};
use serde_json::Value;

/// Entries of the map of sockets.
const SOCKETS: u32 = 4096;

const NODE: &str = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}";

/// Runs `doctor`; returns whether it found no error, and its findings.
fn doctor(cluster: &Cluster, words: &[&str]) -> (bool, Vec<Value>) {
    let node = &cluster.nodes[0];
    let mut command = node.netns.command(binary("headgate").unwrap(), None);
    let output = command
        .arg("--pins")
        .arg(&node.pins)
        .args(["doctor", "-o", "json"])
        .args(words)
        .env("NODE_NAME", "n1")
        .env("KUBECONFIG", cluster.kubeconfig())
        .output()
        .unwrap();
    let findings = content(&String::from_utf8(output.stdout).unwrap());
    let findings = findings.as_array().unwrap().clone();
    (output.status.success(), findings)
}

/// The findings that are warnings or errors, without their cures.
fn complaints(findings: &[Value]) -> Vec<String> {
    let wrong = findings.iter().filter(|finding| finding["level"] != "ok");
    wrong
        .map(|finding| {
            assert!(finding["cure"].is_string(), "no cure: {finding}");
            let part = |name: &str| finding[name].as_str().unwrap();
            format!("{} {}: {}", part("level"), part("about"), part("what"))
        })
        .collect()
}

fn write_sysctl(netns: &Netns, key: &'static str, value: &'static str) {
    netns.run(move || fs::write(format!("/proc/sys/net/{key}"), value).unwrap());
}

fn run(netns: &Netns, line: &str, input: &str) -> String {
    let mut words = line.split(' ');
    let mut child: std::process::Child = netns
        .command(words.next().unwrap(), None)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{line}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn s130_doctor_finds_what_is_broken_and_nothing_else() {
    const NAME: &str = "s130_doctor_finds_what_is_broken_and_nothing_else";
    if std::env::var_os(ASSETS).is_some() {
        println!("SKIPPED: {NAME}: only the stand-in can refuse single requests");
        return;
    }
    let Some(mut cluster) = cluster_without_agents("doc", 1, 1) else {
        return;
    };
    let refuses = Arc::new(AtomicBool::new(false));
    let is_refusing = refuses.clone();
    cluster
        .serve_api_to(Some(Arc::new(move |asked: &Attributes| {
            let is_watch = asked.verb == "watch" && asked.resource == "services";
            !(is_refusing.load(Ordering::Relaxed) && is_watch)
        })))
        .unwrap();
    let Some(TestServer::StandIn(api)) = &cluster.api else {
        unreachable!("the stand-in runs unless the real one is named");
    };
    for text in [NODE, SERVICE, &slices(&[(1, 1)])] {
        api.apply_yaml(text).unwrap();
    }
    let few = SOCKETS.to_string();
    let few = ["--max-sockets", few.as_str()];
    cluster.start_agent_with(0, &few).unwrap();
    let close_wait = "netfilter/nf_conntrack_tcp_timeout_close_wait";
    write_sysctl(&cluster.nodes[0].netns, close_wait, "3600");
    let (is_well, findings) = doctor(&cluster, &[]);
    assert_eq!(complaints(&findings), Vec::<String>::new());
    assert!(is_well && findings.len() > 15, "{findings:?}");

    // Breaks one thing after the other, and repairs it.
    let expect = |words: &[&str], is_error: bool, complaint: &str| {
        let (is_well, findings) = doctor(&cluster, words);
        let mut complaints = complaints(&findings);
        // A program that is not attached is also reported as missing on its device.
        complaints.retain(|complaint| !complaint.contains("programs are missing"));
        assert_eq!(is_well, !is_error, "{complaints:?}");
        assert!(
            complaints.len() == 1 && complaints[0].contains(complaint),
            "{complaint} expected, but {complaints:?}"
        );
    };
    let netns = &cluster.nodes[0].netns;
    write_sysctl(netns, "ipv4/ip_forward", "0");
    expect(&[], true, "error forwarding: IPv4 forwarding is off");
    write_sysctl(netns, "ipv4/ip_forward", "1");
    write_sysctl(netns, "ipv4/conf/eth0/rp_filter", "1");
    expect(&[], false, "warning rp_filter: strict on eth0");
    write_sysctl(netns, "ipv4/conf/eth0/rp_filter", "0");
    write_sysctl(netns, close_wait, "60");
    expect(
        &[],
        false,
        "nf_conntrack_tcp_timeout_close_wait is 60, below the 3600",
    );
    write_sysctl(netns, close_wait, "3600");
    write_sysctl(netns, "ipv4/ip_local_port_range", "30100 60999");
    expect(
        &[],
        false,
        "ip_local_port_range 30100-60999 overlaps with NodePorts",
    );
    write_sysctl(netns, "ipv4/ip_local_reserved_ports", "30000-32767");
    write_sysctl(netns, "ipv4/ip_local_port_range", "20000 60999");
    expect(&[], false, "overlap with ip_local_port_range 20000-60999");
    write_sysctl(netns, "ipv4/ip_local_port_range", "32768 60999");
    run(netns, "nft add table ip6 kube-proxy", "");
    expect(&[], false, "kube-proxy left nftables table ip6 kube-proxy");
    run(netns, "nft delete table ip6 kube-proxy", "");
    expect(&["--node-name", "n9"], false, "the API has no node n9");
    let named = ["--devices", "tap*", "--pod-devices", "tap*"];
    let (_, findings) = doctor(&cluster, &named);
    let found = complaints(&findings).join("\n");
    assert!(
        found.contains("error devices: no external device is known"),
        "{found}"
    );
    fs::create_dir(cluster.nodes[0].pins.join("v0")).unwrap();
    expect(&[], false, "v0 was left behind by ABI 0");
    fs::remove_dir(cluster.nodes[0].pins.join("v0")).unwrap();
    let mut maps = Maps::open_writable(&cluster.nodes[0].pins).unwrap();
    let sockets = || {
        (0..SOCKETS).map(|number| SocketKey {
            cookie: number.into(),
            ..SocketKey::default()
        })
    };
    for key in sockets() {
        maps.sockets.insert(key, SocketEntry::default(), 0).unwrap();
    }
    expect(
        &[],
        false,
        "full: further sockets show the address of their backend",
    );
    for key in sockets() {
        maps.sockets.remove(&key).unwrap();
    }
    refuses.store(true, Ordering::Relaxed);
    expect(&[], true, "the ClusterRole does not allow: watch services");
    refuses.store(false, Ordering::Relaxed);
    let links = fs::read_dir(pin_folder(&cluster.nodes[0].pins).join("links")).unwrap();
    let mut links = links.map(|link| link.unwrap().path());
    let is_wanted = |link: &std::path::PathBuf| link.to_string_lossy().contains("hg_tc_external");
    fs::remove_file(links.find(is_wanted).unwrap()).unwrap();
    expect(&[], true, "hg_tc_external or hg_tc_l3 is not attached");
    cluster.nodes[0].netns.batch("link set eth0 down").unwrap();
    let start = std::time::Instant::now();
    let (_, findings) = doctor(&cluster, &[]);
    assert!(start.elapsed().as_secs() < 20, "it must not hang");
    let all = complaints(&findings).join("\n");
    assert!(all.contains("error API: "), "{all}");
    let (_, findings) = doctor(&cluster, &["--no-api"]);
    assert!(!complaints(&findings).join("\n").contains("API"));
    fs::write(cluster.kubeconfig(), "nonsense").unwrap();
    let (_, findings) = doctor(&cluster, &[]);
    assert!(
        complaints(&findings)
            .join("\n")
            .contains("error API: not configured")
    );
}

/// Rules in the form of kube-proxy's (Kubernetes 1.36, `iptables-save` of a node) beside other rules.
const IPTABLES: &str = "*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-BBBBBBBBBBBBBBBB - [0:0]
:MINE - [0:0]
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A PREROUTING -j MINE
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A POSTROUTING -s 10.9.0.0/16 -j MASQUERADE
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-SEP-AAAAAAAAAAAAAAAA -p tcp -m tcp -j DNAT --to-destination 10.244.1.2:9376
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-BBBBBBBBBBBBBBBB
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-BBBBBBBBBBBBBBBB ! -s 10.244.0.0/16 -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SVC-BBBBBBBBBBBBBBBB -j KUBE-SEP-AAAAAAAAAAAAAAAA
-A MINE -p udp -j RETURN
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
-A INPUT -j KUBE-FIREWALL
-A FORWARD -j KUBE-FORWARD
-A KUBE-FIREWALL -s 127.0.0.0/8 -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
COMMIT
";

/// The rules that do not name a chain of kube-proxy only.
fn foreign_rules(netns: &Netns) -> Vec<String> {
    let kept = ["KUBE-FIREWALL", "KUBE-KUBELET-CANARY"];
    let mut lines = Vec::new();
    for program in ["iptables-nft-save", "iptables-legacy-save"] {
        let text = run(netns, program, "");
        let rules = text.lines().filter(|line| !line.starts_with('#'));
        let is_foreign =
            |line: &&str| !line.contains("KUBE-") || kept.iter().any(|name| line.contains(name));
        // Without the counters of packets.
        let rules = rules.filter(is_foreign).map(|line| line.split(" [").next());
        lines.extend(rules.flatten().map(String::from));
    }
    lines.push(run(netns, "nft list table inet mine", ""));
    lines
}

#[test]
fn s128_leftovers_of_kube_proxy_are_removed_and_nothing_else() {
    let Some(cluster) = cluster("repl", 1, 1, &[(1, 1)]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let netns = &node.netns;
    if Command::new("ipset").arg("version").output().is_err() {
        println!(
            "SKIPPED: s128_leftovers_of_kube_proxy_are_removed_and_nothing_else: there is no ipset"
        );
        return;
    }
    let replace = |words: &[&str]| on_node(node, &[&["replace-kube-proxy"], words].concat());
    assert!(replace(&[]).unwrap().contains("kube-proxy left nothing"));
    run(netns, "iptables-nft-restore", IPTABLES);
    run(netns, "iptables-legacy-restore", IPTABLES);
    run(netns, "ipset create KUBE-CLUSTER-IP hash:ip,port", "");
    run(netns, "ipset create mine hash:ip", "");
    let tables = "table ip kube-proxy {\n chain services {\n counter\n }\n }
        table ip6 kube-proxy {\n }
        table inet mine {\n chain input {\n counter accept\n }\n }\n";
    run(netns, "nft -f -", tables);
    let before = foreign_rules(netns);
    assert!(before.len() > 20, "{before:?}");

    // As in a container without these programs: the kernel still says what is there.
    let without_programs = |words: &[&str]| {
        let mut command = netns.command(binary("headgate").unwrap(), None);
        command.env("PATH", "/nonexistent");
        command.arg("--pins").arg(&node.pins).args(words);
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.success(), text)
    };
    let (is_well, text) = without_programs(&["replace-kube-proxy"]);
    assert!(!is_well && !text.contains("left nothing"), "{text}");
    for part in [
        "would remove nftables table ip kube-proxy",
        "would remove ipset KUBE-CLUSTER-IP",
        "UNKNOWN rules of kube-proxy in iptables-nft",
        "UNKNOWN rules of kube-proxy in iptables-legacy",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let (is_well, text) = without_programs(&["doctor", "--no-api"]);
    assert!(
        !is_well && text.contains("cannot be checked: rules of kube-proxy in iptables-nft"),
        "{text}"
    );

    let text = replace(&[]).unwrap();
    for part in [
        "would remove nftables table ip kube-proxy",
        "would remove nftables table ip6 kube-proxy",
        "would remove 6 chains in table nat of iptables-nft, and 3 rules that jump to them",
        "would remove 6 chains in table nat of iptables-legacy, and 3 rules that jump to them",
        "would remove 1 chains in table filter of iptables-nft, and 1 rules that jump to them",
        "would remove ipset KUBE-CLUSTER-IP",
        "Nothing was changed",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert_eq!(replace(&[]).unwrap(), text);
    let text = replace(&["--yes"]).unwrap();
    assert!(text.contains("To go back"), "{text}");
    assert!(
        replace(&["--yes"])
            .unwrap()
            .contains("kube-proxy left nothing")
    );
    assert_eq!(foreign_rules(netns), before);
    assert_eq!(run(netns, "ipset list -n", "").trim(), "mine");

    fs::rename(pin_folder(&node.pins), node.pins.join("v0")).unwrap();
    let error = replace(&["--yes"]).unwrap_err();
    assert!(error.contains("not yet: there are no maps"), "{error}");
}
