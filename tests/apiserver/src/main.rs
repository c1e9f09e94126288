//! `headgate-apiserver`: the stand-in API server as a program, for experiments.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use headgate_apiserver::{ApiServer, Options};
use tracing_subscriber::EnvFilter;

/// A stand-in Kubernetes API server.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:6443")]
    listen: SocketAddr,
    /// File to write a kubeconfig to.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Bearer token that requests must carry.
    #[arg(long, env = "HEADGATE_APISERVER_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Speak plain HTTP.
    #[arg(long)]
    no_tls: bool,
    /// Manifests to start with.
    #[arg(value_name = "FILE")]
    manifests: Vec<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let arguments = Arguments::parse();
    let server = ApiServer::start(Options {
        listen: arguments.listen,
        tls: !arguments.no_tls,
        token: arguments.token,
        ..Options::default()
    })
    .await?;
    for path in &arguments.manifests {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let applied = server
            .apply_yaml(&text)
            .with_context(|| path.display().to_string())?;
        println!("{}: {} objects", path.display(), applied.len());
    }
    if let Some(path) = &arguments.kubeconfig {
        std::fs::write(path, server.kubeconfig()).with_context(|| path.display().to_string())?;
        println!("kubectl --kubeconfig {} get services", path.display());
    }
    println!("{}", server.url());
    tokio::signal::ctrl_c().await?;
    Ok(())
}
