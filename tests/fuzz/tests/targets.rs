//! Saved inputs that failed once, and a few seconds of random ones. `HEADGATE_FUZZ_SEED` sets the seed, and
//! `HEADGATE_FUZZ_SECONDS` the time for each target.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::{env, time::Duration};

use headgate_fuzz::{Limit, regressions, run, target};

const SEED: u64 = 1;
const SECONDS: u64 = 3;

fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn holds(name: &str) {
    let target = target(name).unwrap();
    if target.needs_root && !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: {name}: loading programs needs root");
        return;
    }
    let mut runner = (target.runner)().unwrap();
    for (name, input) in regressions(target).unwrap() {
        println!("regression {name}");
        runner(&input);
    }
    drop(runner);
    let seed = number("HEADGATE_FUZZ_SEED", SEED);
    let limit = Limit {
        cases: u64::MAX,
        time: Duration::from_secs(number("HEADGATE_FUZZ_SECONDS", SECONDS)),
        threads: 1,
    };
    let outcome = run(target, seed, &limit).unwrap();
    println!("{name}: {} cases, seed {seed}", outcome.cases);
    assert!(outcome.cases > 0);
    if let Some(failure) = outcome.failure {
        panic!("seed {seed}: this input fails: {:02x?}", failure.input);
    }
}

#[test]
fn packet_host() {
    holds("packet-host");
}

#[test]
fn packet_kernel() {
    holds("packet-kernel");
}

#[test]
fn objects() {
    holds("objects");
}

#[test]
fn http() {
    holds("http");
}
