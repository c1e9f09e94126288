//! State of the agent, hooks, maps, and counters by reason.

use std::{collections::BTreeMap, fmt::Write, path::Path};

use anyhow::Result;
use headgate_dataplane::{attached, loaded_config};
use serde::Serialize;

use super::output::{OutputArgs, print, print_rows, table};
use crate::view::{AgentState, CounterRow, FillRow, View};

#[derive(Serialize)]
struct StatusOutput {
    agent: Option<AgentState>,
    kernel: String,
    /// How packets from outside reach backends on other nodes.
    forwarding: String,
    /// Programs by device; `cgroup` and `netns` stand for those of sockets.
    hooks: BTreeMap<String, Vec<String>>,
    maps: Vec<FillRow>,
    counters: Vec<CounterRow>,
}

const COUNTERS: [&str; 4] = ["fate", "reason", "count", "meaning"];
const FILLS: [&str; 5] = ["map", "entries", "capacity", "fill", "kib"];

/// Describes the agent, one fact a line.
fn describe(state: Option<&AgentState>) -> String {
    let Some(state) = state else {
        return "  has not written its state yet\n".into();
    };
    let mut text = String::new();
    let mut say = |line: String| writeln!(text, "  {line}").unwrap_or_default();
    let AgentState {
        release, pid, node, ..
    } = state;
    let age_s = state.age_s();
    say(match state.is_alive() {
        true => format!("version {release}, process {pid}, node {node}"),
        false => format!(
            "version {release}, node {node}: no update for {age_s} s; the kernel keeps balancing with the last state"
        ),
    });
    say(match state.is_synced {
        true => format!(
            "in sync: {} services, {} backends, {} frontends (pass {}, {} ms)",
            state.services, state.backends, state.frontends, state.revision, state.last_pass_ms
        ),
        false => "not in sync: the source is not completely listed yet".into(),
    });
    if let Some(reason) = &state.disconnected {
        say(format!("disconnected from its source: {reason}"));
    }
    if state.repaired > 0 {
        say(format!(
            "drift: {} map entries were changed by another program, and repaired",
            state.repaired
        ));
    }
    for (word, list) in [("failed", &state.failures), ("refused", &state.refusals)] {
        for complaint in list {
            say(format!(
                "{word}: {}: {}",
                complaint.object, complaint.reason
            ));
        }
    }
    if state.more > 0 {
        say(format!("and {} more: see the agent's log", state.more));
    }
    text
}

/// How the loaded programs forward.
fn forwarding(pins: &Path) -> Result<String> {
    let config = loaded_config(pins)?;
    let port = config.dsr_port.number();
    Ok(match (port, config.forwards_by_dsr) {
        (0, _) => "snat".into(),
        (_, 0) => format!("snat; dsr packets to UDP port {port} are accepted"),
        _ => format!("dsr, to UDP port {port}"),
    })
}

fn hooks(pins: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let mut hooks: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for link in attached(pins)? {
        hooks.entry(link.place).or_default().push(link.program);
    }
    Ok(hooks)
}

pub(crate) fn status(pins: &Path, args: &OutputArgs) -> Result<()> {
    let view = View::open(pins)?;
    let status = StatusOutput {
        agent: AgentState::read(pins)?,
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
    print(args.output, &status, || {
        format!(
            "agent\n{}\nhooks (Linux {}){hooks}\n  forwarding: {}\n\n{fills}\n\n{counters}",
            describe(status.agent.as_ref()),
            status.kernel,
            status.forwarding,
        )
    })
}

pub(crate) fn counters(pins: &Path, args: &OutputArgs) -> Result<()> {
    print_rows(args, &COUNTERS, &[], &View::open(pins)?.counters()?)
}

pub(crate) fn drops(pins: &Path, args: &OutputArgs) -> Result<()> {
    let mut rows = View::open(pins)?.counters()?;
    rows.retain(|row| matches!(row.fate, "reject" | "drop"));
    print_rows(args, &COUNTERS, &[], &rows)
}

pub(crate) fn maps(pins: &Path, args: &OutputArgs) -> Result<()> {
    print_rows(args, &FILLS, &[], &View::open(pins)?.fills(pins)?)?;
    let limit = AgentState::read(pins)?.and_then(|state| state.most_map_bytes);
    if let Some(limit) = limit.filter(|_| args.is_for_people()) {
        let mib = limit >> 20;
        println!("\nMaps of Services may take {mib} MiB as they become larger (--max-map-memory).");
    }
    Ok(())
}
