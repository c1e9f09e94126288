//! A node, and agents that start there.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use headgate_netns::{Cluster, Process, binary};

use super::{LOOK, PATIENCE, PREFIX};

/// A node without pods on which agents are started.
pub(super) struct Rig {
    pub(super) cluster: Cluster,
    pub(super) pins: PathBuf,
    pub(super) kubeconfig: PathBuf,
}

impl Rig {
    pub(super) fn new() -> Result<Self> {
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
    pub(super) fn cleanup(&self) -> Result<()> {
        let output = self.headgate()?.arg("cleanup").output()?;
        let why = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cleanup: {why}");
        Ok(())
    }
}

/// Time that an agent took until everything was programmed.
pub(super) struct Sync {
    pub(super) total_s: f64,
    /// CPU time of the agent.
    pub(super) cpu_s: f64,
    /// Time of its first pass until the plan was made.
    pub(super) planned_s: f64,
    /// Time of its whole first pass.
    pub(super) pass_s: f64,
    /// Time from the last object until the maps follow, and are large enough.
    pub(super) listed_s: f64,
}

impl Sync {
    /// Starts an agent and waits until it is ready.
    pub(super) fn of(rig: &Rig) -> Result<(Process, Self)> {
        Self::with(rig, &[])
    }

    /// The same, of an agent with more options.
    pub(super) fn with(rig: &Rig, options: &[&str]) -> Result<(Process, Self)> {
        let begin = Instant::now();
        let mut command = rig.agent()?;
        command.args(options);
        let agent = Process::start(command, "ready")?;
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

/// CPU time of all threads of a process.
pub(super) fn cpu(pid: u32) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        let nanoseconds = text.split(' ').next().context("empty")?;
        sum += Duration::from_nanos(nanoseconds.parse()?);
    }
    Ok(sum)
}
