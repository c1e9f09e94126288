//! Faults while load continues. `cargo xtask fault` runs many rounds; each test prints a row of a table.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "../common/mod.rs"]
mod common;
mod sizes;
mod takeover;
mod versions;

use std::{
    collections::BTreeSet,
    env,
    net::{SocketAddr, UdpSocket},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use common::{
    API, BALANCER, CLUSTER_V4, CLUSTER_V6, cluster, cluster_without_agents, content, count, doctor,
    eventually,
    flood::{Packet, flood},
    ingress_cluster, json, names, on, on_node, pods_over_http, requests,
};
use headgate_apiserver::{ASSETS, ApiServer, TestServer};
use headgate_dataplane::Maps;
use headgate_netns::{
    Client, Cluster, Load, Netns, Node, Process, SERVICE, Talk, Tally, binary, connection,
    connections, datagrams, get, slices, talk,
};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Pause of a client between two requests: short enough to meet every fault, without congestion.
const PACE: Duration = Duration::from_millis(20);
const ALL: [(u8, u8); 4] = [(1, 1), (1, 2), (2, 1), (2, 2)];

/// Number of rounds of a scenario: `few` in a test run, more in `cargo xtask fault`.
fn rounds(few: usize) -> usize {
    env::var("HEADGATE_FAULT_ROUNDS").map_or(few, |rounds| rounds.parse().unwrap())
}

/// The load of a scenario: requests over TCP, and datagrams.
struct Traffic {
    requests: Load,
    datagrams: Load,
}

/// The outcomes of the load of a scenario.
struct Outcome {
    requests: Tally,
    datagrams: Tally,
}

impl Traffic {
    /// Starts clients on every path to `web`, with old connections and new ones. A flow of datagrams stays
    /// with its pod only while the pod is there, so flows use the pods in `stable`, which stay.
    fn start(cluster: &Cluster, stable: &[&str]) -> Self {
        let [one, two] = &cluster.nodes[..] else {
            panic!("two nodes")
        };
        let (outside, pod) = (&cluster.client, &one.pods[0].netns);
        let mut requests = Load::new();
        let mut flows = Load::new();
        let mut add = |from: &Netns, port: u16, udp: u16, to: &[std::net::IpAddr]| {
            for address in to {
                let (http, echo) = (on(*address, port), on(*address, udp));
                let load = std::mem::take(&mut requests);
                requests = load
                    .with(from, PACE, connection(http))
                    .with(from, PACE, connection(http))
                    .with(from, PACE, connections(http));
                let flow = settled(from, stable, || datagrams(echo));
                flows = std::mem::take(&mut flows).with(from, PACE, flow);
            }
        };
        let nodes = [one.v4.into(), one.v6.into(), two.v4.into(), two.v6.into()];
        add(outside, 30080, 30007, &nodes);
        add(outside, 80, 7, &[BALANCER]);
        add(pod, 80, 7, &[CLUSTER_V4, CLUSTER_V6]);
        // Through the socket hooks, from another pod: a connection that a socket hook sends directly to a
        // backend is not tracked, and packets of another connection with the same address and port could
        // be sent there.
        let pod = &one.pods[1].netns;
        for address in [CLUSTER_V4, CLUSTER_V6] {
            let (http, echo) = (on(address, 80), on(address, 7));
            for is_kept in [true, false] {
                let client = Talk::start_tcp(pod, &one.cgroup, is_kept.then_some(http)).unwrap();
                requests = requests.with(pod, PACE, talk(client, http, is_kept));
            }
            let flow = settled(pod, stable, || {
                talk(
                    Talk::start(pod, &one.cgroup, Some(echo)).unwrap(),
                    echo,
                    true,
                )
            });
            flows = flows.with(pod, PACE, flow);
        }
        Self {
            requests,
            datagrams: flows,
        }
    }

    fn finish(self) -> Outcome {
        let sum = |load: Load| load.finish().into_iter().sum();
        Outcome {
            requests: sum(self.requests),
            datagrams: sum(self.datagrams),
        }
    }
}

/// Makes clients until the first answer of one comes from one of these pods.
fn settled(from: &Netns, pods: &[&str], mut client: impl FnMut() -> Client) -> Client {
    for _ in 0..100 {
        let mut client = client();
        let (first, client) = from.run(move || (client().unwrap(), client));
        if pods.contains(&first.as_str()) {
            return client;
        }
    }
    panic!("no answer from {pods:?}");
}

impl Outcome {
    /// The outcome of a scenario without datagrams.
    fn of_requests(requests: Tally) -> Self {
        Self {
            requests,
            datagrams: Tally::default(),
        }
    }

    /// Prints a row of the table of `cargo xtask fault`, and asserts that nothing was lost.
    fn report(self, scenario: &str, rounds: usize, also: &str) {
        let Self {
            requests,
            datagrams,
        } = self;
        let lost = [&requests.lost[..], &datagrams.lost[..]].concat();
        let moved = [&requests.moved[..], &datagrams.moved[..]].concat();
        println!(
            "FAULT: | {scenario} | {rounds} | {} | {} | {} | {} | {also} |",
            requests.sent(),
            datagrams.sent(),
            lost.len(),
            moved.len(),
        );
        let some: Vec<&String> = lost.iter().chain(&moved).take(10).collect();
        assert!(some.is_empty(), "{some:#?}");
    }
}

/// Entries and capacity of a map, from `headgate maps`.
fn fill(node: &Node, map: &str) -> (u64, u64) {
    let fills = json(node, &["maps"]);
    let row = fills
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["map"] == map);
    let number = |field: &str| row.unwrap()[field].as_u64().unwrap();
    (number("entries"), number("capacity"))
}

