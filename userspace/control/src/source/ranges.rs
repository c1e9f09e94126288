//! ServiceCIDRs of the Kubernetes API.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::{
    Api, Client, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use tokio::sync::watch;
use tracing::debug;

/// Keeps `ranges` equal to the ranges of the API's ServiceCIDRs (Kubernetes 1.33). Ends only with the
/// client. While the API does not serve them, or does not let the agent read them, `ranges` stays.
pub async fn follow_service_ranges(client: Client, ranges: watch::Sender<Vec<IpNet>>) {
    let api = Api::<ServiceCIDR>::all(client);
    let mut stream = watcher(api, watcher::Config::default())
        .default_backoff()
        .boxed();
    let mut known = BTreeMap::new();
    let mut is_listing = false;
    loop {
        match stream.try_next().await {
            Ok(Some(watcher::Event::Init)) => {
                known.clear();
                is_listing = true;
            }
            Ok(Some(watcher::Event::InitApply(object) | watcher::Event::Apply(object))) => {
                known.insert(object.name_any(), cidrs(&object));
            }
            Ok(Some(watcher::Event::Delete(object))) => {
                known.remove(&object.name_any());
            }
            Ok(Some(watcher::Event::InitDone)) => is_listing = false,
            Ok(None) => return,
            Err(error) => {
                debug!(%error, "no ServiceCIDRs");
                continue;
            }
        }
        if !is_listing {
            let now: Vec<IpNet> = known.values().flatten().copied().collect();
            ranges.send_replace(now);
        }
    }
}

/// The ranges of one object; the API server accepts no others.
fn cidrs(object: &ServiceCIDR) -> Vec<IpNet> {
    let texts = object
        .spec
        .iter()
        .flat_map(|spec| spec.cidrs.iter().flatten());
    texts.filter_map(|text| text.parse().ok()).collect()
}
