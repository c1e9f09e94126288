//! `headgate-talk`: a client process. For every address on standard input it sends a datagram there
//! from its one socket, or a request over TCP, and prints `pod client peer`, or `error REASON`.

use std::{
    io::{self, BufRead},
    net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::Result;
use clap::Parser;
use headgate_netns::{Answer, get, get_on};
use serde_json::Value;

#[derive(Parser)]
struct Options {
    /// Connect to this address first; then the addresses on standard input are ignored
    #[arg(long)]
    connect: Option<SocketAddr>,
    /// Use TCP, with a new connection for each request unless --connect is given
    #[arg(long)]
    tcp: bool,
}

const TIMEOUT: Duration = Duration::from_secs(3);

/// The address for a dual-stack socket, which reaches IPv4 through mapped addresses.
fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into(),
        SocketAddr::V6(_) => address,
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    if options.tcp {
        return request(options.connect);
    }
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    if let Some(address) = options.connect {
        socket.connect(mapped(address))?;
    }
    println!("ready");
    for line in io::stdin().lock().lines() {
        match talk(&socket, &line?) {
            Ok((answer, peer)) => {
                let text = |field: &str| answer[field].as_str().unwrap_or("?").to_owned();
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                println!("{} {} {peer}", text("pod"), text("client"));
            }
            Err(error) => println!("error {error}"),
        }
    }
    Ok(())
}

fn request(connect: Option<SocketAddr>) -> Result<()> {
    let stream = connect.map(TcpStream::connect).transpose()?;
    println!("ready");
    for line in io::stdin().lock().lines() {
        let to: SocketAddr = line?.parse()?;
        let answer = match &stream {
            Some(stream) => get_on(stream),
            None => get(to),
        };
        match answer {
            Ok(Answer { pod, client }) => println!("{pod} {client} {to}"),
            Err(error) => println!("error {error}"),
        }
    }
    Ok(())
}

fn talk(socket: &UdpSocket, to: &str) -> io::Result<(Value, SocketAddr)> {
    let mut buffer = [0; 2048];
    let (len, peer) = if let Ok(peer) = socket.peer_addr() {
        socket.send(b"hello")?;
        (socket.recv(&mut buffer)?, peer)
    } else {
        let to = to.parse().map_err(io::Error::other)?;
        socket.send_to(b"hello", mapped(to))?;
        socket.recv_from(&mut buffer)?
    };
    let answer = serde_json::from_slice(buffer.get(..len).unwrap_or_default());
    Ok((answer.map_err(io::Error::other)?, peer))
}
