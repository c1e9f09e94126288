//! A client process in a cgroup: the socket hooks apply only to processes of a cgroup.

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{netns::Netns, process::binary};

/// A running `headgate-talk`, killed on drop.
#[derive(Debug)]
pub struct Talk {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Talk {
    /// Starts it in a cgroup with one UDP socket, connected if an address is given.
    pub fn start(netns: &Netns, cgroup: &Path, connect: Option<SocketAddr>) -> Result<Self> {
        Self::start_by(
            netns.command(binary("headgate-talk")?, Some(cgroup)),
            connect,
        )
    }

    /// Starts it in a cgroup over TCP: with one connection if an address is given, else with a new
    /// connection for each request.
    pub fn start_tcp(netns: &Netns, cgroup: &Path, connect: Option<SocketAddr>) -> Result<Self> {
        let mut command = netns.command(binary("headgate-talk")?, Some(cgroup));
        command.arg("--tcp");
        Self::start_by(command, connect)
    }

    fn start_by(mut command: Command, connect: Option<SocketAddr>) -> Result<Self> {
        if let Some(address) = connect {
            command.args(["--connect", &address.to_string()]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().context("no standard input")?;
        let output = child.stdout.take().context("no standard output")?;
        let mut talk = Self {
            child,
            input,
            output: BufReader::new(output),
        };
        let first = talk.line()?;
        ensure!(first == "ready", "headgate-talk printed {first}");
        Ok(talk)
    }

    /// Sends one request or datagram; returns `pod client peer` or `error REASON`.
    pub fn to(&mut self, address: SocketAddr) -> Result<String> {
        writeln!(self.input, "{address}")?;
        self.line()
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim_end().into())
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}
