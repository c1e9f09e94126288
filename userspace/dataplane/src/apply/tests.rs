//! The writer over maps in memory.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use headgate_abi::{
    Addr, BackendEntry, BackendKey, CtEntry, CtFlags, CtState, FlowKey, FrontendEntry, FrontendKey,
    MemberKey, Port, SocketEntry, SocketKey, Takeover,
};
use headgate_datapath::mirrored;
use headgate_model::{
    Actual, AddressKind, AddressSpec, Backend, Change, Dataplane, Desired, Endpoint, EndpointPort,
    EndpointSlice, Frontend, FrontendKind, FrontendSpec, KeyParts, Location, NamespacedName, Node,
    Planner, Protocol, QUARANTINE, Restored, Scope, Service, ServiceKey, ServicePort, ServiceSpec,
    Sweep, Touched, diff,
};
use ipnet::IpNet;
use proptest::{collection::vec, prelude::*};

use super::{
    MapWriter,
    sweep::{PairInUse, Removed},
};
use crate::{load::MapSizes, memory::MemoryMaps, sockets::Connected};

const SEED: u32 = 7;
const TABLE: u32 = 251;

fn maps() -> MemoryMaps {
    MemoryMaps::new(&MapSizes {
        frontends: 64,
        services: 64,
        backends: 64,
        members: 64,
        slots: 1 << 16,
        source_ranges: 64,
        affinities: 64,
        connections: 256,
        sockets: 64,
    })
}

fn writer(maps: &MemoryMaps) -> MapWriter {
    MapWriter::new(maps.clone(), SEED, TABLE)
}

fn backend(number: u8, protocol: Protocol) -> Backend {
    Backend {
        address: IpAddr::from([10, 244, 1, number]),
        port: 8080,
        protocol,
        location: match number % 2 {
            0 => Location::ThisNode,
            _ => Location::OtherNode,
        },
    }
}

fn service_key(number: u8) -> ServiceKey {
    ServiceKey::from(KeyParts {
        service: NamespacedName::new("default", &format!("s{number}")),
        port: String::new(),
        protocol: protocol_of(number),
        family: headgate_model::Family::V4,
        scope: Scope::Cluster,
    })
}

/// Even Services are TCP, odd ones UDP.
fn protocol_of(service: u8) -> Protocol {
    match service % 2 {
        0 => Protocol::Tcp,
        _ => Protocol::Udp,
    }
}

fn frontend(service: u8) -> Frontend {
    Frontend {
        address: IpAddr::from([10, 96, 0, service]),
        port: 80,
        protocol: protocol_of(service),
    }
}

/// A Service of a test.
#[derive(Clone, Debug, Default)]
struct Draft {
    backends: BTreeSet<u8>,
    is_consistent: bool,
    /// Whether its backends have weights, and part of its table refuses.
    is_weighted: bool,
    has_affinity: bool,
    ranges: BTreeSet<u8>,
}

impl Draft {
    fn with(backends: impl IntoIterator<Item = u8>) -> Self {
        Self {
            backends: backends.into_iter().collect(),
            ..Self::default()
        }
    }
}

const SERVICES: u8 = 4;

prop_compose! {
    fn draft()(
        backends in proptest::collection::btree_set(1u8..8, 0..5),
        is_consistent in any::<bool>(),
        is_weighted in any::<bool>(),
        has_affinity in any::<bool>(),
        ranges in proptest::collection::btree_set(0u8..4, 0..3),
    ) -> Draft {
        Draft { backends, is_consistent, is_weighted, has_affinity, ranges }
    }
}

type Drafts = BTreeMap<u8, Draft>;

fn drafts() -> impl Strategy<Value = Drafts> {
    proptest::collection::btree_map(0..SERVICES, draft(), 0..usize::from(SERVICES))
}

