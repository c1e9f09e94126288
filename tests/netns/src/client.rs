//! Plain clients: HTTP/1.1 over a TCP socket, and datagrams.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    thread::sleep,
    time::Duration,
};

use serde::Deserialize;

/// Longest time to wait for an answer. It is far above what is needed: reached only after a loss.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Pause between connect and the first data, after which the server's kernel has ended the handshake.
///
/// Linux 6.18 resets about one in a million connections of clients that send at once, also without our
/// programs on the path: for data that arrive on one CPU while another CPU ends the handshake, the
/// kernel finds neither the request socket nor the full socket of the connection, and the listener
/// sends a reset (`inet_ehash_insert`).
const HANDSHAKE: Duration = Duration::from_millis(1);

/// The answer of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Answer {
    /// Name of the pod.
    pub pod: String,
    /// Address of the client as the pod sees it.
    pub client: SocketAddr,
}

fn answer(bytes: &[u8]) -> io::Result<Answer> {
    serde_json::from_slice(bytes).map_err(io::Error::other)
}

/// Sends one request over a new connection.
pub fn get(address: SocketAddr) -> io::Result<Answer> {
    get_on(&connect(address)?)
}

/// Opens a connection and waits until both ends have ended the handshake.
pub(crate) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    sleep(HANDSHAKE);
    Ok(stream)
}

/// Sends one request over a connection, which stays open.
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

/// Requests a path; returns the status code, and the whole answer as text.
pub fn http(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let code = text.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((code.ok_or(io::ErrorKind::InvalidData)?, text))
}

/// An unconnected UDP socket of the peer's family.
pub(crate) fn udp_socket(peer: SocketAddr) -> io::Result<UdpSocket> {
    let any = if peer.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    Ok(socket)
}

/// Sends one datagram from an unconnected socket; returns the answer and its source address.
pub fn udp(address: SocketAddr) -> io::Result<(Answer, SocketAddr)> {
    udp_of_length(address, 1)
}

/// Sends one datagram of `len` bytes from an unconnected socket; returns the answer and its source
/// address.
pub fn udp_of_length(address: SocketAddr, len: usize) -> io::Result<(Answer, SocketAddr)> {
    let socket = udp_socket(address)?;
    socket.send_to(&vec![b'x'; len], address)?;
    let mut buffer = vec![0; 1 << 16];
    let (received, peer) = socket.recv_from(&mut buffer)?;
    if received < len {
        return Err(io::Error::other(format!(
            "{received} of {len} bytes came back"
        )));
    }
    Ok((answer(&buffer[..received])?, peer))
}

/// Sends one datagram over a connected socket; returns the answer.
pub fn udp_exchange(socket: &UdpSocket) -> io::Result<Answer> {
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.send(b"hello")?;
    let mut buffer = [0; 1024];
    let len = socket.recv(&mut buffer)?;
    answer(&buffer[..len])
}

/// Sends one datagram from a connected socket; returns the answer and the peer address of the socket.
pub fn udp_connected(address: SocketAddr) -> io::Result<(Answer, SocketAddr)> {
    let socket = udp_socket(address)?;
    socket.connect(address)?;
    Ok((udp_exchange(&socket)?, socket.peer_addr()?))
}
