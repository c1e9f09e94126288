//! What the agent says of itself, for whoever looks later.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use headgate_control::Status;
use headgate_dataplane::StateFile;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The agent writes at least this often.
pub(crate) const INTERVAL: Duration = Duration::from_secs(10);

/// State of an agent at a moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) version: String,
    pub(crate) pid: u32,
    /// Name of its node.
    pub(crate) node: String,
    pub(crate) written: Timestamp,
    /// Whether the maps are what a full list of the source asks for.
    pub(crate) is_synced: bool,
    /// Why the source cannot be reached.
    pub(crate) disconnected: Option<String>,
    /// Passes of the loop.
    pub(crate) revision: u64,
    /// What the last one took.
    pub(crate) last_pass_ms: u64,
    pub(crate) services: usize,
    pub(crate) backends: usize,
    pub(crate) frontends: usize,
    /// Map entries that somebody else changed and that were put right.
    pub(crate) repaired: u64,
    pub(crate) failures: Vec<Complaint>,
    pub(crate) refusals: Vec<Complaint>,
    /// Refusals and failures that there was no room for.
    pub(crate) more: usize,
}

/// Something that is not done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Complaint {
    /// Namespace and name of the Service, if it is about one alone.
    pub(crate) service: Option<String>,
    pub(crate) object: String,
    pub(crate) reason: String,
    /// Failures only.
    pub(crate) since: Option<Timestamp>,
}

impl Complaint {
    /// How long it lasts, in seconds; 0 if that is not known.
    pub(crate) fn age_s(&self) -> u64 {
        self.since.map_or(0, age_s)
    }
}

fn age_s(at: Timestamp) -> u64 {
    let seconds = Timestamp::now().duration_since(at).as_secs();
    u64::try_from(seconds).unwrap_or(0)
}

impl Report {
    /// What an agent was last, if there ever was one.
    pub(crate) fn read(pins: &Path) -> Result<Option<Self>> {
        let Some(text) = StateFile::open(pins)?.read()? else {
            return Ok(None);
        };
        let report = serde_json::from_str(&text);
        report.context("the report of the agent cannot be read: is it of another version?")
    }

    /// The report of this process.
    pub(crate) fn of(status: &Status, node: &str) -> Self {
        let timestamp = |time: SystemTime| Timestamp::try_from(time).ok();
        let failures = status.failures.iter().map(|failure| Complaint {
            service: failure.service.as_ref().map(ToString::to_string),
            object: failure.object.clone(),
            reason: failure.reason.clone(),
            since: timestamp(failure.since),
        });
        let refusals = status.refusals.iter().map(|refusal| Complaint {
            service: None,
            object: refusal.object.to_string(),
            reason: match refusal.field.is_empty() {
                true => refusal.reason.clone(),
                false => format!("{}: {}", refusal.field, refusal.reason),
            },
            since: None,
        });
        let last_pass = status.last_pass.map(|(_, took)| took.as_millis());
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            node: node.into(),
            written: Timestamp::now(),
            is_synced: status.is_synced,
            disconnected: status.disconnected.clone(),
            revision: status.revision,
            last_pass_ms: last_pass.map_or(0, |took| took as u64),
            services: status.services,
            backends: status.backends,
            frontends: status.frontends,
            repaired: status.repaired,
            failures: failures.collect(),
            refusals: refusals.collect(),
            more: 0,
        }
    }

    /// As text that fits; refusals give way first.
    pub(crate) fn text(mut self) -> Result<String> {
        loop {
            let text = serde_json::to_string(&self)?;
            if text.len() <= StateFile::CAPACITY {
                return Ok(text);
            }
            let list = match self.refusals.is_empty() {
                true => &mut self.failures,
                false => &mut self.refusals,
            };
            let keep = list.len() / 2;
            self.more += list.len() - keep;
            list.truncate(keep);
        }
    }

    /// Seconds since the agent wrote it.
    pub(crate) fn age_s(&self) -> u64 {
        age_s(self.written)
    }

    /// Whether an agent still writes.
    pub(crate) fn is_alive(&self) -> bool {
        self.age_s() <= 2 * INTERVAL.as_secs()
    }
}

#[cfg(test)]
mod tests {
    use headgate_control::Status;
    use headgate_dataplane::StateFile;
    use headgate_model::{ObjectName, Refusal};

    use super::Report;

    #[test]
    fn more_refusals_than_fit_are_counted() {
        let refusal = |number: usize| Refusal {
            object: ObjectName::Node(format!("n{number}")),
            field: "spec".into(),
            reason: "why ".repeat(20),
        };
        let status = Status {
            refusals: (0..1000).map(refusal).collect(),
            ..Status::default()
        };
        let text = Report::of(&status, "n1").text().unwrap();
        assert!(text.len() <= StateFile::CAPACITY);
        let report: Report = serde_json::from_str(&text).unwrap();
        assert!(!report.refusals.is_empty());
        assert_eq!(report.refusals.len() + report.more, 1000);
    }
}
