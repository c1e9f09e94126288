//! Finds and installs what the build needs.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    mount::{MsFlags, mount},
    unistd::geteuid,
};

use crate::sh;

/// A compiler for the bpf target with the sources of `core`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// rustup's nightly with rust-src.
    Nightly,
    /// Debian's rustc with its sources; it needs leave to use what is unstable.
    Debian,
}

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CLIPPY: &str = "/usr/bin/cargo-clippy";
const DEBIAN_SOURCES: &str = "/usr/lib/rustlib/src/rust/library/core";
const DEBIAN_LLVM: &str = "/usr/lib/llvm-22";
const DEBIAN_PACKAGES: &str = "rustc-web rust-web-src rust-web-clippy llvm-22-dev \
    libpolly-22-dev zlib1g-dev libzstd-dev libxml2-dev";
/// What the demo and the tests call, and the package it is in.
const TOOLS: [(&str, &str); 13] = [
    ("/usr/sbin/nft", "nftables"),
    ("/usr/sbin/ip", "iproute2"),
    ("/usr/sbin/ethtool", "ethtool"),
    ("/usr/bin/curl", "curl"),
    ("/usr/sbin/iptables", "iptables"),
    ("/usr/sbin/ipset", "ipset"),
    ("/usr/bin/h2load", "nghttp2-client"),
    ("/usr/bin/openssl", "openssl"),
    ("/usr/bin/tmux", "tmux"),
    ("/usr/sbin/slapd", "slapd"),
    ("/usr/bin/ldapsearch", "ldap-utils"),
    ("/usr/bin/chromium", "chromium"),
    ("/usr/bin/chromedriver", "chromium-driver"),
];
const BPF_FS: &str = "/sys/fs/bpf";

/// Installs what is missing, and says which compiler there is.
pub(crate) fn run() -> Result<Toolchain> {
    tools(&TOOLS)?;
    let toolchain = toolchain()?;
    linker(toolchain)?;
    if sh::output("cargo nextest --version").is_none() {
        sh::heading("installing the test runner");
        sh::run(&mut sh::command("cargo install cargo-nextest --locked"))?;
    }
    if geteuid().is_root() && !fs::read_to_string("/proc/mounts")?.contains(" /sys/fs/bpf bpf ") {
        mount(
            Some("bpf"),
            BPF_FS,
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .context("mounting the BPF file system at /sys/fs/bpf")?;
    }
    Ok(toolchain)
}

/// Installs what is missing of these files, each with its package.
pub(crate) fn tools(tools: &[(&str, &str)]) -> Result<()> {
    for (file, package) in tools {
        if !Path::new(file).exists() {
            apt(package)?;
        }
    }
    Ok(())
}

fn toolchain() -> Result<Toolchain> {
    if has_nightly() {
        return Ok(Toolchain::Nightly);
    }
    if !has_debian() && is_debian() && geteuid().is_root() {
        sh::heading("installing Debian's Rust compiler with sources, and LLVM");
        apt(DEBIAN_PACKAGES)?;
    }
    if has_debian() {
        return Ok(Toolchain::Debian);
    }
    sh::heading("installing Rust nightly with sources");
    let installed = sh::run(&mut sh::command(
        "rustup toolchain install nightly --profile minimal --component rust-src --component clippy",
    ));
    ensure!(
        installed.is_ok() && has_nightly(),
        "no compiler for the bpf target: run `rustup toolchain install nightly --component \
         rust-src`, or as root on Debian `apt-get install {DEBIAN_PACKAGES}`"
    );
    Ok(Toolchain::Nightly)
}

fn has_nightly() -> bool {
    sh::output("rustup component list --installed --toolchain nightly")
        .is_some_and(|list| list.contains("rust-src"))
}

fn has_debian() -> bool {
    [DEBIAN_RUSTC, DEBIAN_CLIPPY, DEBIAN_SOURCES, DEBIAN_LLVM]
        .iter()
        .all(|path| Path::new(path).exists())
}

fn is_debian() -> bool {
    Path::new("/etc/debian_version").exists()
}

fn linker(toolchain: Toolchain) -> Result<()> {
    if sh::output("bpf-linker --version").is_some() {
        return Ok(());
    }
    sh::heading("installing bpf-linker");
    let mut install = sh::command("cargo install bpf-linker --version 0.13.0 --locked");
    if toolchain == Toolchain::Debian {
        install
            .args(["--no-default-features", "--features", "llvm-22"])
            .env("LLVM_PREFIX", DEBIAN_LLVM);
    }
    sh::run(&mut install)
}

fn apt(packages: &str) -> Result<()> {
    if !is_debian() || !geteuid().is_root() {
        bail!("missing: install {packages}, or run this as root on Debian");
    }
    let apt = |arguments: &str| -> Command {
        let mut command = sh::command(&format!("apt-get {arguments}"));
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    sh::run(&mut apt("update -qq"))?;
    sh::run(&mut apt(&format!(
        "install -y -qq --no-install-recommends {packages}"
    )))
}

impl Toolchain {
    /// A cargo command for the bpf target: `build` or `clippy`.
    pub(crate) fn cargo(self, verb: &str) -> Command {
        let mut command = match (self, verb) {
            (Self::Nightly, _) => sh::command(&format!("rustup run nightly cargo {verb}")),
            (Self::Debian, "clippy") => sh::command(&format!("{DEBIAN_CLIPPY} clippy")),
            (Self::Debian, _) => sh::command(&format!("cargo {verb}")),
        };
        if self == Self::Debian {
            command
                .env("RUSTC", DEBIAN_RUSTC)
                .env("RUSTC_BOOTSTRAP", "1");
        }
        let arch = std::env::consts::ARCH;
        let flags = format!("--cfg=bpf_target_arch=\"{arch}\" -Cdebuginfo=2 -Clink-arg=--btf");
        command
            .args("--release --package headgate-programs -Z build-std=core".split(' '))
            .args("--target bpfel-unknown-none --target-dir target/ebpf".split(' '))
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS", flags)
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("RUSTFLAGS");
        command
    }
}
