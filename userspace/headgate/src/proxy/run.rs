//! The running proxy: a source of Ingresses, the loop that makes routes of them, and sockets.

use std::{
    collections::BTreeSet,
    future::pending,
    io,
    net::{self, IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
    thread::{self, available_parallelism},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use headgate_control::{
    EdgeOptions, Endpoints, IngressStatus, Interest, Publish, Serve, kube as kube_source,
    manifests, publish, report, run_ingress,
};
use headgate_dataplane::Steering;
use headgate_model::{
    Refusal,
    edge::{Edge, UpstreamKey},
    gateway::{GatewayOptions, can_be_target},
    ingress::IngressOptions,
};
use headgate_proxy::{
    AccessLog, LogFormat, Proxy, Scheme, Settings, TraceSettings, Tracer, check_authorities,
    check_certificate, work,
};
use kube::Client;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep,
};
use tracing::{info, warn};

#[cfg(feature = "page")]
use super::page;
use super::{
    args::{AccessLogFormat, ProxyArgs},
    gateway_ports::{GatewayPorts, Wanted},
    inspect, listening, metrics, probes, sandbox,
};
use crate::{
    api_servers,
    http::{self, ListenAddress, health},
    process,
};

/// Connections that may wait to be accepted.
pub(super) const BACKLOG: u32 = 4096;
/// How long to wait before the agent's map is opened again.
const RETRY: Duration = Duration::from_secs(1);
/// Events of the source that wait for the loop.
const EVENTS: usize = 1024;

type Statuses = watch::Receiver<IngressStatus>;

/// The listeners of a worker.
type Listeners = Vec<(net::TcpListener, Scheme)>;

pub(crate) fn run(pins: &Path, args: &ProxyArgs) -> Result<()> {
    process::start_log(args.common.log_format);
    process::raise_descriptor_limit();
    // Serves no clients: see `work`.
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?
        .block_on(serve(pins, args))
}

/// The number of threads that serve clients.
fn workers(args: &ProxyArgs) -> Result<usize> {
    Ok(match args.threads {
        Some(threads) => threads.max(1),
        None => available_parallelism()?.get(),
    })
}

async fn serve(pins: &Path, args: &ProxyArgs) -> Result<()> {
    if args.gateways
        && let Some(port) = own_ports(args)
            .into_iter()
            .find(|port| can_be_target(*port))
    {
        bail!(
            "port {port} is one of those that the controller gives to Gateways: choose another one"
        );
    }
    let node = &args.common.node_name;
    let proxy = Arc::new(Proxy::new(settings(args)?)?);
    let (sender, events) = mpsc::channel(EVENTS);
    let (status, statuses) = watch::channel(IngressStatus::default());
    let (listening, is_listening) = watch::channel(false);
    let (ports, wanted) = watch::channel(Wanted::new());
    let metrics = {
        let (proxy, statuses) = (proxy.clone(), statuses.clone());
        move || metrics::text(&proxy, &statuses.borrow())
    };
    let inspected = health::metrics(metrics).merge(inspect::router(&proxy, node));
    let probed = &args.healthz_bind_address;
    #[cfg(feature = "page")]
    let page = page::serve_if(
        args.common.page_bind_address,
        proxy.clone(),
        statuses.clone(),
        node,
    );
    #[cfg(not(feature = "page"))]
    let page = pending::<()>();
    let (options, served) = (edge_options(args), ServedProxy(proxy.clone(), ports));
    let interest = options.interest();
    tokio::select! {
        () = run_ingress(events, options, served, status, pending()) => Ok(()),
        result = follow_source(args, interest, sender, statuses.clone()) => {
            result.and_then(|()| bail!("the source ended"))
        }
        result = listen(pins, args, &proxy, statuses.clone(), &listening, &wanted) => result,
        () = probes::serve_probes(probed, statuses.clone(), is_listening) => Ok(()),
        () = http::serve(args.metrics_bind_address, inspected) => Ok(()),
        () = page => Ok(()),
    }
}

/// Sends the loop what the Kubernetes API or the folder of manifests holds.
async fn follow_source(
    args: &ProxyArgs,
    interest: Interest,
    sender: mpsc::Sender<headgate_control::Event>,
    statuses: Statuses,
) -> Result<()> {
    if let Some(folder) = &args.common.source {
        return manifests::follow_ingresses(folder.clone(), interest, sender).await;
    }
    let client = api_servers::client(None).await?;
    let namespaces = namespaces(args);
    tokio::join!(
        kube_source::follow_ingresses(client.clone(), &namespaces, interest, sender),
        report(client.clone(), &args.common.node_name, statuses.clone()),
        publish_addresses(client, args, &namespaces, statuses.clone()),
    );
    Ok(())
}

fn settings(args: &ProxyArgs) -> Result<Settings> {
    let format = match args.access_log {
        AccessLogFormat::Json => Some(LogFormat::Json),
        AccessLogFormat::Combined => Some(LogFormat::Combined),
        AccessLogFormat::Off => None,
    };
    let tracer = args.otlp_endpoint.clone().map(|endpoint| {
        Tracer::start(&TraceSettings {
            rate: args.trace_sample_rate,
            ..TraceSettings::new(endpoint, &args.common.node_name)
        })
    });
    Ok(Settings {
        trusted: args.trusted_proxies.clone(),
        proxy_protocol: args.proxy_protocol_from.clone(),
        auth_local: args.auth_local_networks.clone(),
        public_ports: vec![args.http_port, args.https_port],
        log: format.map(|format| Arc::new(AccessLog::new(format, io::stdout()))),
        tracer: tracer.transpose()?,
        workers: workers(args)?,
        max_connections: args.max_connections,
        head_timeout: Duration::from_secs(args.client_header_timeout),
        body_timeout: Duration::from_secs(args.client_body_timeout),
        answer_timeout: Duration::from_secs(args.client_answer_timeout),
    })
}

/// Gateways of manifests are served without a flag.
fn edge_options(args: &ProxyArgs) -> EdgeOptions {
    // An API server needs a role for them.
    let has_gateways = args.gateways || args.common.source.is_some();
    let gateways = has_gateways.then(|| GatewayOptions {
        auth_local: args.auth_local_networks.clone(),
        controller: args.gateway_controller.clone(),
        check_certificate,
        check_authorities,
        reserved_ports: own_ports(args),
        ..GatewayOptions::default()
    });
    EdgeOptions {
        ingress: ingress_options(args),
        gateways,
    }
}

/// Ports of the node that this process listens on for other reasons than Gateways.
fn own_ports(args: &ProxyArgs) -> BTreeSet<u16> {
    let mut ports = BTreeSet::from([
        args.http_port,
        args.https_port,
        args.metrics_bind_address.port(),
    ]);
    if let ListenAddress::Tcp(address) = &args.healthz_bind_address {
        ports.insert(address.port());
    }
    #[cfg(feature = "page")]
    ports.extend(args.common.page_bind_address.map(|address| address.port()));
    ports
}

fn ingress_options(args: &ProxyArgs) -> IngressOptions {
    IngressOptions {
        controller: args.controller.clone(),
        without_class: args.without_class,
        namespaces: namespaces(args),
        share_hosts: args.share_hosts,
        auth_local: args.auth_local_networks.clone(),
        default_backend: args.default_backend.clone(),
        default_certificate: args.default_certificate.clone(),
    }
}

fn namespaces(args: &ProxyArgs) -> BTreeSet<String> {
    args.namespaces.iter().cloned().collect()
}

/// Writes the addresses of the proxy into the status of Ingresses, if a flag names them.
async fn publish_addresses(
    client: Client,
    args: &ProxyArgs,
    namespaces: &BTreeSet<String>,
    statuses: Statuses,
) {
    let addresses = match &args.publish_service {
        Some(service) => Publish::Service(service.clone()),
        None if args.publish_address.is_empty() => return,
        None => Publish::Addresses(args.publish_address.iter().cloned().collect()),
    };
    publish(client, addresses, namespaces, statuses).await;
}

/// The proxy for the loop, and the ports at which it listens for Gateways.
struct ServedProxy(Arc<Proxy>, watch::Sender<Wanted>);

impl Serve for ServedProxy {
    fn serve(&mut self, edge: Edge) -> Vec<Refusal> {
        let refusals = self.0.serve(&edge);
        self.1.send_if_modified(|known| {
            let ports = self.0.gateway_ports();
            let is_other = *known != ports;
            *known = ports;
            is_other
        });
        refusals
    }

    fn place(&mut self, key: &UpstreamKey, endpoints: Endpoints) {
        self.0.place(key, &endpoints);
    }
}

/// Accepts connections once the routes are there. After a signal it accepts no more, and ends when the
/// open ones are finished.
async fn listen(
    pins: &Path,
    args: &ProxyArgs,
    proxy: &Arc<Proxy>,
    mut statuses: Statuses,
    listening: &watch::Sender<bool>,
    wanted: &watch::Receiver<Wanted>,
) -> Result<()> {
    let signal = process::stop_signal()?;
    let mut signal = std::pin::pin!(signal);
    let begin = async {
        statuses.wait_for(|status| status.is_synced).await?;
        listeners(pins, args).await
    };
    let listeners = tokio::select! {
        listeners = begin => listeners?,
        () = &mut signal => return Ok(()),
    };
    sandbox::enter()?;
    println!("ready: {} ingresses", statuses.borrow().ingresses.len());
    let (stop, stopped) = watch::channel(false);
    let count = listeners.len();
    let (ended, mut ends) = mpsc::channel(count);
    let (finish, finished) = watch::channel(false);
    for (number, listeners) in (1..).zip(listeners) {
        let (proxy, stopped, ended) = (proxy.clone(), stopped.clone(), ended.clone());
        let mut finished = finished.clone();
        let reports = ended.clone();
        let (addresses, wanted) = (args.bind_addresses.clone(), wanted.clone());
        let gateways = GatewayPorts::new(proxy.clone(), addresses, wanted, number == 1);
        let serve = async move {
            let accepted = accept(proxy, listeners, gateways, stopped).await;
            // Fails if the process ends.
            drop(ended.send(accepted).await);
            // Connections to endpoints that this worker has opened serve requests of the others.
            drop(finished.wait_for(|is_finished| *is_finished).await);
        };
        let worker = move || {
            let worked = catch_unwind(AssertUnwindSafe(|| work(number, serve)));
            let failed = match worked {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error,
                Err(_) => io::Error::other("a worker panicked"),
            };
            drop(reports.blocking_send(Err(failed)));
        };
        let thread = thread::Builder::new().name(format!("worker-{number}"));
        thread.spawn(worker)?;
    }
    drop(ended);
    listening.send_replace(true);
    tokio::select! {
        () = &mut signal => {}
        result = ends.recv() => {
            result.transpose()?;
            bail!("a worker has ended");
        }
    }
    listening.send_replace(false);
    info!("stopping: requests in progress are finished");
    stop.send_replace(true);
    for _ in 0..count {
        ends.recv().await.transpose()?;
    }
    finish.send_replace(true);
    proxy.flush().await;
    Ok(())
}

/// Serves the connections of a worker until it is stopped.
async fn accept(
    proxy: Arc<Proxy>,
    listeners: Listeners,
    gateways: GatewayPorts,
    stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut servers = JoinSet::new();
    for (listener, scheme) in listeners {
        let listener = TcpListener::from_std(listener)?;
        let (proxy, mut stopped) = (proxy.clone(), stopped.clone());
        servers.spawn(async move {
            let stop = async {
                // The sender outlives every server.
                let _closed = stopped.wait_for(|is_stopped| *is_stopped).await;
            };
            proxy.listen(listener, scheme, stop).await;
        });
    }
    gateways.serve(stopped).await;
    servers.join_all().await;
    Ok(())
}

/// The listeners of each worker.
async fn listeners(pins: &Path, args: &ProxyArgs) -> Result<Vec<Listeners>> {
    let mut all: Vec<Listeners> = Vec::new();
    all.resize_with(workers(args)?, Vec::new);
    let ports = [
        (args.http_port, Scheme::Http),
        (args.https_port, Scheme::Https),
    ];
    for (port, scheme) in ports {
        for address in &args.bind_addresses {
            let address = SocketAddr::new(*address, port);
            let bound = bound(address, all.len());
            let bound = bound.with_context(|| format!("cannot listen on {address}"))?;
            distribute(bound, scheme, &mut all);
        }
    }
    if !args.bind_addresses.is_empty() {
        return Ok(all);
    }
    let mut steering = steering(pins).await;
    for (port, scheme) in ports {
        if listening::is_used(port) {
            warn!(
                port,
                "another process of this node listens on this port: it gets connections from loopback only"
            );
        }
        for address in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ] {
            let bound = bound(SocketAddr::new(address, 0), all.len())?;
            // The kernel chooses among the sockets of an address after it was steered to one.
            if let Some(listener) = bound.first() {
                let steered = steering.steer(port, listener);
                steered.with_context(|| format!("cannot receive connections to port {port}"))?;
            }
            distribute(bound, scheme, &mut all);
        }
    }
    Ok(all)
}

