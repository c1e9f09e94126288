//! `/livez` and `/readyz` of the proxy.

use axum::{Router, http::StatusCode, routing::get};
use headgate_control::IngressStatus;
use tokio::sync::watch;

use crate::http::{ListenAddress, serve, serve_socket};

/// Serves both probes. The proxy is ready while it accepts connections.
pub(super) async fn serve_probes(
    address: &ListenAddress,
    statuses: watch::Receiver<IngressStatus>,
    is_listening: watch::Receiver<bool>,
) {
    let ready = move || async move {
        if *is_listening.borrow() {
            return (StatusCode::OK, "ready\n");
        }
        let reason = match statuses.borrow().is_synced {
            true => "the proxy does not accept connections\n",
            false => "the source is not completely listed yet\n",
        };
        (StatusCode::SERVICE_UNAVAILABLE, reason)
    };
    let router = Router::new()
        .route("/livez", get("alive\n"))
        .route("/readyz", get(ready));
    match address {
        ListenAddress::Tcp(address) => serve(*address, router).await,
        ListenAddress::Unix(path) => serve_socket(path, router).await,
    }
}
