//! Pages for browsers. They change nothing. The page of an agent has what `top` shows, and `explain`.

mod samples;

use std::{
    collections::HashMap,
    future::pending,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use axum::{
    Json, Router,
    extract::{Query, State},
    http::{StatusCode, header},
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tracing::warn;

use self::samples::Snapshots;
use crate::{
    explain::{self, Explanation, PacketQuery, QueryError},
    http::{guard, serve},
    view::{Versioned, flow::Protocol, in_one_line},
};

struct Page {
    pins: PathBuf,
    snapshots: Snapshots,
    /// Held while a packet is explained: that loads programs, and one at a time is enough.
    explaining: Mutex<()>,
}

/// Serves the page until it is dropped, or nothing without an address.
pub(crate) async fn serve_if(address: Option<SocketAddr>, pins: &Path, node: &str) {
    let Some(address) = address else {
        return pending().await;
    };
    warn_off_loopback(address, "the Services and their traffic");
    serve(address, router(pins, node)).await;
}

pub(crate) fn warn_off_loopback(address: SocketAddr, what: &str) {
    if !address.ip().is_loopback() {
        warn!(
            %address,
            shows = what,
            "the page is not on loopback and has no authentication"
        );
    }
}

fn router(pins: &Path, node: &str) -> Router {
    let page = Page {
        pins: pins.into(),
        snapshots: Snapshots::new(pins),
        explaining: Mutex::default(),
    };
    Router::new()
        .route(
            "/",
            file("text/html", include_str!("../../../assets/index.html")),
        )
        .merge(shared())
        .route(
            "/page.js",
            file("text/javascript", include_str!("../../../assets/page.js")),
        )
        .route("/api/sample", get(sample))
        .route("/api/explain", get(explain_packet))
        .layer(from_fn_with_state(Arc::from(node), guard))
        .with_state(Arc::new(page))
}

/// Files of both pages.
pub(crate) fn shared<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route(
            "/page.css",
            file("text/css", include_str!("../../../assets/page.css")),
        )
        .route(
            "/shared.js",
            file("text/javascript", include_str!("../../../assets/shared.js")),
        )
}

pub(crate) fn file<S: Clone + Send + Sync + 'static>(
    kind: &'static str,
    text: &'static str,
) -> MethodRouter<S> {
    let kind = format!("{kind}; charset=utf-8");
    get(move || async move { ([(header::CONTENT_TYPE, kind)], text) })
}

#[derive(Deserialize)]
struct SampleQuery {
    /// Only services and backends that contain this.
    #[serde(default)]
    filter: String,
}

async fn sample(State(page): State<Arc<Page>>, Query(query): Query<SampleQuery>) -> Response {
    answer(move || page.snapshots.rows(&query.filter)).await
}

async fn explain_packet(
    State(page): State<Arc<Page>>,
    Query(parameters): Query<HashMap<String, String>>,
) -> Response {
    match packet_query(&parameters) {
        Ok(query) => answer(move || page.explain(&query)).await,
        Err(line) => (StatusCode::BAD_REQUEST, line).into_response(),
    }
}

impl Page {
    fn explain(&self, query: &PacketQuery) -> Result<Explanation> {
        let _one = self
            .explaining
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        explain::run(&self.pins, query)
    }
}

/// Parses the parameters, or returns a line that names the wrong one.
fn packet_query(parameters: &HashMap<String, String>) -> Result<PacketQuery, String> {
    const SOCKET: &str = "ADDRESS:PORT, for example 192.0.2.7:4000 or [2001:db8::7]:4000";
    let device = parameters.get("dev").filter(|name| !name.is_empty());
    Ok(PacketQuery {
        source: parameter(parameters, "source", SOCKET, |text| text.parse().ok())?,
        protocol: parameter(parameters, "protocol", "tcp or udp", |text| {
            Protocol::from_str(text, true).ok()
        })?,
        destination: parameter(parameters, "destination", SOCKET, |text| text.parse().ok())?,
        device: device.cloned(),
    })
}

fn parameter<T>(
    parameters: &HashMap<String, String>,
    name: &str,
    form: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, String> {
    match parameters.get(name).map(|text| text.trim()) {
        None | Some("") => Err(format!("{name} is missing: write {form}")),
        Some(text) => parse(text).ok_or_else(|| format!("{name} {text:?} is not {form}")),
    }
}

/// Returns what `read` returns as JSON. Reading takes a while, and the agent's one thread writes the
/// maps.
async fn answer<T: Serialize + Send + 'static>(
    read: impl FnOnce() -> Result<T> + Send + 'static,
) -> Response {
    let result = spawn_blocking(read).await;
    match result.map_err(anyhow::Error::from).flatten() {
        Ok(value) => Json(Versioned::new(value)).into_response(),
        Err(error) => {
            let line = in_one_line(&error);
            match error.downcast_ref::<QueryError>() {
                Some(wrong) => {
                    (StatusCode::BAD_REQUEST, format!("{}: {line}", wrong.about)).into_response()
                }
                None => (StatusCode::INTERNAL_SERVER_ERROR, line).into_response(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::packet_query;

    #[test]
    fn errors_name_the_wrong_parameter() {
        let ask = |source: &str, protocol: &str, destination: &str| {
            let words = [
                ("source", source),
                ("protocol", protocol),
                ("destination", destination),
            ];
            let words = words.map(|(name, text)| (name.to_owned(), text.to_owned()));
            packet_query(&HashMap::from(words)).map(|query| query.source.port())
        };
        assert_eq!(ask("192.0.2.7:4000", "TCP", " [::1]:80 "), Ok(4000));
        for (result, complaint) in [
            (ask("", "tcp", "[::1]:80"), "source is missing: write ADDR"),
            (
                ask("192.0.2.7", "tcp", "[::1]:80"),
                "source \"192.0.2.7\" is not ADDRESS:PORT",
            ),
            (
                ask("192.0.2.7:1", "sctp", "[::1]:80"),
                "protocol \"sctp\" is not tcp or udp",
            ),
            (ask("192.0.2.7:1", "udp", "web"), "destination \"web\""),
        ] {
            let line = result.unwrap_err();
            assert!(line.starts_with(complaint), "{line}");
        }
    }
}
