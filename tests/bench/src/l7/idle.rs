//! Memory of the proxies while many clients keep connections and ask for nothing.

use std::{fs, io, net::SocketAddr, sync::Arc, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use h2::client;
use http::Request;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    runtime::Builder,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use super::{ADDRESS, Setup, World};
use crate::{Table, tools::resident};

/// Connections to each proxy.
pub(super) const CONNECTIONS: usize = 10_000;
/// Connections that are opened at a time.
const AT_ONCE: usize = 64;
const HOST: &str = "bench.example.com";

/// What clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Http1,
    Tls,
    Http2,
}

pub(super) const KINDS: [Kind; 3] = [Kind::Http1, Kind::Tls, Kind::Http2];

impl Kind {
    pub(super) fn title(self, connections: usize) -> String {
        let name = match self {
            Self::Http1 => "HTTP/1.1",
            Self::Tls => "TLS",
            Self::Http2 => "HTTP/2 over TLS",
        };
        format!("{connections} idle connections, {name}: memory")
    }
}

/// Measures the resident memory of each proxy, of which each connection has sent one request. Each proxy starts for
/// this, because memory that is free again stays with a process.
pub(super) fn measure(world: &World, kind: Kind, connections: usize) -> Result<Table> {
    let (_, files) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // Of the client and of the proxy, which have other files as well.
    ensure!(
        files > connections as u64 + 1_000,
        "{files} open files (ulimit -Hn)"
    );
    setrlimit(Resource::RLIMIT_NOFILE, files, files)?;
    let title = kind.title(connections);
    let mut table = Table::new(&title, "MiB", "after one request on each", "nginx");
    for start in [World::headgate, World::nginx] {
        let proxy = start(world, Setup::Workers(1))?;
        let process = proxy.process.id();
        let before = resident(process)?;
        let port = match kind {
            Kind::Http1 => proxy.http,
            Kind::Tls | Kind::Http2 => proxy.https,
        };
        let to = SocketAddr::from((ADDRESS, port));
        let connector = connector(&world.certificate.authority, kind)?;
        let clients = world
            .netns
            .run(move || connect(kind, to, &connector, connections))
            .context(proxy.name)?;
        // What was needed for the last responses is free again.
        thread::sleep(Duration::from_secs(1));
        let open = sockets(process)?;
        ensure!(open >= connections, "{}: {open} sockets", proxy.name);
        table.add(proxy.name, &[resident(process)?]);
        table.note(format!("{before:.1} before"));
        drop(clients);
    }
    Ok(table)
}

/// The number of open sockets of a process.
fn sockets(process: u32) -> Result<usize> {
    let files = fs::read_dir(format!("/proc/{process}/fd"))?;
    let links = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    Ok(links
        .filter(|link| link.to_string_lossy().starts_with("socket:"))
        .count())
}

fn connector(authority: &str, kind: Kind) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    if kind == Kind::Http2 {
        config.alpn_protocols = vec![b"h2".to_vec()];
    }
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Keeps a connection open.
type Client = Box<dyn Send>;

/// Opens connections, and asks once over each. They end with what is returned.
fn connect(
    kind: Kind,
    to: SocketAddr,
    connector: &TlsConnector,
    connections: usize,
) -> Result<impl Send + use<>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let clients: Vec<Client> = runtime.block_on(
        stream::iter(0..connections)
            .map(|_| open(kind, to, connector))
            .buffer_unordered(AT_ONCE)
            .try_collect(),
    )?;
    Ok((clients, runtime))
}

async fn open(kind: Kind, to: SocketAddr, connector: &TlsConnector) -> Result<Client> {
    let mut plain = TcpStream::connect(to).await?;
    if kind == Kind::Http1 {
        ask(&mut plain).await?;
        return Ok(Box::new(plain));
    }
    let name = ServerName::try_from(HOST)?;
    let mut stream = connector.connect(name, plain).await?;
    if kind == Kind::Tls {
        ask(&mut stream).await?;
        return Ok(Box::new(stream));
    }
    let (client, connection) = client::handshake(stream).await?;
    tokio::spawn(connection);
    let mut client = client.ready().await?;
    let request = Request::get(format!("https://{HOST}/")).body(())?;
    let (response, _) = client.send_request(request, true)?;
    let response = response.await?;
    ensure!(response.status() == 200, "status {}", response.status());
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        let length = data?.len();
        body.flow_control().release_capacity(length)?;
    }
    Ok(Box::new(client))
}

/// Sends a request, and reads the response.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<()> {
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nok") {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
    ensure!(answer.starts_with(b"HTTP/1.1 200 "), "not 200");
    Ok(())
}
