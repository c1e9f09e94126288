//! The maps of the kernel, with or without capacity for everything.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use headgate_abi::{
    Addr, AddressEntry, BackendEntry, DatapathConfig, FrontendEntry, FrontendKey, Port, Protocol,
};
use headgate_dataplane::{Error, MapSizes, MapWriter, Maps, ReadWrite, load};
use headgate_model::{Actual, Change, Dataplane, Restored, Sweep};

use crate::{agent::World, cluster::Stray};

/// Slots of a Maglev table.
const TABLE: u32 = 251;

/// Pinned maps that are removed on drop.
pub(crate) struct Real<const HAS_ROOM: bool> {
    writer: MapWriter,
    pins: PathBuf,
}

impl<const HAS_ROOM: bool> Real<HAS_ROOM> {
    fn maps(&self) -> Maps<ReadWrite> {
        Maps::open_writable(&self.pins).unwrap()
    }
}

impl<const HAS_ROOM: bool> Drop for Real<HAS_ROOM> {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.pins) {
            eprintln!("left behind {}: {error}", self.pins.display());
        }
    }
}

impl<const HAS_ROOM: bool> Dataplane for Real<HAS_ROOM> {
    type Error = Error;

    fn restore(&mut self) -> Result<Restored, Error> {
        self.writer.restore()
    }

    fn apply(&mut self, change: &Change) -> Result<(), Error> {
        self.writer.apply(change)
    }

    fn step_sweep(&mut self) -> Result<Sweep, Error> {
        self.writer.step_sweep()
    }
}

impl<const HAS_ROOM: bool> World for Real<HAS_ROOM> {
    const HAS_ROOM: bool = HAS_ROOM;

    fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIPPED: sequences in the kernel: making maps needs root");
            return None;
        }
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("hgtest-{}-sequence-{number}", std::process::id());
        let pins = Path::new("/sys/fs/bpf").join(name);
        // The slots of a replaced table are reused only after some seconds, so there are many.
        let (few, slots) = if HAS_ROOM {
            (256, 1 << 18)
        } else {
            (10, 1 << 12)
        };
        let sizes = MapSizes {
            frontends: few,
            services: few,
            backends: few,
            source_ranges: few / 4,
            slots,
            connections: 64,
            sockets: 64,
            ..MapSizes::default()
        };
        drop(load(&pins, &DatapathConfig::default(), &sizes).unwrap());
        let maps = Maps::open_writable(&pins).unwrap();
        Some(Self {
            writer: MapWriter::new(maps, 7, TABLE),
            pins,
        })
    }

    fn holds(&mut self) -> Actual {
        let mut reader = MapWriter::new(self.maps(), 7, TABLE);
        let Restored { actual, repairs } = reader.restore().unwrap();
        assert_eq!(repairs, 0, "invalid entries");
        let maps = self.maps();
        if actual.services.is_empty() {
            assert_eq!(maps.source_ranges.keys().count(), 0, "ranges are left");
            assert_eq!(maps.members.keys().count(), 0, "members are left");
        }
        actual
    }

    fn tamper(&mut self, stray: Stray) {
        let mut maps = self.maps();
        match stray {
            Stray::LoseFrontend => {
                let first = maps.frontends.keys().next().transpose().unwrap();
                if let Some(key) = first {
                    maps.frontends.remove(&key).unwrap();
                }
            }
            Stray::AddFrontend => {
                let address = Addr::from(std::net::IpAddr::from([10, 96, 0, 1]));
                let key = FrontendKey::new(address, Port::new(9), Protocol::TCP);
                let entry = FrontendEntry {
                    inside: 60,
                    outside: 61,
                    ..FrontendEntry::default()
                };
                // If there is room.
                drop(maps.frontends.insert(key, entry, 0));
            }
            Stray::LoseAddress => {
                let first = maps.addresses.keys().next().transpose().unwrap();
                if let Some(key) = first {
                    maps.addresses.remove(&key).unwrap();
                }
            }
            Stray::AddAddress => {
                let address = Addr::from(std::net::IpAddr::from([10, 96, 9, 9]));
                drop(maps.addresses.insert(address, AddressEntry::SERVICE, 0));
            }
            Stray::ChangeBackend => {
                if let Some(entry) = maps
                    .backends
                    .get(1)
                    .filter(|entry| entry.port.number() != 0)
                {
                    let entry = BackendEntry {
                        port: Port::new(9),
                        ..entry
                    };
                    assert!(maps.backends.set(1, entry));
                }
            }
        }
    }
}