/// The Maglev tables of a node: backend ids by slot, for each service that has one.
fn picks(node: &Node) -> Vec<Vec<u32>> {
    let maps = Maps::open(&node.pins).unwrap();
    let services = (1..maps.services.len()).filter_map(|id| maps.services.get(id));
    let ranges = services.map(|service| service.slots());
    let tables = ranges.filter(|range| range.count > 100);
    tables
        .map(|range| {
            let slots = range.first..range.first + range.count;
            slots.map(|slot| maps.slots.get(slot).unwrap()).collect()
        })
        .collect()
}

/// Sends flows from one port of the client to the same service on two nodes; returns how many reach
/// different pods.
fn disagreements(cluster: &Cluster, flows: usize) -> usize {
    let targets = [0, 1].map(|index| on(cluster.nodes[index].v4, 30007));
    cluster.client.run(move || {
        let is_split = |_: &usize| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(3)))
                .unwrap();
            let pod = |to: &SocketAddr| {
                let mut buffer = [0; 1024];
                socket.send_to(b"x", to).unwrap();
                let len = socket.recv(&mut buffer).unwrap();
                let answer: Value = serde_json::from_slice(&buffer[..len]).unwrap();
                answer["pod"].as_str().unwrap().to_owned()
            };
            pod(&targets[0]) != pod(&targets[1])
        };
        (0..flows).filter(is_split).count()
    })
}

fn kill_agent(cluster: &mut Cluster, index: usize) {
    cluster.nodes[index].agent.take().unwrap().kill().unwrap();
}

#[test]
fn fault_agents_killed_and_replaced() {
    const KILLS: usize = 4;
    let rounds = rounds(8);
    let Some(mut cluster) = cluster("fkill", 2, 2, &ALL) else {
        return;
    };
    let pods = ["web-1-1", "web-1-2", "web-2-1", "web-2-2"];
    let traffic = Traffic::start(&cluster, &pods);
    for round in 0..rounds.div_ceil(KILLS) {
        let index = round % 2;
        // Alternates between the same programs and programs with another configuration.
        let ports = [
            "--snat-ports",
            ["10000-29999", "12000-19999"][round / 2 % 2],
        ];
        kill_agent(&mut cluster, index);
        // Kills agents while they load, attach and write, too.
        for step in 1..KILLS {
            let command = cluster.agent_command(index, &ports).unwrap();
            let process = Process::spawn(command).unwrap();
            thread::sleep(Duration::from_millis(
                ((round * KILLS + step) * 37 % 900) as u64,
            ));
            process.kill().unwrap();
        }
        cluster.start_agent_with(index, &ports).unwrap();
        if round % 4 == 3 {
            let agent = cluster.nodes[index].agent.take().unwrap();
            agent.terminate().unwrap();
            cluster.start_agent_with(index, &ports).unwrap();
        }
    }
    traffic.finish().report(
        "agents killed and replaced",
        rounds,
        "one kill a round, three of four while the agent starts",
    );
}

