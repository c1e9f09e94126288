//! Takeovers that were interrupted, with maps of the kernel. Of the programs only that of socket lookup is attached: it is
//! loaded quickly.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

use headgate_abi::{CtEntry, CtState, DatapathConfig, FlowKey, Port, Protocol, names};
use nix::{
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};

use super::{Migration, mark, move_links};
use crate::{
    attach::attach_lookup,
    copy::Copy,
    grow::{grow, interrupt},
    load::{MapSizes, load_as, load_with, make_folder},
    other::other,
    pin::hash,
    raw::RawMap,
    version::Version,
};

const SIZES: MapSizes = MapSizes {
    frontends: 64,
    services: 64,
    backends: 64,
    slots: 64,
    source_ranges: 64,
    members: 64,
    affinities: 64,
    connections: 1024,
    sockets: 64,
};

/// A folder for pins, in which this version is attached. Removed on drop.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        let _left = fs::remove_dir_all(&self.0);
    }
}

impl Pins {
    fn load(&self, version: &Version, sizes: &MapSizes) {
        load_as(version, &self.0, &DatapathConfig::default(), sizes).unwrap();
    }

    fn folder(&self, version: &Version) -> PathBuf {
        version.folder(&self.0)
    }

    /// Writes the entry of a connection into the map at this path: to a backend, with its last packet in this second.
    fn write(&self, map: PathBuf, port: u16, (backend, seen_s): (u16, u32)) {
        let map = RawMap::open(map).unwrap();
        let entry = CtEntry {
            destination_port: Port::new(backend),
            seen_s,
            state: CtState::ESTABLISHED,
            ..CtEntry::default()
        };
        // As bytes, because the other version has larger values.
        let (key, mut value) = bytes(&flow(port), &entry);
        value.resize(map.value_size(), 0);
        map.put(&key, &value).unwrap();
    }

    /// The backend of a connection, and the second of its last packet.
    fn read(&self, port: u16) -> Option<(u16, u32)> {
        let folder = self.folder(&Version::ours());
        let map = hash::<FlowKey, CtEntry>(&folder, names::CONNTRACK).unwrap();
        let entry = map.get(&flow(port), 0).ok()?;
        Some((entry.destination_port.number(), entry.seen_s))
    }

    /// Begins to take over, and ends when the links have moved, as if killed.
    fn interrupt(&self, version: &Version) {
        let migration = Migration::find(&self.0, version).unwrap().unwrap();
        let (_, mut copies) = migration
            .prepare(&DatapathConfig::default(), &SIZES)
            .unwrap();
        copies.iter_mut().try_for_each(Copy::step).unwrap();
        move_links(&migration.from, &migration.to).unwrap();
    }

    fn versions(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }
}

fn flow(port: u16) -> FlowKey {
    FlowKey {
        source_port: Port::new(port),
        protocol: Protocol::TCP,
        ..FlowKey::default()
    }
}

fn bytes(key: &FlowKey, value: &CtEntry) -> (Vec<u8>, Vec<u8>) {
    (
        bytemuck::bytes_of(key).into(),
        bytemuck::bytes_of(value).into(),
    )
}

/// Runs a test in a network namespace of its own, with this version attached.
fn attached(name: &str, test: fn(&Pins)) {
    if !geteuid().is_root() {
        println!("SKIPPED: {name}: loading programs needs root");
        return;
    }
    let folder = format!("/sys/fs/bpf/hgtest-{}-{name}", std::process::id());
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let pins = Pins(folder.into());
        let (config, ours) = (DatapathConfig::default(), Version::ours());
        let mut programs = load_as(&ours, &pins.0, &config, &SIZES).unwrap();
        attach_lookup(&mut programs, &pins.0).unwrap();
        test(&pins);
    };
    if let Err(panic) = thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

fn connections(folder: &Path) -> PathBuf {
    folder.join(names::CONNTRACK)
}

#[test]
fn s197_a_takeover_that_is_resumed_keeps_the_later_entries() {
    attached("s197", |pins| {
        let (ours, other) = (Version::ours(), other());
        let [to, from] = [&ours, &other].map(|version| pins.folder(version));
        for port in 1..=3 {
            pins.write(connections(&to), port, (1, 10));
        }
        pins.load(&other, &SIZES);
        pins.interrupt(&ours);
        // The former programs have opened it again, where they are still attached.
        pins.write(connections(&from), 1, (2, 20));
        // The new ones have.
        pins.write(connections(&to), 2, (3, 20));
        // Each has opened another one.
        pins.write(connections(&from), 4, (4, 20));
        pins.write(connections(&to), 5, (5, 20));
        pins.load(&ours, &SIZES);
        let found = [1, 2, 3, 4, 5].map(|port| pins.read(port).unwrap());
        assert_eq!(found, [(2, 20), (3, 20), (1, 10), (4, 20), (5, 20)]);
        assert_eq!(pins.versions(), [format!("v{}", ours.number)]);
        assert!(!mark(&to, &from).exists());
    });
}

