//! Changes of Services, from the API server to the maps.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Stdio},
    sync::mpsc::{self, Receiver, TryRecvError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use headgate_abi::{Addr, FrontendKey, Port, Protocol, ServiceEntry};
use headgate_dataplane::{Maps, now_ns};
use headgate_netns::binary;

use super::{LOOK, PATIENCE, rig::Rig};
use crate::churn::{Change, PORT, SECOND_PORT, Shape, cluster_ip};

/// An API server process with many Services that change.
pub(super) struct Churn {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Churn {
    pub(super) fn start(rig: &Rig, shape: &Shape) -> Result<Self> {
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
    pub(super) fn change(
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
pub(super) enum Before {
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
