//! Packets per second that a node forwards to another node. Test runs with `BPF_F_TEST_XDP_LIVE_FRAMES`
//! run XDP programs on frames as if they arrived. The frames leave through the same device, and the other
//! end counts and drops them. Everything runs on one CPU.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd, OwnedFd},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use headgate_abi::{
    AddressEntry, BackendEntry, DatapathConfig, FrontendFlags, FrontendKey, Location, Port,
    Protocol, names,
};
use headgate_dataplane::MapSizes;
use headgate_netns::Netns;
use headgate_packets::{Builder, State};
use headgate_prog::Kernel;
use nix::net::if_::if_nametoindex;

use crate::{
    Family, Options, Report, Service, Table, bpf, iptables, load_iptables, load_nftables, nftables,
};

const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);
const NODE_PORT: u16 = 30080;
const BACKEND: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 244, 2, 2), 9000);
/// Length of link, network and transport header, rounded up to whole words.
const HEADERS: usize = 44;
const PAYLOAD: [u8; 18] = [0; 18];

/// Runs the benchmark.
pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    const BASE: &str = "kernel routing";
    let title = "NodePort to another node, 60-byte UDP frames of one flow";
    if !options.wants(title) {
        return Ok(());
    }
    let (rounds, frames) = if options.quick {
        (5, 300_000)
    } else {
        (9, 1_000_000)
    };
    let direct = Builder::new("192.168.50.100:4000", &BACKEND.to_string()).udp(&PAYLOAD);
    let service = format!("{NODE}:{NODE_PORT}");
    let service = Builder::new("192.168.50.100:4000", &service).udp(&PAYLOAD);
    // A separate thread, because the kernel object enters its own namespace.
    let mut kernel = match thread::spawn(headgate).join() {
        Ok(kernel) => kernel?,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    let (program, _) = kernel.program(names::XDP_EXTERNAL)?;
    let program = bpf::End::Program(program.as_fd());
    let pass = bpf::End::Action(bpf::XDP_PASS);
    let services = [Service {
        name: "web".into(),
        address: [10, 96, 0, 10].into(),
        port: 80,
        protocol: "udp",
        node_port: Some(NODE_PORT),
        endpoints: vec![BACKEND.into()],
    }];
    let subjects = [
        Site::new(
            "returned at once",
            "tx",
            &direct,
            bpf::End::Action(bpf::XDP_TX),
        )?,
        Site::new(BASE, "rt", &direct, pass)?,
        Site::new(
            "headgate, no service, kernel routing",
            "no",
            &direct,
            program,
        )?,
        Site::new("headgate", "hg", &service, program)?,
        Site::new("nftables", "nf", &service, pass)?,
        Site::new("iptables", "ip", &service, pass)?,
    ];
    load_nftables(&subjects[4].node, &nftables(&services, NODE.into()))?;
    let rules = iptables(&services, Family::V4);
    load_iptables(&subjects[5].node, Family::V4, &rules)?;
    let mut samples = vec![Vec::new(); subjects.len()];
    let mut lost = vec![0u64; subjects.len()];
    for subject in &subjects {
        // Opens the flow and warms up.
        subject.send(frames / 10)?;
    }
    for _ in 0..rounds {
        for (index, subject) in subjects.iter().enumerate() {
            let (rate, arrived) = subject.send(frames)?;
            samples[index].push(rate);
            lost[index] += u64::from(frames).saturating_sub(arrived);
        }
    }
    let how = format!("{rounds} rounds of {frames} frames");
    let mut table = Table::new(title, "million frames/s", &how, BASE);
    for (index, subject) in subjects.iter().enumerate() {
        table.add(subject.name, &samples[index]);
        if lost[index] > 0 {
            let sent = rounds as u64 * u64::from(frames);
            let share = lost[index] as f64 / sent as f64 * 100.0;
            table.note(format!("{share:.1} % were lost"));
        }
    }
    report.add(table);
    Ok(())
}

