//! Many Services through the loop into real maps, and maps that are too small.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use headgate_abi::{Addr, CtEntry, DatapathConfig, FlowKey, MemberKey, Port};
use headgate_control::{Event, Interest, Reconciler};
use headgate_datapath::mirrored;
use headgate_dataplane::{Error, MapSizes, MapWriter, Maps, Programs, ReadWrite, load};
use headgate_model::{
    Change, Dataplane, Endpoint, EndpointPort, EndpointSlice, Limits, NamespacedName, Node,
    ObjectName, Protocol, Restored, Scope, Service, ServicePort, Sweep,
};

/// Pinned maps that are removed on drop.
struct Pins {
    path: PathBuf,
    _programs: Programs,
}

impl Pins {
    fn new(name: &str, sizes: &MapSizes) -> Self {
        let path = Path::new("/sys/fs/bpf").join(format!("hgtest-{}-{name}", std::process::id()));
        let programs = load(&path, &DatapathConfig::default(), sizes).unwrap();
        Self {
            path,
            _programs: programs,
        }
    }

    fn maps(&self) -> Maps<ReadWrite> {
        Maps::open_writable(&self.path).unwrap()
    }

    fn reconciler(&self) -> Reconciler<MapWriter> {
        reconciler(MapWriter::new(self.maps(), 7, 251))
    }
}

fn reconciler<D: Dataplane<Error: std::fmt::Debug>>(maps: D) -> Reconciler<D> {
    let node = Node {
        name: "n1".into(),
        ..Node::default()
    };
    let mut reconciler = Reconciler::new(maps, node).unwrap();
    for kind in Interest::Services.kinds() {
        reconciler.note(Event::Listed(*kind));
    }
    reconciler
}

/// Maps that hold fewer source ranges than they say.
struct Overrated(MapWriter);

impl Dataplane for Overrated {
    type Error = Error;

    fn limits(&self) -> Limits {
        Limits {
            source_ranges: u32::MAX,
            ..self.0.limits()
        }
    }

    fn check(&mut self) -> Result<(), Error> {
        self.0.check()
    }

    fn restore(&mut self) -> Result<Restored, Error> {
        self.0.restore()
    }

    fn apply(&mut self, change: &Change) -> Result<(), Error> {
        self.0.apply(change)
    }

    fn step_sweep(&mut self) -> Result<Sweep, Error> {
        self.0.step_sweep()
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.path).unwrap();
    }
}

fn is_root(name: &str) -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        println!("SKIPPED: {name}: making maps needs root");
    }
    is_root
}

fn name(number: u32) -> NamespacedName {
    NamespacedName::new("default", &format!("s{number}"))
}

fn service(number: u32) -> Event {
    let [_, _, high, low] = number.to_be_bytes();
    let service = Service {
        name: name(number),
        created_s: Some(i64::from(number)),
        ports: vec![ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        }],
        cluster_ips: vec![IpAddr::from([10, 96, high, low])],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        external_policy: Scope::Cluster,
        internal_policy: Scope::Cluster,
        affinity_timeout_s: None,
        source_ranges: None,
        health_check_node_port: None,
    };
    Event::Service(name(number), Some(service))
}

fn slice(number: u32, endpoints: u32) -> Event {
    let endpoint = |index: u32| {
        let [_, a, b, c] = (number * 16 + index).to_be_bytes();
        Endpoint {
            address: IpAddr::from([10, 128 + a, b, c]),
            node: None,
            ready: true,
            serving: true,
            terminating: false,
            zone_hints: Vec::new(),
            node_hints: Vec::new(),
        }
    };
    let slice = EndpointSlice {
        triggered: None,
        service: name(number),
        ports: vec![EndpointPort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 8080,
        }],
        endpoints: (0..endpoints).map(endpoint).collect(),
    };
    Event::Slice(name(number), Some(slice))
}

