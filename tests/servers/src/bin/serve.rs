//! `headgate-serve`: a server in a pod beside `headgate-echo`, for other protocols than plain HTTP.

use std::{net::Ipv6Addr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use futures::StreamExt;
use ppp::v2::{Addresses, Header};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};
use tonic::transport::{Server, server::TcpIncoming};
use tonic_health::ServingStatus::{NotServing, Serving};

#[derive(Parser)]
struct Options {
    /// Port to listen on
    #[arg(long)]
    port: u16,
    #[command(subcommand)]
    protocol: Protocol,
}

#[derive(Subcommand)]
enum Protocol {
    /// The health service of gRPC, for a service `toggle` whose status alternates
    Grpc,
    /// WebSocket; every message is sent back
    Websocket,
    /// HTTP over TLS, with its own certificate
    Tls {
        /// Certificate chain, PEM
        #[arg(long)]
        chain: PathBuf,
        /// Its key, PEM
        #[arg(long)]
        key: PathBuf,
    },
    /// HTTP after a PROXY protocol header; the answer is the client address in the header
    Proxy,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, options.port)).await?;
    println!("ready");
    match options.protocol {
        Protocol::Grpc => grpc(listener).await,
        Protocol::Websocket => serve(listener, websocket).await,
        Protocol::Tls { chain, key } => {
            let acceptor = acceptor(&chain, &key)?;
            serve(listener, move |stream| tls(acceptor.clone(), stream)).await
        }
        Protocol::Proxy => serve(listener, proxy).await,
    }
}

async fn serve<F>(listener: TcpListener, one: impl Fn(TcpStream) -> F) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    loop {
        let (stream, peer) = listener.accept().await?;
        let served = one(stream);
        tokio::spawn(async move {
            if let Err(error) = served.await {
                eprintln!("{peer}: {error:#}");
            }
        });
    }
}

async fn grpc(listener: TcpListener) -> Result<()> {
    let (reporter, health) = tonic_health::server::health_reporter();
    tokio::spawn(async move {
        for status in [Serving, NotServing].into_iter().cycle() {
            reporter.set_service_status("toggle", status).await;
            sleep(Duration::from_millis(100)).await;
        }
    });
    let server = Server::builder().add_service(health);
    let incoming = TcpIncoming::from(listener);
    Ok(server.serve_with_incoming(incoming).await?)
}

async fn websocket(stream: TcpStream) -> Result<()> {
    let (sink, messages) = tokio_tungstenite::accept_async(stream).await?.split();
    Ok(messages.forward(sink).await?)
}

fn acceptor(chain: &PathBuf, key: &PathBuf) -> Result<TlsAcceptor> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(chain)?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn tls(acceptor: TlsAcceptor, stream: TcpStream) -> Result<()> {
    answer(acceptor.accept(stream).await?, "over TLS of the pod").await
}

async fn proxy(mut stream: TcpStream) -> Result<()> {
    let mut header = vec![0; 16];
    stream.read_exact(&mut header).await?;
    let rest = u16::from_be_bytes([header[14], header[15]]);
    header.resize(16 + usize::from(rest), 0);
    stream.read_exact(&mut header[16..]).await?;
    let header = Header::try_from(&header[..])?;
    let client = match header.addresses {
        Addresses::IPv4(ends) => ends.source_address.to_string(),
        Addresses::IPv6(ends) => ends.source_address.to_string(),
        Addresses::Unspecified | Addresses::Unix(_) => "unknown".into(),
    };
    answer(stream, &client).await
}

/// Answers one request.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, text: &str) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.context("the request ends early")?);
    }
    let length = text.len();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(format!("{head}{text}").as_bytes()).await?;
    Ok(stream.shutdown().await?)
}
