//! A request with its route.

use std::{borrow::Cow, sync::Arc};

use http::{Uri, uri::PathAndQuery};
use tokio::time::Instant;
use tracing::{Span, field::display};

use crate::{
    origin::Origin,
    serving::ServedRoute,
    trace::{Routed, Trace},
};

pub(crate) const TOO_LARGE: &str = "the request body is too large";

/// A request whose route is known.
pub(crate) struct Call {
    pub(crate) route: Arc<ServedRoute>,
    pub(crate) origin: Origin,
    pub(crate) host: String,
    /// In its decoded form.
    pub(crate) path: String,
    /// The path that the backend gets instead of the client's spelling.
    pub(crate) spelling: Option<String>,
    pub(crate) trace: Option<Trace>,
    /// When the request arrived.
    pub(crate) begin: Instant,
}

impl Call {
    /// Adds host and route to the span of the request.
    pub(crate) fn record(&self, span: &Span) {
        if !span.is_disabled() {
            span.record("host", &*self.host);
            span.record("route", display(&self.route.model().origin));
        }
    }

    /// Path and query that the backend gets unless the route rewrites them.
    pub(crate) fn target<'a>(&self, uri: &'a Uri) -> Cow<'a, str> {
        match &self.spelling {
            Some(path) => with_query(path, uri.query()).into(),
            None => uri
                .path_and_query()
                .map_or("/", PathAndQuery::as_str)
                .into(),
        }
    }

    /// What a trace records of it.
    pub(crate) fn routed(&self) -> Routed<'_> {
        Routed {
            route: self.route.model(),
            host: &self.host,
            client: self.origin.client,
        }
    }
}

/// Joins a path and a query.
pub(crate) fn with_query(path: &str, query: Option<&str>) -> String {
    match query {
        Some(query) => format!("{path}?{query}"),
        None => path.into(),
    }
}
