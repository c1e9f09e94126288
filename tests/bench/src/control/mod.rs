//! The agent's way from the API to the maps: time until everything is programmed, time until a change is,
//! memory and system calls. The API server is the stand-in, in its own process; the benchmark reads the
//! maps from outside of the agent.

mod changes;
mod memory;
mod rig;

use std::{
    fs,
    net::Ipv4Addr,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use headgate_abi::{Addr, CtEntry, CtFlags, CtState, FlowKey, Port, Protocol};
use headgate_dataplane::{Maps, now_s};
use headgate_netns::Process;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use self::{
    changes::Churn,
    memory::{Memory, memory_table},
    rig::{Rig, Sync, cpu},
};
use crate::{
    Options, Report, Table,
    churn::{PORT, Shape},
    load_nftables, nftables,
};

const PREFIX: &str = "hgbc";
const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 100_000;
/// A smaller cluster, to show what grows with the number.
const FEWER: u32 = 1_000;
/// Clusters that operators of kube-proxy described: many endpoints, and many Services of two families.
const LARGE: [Shape; 2] = [
    Shape {
        services: 5_006,
        endpoints: 250_011,
        is_dual_stack: false,
    },
    Shape {
        services: 44_125,
        endpoints: 44_125,
        is_dual_stack: true,
    },
];
/// Changes per second.
const RATE: u32 = 100;
/// Connection entries in the maps while changes arrive; the capacity is 524,288.
const CONNECTIONS: u32 = 500_000;
/// Connection entries of a node with very many connections, and their capacity.
const CROWD: u32 = 20_000_000;
const CROWD_CAPACITY: &str = "22000000";
/// Half of the slots that the tables of [`SERVICES`] need.
const FEW_SLOTS: &str = "2097152";
/// Longest time to wait for the first pass, or for a change in the maps.
const PATIENCE: Duration = Duration::from_secs(120);
/// Interval between two reads of the maps.
const LOOK: Duration = Duration::from_micros(100);

/// Targets with 10,000 Services and 100,000 endpoints.
const TARGET_APPLY_S: f64 = 1.0;
const TARGET_LATENCY_MS: f64 = 10.0;
const TARGET_MEMORY_MB: f64 = 100.0;
/// Targets with a cluster of [`LARGE`].
const TARGET_LARGE_APPLY_S: f64 = 2.0;
const TARGET_LARGE_MEMORY_MB: f64 = 150.0;

/// Runs the benchmark.
pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let rounds = if options.quick { 1 } else { 3 };
    let seconds = if options.quick { 5 } else { 20 };
    let title = |what: &str| format!("{what}, {SERVICES} Services");
    let titles = ["sync", "a change", "memory", "work of a change"].map(title);
    let [sync_title, change_title, memory_title, work_title] = &titles;
    let rig = Rig::new()?;
    for shape in &LARGE {
        large(options, report, &rig, shape, seconds)?;
    }
    crowded(options, report, &rig, seconds)?;
    short(options, report, &rig, seconds)?;
    load_rules(options, report, &rig)?;
    if !titles.iter().any(|title| options.wants(title)) {
        return Ok(());
    }
    let empty = Churn::start(&rig, &of(0))?;
    let mut starts = Vec::new();
    for _ in 0..rounds {
        starts.push(Sync::of(&rig)?);
        rig.cleanup()?;
    }
    drop(empty);
    let start_s = median(starts.iter().map(|(_, sync)| sync.total_s).collect());
    drop(starts);

    let mut churn = Churn::start(&rig, &of(SERVICES))?;
    let mut firsts = Vec::new();
    let mut restarts = Vec::new();
    let mut memory = Vec::new();
    let mut last = None;
    for _ in 0..rounds {
        // The agent of the last round ends first.
        drop(last.take());
        rig.cleanup()?;
        let (agent, first) = Sync::of(&rig)?;
        let mut of_round = vec![Memory::of(agent.id())?];
        agent.terminate()?;
        let (agent, restart) = Sync::of(&rig)?;
        of_round.push(Memory::of(agent.id())?);
        firsts.push(first);
        restarts.push(restart);
        memory.push(of_round);
        last = Some(agent);
    }
    let agent = last.context("no round")?;
    report.add(sync_table(sync_title, start_s, &firsts, &restarts));

    let how = format!(
        "{RATE} per second for {seconds} s: of ten, 7 endpoints become unready, 1 moves, 1 Service gets \
         affinity, 1 a port; from before the stand-in writes until the maps show it"
    );
    let mut latencies = Table::new(change_title, "ms", &how, "");
    let count = seconds * RATE;
    let mut maps = Maps::open(&rig.pins)?;
    let quiet = churn.change(&maps, 0..count, RATE)?;
    add_latencies(&mut latencies, "no connections", quiet);
    let after_changes = Memory::of(agent.id())?;
    fill_connections(&mut maps, CONNECTIONS)?;
    let busy = churn
        .change(&maps, count..2 * count, RATE)
        .with_context(|| agent.log())?;
    let name = format!("{CONNECTIONS} connection entries");
    add_latencies(&mut latencies, &name, busy);
    report.add(latencies);

    report.add(memory_table(memory_title, &memory, &after_changes));

    let mut work = Table::new(
        work_title,
        "a change",
        &format!(
            "{} per second; system calls by strace in a separate run",
            RATE / 2
        ),
        "",
    );
    let at = 2 * count;
    add_work(&mut work, "", &mut churn, &maps, &agent, at)?;
    drop((agent, churn, maps));
    rig.cleanup()?;
    let mut churn = Churn::start(&rig, &of(FEWER))?;
    let (agent, _) = Sync::of(&rig)?;
    let maps = Maps::open(&rig.pins)?;
    let few = format!(", {FEWER} Services");
    add_work(&mut work, &few, &mut churn, &maps, &agent, 0)?;
    report.add(work);
    Ok(())
}

