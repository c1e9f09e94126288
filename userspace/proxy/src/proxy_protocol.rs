//! The PROXY protocol, versions 1 and 2: a load balancer names the client in a header before the
//! bytes of the connection.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use bytes::{Buf, BytesMut};
use ppp::{HeaderResult, PartialResult, v1, v2};
use tokio::{io::AsyncReadExt, net::TcpStream};

/// Largest header, in bytes. Version 2 allows more.
const MAX_LEN: usize = 2048;

/// Addresses of client and server, as the load balancer names them.
pub(crate) type Ends = (SocketAddr, SocketAddr);

/// Reads the header; bytes after it stay in `read`. `None` if the load balancer itself is the client.
///
/// # Errors
///
/// Fails if the header is missing, invalid or too long, or if the connection fails.
pub(crate) async fn read(stream: &mut TcpStream, read: &mut BytesMut) -> io::Result<Option<Ends>> {
    loop {
        let header = HeaderResult::parse(read);
        if header.is_complete() {
            let (len, ends) = parsed(&header)?;
            read.advance(len);
            return Ok(ends);
        }
        if read.len() > MAX_LEN {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the PROXY header is missing",
            ));
        }
        if stream.read_buf(read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn parsed(header: &HeaderResult<'_>) -> io::Result<(usize, Option<Ends>)> {
    let bad = |error: &dyn std::fmt::Display| {
        io::Error::new(io::ErrorKind::InvalidData, format!("PROXY header: {error}"))
    };
    match header {
        HeaderResult::V1(header) => {
            let header = header.as_ref().map_err(|error| bad(error))?;
            Ok((header.header.len(), v1_ends(&header.addresses)))
        }
        HeaderResult::V2(header) => {
            let header = header.as_ref().map_err(|error| bad(error))?;
            let ends = match header.command {
                v2::Command::Proxy => v2_ends(&header.addresses),
                v2::Command::Local => None,
            };
            Ok((header.len(), ends))
        }
    }
}

/// A load balancer with one socket for both families names IPv4 clients as v4-mapped.
fn ends(
    source: impl Into<IpAddr>,
    from: u16,
    destination: impl Into<IpAddr>,
    to: u16,
) -> Option<Ends> {
    let source = SocketAddr::new(source.into().to_canonical(), from);
    let destination = destination.into().to_canonical();
    Some((source, SocketAddr::new(destination, to)))
}

fn v1_ends(addresses: &v1::Addresses) -> Option<Ends> {
    match addresses {
        v1::Addresses::Tcp4(a) => ends(
            a.source_address,
            a.source_port,
            a.destination_address,
            a.destination_port,
        ),
        v1::Addresses::Tcp6(a) => ends(
            a.source_address,
            a.source_port,
            a.destination_address,
            a.destination_port,
        ),
        v1::Addresses::Unknown => None,
    }
}

fn v2_ends(addresses: &v2::Addresses) -> Option<Ends> {
    match addresses {
        v2::Addresses::IPv4(a) => ends(
            a.source_address,
            a.source_port,
            a.destination_address,
            a.destination_port,
        ),
        v2::Addresses::IPv6(a) => ends(
            a.source_address,
            a.source_port,
            a.destination_address,
            a.destination_port,
        ),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream},
    };

    use super::{Ends, read};

    async fn parse(bytes: &[u8]) -> std::io::Result<(Option<Ends>, Vec<u8>)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut sender = TcpStream::connect(listener.local_addr()?).await?;
        let (mut stream, _) = listener.accept().await?;
        for byte in bytes {
            sender.write_all(&[*byte]).await?;
        }
        drop(sender);
        let mut rest = BytesMut::new();
        let ends = read(&mut stream, &mut rest).await?;
        while tokio::io::AsyncReadExt::read_buf(&mut stream, &mut rest).await? > 0 {}
        Ok((ends, rest.to_vec()))
    }

    #[tokio::test]
    async fn l23_both_versions_name_the_client() {
        let rest = b"GET /".to_vec();
        let v4: Ends = (
            "192.0.2.1:4000".parse().unwrap(),
            "198.51.100.1:80".parse().unwrap(),
        );
        let first = b"PROXY TCP4 192.0.2.1 198.51.100.1 4000 80\r\nGET /";
        assert_eq!(parse(first).await.unwrap(), (Some(v4), rest.clone()));
        let mut second = ppp::v2::Builder::with_addresses(
            ppp::v2::Version::Two | ppp::v2::Command::Proxy,
            ppp::v2::Protocol::Stream,
            v4,
        )
        .build()
        .unwrap();
        second.extend(&rest);
        assert_eq!(parse(&second).await.unwrap(), (Some(v4), rest.clone()));
        let mapped = b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.1 4000 80\r\nGET /";
        assert_eq!(parse(mapped).await.unwrap(), (Some(v4), rest.clone()));
        let unknown = parse(b"PROXY UNKNOWN\r\nGET /").await.unwrap();
        assert_eq!(unknown, (None, rest));
        for bad in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"PROXY TCP4 x y 1 2\r\n",
            b"",
        ] {
            parse(bad).await.unwrap_err();
        }
    }
}
