//! What can be wrong with a node, looked at one by one. Each finding says what to do.

mod api;
mod certificates;
pub(crate) mod command;
mod host;
mod network;
mod state;

use std::{path::Path, time::Duration};

use clap::Args;
use serde::Serialize;

pub(super) use state::{is_kube_proxy_running, is_programmed};

use super::output::Form;
use crate::{agent::node::Selection, http::client::Place};

#[derive(Args)]
pub(crate) struct Options {
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    pub(crate) output: Form,
    #[command(flatten)]
    selection: Selection,
    /// Name of this node in the cluster
    #[arg(long, env = "NODE_NAME")]
    node_name: Option<String>,
    /// Do not ask the Kubernetes API: for agents that read manifests
    #[arg(long)]
    no_api: bool,
    #[command(flatten)]
    place: Place,
}

/// Longest to wait for the API server.
const PATIENCE: Duration = Duration::from_secs(5);

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// Works, and might work better, or stop to work.
    Warning,
    /// Something does not work.
    Error,
}

/// What one look found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    /// What was looked at.
    pub(crate) about: &'static str,
    pub(crate) what: String,
    pub(crate) cure: Option<String>,
}

impl Finding {
    fn ok(about: &'static str, what: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            about,
            what: what.into(),
            cure: None,
        }
    }

    fn warning(about: &'static str, what: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            level: Level::Warning,
            about,
            what: what.into(),
            cure: Some(cure.into()),
        }
    }

    fn error(about: &'static str, what: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            level: Level::Error,
            ..Self::warning(about, what, cure)
        }
    }
}

/// Looks at everything.
pub(crate) fn examine(pins: &Path, options: &Options) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(host::kernel());
    findings.extend(host::mounts(pins));
    findings.extend(host::capabilities());
    findings.extend(host::programs_load(pins));
    findings.extend(network::devices(pins, &options.selection));
    findings.extend(network::forwarding(&options.selection));
    findings.extend(network::reverse_path(&options.selection));
    findings.extend(network::ports(pins));
    findings.extend(network::others(&options.selection));
    findings.extend(state::leftovers());
    findings.extend(state::kube_proxy());
    findings.extend(state::pins(pins));
    findings.extend(state::agent(pins));
    findings.extend(certificates::examine(options.place));
    if !options.no_api {
        findings.extend(api::examine(options.node_name.as_deref()));
    }
    findings
}
