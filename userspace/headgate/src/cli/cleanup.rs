//! Removes what an agent leaves in the kernel.

use std::{fs, io, path::Path};

use anyhow::{Context, Result};
use headgate_dataplane::{attached, detach, pin_folder};

use crate::kube_proxy;

/// Detaches the TC filters, which have no pins, and removes all pins: the kernel then detaches the
/// programs and frees the maps.
pub(crate) fn cleanup(pins: &Path) -> Result<()> {
    for attached in attached(pins)? {
        if let Some((_, device)) = attached.split_once('@') {
            detach(pins, device)?;
        }
    }
    let folder = pin_folder(pins);
    match fs::remove_dir_all(&folder) {
        Ok(()) => println!("removed {}", folder.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            println!("nothing at {}", folder.display());
        }
        Err(error) => return Err(error).context(format!("removing {}", folder.display())),
    }
    // The folder of another ABI version may still be there.
    if fs::read_dir(pins).is_ok_and(|mut entries| entries.next().is_none()) {
        fs::remove_dir(pins)?;
    }
    for leftover in kube_proxy::find().0 {
        println!("kube-proxy left {leftover}: `headgate replace-kube-proxy` removes it");
    }
    Ok(())
}