fn desired(drafts: &Drafts) -> Desired {
    let mut desired = Desired::default();
    for (number, draft) in drafts {
        let key = service_key(*number);
        let backends: Vec<Backend> = draft
            .backends
            .iter()
            .map(|number_| backend(*number_, protocol_of(*number)))
            .collect();
        for backend in &backends {
            desired.backends.insert(*backend);
        }
        let ranges = draft.ranges.iter().map(|number| {
            let address = IpAddr::from([172, 16, *number, 0]);
            IpNet::new(address, 24).unwrap()
        });
        let is_weighted = draft.is_weighted && !backends.is_empty();
        let shares: Arc<[u32]> = (1..).take(backends.len()).map(|part| part * 10).collect();
        let spec = ServiceSpec {
            slots: match is_weighted || draft.is_consistent && backends.len() > 1 {
                true => TABLE,
                false => backends.len() as u32,
            },
            backends: backends.into(),
            shares: is_weighted.then_some(shares),
            consistent: is_weighted || draft.is_consistent,
            affinity_timeout_s: if draft.has_affinity { 60 } else { 0 },
            source_ranges: ranges.collect(),
        };
        desired.services.insert(key.clone(), spec);
        desired.frontends.insert(
            frontend(*number),
            FrontendSpec {
                kind: FrontendKind::LoadBalancer,
                inside: key.clone(),
                outside: key,
                is_restricted: !draft.ranges.is_empty(),
            },
        );
        let address = frontend(*number).address;
        let spec = AddressSpec {
            kind: AddressKind::Service,
            answers_echo: true,
        };
        desired.addresses.insert(address, spec);
    }
    desired
}

/// Brings the maps to what these Services need.
fn bring(writer: &mut MapWriter, actual: &mut Actual, drafts: &Drafts) {
    let desired = desired(drafts);
    let touched = Touched::everything(actual, &desired);
    for change in diff(actual, &desired, &touched) {
        writer.apply(&change).unwrap();
        actual.record(&change, Instant::now());
    }
}

fn sweep(writer: &mut MapWriter) {
    while let Sweep::Again(pause) = writer.step_sweep().unwrap() {
        std::thread::sleep(pause);
    }
}

/// The pair of a Service and a backend, as connections name it.
fn pair(actual: &Actual, service: u8, number: u8) -> Option<MemberKey> {
    let (service_id, _) = actual.services.get(&service_key(service))?;
    let backend = backend(number, protocol_of(service));
    let backend_id = actual.backends.get(&backend)?;
    Some(MemberKey {
        service: service_id.0,
        backend: backend_id.0,
    })
}

/// Both directions of a connection.
fn connection(
    pair: MemberKey,
    service: u8,
    number: u8,
    client_port: u16,
    state: CtState,
) -> [(FlowKey, CtEntry); 2] {
    let (frontend, backend) = (frontend(service), backend(number, protocol_of(service)));
    let client = Addr::from(IpAddr::from([192, 0, 2, 1]));
    let flow = FlowKey {
        source: client,
        destination: Addr::from(frontend.address),
        source_port: Port::new(client_port),
        destination_port: Port::new(frontend.port),
        protocol: match frontend.protocol {
            Protocol::Tcp => headgate_abi::Protocol::TCP,
            Protocol::Udp => headgate_abi::Protocol::UDP,
        },
        ..FlowKey::default()
    };
    let entry = CtEntry {
        source: client,
        destination: Addr::from(backend.address),
        source_port: Port::new(client_port),
        destination_port: Port::new(backend.port),
        service: pair.service,
        backend: pair.backend,
        state,
        ..CtEntry::default()
    };
    let (other_flow, other) = mirrored(&flow, &entry);
    assert!(other.flags.contains(CtFlags::REPLY));
    [(flow, entry), (other_flow, other)]
}

#[derive(Clone, Copy, Debug)]
struct Conn {
    service: u8,
    backend: u8,
    state: CtState,
    /// Whether the entry of the replies was evicted.
    is_half: bool,
}

