//! Finds and installs what the build, the demo and the tests need.

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
    /// rustup's [`NIGHTLY`] with rust-src.
    Nightly,
    /// Debian's rustc with its sources; `RUSTC_BOOTSTRAP` enables its unstable features.
    Debian,
}

/// The nightly that compiles `ebpf/programs`. Its LLVM (22) is the one that `bpf-linker` and the
/// recorded verifier counts of `tests/prog` go with.
const NIGHTLY: &str = "nightly-2026-05-20";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CLIPPY: &str = "/usr/bin/cargo-clippy";
const DEBIAN_SOURCES: &str = "/usr/lib/rustlib/src/rust/library/core";
const DEBIAN_LLVM: &str = "/usr/lib/llvm-22";
const DEBIAN_PACKAGES: [&str; 8] = [
    "rustc-web",
    "rust-web-src",
    "rust-web-clippy",
    "llvm-22-dev",
    "libpolly-22-dev",
    "zlib1g-dev",
    "libzstd-dev",
    "libxml2-dev",
];
/// A file that must exist, and the Debian package that contains it.
pub(crate) type Tool = (&'static str, &'static str);
/// What the demo runs.
pub(crate) const DEMO_TOOLS: [Tool; 3] = [
    ("/usr/sbin/ip", "iproute2"),
    ("/usr/sbin/ethtool", "ethtool"),
    ("/usr/bin/curl", "curl"),
];
/// What the tests run besides.
const TEST_TOOLS: [Tool; 15] = [
    ("/usr/sbin/nft", "nftables"),
    ("/usr/sbin/iptables", "iptables"),
    ("/usr/sbin/ipset", "ipset"),
    ("/usr/bin/h2load", "nghttp2-client"),
    ("/usr/bin/wrk", "wrk"),
    ("/usr/sbin/nginx", "nginx-light"),
    (
        "/usr/lib/nginx/modules/ngx_http_lua_module.so",
        "libnginx-mod-http-lua",
    ),
    (
        "/usr/lib/nginx/modules/ngx_http_headers_more_filter_module.so",
        "libnginx-mod-http-headers-more-filter",
    ),
    (
        "/usr/lib/nginx/modules/ngx_http_set_misc_module.so",
        "libnginx-mod-http-set-misc",
    ),
    ("/usr/bin/openssl", "openssl"),
    ("/usr/bin/tmux", "tmux"),
    ("/usr/sbin/slapd", "slapd"),
    ("/usr/bin/ldapsearch", "ldap-utils"),
    ("/usr/bin/chromium", "chromium"),
    ("/usr/bin/chromedriver", "chromium-driver"),
];
const BPF_FS: &str = "/sys/fs/bpf";

/// Installs everything that any command of xtask needs, but for benchmarks and virtual machines.
pub(crate) fn run() -> Result<()> {
    bpf()?;
    tests()
}

/// Installs the tools of the tests, and their runner.
pub(crate) fn tests() -> Result<()> {
    tools(&[&DEMO_TOOLS[..], &TEST_TOOLS[..]].concat())?;
    nextest()
}

/// The command that installs a tool of cargo's. Without optimization, because to compile these tools takes
/// longer than they run.
pub(crate) fn install(tool: &str) -> Command {
    let mut command = sh::command("cargo install --locked --debug");
    command.arg(tool).env("CARGO_PROFILE_DEV_DEBUG", "false");
    command
}

/// Installs the test runner.
pub(crate) fn nextest() -> Result<()> {
    if sh::output("cargo nextest --version").is_none() {
        sh::heading("installing the test runner");
        sh::run(&mut install("cargo-nextest"))?;
    }
    Ok(())
}

/// Installs a compiler and a linker for the bpf target if they are missing, mounts the BPF file system,
/// and returns the compiler.
pub(crate) fn bpf() -> Result<Toolchain> {
    let toolchain = toolchain()?;
    linker(toolchain)?;
    if geteuid().is_root() && !fs::read_to_string("/proc/mounts")?.contains(" /sys/fs/bpf bpf ") {
        let none = None::<&str>;
        mount(Some("bpf"), BPF_FS, Some("bpf"), MsFlags::empty(), none)
            .context("mounting the BPF file system at /sys/fs/bpf")?;
    }
    Ok(toolchain)
}

