//! What probes, load balancers and Prometheus ask over HTTP, with kube-proxy's contract.

use std::{
    collections::BTreeMap,
    fs,
    net::{AddrParseError, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, SystemTime},
};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use headgate_control::{IngressStatus, Status};
use headgate_model::{NamespacedName, Node};
use jiff::Timestamp;
use serde_json::json;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
    task::{JoinHandle, spawn_blocking},
    time::sleep,
};
use tracing::warn;

use super::metrics::Metrics;

/// How long to wait before an address that was taken is tried again.
const RETRY: Duration = Duration::from_secs(5);

type Statuses = watch::Receiver<Status>;

/// Where probes are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At an address.
    Address(SocketAddr),
    /// On a Unix socket, which belongs to one process where several share the network.
    Socket(PathBuf),
}

impl FromStr for Place {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        if text.contains('/') {
            return Ok(Self::Socket(text.into()));
        }
        text.parse().map(Self::Address)
    }
}

/// Answers on an address until it is dropped; waits while it is taken.
pub(crate) async fn serve(address: SocketAddr, router: Router) {
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => warn!("cannot listen on {address}: {error}"),
        }
        sleep(RETRY).await;
    };
    if let Err(error) = axum::serve(listener, router).await {
        warn!("{address}: {error}");
    }
}

/// Answers on a Unix socket until it is dropped, in the place of who had it before.
async fn serve_socket(path: &Path, router: Router) {
    // There is none, most of the time.
    let _absent = fs::remove_file(path);
    let result = match UnixListener::bind(path) {
        Ok(listener) => axum::serve(listener, router).await,
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        warn!("cannot listen on {}: {error}", path.display());
    }
    std::future::pending().await
}

/// `/healthz`, `/livez` and `/readyz`.
///
/// `/healthz` is for load balancers: 503 as well when the node is about to go (KEP-3836). `/livez`
/// is not: that the API cannot be reached is no reason to start the agent anew.
pub(crate) async fn probes(address: SocketAddr, statuses: Statuses, metrics: Metrics) {
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state((statuses, metrics));
    serve(address, router).await;
}

fn probe(status: &Status, is_well: bool) -> Response {
    let updated = status
        .last_pass
        .map_or(SystemTime::UNIX_EPOCH, |(at, _)| at);
    let updated = Timestamp::try_from(updated).unwrap_or_default();
    let code = if is_well {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = json!({
        "lastUpdated": updated.to_string(),
        "currentTime": Timestamp::now().to_string(),
        "nodeEligible": !status.node.is_leaving,
    });
    (code, nosniff(), Json(body)).into_response()
}

fn nosniff() -> [(HeaderName, &'static str); 1] {
    [(header::X_CONTENT_TYPE_OPTIONS, "nosniff")]
}

async fn healthz(State((statuses, metrics)): State<(Statuses, Metrics)>) -> Response {
    let status = statuses.borrow().clone();
    let answer = probe(&status, status.is_synced && !status.node.is_leaving);
    metrics.count_healthz(answer.status().as_u16());
    answer
}

async fn livez(State((statuses, metrics)): State<(Statuses, Metrics)>) -> Response {
    let answer = probe(&statuses.borrow(), true);
    metrics.count_livez(answer.status().as_u16());
    answer
}

async fn readyz(State((statuses, _)): State<(Statuses, Metrics)>) -> Response {
    let status = statuses.borrow().clone();
    probe(&status, status.is_synced)
}

/// `/livez` and `/readyz` of the proxy: it is ready while it takes connections.
pub(crate) async fn proxy_probes(
    place: &Place,
    statuses: watch::Receiver<IngressStatus>,
    is_listening: watch::Receiver<bool>,
) {
    let ready = move || async move {
        if *is_listening.borrow() {
            return (StatusCode::OK, "ready\n");
        }
        let reason = match statuses.borrow().is_synced {
            true => "it takes no connections\n",
            false => "the source was not listed yet\n",
        };
        (StatusCode::SERVICE_UNAVAILABLE, reason)
    };
    let router = Router::new()
        .route("/livez", get("alive\n"))
        .route("/readyz", get(ready));
    match place {
        Place::Address(address) => serve(*address, router).await,
        Place::Socket(path) => serve_socket(path, router).await,
    }
}

/// `/metrics`, from a function that says what they are.
pub(crate) fn metrics<F>(text: F) -> Router
where
    F: Fn() -> anyhow::Result<String> + Clone + Send + Sync + 'static,
{
    let answer = |State(text): State<F>| async move {
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        // Not on the thread that keeps the maps in step.
        let text = spawn_blocking(text).await;
        match text.map_err(anyhow::Error::from).flatten() {
            Ok(text) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")).into_response(),
        }
    };
    Router::new()
        .route("/metrics", get(answer))
        .with_state(text)
}

/// Serves `spec.healthCheckNodePort` of every service on the addresses of node ports, as services
/// come and go.
pub(crate) async fn node_ports(mut statuses: Statuses, mut nodes: watch::Receiver<Node>) {
    let mut servers: BTreeMap<SocketAddr, (NamespacedName, JoinHandle<()>)> = BTreeMap::new();
    loop {
        let mut wanted = BTreeMap::new();
        for (name, check) in &statuses.borrow_and_update().health_checks {
            for address in &nodes.borrow_and_update().node_port_addresses {
                wanted.insert(SocketAddr::new(*address, check.port), name.clone());
            }
        }
        servers.retain(|address, (name, server)| {
            let stays = wanted.get(address) == Some(name);
            if !stays {
                server.abort();
            }
            stays
        });
        for (address, name) in wanted {
            servers.entry(address).or_insert_with(|| {
                let router = Router::new()
                    .fallback(get(local_endpoints))
                    .with_state((name.clone(), statuses.clone()));
                (name, tokio::spawn(serve(address, router)))
            });
        }
        tokio::select! {
            Ok(()) = statuses.changed() => {}
            Ok(()) = nodes.changed() => {}
            else => return,
        }
    }
}

async fn local_endpoints(State((name, statuses)): State<(NamespacedName, Statuses)>) -> Response {
    let status = statuses.borrow().clone();
    let check = status.health_checks.get(&name);
    let count = check.map_or(0, |check| check.local_endpoints);
    let is_healthy = status.is_synced && !status.node.is_leaving;
    let code = if count > 0 && is_healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");
    let body = json!({
        "service": {"namespace": name.namespace, "name": name.name},
        "localEndpoints": count,
        "serviceProxyHealthy": is_healthy,
    });
    (code, nosniff(), [(WEIGHT, count.to_string())], Json(body)).into_response()
}
