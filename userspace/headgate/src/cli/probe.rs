//! Asking a proxy how it is, over its Unix socket: the probe of a pod whose image has no other program.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

/// Longest time that an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(clap::Args)]
pub(crate) struct Probe {
    /// The socket that the proxy's --healthz-bind-address names
    socket: PathBuf,
    /// What to ask
    question: Question,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Question {
    /// Whether it runs
    Livez,
    /// Whether it takes connections
    Readyz,
}

/// Fails unless the answer is yes.
pub(crate) fn probe(command: &Probe) -> Result<()> {
    let path = match command.question {
        Question::Livez => "/livez",
        Question::Readyz => "/readyz",
    };
    let answer = ask(command, path).with_context(|| command.socket.display().to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1);
    ensure!(status == Some("200"), "{path}: {}", body.trim());
    print!("{body}");
    Ok(())
}

fn ask(command: &Probe, path: &str) -> Result<String> {
    let mut stream = UnixStream::connect(&command.socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
