//! kube-proxy and its rules, the maps, and the agent.

use std::path::Path;

use headgate_abi::{ABI_VERSION, names};
use headgate_dataplane::{Attachment, OtherVersion, Usage, attached, other_versions};

use super::Finding;
use crate::{
    kube_proxy::{Found, find, is_running},
    view::{AgentState, View},
};

pub(super) fn leftovers() -> Vec<Finding> {
    const ABOUT: &str = "kube-proxy's rules";
    let Found { leftovers, unknown } = find();
    let mut findings: Vec<Finding> = leftovers
        .iter()
        .map(|leftover| {
            let what = format!("kube-proxy left {leftover}");
            Finding::warning(ABOUT, what, "headgate replace-kube-proxy")
        })
        .collect();
    findings.extend(unknown.iter().map(|what| {
        let what = format!("cannot be checked: {what}");
        Finding::error(ABOUT, what, "run `headgate doctor` on the host, as root")
    }));
    if findings.is_empty() {
        findings.push(Finding::ok(ABOUT, "none"));
    }
    findings
}

pub(super) fn kube_proxy() -> Vec<Finding> {
    const ABOUT: &str = "kube-proxy";
    vec![match is_running() {
        false => Finding::ok(ABOUT, "does not run here"),
        true => Finding::warning(
            ABOUT,
            "runs here as well, and writes its rules again whenever they are removed",
            "kubectl -n kube-system delete daemonset kube-proxy, once `headgate status` says `in sync` on \
             every node",
        ),
    }]
}

/// Fails if no frontends are programmed, or hooks are not attached.
pub(in crate::cli) fn is_programmed(pins: &Path) -> Result<(), String> {
    let view = View::open(pins).map_err(|error| error.to_string())?;
    let links = attached(pins).map_err(|error| error.to_string())?;
    if view.maps.frontends.keys().next().is_none() {
        return Err("no frontend is programmed".into());
    }
    // An external device has one of two programs at ingress.
    let wanted: [&[&str]; 2] = [
        &[names::TC_EXTERNAL, names::TC_L3],
        &names::SOCKET_HOOKS[..1],
    ];
    for programs in wanted {
        let is_one = |link: &Attachment| programs.contains(&link.program.as_str());
        if !links.iter().any(is_one) {
            let program = programs.join(" or ");
            return Err(format!("{program} is not attached"));
        }
    }
    Ok(())
}

pub(super) fn pins(pins: &Path) -> Vec<Finding> {
    const ABOUT: &str = "maps";
    let mut findings = match other_versions(pins) {
        Ok(others) => others.iter().map(other_version).collect(),
        Err(error) => vec![Finding::error(
            ABOUT,
            error.to_string(),
            "run `headgate doctor` on the host, as root",
        )],
    };
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
        findings.extend(caches.iter().filter_map(|usage| {
            let effect = match usage.name {
                names::SOCKETS => ": further sockets show the address of their backend",
                _ => ": new entries evict those unused for longest",
            };
            fill(usage, effect)
        }));
    }
    findings
}

/// What to do about maps of another version.
fn other_version(other: &OtherVersion) -> Finding {
    const ABOUT: &str = "maps";
    let (number, folder) = (other.number, other.folder.display());
    let attached =
        format!("programs of ABI {number} are attached ({folder}), not of {ABI_VERSION}");
    match (other.is_attached, other.is_known) {
        (false, _) => Finding::warning(
            ABOUT,
            format!("{folder} was left behind by ABI {number}: nothing uses it"),
            "the next start of the agent removes it",
        ),
        (true, true) => Finding::warning(
            ABOUT,
            attached,
            "use the binary of the running agent; an agent of this one takes them over, and connections stay",
        ),
        (true, false) => Finding::error(
            ABOUT,
            format!("{attached}, and no agent can take them over: their layouts are not known"),
            "run `headgate cleanup` of the binary that attached them, which ends their connections, and start the agent",
        ),
    }
}

fn fill(usage: &Usage, effect: &str) -> Option<Finding> {
    const WARN_PERCENT: u64 = 80;
    let percent = usage.percent();
    (percent >= WARN_PERCENT).then(|| {
        Finding::warning(
            "maps",
            format!("map {} is {percent}% full{effect}", usage.name),
            "raise the agent's --max-… flag: its next start makes the map larger, and connections stay",
        )
    })
}

pub(super) fn agent(pins: &Path) -> Vec<Finding> {
    const ABOUT: &str = "agent";
    let state = match AgentState::read(pins) {
        Ok(Some(state)) => state,
        Ok(None) | Err(_) => {
            let what = "has not written its state yet";
            return vec![Finding::error(ABOUT, what, "start the agent")];
        }
    };
    let mut findings = Vec::new();
    if !state.is_alive() {
        findings.push(Finding::error(
            ABOUT,
            format!(
                "no update for {} s: changes are not programmed",
                state.age_s()
            ),
            "see the log of its pod: kubectl -n kube-system logs ds/headgate --previous",
        ));
    }
    if let Some(reason) = &state.disconnected {
        let what = format!("cannot reach its source: {reason}");
        findings.push(Finding::error(ABOUT, what, "see `API` below"));
    }
    if !state.failures.is_empty() {
        let what = format!("{} changes fail", state.failures.len() + state.more);
        findings.push(Finding::error(ABOUT, what, "headgate status lists them"));
    }
    if !state.refusals.is_empty() {
        let what = format!("{} objects are refused", state.refusals.len());
        findings.push(Finding::warning(ABOUT, what, "headgate status lists them"));
    }
    if findings.is_empty() {
        let what = format!(
            "version {} on node {} is in sync",
            state.release, state.node
        );
        findings.push(Finding::ok(ABOUT, what));
    }
    findings
}

#[cfg(test)]
mod tests {
    use headgate_dataplane::OtherVersion;

    use super::other_version;

    #[test]
    fn s211_doctor_says_what_to_do_about_another_version() {
        for (is_attached, is_known, what, how) in [
            (false, false, "left behind", "removes it"),
            (false, true, "left behind", "removes it"),
            (true, true, "programs of ABI 9", "takes them over"),
            (
                true,
                false,
                "no agent can take them over",
                "headgate cleanup",
            ),
        ] {
            let finding = other_version(&OtherVersion {
                number: 9,
                folder: "/sys/fs/bpf/headgate/v9".into(),
                is_attached,
                is_known,
            });
            let text = format!("{finding:?}");
            assert!(text.contains(what) && text.contains(how), "{text}");
        }
    }
}
