//! Hooks, map fill and what became of packets.

use std::path::Path;

use anyhow::{Context, Result};
use headgate_abi::{Fate, Reason};
use headgate_dataplane::{Maps, Usage, attached};
use serde::Serialize;

use super::open;
use crate::output::{Options, print, print_rows, table};

#[derive(Serialize)]
struct Status {
    hooks: Vec<String>,
    maps: Vec<Fill>,
    counters: Vec<Counter>,
}

#[derive(Serialize)]
struct Fill {
    map: &'static str,
    entries: u64,
    capacity: u32,
    fill: String,
    kib: u64,
}

#[derive(Serialize)]
struct Counter {
    fate: &'static str,
    reason: &'static str,
    count: u64,
    meaning: &'static str,
}

const COUNTERS: [&str; 4] = ["fate", "reason", "count", "meaning"];
const FILLS: [&str; 5] = ["map", "entries", "capacity", "fill", "kib"];

fn fate(reason: Reason) -> &'static str {
    match reason.fate() {
        Fate::Pass => "pass",
        Fate::Forward => "forward",
        Fate::Reject => "reject",
        Fate::Drop => "drop",
    }
}

/// Counts of the reasons that were given at least once.
fn counts(maps: &Maps) -> Result<Vec<Counter>> {
    let counts = maps.reasons()?.into_iter();
    let given = counts.filter(|(_, count)| *count > 0);
    Ok(given
        .map(|(reason, count)| Counter {
            fate: fate(reason),
            reason: reason.name(),
            count,
            meaning: reason.sentence().trim(),
        })
        .collect())
}

fn fills(pins: &Path, maps: &Maps) -> Result<Vec<Fill>> {
    let usage = maps.usage(pins)?;
    let fill = |usage: Usage| Fill {
        map: usage.name,
        entries: usage.entries,
        capacity: usage.capacity,
        fill: format!(
            "{}%",
            usage.entries * 100 / u64::from(usage.capacity.max(1))
        ),
        kib: usage.bytes / 1024,
    };
    Ok(usage.into_iter().map(fill).collect())
}

pub(crate) fn status(pins: &Path, options: &Options) -> Result<()> {
    let maps = open(pins)?;
    let status = Status {
        hooks: attached(pins)?,
        maps: fills(pins, &maps)?,
        counters: counts(&maps)?,
    };
    let fills = table(&FILLS, &status.maps)?;
    let counters = table(&COUNTERS, &status.counters)?;
    print(options, &status, || {
        format!(
            "hooks\n  {}\n\n{fills}\n\n{counters}",
            status.hooks.join("\n  ")
        )
    })
}

pub(crate) fn counters(pins: &Path, options: &Options) -> Result<()> {
    print_rows(options, &COUNTERS, counts(&open(pins)?)?)
}

pub(crate) fn drops(pins: &Path, options: &Options) -> Result<()> {
    let mut rows = counts(&open(pins)?)?;
    rows.retain(|row| matches!(row.fate, "reject" | "drop"));
    print_rows(options, &COUNTERS, rows)
}

pub(crate) fn maps(pins: &Path, options: &Options) -> Result<()> {
    print_rows(options, &FILLS, fills(pins, &open(pins)?)?)
}

/// Tells what a reason means, by its number or its name.
pub(crate) fn explain(text: &str) -> Result<()> {
    let is_it = |reason: &&Reason| reason.name() == text || text.parse() == Ok(**reason as u32);
    let reason = Reason::ALL.iter().find(is_it).with_context(|| {
        let names: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        format!("there is no reason {text}; there are {}", names.join(", "))
    })?;
    println!(
        "{} ({}), {}: {}",
        reason.name(),
        *reason as u32,
        fate(*reason),
        reason.sentence().trim()
    );
    Ok(())
}
