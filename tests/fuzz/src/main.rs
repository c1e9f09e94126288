//! Feeds targets with random input: `cargo xtask fuzz --help`.

use std::{process::ExitCode, thread, time::Duration};

use anyhow::{Context, Result, bail};
use clap::Parser;
use headgate_fuzz::{Limit, TARGETS, Target, regressions, run, save, target};

/// Feeds targets with random input. An input that fails is kept as a file, which the tests run from
/// then on.
#[derive(Parser)]
struct Options {
    /// What is fed; everything if it is not said
    target: Option<String>,
    /// Stops after so many packets, objects or requests
    #[arg(long, default_value_t = u64::MAX)]
    runs: u64,
    /// Stops after so many seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Inputs follow from it: the same ones again
    #[arg(long)]
    seed: Option<u64>,
    /// Threads; the number of CPUs if it is not said
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
    let mut is_good = true;
    for target in &targets {
        is_good &= feed(target, &options)?;
    }
    Ok(if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Whether all input was good.
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
        "{}: {} cases, seed {seed}, {} threads, {:.0} s, {rate:.0} a second",
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
        "{}: FAILED, {} bytes of {} kept in {}",
        target.name,
        failure.input.len(),
        failure.original.len(),
        path.display()
    );
    if failure.input.is_empty() {
        bail!("{} fails without input", target.name);
    }
    Ok(false)
}
