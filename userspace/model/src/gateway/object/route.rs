//! Routes.

use serde::{Deserialize, Serialize};

use super::{BackendRef, Condition, Filter, ParentRef, shared::open_enum};

/// `spec` of an HTTPRoute.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteSpec {
    /// Parents.
    #[serde(default)]
    pub parent_refs: Vec<ParentRef>,
    /// Whether Gateways may take it without being named (experimental channel).
    pub use_default_gateways: Option<String>,
    /// Host names; those of the listener if empty.
    #[serde(default)]
    pub hostnames: Vec<String>,
    /// Rules. The API server adds one for all requests if they are not given.
    #[serde(default = "one_rule")]
    pub rules: Vec<HttpRule>,
}

fn one_rule() -> Vec<HttpRule> {
    vec![HttpRule::default()]
}

/// A rule of an HTTPRoute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRule {
    /// Its name.
    pub name: Option<String>,
    /// Alternatives; every request if empty.
    pub matches: Vec<HttpMatch>,
    /// Filters.
    pub filters: Vec<Filter>,
    /// Backends.
    pub backend_refs: Vec<BackendRef>,
    /// Timeouts.
    pub timeouts: Option<RouteTimeouts>,
    /// Retries.
    pub retry: Option<RuleRetry>,
    /// Sessions (experimental channel).
    pub session_persistence: Option<SessionPersistence>,
}

/// Conditions for requests; all must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpMatch {
    /// On the path.
    pub path: Option<PathMatchSpec>,
    /// On headers.
    pub headers: Vec<NamedMatch>,
    /// On query parameters.
    pub query_params: Vec<NamedMatch>,
    /// On the method.
    pub method: Option<String>,
}

/// A condition on the path.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PathMatchSpec {
    /// How it is compared.
    #[serde(rename = "type")]
    pub type_: PathMatchType,
    /// What it is compared with.
    pub value: String,
}

impl Default for PathMatchSpec {
    fn default() -> Self {
        Self {
            type_: PathMatchType::PathPrefix,
            value: "/".into(),
        }
    }
}

open_enum! {
    /// How a path is compared.
    PathMatchType {
        /// The whole path.
        Exact = "Exact",
        /// Its first elements.
        PathPrefix = "PathPrefix",
        /// By a regular expression.
        RegularExpression = "RegularExpression",
    }
}

/// A condition on a header or a query parameter.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct NamedMatch {
    /// How the value is compared.
    #[serde(rename = "type", default = "exact")]
    pub type_: MatchType,
    /// Name.
    pub name: String,
    /// What the value is compared with.
    pub value: String,
}

fn exact() -> MatchType {
    MatchType::Exact
}

open_enum! {
    /// How a value is compared.
    MatchType {
        /// The whole value.
        Exact = "Exact",
        /// By a regular expression.
        RegularExpression = "RegularExpression",
    }
}

/// Timeouts of a rule, as in `1m30s`; `0s` for none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteTimeouts {
    /// From the request to the end of the response.
    pub request: Option<String>,
    /// Of each request to a backend.
    pub backend_request: Option<String>,
}

/// Retries of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RuleRetry {
    /// Status codes after which the request is sent again.
    pub codes: Vec<i32>,
    /// How often it is sent again.
    pub attempts: Option<i64>,
    /// Least time between two requests.
    pub backoff: Option<String>,
}

/// Sessions of a rule (experimental channel).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionPersistence {
    /// Name of the session.
    pub session_name: Option<String>,
    /// `Cookie` or `Header`.
    #[serde(rename = "type")]
    pub type_: Option<String>,
    /// Longest duration.
    pub absolute_timeout: Option<String>,
    /// Longest time without a request.
    pub idle_timeout: Option<String>,
    /// About the cookie.
    pub cookie_config: Option<CookieConfig>,
}

/// About the cookie of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CookieConfig {
    /// `Permanent` or `Session`.
    pub lifetime_type: Option<String>,
}

/// `spec` of a GRPCRoute.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrpcRouteSpec {
    /// Parents.
    #[serde(default)]
    pub parent_refs: Vec<ParentRef>,
    /// Whether Gateways may take it without being named (experimental channel).
    pub use_default_gateways: Option<String>,
    /// Host names; those of the listener if empty.
    #[serde(default)]
    pub hostnames: Vec<String>,
    /// Rules.
    #[serde(default)]
    pub rules: Vec<GrpcRule>,
}

/// A rule of a GRPCRoute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcRule {
    /// Its name.
    pub name: Option<String>,
    /// Alternatives; every request if empty.
    pub matches: Vec<GrpcMatch>,
    /// Filters.
    pub filters: Vec<Filter>,
    /// Backends.
    pub backend_refs: Vec<BackendRef>,
    /// Sessions (experimental channel).
    pub session_persistence: Option<SessionPersistence>,
}

/// Conditions for calls; all must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct GrpcMatch {
    /// On service and method.
    pub method: Option<GrpcMethodMatch>,
    /// On headers.
    pub headers: Vec<NamedMatch>,
}

/// A condition on service and method.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GrpcMethodMatch {
    /// How both are compared.
    #[serde(rename = "type", default = "exact")]
    pub type_: MatchType,
    /// The service; all if not given.
    pub service: Option<String>,
    /// The method; all if not given.
    pub method: Option<String>,
}

/// `spec` of a TLSRoute.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsRouteSpec {
    /// Parents.
    #[serde(default)]
    pub parent_refs: Vec<ParentRef>,
    /// Whether Gateways may take it without being named (experimental channel).
    pub use_default_gateways: Option<String>,
    /// Host names; those of the listener if empty.
    #[serde(default)]
    pub hostnames: Vec<String>,
    /// Rules.
    pub rules: Vec<L4Rule>,
}

/// `spec` of a TCPRoute or a UDPRoute.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct L4RouteSpec {
    /// Parents.
    #[serde(default)]
    pub parent_refs: Vec<ParentRef>,
    /// Whether Gateways may take it without being named (experimental channel).
    pub use_default_gateways: Option<String>,
    /// Rules.
    pub rules: Vec<L4Rule>,
}

/// A rule for connections or flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct L4Rule {
    /// Its name.
    pub name: Option<String>,
    /// Backends.
    pub backend_refs: Vec<BackendRef>,
}

/// `status` of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct RouteStatus {
    /// By parent.
    pub parents: Vec<ParentStatus>,
}

/// A route at a parent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentStatus {
    /// The parent, as `spec` has it.
    pub parent_ref: ParentRef,
    /// The controller that wrote the entry.
    pub controller_name: String,
    /// Conditions.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}
