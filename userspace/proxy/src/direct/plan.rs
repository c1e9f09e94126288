//! Which routes have direct requests.

use std::sync::Arc;

use headgate_model::edge::{Policy, Route};
use http::HeaderValue;

use crate::{
    choice,
    serving::{ServedRoute, ServedTarget},
    upstream::Upstream,
};

/// What direct requests of a route need. Made once, with the route.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(super) upstream: Arc<Upstream>,
    /// Whether requests without TLS are redirected.
    pub(super) needs_tls: bool,
    hsts: String,
}

impl Plan {
    /// `None` if a step of the route needs more than the head of a request, or changes it in a way of its own.
    pub(crate) fn of(served: &ServedRoute) -> Option<Self> {
        let route: &Route = served.as_ref();
        // All fields are named, so that a new one is thought of here.
        let Policy {
            closed,
            // Read with each request.
            sources: _,
            auth,
            // Bodies have no direct requests; rates and concurrency have a limiter.
            limits: _,
            to_https,
            redirect,
            app_root,
            cors,
            rewrite,
            path,
            host,
            forwarded_prefix,
            request_headers,
            response_headers,
            hsts,
            compress,
            // Read where they matter.
            access_log: _,
            traces: _,
            trusts_traces: _,
            // For operators.
            parts: _,
            timeouts,
            retry,
            mirrors,
            error_pages,
        } = served.policy();
        let authenticator = served.authenticator.as_ref();
        let is_basic = authenticator.is_some_and(|authenticator| authenticator.is_basic());
        let has_guard =
            closed.is_some() || !is_basic && (!auth.is_empty() || authenticator.is_some());
        let is_answered = redirect.is_some()
            || app_root.is_some()
            || cors.is_some()
            || error_pages.is_some()
            || *compress;
        let is_changed = path.is_some()
            || rewrite.is_some()
            || route.rewrite().is_some()
            || host.is_some()
            || forwarded_prefix.is_some()
            || !request_headers.is_empty()
            || !response_headers.is_empty();
        let is_sent_twice = !mirrors.is_empty()
            || !retry.on_codes.is_empty()
            || timeouts.total.is_some()
            || timeouts.per_try.is_some();
        let is_rare = has_guard || is_answered || is_changed || is_sent_twice;
        if is_rare || served.canary.is_some() || !route.conditions.is_empty() {
            return None;
        }
        let mut targets = choice::weighted(served);
        let (target, others) = (targets.next()?, targets.next());
        let is_plain = target.weighted.is_some_and(|weighted| {
            weighted.request_headers.is_empty() && weighted.response_headers.is_empty()
        });
        let is_valid = HeaderValue::try_from(hsts).is_ok();
        match target.target {
            ServedTarget::Upstream(upstream)
                if others.is_none() && is_plain && is_valid && upstream.takes_bytes() =>
            {
                Some(Self {
                    upstream: upstream.clone(),
                    needs_tls: *to_https,
                    hsts: hsts.clone(),
                })
            }
            _ => None,
        }
    }

    /// `Strict-Transport-Security` of responses; empty for none.
    pub(super) fn hsts(&self, is_secure: bool) -> &str {
        match is_secure {
            true => &self.hsts,
            false => "",
        }
    }
}
