//! Checks of a node. Each finding of a problem says what to do.

mod api;
#[cfg(feature = "proxy")]
mod certificates;
mod host;
mod network;
mod state;

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Args;
use serde::Serialize;

pub(super) use state::is_programmed;

use super::output::{Format, print_list};
use crate::agent::node::Selection;
#[cfg(feature = "proxy")]
use crate::proxy::client::ProxyAddress;

#[derive(Args)]
pub(crate) struct DoctorArgs {
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
    #[command(flatten)]
    selection: Selection,
    /// Name of this node in the cluster
    #[arg(long, env = "NODE_NAME")]
    node_name: Option<String>,
    /// Do not ask the Kubernetes API: for agents that read manifests
    #[arg(long)]
    no_api: bool,
    #[cfg(feature = "proxy")]
    #[command(flatten)]
    proxy: ProxyAddress,
}

/// Maximum time for all requests to the API server.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// No problem.
    Ok,
    /// Works now, but not as well as it could, or not for long.
    Warning,
    /// Something does not work.
    Error,
}

/// The result of a check.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    level: Level,
    /// What was checked.
    about: &'static str,
    what: String,
    /// What to do.
    cure: Option<String>,
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

/// Prints the findings; the exit code is 1 if one of them is an error.
pub(crate) fn doctor(pins: &Path, args: &DoctorArgs) -> Result<ExitCode> {
    let findings = examine(pins, args);
    let worst = findings.iter().map(|finding| finding.level).max();
    print_list(args.output, &findings, || text(&findings))?;
    Ok(match worst {
        Some(Level::Error) => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    })
}

fn text(findings: &[Finding]) -> String {
    let lines = findings.iter().map(|finding| {
        let mark = match finding.level {
            Level::Ok => "ok      ",
            Level::Warning => "warning ",
            Level::Error => "ERROR   ",
        };
        let cure = finding
            .cure
            .as_ref()
            .map(|cure| format!("\n        → {cure}"));
        format!(
            "{mark}{}: {}{}",
            finding.about,
            finding.what,
            cure.unwrap_or_default()
        )
    });
    let count = |level| {
        findings
            .iter()
            .filter(|finding| finding.level == level)
            .count()
    };
    let lines: Vec<String> = lines.collect();
    format!(
        "{}\n\n{} errors, {} warnings",
        lines.join("\n"),
        count(Level::Error),
        count(Level::Warning)
    )
}

/// Runs all checks.
fn examine(pins: &Path, args: &DoctorArgs) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(host::kernel());
    findings.extend(host::mounts(pins));
    findings.extend(host::capabilities());
    findings.extend(host::programs_load(pins));
    findings.extend(network::devices(pins, &args.selection));
    findings.extend(network::forwarding(&args.selection));
    findings.extend(network::reverse_path(&args.selection));
    findings.extend(network::connection_tracking());
    findings.extend(network::ports(pins));
    findings.extend(network::others(&args.selection));
    findings.extend(state::leftovers());
    findings.extend(state::kube_proxy());
    findings.extend(state::pins(pins));
    findings.extend(state::agent(pins));
    #[cfg(feature = "proxy")]
    findings.extend(certificates::examine(args.proxy));
    if !args.no_api {
        findings.extend(api::examine(args.node_name.as_deref()));
    }
    findings
}
