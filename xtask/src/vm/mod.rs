//! Runs tests in virtual machines with the kernels of Debian, on this and on other processor architectures.

mod archive;
mod boot;
mod outcome;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Result, ensure};
use archive::Archive;
use boot::Machine;
use outcome::Outcome;

use crate::{arch::Arch, build, setup, sh, test};

/// Programs that this command needs, each with its Debian package.
const TOOLS: [setup::Tool; 2] = [("/usr/bin/cpio", "cpio"), ("/usr/bin/xz", "xz-utils")];
/// Prefixes of the kernel versions; the empty one selects the newest kernel.
const KERNELS: [&str; 4] = ["5.10.", "6.1.", "6.12.", ""];
/// Modules for devices, filters and ending sockets, which are loaded unless the kernel has them built in.
/// Each module comes after those that it needs.
const MODULES: [&str; 8] = [
    "llc",
    "stp",
    "bridge",
    "veth",
    "sch_ingress",
    "cls_bpf",
    "inet_diag",
    "udp_diag",
];
/// Test binaries, with their source files.
const TESTS: [(&str, &str); 4] = [
    ("load", "tests/prog/tests/load.rs"),
    ("golden", "tests/prog/tests/golden.rs"),
    ("services", "tests/prog/tests/services.rs"),
    ("clsact", "tests/netns/tests/clsact.rs"),
];
/// Binaries of this workspace that the tests start.
const PROGRAMS: [&str; 2] = ["headgate", "headgate-echo"];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only kernels of this version, for example 6.1
    kernel: Option<String>,
    /// Only the tests of this file, for example golden
    #[arg(long, value_name = "NAME")]
    test: Option<String>,
    /// The processor architecture: amd64 or arm64; without it, this machine's
    #[arg(long, value_name = "NAME", value_parser = Arch::by_name)]
    arch: Option<&'static Arch>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let arch = match options.arch {
        Some(arch) => arch,
        None => Arch::host()?,
    };
    setup::tools(&[&TOOLS[..], &[arch.qemu]].concat())?;
    build::object(setup::bpf()?)?;
    let mut binaries = binaries(arch)?;
    if let Some(wanted) = &options.test {
        let is_wanted = |place: &str| match place.strip_prefix("tests/") {
            Some(name) => name == wanted,
            None => true,
        };
        binaries.retain(|place, _| is_wanted(place));
    }
    let archive = Archive::open(arch)?;
    let machine = Machine::new(&archive, &binaries)?;
    let mut table = String::from(
        "| kernel | architecture | programs loaded | tests passed | without |\n|---|---|---|---|---|\n",
    );
    let mut failed = Vec::new();
    for start in KERNELS {
        let kernel = archive.kernel(start)?;
        let version = kernel.as_ref().map_or(start, |kernel| &kernel.version);
        let wanted = options.kernel.as_deref();
        if wanted.is_some_and(|wanted| !is_of(version, wanted)) {
            continue;
        }
        let row = match &kernel {
            None => "SKIPPED: the mirror does not have it | |".into(),
            Some(kernel) => {
                sh::heading(&format!("Linux {version}, {}", arch.name));
                let outcome = Outcome::of(&machine.boot(&archive.unpack(&kernel.package)?)?);
                if !outcome.has_passed() {
                    failed.push(version.to_owned());
                }
                outcome.row()
            }
        };
        table += &format!("| {version} | {} | {row} |\n", arch.name);
    }
    machine.remove()?;
    println!("{table}");
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// Whether a version is one of `release`: 6.1.176 is one of 6.1, and 6.12.117 is not.
fn is_of(version: &str, release: &str) -> bool {
    let rest = version.strip_prefix(release);
    rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
}

/// The folder of an architecture's packages and machines.
fn folder(arch: &Arch) -> PathBuf {
    sh::root().join("target/vm").join(arch.name)
}

/// Runs a command that must succeed; returns its standard output.
fn output(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    Ok(())
}

/// All files below a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => found.extend(files(&entry.path())?),
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    Ok(found)
}

/// Builds the tests and the programs that they start; returns the files by their path in the machine.
fn binaries(arch: &Arch) -> Result<BTreeMap<String, PathBuf>> {
    sh::heading("building tests and binaries");
    let mut build = arch.cargo_build()?;
    build.args(test::HOST.split(' '));
    build.args(["--message-format", "json"]);
    for name in PROGRAMS {
        build.args(["--bin", name]);
    }
    for (name, _) in TESTS {
        build.args(["--test", name]);
    }
    let messages = output(&mut build)?;
    let mut found = BTreeMap::new();
    for message in messages.lines() {
        let field = |name: &str| {
            let (_, rest) = message.split_once(&format!("\"{name}\":\""))?;
            Some(rest.split_once('"')?.0)
        };
        let (Some(file), Some(source)) = (field("executable"), field("src_path")) else {
            continue;
        };
        let program = PROGRAMS
            .iter()
            .find(|name| file.ends_with(&format!("/{name}")));
        if let Some(name) = program {
            found.insert((*name).to_owned(), file.into());
        }
        if let Some((name, _)) = TESTS.iter().find(|(_, test)| source.ends_with(test)) {
            found.insert(format!("tests/{name}"), file.into());
        }
    }
    ensure!(
        found.len() == TESTS.len() + PROGRAMS.len(),
        "cargo did not build everything: {found:?}"
    );
    found.insert("init".into(), sh::root().join("tests/vm/init"));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::is_of;

    #[test]
    fn a_release_has_versions_of_its_own() {
        for (version, release, expected) in [
            ("6.1.176-1", "6.1", true),
            ("6.1.", "6.1", true),
            ("6.1.176-1", "6", true),
            ("6.1.176-1", "6.1.176", true),
            ("6.12.117-1", "6.1", false),
            ("5.10.223-1", "6.1", false),
        ] {
            assert_eq!(is_of(version, release), expected, "{version} of {release}");
        }
    }
}
