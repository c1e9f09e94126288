//! The listening socket and its connections: started, stopped and started again.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, mem};

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::handler::{Shared, handle};

/// The accepting side of a server.
pub(crate) struct Listener {
    shared: Arc<Shared>,
    tls: Mutex<Option<TlsAcceptor>>,
    runtime: Handle,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

impl Listener {
    pub(crate) fn new(shared: Arc<Shared>, tls: Option<TlsAcceptor>, runtime: Handle) -> Self {
        Self {
            shared,
            tls: Mutex::new(tls),
            runtime,
            accepting: Mutex::new(None),
        }
    }

    /// Binds on the server's runtime, so that the socket is in that runtime's network namespace.
    ///
    /// The socket does not listen. While it exists, no other process can bind the port, but
    /// [`Self::bind`] can.
    pub(crate) async fn reserve(&self, address: SocketAddr) -> io::Result<TcpSocket> {
        let reserve = async move {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4(),
                SocketAddr::V6(_) => TcpSocket::new_v6(),
            }?;
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(socket)
        };
        self.runtime
            .spawn(reserve)
            .await
            .map_err(io::Error::other)?
    }

    /// Binds and listens; [`Self::reserve`] only binds.
    pub(crate) async fn bind(&self, address: SocketAddr) -> io::Result<TcpListener> {
        self.runtime
            .spawn(TcpListener::bind(address))
            .await
            .map_err(io::Error::other)?
    }

    /// Sets the TLS configuration of connections from the next [`Self::accept`] on.
    pub(crate) fn show(&self, tls: TlsAcceptor) {
        *self.tls.lock().unwrap_or_else(PoisonError::into_inner) = Some(tls);
    }

    pub(crate) fn accept(&self, listener: TcpListener) {
        let tls = self
            .tls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let accepting = accept(listener, tls, Arc::clone(&self.shared));
        let accepting = self.runtime.spawn(accepting);
        if let Some(before) = self.replace(Some(accepting)) {
            before.abort();
        }
    }

    fn replace(&self, next: Option<JoinHandle<()>>) -> Option<JoinHandle<()>> {
        let mut accepting = self
            .accepting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        mem::replace(&mut accepting, next)
    }

    /// Closes the socket and cuts every connection, and waits until that is done.
    pub(crate) async fn close(&self) {
        let accepting = self.replace(None);
        if let Some(accepting) = accepting {
            accepting.abort();
            if let Err(error) = accepting.await
                && error.is_panic()
            {
                tracing::error!(%error, "accepting connections panicked");
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(accepting) = self.replace(None) {
            accepting.abort();
        }
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    // Aborting this task drops the set, and with it every connection.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, tls.clone(), Arc::clone(&shared)));
                }
                Err(error) => tracing::warn!(%error, "a connection could not be accepted"),
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    // Events are small and must be sent at once.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let served = match tls {
        None => converse(TokioIo::new(stream), shared).await,
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => converse(TokioIo::new(stream), shared).await,
            Err(error) => Err(error.into()),
        },
    };
    if let Err(error) = served {
        tracing::debug!(error, "a connection ended");
    }
}

async fn converse<S>(
    stream: S,
    shared: Arc<Shared>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let service = service_fn(move |request| handle(Arc::clone(&shared), request));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder.serve_connection(stream, service).await
}