#[test]
fn s197_the_way_back_from_an_interrupted_takeover_loses_nothing() {
    attached("s197b", |pins| {
        let (ours, other) = (Version::ours(), other());
        let [ours_at, other_at] = [&ours, &other].map(|version| pins.folder(version));
        pins.write(connections(&ours_at), 1, (1, 10));
        pins.write(connections(&ours_at), 2, (1, 10));
        pins.interrupt(&other);
        pins.write(connections(&ours_at), 1, (2, 20));
        pins.write(connections(&ours_at), 3, (2, 20));
        pins.write(connections(&other_at), 2, (3, 20));
        pins.write(connections(&other_at), 4, (3, 20));
        pins.load(&ours, &SIZES);
        let found = [1, 2, 3, 4].map(|port| pins.read(port).unwrap());
        assert_eq!(found, [(2, 20), (3, 20), (2, 20), (3, 20)]);
        assert_eq!(pins.versions(), [format!("v{}", ours.number)]);
    });
}

#[test]
fn s198_what_a_version_left_behind_is_removed_and_not_resumed() {
    attached("s198", |pins| {
        let (ours, other) = (Version::ours(), other());
        let [own, left] = [&ours, &other].map(|version| pins.folder(version));
        pins.write(connections(&own), 1, (1, 10));
        // All of its maps, and what remains of them after a kill.
        for is_whole in [true, false] {
            make_folder(&left).unwrap();
            let pin = |name: &str| left.join(name);
            drop(load_with(&other, &DatapathConfig::default(), &SIZES, pin).unwrap());
            for port in [1, 2] {
                pins.write(connections(&left), port, (9, 30));
            }
            if !is_whole {
                for name in [names::TAKEOVER, names::LAYOUT, names::BACKENDS] {
                    remove_pin(&left.join(name));
                }
            }
            pins.load(&ours, &SIZES);
            assert_eq!([1, 2].map(|port| pins.read(port)), [Some((1, 10)), None]);
            assert_eq!(pins.versions(), [format!("v{}", ours.number)]);
        }
        // An agent that was killed before it moved the links begins from the start: what it has copied is old.
        pins.load(&other, &SIZES);
        let migration = Migration::find(&pins.0, &ours).unwrap().unwrap();
        let prepared = migration.prepare(&DatapathConfig::default(), &SIZES);
        drop(prepared.unwrap());
        pins.write(connections(&own), 2, (9, 30));
        pins.load(&ours, &SIZES);
        assert_eq!([1, 2].map(|port| pins.read(port)), [Some((1, 10)), None]);
    });
}

fn remove_pin(path: &Path) {
    fs::remove_file(path).unwrap();
}

#[test]
fn s199_larger_maps_that_programs_have_written_are_kept() {
    attached("s199", |pins| {
        let ours = Version::ours();
        let folder = pins.folder(&ours);
        let larger = MapSizes {
            connections: 2048,
            affinities: 128,
            ..SIZES
        };
        pins.write(connections(&folder), 1, (1, 10));
        pins.write(connections(&folder), 2, (1, 10));
        let beside = interrupt(&ours, &folder, &larger);
        // The new programs, and the former ones.
        pins.write(connections(&beside), 1, (2, 20));
        pins.write(connections(&beside), 3, (2, 20));
        pins.write(connections(&folder), 2, (3, 20));
        pins.write(connections(&folder), 4, (3, 20));
        pins.load(&ours, &SIZES);
        let found = [1, 2, 3, 4].map(|port| pins.read(port).unwrap());
        assert_eq!(found, [(2, 20), (3, 20), (2, 20), (3, 20)]);
        let capacity = |name: &str| RawMap::open(folder.join(name)).unwrap().capacity();
        assert_eq!(
            [names::CONNTRACK, names::AFFINITY].map(capacity),
            [2048, 128]
        );
        assert!(!beside.exists());
        // Of another kill, everything but the mark is in its place.
        make_folder(&beside.join("in-use")).unwrap();
        pins.load(&ours, &SIZES);
        assert_eq!(pins.read(3), Some((2, 20)));
        assert!(!beside.exists());
    });
}

#[test]
fn s202_maps_that_are_made_in_another_way_are_copied() {
    attached("s202", |pins| {
        let ours = Version::ours();
        let renumbered = Version {
            number: ours.number + 1,
            layouts: ours.layouts.clone(),
            alter: |mut object| {
                // `struct bpf_map_def` of `CONNTRACK`: LRU without common lists. Of `FRAGMENTS`: half the size.
                for (map, at, value) in [
                    ([9u32, 40, 64, 1 << 18, 0], 16, 2u32),
                    ([9, 40, 20, 1 << 14, 0], 12, 1 << 13),
                ] {
                    let map: Vec<u8> = map.into_iter().flat_map(u32::to_ne_bytes).collect();
                    let start = object.windows(map.len()).position(|bytes| bytes == map);
                    let start = start.unwrap();
                    object[start + at..start + at + 4].copy_from_slice(&value.to_ne_bytes());
                }
                object
            },
        };
        pins.write(connections(&pins.folder(&ours)), 1, (1, 10));
        pins.load(&renumbered, &SIZES);
        let map = |name: &str| RawMap::open(pins.folder(&renumbered).join(name)).unwrap();
        assert_eq!(map(names::CONNTRACK).flags(), 2);
        assert_eq!(map(names::FRAGMENTS).capacity(), 1 << 13);
        // A map that does not differ is shared.
        pins.load(&ours, &SIZES);
        assert_eq!(pins.read(1), Some((1, 10)));
        let map = |name: &str| RawMap::open(pins.folder(&ours).join(name)).unwrap();
        assert_eq!(
            (
                map(names::CONNTRACK).flags(),
                map(names::FRAGMENTS).capacity()
            ),
            (0, 1 << 14)
        );
    });
}

