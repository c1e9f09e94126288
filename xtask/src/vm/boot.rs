//! Starts virtual machines.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use super::{MODULES, archive::Archive, folder, remove};
use crate::{arch::Arch, build, sh};

/// A machine whose files are prepared, but for the modules of a kernel.
pub(super) struct Machine {
    arch: &'static Arch,
    root: PathBuf,
}

impl Machine {
    /// Prepares the files of a machine with these binaries, each by its path there.
    pub(super) fn new(archive: &Archive, binaries: &BTreeMap<String, PathBuf>) -> Result<Self> {
        let arch = archive.arch;
        let root = folder(arch).join("root");
        remove(&root)?;
        for empty in ["proc", "sys", "dev", "tmp", "run"] {
            fs::create_dir_all(root.join(empty))?;
        }
        archive.unpack_programs(&root)?;
        for (place, file) in binaries {
            copy(file, &root.join(place))?;
            // It fails for files that are not binaries, and leaves them unchanged.
            let _stripped = Command::new(arch.tool("strip"))
                .arg("--strip-debug")
                .arg(root.join(place))
                .stderr(Stdio::null())
                .status();
        }
        // Debug builds read it when they run.
        fs::copy(sh::root().join(build::OBJECT), root.join("headgate.bpf.o"))?;
        Ok(Self { arch, root })
    }

    /// Starts it with the kernel and the modules of a folder; returns its console output, line by line.
    pub(super) fn boot(&self, kernel: &Path) -> Result<Vec<String>> {
        let modules = self.root.join("modules");
        remove(&modules)?;
        for module in MODULES {
            let file = format!("{module}.ko");
            if kernel.join(&file).exists() {
                copy(&kernel.join(&file), &modules.join(file))?;
            }
        }
        let archive = folder(self.arch).join("initrd");
        let mut pack = Command::new("sh");
        pack.args(["-c", "find . | cpio --quiet -o -H newc"])
            .current_dir(&self.root);
        let status = pack.stdout(File::create(&archive)?).status()?;
        ensure!(status.success(), "cpio: {status}");

        let Arch {
            qemu: (qemu, _),
            machine,
            console,
            ..
        } = self.arch;
        // Emulated processors also work inside a virtual machine.
        let mut machine = sh::command(&format!(
            "timeout 3000 {qemu} -machine {machine} -accel tcg,thread=multi -smp 2 -m 3G \
             -nodefaults -no-reboot -display none -serial stdio"
        ));
        // On a busy machine, emulated processors stand still: reports of that would end up inside the tests' lines.
        let options = format!(
            "console={console} quiet panic=-1 mitigations=off nowatchdog rcupdate.rcu_cpu_stall_suppress=1"
        );
        machine
            .args(["-append", &options])
            .arg("-kernel")
            .arg(kernel.join("vmlinuz"))
            .arg("-initrd")
            .arg(&archive)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = machine.spawn().context("qemu")?;
        let Some(console) = child.stdout.take() else {
            bail!("qemu has no output");
        };
        let mut lines = Vec::new();
        for line in BufReader::new(console).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
            eprintln!("{line}");
            lines.push(line);
        }
        child.wait()?;
        fs::remove_file(archive)?;
        Ok(lines)
    }

    /// Removes its files.
    pub(super) fn remove(self) -> Result<()> {
        remove(&self.root)
    }
}

/// Copies a file into a folder, which is created if it is missing.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("the path has no folder")?)?;
    fs::copy(from, to).with_context(|| from.display().to_string())?;
    Ok(())
}
