//! Pods of this node whose sockets are not balanced.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    core::PartialObjectMeta,
    runtime::{WatchStreamExt, watcher},
};
use tokio::sync::watch;
use tracing::warn;

/// The label of pods whose sockets are left to the packet path.
const OPTED_OUT: &str = "headgate.io/socket-balancing=disabled";
/// The name of a static pod's cgroup has this instead of the UID that the API shows.
const HASH: &str = "kubernetes.io/config.hash";

/// Keeps `pods` equal to the UIDs of the pods of the node `node` that run and have the label
/// `headgate.io/socket-balancing=disabled`; `None` until they are listed. Only their metadata is read. Ends only with
/// the client. While the API does not answer, `pods` stays.
pub async fn follow_opted_out(
    client: Client,
    node: &str,
    pods: watch::Sender<Option<BTreeSet<String>>>,
) {
    let api = Api::<PartialObjectMeta<Pod>>::all(client);
    let running = format!("spec.nodeName={node},status.phase!=Succeeded,status.phase!=Failed");
    let config = watcher::Config::default()
        .labels(OPTED_OUT)
        .fields(&running);
    let mut stream = watcher(api, config).default_backoff().boxed();
    let mut known = BTreeMap::new();
    let (mut is_listing, mut is_failing) = (false, false);
    loop {
        let name = |pod: &PartialObjectMeta<Pod>| (pod.namespace(), pod.name_any());
        match stream.try_next().await {
            Ok(Some(watcher::Event::Init)) => {
                known.clear();
                is_listing = true;
                continue;
            }
            Ok(Some(watcher::Event::InitApply(pod) | watcher::Event::Apply(pod))) => {
                known.insert(name(&pod), uid(&pod));
            }
            Ok(Some(watcher::Event::Delete(pod))) => {
                known.remove(&name(&pod));
            }
            Ok(Some(watcher::Event::InitDone)) => is_listing = false,
            Ok(None) => return,
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    warn!(%error, "cannot watch pods: sockets of new ones are balanced, whatever their labels");
                }
                continue;
            }
        }
        is_failing = false;
        if !is_listing {
            pods.send_replace(Some(known.values().flatten().cloned().collect()));
        }
    }
}

/// The UID in the name of a pod's cgroup.
fn uid(pod: &PartialObjectMeta<Pod>) -> Option<String> {
    pod.annotations().get(HASH).cloned().or_else(|| pod.uid())
}
