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
    let mut writer = Writer {
        maps: Maps::open_writable(pins)?,
        root: cgroups,
        written: None,
        failure: None,
    };
    let client = api_servers::client(config.api_servers_file.as_deref()).await?;
    let (sender, mut pods) = watch::channel(None);
    let write = async {
        loop {
            let wanted = pods.borrow_and_update().clone();
            let is_complete = wanted.is_none_or(|wanted| writer.write(&wanted));
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

/// Writes cgroups of pods.
struct Writer<'a> {
    maps: Maps<ReadWrite>,
    /// The cgroup that all pods are in.
    root: &'a Path,
    written: Option<BTreeSet<u64>>,
    /// The last error that was logged.
    failure: Option<String>,
}

impl Writer<'_> {
    /// Writes the cgroups of these pods; false if one has no cgroup yet, or the map cannot be written.
    fn write(&mut self, pods: &BTreeSet<String>) -> bool {
        let find = |uid: &String| pod_cgroup(self.root, uid).ok().flatten();
        let found: BTreeSet<u64> = pods.iter().filter_map(find).collect();
        let is_complete = found.len() == pods.len();
        if self.written.as_ref() == Some(&found) {
            return is_complete;
        }
        if let Err(error) = write_left_cgroups(&mut self.maps, &found) {
            let error = error.to_string();
            if self.failure.as_ref() != Some(&error) {
                warn!(error, "sockets of pods that have opted out are balanced");
            }
            self.failure = Some(error);
            return false;
        }
        info!(
            pods = found.len(),
            "sockets of pods are left to their packets"
        );
        (self.written, self.failure) = (Some(found), None);
        is_complete
    }
}