prop_compose! {
    fn conn()(
        service in 0..SERVICES,
        backend in 1u8..8,
        state in prop::sample::select(&[CtState::NEW, CtState::ANSWERED, CtState::ESTABLISHED, CtState::CLOSED][..]),
        is_half in any::<bool>(),
    ) -> Conn {
        Conn { service, backend, state, is_half }
    }
}

fn is_in_use(drafts: &Drafts, conn: &Conn) -> bool {
    let draft = drafts.get(&conn.service);
    draft.is_some_and(|draft| draft.backends.contains(&conn.backend))
}

fn is_dispensable(conn: &Conn) -> bool {
    protocol_of(conn.service) == Protocol::Udp || conn.state == CtState::NEW
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn restored_state_is_the_applied_state(steps in vec(drafts(), 1..5)) {
        let maps = maps();
        let mut writer = writer(&maps);
        let mut actual = Actual::default();
        for drafts in steps {
            bring(&mut writer, &mut actual, &drafts);
            let restored = self::writer(&maps).restore().unwrap();
            prop_assert_eq!(restored, Restored { actual: actual.clone(), repairs: 0 });
        }
        bring(&mut writer, &mut actual, &Drafts::new());
        let is_empty = maps.frontends.entries().is_empty()
            && maps.addresses.entries().is_empty()
            && maps.members.entries().is_empty()
            && maps.source_ranges.entries().is_empty()
            && maps.local_backends.entries().is_empty();
        prop_assert!(is_empty, "entries are left");
    }

    #[test]
    fn strays_are_repaired_and_counted(
        drafts in drafts(),
        orphan in any::<bool>(),
        member in any::<bool>(),
        lost_member in any::<bool>(),
        lost_local in any::<bool>(),
        wrong_local in any::<bool>(),
    ) {
        let maps = maps();
        let mut actual = Actual::default();
        bring(&mut writer(&maps), &mut actual, &drafts);
        let before = (maps.frontends.entries(), maps.members.entries(), maps.local_backends.entries());
        let mut strays = 0;
        if orphan {
            let address = Addr::from(IpAddr::from([10, 96, 9, 9]));
            let key = FrontendKey::new(address, Port::new(9), headgate_abi::Protocol::TCP);
            let entry = FrontendEntry { inside: 60, outside: 61, ..FrontendEntry::default() };
            assert!(maps.frontends.insert(key, entry));
            strays += 1;
        }
        if member {
            assert!(maps.members.insert(MemberKey { service: 62, backend: 1 }, 0));
            strays += 1;
        }
        if lost_member && let Some(key) = before.1.keys().next() {
            assert!(maps.members.delete(key));
            strays += 1;
        }
        if lost_local && let Some(key) = before.2.keys().next() {
            assert!(maps.local_backends.delete(key));
            strays += 1;
        }
        if wrong_local {
            let key = BackendKey { port: Port::new(9), ..BackendKey::default() };
            assert!(maps.local_backends.insert(key, 1));
            strays += 1;
        }
        let mut writer = writer(&maps);
        prop_assert_eq!(writer.restore().unwrap(), Restored { actual: actual.clone(), repairs: strays });
        prop_assert_eq!(writer.restore().unwrap(), Restored { actual, repairs: 0 });
        let after = (maps.frontends.entries(), maps.members.entries(), maps.local_backends.entries());
        prop_assert_eq!(after, before);
    }

    #[test]
    fn sweep_forgets_the_dispensable_connections_of_removed_pairs(
        steps in vec(drafts(), 2..5),
        conns in vec(conn(), 0..40),
        sweeps in vec(any::<bool>(), 4),
        is_killed in any::<bool>(),
    ) {
        let maps = maps();
        let mut writer = writer(&maps);
        let mut actual = Actual::default();
        bring(&mut writer, &mut actual, &steps[0]);
        sweep(&mut writer);
        let mut open = Vec::new();
        for (port, conn) in (1000..).zip(&conns).filter(|(_, conn)| is_in_use(&steps[0], conn)) {
            let pair = pair(&actual, conn.service, conn.backend).unwrap();
            let [there, back] = connection(pair, conn.service, conn.backend, port, conn.state);
            maps.connections.insert(there.0, there.1);
            if !conn.is_half {
                maps.connections.insert(back.0, back.1);
            }
            // The sweeps that come after each step decide.
            open.push((*conn, there.0, back.0, true));
        }
        let mut marked = vec![false; open.len()];
        for (drafts, is_swept) in steps[1..].iter().zip(sweeps.into_iter().chain([true])) {
            bring(&mut writer, &mut actual, drafts);
            // A Service that is deleted does not get its connections back.
            for (conn, .., is_kept) in &mut open {
                *is_kept &= drafts.contains_key(&conn.service) || !is_dispensable(conn);
            }
            let is_last = std::ptr::eq(drafts, &raw const *steps.last().unwrap());
            if !is_swept && !is_last {
                continue;
            }
            if is_killed {
                writer = self::writer(&maps);
                writer.restore().unwrap();
            }
            sweep(&mut writer);
            for ((conn, .., is_kept), is_marked) in open.iter_mut().zip(&mut marked) {
                *is_kept &= is_in_use(drafts, conn) || !is_dispensable(conn);
                *is_marked |= !is_in_use(drafts, conn);
            }
        }
        let left = maps.connections.entries();
        for ((conn, there, ..), is_marked) in open.iter().zip(marked) {
            if let Some(entry) = left.get(there) {
                // A Service that was deleted in between has marked them too.
                let has_mark = entry.flags.contains(CtFlags::REMOVED);
                prop_assert!(has_mark || !is_marked, "{:?}", conn);
            }
        }
        for (conn, there, back, is_kept) in open {
            prop_assert_eq!(left.contains_key(&there), is_kept, "{:?}", conn);
            prop_assert_eq!(left.contains_key(&back), is_kept && !conn.is_half, "{:?}", conn);
        }
    }
}