#[test]
fn s66_ten_thousand_services_with_a_hundred_thousand_endpoints() {
    const SERVICES: u32 = 10_000;
    const ENDPOINTS: u32 = 10;
    if !is_root("s66_ten_thousand_services_with_a_hundred_thousand_endpoints") {
        return;
    }
    let pins = Pins::new("scale", &MapSizes::default());
    let mut reconciler = pins.reconciler();
    let timed = |what: &str, reconciler: &mut Reconciler<MapWriter>| {
        let start = Instant::now();
        assert!(
            reconciler.reconcile().failures == 0,
            "{:?}",
            reconciler.status().failures.first()
        );
        println!("{what}: {:?}", start.elapsed());
    };
    for number in 1..=SERVICES {
        reconciler.note(service(number));
        reconciler.note(slice(number, ENDPOINTS));
    }
    timed("first sync", &mut reconciler);
    let count = |pins: &Pins| pins.maps().frontends.keys().count();
    assert_eq!(count(&pins), SERVICES as usize);
    let backends = |reconciler: &Reconciler<MapWriter>| reconciler.status().backends;
    assert_eq!(backends(&reconciler), (SERVICES * ENDPOINTS) as usize);

    // One change among many Services takes as long as one change alone.
    reconciler.note(slice(5000, ENDPOINTS - 1));
    timed("one endpoint less", &mut reconciler);
    assert_eq!(backends(&reconciler), (SERVICES * ENDPOINTS - 1) as usize);

    // A restart finds everything as it was.
    let mut reconciler = pins.reconciler();
    for number in 1..=SERVICES {
        reconciler.note(service(number));
        let less = u32::from(number == 5000);
        reconciler.note(slice(number, ENDPOINTS - less));
    }
    timed("sync after a restart", &mut reconciler);
    reconciler.audit().unwrap();
    assert_eq!(reconciler.status().repaired, 0);

    for number in 1..=SERVICES {
        reconciler.note(Event::Service(name(number), None));
    }
    timed("all deleted", &mut reconciler);
    assert_eq!((count(&pins), backends(&reconciler)), (0, 0));
    assert_eq!(pins.maps().addresses.keys().count(), 0);
}

#[test]
fn s66_full_map_refuses_the_newest_and_recovers() {
    if !is_root("s66_full_map_refuses_the_newest_and_recovers") {
        return;
    }
    let roomy = MapSizes {
        frontends: 64,
        services: 64,
        backends: 64,
        slots: 64,
        connections: 64,
        sockets: 64,
        ..MapSizes::default()
    };
    let small = [
        (
            "FRONTENDS",
            MapSizes {
                frontends: 4,
                ..roomy
            },
        ),
        (
            "SERVICES",
            MapSizes {
                services: 5,
                ..roomy
            },
        ),
        (
            "BACKENDS",
            MapSizes {
                backends: 5,
                ..roomy
            },
        ),
        // Half of them is for changes.
        ("SLOTS", MapSizes { slots: 8, ..roomy }),
    ];
    for (map, sizes) in small {
        let pins = Pins::new(&format!("full-{}", map.to_lowercase()), &sizes);
        let mut reconciler = pins.reconciler();
        for number in 1..=4 {
            reconciler.note(service(number));
            reconciler.note(slice(number, 1));
            assert!(
                reconciler.reconcile().failures == 0,
                "{map}: {:?}",
                reconciler.status().failures
            );
        }
        let before = pins.maps().frontends.keys().count();
        reconciler.note(service(5));
        reconciler.note(slice(5, 1));
        assert_eq!(reconciler.reconcile().failures, 0, "{map}");
        let refusals = &reconciler.status().refusals;
        let [refusal] = &refusals[..] else {
            panic!("{map}: {refusals:?}");
        };
        assert_eq!(refusal.object, ObjectName::Service(name(5)));
        let what = format!("no capacity for more {}", map.to_lowercase());
        assert!(refusal.reason.contains(&what), "{refusal}");
        assert_eq!(before, 4);
        let frontends = pins.maps().frontends.keys().count();
        assert_eq!(
            frontends, 4,
            "{map}: the older ones stay, the new one waits"
        );
        reconciler.note(Event::Service(name(1), None));
        let mut is_done = false;
        for _ in 0..500 {
            is_done = reconciler.reconcile().failures == 0 && reconciler.status().frontends == 4;
            if is_done {
                break;
            }
            // Freed slots rest for two seconds.
            thread::sleep(Duration::from_millis(10));
        }
        assert!(is_done, "{map}: {:?}", reconciler.status().failures);
        assert_eq!(pins.maps().frontends.keys().count(), 4);
    }
}

