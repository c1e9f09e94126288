//! Counters by reason, and how full the maps are.

use std::path::Path;

use anyhow::Result;
use headgate_abi::{Fate, Reason};
use headgate_dataplane::Usage;
use serde::Serialize;

use super::View;

/// Number of packets and sockets with a reason.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CounterRow {
    pub(crate) fate: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) count: u64,
    pub(crate) meaning: &'static str,
}

/// Entries and memory of a map.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FillRow {
    pub(crate) map: &'static str,
    pub(crate) entries: u64,
    pub(crate) capacity: u32,
    pub(crate) fill: String,
    /// Memory in the kernel, in KiB.
    pub(crate) kib: u64,
}

/// Name of the outcome for a packet: `pass`, `forward`, `reject` or `drop`.
pub(crate) fn fate(reason: Reason) -> &'static str {
    match reason.fate() {
        Fate::Pass => "pass",
        Fate::Forward => "forward",
        Fate::Reject => "reject",
        Fate::Drop => "drop",
    }
}

impl View {
    /// Counters that are not zero.
    pub(crate) fn counters(&self) -> Result<Vec<CounterRow>> {
        let counts = self.maps.reasons()?.into_iter();
        let given = counts.filter(|(_, count)| *count > 0);
        Ok(given
            .map(|(reason, count)| CounterRow {
                fate: fate(reason),
                reason: reason.name(),
                count,
                meaning: reason.sentence().trim(),
            })
            .collect())
    }

    /// How full the maps are.
    pub(crate) fn fills(&self, pins: &Path) -> Result<Vec<FillRow>> {
        let mut fills = self.agent_fills(pins)?;
        fills.extend(self.maps.usage_of_caches(pins)?.into_iter().map(fill));
        Ok(fills)
    }

    /// How full the maps of the agent are: cheap, since they are not walked.
    pub(crate) fn agent_fills(&self, pins: &Path) -> Result<Vec<FillRow>> {
        Ok(self.maps.usage(pins)?.into_iter().map(fill).collect())
    }
}

fn fill(usage: Usage) -> FillRow {
    FillRow {
        map: usage.name,
        entries: usage.entries,
        capacity: usage.capacity,
        fill: format!("{}%", usage.percent()),
        kib: usage.bytes / 1024,
    }
}
