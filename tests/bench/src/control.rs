//! The agent's way from the API to the maps: time until everything is programmed, time until a change is,
//! memory and system calls. The API server is the stand-in, in its own process; the benchmark reads the
//! maps from outside of the agent.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::Ipv4Addr,
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver, TryRecvError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use headgate_abi::{
    Addr, CtEntry, CtFlags, CtState, FlowKey, FrontendKey, Port, Protocol, ServiceEntry,
};
use headgate_dataplane::{Maps, now_ns, now_s};
use headgate_netns::{Cluster, Process, binary};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    Options, Report, Table,
    churn::{Change, PORT, SECOND_PORT, Shape, cluster_ip},
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
    if !titles.iter().any(|title| options.wants(title)) {
        return Ok(());
    }
    let of = |services: u32| Shape {
        services,
        endpoints: services * (ENDPOINTS / SERVICES),
        is_dual_stack: false,
    };
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
    fill_connections(&mut maps)?;
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

/// A node without pods on which agents are started.
struct Rig {
    cluster: Cluster,
    pins: PathBuf,
    kubeconfig: PathBuf,
}

impl Rig {
    fn new() -> Result<Self> {
        let cluster = Cluster::new(PREFIX, 1, 0)?;
        Ok(Self {
            pins: cluster.nodes[0].pins.clone(),
            kubeconfig: cluster.kubeconfig(),
            cluster,
        })
    }

    fn headgate(&self) -> Result<Command> {
        let mut command = self.cluster.nodes[0]
            .netns
            .command(binary("headgate")?, None);
        command.arg("--pins").arg(&self.pins);
        Ok(command)
    }

    /// The command of an agent with its default map sizes.
    fn agent(&self) -> Result<Command> {
        let node = &self.cluster.nodes[0];
        let mut command = self.headgate()?;
        command
            .args(["agent", "--node-name", &node.name, "--cgroup"])
            .arg(&node.cgroup)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("NO_COLOR", "1")
            .env_remove("RUST_LOG");
        Ok(command)
    }

    /// Removes everything that is pinned.
    fn cleanup(&self) -> Result<()> {
        let output = self.headgate()?.arg("cleanup").output()?;
        let why = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cleanup: {why}");
        Ok(())
    }
}

/// Time that an agent took until everything was programmed.
struct Sync {
    total_s: f64,
    /// CPU time of the agent.
    cpu_s: f64,
    /// Time of its first pass until the plan was made.
    planned_s: f64,
    /// Time of its whole first pass.
    pass_s: f64,
    /// Time from the last object until the maps follow, and are large enough.
    listed_s: f64,
}

impl Sync {
    /// Starts an agent and waits until it is ready.
    fn of(rig: &Rig) -> Result<(Process, Self)> {
        let begin = Instant::now();
        let agent = Process::start(rig.agent()?, "ready")?;
        let total_s = begin.elapsed().as_secs_f64();
        let cpu_s = cpu(agent.id())?.as_secs_f64();
        // The log line of the pass was written before, but may still be in the pipe.
        let is_pass = |line: &&str| line.contains("the maps follow the source");
        while !agent.log().lines().any(|line| is_pass(&line)) {
            ensure!(begin.elapsed() < PATIENCE, "no pass:\n{}", agent.log());
            thread::sleep(LOOK);
        }
        let log = agent.log();
        let pass = log.lines().find(is_pass).unwrap_or_default();
        let field = |name: &str| -> Result<f64> {
            let words = pass.split(' ');
            let mut values = words.filter_map(|word| word.strip_prefix(name)?.strip_prefix("_us="));
            let value = values.next().with_context(|| format!("{name} in {pass}"))?;
            Ok(value.parse::<f64>()? / 1e6)
        };
        let sync = Self {
            listed_s: field("since_listed")?,
            total_s,
            cpu_s,
            planned_s: field("planned")?,
            pass_s: field("took")?,
        };
        Ok((agent, sync))
    }
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

/// An API server process with many Services that change.
struct Churn {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Churn {
    fn start(rig: &Rig, shape: &Shape) -> Result<Self> {
        let netns = &rig.cluster.nodes[0].netns;
        let mut command = netns.command(binary("headgate-churn")?, None);
        command
            .args([shape.services, shape.endpoints].map(|count| count.to_string()))
            .arg(&rig.kubeconfig);
        if shape.is_dual_stack {
            command.arg("--dual-stack");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("no pipes");
        };
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let churn = Self {
            child,
            input,
            lines,
        };
        let line = churn.lines.recv_timeout(Duration::from_secs(120))?;
        ensure!(line == "serving", "not serving: {line}");
        Ok(churn)
    }

