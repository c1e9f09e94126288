//! The probe of a proxy's pod, whose image has no other program that could ask.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use http::StatusCode;

use crate::http::{ListenAddress, client};

#[derive(clap::Args)]
pub(crate) struct ProbeArgs {
    /// Unix socket: the proxy's --healthz-bind-address
    socket: PathBuf,
    /// What to ask
    check: Check,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Check {
    /// Whether the proxy runs
    Livez,
    /// Whether the proxy accepts connections
    Readyz,
}

/// Fails unless the answer is yes.
pub(crate) fn probe(args: &ProbeArgs) -> Result<()> {
    let path = match args.check {
        Check::Livez => "/livez",
        Check::Readyz => "/readyz",
    };
    let reply = client::get(&ListenAddress::Unix(args.socket.clone()), path);
    let reply = reply.with_context(|| args.socket.display().to_string())?;
    ensure!(
        reply.status == StatusCode::OK,
        "{path}: {}",
        reply.body.trim()
    );
    print!("{}", reply.body);
    Ok(())
}
