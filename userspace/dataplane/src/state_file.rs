//! The state of the agent as text in a pinned map, so that it can be read when no agent runs.

use std::path::Path;

use aya::maps::{HashMap, MapData, MapError};
use headgate_abi::names::{REPORT, REPORT_SIZE};

use crate::{
    error::Error,
    pin::{hash, pin_folder},
};

const KEY: u32 = 0;

/// The map that holds the text of the agent's state.
#[derive(Debug)]
pub struct StateFile {
    map: HashMap<MapData, u32, [u8; REPORT_SIZE]>,
}

impl StateFile {
    /// The longest text that fits, in bytes.
    pub const CAPACITY: usize = REPORT_SIZE;

    /// Opens the map pinned below `pins`.
    ///
    /// # Errors
    ///
    /// If it is missing, or is not a map of this version.
    pub fn open(pins: &Path) -> Result<Self, Error> {
        let map = hash(&pin_folder(pins), REPORT)?;
        Ok(Self { map })
    }

    /// Returns the last text; `None` if none was written.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn read(&self) -> Result<Option<String>, Error> {
        let bytes = match self.map.get(&KEY, 0) {
            Ok(bytes) => bytes,
            Err(MapError::KeyNotFound) => return Ok(None),
            Err(source) => return Err(Error::map(REPORT, source)),
        };
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(Some(String::from_utf8_lossy(text).into_owned()))
    }

    /// Replaces the text. Cuts it off at [`StateFile::CAPACITY`].
    ///
    /// # Errors
    ///
    /// If the map cannot be written.
    pub fn write(&mut self, text: &str) -> Result<(), Error> {
        let mut bytes = [0; REPORT_SIZE];
        for (byte, from) in bytes.iter_mut().zip(text.bytes()) {
            *byte = from;
        }
        let result = self.map.insert(KEY, bytes, 0);
        result.map_err(|source| Error::map(REPORT, source))
    }
}
