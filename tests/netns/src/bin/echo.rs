//! `headgate-echo`: the server in a pod. It answers HTTP requests and datagrams with its name and the
//! address of the client, and HTTP requests also with their method, target and headers.

use std::net::{Ipv6Addr, SocketAddr};

use anyhow::Result;
use axum::{
    Json, Router,
    extract::{ConnectInfo, Request},
};
use clap::Parser;
use serde_json::{Map, Value, json};
use tokio::net::{TcpListener, UdpSocket};

#[derive(Parser)]
struct Options {
    /// Name to answer with
    #[arg(long)]
    name: String,
    /// Port for HTTP and for datagrams
    #[arg(long)]
    port: u16,
}

/// The answer to a peer of a dual-stack socket; a mapped IPv4 address is shown as IPv4.
fn answer(name: &str, peer: SocketAddr) -> Value {
    json!({ "pod": name, "client": SocketAddr::new(peer.ip().to_canonical(), peer.port()) })
}

/// The headers of a request; several values of one name are joined.
fn headers(request: &Request) -> Value {
    let mut all = Map::new();
    for name in request.headers().keys() {
        let values = request.headers().get_all(name).iter();
        let values: Vec<_> = values
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        all.insert(name.to_string(), values.join(", ").into());
    }
    all.into()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, options.port));
    let http = TcpListener::bind(address).await?;
    let datagrams = UdpSocket::bind(address).await?;
    println!("ready");
    let name = options.name.clone();
    let reply = move |ConnectInfo(peer): ConnectInfo<SocketAddr>, request: Request| async move {
        let mut answer = answer(&name, peer);
        answer["method"] = request.method().as_str().into();
        answer["target"] = request.uri().to_string().into();
        answer["headers"] = headers(&request);
        Json(answer)
    };
    let router = Router::new().fallback(reply);
    let serve = axum::serve(
        http,
        router.into_make_service_with_connect_info::<SocketAddr>(),
    );
    let echo = async {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let (len, peer) = datagrams.recv_from(&mut buffer).await?;
            // The answer is as long as the datagram, so that both are fragmented or neither.
            let text = format!("{:<len$}", answer(&options.name, peer).to_string());
            datagrams.send_to(text.as_bytes(), peer).await?;
        }
    };
    tokio::select! {
        result = serve => result?,
        result = echo => return result,
    }
    Ok(())
}
