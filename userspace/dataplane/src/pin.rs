//! Opens pinned maps.

use std::path::{Path, PathBuf};

use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray};

use crate::{
    array::{Access, SharedArray},
    error::Error,
    version::Version,
};

/// Returns the folder of this ABI version below `pins`.
pub fn pin_folder(pins: &Path) -> PathBuf {
    Version::ours().folder(pins)
}

pub(crate) fn open(folder: &Path, name: &str) -> Result<MapData, Error> {
    MapData::from_pin(folder.join(name)).map_err(|source| Error::map(name, source))
}

pub(crate) fn hash<K: aya::Pod, V: aya::Pod>(
    folder: &Path,
    name: &str,
) -> Result<HashMap<MapData, K, V>, Error> {
    typed(folder, name)
}

pub(crate) fn per_cpu<T: aya::Pod>(
    folder: &Path,
    name: &str,
) -> Result<PerCpuArray<MapData, T>, Error> {
    typed(folder, name)
}

/// Opens a map of the expected type, key and value. The error for another map names its pin.
pub(crate) fn typed<M: TryFrom<Map, Error = MapError>>(
    folder: &Path,
    name: &str,
) -> Result<M, Error> {
    let foreign = |reason: MapError| Error::ForeignPin {
        path: folder.join(name),
        reason: reason.to_string(),
    };
    let map = Map::from_map_data(open(folder, name)?).map_err(foreign)?;
    M::try_from(map).map_err(foreign)
}

pub(crate) fn array<T: aya::Pod, A: Access>(
    folder: &Path,
    name: &str,
) -> Result<SharedArray<T, A>, Error> {
    let map = open(folder, name)?;
    SharedArray::map(&map).map_err(|source| Error::Pin {
        path: folder.join(name),
        source,
    })
}