fn distribute(listeners: Vec<net::TcpListener>, scheme: Scheme, all: &mut [Listeners]) {
    for (listener, worker) in listeners.into_iter().zip(all) {
        worker.push((listener, scheme));
    }
}

/// Sockets for the workers. The kernel distributes connections among them (`SO_REUSEPORT`).
fn bound(mut address: SocketAddr, workers: usize) -> io::Result<Vec<net::TcpListener>> {
    if workers > 1 && address.port() != 0 {
        // Fails if another process listens. One of this user could share the port with those below.
        unbound(address)?.bind(address)?;
    }
    let mut listeners = Vec::new();
    for _ in 0..workers {
        let socket = unbound(address)?;
        socket.set_reuseport(workers > 1)?;
        socket.bind(address)?;
        address = socket.local_addr()?;
        listeners.push(socket.listen(BACKLOG)?.into_std()?);
    }
    Ok(listeners)
}

pub(super) fn unbound(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    Ok(socket)
}

/// Opens the agent's map of sockets, once it is there and this process may write it.
async fn steering(pins: &Path) -> Steering {
    let mut is_logged = false;
    loop {
        match Steering::open(pins) {
            Ok(steering) => return steering,
            Err(error) if !is_logged => {
                warn!(%error, "waiting for an agent with --proxy-user");
                is_logged = true;
            }
            Err(_) => {}
        }
        sleep(RETRY).await;
    }
}
