//! The page of a proxy: routes, backends, rates, and why a request gets what it gets.

use std::{future::pending, net::SocketAddr, sync::Arc};

use axum::{Json, Router, extract::State, middleware::from_fn_with_state, routing::get};
use headgate_control::IngressStatus;
use headgate_proxy::{Proxy, Table};
use serde::Serialize;
use tokio::sync::watch;

use super::inspect;
use crate::{
    http::{
        guard,
        page::{file, shared, warn_off_loopback},
        serve,
    },
    view::Versioned,
};

#[derive(Clone)]
struct Page {
    proxy: Arc<Proxy>,
    statuses: watch::Receiver<IngressStatus>,
    node: Arc<str>,
}

/// What the page shows.
#[derive(Serialize)]
struct ProxySample {
    node: String,
    is_synced: bool,
    disconnected: Option<String>,
    refusals: Vec<Refused>,
    #[serde(flatten)]
    table: Table,
}

#[derive(Serialize)]
struct Refused {
    object: String,
    reason: String,
}

/// Serves the page until it is dropped, or nothing without an address.
pub(super) async fn serve_if(
    address: Option<SocketAddr>,
    proxy: Arc<Proxy>,
    statuses: watch::Receiver<IngressStatus>,
    node: &str,
) {
    let Some(address) = address else {
        return pending().await;
    };
    warn_off_loopback(address, "the routes of all Ingresses");
    let page = Page {
        proxy: proxy.clone(),
        statuses,
        node: node.into(),
    };
    let explain = Router::new()
        .route("/api/explain", get(inspect::explain))
        .with_state(proxy);
    let router = Router::new()
        .route(
            "/",
            file("text/html", include_str!("../../assets/proxy.html")),
        )
        .route(
            "/proxy.js",
            file("text/javascript", include_str!("../../assets/proxy.js")),
        )
        .route("/api/table", get(table))
        .merge(shared())
        .with_state(page.clone())
        .merge(explain)
        .layer(from_fn_with_state(page.node, guard));
    serve(address, router).await;
}

async fn table(State(page): State<Page>) -> Json<Versioned<ProxySample>> {
    let status = page.statuses.borrow().clone();
    let refusals = status.refusals.iter().map(|refusal| Refused {
        object: match refusal.field.as_str() {
            "" => refusal.object.to_string(),
            field => format!("{}, {field}", refusal.object),
        },
        reason: refusal.reason.clone(),
    });
    Json(Versioned::new(ProxySample {
        node: page.node.to_string(),
        is_synced: status.is_synced,
        disconnected: status.source.disconnected,
        refusals: refusals.collect(),
        table: page.proxy.table(),
    }))
}
