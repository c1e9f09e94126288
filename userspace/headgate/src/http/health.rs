//! Health checks and metrics over HTTP, with kube-proxy's contract.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Instant, SystemTime},
};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use headgate_control::Status;
use headgate_model::{NamespacedName, Node};
use jiff::Timestamp;
use serde_json::json;
use tokio::{
    sync::watch,
    task::{JoinHandle, spawn_blocking},
};

use super::{metrics::Metrics, serve};

type Statuses = watch::Receiver<Status>;

/// `/healthz`, `/livez` and `/readyz`.
///
/// `/healthz` is for load balancers: it is 503 also while the node is being removed (KEP-3836).
/// It is 503 as well while the maps could not be written for 10 s. `/livez` is 503 if the loop that
/// programs the maps has not run for a minute, and 200 otherwise: if the API cannot be reached or the
/// maps cannot be written, a restart of the agent does not help.
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
    let is_well = status.is_followed(Instant::now()) && !status.node.is_leaving;
    let answer = probe(&status, is_well);
    metrics.count_healthz(answer.status().as_u16());
    answer
}

async fn livez(State((statuses, metrics)): State<(Statuses, Metrics)>) -> Response {
    let status = statuses.borrow().clone();
    let answer = probe(&status, status.is_alive(Instant::now()));
    metrics.count_livez(answer.status().as_u16());
    answer
}

async fn readyz(State((statuses, _)): State<(Statuses, Metrics)>) -> Response {
    let status = statuses.borrow().clone();
    probe(&status, status.is_synced)
}

/// `/proxyMode`: the mode's name, as clients of kube-proxy ask for it beside its metrics. Tests of Kubernetes
/// compare it with `ipvs` and `iptables`, whose peculiarities we have not.
pub(crate) fn proxy_mode() -> Router {
    Router::new().route("/proxyMode", get(|| async { (nosniff(), "ebpf") }))
}

/// `/metrics`, with the text that a function returns.
pub(crate) fn metrics<F>(text: F) -> Router
where
    F: Fn() -> anyhow::Result<String> + Clone + Send + Sync + 'static,
{
    let answer = |State(text): State<F>| async move {
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        // Reading takes a while, and the agent's one thread writes the maps.
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

/// Serves `spec.healthCheckNodePort` of every Service on the addresses that serve NodePorts, and
/// follows both as they change.
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
    let is_healthy = status.is_followed(Instant::now()) && !status.node.is_leaving;
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use headgate_control::Status;
    use headgate_model::{HealthCheck, NamespacedName, Node};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        sync::watch,
        time::sleep,
    };

    use super::node_ports;

    async fn ask(port: u16) -> String {
        let mut stream = loop {
            match TcpStream::connect(("127.0.0.1", port)).await {
                Ok(stream) => break stream,
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        };
        let request = b"GET / HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    /// Load balancers ask over HTTP: endpoints do not help while changes do not reach the maps.
    #[tokio::test]
    async fn s147_a_health_check_node_port_answers_503_while_nothing_can_be_written() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let check = HealthCheck {
            port,
            local_endpoints: 1,
        };
        let mut status = Status {
            is_synced: true,
            health_checks: [(NamespacedName::new("shop", "web"), check)].into(),
            ..Status::default()
        };
        let node = Node {
            name: "n1".into(),
            zone: None,
            addresses: Vec::new(),
            own_addresses: Vec::new(),
            networks: Vec::new(),
            node_port_addresses: vec!["127.0.0.1".parse().unwrap()],
            serves_external_ips: false,
        };
        let (statuses, receiver) = watch::channel(status.clone());
        let (_nodes, nodes) = watch::channel(node);
        tokio::spawn(node_ports(receiver, nodes));
        for (seconds, code, is_healthy) in [
            (None, "200", true),
            (Some(9), "200", true),
            (Some(11), "503", false),
            (None, "200", true),
        ] {
            let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds));
            status.unwritten_since = seconds.and_then(ago);
            statuses.send_replace(status.clone());
            let text = ask(port).await;
            assert_eq!(text.get(9..12), Some(code), "{seconds:?}: {text}");
            let said = format!("\"serviceProxyHealthy\":{is_healthy}");
            assert!(text.contains(&said), "{text}");
        }
    }
}
