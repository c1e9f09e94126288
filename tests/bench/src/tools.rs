//! External programs that generate load or serve it.

use std::{ffi::OsStr, fs, path::Path, process::Command};

use anyhow::Result;
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

/// Parses `Requests/sec: 123.4` of wrk or `finished in 5.00s, 123.4 req/s` of h2load.
pub(crate) fn rate(text: &str) -> Option<f64> {
    text.lines().find_map(|line| {
        if let Some(rate) = line.strip_prefix("Requests/sec:") {
            return rate.trim().parse().ok();
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
                events { worker_connections 8192; }\n";
    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {}/{name}-{kind};", folder.display()));
    let http = format!("http {{ access_log off; {}\n{text} }}\n", paths.join(" "));
    let pid = format!("pid {}/{name}.pid;\n", folder.display());
    fs::write(&file, format!("{head}{pid}{http}"))?;
    let mut command = on_cpu(netns, cgroup, cpu, "nginx");
    command.arg("-c").arg(file);
    Process::spawn(command)
}