/// A change that does not fit is tried again and again: it must not use more each time.
#[test]
fn s66_what_finds_no_room_leaves_nothing_behind() {
    if !is_root("s66_what_finds_no_room_leaves_nothing_behind") {
        return;
    }
    let sizes = MapSizes {
        frontends: 64,
        services: 64,
        backends: 64,
        slots: 600,
        source_ranges: 2,
        connections: 64,
        sockets: 64,
        ..MapSizes::default()
    };
    let pins = Pins::new("room", &sizes);
    let mut reconciler = reconciler(Overrated(MapWriter::new(pins.maps(), 7, 251)));
    let Event::Service(of, Some(mut greedy)) = service(1) else {
        unreachable!("a Service")
    };
    greedy.load_balancer_ips = vec![IpAddr::from([203, 0, 113, 1])];
    let ranges = ["192.0.2.0/25", "192.0.2.128/25", "198.51.100.0/24"];
    greedy.source_ranges = Some(ranges.map(|range| range.parse().unwrap()).to_vec());
    greedy.affinity_timeout_s = Some(60);
    reconciler.note(Event::Service(of, Some(greedy)));
    // Two backends want a table of 251 slots.
    reconciler.note(slice(1, 2));
    for _ in 0..5 {
        assert!(reconciler.reconcile().failures > 0, "room for three ranges");
    }
    reconciler.note(service(2));
    reconciler.note(slice(2, 2));
    reconciler.reconcile();
    let failures = reconciler.status().failures.clone();
    let mut failed = failures
        .iter()
        .filter_map(|failure| failure.service.as_ref());
    assert!(failed.all(|service| *service == name(1)), "{failures:?}");
    reconciler.audit().unwrap();
    assert_eq!(reconciler.status().repaired, 0, "half a change was left");
    reconciler.note(Event::Service(name(1), None));
    assert_eq!(reconciler.reconcile().failures, 0);
    let maps = pins.maps();
    assert_eq!(maps.source_ranges.keys().count(), 0);
    assert_eq!(maps.members.keys().count(), 0);
}

/// Entries are removed without asking the kernel whether they exist.
#[test]
fn members_and_local_backends_go_when_they_are_no_more() {
    if !is_root("members_and_local_backends_go_when_they_are_no_more") {
        return;
    }
    let pins = Pins::new("members", &MapSizes::default());
    let mut reconciler = pins.reconciler();
    let with_affinity = |affinity_timeout_s| {
        let Event::Service(of, Some(service)) = service(1) else {
            unreachable!("a Service")
        };
        let service = Service {
            affinity_timeout_s,
            ..service
        };
        Event::Service(of, Some(service))
    };
    let here = |endpoints, is_here: bool| {
        let Event::Slice(of, Some(mut slice)) = slice(1, endpoints) else {
            unreachable!("a slice")
        };
        slice.endpoints[0].node = is_here.then(|| "n1".into());
        Event::Slice(of, Some(slice))
    };
    let (on, off) = (|| with_affinity(Some(60)), || with_affinity(None));
    let gone = || Event::Service(name(1), None);
    let maps = pins.maps();
    for (service, slice, members, local_backends) in [
        (off(), here(3, true), 0, 1),
        (on(), here(3, false), 3, 0),
        (on(), here(2, true), 2, 1),
        (off(), here(2, false), 0, 0),
        (on(), here(3, true), 3, 1),
        (gone(), here(3, true), 0, 0),
    ] {
        reconciler.note(service);
        reconciler.note(slice);
        assert_eq!(reconciler.reconcile().failures, 0);
        assert_eq!(maps.members.keys().count(), members);
        assert_eq!(maps.local_backends.keys().count(), local_backends);
    }
}

/// A datagram of a client to Service 1, and to which backend it went.
fn flow(client: u32, pair: MemberKey, to: u8) -> (FlowKey, CtEntry) {
    let [_, _, high, low] = client.to_be_bytes();
    let client = Addr::from(IpAddr::from([192, 0, high, low]));
    let flow = FlowKey {
        source: client,
        destination: Addr::from(IpAddr::from([10, 96, 0, 1])),
        source_port: Port::new(4000),
        destination_port: Port::new(80),
        protocol: headgate_abi::Protocol::UDP,
        ..FlowKey::default()
    };
    let entry = CtEntry {
        source: client,
        destination: Addr::from(IpAddr::from([10, 128, 0, to])),
        source_port: Port::new(4000),
        destination_port: Port::new(8080),
        service: pair.service,
        backend: pair.backend,
        ..CtEntry::default()
    };
    (flow, entry)
}

/// Adds both directions of a connection.
fn open(maps: &mut Maps<ReadWrite>, (flow, entry): (FlowKey, CtEntry)) {
    let (other_flow, other) = mirrored(&flow, &entry);
    maps.connections.insert(flow, entry, 0).unwrap();
    maps.connections.insert(other_flow, other, 0).unwrap();
}

/// Sweeps until nothing is left.
fn end_sweep(reconciler: &mut Reconciler<MapWriter>, mut sweep: Sweep) {
    for _ in 0..100 {
        let Sweep::Again(after) = sweep else { return };
        thread::sleep(after);
        sweep = reconciler.step_sweep().unwrap();
    }
    panic!("the sweep does not end");
}

