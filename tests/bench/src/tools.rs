//! External programs that generate load or serve it.

use std::{ffi::OsStr, fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use headgate_netns::{Netns, Process};

pub(crate) fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(String::from).collect()
}

/// A command that is pinned to one CPU.
pub(crate) fn on_cpu(
    netns: &Netns,
    cgroup: Option<&Path>,
    cpu: u8,
    program: impl AsRef<OsStr>,
) -> Command {
    let mut command = netns.command("taskset", cgroup);
    command.args(["-c", &cpu.to_string()]).arg(program);
    command
}

/// What a pod serves: a short answer to each request, for nginx.
pub(crate) fn http_server(port: u16) -> String {
    format!(
        "keepalive_requests 1000000000; default_type text/plain;\n\
         server {{ listen {port} backlog=4096; location / {{ return 200 \"ok\"; }} }}"
    )
}

/// How clients ask a server for its short answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Requests {
    /// On connections that stay open, by wrk.
    Kept,
    /// Each on a connection of its own, by ab. It waits until the server closes, so the server remembers the closed
    /// connection (TIME_WAIT). wrk closes as soon as it has the answer: then either end does, by chance, and with the
    /// ports that the client must not use the time grows that it takes the kernel to find another one.
    ConnectionEach,
}

impl Requests {
    /// Runs the load for some seconds; returns the requests per second, and the number of failed ones.
    pub(crate) fn run(
        self,
        mut on_cpu: impl FnMut(&str) -> Command,
        connections: u32,
        seconds: u64,
        target: &str,
    ) -> Result<(f64, u32)> {
        let mut command = match self {
            Self::Kept => on_cpu("wrk"),
            Self::ConnectionEach => on_cpu("ab"),
        };
        command.args(words(&match self {
            Self::Kept => format!("-t1 -c{connections} -d{seconds}s"),
            // More requests than it can make in that time: alone, `-t` ends after 50,000. A lost SYN takes a second.
            Self::ConnectionEach => {
                format!("-q -r -s 5 -c{connections} -t{seconds} -n1000000")
            }
        }));
        let text = output(command.arg(format!("http://{target}/")))?;
        ensure!(!text.contains("Non-2xx"), "{text}");
        let rate = rate(&text).with_context(|| format!("no rate in {text}"))?;
        Ok((rate, errors(&text)))
    }
}

/// Runs a command; returns what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {error}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Sums `Socket errors: connect 0, read 1, write 0, timeout 2` of wrk, or takes `Failed requests: 3` of ab.
fn errors(text: &str) -> u32 {
    let of_these = |line: &&str| {
        ["Socket errors:", "Failed requests:"]
            .iter()
            .any(|name| line.contains(name))
    };
    let line = text.lines().find(of_these);
    let words = line.unwrap_or_default().split([' ', ',']);
    words.filter_map(|word| word.parse::<u32>().ok()).sum()
}

/// Parses `Requests/sec: 123.4` of wrk, `Requests per second: 123.4 [#/sec] (mean)` of ab or
/// `finished in 5.00s, 123.4 req/s` of h2load.
pub(crate) fn rate(text: &str) -> Option<f64> {
    text.lines().find_map(|line| {
        for name in ["Requests/sec:", "Requests per second:"] {
            if let Some(rate) = line.strip_prefix(name) {
                return rate.split_whitespace().next()?.parse().ok();
            }
        }
        let (_, rest) = line.strip_prefix("finished in ")?.split_once(", ")?;
        rest.split(' ').next()?.parse().ok()
    })
}

/// Starts an nginx of one process with this text in its `http` block.
pub(crate) fn nginx(
    netns: &Netns,
    cgroup: Option<&Path>,
    folder: &Path,
    name: &str,
    cpu: u8,
    text: &str,
) -> Result<Process> {
    let file = folder.join(format!("{name}.conf"));
    let head = "daemon off; master_process off; worker_processes 1; error_log stderr crit;\n\
                events { worker_connections 32768; }\n";
    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {}/{name}-{kind};", folder.display()));
    let http = format!("http {{ access_log off; {}\n{text} }}\n", paths.join(" "));
    let pid = format!("pid {}/{name}.pid;\n", folder.display());
    fs::write(&file, format!("{head}{pid}{http}"))?;
    let mut command = on_cpu(netns, cgroup, cpu, "nginx");
    command.arg("-c").arg(file);
    Process::spawn(command)
}

/// Resident memory of a process, in MiB.
pub(crate) fn resident(process: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let text = line
        .and_then(|line| line.split_whitespace().next())
        .context("VmRSS")?;
    Ok(text.parse::<f64>()? / 1024.0)
}