/// So many Services, with ten endpoints each.
fn of(services: u32) -> Shape {
    Shape {
        services,
        endpoints: services * (ENDPOINTS / SERVICES),
        is_dual_stack: false,
    }
}

/// Measures an agent with default options at a cluster of [`LARGE`].
fn large(
    options: &Options,
    report: &mut Report,
    rig: &Rig,
    shape: &Shape,
    seconds: u32,
) -> Result<()> {
    let stack = if shape.is_dual_stack {
        "dual-stack "
    } else {
        ""
    };
    let title = format!(
        "{} {stack}Services, {} endpoints",
        shape.services, shape.endpoints
    );
    if !options.wants(&title) {
        return Ok(());
    }
    let how = format!("default options; {RATE} changes per second for {seconds} s");
    let mut table = Table::new(&title, "", &how, "");
    let mut churn = Churn::start(rig, shape)?;
    for name in ["first start", "start with maps"] {
        let (agent, sync) = Sync::of(rig)?;
        table.add(&format!("{name}: all, s"), &[sync.total_s]);
        let name = format!("{name}: from the last object until all is programmed, s");
        table.add(&name, &[sync.listed_s]);
        table.note(target(sync.listed_s, TARGET_LARGE_APPLY_S, "s"));
        agent.terminate()?;
    }
    let (agent, _) = Sync::of(rig)?;
    let maps = Maps::open(&rig.pins)?;
    let latencies = churn.change(&maps, 0..seconds * RATE, RATE)?;
    add_latencies(&mut table, "a change, ms", latencies);
    let memory = Memory::of(agent.id())?;
    table.add("the agent's own memory, MB", &[memory.own]);
    table.note(target(memory.own, TARGET_LARGE_MEMORY_MB, "MB"));
    report.add(table);
    drop((agent, churn, maps));
    rig.cleanup()
}

