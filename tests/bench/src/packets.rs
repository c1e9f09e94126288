//! Nanoseconds for a packet in a program, by `BPF_PROG_TEST_RUN`, compared with a program that does
//! nothing and one that does a single look-up.

use std::{
    fs,
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, ensure};
use headgate_abi::{
    Addr, AddressEntry, BackendEntry, CtEntry, CtFlags, CtState, DatapathConfig, FlowKey,
    FrontendFlags, FrontendKey, Location, Port, Protocol, Reason, ServiceEntry, names,
};
use headgate_dataplane::{MapSizes, now_s};
use headgate_packets::{Builder, Replica, State};
use headgate_prog::Kernel;
use nix::net::if_::if_nametoindex;

use crate::{Options, Report, Table, bpf};

/// Runs of one program before the next one has its turn: the most packets of a network card's poll.
const BATCH: usize = 64;
/// Frames made beforehand for each case: the largest number of runs.
const FRAMES: usize = 1 << 14;

/// The content of the maps. `flows` counts the flows of each family.
struct Scale {
    services: u32,
    flows: u32,
    /// Capacity of the connection table. The large ones never become full.
    connections: u32,
}

const SCALES: [Scale; 6] = [
    Scale {
        services: 1,
        flows: 1,
        connections: 1 << 20,
    },
    Scale {
        services: 1_000,
        flows: 1_000,
        connections: 1 << 20,
    },
    Scale {
        services: 100_000,
        flows: 1_000,
        connections: 1 << 20,
    },
    Scale {
        services: 1_000,
        flows: 1_000_000,
        connections: 5 << 20,
    },
    // Two entries for each flow, and two families: 20 million.
    Scale {
        services: 1_000,
        flows: 5_000_000,
        connections: 22_000_000,
    },
    // Each new connection replaces another one.
    Scale {
        services: 1_000,
        flows: 1_000,
        connections: 1 << 12,
    },
];

/// The hook of a case.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hook {
    Xdp,
    Tc,
    Lookup,
}

struct Case {
    name: String,
    hook: Hook,
    program: &'static str,
    frames: Vec<Vec<u8>>,
    /// The counter that each run increments, if any.
    reason: Option<Reason>,
}

/// Runs the benchmark.
pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let title = "verified instructions";
    if options.wants(title) {
        report.add(verified(title)?);
    }
    let batches = if options.quick { 64 } else { FRAMES / BATCH };
    for scale in &SCALES {
        let Scale {
            services, flows, ..
        } = scale;
        let full = if scale.connections < 1 << 20 {
            ", table full"
        } else {
            ""
        };
        let title = format!("{services} services, {flows} flows{full}");
        if options.wants(&title) {
            // A separate thread, because the kernel object enters its own namespace.
            let measured =
                thread::scope(|scope| scope.spawn(|| measure(scale, &title, batches)).join());
            let tables = match measured {
                Ok(tables) => tables?,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            for table in tables {
                report.add(table);
            }
        }
    }
    println!(
        "\nThe kernel has no test run for socket hooks (connect, sendmsg); `bench paths` has them."
    );
    Ok(())
}

fn verified(title: &str) -> Result<Table> {
    let mut kernel = Kernel::new("verified", &State::default())?;
    let mut table = Table::new(title, "instructions", "at load", "");
    let hooks = [
        "hg_baseline_lookup",
        names::XDP_EXTERNAL,
        names::SK_LOOKUP,
        names::SOCK_RELEASE,
    ];
    for name in hooks
        .into_iter()
        .chain(names::TC)
        .chain(names::SOCKET_HOOKS)
    {
        table.add(
            name,
            &[kernel
                .verified_instructions(name)?
                .context("the kernel does not report verified instructions")?
                .into()],
        );
    }
    Ok(table)
}

