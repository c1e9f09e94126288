//! Devices, and kernel settings for their packets.

use std::{fs, net::IpAddr, path::Path};

use headgate_abi::names;
use headgate_dataplane::{
    Attachment, Device, Role, attached, foreign_programs, is_attached, loaded_config,
};

use super::Finding;
use crate::agent::node::{self, Facts, Selection};

fn facts(selection: &Selection) -> Facts {
    node::read(selection).unwrap_or_default()
}

fn setting(key: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new("/proc/sys/net").join(key)).ok()?;
    Some(text.trim().to_owned())
}

const ABOUT: &str = "devices";

pub(super) fn devices(pins: &Path, selection: &Selection) -> Vec<Finding> {
    let facts = facts(selection);
    let links = attached(pins).unwrap_or_default();
    // Without an agent, what it would do by default.
    let config = loaded_config(pins).unwrap_or_default();
    let devices = facts.devices_by(&config);
    let mut findings = Vec::new();
    if facts.external().next().is_none() {
        findings.push(Finding::error(
            ABOUT,
            "no external device is known",
            "name them with --devices, for the agent as well",
        ));
    }
    for device in &devices {
        let name = &device.name;
        if !is_attached(&links, device) {
            findings.push(Finding::error(
                ABOUT,
                format!("programs are missing on {name}"),
                "start the agent with the same --devices and --pod-devices; a running agent attaches \
                 them again once a minute",
            ));
        } else if device.is_external() {
            findings.push(external(device, &links));
        }
    }
    for name in &facts.doubtful {
        let leads = format!("{name} leads to another network namespace, which may be a pod");
        findings.push(match config.has_dsr() {
            true => Finding::warning(
                ABOUT,
                format!("{leads}: with direct server return it is served as one"),
                "name it with --devices or --pod-devices: an agent that starts refuses to guess",
            ),
            false => Finding::ok(
                ABOUT,
                format!("{leads}: it is served as an external device"),
            ),
        });
    }
    let pods = devices.iter().filter(|device| !device.is_external());
    findings.push(Finding::ok(ABOUT, format!("{} pod devices", pods.count())));
    findings
}

/// How an external device is served, and why.
fn external(device: &Device, links: &[Attachment]) -> Finding {
    let name = &device.name;
    let is_native = links
        .iter()
        .any(|link| link.index == device.index && link.program == names::XDP_EXTERNAL);
    match (is_native, device.role) {
        (true, _) => Finding::ok(ABOUT, format!("{name} has XDP in its driver, and TC")),
        (false, Role::ExternalL3) => Finding::ok(
            ABOUT,
            format!("{name} has TC: its frames have no link header, so it has no XDP"),
        ),
        (false, _) if !device.wants_xdp => Finding::ok(
            ABOUT,
            format!(
                "{name} has TC, which costs less than XDP on a veth device, or --xdp wants it so"
            ),
        ),
        (false, _) => Finding::warning(
            ABOUT,
            format!("{name} has TC only, which is slower for packets from outside"),
            "its driver lacks XDP, or another XDP program is attached: see `ip link show`",
        ),
    }
}

pub(super) fn forwarding(selection: &Selection) -> Vec<Finding> {
    const ABOUT: &str = "forwarding";
    let addresses = facts(selection).addresses;
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) =
        addresses.iter().partition(|address| address.is_ipv4());
    let families = [
        (v4, "IPv4", "ipv4/ip_forward"),
        (v6, "IPv6", "ipv6/conf/all/forwarding"),
    ];
    let mut findings = Vec::new();
    for (addresses, family, key) in families {
        if addresses.is_empty() {
            findings.push(Finding::warning(
                ABOUT,
                format!(
                    "the node has no {family} address: backends on other nodes are not reachable over it"
                ),
                "ignore this if the cluster does not use it",
            ));
            continue;
        }
        findings.push(match setting(key).as_deref() {
            Some("0") => Finding::error(
                ABOUT,
                format!("{family} forwarding is off: packets do not reach pods"),
                format!("sysctl -w net.{}=1", key.replace('/', ".")),
            ),
            _ => Finding::ok(ABOUT, format!("{family} forwarding is on")),
        });
    }
    findings
}