/// Measures an agent on a node with very many connections.
fn crowded(options: &Options, report: &mut Report, rig: &Rig, seconds: u32) -> Result<()> {
    let title = format!("{CROWD} connection entries, {FEWER} Services");
    if !options.wants(&title) {
        return Ok(());
    }
    let how = format!(
        "--max-connections {CROWD_CAPACITY}; {RATE} changes per second for {seconds} s, and nothing for as long"
    );
    let mut table = Table::new(&title, "", &how, "");
    let mut churn = Churn::start(rig, &of(FEWER))?;
    let start = || Sync::with(rig, &["--max-connections", CROWD_CAPACITY]);
    let (agent, first) = start()?;
    table.add("first start, no entries yet: all, s", &[first.total_s]);
    let mut maps = Maps::open(&rig.pins)?;
    fill_connections(&mut maps, CROWD)?;
    agent.terminate()?;
    let (agent, restart) = start()?;
    let maps = Maps::open(&rig.pins)?;
    table.add("start with maps: all, s", &[restart.total_s]);
    table.add(
        "start with maps: CPU time of the agent, s",
        &[restart.cpu_s],
    );
    let before = cpu(agent.id())?;
    thread::sleep(Duration::from_secs(seconds.into()));
    let sweep = cpu(agent.id())?.saturating_sub(before);
    let share = sweep.as_secs_f64() * 100.0 / f64::from(seconds);
    table.add("the agent while nothing changes, % of one CPU", &[share]);
    let latencies = churn.change(&maps, 0..seconds * RATE, RATE)?;
    add_latencies(&mut table, "a change, ms", latencies);
    let memory = Memory::of(agent.id())?;
    table.add("the agent's own memory, MB", &[memory.own]);
    report.add(table);
    drop((agent, churn, maps));
    rig.cleanup()
}

fn sync_table(title: &str, start_s: f64, firsts: &[Sync], restarts: &[Sync]) -> Table {
    let how = format!(
        "{ENDPOINTS} endpoints, every 20th Service with a node port; listing is the rest of the total, \
         and includes the time of the stand-in"
    );
    let mut table = Table::new(title, "s", &how, "");
    for (name, syncs) in [("first start", firsts), ("start with maps", restarts)] {
        let mut add = |what: &str, of: &dyn Fn(&Sync) -> f64| {
            let samples: Vec<f64> = syncs.iter().map(of).collect();
            table.add(&format!("{name}: {what}"), &samples);
            median(samples)
        };
        add("all", &|sync| sync.total_s);
        add("without any Service", &|_| start_s);
        add("listing, parsing", &|sync| {
            sync.total_s - start_s - sync.pass_s
        });
        add("CPU time of the agent", &|sync| sync.cpu_s);
        add("model, diff", &|sync| sync.planned_s);
        add("maps", &|sync| sync.pass_s - sync.planned_s);
        let applied = add("model, diff and maps", &|sync| sync.pass_s);
        table.note(target(applied, TARGET_APPLY_S, "s"));
    }
    table
}

/// Measures an agent whose maps cannot hold everything: what one Service gets then depends on all.
fn short(options: &Options, report: &mut Report, rig: &Rig, seconds: u32) -> Result<()> {
    let title = format!("{SERVICES} Services, too few slots for their tables");
    if !options.wants(&title) {
        return Ok(());
    }
    let how = format!("--max-slots {FEW_SLOTS}; {RATE} changes per second for {seconds} s");
    let mut table = Table::new(&title, "", &how, "");
    let mut churn = Churn::start(rig, &of(SERVICES))?;
    let few = ["--max-slots", FEW_SLOTS, "--max-map-memory", "1"];
    let (agent, _) = Sync::with(rig, &few)?;
    let maps = Maps::open(&rig.pins)?;
    let before = cpu(agent.id())?;
    let latencies = churn.change(&maps, 0..seconds * RATE, RATE)?;
    let used = cpu(agent.id())?.saturating_sub(before);
    let each = used.as_secs_f64() * 1e3 / f64::from(seconds * RATE);
    add_latencies(&mut table, "a change, ms", latencies);
    table.add("CPU time of a change, ms", &[each]);
    report.add(table);
    drop((agent, churn, maps));
    rig.cleanup()
}