/// The id of the one service, and that of its backend with this last byte.
fn pair(maps: &Maps<ReadWrite>, last: u8) -> MemberKey {
    let is_it = |id: &u32| {
        let entry = maps.backends.get(*id).unwrap();
        entry.port.number() != 0 && IpAddr::from(entry.address) == IpAddr::from([10, 128, 0, last])
    };
    let has_name = |id: &u32| !maps.labels.get(*id).unwrap().text().is_empty();
    MemberKey {
        service: (1..maps.services.len()).find(has_name).unwrap(),
        backend: (1..maps.backends.len()).find(is_it).unwrap(),
    }
}

/// A writer that ended after the tables were written and before their connections were removed.
#[test]
fn what_an_agent_that_was_killed_left_is_forgotten() {
    if !is_root("what_an_agent_that_was_killed_left_is_forgotten") {
        return;
    }
    let pins = Pins::new("killed", &MapSizes::default());
    let mut reconciler = pins.reconciler();
    reconciler.note(service(1));
    reconciler.note(slice(1, 2));
    assert_eq!(reconciler.reconcile().failures, 0);
    let mut maps = pins.maps();
    // Both directions of a flow to each backend, and of one to a former backend with the first one's id.
    let [first, second] = [16, 17].map(|last| pair(&maps, last));
    for (client, to, pair) in [(1, 16, first), (2, 17, second), (3, 99, first)] {
        open(&mut maps, flow(client, pair, to));
    }
    // The table without the second backend was written; then the agent was killed.
    let slots = maps.services.get(first.service).unwrap().slots();
    for slot in slots.first..slots.first + slots.count {
        assert!(maps.slots.set(slot, first.backend));
    }
    let mut reconciler = pins.reconciler();
    reconciler.note(service(1));
    reconciler.note(slice(1, 1));
    assert_eq!(reconciler.reconcile().failures, 0);
    let left: Vec<_> = maps
        .all_connections()
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
    let is_kept = |(_, entry): &(FlowKey, CtEntry)| entry.backend == first.backend;
    assert!(left.iter().all(is_kept), "{left:?}");
}

/// Which one Service gives up and another one takes.
#[test]
fn s34_datagrams_follow_a_frontend_that_changes_its_service() {
    if !is_root("s34_datagrams_follow_a_frontend_that_changes_its_service") {
        return;
    }
    let pins = Pins::new("owner", &MapSizes::default());
    let mut reconciler = pins.reconciler();
    let balancer = IpAddr::from([203, 0, 113, 1]);
    let udp = |number: u32, balancer: Vec<IpAddr>| {
        let Event::Service(name, Some(mut made)) = service(number) else {
            unreachable!("it is one");
        };
        made.ports[0].protocol = Protocol::Udp;
        made.load_balancer_ips = balancer;
        Event::Service(name, Some(made))
    };
    for number in [1, 2] {
        let Event::Slice(name, Some(mut made)) = slice(number, 1) else {
            unreachable!("it is one");
        };
        made.ports[0].protocol = Protocol::Udp;
        reconciler.note(Event::Slice(name, Some(made)));
    }
    reconciler.note(udp(1, vec![balancer]));
    reconciler.note(udp(2, Vec::new()));
    assert_eq!(reconciler.reconcile().failures, 0);
    let mut maps = pins.maps();
    let by_cluster_ip = flow(1, pair(&maps, 16), 16);
    let mut by_balancer = flow(2, pair(&maps, 16), 16);
    by_balancer.0.destination = Addr::from(balancer);
    for connection in [by_cluster_ip, by_balancer] {
        open(&mut maps, connection);
    }
    reconciler.note(udp(1, Vec::new()));
    reconciler.note(udp(2, vec![balancer]));
    let sweep = reconciler.reconcile().sweep;
    end_sweep(&mut reconciler, sweep);
    let left = maps.all_connections().unwrap().map(Result::unwrap);
    let left: Vec<_> = left.map(|(flow, _)| flow).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.contains(&by_cluster_ip.0), "{left:?}");
}

