//! `headgate-steered`: the kernel side of the L7 proxy alone. An unprivileged process that listens on
//! loopback, accepts the connections to a port of the node, and answers HTTP with its name and both
//! ends of the connection. On SIGTERM it serves for one second more, and ends.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::Result;
use axum::{
    Json, Router,
    extract::{ConnectInfo, connect_info::Connected},
    routing::get,
    serve::IncomingStream,
};
use clap::Parser;
use headgate_dataplane::Steering;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use serde_json::json;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::sleep,
};

#[derive(Parser)]
struct Options {
    /// Name to answer with
    #[arg(long)]
    name: String,
    /// Port of the node
    #[arg(long)]
    port: u16,
    /// User and group id to run as, without capabilities
    #[arg(long)]
    user: u32,
}

/// Time to serve after SIGTERM, far longer than a handshake takes on one machine.
const DRAIN: Duration = Duration::from_secs(1);

/// Both ends of a connection.
#[derive(Clone)]
struct Ends {
    client: SocketAddr,
    local: SocketAddr,
}

impl Connected<IncomingStream<'_, TcpListener>> for Ends {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Self {
            client: *stream.remote_addr(),
            local: stream.io().local_addr().unwrap_or(unknown),
        }
    }
}

fn become_user(id: u32) -> Result<()> {
    let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
    setgroups(&[])?;
    setresgid(group, group, group)?;
    Ok(setresuid(user, user, user)?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    become_user(options.user)?;
    let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    // A pod has the folder mounted. Here the process starts in it, because only root may enter the
    // folders above.
    let mut steering = Steering::open(Path::new("."))?;
    steering.steer(options.port, &v4)?;
    steering.steer(options.port, &v6)?;
    println!("ready");
    let name = options.name;
    let answer = move |ConnectInfo(ends): ConnectInfo<Ends>| async move {
        Json(json!({ "pod": name, "client": ends.client, "local": ends.local }))
    };
    let router = Router::new().route("/", get(answer));
    let service = router.into_make_service_with_connect_info::<Ends>();
    let end = async {
        terminate.recv().await;
        sleep(DRAIN).await;
    };
    tokio::select! {
        result = axum::serve(v4, service.clone()) => result?,
        result = axum::serve(v6, service) => result?,
        () = end => {}
    }
    Ok(())
}
