//! What became of packets, and how full the maps are.

use std::path::Path;

use anyhow::Result;
use headgate_abi::{Fate, Reason};
use headgate_dataplane::Usage;
use serde::Serialize;

use super::View;

/// How often a reason was given.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Counter {
    pub(crate) fate: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) count: u64,
    pub(crate) meaning: &'static str,
}

/// How full a map is.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Fill {
    pub(crate) map: &'static str,
    pub(crate) entries: u64,
    pub(crate) capacity: u32,
    pub(crate) fill: String,
    /// Memory in the kernel.
    pub(crate) kib: u64,
}

/// The word for what becomes of a packet.
pub(crate) fn fate(reason: Reason) -> &'static str {
    match reason.fate() {
        Fate::Pass => "pass",
        Fate::Forward => "forward",
        Fate::Reject => "reject",
        Fate::Drop => "drop",
    }
}

impl View {
    /// Counts of the reasons that were given at least once.
    pub(crate) fn counters(&self) -> Result<Vec<Counter>> {
        let counts = self.maps.reasons()?.into_iter();
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

    /// How full the maps are.
    pub(crate) fn fills(&self, pins: &Path) -> Result<Vec<Fill>> {
        let mut fills = self.agent_fills(pins)?;
        fills.extend(self.maps.usage_of_caches(pins)?.into_iter().map(fill));
        Ok(fills)
    }

    /// How full the maps are that the agent writes: cheap to tell.
    pub(crate) fn agent_fills(&self, pins: &Path) -> Result<Vec<Fill>> {
        Ok(self.maps.usage(pins)?.into_iter().map(fill).collect())
    }
}

fn fill(usage: Usage) -> Fill {
    Fill {
        map: usage.name,
        entries: usage.entries,
        capacity: usage.capacity,
        fill: format!("{}%", usage.percent()),
        kib: usage.bytes / 1024,
    }
}
