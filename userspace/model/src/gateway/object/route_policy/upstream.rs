//! How endpoints are chosen, and how long they are waited for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

part! {
    /// Pins clients to endpoints.
    AffinityPolicy {
        /// A cookie that names the endpoint.
        cookie: CookieAffinity,
    }
}

part! {
    /// A cookie that names an endpoint.
    CookieAffinity {
        /// Name; `INGRESSCOOKIE` if not given.
        name: Option<String>,
        /// Path; that of the match if not given.
        path: Option<String>,
        /// Domain.
        domain: Option<String>,
        /// Lifetime in seconds; until the browser is closed if not given.
        max_age_seconds: Option<u32>,
        /// `SameSite`.
        #[schemars(extend("enum" = ["Strict", "Lax", "None"]))]
        same_site: Option<String>,
        /// Whether it is sent over HTTPS only.
        secure: Option<bool>,
    }
}

part! {
    /// How endpoints are chosen.
    LoadBalancingPolicy {
        /// `round_robin`, `least_conn`, `random`, `ewma` or `ip_hash`.
        #[schemars(extend("enum" = ["round_robin", "least_conn", "random", "ewma", "ip_hash"]))]
        algorithm: Option<String>,
        /// Requests with the same values go to the same endpoint: variables such as `$remote_addr`.
        hash_by: Option<String>,
    }
}

part! {
    /// Health checks.
    HealthCheckPolicy {
        /// Path; a status below 400 is healthy.
        path: String,
        /// Interval; `10s` if not given.
        interval: Option<String>,
        /// Timeout; `2s` if not given.
        timeout: Option<String>,
    }
}

part! {
    /// Timeouts of endpoints.
    TimeoutsPolicy {
        /// For a connection.
        connect: Option<String>,
        /// Between two reads.
        read: Option<String>,
        /// Between two writes.
        send: Option<String>,
    }
}

part! {
    /// When another endpoint is tried.
    RetryPolicy {
        /// `error`, `timeout`, `http_502` and other codes, `non_idempotent`, or `off`.
        when: Vec<String>,
        /// Total number of endpoints that are tried; 3 if not given.
        #[schemars(range(min = 1))]
        tries: Option<u32>,
    }
}
