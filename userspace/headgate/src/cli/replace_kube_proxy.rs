//! Removes the rules that kube-proxy left on this node.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use headgate_dataplane::{Handover, netfilter::keep_translating};

use super::doctor::is_programmed;
use crate::kube_proxy::{self, Found, Leftover, TAKEOVER_TABLE};

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
    let Found { leftovers, unknown } = kube_proxy::find();
    for leftover in &leftovers {
        if !is_confirmed {
            println!("would remove {leftover}");
        }
    }
    for what in &unknown {
        println!("UNKNOWN {what}");
    }
    if is_confirmed && !leftovers.is_empty() {
        remove(pins, &leftovers)?;
    }
    ensure!(
        unknown.is_empty(),
        "not everything could be checked on this node; what is unknown stays"
    );
    match (leftovers.is_empty(), is_confirmed) {
        (true, _) => println!("ok      kube-proxy left nothing"),
        (false, true) => println!(
            "\nOpen connections that kube-proxy translated continue until they end. To go back, deploy \
             kube-proxy again, which writes its rules again, delete the agent, and then run `headgate \
             cleanup`."
        ),
        (false, false) => {
            println!("\nNothing was changed. To remove it: headgate replace-kube-proxy --yes");
        }
    }
    Ok(())
}

/// Removes the rules, so that the connections that they translated stay.
fn remove(pins: &Path, leftovers: &[Leftover]) -> Result<()> {
    let handover = Handover::open(pins)?;
    // Without rules the kernel would translate nothing, and drop new connections whose replies would be those
    // of one that was translated. The agent removes the table once none of these is left.
    keep_translating(TAKEOVER_TABLE).context("cannot keep connection tracking on")?;
    for leftover in leftovers {
        leftover.remove()?;
        println!("removed {leftover}");
    }
    let closed = handover.forget_closed()?;
    println!("removed {closed} closed connections of its rules");
    Ok(())
}
