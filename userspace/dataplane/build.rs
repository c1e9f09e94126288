//! Finds the BPF object that `cargo xtask build` makes.
//!
//! Release builds embed it. Debug builds read it when they load it, so that a changed packet rule compiles
//! and links no Rust code of the host. Nothing here fails without an object: checking and documenting the
//! code needs none.

use std::{env, path::PathBuf};

fn main() {
    println!("cargo::rustc-check-cfg=cfg(headgate_embeds_bpf)");
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let root = here.ancestors().nth(2).unwrap_or(&here);
    let object = root.join("target/ebpf/headgate.bpf.o");
    println!(
        "cargo::rustc-env=HEADGATE_BUILT_OBJECT={}",
        object.display()
    );
    println!("cargo::rerun-if-changed=build.rs");
    if env::var("PROFILE").is_ok_and(|profile| profile == "debug") {
        return;
    }
    println!("cargo::rerun-if-changed={}", object.display());
    if object.is_file() {
        println!("cargo::rustc-cfg=headgate_embeds_bpf");
    } else {
        println!("cargo::warning=this build embeds no BPF object: `cargo xtask build` makes one");
    }
}
