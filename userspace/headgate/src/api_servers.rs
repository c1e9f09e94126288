//! The client of the Kubernetes API: of the cluster that this process runs in, or that the kubeconfig names. Several
//! API servers are tried in turn, and remembered in a file, so that an agent that starts while one is away comes up.

use std::{
    env, fs,
    io::{ErrorKind, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use http::Uri;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client, Config, api::ListParams, client::Body, config::KubeConfigOptions};
use tokio::time::sleep;
use tower::service_fn;
use tracing::{info, warn};

/// A watch without any message for this long counts as dead. API servers send a bookmark about every
/// minute.
const WATCH_TIMEOUT: Duration = Duration::from_secs(150);
/// How long one of several API servers may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How often the API is asked for the addresses of its servers, and after a failure.
const INTERVAL: Duration = Duration::from_secs(600);
const RETRY: Duration = Duration::from_secs(10);

/// Returns a client that asks the API servers of the kubeconfig or of the environment, then those in `file`.
///
/// `KUBERNETES_SERVICE_HOST` may name several, separated by commas, each with or without a port.
///
/// # Errors
///
/// If neither names an API server, or the credentials cannot be read.
pub(crate) async fn client(file: Option<&Path>) -> Result<Client> {
    const FAILED: &str = "cannot find the Kubernetes API";
    let hosts = env::var("KUBERNETES_SERVICE_HOST").unwrap_or_default();
    let port = env::var("KUBERNETES_SERVICE_PORT").unwrap_or_else(|_| "443".into());
    let mut config;
    let mut servers;
    if hosts.contains(',') && !has_kubeconfig().await {
        config = Config::incluster_dns().context(FAILED)?;
        servers = urls(&hosts, &port);
    } else {
        config = Config::infer().await.context(FAILED)?;
        servers = vec![config.cluster_url.to_string()];
    }
    for known in file.map(read).unwrap_or_default() {
        if !servers.contains(&known) {
            servers.push(known);
        }
    }
    config.read_timeout = Some(WATCH_TIMEOUT);
    if servers.len() == 1 {
        return Client::try_from(config).context(FAILED);
    }
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    let namespace = config.default_namespace.clone();
    let servers = servers.into_iter().map(|name| {
        let mut config = config.clone();
        config.cluster_url = name.parse().with_context(|| format!("API server {name}"))?;
        let client = Client::try_from(config).context(FAILED)?;
        Ok(Server { name, client })
    });
    let servers = Arc::new(Servers {
        all: servers.collect::<Result<Vec<Server>>>()?,
        current: AtomicUsize::new(0),
    });
    let send = move |request| {
        let servers = Arc::clone(&servers);
        async move { servers.send(request).await }
    };
    Ok(Client::new(service_fn(send), namespace))
}

async fn has_kubeconfig() -> bool {
    let options = KubeConfigOptions::default();
    Config::from_kubeconfig(&options).await.is_ok()
}

/// The URLs of the API servers that the environment names.
fn urls(hosts: &str, port: &str) -> Vec<String> {
    let hosts = hosts.split(',').map(str::trim);
    let hosts = hosts.filter(|host| !host.is_empty());
    hosts
        .map(|host| match host.parse::<std::net::IpAddr>() {
            Ok(std::net::IpAddr::V6(ip)) => format!("https://[{ip}]:{port}/"),
            _ if host.contains(':') => format!("https://{host}/"),
            _ => format!("https://{host}:{port}/"),
        })
        .collect()
}

/// An API server.
struct Server {
    name: String,
    client: Client,
}

/// API servers of one cluster: at least one.
struct Servers {
    all: Vec<Server>,
    current: AtomicUsize,
}

impl Servers {
    /// Sends a request to the current server. If it fails, the next request goes to the next one: watches are repeated
    /// anyway.
    async fn send(
        &self,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, kube::Error> {
        let used = self.current.load(Ordering::Relaxed);
        let next = (used + 1) % self.all.len();
        let [server, other] = [used, next].map(|number| &self.all[number]);
        let result = server.client.send(request).await;
        let order = Ordering::Relaxed;
        if let Err(error) = &result
            && self
                .current
                .compare_exchange(used, next, order, order)
                .is_ok()
        {
            let (from, to) = (&server.name, &other.name);
            warn!(%error, server = from, next = to, "an API server does not answer; asking another one");
        }
        result
    }
}

/// Keeps the addresses of the API servers in `file`, as the API has them.
pub(crate) async fn remember(client: Client, file: &Path) {
    loop {
        let pause = match write(&client, file).await {
            Ok(()) => INTERVAL,
            Err(error) => {
                let error = format!("{error:#}");
                warn!(error, file = %file.display(), "cannot remember the API servers");
                RETRY
            }
        };
        sleep(pause).await;
    }
}

async fn write(client: &Client, file: &Path) -> Result<()> {
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
    let of_api = ListParams::default().labels("kubernetes.io/service-name=kubernetes");
    let mut servers = Vec::new();
    for slice in slices.list(&of_api).await?.items {
        let ports = slice.ports.iter().flatten();
        let ports: Vec<i32> = ports.filter_map(|port| port.port).collect();
        let addresses = slice
            .endpoints
            .iter()
            .flatten()
            .flat_map(|endpoint| &endpoint.addresses);
        for address in addresses {
            let ports = ports.iter().map(ToString::to_string);
            servers.extend(ports.flat_map(|port| urls(address, &port)));
        }
    }
    servers.sort_unstable();
    // A list without servers is a mistake of the moment.
    if servers.is_empty() || servers == read(file) {
        return Ok(());
    }
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let temporary = file.with_extension("new");
    let mut written = fs::File::create(&temporary)?;
    written.write_all((servers.join("\n") + "\n").as_bytes())?;
    written.sync_all()?;
    fs::rename(&temporary, file)?;
    info!(servers = servers.join(" "), "remembered the API servers");
    Ok(())
}

/// The API servers in a file, if it can be read.
fn read(file: &Path) -> Vec<String> {
    match fs::read_to_string(file) {
        Ok(text) => {
            let is_url = |line: &&str| line.starts_with("https://") && line.parse::<Uri>().is_ok();
            text.lines().filter(is_url).map(Into::into).collect()
        }
        Err(error) => {
            if error.kind() != ErrorKind::NotFound {
                warn!(%error, file = %file.display(), "cannot read the API servers");
            }
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::urls;

    #[test]
    fn hosts_of_the_environment_are_read() {
        let text = "192.0.2.1, 192.0.2.2:8443,fd00::1,[fd00::2]:8443,api.example.com,";
        let wanted = [
            "https://192.0.2.1:6443/",
            "https://192.0.2.2:8443/",
            "https://[fd00::1]:6443/",
            "https://[fd00::2]:8443/",
            "https://api.example.com:6443/",
        ];
        assert_eq!(urls(text, "6443"), wanted);
    }
}
