//! Agent, hooks, map fill, and what became of packets.

use std::{collections::BTreeMap, fmt::Write, path::Path};

use anyhow::Result;
use headgate_dataplane::{attached, loaded_config};
use serde::Serialize;

use super::output::{Options, print, print_rows, table};
use crate::view::{Counter, Report, View};

#[derive(Serialize)]
struct Status<F> {
    agent: Option<Report>,
    kernel: String,
    /// How packets from outside reach backends on other nodes.
    forwarding: String,
    /// Programs by device; those of sockets by `cgroup` and `netns`.
    hooks: BTreeMap<String, Vec<String>>,
    maps: Vec<F>,
    counters: Vec<Counter>,
}

const COUNTERS: [&str; 4] = ["fate", "reason", "count", "meaning"];
const FILLS: [&str; 5] = ["map", "entries", "capacity", "fill", "kib"];

/// The agent in words, a fact a line.
fn describe(report: Option<&Report>) -> String {
    let Some(report) = report else {
        return "  has not said anything yet\n".into();
    };
    let mut text = String::new();
    let mut say = |line: String| writeln!(text, "  {line}").unwrap_or_default();
    let Report {
        version, pid, node, ..
    } = report;
    let age_s = report.age_s();
    say(match report.is_alive() {
        true => format!("version {version}, process {pid}, node {node}"),
        false => format!(
            "version {version}, node {node}: silent for {age_s} s; the kernel goes on with what it has"
        ),
    });
    say(match report.is_synced {
        true => format!(
            "in sync: {} services, {} backends, {} frontends (pass {}, {} ms)",
            report.services,
            report.backends,
            report.frontends,
            report.revision,
            report.last_pass_ms
        ),
        false => "not in sync: the source has not listed everything yet".into(),
    });
    if let Some(reason) = &report.disconnected {
        say(format!("disconnected from its source: {reason}"));
    }
    if report.repaired > 0 {
        say(format!(
            "drift: {} map entries that somebody else changed were put right",
            report.repaired
        ));
    }
    for (word, list) in [("failed", &report.failures), ("refused", &report.refusals)] {
        for complaint in list {
            say(format!(
                "{word}: {}: {}",
                complaint.object, complaint.reason
            ));
        }
    }
    if report.more > 0 {
        say(format!("and {} more: see the agent's log", report.more));
    }
    text
}

/// What the running programs do.
fn forwarding(pins: &Path) -> Result<String> {
    let config = loaded_config(pins)?;
    let port = config.dsr_port.number();
    Ok(match (port, config.forwards_by_dsr) {
        (0, _) => "snat".into(),
        (_, 0) => format!("snat, and what comes by dsr to UDP port {port} is accepted"),
        _ => format!("dsr, in UDP to port {port}"),
    })
}

fn hooks(pins: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let mut hooks: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for link in attached(pins)? {
        if let Some((program, device)) = link.split_once('@') {
            hooks.entry(device.into()).or_default().push(program.into());
        }
    }
    Ok(hooks)
}

pub(crate) fn status(pins: &Path, options: &Options) -> Result<()> {
    let view = View::open(pins)?;
    let status = Status {
        agent: Report::read(pins)?,
        kernel: nix::sys::utsname::uname()?
            .release()
            .to_string_lossy()
            .into_owned(),
        forwarding: forwarding(pins)?,
        hooks: hooks(pins)?,
        maps: view.fills(pins)?,
        counters: view.counters()?,
    };
    let fills = table(&FILLS, &status.maps)?;
    let counters = table(&COUNTERS, &status.counters)?;
    let hooks: String = status
        .hooks
        .iter()
        .map(|(device, programs)| format!("\n  {device}: {}", programs.join(" ")))
        .collect();
    print(options.output, &status, || {
        format!(
            "agent\n{}\nhooks (Linux {}){hooks}\n  forwarding: {}\n\n{fills}\n\n{counters}",
            describe(status.agent.as_ref()),
            status.kernel,
            status.forwarding,
        )
    })
}

pub(crate) fn counters(pins: &Path, options: &Options) -> Result<()> {
    print_rows(options, &COUNTERS, &[], &View::open(pins)?.counters()?)
}

pub(crate) fn drops(pins: &Path, options: &Options) -> Result<()> {
    let mut rows = View::open(pins)?.counters()?;
    rows.retain(|row| matches!(row.fate, "reject" | "drop"));
    print_rows(options, &COUNTERS, &[], &rows)
}

pub(crate) fn maps(pins: &Path, options: &Options) -> Result<()> {
    print_rows(options, &FILLS, &[], &View::open(pins)?.fills(pins)?)
}
