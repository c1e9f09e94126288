//! How much the verifier has to walk: a program that grows is noticed here.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::fs;

use headgate_abi::names;
use headgate_packets::State;
use headgate_prog::Kernel;

/// The kernel, and each program's count there, of programs by rustc 1.96 with LLVM 22.1.8. Another LLVM,
/// or code in another order, may change a count by some per cent. Where programs became larger or smaller
/// for a reason, replace it by what the test prints.
const KERNEL: &str = "6.18.";
const RECORDED: [(&str, u32); 16] = [
    (names::XDP_EXTERNAL, 69_015),
    (names::TC_EXTERNAL, 48_024),
    (names::TC_POD, 43_463),
    (names::TC_EGRESS, 33_768),
    (names::TC_L3, 49_293),
    (names::TC_L3_EGRESS, 35_441),
    (names::SK_LOOKUP, 85),
    (names::SOCK_RELEASE, 74),
    ("hg_connect4", 4_274),
    ("hg_connect6", 4_422),
    ("hg_sendmsg4", 35_020),
    ("hg_sendmsg6", 38_022),
    ("hg_recvmsg4", 371),
    ("hg_recvmsg6", 474),
    ("hg_getpeername4", 371),
    ("hg_getpeername6", 474),
];

#[test]
fn no_program_grows_by_more_than_a_tenth_unnoticed() {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    if !kernel.starts_with(KERNEL) {
        println!(
            "SKIPPED: verified instructions are recorded for Linux {KERNEL}x, this is {kernel}"
        );
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: verified instructions: loading programs needs root");
        return;
    }
    let mut state = State::default();
    state.config.dsr_port = headgate_abi::Port::new(6090);
    state.config.forwards_by_dsr = 1;
    let mut by_dsr = Kernel::new("instructions-dsr", &state).unwrap();
    for (name, _) in RECORDED {
        let count = by_dsr.verified_instructions(name).unwrap().unwrap();
        println!("with DSR: {name} {count}");
        assert!(
            count < 400_000,
            "{name}: too near to the verifier's limit of a million"
        );
    }
    let mut programs = Kernel::new("instructions", &State::default()).unwrap();
    let now =
        RECORDED.map(|(name, _)| (name, programs.verified_instructions(name).unwrap().unwrap()));
    let is_near = |count: u32, recorded: u32| count.abs_diff(recorded) <= recorded / 10;
    let all_near = now
        .iter()
        .zip(RECORDED)
        .all(|((_, count), (_, recorded))| is_near(*count, recorded));
    assert!(all_near, "now: {now:#?}\nrecorded: {RECORDED:#?}");
}
