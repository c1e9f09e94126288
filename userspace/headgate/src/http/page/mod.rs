//! Pages for a browser, which read and change nothing. That of an agent has what `top` shows, and
//! `explain`.

mod samples;

use std::{
    collections::HashMap,
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

use self::samples::Looks;
use crate::{
    cli::output::in_one_line,
    explain::{self, Explanation, Mistake, Question},
    http::{guard, health},
    view::flow::Protocol,
};

struct Page {
    pins: PathBuf,
    looks: Looks,
    /// Held while a packet is explained, for that loads programs: one at a time is plenty.
    explaining: Mutex<()>,
}

/// Serves the page until it is dropped.
pub(crate) async fn serve(address: SocketAddr, pins: &Path, node: &str) {
    warn_off_loopback(address, "the Services and their traffic");
    health::serve(address, router(pins, node)).await;
}

pub(crate) fn warn_off_loopback(address: SocketAddr, what: &str) {
    if !address.ip().is_loopback() {
        warn!(
            "the page on {address} is not on loopback, and asks nobody who they are: whoever \
             reaches it sees {what}"
        );
    }
}

fn router(pins: &Path, node: &str) -> Router {
    let page = Page {
        pins: pins.into(),
        looks: Looks::new(pins),
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

/// What both pages are made of.
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
struct Wanted {
    /// Only services and backends that contain this.
    #[serde(default)]
    filter: String,
}

async fn sample(State(page): State<Arc<Page>>, Query(wanted): Query<Wanted>) -> Response {
    answer(move || page.looks.rows(&wanted.filter)).await
}

async fn explain_packet(
    State(page): State<Arc<Page>>,
    Query(words): Query<HashMap<String, String>>,
) -> Response {
    match question(&words) {
        Ok(question) => answer(move || page.explain(&question)).await,
        Err(line) => (StatusCode::BAD_REQUEST, line).into_response(),
    }
}

impl Page {
    fn explain(&self, question: &Question) -> Result<Explanation> {
        let _one = self
            .explaining
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        explain::run(&self.pins, question)
    }
}

/// The question that the parameters put, or a line that names what is wrong with one.
fn question(words: &HashMap<String, String>) -> Result<Question, String> {
    const SOCKET: &str = "ADDRESS:PORT, for example 192.0.2.7:4000 or [2001:db8::7]:4000";
    let device = words.get("dev").filter(|name| !name.is_empty());
    Ok(Question {
        source: part(words, "source", SOCKET, |text| text.parse().ok())?,
        protocol: part(words, "protocol", "tcp or udp", |text| {
            Protocol::from_str(text, true).ok()
        })?,
        destination: part(words, "destination", SOCKET, |text| text.parse().ok())?,
        device: device.cloned(),
    })
}

fn part<T>(
    words: &HashMap<String, String>,
    name: &str,
    form: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, String> {
    match words.get(name).map(|text| text.trim()) {
        None | Some("") => Err(format!("{name} is missing: write {form}")),
        Some(text) => parse(text).ok_or_else(|| format!("{name} {text:?} is not {form}")),
    }
}

/// What `read` finds, as JSON. It may take a while, so not on the thread that keeps the maps in step.
async fn answer<T: Serialize + Send + 'static>(
    read: impl FnOnce() -> Result<T> + Send + 'static,
) -> Response {
    let result = spawn_blocking(read).await;
    match result.map_err(anyhow::Error::from).flatten() {
        Ok(value) => Json(value).into_response(),
        Err(error) => {
            let line = in_one_line(&error);
            match error.downcast_ref::<Mistake>() {
                Some(mistake) => (
                    StatusCode::BAD_REQUEST,
                    format!("{}: {line}", mistake.about),
                )
                    .into_response(),
                None => (StatusCode::INTERNAL_SERVER_ERROR, line).into_response(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::question;

    #[test]
    fn what_is_wrong_with_a_question_is_named() {
        let ask = |source: &str, protocol: &str, destination: &str| {
            let words = [
                ("source", source),
                ("protocol", protocol),
                ("destination", destination),
            ];
            let words = words.map(|(name, text)| (name.to_owned(), text.to_owned()));
            question(&HashMap::from(words)).map(|question| question.source.port())
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
