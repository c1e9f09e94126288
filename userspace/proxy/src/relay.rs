//! Connections whose requests are not read: TLSRoutes.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use headgate_model::edge::{HostMode, RouteOrigin, Streams, Target, Timeouts};
use http::Request;
use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use crate::{
    body::BodyError,
    stream::{Stream, Tunnel},
    upstream::{PickInput, Upstream, Upstreams},
};

/// Where the TLS connections of a listener go, with the state that serves them.
#[derive(Debug)]
pub(crate) struct ServedStreams {
    pub(crate) is_decrypted: bool,
    hosts: HashMap<String, ServedStream>,
}

/// Where connections go.
#[derive(Debug)]
pub(crate) struct ServedStream {
    pub(crate) origin: RouteOrigin,
    pub(crate) targets: Targets,
}

/// Targets with their weights, not 0; `None` for one that is not valid.
pub(crate) type Targets = Vec<(u64, Option<Arc<Upstream>>)>;

impl ServedStreams {
    pub(crate) fn new(streams: &Streams, upstreams: &Upstreams) -> Self {
        let hosts = streams.hosts.iter().map(|(host, stream)| {
            let targets = stream.targets.iter().filter(|one| one.weight > 0);
            let targets = targets.map(|one| {
                let upstream = match &one.target {
                    Target::Upstream(key) => Some(upstreams.ensure(key)),
                    Target::Unavailable | Target::Missing | Target::Invalid(_) => None,
                };
                (one.weight.into(), upstream)
            });
            let served = ServedStream {
                origin: stream.origin.clone(),
                targets: targets.collect(),
            };
            (host.clone(), served)
        });
        Self {
            is_decrypted: streams.is_decrypted,
            hosts: hosts.collect(),
        }
    }

    /// Returns all hosts.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = (&str, &ServedStream)> {
        let hosts = self.hosts.iter();
        hosts.map(|(host, stream)| (host.as_str(), stream))
    }

    /// Returns the backend of a new connection for a host (lower case): of the best name, by weight. `None`
    /// if the connection must be closed.
    pub(crate) fn backend(&self, host: &str) -> Option<&Arc<Upstream>> {
        let mut streams = HostMode::Suffix.all(host, |name| self.hosts.get(name));
        let targets = &streams.next()?.targets;
        let total: u64 = targets.iter().map(|(weight, _)| weight).sum();
        let mut number = (total > 0).then(|| fastrand::u64(..total))?;
        let chosen = targets.iter().find(|(weight, _)| {
            let is_it = number < *weight;
            number = number.saturating_sub(*weight);
            is_it
        });
        chosen?.1.as_ref()
    }
}

/// Joins a client with an endpoint.
///
/// # Errors
///
/// If there is no endpoint, or a connection fails.
pub(crate) async fn pass(
    upstream: &Arc<Upstream>,
    peer: SocketAddr,
    mut client: impl AsyncRead + AsyncWrite + Unpin,
) -> Result<(), BodyError> {
    let mut backend = connect(upstream, peer).await?;
    copy_bidirectional(&mut client, &mut backend).await?;
    Ok(())
}

/// Decrypts the connection of a client and joins it with an endpoint. The endpoint is connected first: without
/// one the client's connection is closed without a word of TLS.
///
/// # Errors
///
/// As [`pass`], and if the handshake with the client fails or takes longer than `longest`.
pub(crate) async fn relay(
    upstream: &Arc<Upstream>,
    peer: SocketAddr,
    config: Arc<ServerConfig>,
    client: impl Stream,
    longest: Duration,
) -> Result<(), BodyError> {
    let mut backend = connect(upstream, peer).await?;
    let accept = TlsAcceptor::from(config).accept(client);
    let mut client = timeout(longest, accept).await??;
    copy_bidirectional(&mut client, &mut backend).await?;
    Ok(())
}

/// Opens a connection to an endpoint, which counts as a request in flight.
async fn connect(upstream: &Arc<Upstream>, peer: SocketAddr) -> Result<Tunnel, BodyError> {
    let no_request = Request::new(());
    let input = PickInput::new(peer.ip(), &no_request);
    let pick = upstream.pick(&input, &[])?;
    let mut backend = upstream.connect(&pick, &Timeouts::default()).await?;
    backend.hold(pick);
    Ok(backend)
}