/// There may be too many connections to read them all between two changes. Until they were read, a removed
/// backend may come back, and another one may be added.
#[test]
fn many_connections_are_gone_through_while_things_change() {
    const MANY: u32 = 10_000;
    const NEW: u32 = 1000;
    if !is_root("many_connections_are_gone_through_while_things_change") {
        return;
    }
    let pins = Pins::new("many", &MapSizes::default());
    let mut reconciler = pins.reconciler();
    let maps = pins.maps();
    let mut connections = pins.maps().connections;
    let mut add = |clients: std::ops::Range<u32>, pair, to| {
        for client in clients {
            let (flow, entry) = flow(client, pair, to);
            connections.insert(flow, entry, 0).unwrap();
        }
    };
    let count = |to: u8| {
        let address = Addr::from(IpAddr::from([10, 128, 0, to]));
        let entries = maps.all_connections().unwrap().map(Result::unwrap);
        let is_it = |(_, entry): &(FlowKey, CtEntry)| entry.destination == address;
        entries.filter(is_it).count() as u32
    };
    reconciler.note(service(1));
    reconciler.note(slice(1, 3));
    assert_eq!(reconciler.reconcile().failures, 0);
    let [stays, returns, goes] = [16, 17, 18].map(|last| pair(&maps, last));
    add(0..MANY, stays, 16);
    add(MANY..2 * MANY, returns, 17);
    add(2 * MANY..3 * MANY, goes, 18);

    reconciler.note(slice(1, 1));
    let sweep = reconciler.reconcile().sweep;
    assert!(count(17) + count(18) > MANY, "there is more to do");

    let Event::Slice(of, Some(mut moved)) = slice(1, 3) else {
        unreachable!("a slice")
    };
    moved.endpoints[2].address = IpAddr::from([10, 128, 0, 99]);
    reconciler.note(Event::Slice(of, Some(moved)));
    let sweep = match reconciler.reconcile().sweep {
        Sweep::Done => sweep,
        again => again,
    };
    assert_eq!(pair(&maps, 17), returns);
    let another = pair(&maps, 99);
    assert_ne!(another, goes, "the id is in quarantine");
    add(3 * MANY..3 * MANY + NEW, returns, 17);
    add(3 * MANY + NEW..3 * MANY + 2 * NEW, another, 99);
    end_sweep(&mut reconciler, sweep);
    assert_eq!((count(16), count(18), count(99)), (MANY, 0, NEW));
    assert!(
        count(17) > NEW,
        "those of the time before were left as well"
    );

    // Another Service gets the backends of a deleted one.
    reconciler.note(Event::Service(name(1), None));
    reconciler.reconcile();
    assert!(count(16) > 0, "there is more to do");
    let Event::Slice(of, Some(mut others)) = slice(1, 1) else {
        unreachable!("a slice")
    };
    others.service = name(2);
    reconciler.note(Event::Slice(of, Some(others)));
    reconciler.note(service(2));
    let pass = reconciler.reconcile();
    assert_eq!(pass.failures, 0);
    let other = pair(&maps, 16);
    assert_eq!(other.backend, stays.backend, "it got its id back");
    assert_ne!(other.service, stays.service, "the id is in quarantine");
    end_sweep(&mut reconciler, pass.sweep);
    assert_eq!(count(16), 0, "they were of the other Service");
}

#[test]
fn tables_of_another_seed_are_rebuilt() {
    if !is_root("tables_of_another_seed_are_rebuilt") {
        return;
    }
    let pins = Pins::new("seed", &MapSizes::default());
    let tables = |seed: u32, size: u32| -> Vec<u32> {
        let node = Node {
            name: "n1".into(),
            node_port_addresses: vec![IpAddr::from([192, 0, 2, 1])],
            ..Node::default()
        };
        let writer = MapWriter::new(pins.maps(), seed, size);
        let mut reconciler = Reconciler::new(writer, node).unwrap();
        for kind in Interest::Services.kinds() {
            reconciler.note(Event::Listed(*kind));
        }
        let Event::Service(name, Some(mut web)) = service(1) else {
            unreachable!("a service")
        };
        web.ports[0].node_port = Some(30080);
        reconciler.note(Event::Service(name, Some(web)));
        reconciler.note(slice(1, 3));
        assert_eq!(reconciler.reconcile().failures, 0);
        reconciler.audit().unwrap();
        assert_eq!(reconciler.status().repaired, 0, "it is what was written");
        let maps = pins.maps();
        let ranges = (1..maps.services.len()).filter_map(|id| maps.services.get(id));
        let ranges = ranges.flat_map(|entry| {
            let slots = entry.slots();
            slots.first..slots.first + slots.count
        });
        ranges.map(|slot| maps.slots.get(slot).unwrap()).collect()
    };
    let first = tables(7, 251);
    assert_eq!(first.len(), 509, "the least size for three backends");
    assert_eq!(tables(7, 251), first, "nothing changed");
    assert_ne!(tables(8, 251), first);
    assert_eq!(tables(8, 1021).len(), 1021);
    assert_eq!(tables(7, 251), first);
}