/// Number of entries in the backend table of a node.
fn backends(node: &Node) -> usize {
    json(node, &["backends"]).as_array().unwrap().len()
}

/// Removes one of ten backends and adds it again; returns how many slots of the backends that stay
/// changed, and how many such slots there were.
fn moved_slots(cluster: &Cluster, rounds: usize) -> (usize, usize) {
    let many: Vec<(u8, u8)> = (1..=10).map(|pod| (9, pod)).collect();
    let node = &cluster.nodes[0];
    let served = |pods: &[(u8, u8)]| {
        cluster.write("slices.yaml", &slices(pods)).unwrap();
        eventually("they are served", || backends(node) == 4 * pods.len());
        picks(node)
    };
    let (mut moved, mut all) = (0, 0);
    for round in 0..rounds {
        let mut fewer = many.clone();
        fewer.remove(round);
        let tables = [served(&many), served(&fewer), served(&many)];
        for pair in tables.windows(2) {
            assert!(!pair[0].is_empty());
            for (before, after) in pair[0].iter().zip(&pair[1]) {
                let kept: BTreeSet<u32> = before
                    .iter()
                    .copied()
                    .filter(|id| after.contains(id))
                    .collect();
                let slots = before.iter().zip(after);
                let slots: Vec<_> = slots.filter(|(id, _)| kept.contains(id)).collect();
                let changed = slots.iter().filter(|(before, after)| before != after);
                moved += changed.filter(|(_, after)| kept.contains(after)).count();
                all += slots.len();
            }
        }
    }
    (moved, all)
}

#[test]
fn fault_backends_come_and_go() {
    const CHANGES: usize = 10;
    let rounds = rounds(4);
    let Some(cluster) = cluster("fchurn", 2, 2, &ALL) else {
        return;
    };
    let traffic = Traffic::start(&cluster, &["web-1-1", "web-2-1"]);
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..rounds * CHANGES {
        let mut serving = vec![(1, 1), (2, 1)];
        serving.extend([(1, 2), (2, 2)].into_iter().filter(|_| random.bool()));
        cluster.write("slices.yaml", &slices(&serving)).unwrap();
        thread::sleep(Duration::from_millis(50));
    }
    cluster.write("slices.yaml", &slices(&ALL)).unwrap();
    let outcome = traffic.finish();
    for node in &cluster.nodes {
        eventually("all backends are back", || backends(node) == 4 * ALL.len());
        node.agent.as_ref().unwrap().signal(Signal::SIGHUP).unwrap();
        let status = json(node, &["status"]);
        assert_eq!(status["agent"]["repaired"], 0, "{status}");
        assert_eq!(
            status["agent"]["failures"],
            Value::Array(vec![]),
            "{status}"
        );
    }
    let split = disagreements(&cluster, 50 + rounds);

    let (moved, all) = moved_slots(&cluster, rounds.clamp(2, 10));
    let also = format!(
        "{} changes; {split} flows split between nodes; {:.1} % of other picks moved",
        rounds * CHANGES,
        moved as f64 * 100.0 / all as f64
    );
    outcome.report("backends come and go", rounds, &also);
    assert_eq!(split, 0);
    // The property test of the table has the same bound.
    assert!(moved * 5 <= all, "{moved} of {all} picks moved");
}