/// What programs find in the maps after a write.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Moment {
    at: Instant,
    names: Vec<String>,
    /// The slots of each Service, and the backend ids in them.
    slots: BTreeMap<u32, Vec<(u32, u32)>>,
    backends: Vec<BackendEntry>,
    all_slots: Vec<u32>,
}

impl Moment {
    fn of(maps: &MemoryMaps, at: Instant) -> Self {
        let services = maps.frontends.entries().into_values();
        let slots = services.map(|frontend| {
            let range = maps.services.at(frontend.inside).unwrap().slots();
            let slots = range.first..range.first + range.count;
            let ids = slots.map(|slot| (slot, maps.slots.at(slot).unwrap()));
            (frontend.inside, ids.collect())
        });
        let name = |id| maps.labels.at(id).unwrap().text().to_owned();
        Self {
            at,
            names: (0..64).map(name).collect(),
            slots: slots.collect(),
            backends: (0..64).map(|id| maps.backends.at(id).unwrap()).collect(),
            all_slots: (0..256).map(|slot| maps.slots.at(slot).unwrap()).collect(),
        }
    }

    /// Checks that a program which read a part of what it needs now, and the rest later, chooses a backend of
    /// the Service that it wants, or none.
    fn check(&self, later: &Self) {
        for (service, slots) in &self.slots {
            let (name, new_name) = (
                &self.names[*service as usize],
                &later.names[*service as usize],
            );
            assert!(
                new_name == name || new_name.is_empty(),
                "id of {name} became that of {new_name}"
            );
            for (slot, id) in slots {
                assert_eq!(later.all_slots[*slot as usize], *id, "slot {slot}");
                let (old, new) = (self.backends[*id as usize], later.backends[*id as usize]);
                assert_ne!(old.port.number(), 0, "a slot names an id without a backend");
                assert_eq!(new.address, old.address, "id {id}");
                // Programs refuse an entry without a port.
                assert!([0, old.port.number()].contains(&new.port.number()));
            }
        }
    }
}

