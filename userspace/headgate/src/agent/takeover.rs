//! Takes over from kube-proxy's rules while they are there, and from the connections that they leave.

use std::{future::pending, io, path::Path, time::Duration};

use anyhow::{Context, Result};
use headgate_abi::Takeover;
use headgate_control::Status;
use headgate_dataplane::{
    Handover,
    netfilter::{NftFamily, delete_table, tables, translated},
};
use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use tracing::{info, warn};

use crate::kube_proxy::{self, TAKEOVER_TABLE};

/// How often the connections of other rules are read.
const INTERVAL: Duration = Duration::from_secs(5);

/// A takeover that has begun.
pub(super) struct TakingOver {
    handover: Handover,
    /// The last error that was logged.
    failure: Option<String>,
}

impl TakingOver {
    /// Begins a takeover if other rules of this node translate packets, or have translated open connections.
    pub(super) fn begin(pins: &Path) -> Result<Option<Self>> {
        let mut handover = Handover::open(pins)?;
        match has_others() {
            Ok(false) => {
                handover.release()?;
                handover.set(Takeover::DONE)?;
                return Ok(None);
            }
            Ok(true) => {}
            Err(error) => warn!(
                %error,
                "cannot read the kernel's rules: as if kube-proxy's were there"
            ),
        }
        handover.set(Takeover::BEGUN)?;
        let mut takeover = Self {
            handover,
            failure: None,
        };
        // Connections that are open now, before the first frontend is written.
        takeover.step();
        Ok(Some(takeover))
    }

    /// Reads the connections of other rules; returns whether neither they nor the rules are left.
    fn step(&mut self) -> bool {
        match self.read() {
            Ok(is_over) => {
                self.failure = None;
                is_over
            }
            Err(error) => {
                let error = format!("{error:#}");
                if self.failure.as_ref() != Some(&error) {
                    warn!(error, "connections of kube-proxy's rules may break");
                }
                self.failure = Some(error);
                false
            }
        }
    }

    fn read(&mut self) -> Result<bool> {
        // The rules first: they may open connections until they are gone.
        let has_rules = kube_proxy::translates().context("cannot read kube-proxy's rules")?;
        let count = self.handover.adopt()?;
        Ok(!has_rules && count == 0)
    }

    fn end(&self) -> Result<()> {
        self.handover.set(Takeover::DONE)?;
        delete_table(NftFamily::Inet, TAKEOVER_TABLE)?;
        if let Err(error) = self.handover.end_older_sockets() {
            warn!(%error, "UDP sockets of this node that kube-proxy's rules translated get no answers");
        }
        Ok(())
    }
}

/// Whether there are rules of kube-proxy, connections that rules have translated, or what an earlier takeover
/// left.
fn has_others() -> io::Result<bool> {
    Ok(kube_proxy::translates()?
        || !translated()?.is_empty()
        || tables()?.iter().any(|(_, name)| name == TAKEOVER_TABLE))
}

/// Follows the connections of other rules until none is left.
pub(super) async fn follow(
    takeover: Option<TakingOver>,
    mut statuses: watch::Receiver<Status>,
) -> Result<()> {
    let Some(mut takeover) = takeover else {
        return pending().await;
    };
    // Before, it is not known which connections are to Services.
    statuses.wait_for(|status| status.is_synced).await?;
    loop {
        // Reading many connections takes a while, and the agent's one thread writes the maps.
        let (next, is_over) = spawn_blocking(move || {
            let is_over = takeover.step();
            (takeover, is_over)
        })
        .await?;
        takeover = next;
        if is_over {
            takeover.end()?;
            info!("kube-proxy's rules and connections are gone");
            return pending().await;
        }
        sleep(INTERVAL).await;
    }
}
