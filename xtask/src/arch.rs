//! The processor architectures that Headgate is built for.

use std::{env::consts, process::Command};

use anyhow::{Context, Result};

use crate::{
    setup::{self, Tool},
    sh,
};

/// An architecture, under the names that tools have for it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arch {
    /// The name in Debian and in container images.
    pub(crate) name: &'static str,
    /// Rust's target.
    pub(crate) target: &'static str,
    /// What the names of its compiler and linker start with.
    gnu: &'static str,
    /// What compiles and links C for it on another architecture.
    cross: [Tool; 2],
    /// An emulated machine: qemu, what it emulates, its first serial port, and options of the kernel.
    pub(crate) qemu: Tool,
    pub(crate) machine: &'static str,
    pub(crate) console: &'static str,
}

const ARCHES: [Arch; 2] = [
    Arch {
        name: "amd64",
        target: "x86_64-unknown-linux-gnu",
        gnu: "x86_64-linux-gnu",
        cross: [
            ("/usr/bin/x86_64-linux-gnu-gcc", "gcc-x86-64-linux-gnu"),
            (
                "/usr/x86_64-linux-gnu/include/stdio.h",
                "libc6-dev-amd64-cross",
            ),
        ],
        qemu: ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
        machine: "q35 -cpu max",
        console: "ttyS0",
    },
    Arch {
        name: "arm64",
        target: "aarch64-unknown-linux-gnu",
        gnu: "aarch64-linux-gnu",
        cross: [
            ("/usr/bin/aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
            (
                "/usr/aarch64-linux-gnu/include/stdio.h",
                "libc6-dev-arm64-cross",
            ),
        ],
        qemu: ("/usr/bin/qemu-system-aarch64", "qemu-system-arm"),
        // With `max`, qemu also emulates the authentication of pointers, which makes each call slow.
        machine: "virt -cpu neoverse-n1",
        console: "ttyAMA0",
    },
];

impl Arch {
    /// Returns this machine's architecture.
    pub(crate) fn host() -> Result<&'static Self> {
        let is_host = |arch: &&Self| arch.is_host();
        let host = ARCHES.iter().find(is_host);
        host.with_context(|| format!("Headgate is not built on {}", consts::ARCH))
    }

    /// Returns the architecture of a name, for example `arm64`.
    pub(crate) fn by_name(name: &str) -> Result<&'static Self, String> {
        find(name, |arch| arch.name)
    }

    /// Returns the architecture of a target, for example `aarch64-unknown-linux-gnu`.
    pub(crate) fn by_target(target: &str) -> Result<&'static Self, String> {
        find(target, |arch| arch.target)
    }

    fn is_host(&self) -> bool {
        self.target
            .strip_prefix(consts::ARCH)
            .is_some_and(|rest| rest.starts_with('-'))
    }

    /// Returns the command `cargo build` for this architecture, after installing what it needs.
    pub(crate) fn cargo_build(&self) -> Result<Command> {
        let mut build = sh::command("cargo build");
        if self.is_host() {
            return Ok(build);
        }
        setup::tools(&self.cross)?;
        let Self { target, gnu, .. } = self;
        let installed = sh::output("rustup target list --installed").unwrap_or_default();
        if !installed.lines().any(|line| line == *target) {
            sh::heading(&format!("installing Rust's standard library for {target}"));
            let add = format!("rustup target add {target}");
            sh::run(&mut sh::command(&add)).with_context(|| {
                format!("without rustup, install Rust's standard library for {target} yourself")
            })?;
        }
        let variable = target.replace('-', "_").to_uppercase();
        build.args(["--target", target]).env(
            format!("CARGO_TARGET_{variable}_LINKER"),
            format!("{gnu}-gcc"),
        );
        Ok(build)
    }

    /// Returns where cargo puts binaries for this architecture, in the folder of the workspace.
    pub(crate) fn folder(&self, profile: &str) -> String {
        match self.is_host() {
            true => format!("target/{profile}"),
            false => format!("target/{}/{profile}", self.target),
        }
    }

    /// Returns the name of one of its GNU tools, for example of `strip`.
    pub(crate) fn tool(&self, name: &str) -> String {
        format!("{}-{name}", self.gnu)
    }
}

fn find(wanted: &str, name: impl Fn(&Arch) -> &str) -> Result<&'static Arch, String> {
    let known = || ARCHES.iter().map(&name).collect::<Vec<_>>().join(", ");
    let found = ARCHES.iter().find(|arch| name(arch) == wanted);
    found.ok_or_else(|| format!("it is one of {}", known()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{ARCHES, Arch};
    use crate::sh;

    #[test]
    fn an_unknown_architecture_is_refused_with_the_known_ones() {
        assert_eq!(Arch::by_name("arm64").unwrap(), &ARCHES[1]);
        assert_eq!(
            Arch::by_name("riscv64").unwrap_err(),
            "it is one of amd64, arm64"
        );
        assert_eq!(
            Arch::by_target("arm64").unwrap_err(),
            "it is one of x86_64-unknown-linux-gnu, aarch64-unknown-linux-gnu"
        );
    }

    /// Dependencies are checked for these targets, machines are started and images are built weekly.
    #[test]
    fn what_names_architectures_names_all_of_them() {
        let read = |file| fs::read_to_string(sh::root().join(file)).unwrap();
        let targets = ARCHES.map(|arch| format!("\"{}\"", arch.target)).join(", ");
        assert!(read("deny.toml").contains(&format!("\ntargets = [{targets}]\n")));
        let ci = read(".github/workflows/ci.yml");
        let names = ARCHES.map(|arch| arch.name).join(", ");
        assert!(ci.contains(&format!("\n        arch: [{names}]\n")));
        let platforms = ARCHES.map(|arch| format!("linux/{}", arch.name)).join(",");
        for (text, build) in [
            (ci, "docker buildx build"),
            (read("deploy/README.md"), "docker buildx build"),
            (read("deploy/README.md"), "`podman build"),
        ] {
            assert!(text.contains(&format!("{build} --platform {platforms} ")));
            for Arch { target, .. } in &ARCHES {
                assert!(text.contains(&format!("cargo xtask build --dist --target {target}")));
            }
        }
    }
}
