//! Makes inputs and runs them until one fails or a limit is reached.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Once,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use fastrand::Rng;

use crate::{Runner, Target};

/// Most attempts to shorten a failing input.
const SHRINKS: usize = 4000;

/// The limits of a run.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Number of cases.
    pub cases: u64,
    /// Time.
    pub time: Duration,
    /// Number of threads.
    pub threads: usize,
}

/// The outcome of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Number of cases that passed.
    pub cases: u64,
    /// Time that it took.
    pub took: Duration,
    /// The first input that failed.
    pub failure: Option<Failure>,
}

/// An input that failed.
#[derive(Debug)]
pub struct Failure {
    /// The shortened input.
    pub input: Vec<u8>,
    /// The original input.
    pub original: Vec<u8>,
}

/// Runs a target on inputs generated from `seed`.
pub fn run(target: &Target, seed: u64, limit: &Limit) -> Result<Outcome> {
    count_panics();
    let cases = AtomicU64::new(0);
    let is_over = AtomicBool::new(false);
    let start = Instant::now();
    let work = |thread: u64| -> Result<Option<Failure>> {
        let mut rng = Rng::with_seed(seed.wrapping_add(thread));
        let mut runner = (target.runner)()?;
        let start = Instant::now();
        while !is_over.load(Ordering::Relaxed)
            && cases.load(Ordering::Relaxed) < limit.cases
            && start.elapsed() < limit.time
        {
            let input = (target.make)(&mut rng);
            match attempt(&mut runner, &input) {
                Some(count) => drop(cases.fetch_add(count, Ordering::Relaxed)),
                None => {
                    is_over.store(true, Ordering::Relaxed);
                    return Ok(Some(shrink(target, input)?));
                }
            }
        }
        Ok(None)
    };
    let results: Vec<Result<Option<Failure>>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..limit.threads as u64)
            .map(|thread| scope.spawn(move || work(thread)))
            .collect();
        let joined = threads.into_iter().map(thread::ScopedJoinHandle::join);
        joined
            .map(|result| result.unwrap_or_else(|_| Err(anyhow::anyhow!("a runner panicked"))))
            .collect()
    });
    let results = results.into_iter().collect::<Result<Vec<_>>>()?;
    Ok(Outcome {
        cases: cases.into_inner(),
        took: start.elapsed(),
        failure: results.into_iter().flatten().next(),
    })
}

/// Number of panics of all threads. `catch_unwind` does not catch panics of spawned tasks.
static PANICS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Whether panics are expected and not printed.
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.fetch_add(1, Ordering::Relaxed);
            if !IS_QUIET.get() {
                print(info);
            }
        }));
    });
}

/// Runs an input; returns the number of cases, or `None` if it fails.
fn attempt(runner: &mut Runner, input: &[u8]) -> Option<u64> {
    let before = PANICS.load(Ordering::Relaxed);
    let result = catch_unwind(AssertUnwindSafe(|| runner(input)));
    let has_panicked = PANICS.load(Ordering::Relaxed) != before;
    result.ok().filter(|_| !has_panicked)
}

/// Removes parts of the input while it still fails.
fn shrink(target: &Target, original: Vec<u8>) -> Result<Failure> {
    IS_QUIET.set(true);
    let mut input = original.clone();
    let mut len = input.len().div_ceil(2);
    let mut left = SHRINKS;
    let mut runner = (target.runner)()?;
    while len > 0 && left > 0 {
        let mut at = 0;
        while at < input.len() && left > 0 {
            let mut shorter = input.clone();
            shorter.drain(at..(at + len).min(input.len()));
            left -= 1;
            if attempt(&mut runner, &shorter).is_none() {
                input = shorter;
                runner = (target.runner)()?;
            } else {
                at += len;
            }
        }
        len /= 2;
    }
    IS_QUIET.set(false);
    Ok(Failure { input, original })
}
