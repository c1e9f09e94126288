//! RoutePolicies (`headgate.io/v1alpha1`): what Headgate does with requests of routes beyond the Gateway API.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// The API group of RoutePolicies.
pub const POLICY_GROUP: &str = "headgate.io";

/// Defines a part of a RoutePolicy. A field that it does not have is an error.
macro_rules! part {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $field:ident: $type:ty,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        pub struct $name {
            $($(#[$doc])* pub $field: $type,)+
        }
    };
}

mod access;
mod authentication;
mod definition;
mod target;
mod upstream;

pub use access::{LimitsPolicy, SourcesPolicy};
pub use authentication::{
    ApiKeyAuth, AuthenticationPolicy, BasicAuth, ExternalAuthPolicy, HmacAuth, IntrospectionAuth,
    JwtAuth, LdapAuth, OidcAuth, PasetoAuth,
};
pub use definition::route_policy_crd;
pub use target::{RoutePolicyTarget, TargetKind};
pub use upstream::{
    AffinityPolicy, CookieAffinity, HealthCheckPolicy, LoadBalancingPolicy, RetryPolicy,
    TimeoutsPolicy,
};

part! {
    /// Settings for requests of routes. Of the settings for a request, each one is from the most specific policy that
    /// has it: for the rule, the route, the listener, the ListenerSet, the Gateway.
    RoutePolicySpec {
        /// Routes that the policy is for, in its namespace.
        #[schemars(length(min = 1, max = 16))]
        target_refs: Vec<RoutePolicyTarget>,
        /// Clients by address; others get 403.
        sources: Option<SourcesPolicy>,
        /// What requests must prove: that of `external`, and one of the others.
        authentication: Option<AuthenticationPolicy>,
        /// Limits of each client address, on each node and for each rule; further requests get 503.
        limits: Option<LimitsPolicy>,
        /// Largest body of a request, such as `8m`; larger ones get 413. `0` for no limit.
        max_body_size: Option<String>,
        /// Pins clients to endpoints.
        affinity: Option<AffinityPolicy>,
        /// How endpoints are chosen.
        load_balancing: Option<LoadBalancingPolicy>,
        /// Health checks of endpoints, by each node.
        health_check: Option<HealthCheckPolicy>,
        /// Timeouts of endpoints, such as `5s`.
        timeouts: Option<TimeoutsPolicy>,
        /// When another endpoint is tried.
        retry: Option<RetryPolicy>,
        /// Path that endpoints get, perhaps with a query; or an address that clients are redirected to. `$1` to `$9`
        /// are groups of the path, which must be of type RegularExpression.
        rewrite_target: Option<String>,
        /// `Strict-Transport-Security` of responses over HTTPS.
        hsts: Option<String>,
        /// Whether responses are compressed for clients that accept it.
        compress: Option<bool>,
    }
}

/// `spec` of a RoutePolicy as it was read. One that cannot be understood is kept, because it closes what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutePolicyDocument {
    /// Targets that can be understood.
    pub targets: Vec<RoutePolicyTarget>,
    /// Settings, or why they cannot be understood.
    pub spec: Result<RoutePolicySpec, String>,
}

impl<'de> Deserialize<'de> for RoutePolicyDocument {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(from)?;
        let targets = value.get("targetRefs").and_then(Value::as_array);
        let targets = targets.into_iter().flatten().filter_map(|target| {
            // Unknown fields do not matter: the target is named.
            let text = |field: &str| Some(target.get(field)?.as_str()?.to_owned());
            Some(RoutePolicyTarget {
                group: text("group")?,
                kind: TargetKind::deserialize(target.get("kind")?).ok()?,
                name: text("name")?,
                section_name: text("sectionName").filter(|name| !name.is_empty()),
            })
        });
        Ok(Self {
            targets: targets.collect(),
            spec: RoutePolicySpec::deserialize(value).map_err(|error| format!("spec: {error}")),
        })
    }
}