fn measure(scale: &Scale, title: &str, batches: usize) -> Result<Vec<Table>> {
    let sizes = MapSizes {
        frontends: 4 * scale.services + 64,
        services: 2 * scale.services + 64,
        backends: 2 * scale.services + 64,
        slots: 2 * scale.services + 64,
        connections: scale.connections,
        ..MapSizes::default()
    };
    let mut kernel = Kernel::with("packets", &state(scale), &sizes)?;
    let device = Device::new()?;
    kernel.know_link(device.ifindex)?;
    connect(&mut kernel, scale)?;
    let cases = cases(scale);
    let mut programs = Vec::new();
    for case in &cases {
        programs.push(kernel.program(case.program)?.0);
    }
    let mut samples = vec![Vec::with_capacity(batches); cases.len()];
    for batch in 0..batches {
        for ((case, program), samples) in cases.iter().zip(&programs).zip(&mut samples) {
            let before = kernel.maps.reasons()?;
            let mut times = Vec::with_capacity(BATCH);
            for run in 0..BATCH {
                let frame = &case.frames[(batch * BATCH + run) % case.frames.len()];
                times.push(device.time(case.hook, program, frame)?);
            }
            if let Some(reason) = case.reason {
                let count = |reasons: &[(Reason, u64)]| {
                    let mut counts = reasons.iter();
                    counts.find_map(|(of, count)| (*of == reason).then_some(*count))
                };
                let after = count(&kernel.maps.reasons()?);
                let counted = after.unwrap_or(0) - count(&before).unwrap_or(0);
                // A full table may have no free entry for a flow at the moment.
                ensure!(
                    counted >= BATCH as u64 - 4,
                    "{}: {counted} of {BATCH} became {reason:?}",
                    case.name
                );
            }
            times.sort_unstable();
            samples.push(times[BATCH / 2] as f64);
        }
    }
    let how = format!("{batches} batches of {BATCH} runs");
    let mut tables = Vec::new();
    for (hook, name, base) in [
        (Hook::Xdp, "XDP", "one look-up"),
        (Hook::Tc, "TC", "one look-up"),
        (Hook::Lookup, "socket look-up", ""),
    ] {
        let mut table = Table::new(&format!("{name}, {title}"), "ns", &how, base);
        for (case, samples) in cases.iter().zip(&samples) {
            if case.hook == hook {
                table.add(&case.name, samples);
            }
        }
        tables.push(table);
    }
    Ok(tables)
}

/// A device with routes to other nodes.
struct Device {
    ifindex: u32,
    /// An XDP program on the device, without which the kernel does not run others as on it.
    _attached: OwnedFd,
}

impl Device {
    /// Makes it in the namespace of this thread, with routes to the pods of other nodes.
    fn new() -> Result<Self> {
        ip(
            "link add eth0 address 02:00:00:00:00:02 type veth peer name peer0\n\
            link set eth0 up\n\
            link set peer0 up\n\
            address add 192.168.50.1/24 dev eth0\n\
            address add fd50::1/64 dev eth0 nodad\n\
            neighbour add 192.168.50.2 lladdr 02:00:00:00:00:09 dev eth0\n\
            neighbour add 192.168.50.100 lladdr 02:00:00:00:00:08 dev eth0\n\
            neighbour add fd50::2 lladdr 02:00:00:00:00:09 dev eth0\n\
            neighbour add fd50::100 lladdr 02:00:00:00:00:08 dev eth0\n\
            route add 10.244.0.0/16 via 192.168.50.2\n\
            route add fd44::/16 via fd50::2",
        )?;
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            fs::write(format!("/proc/sys/net/{setting}"), "1").context(setting)?;
        }
        let ifindex = if_nametoindex("eth0")?;
        let attached = bpf::attach_xdp(bpf::action(bpf::XDP_PASS)?.as_fd(), ifindex)?;
        Ok(Self {
            ifindex,
            _attached: attached,
        })
    }

    fn time(&self, hook: Hook, program: &OwnedFd, frame: &[u8]) -> Result<u64> {
        let context = match hook {
            Hook::Xdp => bpf::xdp_context(frame, self.ifindex),
            Hook::Tc => bpf::skb_context(self.ifindex),
            Hook::Lookup => bpf::lookup_context(80),
        };
        let time = bpf::test_run(program.as_fd(), frame, &context)?;
        Ok(time.as_nanos() as u64)
    }
}

fn ip(commands: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("ip")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(commands.as_bytes())?;
    }
    ensure!(child.wait()?.success(), "ip: {commands}");
    Ok(())
}

const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 100);
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd50, 0, 0, 0, 0, 0, 0, 0x100);
const PORT: u16 = 80;
const BACKEND_PORT: u16 = 8080;
/// The number of the first byte that each end of a connection sends.
const FIRST_BYTE: u32 = 1001;
/// Ids below this belong to the single services below; the ids of the others follow, two for each.
const FIRST_ID: u32 = 8;
const EMPTY: u32 = 1;
const REMOTE_V4: u32 = 2;
const REMOTE_V6: u32 = 3;
/// The numbers from which the addresses of single services are made.
const EMPTY_NUMBER: u32 = 0xf0_0001;
const REMOTE_NUMBER: u32 = 0xf0_0002;
/// The number of an address without service.
const OTHER_NUMBER: u32 = 0xf0_0003;

/// The addresses, of both families, of the frontend or backend with a number.
fn addresses(first: u8, network: u16, number: u32) -> [IpAddr; 2] {
    let [_, a, b, c] = number.to_be_bytes();
    let [high, low] = [(number >> 16) as u16, number as u16];
    [
        Ipv4Addr::new(first, a, b, c).into(),
        Ipv6Addr::new(network, 0, 0, 0, 0, 0, high, low).into(),
    ]
}

fn frontends(number: u32) -> [IpAddr; 2] {
    addresses(11, 0xfd96, number)
}

