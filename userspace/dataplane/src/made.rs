//! How the maps of a version are made. Their layouts do not say it: flags, and sizes that no option changes. And what the
//! kernel knows of layouts: the kinds of maps, and the sizes of keys and values.

use std::collections::BTreeMap;

use aya::EbpfError;
use aya_obj::{Object, generated::BPF_F_RDONLY_PROG};
use headgate_abi::names;

use crate::{error::Error, load::MapSizes, raw::RawMap};

/// Flags and sizes of maps by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Made(BTreeMap<&'static str, Kind>);

/// Flags, as bpf(2) has them, and the number of entries, if no option changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    shape: Shape,
    flags: u32,
    entries: Option<u32>,
}

/// The kind as a number, as bpf(2) has it, and the sizes of keys and values, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape([u32; 3]);

impl Shape {
    fn of(map: &RawMap) -> Self {
        let sizes = [map.key_size(), map.element_size()].map(|size| size as u32);
        Self([map.kind() as u32, sizes[0], sizes[1]])
    }
}

impl Kind {
    fn new(name: &str, shape: Shape, flags: u32, entries: u32) -> Self {
        let sizes = MapSizes::default();
        let resized = sizes.of_agent().into_iter();
        let mut resized = resized.chain(sizes.of_programs());
        Self {
            shape,
            // The kernel itself adds it to maps of devices.
            flags: flags & !BPF_F_RDONLY_PROG,
            entries: (!resized.any(|(resized, _)| resized == name)).then_some(entries),
        }
    }
}

impl Made {
    /// Reads an object.
    pub(crate) fn of(object: &[u8]) -> Result<Self, Error> {
        let object = Object::parse(object);
        let object = object.map_err(|source| Error::Load(Box::new(EbpfError::from(source))))?;
        let kinds = names::MAPS.into_iter().filter_map(|name| {
            let map = object.maps.get(name)?;
            let shape = Shape([map.map_type(), map.key_size(), map.value_size()]);
            let kind = Kind::new(name, shape, map.map_flags(), map.max_entries());
            Some((name, kind))
        });
        Ok(Self(kinds.collect()))
    }

    /// Whether a map is made as this version makes it. Otherwise its programs cannot use it, though its entries are the
    /// same.
    pub(crate) fn is_like(&self, name: &str, map: &RawMap) -> bool {
        let kind = Kind::new(name, Shape::of(map), map.flags(), map.capacity());
        self.0.get(name) == Some(&kind)
    }

    /// Whether programs of this version read from a map of this name what is in it. Those of a build that had the same
    /// number before its layout was final may have made another one.
    pub(crate) fn has_shape_of(&self, name: &str, map: &RawMap) -> bool {
        let kind = self.0.get(name);
        kind.is_some_and(|kind| kind.shape == Shape::of(map))
    }
}

#[cfg(test)]
mod tests {
    use crate::version::Version;

    /// Flags and fixed sizes of this version. What differs from a former version needs another `ABI_VERSION`, as a layout
    /// does: agents of one version share the maps that are pinned.
    const RECORDED: &str = "\
        ADDRESSES 0 resized\nAFFINITY 0 resized\nAFFINITY_MEMBERS 1 resized\nBACKENDS 1024 resized\n\
        BACKEND_TRAFFIC 0 resized\nCONNTRACK 0 resized\nEVENTS 0 262144\nFRAGMENTS 0 16384\n\
        FRONTENDS 0 resized\nLAYOUT 0 1\nLEFT_CGROUPS 1 4096\nLINKS 0 256\nLISTENERS 0 1024\n\
        LOADED 0 1\nLOCAL_BACKENDS 1 resized\nMONITOR 0 1\nPAUSED_BACKENDS 1 resized\nREASONS 0 64\n\
        REPORT 0 1\nSERVICES 1024 resized\nSERVICE_LABELS 1024 resized\nSERVICE_RANGES 1024 8\n\
        SERVICE_TRAFFIC 0 resized\nSLOTS 1024 resized\nSOCKETS 0 resized\nSOURCES 1 4096\n\
        SOURCE_RANGES 1 resized\nTAKEOVER 1024 1\nXDP_DEVICES 0 64\n";

    #[test]
    fn s202_flags_and_sizes_of_maps_change_only_with_the_version() {
        let made = Version::ours().made().unwrap();
        let lines = made.0.iter().map(|(name, kind)| {
            let entries = kind.entries.map(|entries| entries.to_string());
            let entries = entries.unwrap_or_else(|| "resized".into());
            format!("{name} {} {entries}\n", kind.flags)
        });
        assert_eq!(lines.collect::<String>(), RECORDED);
    }
}
