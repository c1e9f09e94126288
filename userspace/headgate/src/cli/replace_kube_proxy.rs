//! Removes the rules that kube-proxy left on this node.

use std::path::Path;

use anyhow::{Result, bail};

use super::doctor::is_programmed;
use crate::kube_proxy;

/// Lists what kube-proxy left; removes it only if `is_confirmed`.
pub(crate) fn replace_kube_proxy(pins: &Path, is_confirmed: bool) -> Result<()> {
    if let Err(what) = is_programmed(pins) {
        bail!("not yet: {what}. Start the agent and wait until it is ready");
    }
    println!("ok      frontends are programmed and hooks attached");
    if kube_proxy::is_running() {
        bail!(
            "not yet: kube-proxy runs, and would write its rules again. First: \
             kubectl -n kube-system delete daemonset kube-proxy"
        );
    }
    println!("ok      kube-proxy does not run here");
    let (found, missing) = kube_proxy::find();
    for program in missing {
        println!("note    {program} is not installed: its rules are not checked");
    }
    if found.is_empty() {
        println!("ok      kube-proxy left nothing");
        return Ok(());
    }
    for leftover in &found {
        if is_confirmed {
            leftover.remove()?;
            println!("removed {leftover}");
        } else {
            println!("would remove {leftover}");
        }
    }
    if is_confirmed {
        println!(
            "\nConnections that kube-proxy translated continue: they are in the kernel's connection \
             tracking.\nTo go back, deploy kube-proxy again, which writes its rules again, and then \
             run `headgate cleanup`."
        );
    } else {
        println!("\nNothing was changed. To remove it: headgate replace-kube-proxy --yes");
    }
    Ok(())
}
