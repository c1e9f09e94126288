//! A version of maps and programs.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use headgate_abi::{ABI_VERSION, KernelHelpers, RECORDED_LAYOUTS};

use crate::{error::Error, kernel, made::Made, object};

/// A version of maps and programs, and what it says about itself.
pub(crate) struct Version {
    pub(crate) number: u32,
    /// Its layouts, as `headgate_abi::RECORDED_LAYOUTS` describes.
    pub(crate) layouts: Cow<'static, str>,
    /// Changes the object into that of this version.
    pub(crate) alter: fn(Vec<u8>) -> Vec<u8>,
}

impl Version {
    /// The version of this binary.
    pub(crate) fn ours() -> Self {
        let is_ours = |(version, _): &&(u32, &str)| *version == ABI_VERSION;
        let layouts = RECORDED_LAYOUTS.iter().find(is_ours);
        Self {
            number: ABI_VERSION,
            layouts: layouts.map_or("", |(_, text)| text).into(),
            alter: |object| object,
        }
    }

    /// Returns the folder of its pins.
    pub(crate) fn folder(&self, pins: &Path) -> PathBuf {
        pins.join(format!("v{}", self.number))
    }

    /// Returns how its maps are made.
    pub(crate) fn made(&self) -> Result<Made, Error> {
        Made::of(&self.object(&kernel::helpers())?)
    }

    /// Returns its object for a kernel with these helpers.
    pub(crate) fn object(&self, helpers: &KernelHelpers) -> Result<Vec<u8>, Error> {
        Ok((self.alter)(object::read(helpers)?.into_owned()))
    }
}
