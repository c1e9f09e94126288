//! Programs of the agent: loaded, attached, and attached again where they are lost.

#[cfg(feature = "trace")]
use std::time::Duration;
use std::{
    collections::BTreeMap,
    mem,
    thread::{self, JoinHandle},
};

use anyhow::{Result, anyhow, ensure};
use headgate_abi::{DatapathConfig, names};
use headgate_dataplane::{
    Attached, Attachment, Device, Error, Feature, Larger, MapSizes, Maps, Programs, ReadWrite,
    Role, Steering, attach_cgroup, attach_egress, attach_ingress, attach_lookup, attached,
    detach_others, grow, is_attached, load, write_sources, write_xdp_targets, xdp_targets,
};
#[cfg(feature = "trace")]
use tokio::{task, time::sleep};
use tracing::{info, instrument, warn};

use super::{
    config::{DatapathSettings, HookConfig},
    node::Facts,
};

/// How often the log of the programs is read.
#[cfg(feature = "trace")]
const LOG_INTERVAL: Duration = Duration::from_millis(50);

/// Programs over larger maps, and the configuration that they have.
type Prepared = Result<(DatapathConfig, Programs, Larger), Error>;

/// Loaded and attached programs.
pub(super) struct Hooks {
    config: HookConfig,
    settings: DatapathSettings,
    programs: Programs,
    /// Configuration that the programs were loaded with.
    loaded: DatapathConfig,
    /// What the programs were attached for last.
    facts: Facts,
    /// Prepares larger maps.
    preparation: Option<JoinHandle<Prepared>>,
    /// How the programs of each device were attached last.
    known: BTreeMap<Device, Attached>,
    #[cfg(feature = "trace")]
    log: Option<task::JoinHandle<()>>,
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
            facts: facts.clone(),
            preparation: None,
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
        self.facts = facts.clone();
        self.attach(facts)?;
        Ok(())
    }

    /// Replaces the maps that the agent writes by larger ones, of at least these sizes, with the same contents, and
    /// returns them; no packet meets other contents. `None` while they, and programs, are prepared by a thread.
    pub(super) fn grow(&mut self, sizes: &MapSizes) -> Result<Option<Maps<ReadWrite>>> {
        let Some(preparation) = self.preparation.take_if(|running| running.is_finished()) else {
            if self.preparation.is_none() {
                let (pins, config) = (self.config.pins.clone(), self.loaded);
                let (sizes, most) = (*sizes, self.settings.most_map_bytes);
                let former = self.programs.loaded();
                self.preparation = Some(thread::spawn(move || {
                    let (programs, larger) = grow(&pins, &config, &sizes, most, &former)?;
                    Ok((config, programs, larger))
                }));
            }
            return Ok(None);
        };
        let prepared = preparation.join().map_err(|_panic| anyhow!("a panic"))?;
        let (config, programs, larger) = prepared?;
        // The node's addresses may have changed meanwhile.
        if config != self.loaded {
            return Ok(None);
        }
        larger.copy()?;
        let former = mem::replace(&mut self.programs, programs);
        let facts = self.facts.clone();
        let attached = self.attach(&facts).and_then(|failed| {
            ensure!(failed == 0, "{failed} devices did not get new programs");
            Ok(())
        });
        if let Err(error) = attached {
            self.programs = former;
            self.attach(&facts)?;
            return Err(error);
        }
        larger.keep()?;
        #[cfg(feature = "trace")]
        self.follow_log()?;
        Ok(Some(Maps::open_writable(&self.config.pins)?))
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
            self.attach(facts)?;
            return Ok(());
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

    /// Attaches the programs for what comes in on a device; returns whether that worked.
    fn attach_ingress(&mut self, device: &Device) -> bool {
        let (pins, how) = (&self.config.pins, self.config.tc_attach);
        match attach_ingress(&mut self.programs, pins, device, how) {
            Ok(attached) => {
                let before = self.known.insert(device.clone(), attached);
                if before != Some(attached) {
                    info!(device = device.name, ?attached, "attached");
                }
                true
            }
            Err(error) => {
                warn!(device = device.name, %error, "cannot attach to ingress");
                false
            }
        }
    }

    /// Attaches the programs to all devices; returns how many devices failed.
    #[instrument(skip_all, fields(devices = facts.devices.len()))]
    fn attach(&mut self, facts: &Facts) -> Result<usize> {
        let mut failed = 0;
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
                failed += 1;
            }
        }
        for device in devices {
            failed += usize::from(!self.attach_ingress(device));
        }
        self.known.retain(|device, _| devices.contains(device));
        detach_others(pins, devices, self.config.proxy_user.is_some())?;
        self.connect();
        Ok(failed)
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
