//! The L7 proxy: a source of Ingresses, the loop that makes routes of them, sockets, and whom it
//! tells how things are.

mod inspect;
mod metrics;
mod page;
mod question;
mod sandbox;

pub(crate) use question::{CLIENT, HEADER, METHOD, URL};

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    thread::available_parallelism,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::value_parser;
use headgate_control::{
    Address, Endpoints, IngressStatus, Publish, Serve, kube as kube_source, manifests, publish,
    report, run_ingress,
};
use headgate_dataplane::Steering;
use headgate_model::{
    NamespacedName, Refusal,
    ingress::{IngressOptions, Routes, UpstreamKey},
};
use headgate_proxy::{AccessLog, LogFormat, Proxy, Scheme, Settings, TraceSettings, Tracer};
use http::Uri;
use ipnet::IpNet;
use kube::Client;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep,
};
use tracing::{info, warn};

use crate::{
    http::health::{self, Place},
    process,
};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;
/// How long to wait before the agent is looked for again.
const RETRY: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Name of this node in the cluster
    #[arg(long, env = "NODE_NAME")]
    node_name: String,
    /// Read manifests from this folder instead of asking the Kubernetes API
    #[arg(long, value_name = "DIR")]
    source: Option<PathBuf>,
    /// `spec.controller` of the IngressClasses that are served
    #[arg(long, default_value = "headgate.io/ingress")]
    controller: String,
    /// Serve Ingresses without a class as well
    #[arg(long)]
    without_class: bool,
    /// Serve Ingresses of these namespaces alone
    #[arg(long, value_name = "NAMESPACE", value_delimiter = ',')]
    namespaces: Vec<String>,
    /// Who gets requests that no rule matches
    #[arg(long, value_name = "NAMESPACE/SERVICE:PORT", value_parser = parse_backend)]
    default_backend: Option<(NamespacedName, u16)>,
    /// Secret with the certificate for hosts that have none
    #[arg(long, value_name = "NAMESPACE/SECRET", value_parser = parse_name)]
    default_certificate: Option<NamespacedName>,
    /// Write these addresses or host names into the status of Ingresses
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    publish_address: Vec<Address>,
    /// Write the addresses of this Service into the status of Ingresses
    #[arg(long, value_name = "NAMESPACE/SERVICE", value_parser = parse_name)]
    #[arg(conflicts_with = "publish_address")]
    publish_service: Option<NamespacedName>,
    /// Port of HTTP
    #[arg(long, default_value_t = 80)]
    http_port: u16,
    /// Port of HTTPS
    #[arg(long, default_value_t = 443)]
    https_port: u16,
    /// Listen on these addresses; default: on every address of the node, by leave of an agent with
    /// --proxy-user, which takes no capability
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    bind_addresses: Vec<IpAddr>,
    /// Proxies whose X-Forwarded headers are believed
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    trusted_proxies: Vec<IpNet>,
    /// Load balancers whose connections begin with a header of the PROXY protocol
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    proxy_protocol_from: Vec<IpNet>,
    /// Connections of clients at the same time; more of them wait to be accepted
    #[arg(long, default_value_t = Settings::default().max_connections)]
    max_connections: usize,
    /// Seconds that a client may take for the head of a request, and have none
    #[arg(long, value_name = "SECONDS", value_parser = value_parser!(u64).range(1..))]
    #[arg(default_value_t = Settings::default().head_timeout.as_secs())]
    client_header_timeout: u64,
    /// Seconds that a client may be silent in the body of a request that has no answer yet
    #[arg(long, value_name = "SECONDS", value_parser = value_parser!(u64).range(1..))]
    #[arg(default_value_t = Settings::default().body_timeout.as_secs())]
    client_body_timeout: u64,
    /// Seconds that a client may take nothing of what it is sent
    #[arg(long, value_name = "SECONDS", value_parser = value_parser!(u64).range(1..))]
    #[arg(default_value_t = Settings::default().answer_timeout.as_secs())]
    client_answer_timeout: u64,
    /// How requests are logged to standard output
    #[arg(long, default_value = "json")]
    access_log: LogChoice,
    /// Tell a collector of requests as parts of traces: OTLP over HTTP, at this URL and `/v1/traces`
    #[arg(long, value_name = "URL", value_parser = parse_collector)]
    otlp_endpoint: Option<Uri>,
    /// Share of the traces beginning here that is told, 0 to 1; those of clients are told if these say so
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, value_parser = parse_share)]
    #[arg(requires = "otlp_endpoint")]
    trace_sample_rate: f64,
    /// Threads that serve requests; default: one for each CPU
    #[arg(long)]
    threads: Option<usize>,
    /// Where `/livez` and `/readyz` are served: an address, or the path of a Unix socket, which
    /// `headgate probe` asks
    #[arg(long, value_name = "ADDR:PORT|PATH", default_value = "0.0.0.0:10246")]
    healthz_bind_address: Place,
    /// Where `/metrics` is served, and what `headgate routes`, `certificates` and `explain request`
    /// ask for
    #[arg(long, default_value = "127.0.0.1:10245")]
    metrics_bind_address: SocketAddr,
    /// Where a page for browsers is served, for example 127.0.0.1:10255; default: nowhere. It asks
    /// nobody who they are, so leave it on loopback
    #[arg(long, value_name = "ADDR:PORT")]
    page_bind_address: Option<SocketAddr>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum LogChoice {
    /// JSON objects
    Json,
    /// Apache's combined format
    Combined,
    /// Not at all
    Off,
}

