//! Kernel, mounts, capabilities.

use std::{fs, path::Path};

use headgate_abi::{DatapathConfig, names};
use headgate_dataplane::{Error, Feature, MapSizes, OLDEST_KERNEL, cgroup_root, load, pin_folder};
use nix::sys::{
    statfs::{BPF_FS_MAGIC, statfs},
    utsname::uname,
};

use super::Finding;

const BTF: &str = "/sys/kernel/btf/vmlinux";
const JIT: &str = "/proc/sys/net/core/bpf_jit_enable";

pub(super) fn kernel() -> Vec<Finding> {
    const ABOUT: &str = "kernel";
    let release = uname().map(|name| name.release().to_string_lossy().into_owned());
    let release = release.unwrap_or_default();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let mut findings = vec![match version >= OLDEST_KERNEL {
        true => Finding::ok(ABOUT, format!("Linux {release}")),
        false => Finding::error(
            ABOUT,
            format!("Linux {release} is too old"),
            format!("use Linux {}.{} or newer", OLDEST_KERNEL.0, OLDEST_KERNEL.1),
        ),
    }];
    for feature in Feature::ALL {
        match feature.is_there() {
            Ok(true) => {}
            Ok(false) => findings.push(Finding::warning(
                ABOUT,
                format!("no {}: {}", feature.name(), feature.cost()),
                "use a newer kernel if you need it",
            )),
            Err(error) => findings.push(Finding::warning(
                ABOUT,
                format!("cannot check for {}: {error}", feature.name()),
                "see `capabilities` below",
            )),
        }
    }
    if !Path::new(BTF).exists() {
        findings.push(Finding::error(
            ABOUT,
            format!("{BTF} is missing"),
            "use a kernel with CONFIG_DEBUG_INFO_BTF",
        ));
    }
    if fs::read_to_string(JIT).is_ok_and(|text| text.trim() == "0") {
        findings.push(Finding::warning(
            ABOUT,
            "BPF programs are interpreted, which is slow",
            "sysctl -w net.core.bpf_jit_enable=1",
        ));
    }
    findings
}

pub(super) fn mounts(pins: &Path) -> Vec<Finding> {
    const ABOUT: &str = "mounts";
    let mut existing = pins;
    while !existing.exists() {
        match existing.parent() {
            Some(parent) => existing = parent,
            None => break,
        }
    }
    let is_bpf = statfs(existing).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC);
    let shown = pins.display();
    let pinned = match is_bpf {
        true => Finding::ok(ABOUT, format!("{shown} is in the BPF file system")),
        false => Finding::error(
            ABOUT,
            format!("{shown} is not in the BPF file system"),
            "mount -t bpf bpf /sys/fs/bpf, and in a container mount the host's",
        ),
    };
    let cgroup = match cgroup_root() {
        Ok(Some(path)) => Finding::ok(ABOUT, format!("cgroup2 is at {}", path.display())),
        Ok(None) | Err(_) => Finding::error(
            ABOUT,
            "cgroup2 is not mounted: sockets are not balanced",
            "mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        ),
    };
    vec![pinned, cgroup]
}

/// Capabilities that the agent needs, by their numbers in `capabilities(7)`.
const CAPABILITIES: [(u32, &str); 5] = [
    (12, "NET_ADMIN"),
    (19, "SYS_PTRACE"),
    (21, "SYS_ADMIN"),
    (38, "PERFMON"),
    (39, "BPF"),
];

pub(super) fn capabilities() -> Vec<Finding> {
    const ABOUT: &str = "capabilities";
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut lines = status.lines();
    let effective = lines.find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    let effective = effective.unwrap_or(0);
    let missing: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|(bit, _)| effective & (1 << bit) == 0)
        .map(|(_, name)| *name)
        .collect();
    vec![match missing.is_empty() {
        true => Finding::ok(ABOUT, "this process has all that the agent needs"),
        false => Finding::error(
            ABOUT,
            format!("this process lacks {}", missing.join(", ")),
            "run it as root, or in the agent's container",
        ),
    }]
}

/// Loads every program, with small maps of its own, and removes them.
pub(super) fn programs_load(pins: &Path) -> Vec<Finding> {
    const ABOUT: &str = "programs";
    let folder = pins.join(format!("doctor-{}", std::process::id()));
    let result = load_all(&folder);
    // The folder exists only if the load got this far.
    let _absent = fs::remove_dir_all(pin_folder(&folder));
    let _absent = fs::remove_dir(&folder);
    // Only an empty folder can be removed, so pins of an agent stay.
    let _in_use = fs::remove_dir(pins);
    vec![match result {
        Ok(count) => Finding::ok(ABOUT, format!("the kernel loads all {count}")),
        Err(error) => Finding::error(
            ABOUT,
            format!("the kernel does not load them: {error}"),
            "see `kernel` and `capabilities` above",
        ),
    }]
}

fn load_all(folder: &Path) -> Result<usize, Error> {
    const FEW: u32 = 16;
    let sizes = MapSizes {
        frontends: FEW,
        services: FEW,
        backends: FEW,
        slots: FEW,
        source_ranges: FEW,
        members: FEW,
        affinities: FEW,
        connections: FEW,
        sockets: FEW,
    };
    let mut programs = load(folder, &DatapathConfig::default(), &sizes)?;
    programs.xdp(names::XDP_EXTERNAL)?;
    for name in names::TC {
        programs.tc(name)?;
    }
    programs.release_hook()?;
    for name in names::SOCKET_HOOKS {
        programs.socket_hook(name)?;
    }
    let has_lookup = Feature::SocketLookup.is_there().unwrap_or(false);
    if has_lookup {
        programs.lookup(names::SK_LOOKUP)?;
    }
    Ok(2 + names::TC.len() + names::SOCKET_HOOKS.len() + usize::from(has_lookup))
}
