//! Every program loads, and costs the verifier what it costs.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use headgate_abi::names;
use headgate_prog::{Kernel, State};

#[test]
fn every_program_loads() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: loading programs needs root");
        return;
    }
    let mut kernel = Kernel::new("load", &State::default()).unwrap();
    let packets = [
        names::XDP_EXTERNAL,
        names::TC_EXTERNAL,
        names::TC_POD,
        names::TC_EGRESS,
        names::SK_LOOKUP,
    ];
    let results = packets.iter().chain(&names::SOCKET_HOOKS).map(|name| {
        let result = kernel.verified_instructions(name);
        match &result {
            Ok(Some(count)) => println!("{name}: loaded, {count} instructions verified"),
            Ok(None) => println!("{name}: loaded"),
            Err(error) => println!("{name}: {error:?}"),
        }
        result.is_ok()
    });
    let results: Vec<bool> = results.collect();
    assert!(results.iter().all(|is_loaded| *is_loaded));
}