/// An agent killed while it writes a change leaves nothing undone: the next one moves the flows of
/// datagrams from the pod that left.
#[test]
fn fault_agent_killed_amid_changes() {
    let rounds = rounds(4);
    let Some(mut cluster) = cluster("fmid", 2, 1, &[(1, 1), (2, 1)]) else {
        return;
    };
    let target = on(cluster.nodes[0].v4, 30007);
    let mut requests = Tally::default();
    let mut flows = Tally::default();
    for round in 0..rounds {
        let (stays, leaves) = [((1, 1), (2, 1)), ((2, 1), (1, 1))][round % 2];
        let name = |(node, pod): (u8, u8)| format!("web-{node}-{pod}");
        cluster
            .write("slices.yaml", &slices(&[stays, leaves]))
            .unwrap();
        eventually("both are served", || {
            pods_over_http(&cluster.client, on(cluster.nodes[0].v4, 30080)).len() == 2
        });
        let clients: Vec<Client> = (0..20)
            .map(|_| settled(&cluster.client, &[&name(leaves)], || datagrams(target)))
            .collect();
        cluster.write("slices.yaml", &slices(&[stays])).unwrap();
        thread::sleep(Duration::from_micros(round as u64 * 997 % 40_000));
        kill_agent(&mut cluster, 0);
        cluster.start_agent(0).unwrap();
        for mut client in clients {
            // The first datagram may move to the other pod, as it should.
            let _moved = client();
            let result = client();
            flows.add(match result {
                Ok(pod) if pod == name(leaves) => Err(headgate_netns::Miss::Moved(format!(
                    "still at {pod}, which left"
                ))),
                other => other,
            });
        }
        let web = on(cluster.nodes[0].v4, 30080);
        let answer = cluster.client.run(move || get(web));
        requests.add(answer.map(|answer| answer.pod).map_err(Into::into));
    }
    let outcome = Outcome {
        requests,
        datagrams: flows,
    };
    outcome.report("agent killed amid changes", rounds, "");
}

/// A service on a port without a listener, so that floods of datagrams end at the pods.
const SINK: &str = "\
apiVersion: v1
kind: Service
metadata: {name: sink}
spec:
  type: NodePort
  clusterIP: 10.96.0.99
  sessionAffinity: ClientIP
  ports: [{protocol: UDP, port: 9, nodePort: 30053}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: sink-ipv4, labels: {kubernetes.io/service-name: sink}}
addressType: IPv4
ports: [{protocol: UDP, port: 9}]
endpoints:
- {addresses: ['10.244.1.2'], nodeName: n1}
- {addresses: ['10.244.2.2'], nodeName: n2}
";

/// Sends a flood to the first node. Meanwhile changes are applied, and commands still work.
fn flood_amid_changes(cluster: &Cluster, packet: Packet, port: u16, count: usize) {
    let node = &cluster.nodes[0];
    let is_sent = thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(&cluster.client, node, packet, port, count));
        for pods in [&[(1, 1)][..], &[(1, 1), (2, 1)]] {
            cluster.write("slices.yaml", &slices(pods)).unwrap();
            eventually("a change arrives amid the flood", || {
                let backends = json(node, &["backends"]);
                let web = |row: &&Value| row["services"].to_string().contains("web");
                backends.as_array().unwrap().iter().filter(web).count() == 4 * pods.len()
            });
            on_node(node, &["conntrack"]).unwrap();
        }
        flooding.join().is_ok()
    });
    assert!(is_sent);
}

