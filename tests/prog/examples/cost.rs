//! What a packet costs: instructions that the verifier walks, and nanoseconds beside two baselines.

use anyhow::Result;
use headgate_abi::names;
use headgate_prog::{Builder, Kernel, State};

const REPEAT: u32 = 200_000;
const ROUNDS: usize = 9;

fn main() -> Result<()> {
    let mut kernel = Kernel::new("cost", &State::default())?;
    println!("{:<20} {:>12}", "program", "verified");
    let hooks = [
        names::XDP_EXTERNAL,
        names::TC_EXTERNAL,
        names::TC_POD,
        names::TC_EGRESS,
        "hg_baseline_pass",
        "hg_baseline_lookup",
    ];
    for name in hooks.into_iter().chain(names::SOCKET_HOOKS) {
        println!("{name:<20} {:>12}", kernel.verified_instructions(name)?);
    }

    let v4 = Builder::new("10.0.0.1:1000", "10.0.0.2:80").tcp("A", b"");
    let v6 = Builder::new("[fd00::1]:1000", "[fd00::2]:80").tcp("A", b"");
    let cases = [
        ("baseline: pass", "hg_baseline_pass", &v4),
        ("baseline: one look-up", "hg_baseline_lookup", &v4),
        ("walk, not ours, v4", names::XDP_EXTERNAL, &v4),
        ("walk, not ours, v6", names::XDP_EXTERNAL, &v6),
    ];
    // Rounds are interleaved and the fastest counts: what disturbs a round only slows it.
    let mut best = [u128::MAX; 4];
    for _ in 0..ROUNDS {
        for ((_, program, frame), best) in cases.iter().zip(&mut best) {
            *best = (*best).min(kernel.time_xdp(program, frame, REPEAT)?.as_nanos());
        }
    }
    println!("\n{:<24} {:>8} {:>8}", "packet", "ns", "ratio");
    let look_up = best[1] as f64;
    for ((name, ..), nanoseconds) in cases.iter().zip(best) {
        println!(
            "{name:<24} {nanoseconds:>8} {:>8.2}",
            nanoseconds as f64 / look_up
        );
    }
    Ok(())
}