/// Brings the maps through these states, with pauses between them, and checks every program that reads while
/// they are written and is delayed by less than the quarantine.
fn check_readers(steps: &[(Drafts, Duration)]) {
    let maps = maps();
    let clock = Arc::new(Mutex::new(Instant::now()));
    let moments = Arc::new(Mutex::new(Vec::<Moment>::new()));
    maps.observe({
        let (maps, clock, moments) = (maps.clone(), clock.clone(), moments.clone());
        move || {
            let moment = Moment::of(&maps, *clock.lock().unwrap());
            let mut moments = moments.lock().unwrap();
            if moments.last() != Some(&moment) {
                moments.push(moment);
            }
        }
    });
    let mut writer = writer(&maps);
    let mut actual = Actual::default();
    for (drafts, pause) in steps {
        let now = *clock.lock().unwrap();
        actual.end_quarantine(now);
        let desired = desired(drafts);
        for change in diff(&actual, &desired, &Touched::everything(&actual, &desired)) {
            writer.apply(&change).unwrap();
            actual.record(&change, now);
        }
        *clock.lock().unwrap() += *pause;
    }
    let moments = moments.lock().unwrap();
    for (index, moment) in moments.iter().enumerate() {
        let later = moments[index..].iter();
        let soon = later.take_while(|later| later.at - moment.at < QUARANTINE);
        soon.for_each(|later| moment.check(later));
    }
}