#[test]
fn fault_floods() {
    let rounds = rounds(10);
    let Some(mut cluster) = cluster_without_agents("fflood", 2, 1) else {
        return;
    };
    cluster.write("web.yaml", SERVICE).unwrap();
    cluster.write("sink.yaml", SINK).unwrap();
    let serving = slices(&[(1, 1), (2, 1)]);
    cluster.write("slices.yaml", &serving).unwrap();
    for index in 0..2 {
        cluster
            .start_agent_with(
                index,
                &["--max-connections", "4096", "--max-affinities", "4096"],
            )
            .unwrap();
    }
    let node = &cluster.nodes[0];
    let client = &cluster.client;
    let web = on(node.v4, 30080);
    let open = |address: SocketAddr, pods: &[&str]| settled(client, pods, || connection(address));
    // Some connections are used all the time, others only after the floods.
    let mut requests = Load::new();
    let mut idle = Vec::new();
    for pod in ["web-1-1", "web-2-1"] {
        for _ in 0..4 {
            requests = requests.with(client, PACE, open(web, &[pod]));
            idle.push(open(web, &[pod]));
        }
    }
    requests = requests.with(client, PACE, connections(web));
    let mut notes = Vec::new();
    for (packet, port, name, maps) in [
        (Packet::Syn, 30080, "SYN", &["CONNTRACK"][..]),
        (Packet::Datagram, 30053, "UDP", &["CONNTRACK", "AFFINITY"]),
    ] {
        let count = rounds * 1000;
        flood_amid_changes(&cluster, packet, port, count);
        let findings = doctor(node);
        for map in maps {
            let (entries, capacity) = fill(node, map);
            notes.push(format!("{count} of {name}: {map} {entries} of {capacity}"));
            assert!(entries * 10 > capacity * 8, "{notes:?}");
            assert!(findings.contains(&format!("map {map} is ")), "{findings}");
        }
    }
    let mut tally: Tally = requests.finish().into_iter().sum();
    let mut idle_tally = Tally::default();
    for client in &mut idle {
        idle_tally.add(client());
    }
    // A full table evicts the entry that the kernel estimates to be least used.
    let evicted = std::mem::take(&mut idle_tally.lost);
    notes.push(format!(
        "{} of {} idle connections lost",
        evicted.len(),
        idle.len()
    ));
    assert!(evicted.len() * 4 <= idle.len(), "{evicted:#?}");
    tally = [tally, idle_tally].into_iter().sum();
    let outcome = Outcome::of_requests(tally);
    outcome.report("floods", rounds, &notes.join("; "));
}

#[test]
fn fault_source_ports_run_out() {
    let Some(mut cluster) = cluster_without_agents("fports", 2, 1) else {
        return;
    };
    cluster.write("web.yaml", SERVICE).unwrap();
    cluster.write("slices.yaml", &slices(&[(2, 1)])).unwrap();
    let options = ["--snat-ports", "20000-20015"];
    cluster.start_agent_with(0, &options).unwrap();
    let node = &cluster.nodes[0];
    let web = on(node.v4, 30080);
    let mut tally = Tally::default();
    let mut open: Vec<Client> = Vec::new();
    loop {
        let mut client = connection(web);
        match cluster.client.run(move || (client(), client)) {
            (Ok(pod), client) => {
                tally.add(Ok(pod));
                open.push(client);
            }
            (Err(_), _) => break,
        }
        assert!(open.len() <= 16, "more connections than ports");
    }
    assert!(open.len() >= 8, "{} connections", open.len());
    let refused = count(node, "snat-ports-exhausted");
    assert!(refused > 0);
    for client in &mut open {
        tally.add(client());
    }
    let also = format!(
        "{} connections with 16 ports; snat-ports-exhausted {refused}",
        open.len()
    );
    open.truncate(open.len() / 2);
    eventually("there are ports again", || {
        cluster.client.run(move || get(web).is_ok())
    });
    for client in &mut open {
        tally.add(client());
    }
    let outcome = Outcome::of_requests(tally);
    outcome.report("source ports run out", 1, &also);
}

fn small_service(number: u8) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: more-{number}}}\nspec:\n  \
         clusterIP: 10.96.1.{number}\n  ports: [{{port: 80}}]\n"
    )
}

