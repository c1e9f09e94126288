//! Memory of the agent.

use std::fs;

use anyhow::{Context, Result};

use super::{TARGET_MEMORY_MB, median, target};
use crate::Table;

/// Memory of a process, in MB.
pub(super) struct Memory {
    pub(super) resident: f64,
    /// Peak of the resident memory.
    pub(super) peak: f64,
    /// Anonymous memory. The rest is files, and maps that the process shares with the kernel.
    pub(super) own: f64,
}

impl Memory {
    pub(super) fn of(pid: u32) -> Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| -> Result<f64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let line = line.with_context(|| format!("no {name}"))?;
            let kilobytes = line.split_whitespace().next().context("no number")?;
            Ok(kilobytes.parse::<f64>()? * 1024.0 / 1e6)
        };
        Ok(Self {
            resident: field("VmRSS:")?,
            peak: field("VmHWM:")?,
            own: field("RssAnon:")?,
        })
    }
}

pub(super) fn memory_table(title: &str, rounds: &[Vec<Memory>], after_changes: &Memory) -> Table {
    let how = "VmRSS, VmHWM and RssAnon of the agent; the rest is its binary, and maps that the kernel \
               holds in memory in any case";
    let mut table = Table::new(title, "MB", how, "");
    let of_round = |index: usize| rounds.iter().filter_map(move |round| round.get(index));
    for (name, memory) in [
        ("after the first start", of_round(0).collect::<Vec<_>>()),
        ("after a start with maps", of_round(1).collect()),
        ("after changes", vec![after_changes]),
    ] {
        let mut add = |what: &str, of: &dyn Fn(&Memory) -> f64| {
            let samples: Vec<f64> = memory.iter().map(|memory| of(memory)).collect();
            table.add(&format!("{name}: {what}"), &samples);
            table.note(target(median(samples), TARGET_MEMORY_MB, "MB"));
        };
        add("resident", &|memory| memory.resident);
        add("peak", &|memory| memory.peak);
        add("its own", &|memory| memory.own);
    }
    table
}
