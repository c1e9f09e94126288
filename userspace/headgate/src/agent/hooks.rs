//! Programs of the agent: loaded, attached, and attached again where they are lost.

use std::collections::BTreeMap;
#[cfg(feature = "trace")]
use std::time::Duration;

use anyhow::{Result, ensure};
use headgate_abi::{DatapathConfig, names};
use headgate_dataplane::{
    Attached, Attachment, Device, Feature, Programs, Role, Steering, attach_cgroup, attach_egress,
    attach_ingress, attach_lookup, attached, detach_others, is_attached, load, write_sources,
    write_xdp_targets, xdp_targets,
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
    known: BTreeMap<Device, Attached>,
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
        ensure!(
            !loaded.has_dsr() || facts.doubtful.is_empty(),
            "direct server return: device {} may lead to pods, which must not send encapsulated packets; name it \
             with --devices or --pod-devices",
            facts.doubtful.join(", ")
        );
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
        hooks.attach(facts)?;
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
        self.attach(facts)
    }

    /// Attaches again what is missing: TC filters, which others may remove and which end with their qdisc, links of
    /// devices that are not there any more, and XDP that another program kept away.
    pub(super) fn review(&mut self, facts: &Facts) -> Result<()> {
        let attached = attached(&self.config.pins)?;
        let devices = facts.devices_by(&self.loaded);
        let lost: Vec<&str> = devices
            .iter()
            .filter(|device| !is_attached(&attached, device))
            .map(|device| device.name.as_str())
            .collect();
        if !lost.is_empty() {
            warn!(devices = lost.join(","), "programs are missing");
            return self.attach(facts);
        }
        for device in devices.iter().filter(|device| lacks_xdp(&attached, device)) {
            self.attach_ingress(device);
        }
        self.connect();
        Ok(())
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

    fn attach_ingress(&mut self, device: &Device) {
        let (pins, how) = (&self.config.pins, self.config.tc_attach);
        match attach_ingress(&mut self.programs, pins, device, how) {
            Ok(attached) => {
                let before = self.known.insert(device.clone(), attached);
                if before != Some(attached) {
                    info!(device = device.name, ?attached, "attached");
                }
            }
            Err(error) => warn!(device = device.name, %error, "cannot attach to ingress"),
        }
    }

    #[instrument(skip_all, fields(devices = facts.devices.len()))]
    fn attach(&mut self, facts: &Facts) -> Result<()> {
        let devices = &facts.devices_by(&self.loaded);
        let (pins, how) = (&self.config.pins.clone(), self.config.tc_attach);
        if let Err(error) = write_sources(pins, &facts.sources) {
            warn!(%error, "packets to other nodes get the address of the default route");
        }
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
                warn!(device = device.name, %error, "cannot attach to egress");
            }
        }
        for device in devices {
            self.attach_ingress(device);
        }
        self.known.retain(|device, _| devices.contains(device));
        detach_others(pins, devices, self.config.proxy_user.is_some())?;
        self.connect();
        Ok(())
    }

    /// Lets XDP send frames of other devices to those that have XDP, if their drivers take such frames. That may
    /// change at any time.
    fn connect(&self) {
        let targets = xdp_targets().map_err(anyhow::Error::from).and_then(|able| {
            let native = self
                .known
                .iter()
                .filter(|(_, how)| **how == Attached::Native);
            let numbers = native.map(|(device, _)| device.index);
            let targets = numbers.filter(|index| able.contains(index)).collect();
            Ok(write_xdp_targets(&self.config.pins, &targets)?)
        });
        if let Err(error) = targets {
            warn!(
                error = format!("{error:#}"),
                "XDP leaves packets for other devices to TC"
            );
        }
    }
}

/// Whether a device is to have XDP, and has not: its driver lacks it, or another program has its place.
fn lacks_xdp(attached: &[Attachment], device: &Device) -> bool {
    let is_xdp =
        |link: &Attachment| link.index == device.index && link.program == names::XDP_EXTERNAL;
    device.wants_xdp && device.role == Role::External && !attached.iter().any(is_xdp)
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