fn backends(number: u32) -> [IpAddr; 2] {
    addresses(12, 0xfd12, number)
}

/// Backends of other nodes.
const REMOTE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 244, 2, 2)),
    IpAddr::V6(Ipv6Addr::new(0xfd44, 2, 0, 0, 0, 0, 0, 2)),
];

fn state(scale: &Scale) -> State {
    let mut state = State {
        config: DatapathConfig {
            snat_v4: IpAddr::from([192, 168, 50, 1]).into(),
            snat_v6: IpAddr::from(Ipv6Addr::new(0xfd50, 0, 0, 0, 0, 0, 0, 1)).into(),
            snat_port_first: Port::new(10_000),
            snat_port_last: Port::new(29_999),
            seed: 7,
            ..DatapathConfig::default()
        },
        ..State::default()
    };
    let mut add = |id: u32, address: IpAddr, backend: Option<(IpAddr, Location)>| {
        let key = FrontendKey::new(address.into(), Port::new(PORT), Protocol::TCP);
        state.add_frontend(key, id, FrontendFlags::default(), AddressEntry::SERVICE);
        let Some((backend, location)) = backend else {
            state.services.insert(id, ServiceEntry::default());
            return;
        };
        let entry = BackendEntry {
            address: backend.into(),
            port: Port::new(BACKEND_PORT),
            protocol: Protocol::TCP,
            location,
        };
        state.backends.insert(id, entry);
        state.add_service(id, &[id], 0);
    };
    for address in frontends(EMPTY_NUMBER) {
        add(EMPTY, address, None);
    }
    let remote = frontends(REMOTE_NUMBER);
    add(
        REMOTE_V4,
        remote[0],
        Some((REMOTE[0], Location::OTHER_NODE)),
    );
    add(
        REMOTE_V6,
        remote[1],
        Some((REMOTE[1], Location::OTHER_NODE)),
    );
    for number in 0..scale.services {
        let both = frontends(number).into_iter().zip(backends(number));
        for (family, (frontend, backend)) in (0..).zip(both) {
            add(
                FIRST_ID + 2 * number + family,
                frontend,
                Some((backend, Location::THIS_NODE)),
            );
        }
    }
    state
}

/// The client of the flow with a number, in each family: 2^14 ports for each address.
fn clients(flow: u32) -> [SocketAddr; 2] {
    let port = 1024 + (flow & 0x3fff) as u16;
    addresses(13, 0xfd13, flow >> 14).map(|address| SocketAddr::new(address, port))
}

/// Adds the entries of the flows, as if both ends had sent packets.
fn connect(kernel: &mut Kernel, scale: &Scale) -> Result<()> {
    let now_s = now_s();
    for flow in 0..scale.flows {
        let number = flow % scale.services;
        for family in 0..2 {
            let id = FIRST_ID + 2 * number + family as u32;
            let client = clients(flow)[family];
            let (frontend, backend) = (frontends(number)[family], backends(number)[family]);
            let key = |source: SocketAddr, destination: SocketAddr| FlowKey {
                source: source.ip().into(),
                destination: destination.ip().into(),
                source_port: Port::new(source.port()),
                destination_port: Port::new(destination.port()),
                protocol: Protocol::TCP,
                zero: [0; 3],
            };
            let frontend = SocketAddr::new(frontend, PORT);
            let backend = SocketAddr::new(backend, BACKEND_PORT);
            let entry = |source: SocketAddr, destination: SocketAddr, flags| CtEntry {
                source: Addr::from(source.ip()),
                destination: destination.ip().into(),
                source_port: Port::new(source.port()),
                destination_port: Port::new(destination.port()),
                service: id,
                backend: id,
                seen_s: now_s,
                end: FIRST_BYTE,
                acknowledged: FIRST_BYTE,
                state: CtState::ESTABLISHED,
                flags,
                ..CtEntry::default()
            };
            let connections = &mut kernel.maps.connections;
            let forth = entry(client, backend, CtFlags::default());
            connections.insert(key(client, frontend), forth, 0)?;
            let back = entry(frontend, client, CtFlags::REPLY);
            connections.insert(key(backend, client), back, 0)?;
        }
    }
    // One flow to a backend on another node: the program chooses its source port.
    for (client, frontend) in [CLIENT_V4.into(), CLIENT_V6.into()]
        .into_iter()
        .zip(frontends(REMOTE_NUMBER))
    {
        kernel.run_xdp(&segment(SocketAddr::new(client, 1000), frontend, "S"));
    }
    Ok(())
}

fn between(source: IpAddr, source_port: u16, destination: IpAddr, port: u16) -> Builder {
    Builder {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, port),
        hop_limit: 64,
        numbers: (FIRST_BYTE, FIRST_BYTE),
    }
}

