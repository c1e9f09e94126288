//! Programs of the agent: loaded, attached, and attached again where they are lost.

use std::collections::{BTreeMap, BTreeSet};
#[cfg(feature = "trace")]
use std::time::Duration;

use anyhow::{Result, ensure};
use headgate_abi::DatapathConfig;
use headgate_dataplane::{
    Device, Feature, Programs, Steering, attach_cgroup, attach_egress, attach_ingress,
    attach_lookup, attached, detach, is_attached, load,
};
#[cfg(feature = "trace")]
use tokio::{task::JoinHandle, time::sleep};
use tracing::{info, instrument, warn};

use super::{
    config::{DatapathSettings, HookConfig},
    node::Facts,
};

/// How often the log of the programs is read.
#[cfg(feature = "trace")]
const LOG_INTERVAL: Duration = Duration::from_millis(50);

/// Loaded and attached programs.
pub(super) struct Hooks {
    config: HookConfig,
    settings: DatapathSettings,
    programs: Programs,
    /// Configuration that the programs were loaded with.
    loaded: DatapathConfig,
    /// How the programs of each device were attached last.
    known: BTreeMap<Device, String>,
    #[cfg(feature = "trace")]
    log: Option<JoinHandle<()>>,
}

impl Hooks {
    /// Loads the programs and attaches them to the devices.
    pub(super) fn load(
        config: HookConfig,
        settings: DatapathSettings,
        facts: &Facts,
    ) -> Result<Self> {
        let loaded = settings.config(facts);
        let mut hooks = Self {
            programs: load(&config.pins, &loaded, &settings.sizes)?,
            loaded,
            known: BTreeMap::new(),
            config,
            settings,
            #[cfg(feature = "trace")]
            log: None,
        };
        #[cfg(feature = "trace")]
        hooks.follow_log()?;
        hooks.attach(&facts.devices)?;
        Ok(hooks)
    }

    /// Attaches to the devices that the node has now. Addresses are read-only globals of the
    /// programs: if they changed, new programs replace the old ones.
    pub(super) fn follow(&mut self, facts: &Facts) -> Result<()> {
        let wanted = self.settings.config(facts);
        if wanted != self.loaded {
            self.programs = load(&self.config.pins, &wanted, &self.settings.sizes)?;
            self.loaded = wanted;
            #[cfg(feature = "trace")]
            self.follow_log()?;
        }
        self.attach(&facts.devices)
    }

    /// Attaches again what other programs removed: TC filters, which end with their qdisc. BPF links
    /// cannot be removed by others.
    pub(super) fn review(&mut self, facts: &Facts) -> Result<()> {
        let attached = attached(&self.config.pins)?;
        let is_lost = |device: &&Device| !is_attached(&attached, device);
        let lost: Vec<&str> = facts
            .devices
            .iter()
            .filter(is_lost)
            .map(Device::name)
            .collect();
        if lost.is_empty() {
            return Ok(());
        }
        warn!(devices = lost.join(","), "programs are missing");
        self.attach(&facts.devices)
    }

    /// Prints what the programs log, if they are a trace build.
    #[cfg(feature = "trace")]
    fn follow_log(&mut self) -> Result<()> {
        if let Some(log) = self.log.take() {
            log.abort();
        }
        if let Some(mut logger) = self.programs.logger()? {
            self.log = Some(tokio::spawn(async move {
                loop {
                    logger.flush();
                    sleep(LOG_INTERVAL).await;
                }
            }));
        }
        Ok(())
    }

    #[instrument(skip_all, fields(devices = devices.len()))]
    fn attach(&mut self, devices: &BTreeSet<Device>) -> Result<()> {
        let (pins, how) = (&self.config.pins, self.config.tc_attach);
        attach_cgroup(&mut self.programs, pins, &self.config.cgroup)?;
        if let Some(user) = self.config.proxy_user
            && let Err(error) = steer(&mut self.programs, &self.config, user)
        {
            warn!(
                error = format!("{error:#}"),
                user, "the L7 proxy gets no connections"
            );
        }
        // A device may be deleted at any moment: an error is logged, and the others are attached.
        for device in devices {
            if let Err(error) = attach_egress(&mut self.programs, pins, device, how) {
                warn!(device = device.name(), %error, "cannot attach to egress");
            }
        }
        for device in devices {
            match attach_ingress(&mut self.programs, pins, device, how) {
                Ok(attached) => {
                    let how = format!("{attached:?}");
                    if self.known.get(device) != Some(&how) {
                        info!(device = device.name(), attached = how, "attached");
                    }
                    self.known.insert(device.clone(), how);
                }
                Err(error) => warn!(device = device.name(), %error, "cannot attach to ingress"),
            }
        }
        self.known.retain(|device, _| devices.contains(device));
        self.detach_others(devices)
    }

    /// Detaches from devices that are not ours any more.
    fn detach_others(&self, devices: &BTreeSet<Device>) -> Result<()> {
        let is_ours = |name: &str| match name {
            "cgroup" => true,
            "netns" => self.config.proxy_user.is_some(),
            _ => devices.iter().any(|device| device.name() == name),
        };
        for link in attached(&self.config.pins)? {
            if let Some((_, device)) = link.split_once('@')
                && !is_ours(device)
            {
                detach(&self.config.pins, device)?;
            }
        }
        Ok(())
    }
}

/// Allows the proxy that runs as `user` to receive connections.
fn steer(programs: &mut Programs, config: &HookConfig, user: u32) -> Result<()> {
    ensure!(
        Feature::SocketLookup.is_there()?,
        "this kernel has no {}",
        Feature::SocketLookup.name()
    );
    attach_lookup(programs, &config.pins)?;
    Steering::allow(&config.pins, user)?;
    Ok(())
}