fn parse_name(text: &str) -> Result<NamespacedName, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok(NamespacedName::new(namespace, name))
        }
        _ => Err("write NAMESPACE/NAME".into()),
    }
}

fn parse_backend(text: &str) -> Result<(NamespacedName, u16), String> {
    let (name, port) = text
        .rsplit_once(':')
        .ok_or("write NAMESPACE/SERVICE:PORT")?;
    let port = port
        .parse()
        .map_err(|error| format!("port `{port}`: {error}"))?;
    Ok((parse_name(name)?, port))
}

fn parse_collector(text: &str) -> Result<Uri, String> {
    let url: Uri = text.parse().map_err(|error| format!("{error}"))?;
    let is_http = matches!(url.scheme_str(), Some("http" | "https"));
    match is_http && url.query().is_none() {
        true => Ok(url),
        false => Err("write http://HOST:PORT or https://HOST:PORT".into()),
    }
}

fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.parse().map_err(|error| format!("{error}"))?;
    match (0.0..=1.0).contains(&share) {
        true => Ok(share),
        false => Err("is not between 0 and 1".into()),
    }
}

pub(crate) fn run(pins: &Path, options: &Options) -> Result<()> {
    process::start_log();
    let threads = match options.threads {
        Some(threads) => threads,
        None => available_parallelism()?.get(),
    };
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()?
        .block_on(serve(pins, options))
}

async fn serve(pins: &Path, options: &Options) -> Result<()> {
    let proxy = Arc::new(Proxy::new(settings(options)?)?);
    let (sender, events) = mpsc::channel(1024);
    let (status, statuses) = watch::channel(IngressStatus::default());
    let (listening, is_listening) = watch::channel(false);
    let source = async {
        if let Some(folder) = &options.source {
            return manifests::follow_ingresses(folder.clone(), sender).await;
        }
        let client = process::client().await?;
        let namespaces = namespaces(options);
        tokio::join!(
            kube_source::follow_ingresses(client.clone(), &namespaces, sender),
            report(client.clone(), &options.node_name, statuses.clone()),
            keep_status(client, options, &namespaces, statuses.clone()),
        );
        Ok(())
    };
    let served = Served(proxy.clone());
    let forever = std::future::pending();
    let metrics = {
        let (proxy, statuses) = (proxy.clone(), statuses.clone());
        move || metrics::text(&proxy, &statuses.borrow())
    };
    let page = async {
        match options.page_bind_address {
            Some(address) => {
                page::serve(address, proxy.clone(), statuses.clone(), &options.node_name).await;
            }
            None => std::future::pending().await,
        }
    };
    let asked = health::metrics(metrics).merge(inspect::router(&proxy, &options.node_name));
    let place = &options.healthz_bind_address;
    tokio::select! {
        () = run_ingress(events, ingress_options(options), served, status, forever) => Ok(()),
        result = source => result.and_then(|()| bail!("the source ended")),
        result = listen(pins, options, &proxy, statuses.clone(), &listening) => result,
        () = health::proxy_probes(place, statuses.clone(), is_listening) => Ok(()),
        () = health::serve(options.metrics_bind_address, asked) => Ok(()),
        () = page => Ok(()),
    }
}