/// Tries to load, and returns why that failed. Nothing may have changed: what is pinned, attached and written.
fn refused(pins: &Pins, version: &Version, connection: &Path) -> String {
    let links = fs::read_dir(connection.with_file_name("links")).unwrap();
    let links: Vec<_> = links.map(|link| link.unwrap().file_name()).collect();
    let before = (pins.versions(), RawMap::open(connection.into()).unwrap());
    let config = DatapathConfig::default();
    let error = load_as(version, &pins.0, &config, &SIZES).err().unwrap();
    assert_eq!(pins.versions(), before.0);
    let now = RawMap::open(connection.into()).unwrap();
    let (key, _) = bytes(&flow(1), &CtEntry::default());
    assert!(now.get(&key).unwrap().is_some());
    assert_eq!(now.value_size(), before.1.value_size());
    let still = fs::read_dir(connection.with_file_name("links")).unwrap();
    assert!(still.map(|link| link.unwrap().file_name()).eq(links));
    error.to_string()
}

#[test]
fn s211_maps_of_an_earlier_build_of_this_version_are_refused_and_left_alone() {
    attached("s211", |pins| {
        let ours = Version::ours();
        let folder = pins.folder(&ours);
        // Its connections had a field more, and its layouts were not written yet.
        fs::remove_dir_all(&folder).unwrap();
        let earlier = Version {
            number: ours.number,
            ..other()
        };
        let mut programs = load_as(&earlier, &pins.0, &DatapathConfig::default(), &SIZES).unwrap();
        attach_lookup(&mut programs, &pins.0).unwrap();
        remove_pin(&folder.join(names::LAYOUT));
        pins.write(connections(&folder), 1, (1, 10));
        let reason = refused(pins, &ours, &connections(&folder));
        assert!(
            reason.contains("CONNTRACK is not a map of Headgate: its kind or its sizes"),
            "{reason}"
        );
        assert!(reason.contains("headgate cleanup"), "{reason}");
    });
}

#[test]
fn s211_programs_of_a_version_with_unknown_layouts_are_refused_and_left_alone() {
    attached("s211b", |pins| {
        let ours = Version::ours();
        let (own, former) = (pins.folder(&ours), pins.0.join("v2"));
        pins.write(connections(&own), 1, (1, 10));
        // As ABI 2 was: without a map that says what the others hold.
        fs::rename(&own, &former).unwrap();
        remove_pin(&former.join(names::LAYOUT));
        let reason = refused(pins, &ours, &connections(&former));
        assert!(reason.contains("programs of version 2"), "{reason}");
        assert!(reason.contains("headgate cleanup"), "{reason}");
        let found = others_found(pins);
        assert_eq!(found, [(2, true, false)]);
    });
}

/// What a command says of other versions: the number, whether programs are attached, and whether an agent can take over.
fn others_found(pins: &Pins) -> Vec<(u32, bool, bool)> {
    let found = super::other_versions(&pins.0).unwrap();
    let row = |one: &super::OtherVersion| (one.number, one.is_attached, one.is_known);
    found.iter().map(row).collect()
}

#[test]
fn s213_copies_of_arrays_have_every_element_that_is_in_use() {
    attached("s213", |pins| {
        let folder = pins.folder(&Version::ours());
        let put = |name: &str, index: u32, byte: u8| {
            let map = RawMap::open(folder.join(name)).unwrap();
            let mut value = vec![0; map.value_size()];
            // The last byte: with counters, that of the last CPU.
            *value.last_mut().unwrap() = byte;
            map.put(&index.to_ne_bytes(), &value).unwrap();
        };
        let maps = [names::BACKENDS, names::BACKEND_TRAFFIC];
        for name in maps {
            for (index, byte) in [(0, 1), (31, 2), (63, 3)] {
                put(name, index, byte);
            }
        }
        let larger = MapSizes {
            backends: 128,
            ..SIZES
        };
        let config = DatapathConfig::default();
        let (_programs, grown) = grow(&pins.0, &config, &larger, u64::MAX, &[]).unwrap();
        grown.copy().unwrap();
        grown.keep().unwrap();
        for name in maps {
            let map = RawMap::open(folder.join(name)).unwrap();
            assert_eq!(map.capacity(), 128);
            let mut found = Vec::new();
            map.visit(|key, value| {
                found.extend(
                    value
                        .last()
                        .filter(|byte| **byte != 0)
                        .map(|byte| (key[0], *byte)),
                );
                Ok(())
            })
            .unwrap();
            assert_eq!(found, [(0, 1), (31, 2), (63, 3)], "{name}");
        }
    });
}
