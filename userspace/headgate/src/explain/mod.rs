//! What happens to a packet, and why.
//!
//! The walk runs in this process, over the live maps, and describes each step. Then the programs that
//! are attached in the kernel run with the same packet (`BPF_PROG_TEST_RUN`) over the same maps, with
//! tables of their own where they write. Their verdict counts.

pub(crate) mod capture;
mod live;
mod packet;

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, Result, bail};
use headgate_abi::{Addr, BackendEntry, DatapathConfig, Fate, Port, Reason, names};
use headgate_datapath::{
    Hook, SlicePacket,
    socket::{Decision, Destination, translate},
    walk,
};
use headgate_dataplane::{Probe, Trial, attached, loaded_config};
use nix::{ifaddrs::getifaddrs, net::if_::if_nametoindex};
use serde::Serialize;
use thiserror::Error;

use self::live::LiveTables;
use crate::view::{View, endpoint, fate, flow::Protocol};

/// A packet to explain: the first of a connection.
#[derive(Clone, Debug)]
pub(crate) struct PacketQuery {
    pub(crate) source: SocketAddr,
    pub(crate) protocol: Protocol,
    pub(crate) destination: SocketAddr,
    /// Device that receives the packet; default: the external device, if there is only one.
    pub(crate) device: Option<String>,
}

/// A query that cannot be answered as it is.
#[derive(Debug, Error)]
#[error("{why}")]
pub(crate) struct QueryError {
    /// The wrong parameter: `dev` or `destination`.
    pub(crate) about: &'static str,
    why: String,
}

/// What happens to a packet.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Explanation {
    /// The packet as received, or the call of a process.
    pub(crate) packet: String,
    pub(crate) device: Option<String>,
    /// The program that decided.
    pub(crate) program: Option<String>,
    pub(crate) steps: Vec<String>,
    /// `pass`, `forward`, `reject` or `drop`.
    pub(crate) fate: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) meaning: &'static str,
    /// What happens to the packet, in words.
    pub(crate) verdict: &'static str,
    /// The packet afterwards, if the program changed it.
    pub(crate) result: Option<String>,
}

/// Explains packets on one node in their order: a connection that one packet opens is open for the
/// next.
pub(crate) struct Explainer<'a> {
    tables: LiveTables<'a>,
    probe: Probe,
    device: String,
    ifindex: u32,
    /// Link address of the device.
    link: [u8; 6],
    programs: Vec<&'static str>,
}

fn no_device(why: String) -> QueryError {
    QueryError { about: "dev", why }
}

/// Programs for packets that a device receives, in their order.
fn programs_on(pins: &Path, device: &str) -> Result<Vec<&'static str>> {
    let links = attached(pins)?;
    let order = [
        names::XDP_EXTERNAL,
        names::TC_EXTERNAL,
        names::TC_L3,
        names::TC_POD,
    ];
    let is_there = |program: &&str| {
        let mut links = links.iter();
        links.any(|link| link.place == device && link.program == **program)
    };
    let programs: Vec<&str> = order.into_iter().filter(is_there).collect();
    if programs.is_empty() {
        let mut devices: Vec<&str> = links
            .iter()
            .filter(|link| link.index != 0)
            .map(|link| link.place.as_str())
            .collect();
        devices.sort_unstable();
        devices.dedup();
        bail!(no_device(format!(
            "no program is attached to device {device}; there are {}",
            devices.join(", ")
        )));
    }
    Ok(programs)
}

/// The external device, if there is only one.
fn default_device(pins: &Path) -> Result<String> {
    let links = attached(pins)?;
    let mut external = links.iter().filter_map(|link| {
        let is_external = [names::TC_EXTERNAL, names::TC_L3].contains(&link.program.as_str());
        is_external.then_some(link.place.as_str())
    });
    match (external.next(), external.next()) {
        (Some(device), None) => Ok(device.into()),
        (None, _) => bail!(no_device(
            "no program is attached to an external device: name one with --dev".into()
        )),
        (Some(_), Some(_)) => bail!(no_device(
            "there are several external devices: name one with --dev".into()
        )),
    }
}

impl<'a> Explainer<'a> {
    pub(crate) fn new(pins: &Path, view: &'a View, device: Option<&str>) -> Result<Self> {
        let device = match device {
            Some(device) => device.into(),
            None => default_device(pins)?,
        };
        let programs = programs_on(pins, &device)?;
        let ifindex = if_nametoindex(device.as_str());
        Ok(Self {
            tables: LiveTables::new(view, loaded_config(pins)?),
            probe: Probe::load(pins)?,
            link: link_address(&device)?,
            ifindex: ifindex.with_context(|| format!("there is no device {device} here"))?,
            device,
            programs,
        })
    }

    /// Explains one Ethernet frame.
    pub(crate) fn frame(&mut self, frame: &[u8]) -> Result<Explanation> {
        let (steps, expected) = self.walk(frame);
        {
            let used = self.tables.used.take();
            for (flow, entry) in &used.connections {
                self.probe.know_connection(flow, entry)?;
            }
            for (key, entry) in &used.affinities {
                self.probe.know_affinity(key, entry)?;
            }
        }
        let mut frame = frame.to_vec();
        to_link(&mut frame, self.link);
        let frame = &frame[..];
        self.probe.know_link(self.ifindex, self.link)?;
        let (program, trial) = self.run(frame)?;
        let mut steps = steps;
        let verdict = verdict(program, &trial);
        // Only the kernel knows its routes; all other reasons must be the same.
        let is_routing = matches!(
            trial.reason,
            Reason::NoRoute | Reason::NoNeighbour | Reason::TooBig | Reason::HopLimit
        );
        if trial.reason != expected && !is_routing {
            steps.push(format!(
                "but the program decided otherwise ({} instead of {}): the maps changed meanwhile, \
                 or the programs are of another version",
                trial.reason.name(),
                expected.name()
            ));
        }
        let changed = trial.frame != frame;
        Ok(Explanation {
            packet: packet::describe(frame),
            device: Some(self.device.clone()),
            program: Some(program.into()),
            steps,
            fate: fate(trial.reason),
            reason: trial.reason.name(),
            meaning: trial.reason.sentence().trim(),
            verdict,
            result: changed.then(|| packet::describe(&trial.frame)),
        })
    }

