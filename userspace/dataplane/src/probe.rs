//! Runs programs on packets of a trial. They read the live maps and write maps of their own, so the trial
//! changes nothing on this node.

use std::{collections::HashSet, hash::Hash, path::Path};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, MapData, PerCpuArray},
    programs::{TestRun, TestRunOptions},
};
use headgate_abi::{
    AffinityEntry, AffinityKey, CtEntry, DatapathConfig, FlowKey, LINKS, LinkEntry, Reason, names,
};

use crate::{
    error::Error,
    kernel,
    load::Programs,
    object,
    pin::{pin_folder, typed},
    sys::{self, now_s},
};

/// Maps that programs only read.
const LIVE: [&str; 12] = [
    names::ADDRESSES,
    names::FRONTENDS,
    names::SERVICES,
    names::SLOTS,
    names::BACKENDS,
    names::LOCAL_BACKENDS,
    names::PAUSED_BACKENDS,
    names::SOURCE_RANGES,
    names::AFFINITY_MEMBERS,
    names::SERVICE_RANGES,
    names::SOURCES,
    names::XDP_DEVICES,
];
/// Capacity for the entries that the packets of one trial make or find.
const ENTRIES: u32 = 1 << 14;

/// The result of one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// The program's return value: `enum xdp_action`, or a `TC_ACT_` number.
    pub action: i32,
    /// The reason that the program counted.
    pub reason: Reason,
    /// The frame after the program.
    pub frame: Vec<u8>,
}

/// Programs of this binary, over the live maps.
#[allow(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Probe {
    programs: Programs,
    reasons: PerCpuArray<MapData, u64>,
    connections: HashMap<MapData, FlowKey, CtEntry>,
    affinities: HashMap<MapData, AffinityKey, AffinityEntry>,
    links: Array<MapData, LinkEntry>,
    known: HashSet<FlowKey>,
}

/// Returns the configuration that the running programs were loaded with.
///
/// # Errors
///
/// If there is no such map, or it cannot be read.
pub fn loaded_config(pins: &Path) -> Result<DatapathConfig, Error> {
    let map: Array<MapData, DatapathConfig> = typed(&pin_folder(pins), names::LOADED)?;
    let config = map.get(&0, 0);
    config.map_err(|source| Error::map(names::LOADED, source))
}

fn take<M: TryFrom<aya::maps::Map, Error = aya::maps::MapError>>(
    ebpf: &mut Ebpf,
    name: &str,
) -> Result<M, Error> {
    let missing = || aya::maps::MapError::InvalidName { name: name.into() };
    let map = ebpf.take_map(name).ok_or_else(missing);
    map.and_then(M::try_from)
        .map_err(|source| Error::map(name, source))
}

fn put<K: Pod + Eq + Hash, V: Pod>(
    map: &mut HashMap<MapData, K, V>,
    name: &str,
    key: &K,
    value: &V,
) -> Result<(), Error> {
    let result = map.insert(key, value, 0);
    result.map_err(|source| Error::map(name, source))
}

impl Probe {
    /// Loads the programs over the maps pinned below `pins`.
    ///
    /// # Errors
    ///
    /// If there are no such maps, or the kernel refuses a map.
    pub fn load(pins: &Path) -> Result<Self, Error> {
        let config = loaded_config(pins)?;
        let folder = pin_folder(pins);
        sys::lift_memory_limit();
        let helpers = kernel::helpers();
        let mut loader = EbpfLoader::new();
        loader
            .override_global(names::CONFIG, &config, true)
            .override_global(names::HELPERS, &helpers, true);
        for name in LIVE {
            loader.map_pin_path(name, folder.join(name));
        }
        for name in [names::CONNTRACK, names::AFFINITY] {
            loader.map_max_entries(name, ENTRIES);
        }
        let few = [
            names::SERVICE_LABELS,
            names::SERVICE_TRAFFIC,
            names::BACKEND_TRAFFIC,
            names::SOCKETS,
        ];
        for name in few {
            loader.map_max_entries(name, 1);
        }
        let mut ebpf = loader
            .load(&object::read(&helpers)?)
            .map_err(|source| Error::Load(Box::new(source)))?;
        Ok(Self {
            reasons: take(&mut ebpf, names::REASONS)?,
            connections: take(&mut ebpf, names::CONNTRACK)?,
            affinities: take(&mut ebpf, names::AFFINITY)?,
            links: take(&mut ebpf, names::LINKS)?,
            programs: Programs::new(ebpf),
            known: HashSet::new(),
        })
    }

