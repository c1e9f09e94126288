//! The L7 proxy compared with nginx and haproxy: each alone on one CPU, load and backend on another, in
//! alternating rounds. Prints medians over the rounds, and ratios; absolute figures belong to one machine.

mod greedy;
mod idle;
mod latency;
mod loads;
mod proxies;
#[cfg(test)]
mod tests;
mod workers;

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use self::{
    loads::{LOADS, Load},
    proxies::{ADDRESS, AUTHORIZATION, NGINX_H2C, Proxy, Setup, World},
};
use crate::{
    Options, Report, Table,
    tools::{on_cpu, rate},
};

const NAME: &str = "hgbench";
/// One tick of `/proc/PID/stat`.
const TICK: Duration = Duration::from_millis(10);

/// The load with access log, Basic authentication and rate limit.
const GUARDED: Load = Load {
    name: "HTTP/1.1, 32 kept connections, access log, Basic and rate limit",
    is_tls: false,
    path: "/",
    command: &["wrk", "-t1", "-c32", "-H", AUTHORIZATION],
};

/// Rounds of a measurement.
#[derive(Clone, Copy, Debug)]
struct Rounds {
    count: u32,
    seconds: u32,
}

impl Rounds {
    fn text(self) -> String {
        format!("{} rounds of {} s", self.count, self.seconds)
    }
}

/// Measures all loads.
pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let (count, seconds) = if options.quick { (3, 2) } else { (7, 5) };
    let rounds = Rounds { count, seconds };
    let world = World::new(NAME)?;
    let is_wanted = |load: &&Load| options.wants(load.name);
    let usual: Vec<&Load> = LOADS.iter().filter(is_wanted).collect();
    let memory = options.wants(greedy::TITLE);
    let latency = options.wants(latency::TITLE);
    if !usual.is_empty() || memory || latency {
        let proxies = [
            world.headgate(Setup::Usual)?,
            world.nginx(Setup::Usual)?,
            world.haproxy()?,
        ];
        for load in usual {
            compare(&world, load, rounds, &proxies, report)?;
        }
        if latency {
            latency::run(&world, rounds, &proxies, report)?;
        }
        if memory {
            let [headgate, nginx, _] = &proxies;
            let measured = [
                (headgate.name, headgate.http, headgate.process.id()),
                (nginx.name, NGINX_H2C, nginx.process.id()),
            ];
            report.add(greedy::measure(&world.netns, &measured)?);
        }
    }
    if options.wants(GUARDED.name) {
        let guarded = [
            world.headgate(Setup::Guarded)?,
            world.nginx(Setup::Guarded)?,
        ];
        compare(&world, &GUARDED, rounds, &guarded, report)?;
        for proxy in &guarded {
            let lines = fs::metadata(&proxy.log).is_ok_and(|log| log.len() > 0);
            ensure!(lines, "{} has written no access log", proxy.name);
        }
    }
    if options.wants(workers::TITLE) {
        workers::run(&world, rounds, report)?;
    }
    for kind in idle::KINDS {
        if options.wants(&kind.title(idle::CONNECTIONS)) {
            report.add(idle::measure(&world, kind, idle::CONNECTIONS)?);
        }
    }
    Ok(())
}

/// Measures rate and cost of a load.
fn compare(
    world: &World,
    load: &Load,
    rounds: Rounds,
    proxies: &[Proxy],
    report: &mut Report,
) -> Result<()> {
    let mut results: Vec<Vec<Sample>> = proxies.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds.count {
        for (proxy, samples) in proxies.iter().zip(&mut results) {
            let sample = measure(world, load, rounds.seconds, proxy);
            samples.push(sample.with_context(|| format!("{}, {}", load.name, proxy.name))?);
        }
    }
    let how = rounds.text();
    let mut rates = Table::new(load.name, "requests/s", &how, "nginx");
    let costs = format!("{}: CPU time of the proxy", load.name);
    let mut costs = Table::new(&costs, "us each", &how, "nginx");
    for (proxy, samples) in proxies.iter().zip(&results) {
        let all = |value: fn(&Sample) -> f64| samples.iter().map(value).collect::<Vec<_>>();
        rates.add(proxy.name, &all(|sample| sample.rate));
        costs.add(proxy.name, &all(|sample| sample.cpu_us));
    }
    report.add(rates);
    report.add(costs);
    Ok(())
}

/// Requests per second, and CPU time of the proxy for each request.
#[derive(Clone, Copy)]
struct Sample {
    rate: f64,
    cpu_us: f64,
}

fn measure(world: &World, load: &Load, seconds: u32, proxy: &Proxy) -> Result<Sample> {
    let (scheme, port) = match load.is_tls {
        true => ("https", proxy.https),
        false => ("http", proxy.http),
    };
    let url = format!("{scheme}://{ADDRESS}:{port}{}", load.path);
    let (program, arguments) = load.command.split_first().context("no command")?;
    let mut command = on_cpu(&world.netns, None, 1, program);
    command.args(arguments).current_dir(world.folder.path());
    // h2load takes seconds, and wrk a unit.
    match *program {
        "h2load" => command.arg(format!("-D{seconds}")),
        _ => command.arg(format!("-d{seconds}s")),
    };
    let process = proxy.process.id();
    let (before, begin) = (cpu(process)?, Instant::now());
    let rate = served(command.arg(url))?;
    let (took, after) = (begin.elapsed(), cpu(process)?);
    let requests = rate * took.as_secs_f64();
    Ok(Sample {
        rate,
        cpu_us: (after - before).as_secs_f64() * 1e6 / requests,
    })
}

/// Runs a load generator, and returns the requests per second. Fails if a response reports a failure.
fn served(load: &mut Command) -> Result<f64> {
    let output = load.output().with_context(|| format!("{load:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{load:?}: {error}{text}");
    ensure!(!text.contains("Non-2xx"), "{text}");
    rate(&text).with_context(|| format!("no rate in {text}"))
}

/// CPU time of a process.
fn cpu(process: u32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The process name in parentheses may contain blanks.
    let (_, rest) = text.rsplit_once(") ").context("stat")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks = |index: usize| -> Result<u32> { Ok(fields.get(index).context("stat")?.parse()?) };
    Ok(TICK * (ticks(11)? + ticks(12)?))
}
