//! What commands share that run until they are told to stop.

use std::{env, future::Future, time::Duration};

use anyhow::{Context, Result};
use kube::{Client, Config};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A watch that says nothing for this long, not even where it is, is taken for dead. API servers
/// send a bookmark about every minute.
const SILENCE: Duration = Duration::from_secs(150);

/// Logs to standard error, as `RUST_LOG` says.
pub(crate) fn start_log() {
    let wanted = env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    // The client repeats what the source says.
    let wanted = wanted.unwrap_or_else(|| "info,kube_client=off,kube_runtime=off".into());
    // It also quotes answers that it cannot read, and these may be Secrets.
    let filter = EnvFilter::new(format!("{wanted},kube_client::client=debug"));
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter)
        .init();
}

/// Ends with the first SIGTERM or SIGINT.
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

/// The API of the cluster that we run in, or that the kubeconfig names.
pub(crate) async fn client() -> Result<Client> {
    const FAILED: &str = "cannot find the Kubernetes API";
    let mut config = Config::infer().await.context(FAILED)?;
    config.read_timeout = Some(SILENCE);
    Client::try_from(config).context(FAILED)
}