fn settings(options: &Options) -> Result<Settings> {
    let format = match options.access_log {
        LogChoice::Json => Some(LogFormat::Json),
        LogChoice::Combined => Some(LogFormat::Combined),
        LogChoice::Off => None,
    };
    let tracer = options.otlp_endpoint.clone().map(|endpoint| {
        Tracer::start(&TraceSettings {
            rate: options.trace_sample_rate,
            ..TraceSettings::new(endpoint, &options.node_name)
        })
    });
    Ok(Settings {
        trusted: options.trusted_proxies.clone(),
        proxy_protocol: options.proxy_protocol_from.clone(),
        log: format.map(|format| Arc::new(AccessLog::new(format, io::stdout()))),
        tracer: tracer.transpose()?,
        max_connections: options.max_connections,
        head_timeout: Duration::from_secs(options.client_header_timeout),
        body_timeout: Duration::from_secs(options.client_body_timeout),
        answer_timeout: Duration::from_secs(options.client_answer_timeout),
    })
}

fn ingress_options(options: &Options) -> IngressOptions {
    IngressOptions {
        controller: options.controller.clone(),
        without_class: options.without_class,
        namespaces: namespaces(options),
        default_backend: options.default_backend.clone(),
        default_certificate: options.default_certificate.clone(),
    }
}

fn namespaces(options: &Options) -> BTreeSet<String> {
    options.namespaces.iter().cloned().collect()
}

/// Writes where clients find the proxy, if that was said.
async fn keep_status(
    client: Client,
    options: &Options,
    namespaces: &BTreeSet<String>,
    statuses: watch::Receiver<IngressStatus>,
) {
    let place = match &options.publish_service {
        Some(service) => Publish::Service(service.clone()),
        None if options.publish_address.is_empty() => return,
        None => Publish::Addresses(options.publish_address.iter().cloned().collect()),
    };
    publish(client, place, namespaces, statuses).await;
}

/// The proxy, as the loop sees it.
struct Served(Arc<Proxy>);

impl Serve for Served {
    fn serve(&mut self, routes: Routes) -> Vec<Refusal> {
        self.0.serve(&routes)
    }

    fn place(&mut self, key: &UpstreamKey, endpoints: Endpoints) {
        self.0.place(key, &endpoints);
    }
}

/// Takes connections from the moment on that routes are there, until a signal; then finishes what it
/// has.
async fn listen(
    pins: &Path,
    options: &Options,
    proxy: &Arc<Proxy>,
    mut statuses: watch::Receiver<IngressStatus>,
    listening: &watch::Sender<bool>,
) -> Result<()> {
    let signal = process::stop_signal()?;
    let mut signal = std::pin::pin!(signal);
    let begin = async {
        statuses.wait_for(|status| status.is_synced).await?;
        listeners(pins, options).await
    };
    let listeners = tokio::select! {
        listeners = begin => listeners?,
        () = &mut signal => return Ok(()),
    };
    sandbox::enter()?;
    println!("ready: {} ingresses", statuses.borrow().ingresses.len());
    let (stop, stopped) = watch::channel(false);
    let mut servers = JoinSet::new();
    for (listener, scheme) in listeners {
        let (proxy, mut stopped) = (proxy.clone(), stopped.clone());
        servers.spawn(async move {
            let stop = async {
                // The sender outlives every server.
                let _closed = stopped.wait_for(|is_stopped| *is_stopped).await;
            };
            proxy.listen(listener, scheme, stop).await;
        });
    }
    listening.send_replace(true);
    signal.await;
    listening.send_replace(false);
    info!("stopping: requests in progress are finished");
    stop.send_replace(true);
    servers.join_all().await;
    proxy.flush_spans().await;
    Ok(())
}

async fn listeners(pins: &Path, options: &Options) -> Result<Vec<(TcpListener, Scheme)>> {
    let ports = [
        (options.http_port, Scheme::Http),
        (options.https_port, Scheme::Https),
    ];
    let mut listeners = Vec::new();
    for (port, scheme) in ports {
        for address in &options.bind_addresses {
            let address = SocketAddr::new(*address, port);
            let listener = bound(address).with_context(|| format!("cannot listen on {address}"))?;
            listeners.push((listener, scheme));
        }
    }
    if !listeners.is_empty() {
        return Ok(listeners);
    }
    let mut steering = steering(pins).await;
    for (port, scheme) in ports {
        for address in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ] {
            let listener = bound(SocketAddr::new(address, 0))?;
            let steered = steering.steer(port, &listener);
            steered.with_context(|| format!("cannot take connections to port {port}"))?;
            listeners.push((listener, scheme));
        }
    }
    Ok(listeners)
}

fn bound(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The agent's map, once it is there and ours to write.
async fn steering(pins: &Path) -> Steering {
    let mut is_told = false;
    loop {
        match Steering::open(pins) {
            Ok(steering) => return steering,
            Err(error) if !is_told => {
                warn!("waiting for an agent with --proxy-user: {error}");
                is_told = true;
            }
            Err(_) => {}
        }
        sleep(RETRY).await;
    }
}