/// A permutation of the numbers below `of`, so that consecutive runs do not use adjacent memory.
fn scattered(index: u32, of: u32) -> u32 {
    (u64::from(index) * 2_654_435_761 % u64::from(of)) as u32
}

/// Programs of a hook: for packets from outside, for replies of pods, and the two baselines.
const HOOKS: [(Hook, [&str; 4]); 2] = [
    (
        Hook::Xdp,
        [
            names::XDP_EXTERNAL,
            names::XDP_EXTERNAL,
            "hg_baseline_pass",
            "hg_baseline_lookup",
        ],
    ),
    (
        Hook::Tc,
        [
            names::TC_EXTERNAL,
            names::TC_POD,
            "hg_tc_baseline_pass",
            "hg_tc_baseline_lookup",
        ],
    ),
];

fn cases(scale: &Scale) -> Vec<Case> {
    let mut cases = Vec::new();
    let is_full = scale.connections < 1 << 20;
    for (hook, [external, replies, nothing, lookup]) in HOOKS {
        let mut add = |name: &str, program, reason, frame: &dyn Fn(u32) -> Vec<u8>| {
            // Each case has its own numbers, so that it does not use what another brought into the caches.
            let first = cases.len() as u32 * 40_503;
            cases.push(Case {
                name: name.into(),
                hook,
                program,
                frames: (first..first + FRAMES as u32).map(frame).collect(),
                reason,
            });
        };
        let request = |family: usize| {
            move |index| {
                let flow = scattered(index, scale.flows);
                let frontend = frontends(flow % scale.services)[family];
                let client = clients(flow)[family];
                let segments = between(client.ip(), client.port(), frontend, PORT);
                advanced(segments, index).tcp("A", b"")
            }
        };
        add("nothing", nothing, None, &request(0));
        add("one look-up", lookup, None, &request(0));
        for (family, suffix) in ["IPv4", "IPv6"].into_iter().enumerate() {
            let mut add = |name: &str, program, reason, frame: &dyn Fn(u32) -> Vec<u8>| {
                add(&format!("{name}, {suffix}"), program, Some(reason), frame);
            };
            add("no service", external, Reason::NotOurs, &|index| {
                let client = clients(scattered(index, scale.flows))[family];
                segment(client, frontends(OTHER_NUMBER)[family], "A")
            });
            if !is_full {
                let forth = &request(family);
                add("established", external, Reason::ToBackend, forth);
                let parties = |index| {
                    let flow = scattered(index, scale.flows);
                    let client = clients(flow)[family];
                    let backend = backends(flow % scale.services)[family];
                    between(client.ip(), client.port(), backend, BACKEND_PORT)
                };
                let reply = |index| {
                    let answers = parties(index).reversed();
                    advanced(answers, index).tcp("A", b"")
                };
                add("reply, arriving", replies, Reason::AtEgress, &reply);
                if hook == Hook::Tc {
                    let leaving = names::TC_EGRESS;
                    add("reply, leaving", leaving, Reason::ToClient, &reply);
                    add("ICMP error", leaving, Reason::IcmpError, &|index| {
                        let sent = parties(index).tcp("A", b"");
                        parties(index).reversed().unreachable(&sent)
                    });
                }
                let client = [CLIENT_V4.into(), CLIENT_V6.into()][family];
                let remote = frontends(REMOTE_NUMBER)[family];
                let remote = between(client, 1000, remote, PORT);
                let name = "established, to another node";
                add(name, external, Reason::ToBackend, &|index| {
                    advanced(remote, index).tcp("A", b"")
                });
            }
            // Clients without an open flow.
            let new_client = |index: u32| clients(2_000_000 + index)[family];
            add("new flow", external, Reason::ToBackend, &|index| {
                let service = scattered(index, scale.services);
                segment(new_client(index), frontends(service)[family], "S")
            });
            if scale.services > 1 {
                let name = "new flow, always the same service";
                add(name, external, Reason::ToBackend, &|index| {
                    segment(new_client(index), frontends(0)[family], "S")
                });
            }
            add("rejected", external, Reason::NoBackend, &|index| {
                segment(new_client(index), frontends(EMPTY_NUMBER)[family], "S")
            });
        }
    }
    cases.push(Case {
        name: "nothing listens".into(),
        hook: Hook::Lookup,
        program: names::SK_LOOKUP,
        frames: vec![Vec::new()],
        reason: None,
    });
    cases
}

/// Numbers that change with every frame, as those of a connection with data do.
fn advanced(segments: Builder, index: u32) -> Builder {
    let bytes = index % FRAMES as u32;
    segments.after(bytes, bytes)
}

fn segment(client: SocketAddr, frontend: IpAddr, flags: &str) -> Vec<u8> {
    between(client.ip(), client.port(), frontend, PORT).tcp(flags, b"")
}
