//! Builds the BPF object and the binary.

use std::fs;

use anyhow::{Context, Result};
use object::{
    build::elf::{Builder, SectionData},
    elf::SHT_STRTAB,
};

use crate::{arch::Arch, setup, sh};

const BUILT: &str = "target/ebpf/bpfel-unknown-none/release/headgate-programs";
/// Where `headgate-dataplane` looks for the object.
pub(crate) const OBJECT: &str = "target/ebpf/headgate.bpf.o";
/// Where `deploy/Containerfile` looks for the binary of an architecture.
const IMAGES: &str = "target/image";

#[derive(Default, clap::Args)]
pub(crate) struct Options {
    /// Optimise the binary across crates and strip it, for images and benchmarks: slow to build. A copy is put where
    /// `deploy/Containerfile` reads it
    #[arg(long)]
    dist: bool,
    /// Build programs that log each packet's verdict, which the agent prints: slow at run time
    #[arg(long)]
    trace: bool,
    /// Build the binary for this target, for example aarch64-unknown-linux-gnu; without it, for this machine
    #[arg(long, value_name = "TRIPLE", value_parser = Arch::by_target)]
    target: Option<&'static Arch>,
}

/// Builds the BPF object and the binary.
pub(crate) fn run(options: &Options) -> Result<()> {
    let features: &[&str] = match options.trace {
        true => &["--features", "trace"],
        false => &[],
    };
    object_with(setup::bpf()?, features)?;
    let arch = match options.target {
        Some(arch) => arch,
        None => Arch::host()?,
    };
    let (profile, folder) = match options.dist {
        true => ("dist", "dist"),
        false => ("dev", "debug"),
    };
    let mut build = arch.cargo_build()?;
    sh::heading(&format!("building the binary for {}", arch.name));
    build.args(["--profile", profile, "--package", "headgate"]);
    sh::run(build.args(features))?;
    let binary = format!("{}/headgate", arch.folder(folder));
    let built = sh::root().join(&binary);
    let bytes = fs::metadata(&built)?.len();
    eprintln!("built {binary} ({} MB)", bytes / 1_000_000);
    if options.dist {
        let image = sh::root().join(IMAGES).join(arch.name);
        fs::create_dir_all(&image)?;
        fs::copy(built, image.join("headgate"))?;
    }
    Ok(())
}

/// Builds the BPF object, where `headgate-dataplane` looks for it.
pub(crate) fn object(toolchain: setup::Toolchain) -> Result<()> {
    object_with(toolchain, &[])
}

fn object_with(toolchain: setup::Toolchain, features: &[&str]) -> Result<()> {
    sh::heading("building the BPF object");
    sh::run(toolchain.cargo("build").args(features))?;
    let root = sh::root();
    let built = fs::read(root.join(BUILT)).with_context(|| format!("no {BUILT}"))?;
    let built = without_dwarf(&built).with_context(|| format!("cannot strip {BUILT}"))?;
    // An object that did not change must not rebuild what embeds it.
    if fs::read(root.join(OBJECT)).ok().as_deref() != Some(&built) {
        fs::write(root.join(OBJECT), built)?;
    }
    Ok(())
}

/// Returns the object without DWARF, which only the linker needs: it makes BTF of it. That is three quarters of it.
fn without_dwarf(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object)?;
    for section in &mut builder.sections {
        let name = section.name.strip_prefix(b".rel").unwrap_or(&section.name);
        section.delete = name.starts_with(b".debug_");
    }
    builder.delete_orphans();
    // LLVM has one section for both kinds of names, and the writer wants two.
    let names = builder.sections.add();
    names.name = ".shstrtab".into();
    names.sh_type = SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    builder.write(&mut stripped)?;
    Ok(stripped)
}
