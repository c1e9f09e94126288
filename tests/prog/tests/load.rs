//! Every program loads, and costs the verifier what it costs.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use headgate_abi::{Port, names};
use headgate_packets::State;
use headgate_prog::Kernel;

#[test]
fn every_program_loads() {
    check("load", &State::default());
}

#[test]
fn every_program_loads_with_dsr() {
    let mut state = State::default();
    state.config.dsr_port = Port::new(6090);
    state.config.forwards_by_dsr = 1;
    check("load-dsr", &state);
}

fn check(name: &str, state: &State) {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: {name}: loading programs needs root");
        return;
    }
    let mut kernel = Kernel::new(name, state).unwrap();
    let packets = [names::XDP_EXTERNAL, names::SK_LOOKUP, names::SOCK_RELEASE];
    let packets = packets.iter().chain(&names::TC);
    let results = packets.chain(&names::SOCKET_HOOKS).map(|name| {
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
