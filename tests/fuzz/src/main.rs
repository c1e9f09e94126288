//! Feeds targets with random input: `cargo xtask fuzz --help`.

use std::{process::ExitCode, thread, time::Duration};

use anyhow::{Context, Result, bail};
use clap::Parser;
use headgate_fuzz::{Limit, TARGETS, Target, regressions, run, save, target};

/// Feeds targets with random input. A failing input is saved as a file, which the tests run from then on.
#[derive(Parser)]
struct Options {
    /// Target to feed; default: every target
    target: Option<String>,
    /// Stop after this number of packets, objects or requests
    #[arg(long, default_value_t = u64::MAX)]
    runs: u64,
    /// Stop after this number of seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seed of the random inputs; the same seed makes the same inputs
    #[arg(long)]
    seed: Option<u64>,
    /// Number of threads; default: the number of CPUs
    #[arg(long)]
    threads: Option<usize>,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let targets = match &options.target {
        None => TARGETS.to_vec(),
        Some(name) => {
            let names = || TARGETS.iter().map(|target| target.name).collect::<Vec<_>>();
            let known = target(name).with_context(|| format!("no target {name}: {:?}", names()))?;
            vec![*known]
        }
    };
    let mut has_passed = true;
    for target in &targets {
        has_passed &= feed(target, &options)?;
    }
    Ok(if has_passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Feeds a target; returns whether every input passed.
fn feed(target: &Target, options: &Options) -> Result<bool> {
    let mut runner = (target.runner)()?;
    for (name, input) in regressions(target)? {
        eprintln!("{}: regression {name}", target.name);
        runner(&input);
    }
    drop(runner);
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let limit = Limit {
        cases: options.runs,
        time: Duration::from_secs(options.seconds),
        threads: options.threads.unwrap_or(threads),
    };
    let outcome = run(target, seed, &limit)?;
    let rate = outcome.cases as f64 / outcome.took.as_secs_f64();
    println!(
        "{}: {} cases, seed {seed}, {} threads, {:.0} s, {rate:.0} per second",
        target.name,
        outcome.cases,
        limit.threads,
        outcome.took.as_secs_f64()
    );
    let Some(failure) = outcome.failure else {
        return Ok(true);
    };
    let path = save(target, &format!("seed-{seed}"), &failure.input)?;
    println!(
        "{}: FAILED, input shortened to {} of {} bytes and saved in {}",
        target.name,
        failure.input.len(),
        failure.original.len(),
        path.display()
    );
    if failure.input.is_empty() {
        bail!("{} fails on empty input", target.name);
    }
    Ok(false)
}
