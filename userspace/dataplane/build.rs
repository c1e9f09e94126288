//! Finds the BPF object that `cargo xtask build` made.

use std::{env, path::PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=HEADGATE_BPF_OBJECT");
    let object = env::var_os("HEADGATE_BPF_OBJECT").map_or_else(
        || {
            let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
            here.join("../../target/ebpf/headgate.bpf.o")
        },
        PathBuf::from,
    );
    println!("cargo::rerun-if-changed={}", object.display());
    assert!(
        object.is_file(),
        "no BPF object at {}: run `cargo xtask build` first",
        object.display()
    );
    println!("cargo::rustc-env=HEADGATE_BPF_OBJECT={}", object.display());
}
