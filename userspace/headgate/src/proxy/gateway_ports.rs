//! Sockets for the ports of Gateways, which come and go with their objects.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use headgate_model::edge::GatewayPort;
use headgate_proxy::Proxy;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::sleep,
};
use tracing::{info, warn};

use super::run::{BACKLOG, unbound};

/// Pause before ports that could not be opened are tried again.
const RETRY: Duration = Duration::from_secs(5);

/// The ports of this node at which connections for ports of Gateways arrive.
pub(super) type Wanted = BTreeMap<u16, GatewayPort>;

/// The sockets of a worker.
pub(super) struct GatewayPorts {
    proxy: Arc<Proxy>,
    /// Empty for all addresses of the node.
    addresses: Vec<IpAddr>,
    wanted: watch::Receiver<Wanted>,
    /// Whether this worker writes to the log; all workers do the same.
    is_first: bool,
    open: BTreeMap<u16, (GatewayPort, Vec<AbortHandle>)>,
    servers: JoinSet<()>,
}

impl GatewayPorts {
    pub(super) fn new(
        proxy: Arc<Proxy>,
        addresses: Vec<IpAddr>,
        wanted: watch::Receiver<Wanted>,
        is_first: bool,
    ) -> Self {
        Self {
            proxy,
            addresses,
            wanted,
            is_first,
            open: BTreeMap::new(),
            servers: JoinSet::new(),
        }
    }

    /// Serves the ports until it is stopped, then ends as [`Proxy::listen`] does. A port that goes accepts
    /// no more connections; those that it has continue.
    pub(super) async fn serve(mut self, stopped: watch::Receiver<bool>) {
        let mut stop = stopped.clone();
        let mut stop = std::pin::pin!(stop.wait_for(|is_stopped| *is_stopped));
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let is_complete = self.follow(&wanted, &stopped);
            tokio::select! {
                _ = &mut stop => break,
                () = sleep(RETRY), if !is_complete => {}
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
            }
        }
        // Sockets that were closed before count as ended.
        while self.servers.join_next().await.is_some() {}
    }

    /// Opens and closes sockets; returns whether all are open that are wanted.
    fn follow(&mut self, wanted: &Wanted, stopped: &watch::Receiver<bool>) -> bool {
        self.open.retain(|port, (gateway, servers)| {
            let is_wanted = wanted.get(port) == Some(gateway);
            if !is_wanted {
                // Not by `stop`, which accepts for a while: the port may have another Gateway now.
                servers.iter().for_each(AbortHandle::abort);
            }
            is_wanted
        });
        while self.servers.try_join_next().is_some() {}
        for (port, gateway) in wanted {
            if self.open.contains_key(port) {
                continue;
            }
            match self.listeners(*port) {
                Ok(listeners) => {
                    let servers = listeners.into_iter();
                    let servers = servers.map(|listener| self.spawn(listener, gateway, stopped));
                    let servers = servers.collect();
                    self.open.insert(*port, (gateway.clone(), servers));
                    if self.is_first {
                        info!(%gateway, port, "listening for a Gateway");
                    }
                }
                Err(error) if self.is_first => {
                    warn!(%error, %gateway, port, "cannot listen for a Gateway");
                }
                Err(_) => {}
            }
        }
        self.open.len() == wanted.len()
    }

    fn spawn(
        &mut self,
        listener: TcpListener,
        gateway: &GatewayPort,
        stopped: &watch::Receiver<bool>,
    ) -> AbortHandle {
        let (proxy, gateway, mut stopped) = (self.proxy.clone(), gateway.clone(), stopped.clone());
        self.servers.spawn(async move {
            let stop = async {
                // The sender outlives every server.
                let _closed = stopped.wait_for(|is_stopped| *is_stopped).await;
            };
            proxy.listen_for(listener, gateway, stop).await;
        })
    }

    /// The kernel distributes connections among the sockets of all workers (`SO_REUSEPORT`).
    fn listeners(&self, port: u16) -> io::Result<Vec<TcpListener>> {
        let listen = |address: IpAddr| {
            let socket = unbound(SocketAddr::new(address, port))?;
            socket.set_reuseport(true)?;
            socket.bind(SocketAddr::new(address, port))?;
            socket.listen(BACKLOG)
        };
        if !self.addresses.is_empty() {
            return self.addresses.iter().copied().map(listen).collect();
        }
        // A socket for both families, or a node without IPv6.
        let all = listen(Ipv6Addr::UNSPECIFIED.into());
        Ok(vec![all.or_else(|_no_ipv6| {
            listen(Ipv4Addr::UNSPECIFIED.into())
        })?])
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

    use headgate_model::{NamespacedName, edge::GatewayPort};
    use headgate_proxy::{Proxy, Settings};
    use tokio::{
        net::{TcpListener, TcpStream},
        sync::watch,
    };

    use super::GatewayPorts;

    async fn free_port() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    }

    async fn until(port: u16, accepts: bool) {
        let connects = || TcpStream::connect((Ipv4Addr::LOCALHOST, port));
        while connects().await.is_ok() != accepts {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn g137_sockets_come_and_go_with_the_ports() {
        let proxy = Arc::new(Proxy::new(Settings::default()).unwrap());
        let port = |number| GatewayPort {
            gateway: NamespacedName::new("infra", "web"),
            port: number,
        };
        let (one, two) = (free_port().await, free_port().await);
        let (wanted, ports) = watch::channel(BTreeMap::from([(one, port(80))]));
        let (stop, stopped) = watch::channel(false);
        let addresses = vec![Ipv4Addr::LOCALHOST.into()];
        let served = GatewayPorts::new(proxy, addresses, ports, true).serve(stopped);
        let served = tokio::spawn(served);
        until(one, true).await;
        wanted.send_replace([(one, port(80)), (two, port(8080))].into());
        until(two, true).await;
        until(one, true).await;
        wanted.send_replace([(two, port(443))].into());
        until(one, false).await;
        until(two, true).await;
        stop.send_replace(true);
        served.await.unwrap();
        until(two, false).await;
    }
}
