//! Commands that show the state of a running node: their output matches what the node does.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Command, Stdio},
};

use crate::common::{
    BALANCER, CLUSTER_V4, cluster, cluster_without_agents, curl, eventually, ingress_cluster, json,
    on, on_node,
};
use etherparse::PacketBuilder;
use headgate_dataplane::pin_folder;
use headgate_netns::{Node, SERVICE, binary, get, http, slices, udp};
use pcap_file::pcap::{PcapPacket, PcapWriter};
use promql_parser::parser::{Expr, VectorSelector, parse};
use serde_json::Value;

fn explain(node: &Node, source: &str, protocol: &str, destination: SocketAddr) -> Value {
    let destination = destination.to_string();
    json(node, &["explain", source, protocol, &destination])[0].take()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// Everything that packets for services change: connections, counters, backends.
fn state(node: &Node) -> [Value; 3] {
    let mut connections = json(node, &["conntrack"]);
    for row in connections.as_array_mut().unwrap() {
        row.as_object_mut().unwrap().remove("idle_s");
    }
    let mut counters = json(node, &["counters"]);
    // Other packets, for example of neighbour discovery, arrive all the time.
    let is_forwarded = |row: &Value| row["fate"] == "forward";
    counters.as_array_mut().unwrap().retain(is_forwarded);
    [connections, counters, json(node, &["backends"])]
}

#[test]
fn explanation_matches_the_packet_and_changes_nothing() {
    let Some(cluster) = cluster("expl", 2, 2, &[(1, 1), (1, 2), (2, 1), (2, 2)]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let target = on(node.v4, 30080);
    for port in 40000..40012 {
        let before = state(node);
        let explained = explain(node, &format!("192.168.50.100:{port}"), "tcp", target);
        assert_eq!(before, state(node));

        let url = format!("http://{target}/");
        let mut client = cluster.client.command("curl", None);
        let local = port.to_string();
        client.args(["--silent", "--max-time", "3", "--local-port", &local, &url]);
        let output = client.output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        let pods = cluster.nodes.iter().flat_map(|node| &node.pods);
        let mut pods = pods.filter(|pod| text(&answer["pod"]) == pod.name);
        let pod = pods.next().unwrap();
        let result = text(&explained["result"]);
        assert!(
            result.contains(&format!("→ {}:9376 tcp SYN", pod.v4)),
            "{answer} but {explained}"
        );
        assert!(
            result.starts_with(&format!("{} ", text(&answer["client"]))),
            "the pod sees {answer}, but {explained}"
        );

        // The next packet of this connection is known.
        let again = explain(node, &format!("192.168.50.100:{port}"), "tcp", target);
        let first = text(&again["steps"][0]);
        assert!(
            first.contains("of Service default/web (closed"),
            "it ended: {first}"
        );
    }
}

#[test]
fn explanation_names_the_obstacle() {
    let Some(cluster) = cluster("why", 1, 1, &[(1, 1)]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let reason = |explained: &Value| text(&explained["reason"]).to_owned();
    let out = "192.168.50.100:4000";

    let explained = explain(node, "[fd50::100]:4000", "udp", on(node.v6, 30007));
    assert_eq!(reason(&explained), "to-backend", "{explained}");
    assert!(
        text(&explained["result"]).contains("→ [fd44:1::2]:9376 udp"),
        "{explained}"
    );
    let explained = explain(node, out, "tcp", on(CLUSTER_V4, 81));
    assert_eq!(reason(&explained), "no-port", "{explained}");
    assert!(
        text(&explained["result"]).contains("RST+ACK"),
        "{explained}"
    );
    let explained = explain(node, out, "tcp", on([192, 168, 50, 77], 81));
    assert_eq!(reason(&explained), "not-ours", "{explained}");
    let source = "10.244.1.2:4000";
    let words = ["explain", source, "tcp", "10.96.0.10:80", "--dev", "lxc1"];
    let explained = json(node, &words)[0].take();
    assert_eq!(text(&explained["program"]), "hg_tc_pod");
    assert!(
        explained["steps"]
            .to_string()
            .contains("the source becomes 192.168.50.1:"),
        "the pod reaches itself: {explained}"
    );
    let explained = json(node, &["explain", "connect", "tcp", "10.96.0.10:80"])[0].take();
    assert_eq!(text(&explained["result"]), "10.244.1.2:9376");

    let restricted = SERVICE.replace(
        "  type: ",
        "  loadBalancerSourceRanges: [198.51.100.0/24]\n  type: ",
    );
    cluster.write("web.yaml", &restricted).unwrap();
    eventually("the range is explained", || {
        let explained = explain(node, out, "tcp", on(BALANCER, 80));
        reason(&explained) == "source-range"
            && explained["steps"].to_string().contains("do not admit")
    });
    cluster.write("slices.yaml", &slices(&[])).unwrap();
    eventually("the lack of backends is explained", || {
        reason(&explain(node, out, "tcp", on(node.v4, 30080))) == "no-backend"
    });

    for (words, complaint) in [
        (
            &["explain", "1.1.1.1:1", "tcp", "2.2.2.2:2", "--dev", "nope"][..],
            "no program is attached to device nope; there are eth0, lxc1",
        ),
        (
            &["explain", "1.1.1.1:1", "tcp", "[::1]:2"],
            "are not of one family",
        ),
        (
            &["explain", "drop", "no-reason"],
            "no-reason is not a reason; there are",
        ),
        (&["explain", "pcap", "/nowhere"], "cannot open /nowhere"),
        (
            &["explain", "pcap", "/etc/hostname"],
            "/etc/hostname is not a capture",
        ),
    ] {
        let error = on_node(node, words).unwrap_err();
        assert!(
            error.starts_with("headgate: ") && error.contains(complaint),
            "{error}"
        );
    }
    for name in ["no-backend", "32"] {
        let text = on_node(node, &["explain", "drop", name]).unwrap();
        assert!(
            text.starts_with("no-backend (32), reject: The Service has no"),
            "{text}"
        );
    }
}

#[test]
fn capture_is_explained_packet_by_packet() {
    let Some(cluster) = cluster("pcap", 1, 1, &[(1, 1)]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let segment = |is_first: bool| {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([192, 168, 50, 100], node.v4.octets(), 64)
            .tcp(4000, 30080, 1, 1000);
        let builder = if is_first {
            builder.syn()
        } else {
            builder.ack(1)
        };
        let mut frame = Vec::new();
        builder.write(&mut frame, b"").unwrap();
        frame
    };
    let path = cluster.manifests().join("capture.pcap");
    let mut writer = PcapWriter::new(std::fs::File::create(&path).unwrap()).unwrap();
    for frame in [segment(true), segment(false)] {
        let packet = PcapPacket::new(Default::default(), frame.len() as u32, &frame);
        writer.write_packet(&packet).unwrap();
    }
    drop(writer);
    let explained = json(node, &["explain", "pcap", path.to_str().unwrap()]);
    assert!(
        text(&explained[0]["steps"][0]).starts_with("no connection"),
        "{explained}"
    );
    assert!(
        text(&explained[1]["steps"][0]).starts_with("known as an open connection"),
        "what the first opened, the second finds: {explained}"
    );
    assert!(json(node, &["conntrack"]).as_array().unwrap().is_empty());
}

#[test]
fn agent_outlives_the_reader_of_its_log() {
    let Some(mut cluster) = cluster("log", 1, 2, &[(1, 1)]) else {
        return;
    };
    drop(cluster.nodes[0].agent.take());
    let mut command = cluster.agent_command(0, &[]).unwrap();
    let mut agent = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(agent.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("ready") {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "it ended");
    }
    drop((output, agent.stderr.take()));
    let node = &cluster.nodes[0];
    for pods in [vec![(1, 1), (1, 2)], vec![(1, 2)]] {
        cluster.write("web-endpoints.yaml", &slices(&pods)).unwrap();
        let is_served = || json(node, &["backends"]).as_array().unwrap().len() == 4 * pods.len();
        eventually("the change is served", is_served);
    }
    assert!(agent.try_wait().unwrap().is_none());
    agent.kill().unwrap();
    agent.wait().unwrap();
}

#[test]
fn monitor_shows_events_as_they_happen() {
    let Some(cluster) = cluster("mon", 2, 1, &[(2, 1)]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let mut command = node.netns.command(binary("headgate").unwrap(), None);
    let mut monitor = command
        .arg("--pins")
        .arg(&node.pins)
        .args(["monitor", "--count", "4", "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    let mut stderr = BufReader::new(monitor.stderr.take().unwrap());
    stderr.read_line(&mut ready).unwrap();
    assert!(ready.contains("Ctrl-C ends"), "{ready}");
    let second = on_node(node, &["monitor", "--count", "1"]).unwrap_err();
    assert!(second.contains("one at a time"), "{second}");

    let (tcp, datagram, closed) = (on(node.v4, 30080), on(node.v6, 30007), on(CLUSTER_V4, 81));
    let route = format!("route add {CLUSTER_V4}/32 via {}", node.v4);
    cluster.client.batch(&route).unwrap();
    cluster.client.run(move || {
        get(tcp).unwrap();
        udp(datagram).unwrap();
        assert!(get(closed).is_err());
    });
    curl(&node.netns, &node.cgroup, &format!("http://{CLUSTER_V4}/")).unwrap();
    let output = monitor.wait_with_output().unwrap();
    assert!(output.status.success());
    let rows: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let [opened, datagram, refused, socket] = rows.as_slice() else {
        panic!("{rows:?}");
    };
    assert_eq!(text(&opened["service"]), "default/web");
    assert_eq!(text(&opened["to"]), format!("{tcp}"));
    assert_eq!(text(&opened["backend"]), "10.244.2.2:9376");
    assert!(
        text(&opened["source"]).starts_with("192.168.50.1:"),
        "{opened}"
    );
    assert!(text(&opened["at"]).starts_with("eth0, "), "{opened}");
    assert_eq!(text(&datagram["protocol"]), "udp");
    assert_eq!(
        (text(&refused["fate"]), text(&refused["reason"])),
        ("reject", "no-port")
    );
    assert_eq!(text(&socket["reason"]), "socket-translated");
    assert!(
        text(&socket["at"]).contains("process ") && text(&socket["from"]).starts_with("netns "),
        "{socket}"
    );
}

#[test]
fn flushed_connection_is_gone_and_translations_are_shown() {
    let Some(cluster) = cluster("flush", 2, 1, &[(2, 1)]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let target = on(node.v4, 30080);
    cluster.client.run(move || get(target).unwrap());
    let rows = json(node, &["nat"]);
    let row = &rows[0];
    assert!(text(&row["source"]).starts_with("192.168.50.1:"), "{rows}");
    let client = text(&row["client"]);
    let words = ["conntrack", "flush", client, "tcp", "192.168.50.1:30080"];
    assert_eq!(on_node(node, &words).unwrap(), "deleted\n");
    assert!(json(node, &["conntrack"]).as_array().unwrap().is_empty());
    let error = on_node(node, &words).unwrap_err();
    assert!(error.contains("no connection of this client"), "{error}");
}

#[test]
fn unreadable_pins_are_named() {
    let Some(mut cluster) = cluster("pins", 1, 1, &[(1, 1)]) else {
        return;
    };
    cluster.nodes[0].agent.take().unwrap().terminate().unwrap();
    let node = &cluster.nodes[0];
    let folder = pin_folder(&node.pins);
    std::fs::rename(folder.join("CONNTRACK"), folder.join("FRONTENDS")).unwrap();
    let frontends = folder.join("FRONTENDS").display().to_string();
    let error = on_node(node, &["services"]).unwrap_err();
    assert!(
        error.starts_with(&format!(
            "headgate: pin {frontends} is not a map of Headgate"
        )),
        "{error}"
    );
    std::fs::remove_file(&frontends).unwrap();
    let error = on_node(node, &["services"]).unwrap_err();
    assert!(
        error.contains("FRONTENDS") && error.lines().count() == 1,
        "{error}"
    );
    std::fs::rename(&folder, node.pins.join("v0")).unwrap();
    let error = on_node(node, &["services"]).unwrap_err();
    assert!(
        error.contains("/v0: is the agent of another version?"),
        "{error}"
    );
    std::fs::remove_dir_all(&node.pins).unwrap();
    let error = on_node(node, &["services"]).unwrap_err();
    assert!(error.contains("has an agent run here?"), "{error}");
}

/// The metrics of the agent: name, labels and value of each sample (OpenMetrics 1.0, text).
fn scrape(node: &Node) -> Vec<(String, BTreeMap<String, String>, f64)> {
    scrape_at(node, 10249)
}

fn scrape_at(node: &Node, port: u16) -> Vec<(String, BTreeMap<String, String>, f64)> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let (code, text) = node.netns.run(move || http(address, "/metrics").unwrap());
    assert_eq!(code, 200, "{text}");
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(body.ends_with("# EOF\n"), "{body}");
    let lines = body.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let expression = parse(line.rsplit_once(' ').unwrap().0).unwrap();
            let Expr::VectorSelector(selector) = expression else {
                panic!("{line} is no sample");
            };
            let labels = selector.matchers.matchers.iter();
            let labels = labels.map(|label| (label.name.clone(), label.value.clone()));
            let value = line.rsplit_once(' ').unwrap().1.parse().unwrap();
            (selector.name.unwrap(), labels.collect(), value)
        })
        .collect()
}

#[test]
fn metrics_count_what_was_sent() {
    let Some(cluster) = cluster("count", 1, 2, &[(1, 1), (1, 2)]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let (target, unused) = (on(node.v4, 30080), on(CLUSTER_V4, 81));
    let route = format!("route add {CLUSTER_V4}/32 via {}", node.v4);
    cluster.client.batch(&route).unwrap();
    cluster.client.run(move || {
        for _ in 0..7 {
            get(target).unwrap();
        }
        assert!(get(unused).is_err());
    });
    let samples = scrape(node);
    let sum = |name: &str, wanted: &[(&str, &str)]| -> f64 {
        let has = |labels: &BTreeMap<String, String>| {
            wanted
                .iter()
                .all(|(label, value)| labels.get(*label).is_some_and(|is| is == value))
        };
        let found = samples
            .iter()
            .filter(|(is, labels, _)| is == name && has(labels));
        found.map(|(_, _, value)| value).sum()
    };
    let web = [("namespace", "default"), ("service", "web")];
    assert_eq!(sum("headgate_service_connections_total", &web), 7.0);
    assert!(sum("headgate_service_packets_total", &web) > 40.0);
    assert!(sum("headgate_service_bytes_total", &web) > 3000.0);
    let tcp = [("protocol", "tcp")];
    assert_eq!(sum("headgate_backend_connections_total", &tcp), 7.0);
    let refused = [("fate", "reject"), ("reason", "no-port")];
    assert_eq!(sum("headgate_packets_total", &refused), 1.0);
    assert_eq!(sum("headgate_map_entries", &[("map", "BACKENDS")]), 8.0);
    assert_eq!(sum("headgate_map_capacity", &[("map", "BACKENDS")]), 4096.0);
    let limit = sum("headgate_map_memory_limit_bytes", &[]);
    assert_eq!(limit, f64::from(1 << 30));
    let status = json(&cluster.nodes[0], &["status"]);
    assert_eq!(status["agent"]["most_map_bytes"].as_f64(), Some(limit));
    assert_eq!(sum("headgate_synced", &[]), 1.0);
}

#[test]
fn metrics_beyond_the_limit_are_summed_up() {
    let Some(mut cluster) = cluster_without_agents("series", 1, 2) else {
        return;
    };
    cluster.write("web.yaml", SERVICE).unwrap();
    cluster
        .write("slices.yaml", &slices(&[(1, 1), (1, 2)]))
        .unwrap();
    cluster
        .start_agent_with(0, &["--metrics-max-series", "1"])
        .unwrap();
    let node = &cluster.nodes[0];
    let target = on(node.v4, 30080);
    cluster.client.run(move || {
        for _ in 0..20 {
            get(target).unwrap();
        }
    });
    let samples = scrape(node);
    let backends = samples
        .iter()
        .filter(|(name, _, _)| name == "headgate_backend_connections_total");
    let backends: Vec<_> = backends.collect();
    let mut names: Vec<&str> = backends
        .iter()
        .map(|(_, labels, _)| labels["backend"].as_str())
        .collect();
    names.sort_unstable();
    assert_eq!(names[1..], ["other", "other"], "one for each protocol");
    let sum: f64 = backends.iter().map(|(_, _, value)| value).sum();
    assert_eq!(sum, 20.0);
}

/// Calls `see` for every selector in an expression.
fn selectors(expression: &Expr, see: &mut impl FnMut(&VectorSelector)) {
    match expression {
        Expr::VectorSelector(selector) => see(selector),
        Expr::MatrixSelector(matrix) => see(&matrix.vs),
        Expr::Aggregate(aggregate) => selectors(&aggregate.expr, see),
        Expr::Unary(unary) => selectors(&unary.expr, see),
        Expr::Binary(binary) => {
            selectors(&binary.lhs, see);
            selectors(&binary.rhs, see);
        }
        Expr::Paren(paren) => selectors(&paren.expr, see),
        Expr::Subquery(subquery) => selectors(&subquery.expr, see),
        Expr::Call(call) => call.args.args.iter().for_each(|part| selectors(part, see)),
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => {}
    }
}

#[test]
fn dashboard_and_alerts_use_metrics_that_exist() {
    let Some((cluster, _)) = ingress_cluster("names", &[]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, labels, _) in [scrape(node), scrape_at(node, 10245)].concat() {
        let all = known.entry(name).or_default();
        all.extend(labels.into_keys());
        // Prometheus adds these.
        all.extend(["instance".into(), "job".into()]);
    }
    known.insert(
        "up".into(),
        BTreeSet::from(["instance".into(), "job".into()]),
    );
    let rules: Value =
        yaml_serde::from_str(include_str!("../../../../deploy/alerts/headgate.yaml")).unwrap();
    let dashboard: Value =
        serde_json::from_str(include_str!("../../../../deploy/dashboards/headgate.json")).unwrap();
    let rules = rules["spec"]["groups"][0]["rules"].as_array().unwrap();
    for rule in rules {
        for text in ["summary", "description"] {
            assert!(
                rule["annotations"][text].is_string(),
                "{rule} has no {text}"
            );
        }
    }
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    let expressions: Vec<String> = rules
        .iter()
        .chain(targets)
        .map(|of| text(&of["expr"]).replace("$__rate_interval", "5m"))
        .collect();
    assert!(expressions.len() > 20);
    for expression in expressions {
        let parsed = parse(&expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
        selectors(&parsed, &mut |selector| {
            let name = selector.name.as_ref().unwrap();
            let labels = known.get(name);
            let labels = labels.unwrap_or_else(|| panic!("{expression}: there is no {name}"));
            for label in &selector.matchers.matchers {
                assert!(
                    labels.contains(&label.name),
                    "{expression}: no {}",
                    label.name
                );
            }
        });
    }
}

/// A tmux server with its own socket, ended on drop.
struct Screen(String);

impl Screen {
    fn tmux(&self, words: &[&str]) -> String {
        let mut command = Command::new("tmux");
        let output = command.args(["-L", &self.0]).args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    fn shows(&self, what: &str, is_shown: impl Fn(&str) -> bool) {
        eventually(what, || is_shown(&self.tmux(&["capture-pane", "-p"])));
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

#[test]
fn top_shows_rates_and_obeys_keys() {
    if Command::new("tmux").arg("-V").output().is_err() {
        println!("SKIPPED: top_shows_rates_and_obeys_keys: there is no tmux");
        return;
    }
    let Some(cluster) = cluster("top", 1, 2, &[(1, 1), (1, 2)]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let error = on_node(node, &["top"]).unwrap_err();
    assert!(error.contains("top needs a terminal"), "{error}");
    let screen = Screen(format!("hgtop{}", std::process::id()));
    let line = format!(
        "nsenter --net={} {} --pins {} top",
        node.netns.path().display(),
        binary("headgate").unwrap().display(),
        node.pins.display()
    );
    screen.tmux(&["new-session", "-d", "-x", "120", "-y", "30", &line]);
    let target = on(node.v4, 30080);
    screen.shows("a rate of the service", |text| {
        cluster.client.run(move || {
            for _ in 0..20 {
                get(target).unwrap();
            }
        });
        let row = text.lines().find(|line| line.starts_with("default/web"));
        let rate = row.and_then(|row| row.split_whitespace().nth(1));
        text.contains("agent in sync") && rate.is_some_and(|rate| rate != "0")
    });
    screen.tmux(&["send-keys", "Enter"]);
    screen.shows("the service's backends", |text| {
        text.contains("10.244.1.2:9376") && text.contains("backends of default/web")
    });
    screen.tmux(&["send-keys", "3"]);
    screen.shows("the reasons", |text| {
        text.contains("Translated towards a backend.")
    });
    screen.tmux(&["send-keys", "/to-cl", "Enter"]);
    screen.shows("what is filtered", |text| {
        text.contains("to-client") && !text.contains("to-backend")
    });
    screen.tmux(&["send-keys", "?"]);
    screen.shows("help", |text| text.contains("sort by the next column"));
    screen.tmux(&["send-keys", "q"]);
    eventually("it ends", || {
        !screen.tmux(&["list-sessions"]).contains("1 windows")
    });
}
