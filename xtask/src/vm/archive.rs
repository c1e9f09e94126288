//! Kernels and programs from Debian's packages.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::{MODULES, files, folder, output, remove};
use crate::{arch::Arch, sh};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Debian releases that differ in their kernels.
const SUITES: [&str; 5] = ["bullseye", "bookworm", "trixie", "trixie-backports", "sid"];
/// What the tests start, and what their binaries are linked with.
const PROGRAMS: &str = "base-files busybox-static curl ethtool iproute2 libgcc-s1";

/// A kernel package.
pub(super) struct Kernel {
    pub(super) version: String,
    pub(super) package: String,
}

/// The apt mirror of this machine, with the packages of more releases and of any architecture, and separate from the
/// installed packages.
pub(super) struct Archive {
    pub(super) arch: &'static Arch,
    /// The release that this machine runs.
    release: String,
    config: PathBuf,
}

impl Archive {
    pub(super) fn open(arch: &'static Arch) -> Result<Self> {
        let mut targets = Command::new("apt-get");
        targets.args(["indextargets", "--format", "$(REPO_URI)"]);
        targets.args(["Created-By: Packages", "Label: Debian"]);
        let mirrors = output(&mut targets)?;
        let mirror = mirrors.lines().next();
        let mirror = mirror.context("apt has no mirror of Debian: run `apt-get update`")?;
        let system = fs::read_to_string("/etc/os-release")?;
        let release = system
            .lines()
            .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
            .context("/etc/os-release has no VERSION_CODENAME")?;
        let home = folder(arch).join("apt");
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(home.join(part))?;
        }
        fs::write(home.join("status"), "")?;
        let mut suites = SUITES.to_vec();
        if !suites.contains(&release) {
            suites.push(release);
        }
        let name = arch.name;
        let source =
            |suite: &&str| format!("deb [arch={name} signed-by={KEYRING}] {mirror} {suite} main\n");
        let sources: String = suites.iter().map(source).collect();
        fs::write(home.join("sources"), sources)?;
        let config = home.join("config");
        let home = home.canonicalize()?;
        let home = home.display();
        let text = format!(
            "APT::Architecture \"{name}\";\nAPT::Architectures {{ \"{name}\"; }};\n\
             Dir::Etc::sourcelist \"{home}/sources\";\nDir::Etc::sourceparts \"-\";\n\
             Dir::State \"{home}\";\nDir::State::status \"{home}/status\";\n\
             Dir::Cache \"{home}/cache\";\nAPT::Sandbox::User \"root\";\n"
        );
        fs::write(&config, text)?;
        let archive = Self {
            arch,
            release: release.into(),
            config,
        };
        // apt reports a release that the mirror does not have; its kernel is then skipped.
        let _reported = sh::run(&mut archive.apt("apt-get update -qq"));
        Ok(archive)
    }

    fn apt(&self, line: &str) -> Command {
        let mut command = sh::command(line);
        command.env("APT_CONFIG", &self.config);
        command
    }

    /// The newest kernel whose version starts with `start`.
    pub(super) fn kernel(&self, start: &str) -> Result<Option<Kernel>> {
        let name = self.arch.name;
        let text = output(&mut self.apt(&format!("apt-cache show linux-image-{name}")))?;
        let mut paragraphs = text.split("\n\n").map(|paragraph| {
            let field = |name| {
                paragraph
                    .lines()
                    .find_map(|line: &str| line.strip_prefix(name))
            };
            let image = |word: &&str| word.starts_with("linux-image-");
            Some(Kernel {
                version: field("Version: ")?.into(),
                package: field("Depends: ")?.split(' ').find(image)?.into(),
            })
        });
        // The newest version comes first.
        Ok(paragraphs.find_map(|kernel| kernel.filter(|kernel| kernel.version.starts_with(start))))
    }

    /// Downloads a kernel package; returns a folder with the kernel and its modules.
    pub(super) fn unpack(&self, package: &str) -> Result<PathBuf> {
        let unpacked = folder(self.arch).join("kernels").join(package);
        if unpacked.join("vmlinuz").exists() {
            return Ok(unpacked);
        }
        let temporary = folder(self.arch).join("unpacked");
        remove(&temporary)?;
        fs::create_dir_all(&temporary)?;
        fs::create_dir_all(&unpacked)?;
        // Newer packages have the kernel and the modules in separate packages.
        let depends = output(&mut self.apt(&format!("apt-cache depends --important {package}")))?;
        let is_part =
            |name: &&str| name.starts_with("linux-binary-") || name.starts_with("linux-modules-");
        let parts = depends.split_whitespace().filter(is_part);
        for part in parts.chain([package]) {
            sh::run(
                self.apt(&format!("apt-get download -qq {part}"))
                    .current_dir(&temporary),
            )?;
        }
        for file in files(&temporary)? {
            extract(&file, &temporary)?;
            fs::remove_file(file)?;
        }
        for file in files(&temporary)? {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let (stem, rest) = name.split_once('.').unwrap_or((&name, ""));
            if name.starts_with("vmlinuz") {
                fs::copy(&file, unpacked.join("vmlinuz"))?;
            } else if MODULES.contains(&stem) && rest.starts_with("ko") {
                let module = unpacked.join(format!("{stem}.{rest}"));
                fs::copy(&file, &module)?;
                if rest == "ko.xz" {
                    sh::run(Command::new("xz").arg("-d").arg(module))?;
                }
            }
        }
        remove(&temporary)?;
        Ok(unpacked)
    }

    /// Unpacks what the tests start, and all that it needs, of this machine's release: the binaries are linked with
    /// the C library of this release.
    pub(super) fn unpack_programs(&self, root: &Path) -> Result<()> {
        // Only the newest versions may be left.
        sh::run_quietly(&mut self.apt("apt-get autoclean -qq"))?;
        let install = "apt-get install -qq --yes --download-only --no-install-recommends";
        let release = &self.release;
        let line = format!("{install} --target-release {release} {PROGRAMS}");
        sh::run_quietly(&mut self.apt(&line))?;
        let mut packages = files(&folder(self.arch).join("apt/cache/archives"))?;
        packages.retain(|file| file.extension().is_some_and(|end| end == "deb"));
        // base-files comes first: if a release has everything below /usr, it has the links to there.
        packages.sort();
        for package in packages {
            extract(&package, root)?;
        }
        Ok(())
    }
}

/// Extracts the files of a package.
fn extract(package: &Path, to: &Path) -> Result<()> {
    let mut dpkg = Command::new("dpkg");
    dpkg.arg("--extract").args([package, to]);
    let output = dpkg.output()?;
    ensure!(
        output.status.success(),
        "dpkg cannot extract {}: {}",
        package.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
