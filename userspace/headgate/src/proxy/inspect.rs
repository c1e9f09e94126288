//! What a proxy serves and why: its answers, and those who ask for them.

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
use crate::http::guard;

/// `/table` and `/explain`, which change nothing.
pub(crate) fn router(proxy: &Arc<Proxy>, node: &str) -> Router {
    Router::new()
        .route("/table", get(table))
        .route("/explain", get(explain))
        .layer(from_fn_with_state(Arc::from(node), guard))
        .with_state(proxy.clone())
}

async fn table(State(proxy): State<Arc<Proxy>>) -> Json<Table> {
    Json(proxy.table())
}

/// A question in the parameters `url`, `method`, `header`, of which there may be several, and
/// `client`.
pub(crate) async fn explain(
    State(proxy): State<Arc<Proxy>>,
    Query(words): Query<Vec<(String, String)>>,
) -> Response {
    match question::parse(&words) {
        Ok(question) => Json(proxy.explain(&question)).into_response(),
        Err(line) => (StatusCode::BAD_REQUEST, format!("{line}\n")).into_response(),
    }
}
