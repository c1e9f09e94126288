//! `/table` and `/explain` of a proxy: what it serves, and why a request gets what it gets.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::get,
};
use headgate_proxy::{Proxy, Table};

use super::question;
use crate::{http::guard, view::Versioned};

/// Both paths. They change nothing.
pub(crate) fn router(proxy: &Arc<Proxy>, node: &str) -> Router {
    Router::new()
        .route("/table", get(table))
        .route("/explain", get(explain))
        .layer(from_fn_with_state(Arc::from(node), guard))
        .with_state(proxy.clone())
}

async fn table(State(proxy): State<Arc<Proxy>>) -> Json<Versioned<Table>> {
    Json(Versioned::new(proxy.table()))
}

/// Explains the request in the parameters `url`, `method`, `header` (may be repeated) and `client`.
pub(crate) async fn explain(
    State(proxy): State<Arc<Proxy>>,
    Query(words): Query<Vec<(String, String)>>,
) -> Response {
    match question::parse(&words) {
        Ok(question) => Json(Versioned::new(proxy.explain(&question))).into_response(),
        Err(line) => (StatusCode::BAD_REQUEST, format!("{line}\n")).into_response(),
    }
}
