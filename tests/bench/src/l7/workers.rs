//! Two workers beside one.

use std::fs;

use anyhow::{Context, Result};

use super::{ADDRESS, Rounds, Setup, World, served};
use crate::{Report, Table};

pub(super) const TITLE: &str = "HTTP/1.1, 256 kept connections: two workers by one";
const CONNECTIONS: &str = "-c256";

/// Measures what one and two workers can serve: requests for each second of CPU time of the busiest worker. This
/// includes uneven distribution of connections, and what workers cost each other, but not the CPUs that load and
/// backend need, so two CPUs are enough.
pub(super) fn run(world: &World, rounds: Rounds, report: &mut Report) -> Result<()> {
    let mut table = Table::new(
        TITLE,
        "requests for a CPU second of the busiest worker",
        &rounds.text(),
        "one worker",
    );
    for (name, count) in [("one worker", 1), ("two workers", 2)] {
        let mut samples = Vec::new();
        for _ in 0..rounds.count {
            samples.push(sample(world, count, rounds.seconds)?);
        }
        table.add(name, &samples);
    }
    report.add(table);
    Ok(())
}

/// One round. Each has a process of its own, because the kernel distributes the connections of each differently.
pub(super) fn sample(world: &World, workers: u8, seconds: u32) -> Result<f64> {
    let proxy = world.headgate(Setup::Workers(workers))?;
    let before = times(proxy.process.id())?;
    let mut load = world.netns.command("wrk", None);
    load.args(["-t1", CONNECTIONS, &format!("-d{seconds}s")]);
    let rate = served(load.arg(format!("http://{ADDRESS}:{}/", proxy.http)))?;
    let after = times(proxy.process.id())?;
    let spent = before.iter().zip(&after).map(|(one, other)| other - one);
    let most = spent.max().context("no workers")? as f64 / 1e9;
    Ok(rate * f64::from(seconds) / most)
}

/// CPU time of each worker of a process, in nanoseconds.
pub(super) fn times(process: u32) -> Result<Vec<u64>> {
    let mut times = Vec::new();
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let task = task?.path();
        if fs::read_to_string(task.join("comm"))?.starts_with("worker-") {
            let text = fs::read_to_string(task.join("schedstat"))?;
            times.push(text.split(' ').next().context("schedstat")?.parse()?);
        }
    }
    Ok(times)
}
