//! Cgroups of pods whose sockets are left to the packet path, in their map.

use std::{collections::BTreeSet, fs, io, os::unix::fs::MetadataExt, path::Path};

use headgate_abi::names;

use crate::{array::ReadWrite, error::Error, maps::Maps};

/// Levels below the root of the cgroups at which pods are searched, at most.
const DEPTH: u32 = 7;

/// Returns the number of a pod's cgroup by the pod's UID; `None` if there is no such cgroup yet. The kubelet names it
/// `pod<UID>`, or `…-pod<UID>.slice` with underscores, below `root`.
///
/// # Errors
///
/// If `root` cannot be read.
pub fn pod_cgroup(root: &Path, uid: &str) -> io::Result<Option<u64>> {
    find(root, uid, DEPTH)
}

fn find(folder: &Path, uid: &str, depth: u32) -> io::Result<Option<u64>> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        match uid_of(&entry.file_name().to_string_lossy()) {
            Some(found) if found == uid => return Ok(Some(entry.metadata()?.ino())),
            // Containers of another pod.
            Some(_) => {}
            None if depth == 0 => {}
            None => {
                // The folder may be gone by now.
                if let Ok(Some(found)) = find(&entry.path(), uid, depth - 1) {
                    return Ok(Some(found));
                }
            }
        }
    }
    Ok(None)
}

/// The UID in the name of a pod's cgroup.
fn uid_of(name: &str) -> Option<String> {
    let stem = name.strip_suffix(".slice").unwrap_or(name);
    let after = stem.rsplit_once("-pod").map(|(_, uid)| uid);
    let uid = stem.strip_prefix("pod").or(after)?;
    Some(uid.replace('_', "-"))
}

/// Writes the numbers of the cgroups whose sockets are left to the packet path, instead of those before. There is room
/// for 4,096.
///
/// # Errors
///
/// If the map cannot be written.
pub fn write_left_cgroups(
    maps: &mut Maps<ReadWrite>,
    cgroups: &BTreeSet<u64>,
) -> Result<(), Error> {
    let failed = |source| Error::map(names::LEFT_CGROUPS, source);
    let map = &mut maps.left_cgroups;
    let old = map.keys().collect::<Result<BTreeSet<u64>, _>>();
    let old = old.map_err(failed)?;
    for cgroup in old.difference(cgroups) {
        map.remove(cgroup).map_err(failed)?;
    }
    for cgroup in cgroups.difference(&old) {
        map.insert(cgroup, 0, 0).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt, path::PathBuf};

    use super::pod_cgroup;

    /// A folder that is removed on drop.
    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _gone = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn pods_are_found_as_kubelets_name_their_cgroups() {
        const UID: &str = "0b6f2c1e-53a7-4a6f-9d7e-4d7a9ed1c001";
        const WITH_UNDERSCORES: &str = "0b6f2c1e_53a7_4a6f_9d7e_4d7a9ed1c001";
        for (number, path) in [
            format!("kubepods/besteffort/pod{UID}"),
            format!("kubepods/pod{UID}"),
            format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{WITH_UNDERSCORES}.slice"),
            format!("kubepods.slice/kubepods-pod{WITH_UNDERSCORES}.slice"),
            // kind, in a container of its own.
            format!(
                "system.slice/docker-4f.scope/kubelet.slice/kubelet-kubepods.slice/\
                 kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{WITH_UNDERSCORES}.slice"
            ),
        ]
        .iter()
        .enumerate()
        {
            let name = format!("hgcgroups-{}-{number}", std::process::id());
            let root = Folder(std::env::temp_dir().join(name));
            let of = |path: &str| root.0.join(path);
            fs::create_dir_all(of("kubepods.slice/kubepods-pod77.slice/cri-containerd-1.scope")).unwrap();
            assert_eq!(pod_cgroup(&root.0, UID).unwrap(), None);
            fs::create_dir_all(of(path).join("cri-containerd-2.scope")).unwrap();
            let wanted = fs::metadata(of(path)).unwrap().ino();
            assert_eq!(pod_cgroup(&root.0, UID).unwrap(), Some(wanted), "{path}");
            assert!(pod_cgroup(&root.0, "77").unwrap().is_some());
        }
    }
}