#[test]
fn fault_maps_are_full() {
    let Some(mut cluster) = cluster_without_agents("ffull", 1, 2) else {
        return;
    };
    let mut notes = Vec::new();
    let mut requests = Tally::default();
    // Capacity for `web` and at most three more.
    for (option, capacity, map) in [
        ("--max-frontends", "17", "FRONTENDS"),
        ("--max-services", "8", "SERVICES"),
    ] {
        cluster.write("web.yaml", SERVICE).unwrap();
        cluster
            .write("slices.yaml", &slices(&[(1, 1), (1, 2)]))
            .unwrap();
        let options = [option, capacity, "--max-map-memory", "0"];
        cluster.start_agent_with(0, &options).unwrap();
        let node = &cluster.nodes[0];
        let web = on(node.v4, 30080);
        let load = Load::new()
            .with(&cluster.client, PACE, connection(web))
            .with(&cluster.client, PACE, connections(web));
        for number in 1..=4 {
            let file = format!("more-{number}.yaml");
            cluster.write(&file, &small_service(number)).unwrap();
            eventually("the agent has seen it", || {
                let status = json(node, &["status"]);
                let services = status["agent"]["services"].as_u64().unwrap();
                services >= 4 + u64::from(number) || status.to_string().contains("is full")
            });
        }
        let failures = || json(node, &["status"])["agent"]["failures"].take();
        let failed = failures();
        let first = &failed[0];
        assert!(
            first["object"].as_str().unwrap().contains("more-")
                && first["reason"].as_str().unwrap().contains(map),
            "{failed}"
        );
        notes.push(format!("{}: {}", first["object"], first["reason"]).replace('"', ""));
        // Other services can still change.
        cluster.write("slices.yaml", &slices(&[(1, 2)])).unwrap();
        eventually("a change of another service arrives", || {
            pods_over_http(&cluster.client, web) == names(&["web-1-2"])
        });
        for number in 1..=4 {
            std::fs::remove_file(cluster.manifests().join(format!("more-{number}.yaml"))).unwrap();
            if failures().as_array().unwrap().is_empty() {
                break;
            }
            eventually("there is capacity again", || {
                failures().as_array().unwrap().len() < failed.as_array().unwrap().len()
            });
        }
        eventually("nothing is refused any more", || {
            failures().as_array().unwrap().is_empty()
        });
        requests = [requests, load.finish().into_iter().sum()]
            .into_iter()
            .sum();
        cluster.nodes[0].agent.take().unwrap().terminate().unwrap();
        on_node(&cluster.nodes[0], &["cleanup"]).unwrap();
        for file in std::fs::read_dir(cluster.manifests()).unwrap() {
            std::fs::remove_file(file.unwrap().path()).unwrap();
        }
    }
    let outcome = Outcome::of_requests(requests);
    outcome.report("maps are full", 1, &notes.join("; "));
}

fn api(cluster: &Cluster) -> &ApiServer {
    match &cluster.api {
        Some(TestServer::StandIn(server)) => server,
        _ => panic!("the stand-in runs unless the real one is named"),
    }
}

/// A fault of the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It stops.
    Gone,
    /// It stops and starts five times.
    Flapping,
    /// Each response takes 700 ms.
    Slow,
    /// Every response is a success that is not JSON.
    Garbage,
    /// Watches end with an ERROR event of code 410.
    Expired,
    /// New watches get status 410, and the server forgets its history.
    Status410,
    /// Watches stay open and send nothing.
    Stalled,
    /// Every request gets 503.
    Refusing,
    /// It restarts with another certificate.
    Certificate,
    /// It is absent while an agent starts.
    Absent,
    /// The token changes, also in the file of the agents.
    Token,
}

impl Fault {
    const ALL: [Self; 11] = [
        Self::Gone,
        Self::Flapping,
        Self::Slow,
        Self::Garbage,
        Self::Expired,
        Self::Status410,
        Self::Stalled,
        Self::Refusing,
        Self::Certificate,
        Self::Absent,
        Self::Token,
    ];

    /// Longest time from the end of the fault until a change arrives. Agents read the token file once a
    /// minute.
    fn limit(self) -> Duration {
        Duration::from_secs(if self == Self::Token { 100 } else { 30 })
    }
}

/// A cluster with two agents whose API server breaks.
struct Broken {
    cluster: Cluster,
    runtime: tokio::runtime::Runtime,
    /// The token file of the agents.
    token: PathBuf,
    /// Whether one pod of four is left out.
    is_small: bool,
}

