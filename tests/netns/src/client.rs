//! Plain clients: HTTP/1.1 over a TCP socket, and datagrams.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use serde::Deserialize;

/// Longest to wait for anything. Far above what is needed: reached only if something is lost.
const TIMEOUT: Duration = Duration::from_secs(3);

/// What a pod says about a request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Answer {
    /// Name of the pod.
    pub pod: String,
    /// The client's address as the pod sees it.
    pub client: SocketAddr,
}

fn answer(bytes: &[u8]) -> io::Result<Answer> {
    serde_json::from_slice(bytes).map_err(io::Error::other)
}

/// One request over a new connection.
pub fn get(address: SocketAddr) -> io::Result<Answer> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    get_on(&stream)
}

/// One request over a connection, which stays open.
pub fn get_on(mut stream: &TcpStream) -> io::Result<Answer> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: demo\r\n\r\n")?;
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    answer(&body)
}

fn socket(peer: SocketAddr) -> io::Result<UdpSocket> {
    let any = if peer.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    Ok(socket)
}

/// One datagram from an unconnected socket, and who the answer seems to be from.
pub fn udp(address: SocketAddr) -> io::Result<(Answer, SocketAddr)> {
    let socket = socket(address)?;
    socket.send_to(b"hello", address)?;
    let mut buffer = [0; 1024];
    let (len, peer) = socket.recv_from(&mut buffer)?;
    Ok((answer(&buffer[..len])?, peer))
}

/// One datagram from a connected socket, and its peer's name.
pub fn udp_connected(address: SocketAddr) -> io::Result<(Answer, SocketAddr)> {
    let socket = socket(address)?;
    socket.connect(address)?;
    socket.send(b"hello")?;
    let mut buffer = [0; 1024];
    let len = socket.recv(&mut buffer)?;
    Ok((answer(&buffer[..len])?, socket.peer_addr()?))
}
