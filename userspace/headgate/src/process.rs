//! What agent and proxy share: flags, the log and signals.

#[cfg(feature = "page")]
use std::net::SocketAddr;
use std::{env, future::Future, io::IsTerminal, path::PathBuf};

use anyhow::Result;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{Level, warn};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, filter_fn},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// Flags of agent and proxy.
#[derive(clap::Args)]
pub(crate) struct CommonArgs {
    /// Name of this node in the cluster
    #[arg(long, env = "NODE_NAME")]
    pub(crate) node_name: String,
    /// Read manifests from this folder instead of the Kubernetes API
    #[arg(long, value_name = "DIR")]
    pub(crate) source: Option<PathBuf>,
    /// Address of a page for browsers, for example 127.0.0.1:10254; default: none. No
    /// authentication: bind to loopback only
    #[cfg(feature = "page")]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) page_bind_address: Option<SocketAddr>,
    /// Format of the log on standard error; RUST_LOG selects what is logged
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
}

/// Format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    Text,
    /// A JSON object a line
    Json,
}

/// Logs to standard error. `RUST_LOG` selects what is logged; default: `info`.
pub(crate) fn start_log(format: LogFormat) {
    let wanted = env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    // The source logs what the client would repeat.
    let wanted = wanted.unwrap_or_else(|| "info,kube_client=off,kube_runtime=off".into());
    // At trace level the client logs responses that it cannot parse, and these may be Secrets.
    let is_harmless = filter_fn(|about| {
        *about.level() < Level::TRACE || !about.target().starts_with("kube_client")
    });
    let filter = EnvFilter::new(wanted).and(is_harmless);
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // Without a reader of standard error, its report of that would panic.
        .log_internal_errors(false);
    let registry = tracing_subscriber::registry();
    match format {
        LogFormat::Text => registry.with(log.with_filter(filter)).init(),
        LogFormat::Json => registry
            .with(log.json().flatten_event(true).with_filter(filter))
            .init(),
    }
}

/// Raises the number of descriptors that this process may have to the most that it is allowed.
pub(crate) fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        warn!(%error, "cannot raise the number of descriptors");
    }
}

/// Returns a future that ends with the first SIGTERM or SIGINT.
pub(crate) fn stop_signal() -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
