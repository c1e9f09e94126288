//! Text in pinned maps, which can be read when no agent runs.

use std::path::{Path, PathBuf};

use headgate_abi::names::{REPORT, TEXT_SIZE};

use crate::{error::Error, pin::pin_folder, raw::RawMap};

/// A map whose only value is a text, after which zeros follow.
pub(crate) struct TextMap(RawMap);

impl TextMap {
    const KEY: [u8; 4] = [0; 4];

    pub(crate) fn open(path: PathBuf) -> Result<Self, Error> {
        Ok(Self(RawMap::open(path)?))
    }

    /// Returns the last text; `None` if none was written.
    pub(crate) fn read(&self) -> Result<Option<String>, Error> {
        Ok(self.0.get(&Self::KEY)?.map(|bytes| {
            let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
            String::from_utf8_lossy(text).into_owned()
        }))
    }

    /// Replaces the text. Cuts it off where it does not fit.
    pub(crate) fn write(&self, text: &str) -> Result<(), Error> {
        let mut bytes = vec![0; self.0.value_size()];
        for (byte, from) in bytes.iter_mut().zip(text.bytes()) {
            *byte = from;
        }
        self.0.put(&Self::KEY, &bytes)
    }
}

/// The map that holds the text of the agent's state.
#[allow(missing_debug_implementations, reason = "the map has none")]
pub struct StateFile(TextMap);

impl StateFile {
    /// The longest text that fits, in bytes.
    pub const CAPACITY: usize = TEXT_SIZE;

    /// Opens the map pinned below `pins`.
    ///
    /// # Errors
    ///
    /// If it is missing, or is not a map of this version.
    pub fn open(pins: &Path) -> Result<Self, Error> {
        Ok(Self(TextMap::open(pin_folder(pins).join(REPORT))?))
    }

    /// Returns the last text; `None` if none was written.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn read(&self) -> Result<Option<String>, Error> {
        self.0.read()
    }

    /// Replaces the text. Cuts it off at [`StateFile::CAPACITY`].
    ///
    /// # Errors
    ///
    /// If the map cannot be written.
    pub fn write(&mut self, text: &str) -> Result<(), Error> {
        self.0.write(text)
    }
}