#[test]
fn delayed_reader_does_not_get_the_backend_of_another_service() {
    let of = |service, backends: &[u8]| {
        let draft = Draft::with(backends.iter().copied());
        Drafts::from([(service, draft)])
    };
    let soon = QUARANTINE / 2;
    // Backend and Service are replaced by others, at once and after a pass.
    check_readers(&[
        (of(0, &[1]), soon),
        (of(0, &[2]), soon),
        (of(2, &[3]), soon),
        (Drafts::new(), soon),
        (of(1, &[4]), soon),
        (of(0, &[1, 2, 3, 4]), soon),
    ]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn delayed_readers_choose_a_backend_of_their_service_or_none(
        steps in vec((drafts(), 0u64..3000), 2..8),
    ) {
        let steps = steps.into_iter().map(|(mut drafts, pause_ms)| {
            for draft in drafts.values_mut() {
                // Tables of either kind are larger than what a moment remembers.
                (draft.is_consistent, draft.is_weighted) = (false, false);
            }
            (drafts, Duration::from_millis(pause_ms))
        });
        check_readers(&steps.collect::<Vec<_>>());
    }
}

/// Maps with one Service, two backends and both sorts of connections, and its writer.
fn one_service(service: u8) -> (MemoryMaps, MapWriter, Actual) {
    let maps = maps();
    let mut writer = writer(&maps);
    let mut actual = Actual::default();
    let drafts = Drafts::from([(service, Draft::with([1, 2]))]);
    bring(&mut writer, &mut actual, &drafts);
    sweep(&mut writer);
    (maps, writer, actual)
}

#[test]
fn pair_that_is_back_before_the_sweep_keeps_its_connections() {
    let (maps, mut writer, mut actual) = one_service(1);
    let pair = pair(&actual, 1, 2).unwrap();
    for (flow, entry) in connection(pair, 1, 2, 1000, CtState::NEW) {
        maps.connections.insert(flow, entry);
    }
    for backends in [vec![1], vec![1, 2]] {
        let drafts = Drafts::from([(1, Draft::with(backends))]);
        bring(&mut writer, &mut actual, &drafts);
    }
    sweep(&mut writer);
    assert_eq!(maps.connections.entries().len(), 2);
}

#[test]
fn connections_of_an_ids_previous_service_are_forgotten_before_it_is_used_again() {
    let (maps, mut writer, mut actual) = one_service(1);
    let before = pair(&actual, 1, 2).unwrap();
    for (flow, entry) in connection(before, 1, 2, 1000, CtState::ESTABLISHED) {
        maps.connections.insert(flow, entry);
    }
    bring(&mut writer, &mut actual, &Drafts::new());
    actual.end_quarantine(Instant::now() + QUARANTINE);
    let drafts = Drafts::from([(3, Draft::with([1, 2]))]);
    bring(&mut writer, &mut actual, &drafts);
    assert_eq!(pair(&actual, 3, 2), Some(before), "the same ids");
    assert!(maps.connections.entries().is_empty());
}

#[test]
fn answered_connection_is_kept_although_the_other_half_says_new() {
    let (maps, mut writer, mut actual) = one_service(0);
    let pair = pair(&actual, 0, 2).unwrap();
    let [there, mut back] = connection(pair, 0, 2, 1000, CtState::NEW);
    back.1.state = CtState::ANSWERED;
    for (flow, entry) in [there, back] {
        maps.connections.insert(flow, entry);
    }
    let drafts = Drafts::from([(0, Draft::with([1]))]);
    bring(&mut writer, &mut actual, &drafts);
    sweep(&mut writer);
    let left = maps.connections.entries();
    assert_eq!(left[&there.0].state, CtState::ANSWERED);
    back.1.flags = back.1.flags.union(CtFlags::REMOVED);
    assert_eq!(left[&back.0], back.1);
}

#[test]
fn s131_sockets_of_removed_backends_are_ended_by_cookie_and_address() {
    let (maps, mut writer, mut actual) = one_service(1);
    let socket = |cookie, number, protocol| {
        let pair = pair(&actual, 1, number).unwrap();
        let backend = backend(number, Protocol::Udp);
        let key = SocketKey {
            cookie,
            ..SocketKey::default()
        };
        let entry = SocketEntry {
            backend: Addr::from(backend.address),
            backend_port: Port::new(backend.port),
            protocol,
            service: pair.service,
            backend_id: pair.backend,
            ..SocketEntry::default()
        };
        maps.sockets.insert(key, entry);
    };
    socket(1, 1, headgate_abi::Protocol::UDP);
    socket(2, 2, headgate_abi::Protocol::UDP);
    socket(3, 2, headgate_abi::Protocol::TCP);
    let drafts = Drafts::from([(1, Draft::with([1]))]);
    bring(&mut writer, &mut actual, &drafts);
    sweep(&mut writer);
    let ended = maps.ended_sockets.lock().unwrap().clone();
    let ended = ended.iter().filter(|socket| socket.cookie != 0);
    let gone = backend(2, Protocol::Udp);
    let wanted = Connected {
        cookie: 2,
        address: gone.address,
        port: gone.port,
    };
    assert_eq!(ended.collect::<Vec<_>>(), [&wanted]);
    let left = maps.sockets.entries();
    let lost = left.iter().filter(|(_, entry)| entry.backend_id == 0);
    assert_eq!(lost.map(|(key, _)| key.cookie).collect::<Vec<_>>(), [2]);
}

#[test]
fn s132_agent_forgets_the_backend_of_a_socket_only_if_its_frontend_has_lost_it() {
    let (maps, mut writer, mut actual) = one_service(1);
    let key = SocketKey {
        cookie: 1,
        ..SocketKey::default()
    };
    let had = backend(2, Protocol::Udp);
    let entry = SocketEntry {
        frontend: Addr::from(frontend(1).address),
        frontend_port: Port::new(frontend(1).port),
        backend: Addr::from(had.address),
        backend_port: Port::new(had.port),
        protocol: headgate_abi::Protocol::UDP,
        service: pair(&actual, 1, 2).unwrap().service,
        backend_id: pair(&actual, 1, 2).unwrap().backend,
        ..SocketEntry::default()
    };
    maps.sockets.insert(key, entry);
    // The frontend belongs to another service, which has the same backend.
    let mut other = desired(&Drafts::from([(3, Draft::with([2]))]));
    let spec = other.frontends[&frontend(3)].clone();
    other.frontends.insert(frontend(1), spec);
    for change in diff(&actual, &other, &Touched::everything(&actual, &other)) {
        writer.apply(&change).unwrap();
        actual.record(&change, Instant::now());
    }
    sweep(&mut writer);
    let service = pair(&actual, 3, 2).unwrap().service;
    assert_ne!(service, entry.service);
    assert_eq!(maps.sockets.entries()[&key].service, service);
    other.frontends.remove(&frontend(1));
    for drafts in [Draft::with([2, 3]), Draft::with([3])] {
        bring(&mut writer, &mut actual, &Drafts::from([(3, drafts)]));
    }
    sweep(&mut writer);
    assert_eq!(maps.sockets.entries()[&key].backend_id, 0);
}

#[test]
fn s133_sockets_older_than_the_endpoints_of_their_frontend_are_ended() {
    let maps = maps();
    let mut writer = writer(&maps);
    let mut actual = Actual::default();
    let mut ended = |drafts: &Drafts| {
        bring(&mut writer, &mut actual, drafts);
        sweep(&mut writer);
        std::mem::take(&mut *maps.ended_sockets.lock().unwrap())
    };
    let to = |service: u8| Connected {
        cookie: 0,
        address: frontend(service).address,
        port: frontend(service).port,
    };
    let without = Drafts::from([(0, Draft::with([1])), (1, Draft::default())]);
    let with = Drafts::from([(0, Draft::with([1])), (1, Draft::with([1]))]);
    let more = Drafts::from([(0, Draft::with([1])), (1, Draft::with([1, 2]))]);
    // Service 1 is one of UDP.
    assert_eq!(ended(&without), BTreeSet::new());
    assert_eq!(ended(&with), BTreeSet::from([to(1)]));
    assert_eq!(ended(&more), BTreeSet::new());
    assert_eq!(ended(&without), BTreeSet::new());
    assert_eq!(ended(&with), BTreeSet::from([to(1)]));
    // Other rules translate them.
    assert!(maps.takeover.replace(0, Takeover::BEGUN));
    let other = Drafts::from([(3, Draft::with([1]))]);
    assert_eq!(ended(&other), BTreeSet::new());
}

#[test]
fn connections_of_a_frontend_that_changed_its_service_are_forgotten() {
    let (maps, mut writer, mut actual) = one_service(1);
    let pair = pair(&actual, 1, 2).unwrap();
    for (flow, entry) in connection(pair, 1, 2, 1000, CtState::ESTABLISHED) {
        maps.connections.insert(flow, entry);
    }
    // Another Service with the same backends takes the frontend.
    let mut desired = desired(&Drafts::from([
        (1, Draft::with([1, 2])),
        (3, Draft::with([1, 2])),
    ]));
    let spec = desired.frontends[&frontend(3)].clone();
    desired.frontends.insert(frontend(1), spec);
    for change in diff(&actual, &desired, &Touched::everything(&actual, &desired)) {
        writer.apply(&change).unwrap();
        actual.record(&change, Instant::now());
    }
    sweep(&mut writer);
    assert!(maps.connections.entries().is_empty());
}

#[test]
fn unfinished_sweep_does_not_overrule_newer_notes() {
    let key = |port| {
        FrontendKey::new(
            Addr::default(),
            Port::new(port),
            headgate_abi::Protocol::UDP,
        )
    };
    let pair = |backend| PairInUse {
        pair: MemberKey {
            service: 1,
            backend,
        },
        address: IpAddr::from([10, 244, 1, 1]),
        port: 8080,
    };
    let mut removed = Removed {
        pairs: BTreeSet::from([pair(1)]),
        frontends: [(key(1), [5, 5])].into(),
    };
    removed.put_back(Removed {
        pairs: BTreeSet::from([pair(2)]),
        frontends: [(key(1), [4, 4]), (key(2), [4, 4])].into(),
    });
    assert_eq!(removed.pairs, BTreeSet::from([pair(1), pair(2)]));
    assert_eq!(
        removed.frontends,
        [(key(1), [5, 5]), (key(2), [4, 4])].into()
    );
    assert!(!removed.is_empty());
    assert!(Removed::default().is_empty());
}

#[test]
fn counters_of_an_ids_previous_owner_are_reset() {
    let (maps, mut writer, mut actual) = one_service(0);
    let traffic = headgate_abi::Traffic {
        packets: 3,
        ..Default::default()
    };
    let id = pair(&actual, 0, 2).unwrap();
    assert!(maps.backend_traffic.replace(id.backend, traffic));
    let change = Change::PutBackend {
        id: actual.backends[&backend(2, Protocol::Tcp)],
        backend: backend(2, Protocol::Tcp),
    };
    writer.apply(&change).unwrap();
    assert_eq!(maps.backend_traffic.at(id.backend), Some(traffic));
    assert_ne!(maps.backends.at(id.backend), Some(BackendEntry::default()));
    let drafts = Drafts::from([(0, Draft::with([1]))]);
    bring(&mut writer, &mut actual, &drafts);
    writer.apply(&change).unwrap();
    let reset = maps.backend_traffic.at(id.backend);
    assert_eq!(reset, Some(headgate_abi::Traffic::default()));
}

/// A changed table needs slots of its own before the old ones are free.
#[test]
fn s146_services_follow_their_endpoints_when_all_slots_are_in_use() {
    const PORTS: u16 = 30;
    let maps = MemoryMaps::new(&MapSizes {
        frontends: 256,
        services: 64,
        backends: 256,
        slots: 2 * 20 * TABLE,
        ..MapSizes::default()
    });
    let mut writer = writer(&maps);
    let mut planner = Planner::with_limits(
        Node {
            node_port_addresses: vec![[192, 168, 50, 1].into()],
            ..Node::default()
        },
        writer.limits(),
    );
    let name = NamespacedName::new("default", "many");
    let ports = (0..PORTS).map(|at| ServicePort {
        name: format!("p{at}"),
        protocol: Protocol::Udp,
        port: 1000 + at,
        node_port: Some(30_000 + at),
    });
    let service = Service {
        name: name.clone(),
        created_s: None,
        ports: ports.collect(),
        cluster_ips: vec![[10, 96, 0, 1].into()],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        external_policy: Scope::Cluster,
        internal_policy: Scope::Cluster,
        affinity_timeout_s: None,
        source_ranges: None,
        health_check_node_port: None,
    };
    planner.set_service(&name, Some(service));
    let mut actual = Actual::default();
    // The second change comes before the slots of the first one may be used again.
    for round in 0..2 {
        let endpoint = |last| Endpoint {
            address: [10, 244, round, last].into(),
            node: None,
            ready: true,
            serving: true,
            terminating: false,
            zone_hints: Vec::new(),
            node_hints: Vec::new(),
        };
        let ports = (0..PORTS).map(|at| EndpointPort {
            name: format!("p{at}"),
            protocol: Protocol::Udp,
            port: 8000 + at,
        });
        let slice = EndpointSlice {
            service: name.clone(),
            ports: ports.collect(),
            endpoints: vec![endpoint(1), endpoint(2)],
            triggered: None,
        };
        planner.set_slice(&name, Some(slice));
        let touched = planner.update();
        for change in diff(&actual, planner.desired(), &touched) {
            writer.apply(&change).unwrap();
            actual.record(&change, Instant::now());
        }
        let tables = actual.services.values();
        let tables = tables.filter(|(_, spec)| spec.consistent).count();
        assert_eq!((actual.services.len(), tables), (PORTS.into(), 19));
        assert_eq!(writer.restore().unwrap().actual, actual);
    }
}
