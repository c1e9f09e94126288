//! Which requests are admitted, besides those that prove something.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

part! {
    /// Clients by address.
    SourcesPolicy {
        /// Networks whose clients are admitted; all if not given.
        allow: Option<Vec<String>>,
        /// Networks whose clients are rejected, even if `allow` has them.
        deny: Option<Vec<String>>,
    }
}

part! {
    /// Limits of each client address.
    LimitsPolicy {
        /// Requests per second.
        #[schemars(range(min = 1))]
        requests_per_second: Option<u32>,
        /// Requests per minute.
        #[schemars(range(min = 1))]
        requests_per_minute: Option<u32>,
        /// Requests that may come at once beyond the first, as a multiple of the rate; 5 if not given.
        #[schemars(range(min = 1))]
        burst_multiplier: Option<u32>,
        /// Concurrent requests.
        #[schemars(range(min = 1))]
        connections: Option<u32>,
        /// Networks whose clients are not limited.
        exempt: Option<Vec<String>>,
    }
}
