//! The ranges of Service addresses: from an option, else from the Kubernetes API.

use std::{future::pending, path::Path};

use anyhow::Result;
use headgate_control::{Status, follow_service_ranges};
use headgate_dataplane::{Maps, ReadWrite, write_service_ranges};
use ipnet::IpNet;
use tokio::sync::watch;
use tracing::warn;

use super::{args::ServiceCidr, config::NodeConfig};
use crate::api_servers;

/// Keeps the map of ranges up to date, once every Service is in the maps: before that, an address in a
/// range may have a Service.
pub(super) async fn follow(
    config: &NodeConfig,
    pins: &Path,
    mut statuses: watch::Receiver<Status>,
) -> Result<()> {
    let maps = Maps::open_writable(pins)?;
    // Addresses in the ranges may be of Services that another proxy serves.
    let is_from_api =
        config.service_cidrs.is_empty() && config.source.is_none() && !config.served.is_part();
    let client = match is_from_api {
        true => Some(api_servers::client(config.api_servers_file.as_deref()).await?),
        false => None,
    };
    statuses.wait_for(|status| status.is_synced).await?;
    if let Some(client) = client {
        let (sender, ranges) = watch::channel(Vec::new());
        tokio::join!(follow_service_ranges(client, sender), write(&maps, ranges));
    } else {
        let given = config.service_cidrs.iter().filter_map(|cidr| match cidr {
            ServiceCidr::None => None,
            ServiceCidr::Range(range) => Some(*range),
        });
        put(&maps, &given.collect::<Vec<IpNet>>());
    }
    pending().await
}

async fn write(maps: &Maps<ReadWrite>, mut ranges: watch::Receiver<Vec<IpNet>>) {
    while ranges.changed().await.is_ok() {
        let now = ranges.borrow_and_update().clone();
        put(maps, &now);
    }
}

fn put(maps: &Maps<ReadWrite>, ranges: &[IpNet]) {
    for range in write_service_ranges(maps, ranges) {
        warn!(%range, "one range of Service addresses too many: unused addresses in it are not refused");
    }
}
