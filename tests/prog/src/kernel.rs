//! The walk in the kernel, by `BPF_PROG_TEST_RUN`.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    maps::{Array, HashMap, Map, MapData, MapError, lpm_trie},
    programs::{ProgramInfo, TestRun, TestRunOptions},
};
use headgate_abi::{
    BackendKey, FragmentEntry, FragmentKey, LINKS, LinkEntry, Location, RangeKey, Reason, Traffic,
    names,
};
use headgate_datapath::{Hook, SlicePacket};
use headgate_dataplane::{MapSizes, Maps, Programs, ReadWrite, load, pin_folder};
use headgate_packets::{Outcome, Replica, State};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

/// The loaded programs with maps of their own, pinned in a folder that is removed on drop.
pub struct Kernel {
    programs: Programs,
    /// The maps.
    pub maps: Maps<ReadWrite>,
    links: Array<MapData, LinkEntry>,
    fragments: HashMap<MapData, FragmentKey, FragmentEntry>,
    /// Counts of reasons after the last packet.
    counted: Vec<(Reason, u64)>,
    pins: PathBuf,
}

/// Test runs take place on the loopback device.
const LOOPBACK: u32 = 1;
const BPF_FS: &str = "/sys/fs/bpf";

impl Kernel {
    /// Loads the programs over this state, in a network namespace of this thread alone.
    pub fn new(name: &str, state: &State) -> Result<Self> {
        let sizes = MapSizes {
            frontends: 1024,
            services: 64,
            backends: 64,
            slots: 1024,
            connections: 4096,
            sockets: 64,
            ..MapSizes::default()
        };
        Self::with(name, state, &sizes)
    }

    /// The same with maps of other sizes.
    pub fn with(name: &str, state: &State, sizes: &MapSizes) -> Result<Self> {
        // Nothing is routed here, so the kernel answers as the host walk's `Route::STACK`.
        unshare(CloneFlags::CLONE_NEWNET).context("a network namespace")?;
        let [a, b, c, d, e, f] = SlicePacket::<true>::LINK;
        let address = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        let status = Command::new("ip")
            .args(["link", "set", "lo", "address", &address])
            .status()
            .context("ip")?;
        ensure!(status.success(), "the address of lo");
        if !fs::read_to_string("/proc/mounts")?.contains(&format!(" {BPF_FS} bpf ")) {
            mount(
                Some("bpf"),
                BPF_FS,
                Some("bpf"),
                MsFlags::empty(),
                None::<&str>,
            )
            .context("mounting the BPF file system")?;
        }
        let pins = Path::new(BPF_FS).join(format!("hgtest-{}-{name}", std::process::id()));
        let programs = load(&pins, &state.config, sizes)?;
        let mut maps = Maps::open_writable(&pins)?;
        for (address, entry) in &state.addresses {
            maps.addresses.insert(address, entry, 0)?;
        }
        for (service, address, bits) in &state.ranges {
            let key = RangeKey {
                service: *service,
                address: *address,
            };
            let key = lpm_trie::Key::new(32 + bits, key);
            maps.source_ranges.insert(&key, 0, 0)?;
        }
        for member in &state.members {
            maps.members.insert(member, 0, 0)?;
        }
        for (key, entry) in &state.frontends {
            maps.frontends.insert(key, entry, 0)?;
        }
        for (index, backend) in state.slots.iter().enumerate() {
            assert!(maps.slots.set(index as u32, *backend));
        }
        for (id, entry) in &state.services {
            assert!(maps.services.set(*id, *entry));
        }
        assert!(maps.takeover.set(0, state.takeover));
        for (id, entry) in &state.backends {
            assert!(maps.backends.set(*id, *entry));
            if entry.location == Location::THIS_NODE {
                maps.local_backends.insert(BackendKey::from(entry), id, 0)?;
            }
        }
        let paused = MapData::from_pin(pin_folder(&pins).join(names::PAUSED_BACKENDS))?;
        let mut paused: HashMap<_, BackendKey, u32> = HashMap::try_from(Map::HashMap(paused))?;
        for entry in state.backends.values() {
            paused.insert(BackendKey::from(entry), 0, 0)?;
        }
        for (index, range) in state.service_ranges.iter().enumerate() {
            assert!(maps.service_ranges.set(index as u32, *range));
        }
        for (index, entry) in &state.sources {
            maps.sources.insert(index, entry, 0)?;
        }
        let links = MapData::from_pin(pin_folder(&pins).join(names::LINKS))?;
        let fragments = MapData::from_pin(pin_folder(&pins).join(names::FRAGMENTS))?;
        let mut kernel = Self {
            programs,
            links: Array::try_from(Map::Array(links))?,
            fragments: HashMap::try_from(Map::LruHashMap(fragments))?,
            counted: maps.reasons()?,
            maps,
            pins,
        };
        kernel.know_link(LOOPBACK)?;
        Ok(kernel)
    }