/// Loads the programs with a service that has one backend, on another node.
fn headgate() -> Result<Kernel> {
    let mut state = State {
        config: DatapathConfig {
            snat_v4: std::net::IpAddr::from(NODE).into(),
            snat_port_first: Port::new(10_000),
            snat_port_last: Port::new(29_999),
            seed: 7,
            ..DatapathConfig::default()
        },
        ..State::default()
    };
    let node = std::net::IpAddr::from(NODE).into();
    let key = FrontendKey::new(node, Port::new(NODE_PORT), Protocol::UDP);
    state.add_frontend(key, 1, FrontendFlags::default(), AddressEntry::SHARED);
    let backend = BackendEntry {
        address: std::net::IpAddr::from(*BACKEND.ip()).into(),
        port: Port::new(BACKEND.port()),
        protocol: Protocol::UDP,
        location: Location::OTHER_NODE,
    };
    state.backends.insert(1, backend);
    state.add_service(1, &[1], 0);
    Kernel::with("forwarding", &state, &MapSizes::default())
}

/// A node that gets frames, and the namespace that it forwards them to.
struct Site {
    name: &'static str,
    node: Netns,
    sink: Netns,
    program: OwnedFd,
    frame: Vec<u8>,
    /// The map of the program, and the XDP links at both ends.
    _held: Vec<OwnedFd>,
}

impl Site {
    fn new(name: &'static str, id: &str, frame: &[u8], end: bpf::End<'_>) -> Result<Self> {
        let node = Netns::new(&format!("hgbf-{id}-node"))?;
        let sink = Netns::new(&format!("hgbf-{id}-sink"))?;
        node.batch(&format!(
            "link add eth0 address 02:00:00:00:00:02 type veth peer name eth0 address 02:00:00:00:00:09 netns {}\n\
             link set eth0 up\n\
             address add {NODE}/24 dev eth0\n\
             neighbour add 192.168.50.2 lladdr 02:00:00:00:00:09 dev eth0\n\
             route add 10.244.0.0/16 via 192.168.50.2",
            sink.name()
        ))?;
        sink.batch("link set eth0 up")?;
        node.sysctl(&[
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/eth0/rp_filter", "0"),
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/eth0/send_redirects", "0"),
        ])?;
        let attach = |action| {
            move || -> Result<OwnedFd> {
                let program = bpf::action(action)?;
                Ok(bpf::attach_xdp(program.as_fd(), if_nametoindex("eth0")?)?)
            }
        };
        // A veth device has the queues for XDP frames only while a program is attached.
        let mut held = vec![
            node.run(attach(bpf::XDP_PASS))?,
            sink.run(attach(bpf::XDP_DROP))?,
        ];
        let (program, map) = bpf::writer(&frame[..HEADERS], end).context("loading the writer")?;
        held.extend(map);
        Ok(Self {
            name,
            node,
            sink,
            program,
            frame: frame.to_vec(),
            _held: held,
        })
    }

    /// Sends frames; returns the rate of arrived frames in millions per second, and their number.
    fn send(&self, frames: u32) -> Result<(f64, u64)> {
        let (program, frame) = (self.program.try_clone()?, self.frame.clone());
        let before = self.arrived()?;
        let seconds = self.node.run(move || -> Result<f64> {
            let ifindex = if_nametoindex("eth0")?;
            let start = Instant::now();
            bpf::run_live(program.as_fd(), &frame, ifindex, frames)?;
            Ok(start.elapsed().as_secs_f64())
        });
        let seconds = seconds.with_context(|| format!("{}: live frames", self.name))?;
        let arrived = self.arrived()? - before;
        ensure!(
            arrived >= u64::from(frames / 2),
            "{}: {arrived} of {frames} frames arrived",
            self.name
        );
        Ok((arrived as f64 / seconds / 1e6, arrived))
    }

    fn arrived(&self) -> Result<u64> {
        let mut command = self.sink.command("ethtool", None);
        let output = command.args(["-S", "eth0"]).output().context("ethtool")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let counts = text.lines().filter_map(|line| {
            let (name, count) = line.trim().split_once(": ")?;
            name.ends_with("xdp_drops").then(|| count.parse::<u64>())
        });
        let mut total = 0;
        for count in counts {
            total += count?;
        }
        Ok(total)
    }
}
