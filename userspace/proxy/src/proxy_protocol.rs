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

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) ends: Ends,
    /// Whether the client used TLS to the load balancer: version 2 can say so (`PP2_CLIENT_SSL`); else
    /// if it connected to port 443.
    pub(crate) is_secure: bool,
}

/// Port of HTTPS.
const HTTPS: u16 = 443;
/// The type of the value about TLS, and the flag in its first byte that the client used TLS.
const PP2_TYPE_SSL: u8 = 0x20;
const PP2_CLIENT_SSL: u8 = 0x01;

/// Reads the header; bytes after it stay in `read`. `None` if the load balancer itself is the client.
///
/// # Errors
///
/// Fails if the header is missing, invalid or too long, or if the connection fails.
pub(crate) async fn read(stream: &mut TcpStream, read: &mut BytesMut) -> io::Result<Option<Named>> {
    loop {
        let header = HeaderResult::parse(read);
        if header.is_complete() {
            let (len, named) = parsed(&header)?;
            read.advance(len);
            return Ok(named);
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

fn parsed(header: &HeaderResult<'_>) -> io::Result<(usize, Option<Named>)> {
    let bad = |error: &dyn std::fmt::Display| {
        io::Error::new(io::ErrorKind::InvalidData, format!("PROXY header: {error}"))
    };
    match header {
        HeaderResult::V1(header) => {
            let header = header.as_ref().map_err(|error| bad(error))?;
            let ends = v1_ends(&header.addresses);
            Ok((header.header.len(), ends.map(|ends| named(ends, None))))
        }
        HeaderResult::V2(header) => {
            let header = header.as_ref().map_err(|error| bad(error))?;
            let ends = match header.command {
                v2::Command::Proxy => v2_ends(&header.addresses),
                v2::Command::Local => None,
            };
            let said = client_used_tls(header);
            Ok((header.len(), ends.map(|ends| named(ends, said))))
        }
    }
}

fn named(ends: Ends, said: Option<bool>) -> Named {
    let is_secure = said.unwrap_or(ends.1.port() == HTTPS);
    Named { ends, is_secure }
}

/// What the header says about TLS, if anything.
fn client_used_tls(header: &v2::Header<'_>) -> Option<bool> {
    let mut values = header.tlvs().filter_map(Result::ok);
    let about_tls = values.find(|value| value.kind == PP2_TYPE_SSL)?;
    Some(about_tls.value.first()? & PP2_CLIENT_SSL != 0)
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

    use super::{Ends, Named, PP2_TYPE_SSL, read};

    async fn parse(bytes: &[u8]) -> std::io::Result<(Option<Named>, Vec<u8>)> {
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
        let ends: Ends = (
            "192.0.2.1:4000".parse().unwrap(),
            "198.51.100.1:80".parse().unwrap(),
        );
        let v4 = Named {
            ends,
            is_secure: false,
        };
        let first = b"PROXY TCP4 192.0.2.1 198.51.100.1 4000 80\r\nGET /";
        assert_eq!(parse(first).await.unwrap(), (Some(v4), rest.clone()));
        let mut second = ppp::v2::Builder::with_addresses(
            ppp::v2::Version::Two | ppp::v2::Command::Proxy,
            ppp::v2::Protocol::Stream,
            ends,
        )
        .build()
        .unwrap();
        second.extend(&rest);
        assert_eq!(parse(&second).await.unwrap(), (Some(v4), rest.clone()));
        let mapped = b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.1 4000 80\r\nGET /";
        assert_eq!(parse(mapped).await.unwrap(), (Some(v4), rest.clone()));
        let secure = b"PROXY TCP4 192.0.2.1 198.51.100.1 4000 443\r\nGET /";
        assert!(parse(secure).await.unwrap().0.unwrap().is_secure);
        let unknown = parse(b"PROXY UNKNOWN\r\nGET /").await.unwrap();
        assert_eq!(unknown, (None, rest));
        for (said, port, is_secure) in [
            (Some(1), 80, true),
            (Some(0), 443, false),
            (None, 443, true),
        ] {
            let mut header = ppp::v2::Builder::with_addresses(
                ppp::v2::Version::Two | ppp::v2::Command::Proxy,
                ppp::v2::Protocol::Stream,
                (ends.0, std::net::SocketAddr::new(ends.1.ip(), port)),
            );
            if let Some(flags) = said {
                header = header
                    .write_tlv(PP2_TYPE_SSL, &[flags, 0, 0, 0, 0])
                    .unwrap();
            }
            let found = parse(&header.build().unwrap()).await.unwrap().0.unwrap();
            assert_eq!(found.is_secure, is_secure, "{said:?} {port}");
        }
        for bad in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"PROXY TCP4 x y 1 2\r\n",
            b"",
        ] {
            parse(bad).await.unwrap_err();
        }
    }
}
