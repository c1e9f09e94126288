//! State of the agent, which it writes for the commands.

use std::{
    fmt,
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use headgate_control::{ServedListener, Status};
use headgate_dataplane::StateFile;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Versioned;

/// How often the agent writes its state, at least.
pub(crate) const STATE_INTERVAL: Duration = Duration::from_secs(10);

/// State of an agent at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AgentState {
    /// Version of the agent.
    pub(crate) release: String,
    pub(crate) pid: u32,
    /// Name of its node.
    pub(crate) node: String,
    pub(crate) written: Timestamp,
    /// Whether the maps hold all that the completely listed source asks for.
    pub(crate) is_synced: bool,
    /// Why the source is not reachable.
    pub(crate) disconnected: Option<String>,
    /// Number of passes of the loop.
    pub(crate) revision: u64,
    /// Duration of the last pass.
    pub(crate) last_pass_ms: u64,
    pub(crate) services: usize,
    pub(crate) backends: usize,
    pub(crate) frontends: usize,
    /// Number of map entries that another program changed, and the agent repaired.
    pub(crate) repaired: u64,
    /// Memory that the maps of the agent may take as they become larger, in bytes; `None` for an agent that did not say
    /// it.
    #[serde(default)]
    pub(crate) most_map_bytes: Option<u64>,
    /// TCP and UDP listeners of Gateways.
    #[serde(default)]
    pub(crate) listeners: Vec<ListenerState>,
    pub(crate) failures: Vec<Complaint>,
    pub(crate) refusals: Vec<Complaint>,
    /// Number of refusals, failures and listeners that are left out, since the state file is full.
    pub(crate) more: usize,
}

/// A TCP or UDP listener of a Gateway. Names are `namespace/name`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ListenerState {
    /// The Service with its addresses.
    pub(crate) service: String,
    /// `tcp` or `udp`.
    pub(crate) protocol: String,
    pub(crate) port: u16,
    pub(crate) gateway: String,
    pub(crate) listener: String,
    /// The TCPRoute or UDPRoute; `None` without one: all connections are refused.
    pub(crate) route: Option<String>,
}

impl From<&ServedListener> for ListenerState {
    fn from(served: &ServedListener) -> Self {
        Self {
            service: served.service.to_string(),
            protocol: served.protocol.to_string(),
            port: served.port,
            gateway: served.gateway.to_string(),
            listener: served.listener.clone(),
            route: served.route.as_ref().map(ToString::to_string),
        }
    }
}

impl fmt::Display for ListenerState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            gateway, listener, ..
        } = self;
        write!(out, "listener {listener} of Gateway {gateway}, ")?;
        match &self.route {
            Some(route) => write!(out, "{}Route {route}", self.protocol.to_uppercase()),
            None => out.write_str("without a route"),
        }
    }
}

/// A failure or refusal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Complaint {
    /// Namespace and name of the Service, if there is exactly one.
    pub(crate) service: Option<String>,
    pub(crate) object: String,
    pub(crate) reason: String,
    /// Start of a failure; `None` for refusals.
    pub(crate) since: Option<Timestamp>,
}

impl Complaint {
    /// Seconds since the start; 0 if it is not known.
    pub(crate) fn age_s(&self) -> u64 {
        self.since.map_or(0, age_s)
    }
}

/// Leaves half of a list out; returns how many these are.
fn halve<T>(list: &mut Vec<T>) -> usize {
    let before = list.len();
    list.truncate(before / 2);
    before - list.len()
}

fn age_s(at: Timestamp) -> u64 {
    let seconds = Timestamp::now().duration_since(at).as_secs();
    u64::try_from(seconds).unwrap_or(0)
}

impl AgentState {
    /// Reads the last state of an agent, if one has run.
    ///
    /// # Errors
    /// If the state cannot be read, or is of another version.
    pub(crate) fn read(pins: &Path) -> Result<Option<Self>> {
        let Some(text) = StateFile::open(pins)?.read()? else {
            return Ok(None);
        };
        let state = serde_json::from_str(&text);
        let state: Versioned<Self> =
            state.context("cannot parse the state of the agent: is it of another version?")?;
        Ok(Some(state.value))
    }

    /// The state of this process.
    pub(crate) fn new(status: &Status, node: &str, most_map_bytes: u64) -> Self {
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
            release: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            node: node.into(),
            written: Timestamp::now(),
            is_synced: status.is_synced,
            disconnected: status.source.disconnected.clone(),
            revision: status.revision,
            last_pass_ms: last_pass.map_or(0, |took| took as u64),
            services: status.services,
            backends: status.backends,
            frontends: status.frontends,
            repaired: status.repaired,
            most_map_bytes: Some(most_map_bytes),
            listeners: status.listeners.iter().map(Into::into).collect(),
            failures: failures.collect(),
            refusals: refusals.collect(),
            more: 0,
        }
    }

    /// Formats the state as JSON that fits into the state file; refusals are left out first, then listeners.
    pub(crate) fn text(self) -> Result<String> {
        let mut state = Versioned::new(self);
        loop {
            let text = serde_json::to_string(&state)?;
            if text.len() <= StateFile::CAPACITY {
                return Ok(text);
            }
            let state = &mut state.value;
            state.more += match (state.refusals.is_empty(), state.listeners.is_empty()) {
                (false, _) => halve(&mut state.refusals),
                (true, false) => halve(&mut state.listeners),
                (true, true) => halve(&mut state.failures),
            };
        }
    }

    /// Seconds since the agent wrote its state.
    pub(crate) fn age_s(&self) -> u64 {
        age_s(self.written)
    }

    /// Whether an agent still writes its state.
    pub(crate) fn is_alive(&self) -> bool {
        self.age_s() <= 2 * STATE_INTERVAL.as_secs()
    }
}

#[cfg(test)]
mod tests {
    use headgate_control::Status;
    use headgate_dataplane::StateFile;
    use headgate_model::{ObjectName, Refusal};

    use super::AgentState;
    use crate::view::Versioned;

    #[test]
    fn refusals_that_do_not_fit_are_counted() {
        let refusal = |number: usize| {
            let object = ObjectName::Node(format!("n{number}"));
            Refusal::new(object, "spec", "why ".repeat(20))
        };
        let status = Status {
            refusals: (0..1000).map(refusal).collect(),
            ..Status::default()
        };
        let text = AgentState::new(&status, "n1", 1 << 30).text().unwrap();
        assert!(text.len() <= StateFile::CAPACITY);
        let state: Versioned<AgentState> = serde_json::from_str(&text).unwrap();
        let state = state.value;
        assert!(!state.refusals.is_empty());
        assert_eq!(state.refusals.len() + state.more, 1000);
    }
}
