//! Removes what an agent leaves in the kernel.

use std::{collections::BTreeSet, fs, io, path::Path};

use anyhow::{Context, Result};
use headgate_dataplane::{
    Handover, detach_others,
    netfilter::{NftFamily, delete_table},
    pin_folder,
};

use crate::kube_proxy::{self, TAKEOVER_TABLE};

/// Gives the open connections to kube-proxy's rules, if they are there. Detaches the TC filters, which have no
/// pins, and removes all pins: the kernel then detaches the programs and frees the maps.
pub(crate) fn cleanup(pins: &Path) -> Result<()> {
    if kube_proxy::translates()? {
        give_back(pins)?;
    }
    detach_others(pins, &BTreeSet::new(), false)?;
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
    delete_table(NftFamily::Inet, TAKEOVER_TABLE)?;
    Ok(())
}

/// Gives the open connections to the kernel, twice: those that were opened meanwhile, too.
fn give_back(pins: &Path) -> Result<()> {
    let mut handover = match Handover::open(pins) {
        Ok(handover) => handover,
        // There are no maps of this version, so there are no connections.
        Err(_) if !pin_folder(pins).exists() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let (first, _) = handover.give_back()?;
    let (second, kept) = handover.give_back()?;
    println!("gave {} connections to kube-proxy's rules", first + second);
    if kept > 0 {
        println!(
            "{kept} connections of direct server return end: only our programs can send them on"
        );
    }
    Ok(())
}
