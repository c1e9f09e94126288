//! `headgate-load`: load generators of `bench paths` that run in a pod or client, and their server.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::Parser;

/// Longest time to wait for an answer; a loss shows as a low rate.
const TIMEOUT: Duration = Duration::from_millis(200);
const BLOCK: usize = 1 << 17;

#[derive(Parser)]
enum Command {
    /// Read and discard TCP streams on a port, and send datagrams back on the next port
    Serve { port: u16 },
    /// Send as fast as possible over one connection; prints megabits per second
    Stream { to: SocketAddr, milliseconds: u64 },
    /// Send datagrams one after another, each after the reply to the last; prints exchanges per second
    Exchange { to: SocketAddr, milliseconds: u64 },
    /// Connect a datagram socket repeatedly; prints nanoseconds per connect
    Connect { to: SocketAddr, milliseconds: u64 },
}

fn main() -> Result<()> {
    let time = Duration::from_millis;
    match Command::parse() {
        Command::Serve { port } => serve(port),
        Command::Stream { to, milliseconds } => stream(to, time(milliseconds)),
        Command::Exchange { to, milliseconds } => exchange(to, time(milliseconds)),
        Command::Connect { to, milliseconds } => connect(to, time(milliseconds)),
    }
}

fn serve(port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    let datagrams = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port + 1))?;
    println!("ready");
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        // After a client has gone, a later call returns the ICMP error.
        loop {
            if let Ok((len, peer)) = datagrams.recv_from(&mut buffer) {
                let _gone = datagrams.send_to(&buffer[..len], peer);
            }
        }
    });
    let mut buffer = vec![0; BLOCK];
    for stream in listener.incoming() {
        let mut stream = stream?;
        let mut total = 0u64;
        while let Ok(len @ 1..) = stream.read(&mut buffer) {
            total += len as u64;
        }
        let _gone = stream.write_all(&total.to_be_bytes());
    }
    Ok(())
}

fn stream(to: SocketAddr, time: Duration) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(1))?;
    let block = vec![0; BLOCK];
    let start = Instant::now();
    while start.elapsed() < time {
        stream.write_all(&block)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut total = [0; 8];
    stream.read_exact(&mut total)?;
    let bits = u64::from_be_bytes(total) as f64 * 8.0;
    println!("{}", bits / start.elapsed().as_secs_f64() / 1e6);
    Ok(())
}

fn exchange(to: SocketAddr, time: Duration) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    let mut buffer = [0; 64];
    let (mut answers, start) = (0u32, Instant::now());
    while start.elapsed() < time {
        socket.send(&[0; 64])?;
        match socket.recv(&mut buffer) {
            Ok(_) => answers += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    ensure!(answers > 0, "{to} does not answer");
    println!("{}", f64::from(answers) / start.elapsed().as_secs_f64());
    Ok(())
}

fn connect(to: SocketAddr, time: Duration) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let (mut connects, start) = (0u32, Instant::now());
    while start.elapsed() < time {
        for _ in 0..1000 {
            socket.connect(to)?;
        }
        connects += 1000;
    }
    println!(
        "{}",
        start.elapsed().as_nanos() as f64 / f64::from(connects)
    );
    Ok(())
}