    fn hook(&self) -> Hook {
        match self.programs.contains(&names::TC_POD) {
            true => Hook::Pod,
            false => Hook::External,
        }
    }

    fn walk(&mut self, frame: &[u8]) -> (Vec<String>, Reason) {
        let mut bytes = frame.to_vec();
        bytes.resize(frame.len() + 256, 0);
        to_link(&mut bytes, SlicePacket::<true>::LINK);
        let mut packet = SlicePacket::new(&mut bytes, frame.len());
        let hook = self.hook();
        let mut memory = headgate_datapath::Memory::default();
        let reason = walk(hook, &mut packet, &mut self.tables, &mut memory).reason;
        (self.tables.take_steps(), reason)
    }

    /// Runs the programs of the device until one decides about the packet.
    fn run(&mut self, frame: &[u8]) -> Result<(&'static str, Trial)> {
        let mut last = None;
        for program in &self.programs {
            // Frames of trials have link headers; the rules are the same.
            let tried = match *program {
                names::TC_L3 => names::TC_EXTERNAL,
                other => other,
            };
            let trial = self.probe.run(tried, self.ifindex, frame)?;
            let is_passed_on = matches!(
                trial.reason,
                Reason::PartialChecksum | Reason::ForTc | Reason::NoNeighbour | Reason::NoTailroom
            );
            last = Some((*program, trial));
            if !is_passed_on {
                break;
            }
        }
        last.context("no program")
    }
}

/// Link address of a device; zeros if it has none.
fn link_address(device: &str) -> Result<[u8; 6]> {
    let mut interfaces = getifaddrs().context("cannot list network devices")?;
    let address = interfaces.find_map(|interface| {
        let address = interface
            .address
            .filter(|_| interface.interface_name == device)?;
        address.as_link_addr()?.addr()
    });
    Ok(address.unwrap_or_default())
}

/// Addresses a frame to a device.
fn to_link(frame: &mut [u8], address: [u8; 6]) {
    if let Some(destination) = frame.first_chunk_mut() {
        *destination = address;
    }
}

/// What the return value of a program does to the packet.
fn verdict(program: &str, trial: &Trial) -> &'static str {
    const XDP_DROP: i32 = 1;
    const XDP_PASS: i32 = 2;
    const TC_ACT_UNSPEC: i32 = -1;
    const TC_ACT_SHOT: i32 = 2;
    let (passed, dropped) = match program {
        names::XDP_EXTERNAL => (XDP_PASS, XDP_DROP),
        _ => (TC_ACT_UNSPEC, TC_ACT_SHOT),
    };
    match (trial.action, trial.reason.fate()) {
        (action, _) if action == dropped => "the packet is dropped",
        (action, Fate::Forward) if action == passed => {
            "the packet is translated, then routed by the kernel"
        }
        (action, _) if action == passed => "the packet passes unchanged to the kernel",
        (_, Fate::Reject) => "the packet is rejected with the reply below",
        _ => "the packet is translated and sent directly, without the kernel's routing",
    }
}

/// Explains the first packet of a connection.
pub(crate) fn run(pins: &Path, query: &PacketQuery) -> Result<Explanation> {
    let view = View::open(pins)?;
    let frame = packet::first(query.source, query.protocol, query.destination)?;
    Explainer::new(pins, &view, query.device.as_deref())?.frame(&frame)
}

/// Explains a `connect` or `sendmsg` of a process of this node. The kernel cannot test-run socket
/// hooks, so only the walk in this process decides here.
pub(crate) fn connect(pins: &Path, protocol: Protocol, to: SocketAddr) -> Result<Explanation> {
    let view = View::open(pins)?;
    let config: DatapathConfig = loaded_config(pins)?;
    let mut tables = LiveTables::new(&view, config);
    let wanted = Destination {
        address: Addr::from(to.ip()),
        port: Port::new(to.port()),
        protocol: protocol.into(),
        netns: config.host_netns_cookie,
        is_node: true,
        last: (0, BackendEntry::default()),
    };
    let decision = translate(&mut tables, &wanted, 0);
    let (reason, verdict, result) = match decision {
        Decision::Leave => (
            Reason::NotOurs,
            "the socket is not changed; its packets are handled on the devices",
            None,
        ),
        Decision::Refuse(reason) => (reason, "the call fails", None),
        Decision::Backend { entry, .. } => (
            Reason::SocketTranslated,
            "the socket connects to a backend, for example",
            Some(endpoint(entry.address, entry.port)),
        ),
    };
    Ok(Explanation {
        packet: format!("a process of this node to {to}"),
        device: None,
        program: None,
        steps: tables.take_steps(),
        fate: fate(reason),
        reason: reason.name(),
        meaning: reason.sentence().trim(),
        verdict,
        result,
    })
}