/// Installs the packages of those files that do not exist.
pub(crate) fn tools(tools: &[Tool]) -> Result<()> {
    let missing = tools.iter().filter(|(file, _)| !Path::new(file).exists());
    let packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    match packages[..] {
        [] => Ok(()),
        _ => apt(&packages),
    }
}

fn toolchain() -> Result<Toolchain> {
    if has_nightly() {
        return Ok(Toolchain::Nightly);
    }
    if !has_debian() && is_debian() && geteuid().is_root() {
        sh::heading("installing Debian's Rust compiler with sources, and LLVM");
        apt(&DEBIAN_PACKAGES)?;
    }
    if has_debian() {
        return Ok(Toolchain::Debian);
    }
    sh::heading(&format!("installing Rust {NIGHTLY} with sources"));
    let installed = sh::run(&mut sh::command(&format!(
        "rustup toolchain install {NIGHTLY} --profile minimal --component rust-src --component clippy"
    )));
    ensure!(
        installed.is_ok() && has_nightly(),
        "no compiler for the bpf target: run `rustup toolchain install {NIGHTLY} --component \
         rust-src`, or as root on Debian `apt-get install {}`",
        DEBIAN_PACKAGES.join(" ")
    );
    Ok(Toolchain::Nightly)
}

fn has_nightly() -> bool {
    sh::output(&format!(
        "rustup component list --installed --toolchain {NIGHTLY}"
    ))
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
    // LLVM does the work: without optimization the linker is built with a third of the CPU time, and links as fast. Its
    // debug assertions stay off.
    let mut install = sh::command("cargo install bpf-linker --version 0.13.0 --locked");
    install
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0");
    if toolchain == Toolchain::Debian {
        install
            .args(["--no-default-features", "--features", "llvm-22"])
            .env("LLVM_PREFIX", DEBIAN_LLVM);
    }
    sh::run(&mut install)
}

fn apt(packages: &[&str]) -> Result<()> {
    if !is_debian() || !geteuid().is_root() {
        bail!(
            "missing: install {}, or run this as root on Debian",
            packages.join(" ")
        );
    }
    let apt = |arguments: &[&str]| -> Result<()> {
        let mut command = sh::command("apt-get -qq");
        command
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive");
        sh::run_quietly(&mut command)
    };
    apt(&["update"])?;
    let install = ["install", "-y", "--no-install-recommends"];
    apt(&[&install[..], packages].concat())
}

impl Toolchain {
    /// A cargo command for the bpf target: `build` or `clippy`.
    pub(crate) fn cargo(self, verb: &str) -> Command {
        let mut command = match (self, verb) {
            (Self::Nightly, _) => sh::command(&format!("rustup run {NIGHTLY} cargo {verb}")),
            (Self::Debian, "clippy") => sh::command(&format!("{DEBIAN_CLIPPY} clippy")),
            (Self::Debian, _) => sh::command(&format!("cargo {verb}")),
        };
        if self == Self::Debian {
            command
                .env("RUSTC", DEBIAN_RUSTC)
                .env("RUSTC_BOOTSTRAP", "1");
        }
        // aya asks for the architecture whose registers programs at probes read. There are no such programs, and with one
        // name everywhere, the object is the same for all architectures.
        let arch = "x86_64";
        // By default the linker makes a call of each copy and each clearing of memory, to a function that goes byte by
        // byte. Before Linux 6.2, the verifier compares every number in programs that call functions, so it finds few
        // equal states, and walks too much.
        let flags = format!(
            "--cfg=bpf_target_arch=\"{arch}\" -Cdebuginfo=2 -Clink-arg=--btf \
             -Clink-arg=--disable-expand-memcpy-in-order"
        );
        command
            .args("--release --package headgate-programs -Z build-std=core".split(' '))
            .args("--target bpfel-unknown-none --target-dir target/ebpf".split(' '))
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS", flags)
            // Incremental builds split programs into units, which the verifier refuses.
            .env("CARGO_INCREMENTAL", "0")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("RUSTFLAGS");
        command
    }
}
