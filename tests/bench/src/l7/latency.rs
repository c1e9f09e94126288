//! Latency at a rate that all proxies can serve.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

use super::{ADDRESS, LOADS, Proxy, Rounds, World, measure, served};
use crate::{Report, Table, tools::on_cpu};

pub(super) const TITLE: &str =
    "HTTP/1.1, 32 kept connections: latency at 70 % of the rate of nginx";
const CONNECTIONS: u32 = 32;
const SHARE: f64 = 0.7;
/// Shares of requests that are faster, with their names.
const PERCENTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];

/// Measures the time from request to response.
pub(super) fn run(
    world: &World,
    rounds: Rounds,
    proxies: &[Proxy],
    report: &mut Report,
) -> Result<()> {
    let nginx = proxies.iter().find(|proxy| proxy.name == "nginx");
    let (nginx, [load, ..]) = (nginx.context("no nginx")?, &LOADS);
    let most = measure(world, load, rounds.seconds, nginx)?.rate;
    let rate = most * SHARE;
    let mut results: Vec<Vec<[f64; PERCENTILES.len()]>> = vec![Vec::new(); proxies.len()];
    for _ in 0..rounds.count {
        for (proxy, samples) in proxies.iter().zip(&mut results) {
            samples.push(sample(world, proxy.http, rate, rounds.seconds).context(proxy.name)?);
        }
    }
    let how = format!("{}, {rate:.0} requests/s", rounds.text());
    for (at, (name, _)) in PERCENTILES.iter().enumerate() {
        let mut table = Table::new(&format!("{TITLE}, {name}"), "us", &how, "nginx");
        for (proxy, samples) in proxies.iter().zip(&results) {
            let samples = samples.iter().filter_map(|sample| sample.get(at).copied());
            table.add(proxy.name, &samples.collect::<Vec<_>>());
        }
        report.add(table);
    }
    Ok(())
}

/// Percentiles of one round, in microseconds. Each connection begins requests at a constant rate, but none before
/// its last one has ended.
pub(super) fn sample(
    world: &World,
    port: u16,
    rate: f64,
    seconds: u32,
) -> Result<[f64; PERCENTILES.len()]> {
    let log = world.folder.path().join("latency.tsv");
    // h2load adds to a log that exists.
    let _absent = fs::remove_file(&log);
    let mut load = on_cpu(&world.netns, None, 1, "h2load");
    load.args(["--h1", "-t1", &format!("-c{CONNECTIONS}")])
        .arg(format!("--rps={}", rate / f64::from(CONNECTIONS)))
        .arg(format!("-D{seconds}"))
        .arg(format!("--log-file={}", log.display()))
        .arg(format!("http://{ADDRESS}:{port}/"));
    served(&mut load)?;
    let mut times = times(&log)?;
    ensure!(!times.is_empty(), "no request has ended");
    times.sort_unstable();
    let last = times.len() - 1;
    Ok(PERCENTILES.map(|(_, share)| {
        let time = times.get((last as f64 * share).round() as usize);
        time.copied().unwrap_or_default() as f64
    }))
}

/// Microseconds of each request in a log of h2load: begin, status, time.
fn times(log: &Path) -> Result<Vec<u64>> {
    let text = fs::read_to_string(log)?;
    text.lines()
        .map(|line| {
            let mut fields = line.split('\t').skip(1);
            let status = fields.next().context("no status")?;
            ensure!(status == "200", "status {status}");
            Ok(fields.next().context("no time")?.parse()?)
        })
        .collect()
}