    /// Copies an entry of the live table for the programs, unless they know the flow.
    ///
    /// # Errors
    ///
    /// If the map is full.
    pub fn know_connection(&mut self, flow: &FlowKey, entry: &CtEntry) -> Result<(), Error> {
        if self.known.insert(*flow) {
            put(&mut self.connections, names::CONNTRACK, flow, entry)?;
        }
        Ok(())
    }

    /// Copies the last backend of a client for the programs.
    ///
    /// # Errors
    ///
    /// If the map is full.
    pub fn know_affinity(&mut self, key: &AffinityKey, entry: &AffinityEntry) -> Result<(), Error> {
        put(&mut self.affinities, names::AFFINITY, key, entry)
    }

    /// Makes XDP take frames to this link address for frames to the device.
    ///
    /// # Errors
    ///
    /// If the map cannot be written.
    pub fn know_link(&mut self, ifindex: u32, address: [u8; 6]) -> Result<(), Error> {
        // Before Linux 5.15 the device of an XDP program is the loopback.
        for ifindex in [1, ifindex] {
            let entry = LinkEntry {
                ifindex,
                // It stays new for as long as a trial takes, and longer.
                seen_s: now_s().wrapping_add(u32::MAX / 4),
                address,
                zero: [0; 2],
            };
            let result = self.links.set(ifindex % LINKS, entry, 0);
            result.map_err(|source| Error::map(names::LINKS, source))?;
        }
        Ok(())
    }

    fn counts(&self) -> Result<Vec<u64>, Error> {
        let counts = Reason::ALL.iter().map(|reason| {
            let parts = self.reasons.get(&(*reason as u32), 0);
            let parts = parts.map_err(|source| Error::map(names::REASONS, source))?;
            Ok(parts.iter().sum())
        });
        counts.collect()
    }

    /// Runs a program on one Ethernet frame, as if it had come in on a device.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the program or the frame.
    pub fn run(&mut self, program: &str, ifindex: u32, frame: &[u8]) -> Result<Trial, Error> {
        let before = self.counts()?;
        let mut out = vec![0; frame.len() + 256];
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let mut context = vec![0u32; 6];
        if program == names::XDP_EXTERNAL {
            context[1] = frame.len() as u32;
            context[3] = ifindex;
        } else {
            // `struct __sk_buff`: the eleventh field is `ifindex`.
            context.resize(11, 0);
            context[10] = ifindex;
        }
        let context: Vec<u8> = context.into_iter().flat_map(u32::to_ne_bytes).collect();
        let mut run = |context: Option<&[u8]>| {
            let options = TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut out),
                ctx_in: context,
                ..TestRunOptions::new()
            };
            let result = match program {
                names::XDP_EXTERNAL => self.programs.xdp(program)?.test_run(options),
                _ => self.programs.tc(program)?.test_run(options),
            };
            result.map_err(|source| Error::program(program, source))
        };
        let result = match run(Some(&context)) {
            // Before Linux 5.15 the device of an XDP program cannot be chosen.
            Err(_) if program == names::XDP_EXTERNAL => run(None)?,
            result => result?,
        };
        out.truncate(result.data_size_out as usize);
        let after = self.counts()?;
        let mut counted = Reason::ALL.iter().zip(before.iter().zip(&after));
        let reason = counted.find(|(_, (before, after))| before != after);
        Ok(Trial {
            action: result.return_value as i32,
            reason: reason.map_or(Reason::Malformed, |(reason, _)| *reason),
            frame: out,
        })
    }
}
