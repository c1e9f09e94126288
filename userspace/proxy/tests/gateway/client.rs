//! Clients.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    },
};

use crate::setup::Setup;

/// What a client got.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// What a backend received, as it says in its response.
#[derive(Debug, Deserialize)]
pub(crate) struct Echo {
    pub(crate) backend: String,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) version: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Echo {
    /// The values of a header, joined as a list.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let values = self.headers.iter().filter(|(known, _)| known == name);
        let values: Vec<&str> = values.map(|(_, value)| value.as_str()).collect();
        (!values.is_empty()).then(|| values.join(","))
    }
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let value = self.headers.get(name)?;
        Some(value.to_str().unwrap())
    }

    pub(crate) fn echo(&self) -> Echo {
        assert_eq!(self.status, 200, "{self:?}");
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The backend that answered, or the status.
    pub(crate) fn by(&self) -> String {
        match self.status {
            StatusCode::OK => self.echo().backend,
            status => status.as_u16().to_string(),
        }
    }
}

/// A certificate of a client and its key.
pub(crate) type ClientCertificate = (CertificateDer<'static>, Vec<u8>);

/// A request to a host.
pub(crate) fn get(host: &str, target: &str) -> http::request::Builder {
    Request::get(target).header("host", host)
}

/// A request of any method.
pub(crate) fn ask(method: Method, host: &str, target: &str) -> http::request::Builder {
    get(host, target).method(method)
}

impl Setup {
    /// Sends a request to a port.
    pub(crate) async fn send(&self, port: u16, request: http::request::Builder) -> Got {
        let request = request.body(Full::default()).unwrap();
        self.send_body(port, request).await.unwrap()
    }

    /// Sends a request with a body. Fails if the response does not end well.
    pub(crate) async fn send_body(
        &self,
        port: u16,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<Got> {
        send_to(self.address(port), request).await
    }

    /// Sends a request to a port over HTTP/2 without TLS.
    pub(crate) async fn send_http2(&self, port: u16, request: http::request::Builder) -> Got {
        let stream = TcpStream::connect(self.address(port)).await.unwrap();
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        received(response).await.unwrap()
    }

    /// Connects to a port over TLS. Fails as the handshake does.
    pub(crate) async fn shake(
        &self,
        port: u16,
        name: &str,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        self.shake_by(port, name, &self.client_config(None)).await
    }

    /// The settings of a client, perhaps with a certificate of its own.
    pub(crate) fn client_config(&self, own: Option<&ClientCertificate>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for der in &self.roots {
            roots.add(der.clone()).unwrap();
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::try_from(key.clone()).unwrap();
                builder
                    .with_client_auth_cert(vec![certificate.clone()], key)
                    .unwrap()
            }
        })
    }

    pub(crate) async fn shake_by(
        &self,
        port: u16,
        name: &str,
        config: &Arc<ClientConfig>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address(port)).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(config.clone())
            .connect(name, stream)
            .await
    }

    /// Sends a request over TLS with these settings. `None` if the handshake fails; in TLS 1.3 the client
    /// learns that with the response.
    pub(crate) async fn try_tls(
        &self,
        port: u16,
        name: &str,
        config: &Arc<ClientConfig>,
    ) -> Option<Got> {
        let stream = self.shake_by(port, name, config).await.ok()?;
        let request = get(name, "/").body(Full::default()).unwrap();
        exchange(stream, request).await.ok()
    }

    /// Sends a request over TLS to a port, with this server name.
    pub(crate) async fn send_tls(
        &self,
        port: u16,
        name: &str,
        request: http::request::Builder,
    ) -> Got {
        let stream = self.shake(port, name).await.unwrap();
        let request = request.body(Full::default()).unwrap();
        exchange(stream, request).await.unwrap()
    }
}

/// Sends a request to an address.
pub(crate) async fn send_to(
    address: SocketAddr,
    request: Request<Full<Bytes>>,
) -> hyper::Result<Got> {
    exchange(TcpStream::connect(address).await.unwrap(), request).await
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> hyper::Result<Got> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    received(sender.send_request(request).await?).await
}

async fn received(response: Response<Incoming>) -> hyper::Result<Got> {
    let (parts, body) = response.into_parts();
    Ok(Got {
        status: parts.status,
        headers: parts.headers,
        body: body.collect().await?.to_bytes(),
    })
}