impl Broken {
    fn start() -> Option<Self> {
        let mut cluster = cluster_without_agents("fapi", 2, 2)?;
        cluster.serve_api().unwrap();
        // As a pod has it: a file that is replaced.
        let token = cluster.kubeconfig().with_file_name("token");
        std::fs::write(&token, "headgate").unwrap();
        let kubeconfig = std::fs::read_to_string(cluster.kubeconfig()).unwrap();
        let by_file = format!("tokenFile: {}", token.display());
        assert!(kubeconfig.contains("token: \"headgate\""), "{kubeconfig}");
        let kubeconfig = kubeconfig.replace("token: \"headgate\"", &by_file);
        std::fs::write(cluster.kubeconfig(), kubeconfig).unwrap();

        api(&cluster).apply_yaml(SERVICE).unwrap();
        api(&cluster).apply_yaml(&slices(&ALL)).unwrap();
        for index in 0..2 {
            cluster.start_agent(index).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build().unwrap();
        Some(Self {
            cluster,
            runtime,
            token,
            is_small: false,
        })
    }

    fn stop(&self) {
        self.runtime.block_on(api(&self.cluster).stop());
    }

    fn resume(&self) {
        let server = api(&self.cluster);
        self.runtime.block_on(server.resume()).unwrap();
    }

    fn begin(&mut self, fault: Fault, round: usize) {
        let server = api(&self.cluster);
        match fault {
            Fault::Gone => self.stop(),
            Fault::Flapping => self.flap(),
            Fault::Slow => server.set_delay(Duration::from_millis(700)),
            Fault::Garbage => server.garble(true),
            Fault::Expired => server.expire_watches(),
            Fault::Status410 => server.set_gone_as_status(true),
            Fault::Stalled => server.stall_watches(true),
            Fault::Refusing => server.refuse(true),
            Fault::Certificate => {
                server.rotate_certificate().unwrap();
                self.stop();
                self.resume();
            }
            Fault::Absent => {
                self.stop();
                kill_agent(&mut self.cluster, 1);
                let command = self.cluster.agent_command(1, &[]).unwrap();
                self.cluster.nodes[1].agent = Some(Process::spawn(command).unwrap());
            }
            Fault::Token => {
                let next = format!("renewed-{round}");
                std::fs::write(&self.token, &next).unwrap();
                server.set_token(Some(next));
            }
        }
        if matches!(
            fault,
            Fault::Slow | Fault::Garbage | Fault::Status410 | Fault::Refusing | Fault::Token
        ) {
            api(&self.cluster).drop_watches();
        }
    }

    fn flap(&self) {
        for _ in 0..5 {
            self.stop();
            thread::sleep(Duration::from_millis(100));
            self.resume();
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn end(&self, fault: Fault) {
        let server = api(&self.cluster);
        match fault {
            Fault::Gone | Fault::Absent => self.resume(),
            Fault::Slow => server.set_delay(Duration::ZERO),
            Fault::Garbage => server.garble(false),
            Fault::Status410 => server.set_gone_as_status(false),
            Fault::Stalled => server.stall_watches(false),
            Fault::Refusing => server.refuse(false),
            Fault::Flapping | Fault::Expired | Fault::Certificate | Fault::Token => {}
        }
    }

    /// Adds a pod to the Service or removes it; returns the pods that serve then.
    fn change(&mut self, fault: Fault) -> BTreeSet<String> {
        self.is_small = !self.is_small;
        let serving = if self.is_small { &ALL[..3] } else { &ALL[..] };
        let server = api(&self.cluster);
        server.apply_yaml(&slices(serving)).unwrap();
        if fault == Fault::Status410 {
            server.compact(server.version());
        }
        let pods = serving
            .iter()
            .map(|(node, pod)| format!("web-{node}-{pod}"));
        pods.collect()
    }
}

#[test]
fn fault_api_server() {
    const NAME: &str = "fault_api_server";
    if env::var_os(ASSETS).is_some() {
        println!("SKIPPED: {NAME}: the real API server cannot simulate faults");
        return;
    }
    let rounds = rounds(1).div_ceil(50);
    // Long runs: longer than agents wait before they connect again.
    let away = Duration::from_millis(if rounds > 1 { 5000 } else { 500 });
    let Some(mut broken) = Broken::start() else {
        return;
    };
    let traffic = Traffic::start(&broken.cluster, &["web-1-1", "web-2-1"]);
    let web = on(broken.cluster.nodes[1].v4, 30080);
    for round in 0..rounds {
        // The token needs a minute, so a short run leaves it out.
        let faults = Fault::ALL.into_iter();
        for fault in faults.filter(|fault| *fault != Fault::Token || round > 0) {
            broken.begin(fault, round);
            let pods = broken.change(fault);
            thread::sleep(away);
            broken.end(fault);
            let start = Instant::now();
            while pods_over_http(&broken.cluster.client, web) != pods {
                assert!(
                    start.elapsed() < fault.limit(),
                    "{fault:?}: the change does not arrive"
                );
            }
        }
    }
    let outcome = traffic.finish();
    for node in &broken.cluster.nodes {
        let status = json(node, &["status"]);
        assert_eq!(status["agent"]["repaired"], 0, "{status}");
    }
    let also = "gone, flapping, slow, garbage, expired, 410, stalled, refusing, certificate, absent at start";
    outcome.report("API server breaks", rounds, also);
}

/// A command in a time namespace whose clocks are ahead by `seconds`.
fn ahead(node: &Node, seconds: i64) -> std::process::Command {
    let seconds = seconds.to_string();
    let mut command = node.netns.command("unshare", None);
    command
        .args(["--time", "--monotonic", &seconds, "--boottime", &seconds])
        .arg(binary("headgate").unwrap())
        .arg("--pins")
        .arg(&node.pins);
    command
}

#[test]
fn fault_clock_of_another_time_namespace() {
    let Some(cluster) = cluster("fclock", 1, 1, &[(1, 1)]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let web = on(node.v4, 30080);
    let mut client = connection(web);
    let mut client = cluster.client.run(move || {
        client().unwrap();
        client
    });
    let mut tally = Tally::default();
    for seconds in [10_000_000, 0] {
        let mut command = ahead(node, seconds);
        let output = command.args(["conntrack", "-o", "json"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let rows = content(&text);
        let row = &rows[0];
        assert_eq!(row["state"], "established", "{seconds}: {text}");
        assert!(row["idle_s"].as_u64().unwrap() < 60, "{seconds}: {text}");
        let output = ahead(node, seconds)
            .args(["services", "-o", "json"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let rows = content(&text);
        assert!(
            rows[0]["since_s"].as_u64().unwrap() < 600,
            "{seconds}: {text}"
        );
        tally.add(client());
    }
    let outcome = Outcome::of_requests(tally);
    outcome.report("clock of another time namespace", 1, "");
}

#[test]
fn fault_proxies_replaced_in_a_row() {
    let rounds = rounds(4);
    let options = ["--access-log", "off"];
    let Some((mut cluster, _)) = ingress_cluster("fproxy", &options) else {
        return;
    };
    let load = requests(&cluster);
    for _ in 0..rounds.min(20) {
        let before = cluster.start_proxy(0, &options).unwrap();
        before.unwrap().terminate().unwrap();
    }
    let outcome = Outcome::of_requests(load.finish().into_iter().sum());
    // A killed proxy loses its requests, and those that arrive until another one runs.
    let load = requests(&cluster);
    let mut deaths = 0;
    for _ in 0..rounds.min(20) {
        cluster.nodes[0].proxy.take().unwrap().kill().unwrap();
        deaths += 1;
        cluster.start_proxy(0, &options).unwrap();
        let before = load.tally().answered();
        eventually("requests are answered again", || {
            load.tally().answered() > before + 10
        });
    }
    let killed: Tally = load.finish().into_iter().sum();
    let also = format!(
        "killed {deaths} times: {} of {} requests lost, as expected",
        killed.lost.len(),
        killed.sent()
    );
    outcome.report("L7 proxy replaced in a row", rounds.min(20), &also);
    assert_eq!(killed.of(API) + killed.lost.len(), killed.sent());
}
