//! Examining a node, and taking kube-proxy's rules away.

use std::{path::Path, process::ExitCode};

use anyhow::{Result, bail};

use super::{Finding, Level, Options, examine, is_kube_proxy_running, is_programmed};
use crate::{cli::output::print, kube_proxy};

/// Fails if there is an error among the findings.
pub(crate) fn doctor(pins: &Path, options: &Options) -> Result<ExitCode> {
    let findings = examine(pins, options);
    let worst = findings.iter().map(|finding| finding.level).max();
    print(options.output, &findings, || text(&findings))?;
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

/// Says what it would remove; removes it only if `is_agreed`.
pub(crate) fn replace_kube_proxy(pins: &Path, is_agreed: bool) -> Result<()> {
    if let Err(what) = is_programmed(pins) {
        bail!("not yet: {what}. Start the agent and wait until it is ready");
    }
    println!("ok      frontends are programmed and hooks attached");
    if is_kube_proxy_running() {
        bail!(
            "not yet: kube-proxy runs, and would write its rules anew. First: \
             kubectl -n kube-system delete daemonset kube-proxy"
        );
    }
    println!("ok      kube-proxy does not run here");
    let (found, missing) = kube_proxy::find();
    for program in missing {
        println!("note    there is no {program} to ask for rules");
    }
    if found.is_empty() {
        println!("ok      kube-proxy left nothing");
        return Ok(());
    }
    for leftover in &found {
        if is_agreed {
            leftover.remove()?;
            println!("removed {leftover}");
        } else {
            println!("would remove {leftover}");
        }
    }
    if is_agreed {
        println!(
            "\nConnections that kube-proxy translated go on: the kernel's connection tracking has \
             them.\nTo go back, deploy kube-proxy again, which writes its rules anew, and then run \
             `headgate cleanup`."
        );
    } else {
        println!("\nNothing was changed. To remove it: headgate replace-kube-proxy --yes");
    }
    Ok(())
}
