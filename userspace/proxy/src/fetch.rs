//! HTTP requests to other services: key sets, token issuers, collectors.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    task::{self, Poll},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode, Uri, uri::Scheme};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
    version::{TLS12, TLS13},
};
use tower::Service;
use tracing::warn;

use crate::{body::BodyError, reach::Reach, tls::provider::provider};

/// Longest time for a request and its whole response.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(30);
/// Largest response, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// An HTTP client with its connections. It follows no redirects: they would let a server choose the
/// destination.
#[derive(Clone)]
pub(crate) struct Fetch(Client<HttpsConnector<Connector>, Full<Bytes>>);

/// Opens connections to the hosts of URLs, as far as guards may ask them.
#[derive(Clone)]
struct Connector(Reach);

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = BodyError;
    type Future = BoxFuture<'static, Result<Self::Response, BodyError>>;

    fn poll_ready(&mut self, _context: &mut task::Context<'_>) -> Poll<Result<(), BodyError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let reach = self.0.clone();
        Box::pin(async move {
            let usual = match url.scheme() {
                Some(scheme) if *scheme == Scheme::HTTPS => 443,
                Some(_) | None => 80,
            };
            let host = url.host().ok_or("the URL names no host")?;
            let stream = reach.connect(host, url.port_u16().unwrap_or(usual)).await?;
            Ok(TokioIo::new(stream))
        })
    }
}

impl Fetch {
    /// Trusts these authorities (PEM), or those of the system, and asks hosts within `reach`.
    ///
    /// # Errors
    ///
    /// Fails if `authorities` is not PEM or has no certificate.
    pub(crate) fn new(authorities: Option<&[u8]>, reach: &Reach) -> Result<Self> {
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config((*tls_config(authorities)?).clone())
            .https_or_http()
            .enable_http1()
            .wrap_connector(Connector(reach.clone()));
        let mut rules = Client::builder(TokioExecutor::new());
        rules.pool_idle_timeout(IDLE).pool_timer(TokioTimer::new());
        Ok(Self(rules.build(connector)))
    }

    /// Sends a request, and returns the response of any status.
    ///
    /// # Errors
    ///
    /// Fails if there is no response within [`TIMEOUT`], or if it is too large.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>> {
        let answered = async {
            let (parts, body) = self.0.request(request).await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await;
            let body = body.map_err(|error: BodyError| anyhow::anyhow!(error))?;
            Ok(Response::from_parts(parts, body.to_bytes()))
        };
        timeout(TIMEOUT, answered)
            .await
            .context("no response in time")?
    }

    /// Sends a request, and returns the JSON of its response.
    ///
    /// # Errors
    ///
    /// Fails as [`Self::send`], or if the status is not 200 or the body is not JSON.
    pub(crate) async fn json(&self, request: Request<Full<Bytes>>) -> Result<Value> {
        let place = request.uri().clone();
        let response = self
            .send(request)
            .await
            .with_context(|| place.to_string())?;
        let status = response.status();
        ensure!(status == StatusCode::OK, "{place} responded {status}");
        serde_json::from_slice(response.body())
            .with_context(|| format!("{place} sent invalid JSON"))
    }

    /// Requests JSON from a URL.
    ///
    /// # Errors
    ///
    /// Fails as [`Self::json`].
    pub(crate) async fn get(&self, url: &str) -> Result<Value> {
        let request = Request::get(url).header("accept", "application/json");
        self.json(request.body(Full::default())?).await
    }
}

impl fmt::Debug for Fetch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Fetch")
    }
}

/// Returns the TLS settings for requests to other services.
///
/// # Errors
///
/// Fails if `authorities` is not PEM or has no certificate.
pub(crate) fn tls_config(authorities: Option<&[u8]>) -> Result<Arc<ClientConfig>> {
    let roots = match authorities {
        Some(pem) => Arc::new(read_roots(pem)?),
        None => system_roots(),
    };
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Parses the authorities of a `ca.crt` (PEM).
///
/// # Errors
///
/// Fails if it is not PEM or has no certificate.
pub(crate) fn read_roots(pem: &[u8]) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.context("ca.crt is not PEM")?;
        roots
            .add(certificate)
            .context("ca.crt has an invalid authority")?;
    }
    ensure!(!roots.is_empty(), "ca.crt has no certificate");
    Ok(roots)
}

/// Returns the authorities of the system, which are read once.
pub(crate) fn system_roots() -> Arc<RootCertStore> {
    static SYSTEM: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    SYSTEM.get_or_init(|| Arc::new(read_system_roots())).clone()
}

fn read_system_roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in found.errors {
        warn!(%error, "cannot read an authority of the system");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    roots
}