    /// Makes XDP take frames of a [`Builder`](headgate_packets::Builder) for frames to this device.
    ///
    /// # Errors
    ///
    /// If the map cannot be written.
    pub fn know_link(&mut self, ifindex: u32) -> Result<()> {
        let link = LinkEntry {
            ifindex,
            // It stays new.
            seen_s: u32::MAX / 4,
            address: SlicePacket::<true>::LINK,
            zero: [0; 2],
        };
        Ok(self.links.set(ifindex % LINKS, link, 0)?)
    }

    /// Clears connections, fragments and affinities.
    pub fn forget(&mut self) -> Result<()> {
        fn clear<K: aya::Pod, V: aya::Pod>(map: &mut HashMap<MapData, K, V>) -> Result<()> {
            for key in map.keys().collect::<Result<Vec<K>, MapError>>()? {
                map.remove(&key)?;
            }
            Ok(())
        }
        clear(&mut self.maps.connections)?;
        clear(&mut self.maps.affinities)?;
        clear(&mut self.fragments)
    }

    /// Runs one frame through the XDP program.
    fn xdp(&mut self, frame: &[u8]) -> Result<Outcome> {
        let mut out = vec![0; frame.len() + 1024];
        let program = self.programs.xdp(names::XDP_EXTERNAL)?;
        let result = program.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        })?;
        out.truncate(result.data_size_out as usize);
        let action = match result.return_value {
            1 => "drop",
            2 => "pass",
            3 => "answer",
            4 => "redirect",
            other => bail!("XDP returned {other}"),
        };
        self.outcome(action, out)
    }

    /// Runs one frame through the TC program of a hook.
    fn tc(&mut self, hook: Hook, frame: &[u8]) -> Result<Outcome> {
        let mut out = vec![0; frame.len() + 1024];
        let program = self.programs.tc(match hook {
            Hook::External => names::TC_EXTERNAL,
            Hook::Pod => names::TC_POD,
            Hook::Egress => names::TC_EGRESS,
        })?;
        let result = program.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        })?;
        out.truncate(result.data_size_out as usize);
        let action = match result.return_value as i32 {
            -1 => "pass",
            2 => "drop",
            7 => "answer",
            other => bail!("TC returned {other}"),
        };
        self.outcome(action, out)
    }

    fn outcome(&mut self, action: &'static str, frame: Vec<u8>) -> Result<Outcome> {
        let before = std::mem::replace(&mut self.counted, self.maps.reasons()?);
        let mut counted = self.counted.iter().zip(&before);
        let Some(((reason, _), _)) = counted.find(|(after, before)| after != before) else {
            bail!("no reason was counted");
        };
        Ok(Outcome {
            action,
            reason: *reason,
            frame,
        })
    }

    /// Loads a program and returns its descriptor and what the kernel reports about it.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the program.
    pub fn program(&mut self, name: &str) -> Result<(OwnedFd, ProgramInfo)> {
        let programs = &mut self.programs;
        let (fd, info) = if name.starts_with("hg_tc") {
            let program = programs.tc(name)?;
            (program.fd()?, program.info()?)
        } else if name.starts_with("hg_xdp") || name.starts_with("hg_baseline") {
            let program = programs.xdp(name)?;
            (program.fd()?, program.info()?)
        } else if name == names::SK_LOOKUP {
            let program = programs.lookup(name)?;
            (program.fd()?, program.info()?)
        } else if name == names::SOCK_RELEASE {
            let program = programs.release_hook()?;
            (program.fd()?, program.info()?)
        } else {
            let program = programs.socket_hook(name)?;
            (program.fd()?, program.info()?)
        };
        Ok((fd.as_fd().try_clone_to_owned()?, info))
    }

    /// Loads a program and returns the number of instructions that the verifier walked; `None`
    /// before Linux 5.16.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the program.
    pub fn verified_instructions(&mut self, name: &str) -> Result<Option<u32>> {
        let (_, info) = self.program(name)?;
        Ok(info.verified_instruction_count())
    }
}

impl Replica for Kernel {
    fn run_xdp(&mut self, frame: &[u8]) -> Outcome {
        self.xdp(frame).unwrap_or_else(|error| panic!("{error:?}"))
    }

    fn run_tc(&mut self, hook: Hook, frame: &[u8]) -> Outcome {
        self.tc(hook, frame)
            .unwrap_or_else(|error| panic!("{error:?}"))
    }

    fn connections(&self) -> usize {
        self.maps.connections.keys().count()
    }

    fn traffic(&self, service: u32) -> Traffic {
        let traffic = self.maps.service_traffic(service);
        traffic.unwrap_or_else(|error| panic!("{error:?}"))
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.pins) {
            eprintln!("left behind {}: {error}", self.pins.display());
        }
    }
}
