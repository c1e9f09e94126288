//! What kube-proxy left, and what our own agent did.

use std::{fs, path::Path};

use headgate_abi::{ABI_VERSION, names};
use headgate_dataplane::{Usage, attached, pin_folder};

use super::Finding;
use crate::{
    kube_proxy as rules,
    view::{Report, View},
};

pub(super) fn leftovers() -> Vec<Finding> {
    const ABOUT: &str = "kube-proxy's rules";
    let (found, missing) = rules::find();
    let mut findings: Vec<Finding> = found
        .iter()
        .map(|leftover| {
            let what = format!("kube-proxy left {leftover}");
            Finding::warning(ABOUT, what, "headgate replace-kube-proxy")
        })
        .collect();
    if findings.is_empty() {
        findings.push(match missing.is_empty() {
            true => Finding::ok(ABOUT, "none"),
            false => Finding::ok(
                ABOUT,
                format!("none found; there is no {} to ask", missing.join(", ")),
            ),
        });
    }
    findings
}

/// Whether a process of that name runs. In a container that is seen with the host's processes only.
pub(crate) fn is_kube_proxy_running() -> bool {
    fs::read_dir("/proc").into_iter().flatten().any(|entry| {
        let name = entry.and_then(|entry| fs::read_to_string(entry.path().join("comm")));
        name.is_ok_and(|name| name.trim_end() == "kube-proxy")
    })
}

pub(super) fn kube_proxy() -> Vec<Finding> {
    const ABOUT: &str = "kube-proxy";
    vec![match is_kube_proxy_running() {
        false => Finding::ok(ABOUT, "does not run here"),
        true => Finding::warning(
            ABOUT,
            "runs here as well, and writes its rules anew whenever they go",
            "kubectl -n kube-system delete daemonset kube-proxy, once `headgate status` says `in sync` on \
             every node",
        ),
    }]
}

/// Whether an agent programmed frontends and its hooks are attached.
pub(crate) fn is_programmed(pins: &Path) -> Result<(), String> {
    let view = View::open(pins).map_err(|error| error.to_string())?;
    let links = attached(pins).map_err(|error| error.to_string())?;
    if view.maps.frontends.keys().next().is_none() {
        return Err("no frontend is programmed".into());
    }
    let wanted = [names::TC_EXTERNAL, names::SOCKET_HOOKS[0]];
    for program in wanted {
        if !links
            .iter()
            .any(|link| link.starts_with(&format!("{program}@")))
        {
            return Err(format!("{program} is not attached"));
        }
    }
    Ok(())
}

pub(super) fn pins(pins: &Path) -> Vec<Finding> {
    const ABOUT: &str = "maps";
    let mut findings = Vec::new();
    let ours = pin_folder(pins);
    let others = fs::read_dir(pins).into_iter().flatten().flatten();
    for other in others
        .map(|entry| entry.path())
        .filter(|path| *path != ours)
    {
        findings.push(Finding::warning(
            ABOUT,
            format!(
                "{} is of another version than {ABI_VERSION}",
                other.display()
            ),
            "once no agent of that version runs, remove it: its programs are detached",
        ));
    }
    findings.push(match is_programmed(pins) {
        Ok(()) => Finding::ok(ABOUT, "frontends are programmed and hooks attached"),
        Err(what) => Finding::error(
            ABOUT,
            what,
            "start the agent; its log says what it waits for",
        ),
    });
    if let Ok(view) = View::open(pins) {
        let fixed = view.maps.usage(pins).unwrap_or_default();
        let caches = view.maps.usage_of_caches(pins).unwrap_or_default();
        findings.extend(fixed.iter().filter_map(|usage| fill(usage, "")));
        let so = ": new entries take the place of those unused for longest";
        findings.extend(caches.iter().filter_map(|usage| fill(usage, so)));
    }
    findings
}

fn fill(usage: &Usage, so: &str) -> Option<Finding> {
    const WARN_PERCENT: u64 = 80;
    let percent = usage.percent();
    (percent >= WARN_PERCENT).then(|| {
        Finding::warning(
            "maps",
            format!("map {} is {percent}% full{so}", usage.name),
            "raise the agent's --max-… option, then `headgate cleanup` and start it anew",
        )
    })
}

pub(super) fn agent(pins: &Path) -> Vec<Finding> {
    const ABOUT: &str = "agent";
    let report = match Report::read(pins) {
        Ok(Some(report)) => report,
        Ok(None) | Err(_) => {
            let what = "has not said anything yet";
            return vec![Finding::error(ABOUT, what, "start it")];
        }
    };
    let mut findings = Vec::new();
    if !report.is_alive() {
        findings.push(Finding::error(
            ABOUT,
            format!("silent for {} s: changes are not taken up", report.age_s()),
            "see the log of its pod: kubectl -n kube-system logs ds/headgate --previous",
        ));
    }
    if let Some(reason) = &report.disconnected {
        let what = format!("cannot reach its source: {reason}");
        findings.push(Finding::error(ABOUT, what, "see `API` below"));
    }
    if !report.failures.is_empty() {
        let what = format!("{} changes fail", report.failures.len() + report.more);
        findings.push(Finding::error(ABOUT, what, "headgate status lists them"));
    }
    if !report.refusals.is_empty() {
        let what = format!("{} things are refused", report.refusals.len());
        findings.push(Finding::warning(ABOUT, what, "headgate status lists them"));
    }
    if findings.is_empty() {
        let what = format!(
            "version {} on node {} is in sync",
            report.version, report.node
        );
        findings.push(Finding::ok(ABOUT, what));
    }
    findings
}
