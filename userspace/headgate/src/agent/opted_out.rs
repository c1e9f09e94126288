//! Pods whose sockets are left to the packet path: from labels in the Kubernetes API to cgroups in a map.

use std::{collections::BTreeSet, future::pending, path::Path, time::Duration};

use anyhow::Result;
use headgate_control::follow_opted_out;
use headgate_dataplane::{Maps, ReadWrite, pod_cgroup, write_left_cgroups};
use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

use super::config::NodeConfig;
use crate::api_servers;

/// How often the cgroup of a pod is searched that the kubelet has not made yet.
const SEARCH_INTERVAL: Duration = Duration::from_millis(200);

/// Keeps the map of cgroups up to date, if pods decide by a label.
pub(super) async fn follow(config: &NodeConfig, cgroups: &Path, pins: &Path) -> Result<()> {
    if !config.pods_opt_out {
        return pending().await;
    }
    let mut maps = Maps::open_writable(pins)?;
    let client = api_servers::client(config.api_servers_file.as_deref()).await?;
    let (sender, mut pods) = watch::channel(None);
    let write = async {
        loop {
            let wanted = pods.borrow_and_update().clone();
            let is_complete = wanted.is_none_or(|wanted| write(&mut maps, cgroups, &wanted));
            tokio::select! {
                changed = pods.changed() => if changed.is_err() {
                    return;
                },
                () = sleep(SEARCH_INTERVAL), if !is_complete => {}
            }
        }
    };
    tokio::join!(follow_opted_out(client, &config.name, sender), write);
    pending().await
}

/// Writes the cgroups of these pods; false if one has no cgroup yet, or the map cannot be written.
fn write(maps: &mut Maps<ReadWrite>, root: &Path, pods: &BTreeSet<String>) -> bool {
    let find = |uid: &String| pod_cgroup(root, uid).ok().flatten();
    let cgroups: BTreeSet<u64> = pods.iter().filter_map(find).collect();
    if let Err(error) = write_left_cgroups(maps, &cgroups) {
        warn!(%error, "sockets of pods that opted out are balanced");
        return false;
    }
    info!(
        pods = cgroups.len(),
        "sockets of pods are left to their packets"
    );
    cgroups.len() == pods.len()
}