/// Packets of remote pods, and replies, may arrive on another device than the route back uses.
pub(super) fn reverse_path(selection: &Selection) -> Vec<Finding> {
    const ABOUT: &str = "rp_filter";
    const STRICT: u32 = 1;
    let value = |device: &str| {
        let text = setting(&format!("ipv4/conf/{device}/rp_filter"))?;
        text.parse::<u32>().ok()
    };
    let all = value("all").unwrap_or(0);
    let facts = facts(selection);
    let strict: Vec<&str> = facts
        .devices
        .iter()
        .map(|device| device.name.as_str())
        .filter(|device| value(device).unwrap_or(0).max(all) == STRICT)
        .collect();
    vec![match strict.is_empty() {
        true => Finding::ok(ABOUT, "not strict on our devices"),
        false => Finding::warning(
            ABOUT,
            format!(
                "strict on {}: packets that arrive on another device than the route back uses are dropped",
                strict.join(", ")
            ),
            "sysctl -w net.ipv4.conf.all.rp_filter=2",
        ),
    }]
}

/// Limits of the kernel's connection tracking that kube-proxy sets, and no program once it is gone. Host ports and
/// masquerading of network plugins depend on them.
pub(super) fn connection_tracking() -> Vec<Finding> {
    const ABOUT: &str = "connection tracking";
    const PER_CORE: usize = 32_768;
    const MIN: usize = 131_072;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let wanted = [
        ("nf_conntrack_max", (PER_CORE * cores).max(MIN)),
        ("nf_conntrack_tcp_timeout_established", 24 * 3600),
        ("nf_conntrack_tcp_timeout_close_wait", 3600),
    ];
    let mut findings = Vec::new();
    for (name, least) in wanted {
        // Without connection tracking the file is missing.
        let value = setting(&format!("netfilter/{name}"));
        let value = value.and_then(|text| text.parse::<usize>().ok());
        if let Some(value) = value.filter(|value| *value < least) {
            findings.push(Finding::warning(
                ABOUT,
                format!("{name} is {value}, below the {least} that kube-proxy sets"),
                format!("sysctl -w net.netfilter.{name}={least}, also at boot"),
            ));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            ABOUT,
            "the kernel's limits are not below kube-proxy's",
        ));
    }
    findings
}

/// SNAT ports, ports of sockets and NodePorts must not overlap.
pub(super) fn ports(pins: &Path) -> Vec<Finding> {
    const ABOUT: &str = "ports";
    let Ok(config) = loaded_config(pins) else {
        return Vec::new();
    };
    let ours = (
        config.snat_port_first.number(),
        config.snat_port_last.number(),
    );
    let local = setting("ipv4/ip_local_port_range").and_then(|text| {
        let mut numbers = text.split_whitespace().filter_map(|part| part.parse().ok());
        Some((numbers.next()?, numbers.next()?))
    });
    let node_ports = Some((30000, 32767));
    let mut findings = Vec::new();
    for (range, owner) in [(local, "ip_local_port_range"), (node_ports, "NodePorts")] {
        let Some((first, last)) = range else { continue };
        if ours.0 <= last && first <= ours.1 {
            findings.push(Finding::warning(
                ABOUT,
                format!(
                    "SNAT ports {}-{} overlap with {owner} {first}-{last}: connections may collide",
                    ours.0, ours.1
                ),
                "choose other ports with --snat-ports",
            ));
        }
    }
    if let (Some((first, last)), Some((lowest, highest))) = (local, node_ports)
        && first <= highest
        && lowest <= last
        && !is_reserved(lowest, highest)
    {
        findings.push(Finding::warning(
            ABOUT,
            format!(
                "ip_local_port_range {first}-{last} overlaps with NodePorts {lowest}-{highest}: a socket of \
                 this node may get the port of a Service, and its clients then reach the Service"
            ),
            "reserve them: sysctl -w net.ipv4.ip_local_reserved_ports=30000-32767",
        ));
    }
    if findings.is_empty() {
        let what = format!("SNAT ports {}-{} overlap with no others", ours.0, ours.1);
        findings.push(Finding::ok(ABOUT, what));
    }
    findings
}

/// Whether the kernel gives none of these ports to a socket that asks for any.
fn is_reserved(first: u16, last: u16) -> bool {
    let reserved = setting("ipv4/ip_local_reserved_ports").unwrap_or_default();
    reserved.trim().split(',').any(|range| {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        from.parse().is_ok_and(|from: u16| from <= first)
            && to.parse().is_ok_and(|to: u16| last <= to)
    })
}

/// BPF programs of others that may handle packets or sockets before ours, or after.
pub(super) fn others(selection: &Selection) -> Vec<Finding> {
    const ABOUT: &str = "other programs";
    const CURE: &str = "if it load-balances Services as well, uninstall one of the two";
    let facts = facts(selection);
    let programs = foreign_programs(facts.devices.iter().map(|device| device.name.as_str()));
    if programs.is_empty() {
        return vec![Finding::ok(ABOUT, "none on our devices and sockets")];
    }
    let finding = |program: String| Finding::warning(ABOUT, format!("there is {program}"), CURE);
    programs.into_iter().map(finding).collect()
}