    /// Changes Services; returns the time that each change took to reach the maps, sorted.
    fn change(
        &mut self,
        maps: &Maps,
        numbers: std::ops::Range<u32>,
        rate: u32,
    ) -> Result<Vec<Duration>> {
        let befores = numbers.clone().map(|number| Before::read(maps, number));
        let befores = befores.collect::<Result<Vec<_>>>()?;
        writeln!(self.input, "{} {} {rate}", numbers.start, numbers.end)?;
        let mut pending: Vec<(u32, u64, Before)> = Vec::new();
        let mut latencies = Vec::new();
        let mut last_line = Instant::now();
        while latencies.len() < befores.len() {
            match self.lines.try_recv() {
                Ok(line) => {
                    let (number, sent) = line.split_once(' ').context("not two numbers")?;
                    let number = number.parse::<u32>()?;
                    let before = befores.get((number - numbers.start) as usize);
                    let before = before.context("not a requested change")?.clone();
                    pending.push((number, sent.parse()?, before));
                    last_line = Instant::now();
                    continue;
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => bail!("the API server ended"),
            }
            let now = now_ns();
            pending.retain(|(_, sent, before)| {
                let is_seen = before.has_changed(maps);
                if is_seen {
                    latencies.push(Duration::from_nanos(now.saturating_sub(*sent)));
                }
                !is_seen
            });
            let lost = pending.iter().map(|(number, ..)| number);
            ensure!(
                last_line.elapsed() < PATIENCE,
                "changes of Services {:?} are not in the maps",
                lost.collect::<Vec<_>>()
            );
            thread::sleep(LOOK);
        }
        latencies.sort();
        Ok(latencies)
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// The state of a Service in the maps before it changes.
#[derive(Clone)]
enum Before {
    /// An entry that the change replaces.
    Service(u32, ServiceEntry),
    /// A frontend that the change adds.
    Frontend(FrontendKey),
}

impl Before {
    fn read(maps: &Maps, number: u32) -> Result<Self> {
        let key = |port| {
            let address = Addr::from(std::net::IpAddr::from(cluster_ip(number)));
            FrontendKey::new(address, Port::new(port), Protocol::TCP)
        };
        if Change::of(number) == Change::SecondPort {
            return Ok(Self::Frontend(key(SECOND_PORT)));
        }
        let frontend = maps.frontends.get(&key(PORT), 0)?;
        let entry = maps.services.get(frontend.inside).context("no service")?;
        Ok(Self::Service(frontend.inside, entry))
    }

    fn has_changed(&self, maps: &Maps) -> bool {
        match self {
            Self::Service(id, before) => maps.services.get(*id).is_some_and(|now| now != *before),
            Self::Frontend(key) => maps.frontends.get(key, 0).is_ok(),
        }
    }
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
fn fill_connections(maps: &mut Maps) -> Result<()> {
    let entry = CtEntry {
        seen_s: now_s(),
        state: CtState::ESTABLISHED,
        flags: CtFlags::default(),
        ..CtEntry::default()
    };
    let server = Addr::from(std::net::IpAddr::from(Ipv4Addr::new(10, 244, 1, 2)));
    for number in 0..CONNECTIONS {
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

/// Memory of a process, in MB.
struct Memory {
    resident: f64,
    /// Peak of the resident memory.
    peak: f64,
    /// Anonymous memory. The rest is files, and maps that the process shares with the kernel.
    own: f64,
}

impl Memory {
    fn of(pid: u32) -> Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| -> Result<f64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let line = line.with_context(|| format!("no {name}"))?;
            let kilobytes = line.split_whitespace().next().context("no number")?;
            Ok(kilobytes.parse::<f64>()? * 1024.0 / 1e6)
        };
        Ok(Self {
            resident: field("VmRSS:")?,
            peak: field("VmHWM:")?,
            own: field("RssAnon:")?,
        })
    }
}

fn memory_table(title: &str, rounds: &[Vec<Memory>], after_changes: &Memory) -> Table {
    let how = "VmRSS, VmHWM and RssAnon of the agent; the rest is its binary, and maps that the kernel \
               holds in memory in any case";
    let mut table = Table::new(title, "MB", how, "");
    let of_round = |index: usize| rounds.iter().filter_map(move |round| round.get(index));
    for (name, memory) in [
        ("after the first start", of_round(0).collect::<Vec<_>>()),
        ("after a start with maps", of_round(1).collect()),
        ("after changes", vec![after_changes]),
    ] {
        let mut add = |what: &str, of: &dyn Fn(&Memory) -> f64| {
            let samples: Vec<f64> = memory.iter().map(|memory| of(memory)).collect();
            table.add(&format!("{name}: {what}"), &samples);
            table.note(target(median(samples), TARGET_MEMORY_MB, "MB"));
        };
        add("resident", &|memory| memory.resident);
        add("peak", &|memory| memory.peak);
        add("its own", &|memory| memory.own);
    }
    table
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

/// CPU time of all threads of a process.
fn cpu(pid: u32) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        let nanoseconds = text.split(' ').next().context("empty")?;
        sum += Duration::from_nanos(nanoseconds.parse()?);
    }
    Ok(sum)
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