/// Measures the loading of what kube-proxy would write into a namespace without rules, once: it takes minutes.
fn load_rules(options: &Options, report: &mut Report, rig: &Rig) -> Result<()> {
    let services = if options.quick { FEWER } else { SERVICES };
    let title = format!("rules of {services} Services");
    if !options.wants(&title) {
        return Ok(());
    }
    let netns = &rig.cluster.client;
    let rules = nftables(
        &of(services).for_rules(),
        Ipv4Addr::new(192, 168, 50, 1).into(),
    );
    let begin = Instant::now();
    load_nftables(netns, &rules)?;
    let took = begin.elapsed().as_secs_f64();
    load_nftables(netns, "flush ruleset")?;
    let how = "those of kube-proxy for nftables, with ten endpoints for each Service";
    let mut table = Table::new(&title, "s", how, "");
    table.add("loaded by nft -f", &[took]);
    report.add(table);
    Ok(())
}

fn add_latencies(table: &mut Table, name: &str, latencies: Vec<Duration>) {
    let milliseconds: Vec<f64> = latencies
        .iter()
        .map(|latency| latency.as_secs_f64() * 1e3)
        .collect();
    table.add(&format!("{name}, all"), &milliseconds);
    // The latencies are sorted.
    let p99 = milliseconds[milliseconds.len() * 99 / 100];
    table.add(&format!("{name}, p99"), &[p99]);
    table.note(target(p99, TARGET_LATENCY_MS, "ms"));
}

/// Adds established connections that belong to no service, so that no change removes them.
fn fill_connections(maps: &mut Maps, count: u32) -> Result<()> {
    let entry = CtEntry {
        seen_s: now_s(),
        state: CtState::ESTABLISHED,
        flags: CtFlags::default(),
        ..CtEntry::default()
    };
    let server = Addr::from(std::net::IpAddr::from(Ipv4Addr::new(10, 244, 1, 2)));
    for number in 0..count {
        let client = Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 0, 0)) + number);
        let key = FlowKey {
            source: Addr::from(std::net::IpAddr::from(client)),
            destination: server,
            source_port: Port::new(40_000),
            destination_port: Port::new(PORT),
            protocol: Protocol::TCP,
            zero: [0; 3],
        };
        maps.connections.insert(key, entry, 0)?;
    }
    Ok(())
}

/// Adds the agent's CPU time and system calls for a change, with Services from this number on.
fn add_work(
    table: &mut Table,
    name: &str,
    churn: &mut Churn,
    maps: &Maps,
    agent: &Process,
    first: u32,
) -> Result<()> {
    let rate = RATE / 2;
    let count = rate * 4;
    let before = cpu(agent.id())?;
    churn.change(maps, first..first + count, rate)?;
    let used = cpu(agent.id())?.saturating_sub(before);
    let each = used.as_secs_f64() * 1e6 / f64::from(count);
    table.add(&format!("microseconds of CPU{name}"), &[each]);

    let file = tempfile::NamedTempFile::new()?;
    let mut strace = Command::new("strace")
        .args(["-c", "-f", "-p", &agent.id().to_string(), "-o"])
        .arg(file.path())
        .stderr(Stdio::null())
        .spawn()
        .context("strace")?;
    thread::sleep(Duration::from_millis(500));
    let changed = churn.change(maps, first + count..first + 2 * count, rate);
    kill(Pid::from_raw(strace.id() as i32), Signal::SIGINT)?;
    strace.wait()?;
    changed?;
    let text = fs::read_to_string(file.path())?;
    let mut all = 0.0;
    let mut of_bpf = 0.0;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (Some(calls), Some(name)) = (words.get(3), words.last()) else {
            continue;
        };
        let (Ok(calls), false) = (calls.parse::<f64>(), *name == "total") else {
            continue;
        };
        all += calls;
        if *name == "bpf" {
            of_bpf = calls;
        }
    }
    let each = |calls: f64| [calls / f64::from(count)];
    table.add(&format!("system calls{name}"), &each(all));
    table.add(&format!("bpf(2) among them{name}"), &each(of_bpf));
    Ok(())
}

pub(crate) fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or_default()
}

/// A target, and whether it is met.
pub(crate) fn target(reached: f64, target: f64, unit: &str) -> String {
    let verdict = if reached < target { "met" } else { "missed" };
    format!("target: below {target} {unit}: {verdict}")
}
