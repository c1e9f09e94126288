//! Filters of rules and backends.

use serde::Deserialize;

use super::{BackendRef, LocalRef, shared::open_enum};

/// A filter. One of the fields beside the type is set, the one that the type names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Filter {
    /// Its type.
    #[serde(rename = "type")]
    pub type_: FilterType,
    /// Changes to headers of requests.
    pub request_header_modifier: Option<HeaderModifier>,
    /// Changes to headers of responses.
    pub response_header_modifier: Option<HeaderModifier>,
    /// A backend that gets copies.
    pub request_mirror: Option<RequestMirror>,
    /// A redirect.
    pub request_redirect: Option<RequestRedirect>,
    /// Another path or host for the backend.
    pub url_rewrite: Option<UrlRewrite>,
    /// Cross-origin rules.
    pub cors: Option<CorsFilter>,
    /// A service that admits requests (experimental channel).
    pub external_auth: Option<ExternalAuth>,
    /// A filter of a single implementation.
    pub extension_ref: Option<LocalRef>,
}

open_enum! {
    /// A type of filter.
    FilterType {
        /// Changes headers of requests.
        RequestHeaderModifier = "RequestHeaderModifier",
        /// Changes headers of responses.
        ResponseHeaderModifier = "ResponseHeaderModifier",
        /// Sends copies to another backend.
        RequestMirror = "RequestMirror",
        /// Redirects clients.
        RequestRedirect = "RequestRedirect",
        /// Changes path or host.
        UrlRewrite = "URLRewrite",
        /// Cross-origin rules.
        Cors = "CORS",
        /// Asks a service whether a request is admitted.
        ExternalAuth = "ExternalAuth",
        /// A filter of a single implementation.
        ExtensionRef = "ExtensionRef",
    }
}

/// Changes to headers: first `set`, then `add`, then `remove`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HeaderModifier {
    /// Headers that are replaced.
    pub set: Vec<HeaderValue>,
    /// Headers that are appended.
    pub add: Vec<HeaderValue>,
    /// Headers that are removed.
    pub remove: Vec<String>,
}

/// A header.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HeaderValue {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
}

/// A backend that gets copies of requests.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestMirror {
    /// The backend.
    pub backend_ref: BackendRef,
    /// Percentage of requests, 0 to 100.
    pub percent: Option<i32>,
    /// Share of requests.
    pub fraction: Option<Fraction>,
}

/// A share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Fraction {
    /// Part.
    pub numerator: i32,
    /// Whole.
    #[serde(default = "hundred")]
    pub denominator: i32,
}

fn hundred() -> i32 {
    100
}

/// A redirect. What is not given is taken from the request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestRedirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Host.
    pub hostname: Option<String>,
    /// Path.
    pub path: Option<PathModifier>,
    /// Port.
    pub port: Option<i32>,
    /// Status code; 302 if not given.
    pub status_code: Option<i32>,
}

/// Another path or host for the backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct UrlRewrite {
    /// Host.
    pub hostname: Option<String>,
    /// Path.
    pub path: Option<PathModifier>,
}

/// Another path.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathModifier {
    /// What is replaced.
    #[serde(rename = "type")]
    pub type_: PathModifierType,
    /// The new path.
    pub replace_full_path: Option<String>,
    /// What replaces the elements that matched.
    pub replace_prefix_match: Option<String>,
}

open_enum! {
    /// What of a path is replaced.
    PathModifierType {
        /// The whole path.
        ReplaceFullPath = "ReplaceFullPath",
        /// The elements that a prefix matched.
        ReplacePrefixMatch = "ReplacePrefixMatch",
    }
}

/// Cross-origin rules.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CorsFilter {
    /// Origins that may read responses.
    pub allow_origins: Vec<String>,
    /// Whether credentials may be sent.
    pub allow_credentials: Option<bool>,
    /// Methods.
    pub allow_methods: Vec<String>,
    /// Headers of requests.
    pub allow_headers: Vec<String>,
    /// Headers of responses.
    pub expose_headers: Vec<String>,
    /// Seconds that clients may remember the answer.
    pub max_age: i32,
}

impl Default for CorsFilter {
    fn default() -> Self {
        Self {
            allow_origins: Vec::new(),
            allow_credentials: None,
            allow_methods: Vec::new(),
            allow_headers: Vec::new(),
            expose_headers: Vec::new(),
            max_age: 5,
        }
    }
}

/// A service that admits requests (experimental channel).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalAuth {
    /// `HTTP` or `GRPC`.
    pub protocol: String,
    /// The service.
    pub backend_ref: BackendRef,
    /// About gRPC.
    pub grpc: Option<AuthHeaders>,
    /// About HTTP.
    pub http: Option<AuthHeaders>,
    /// Whether bodies are sent.
    pub forward_body: Option<ForwardBody>,
}

/// What is sent to a service that admits requests, and taken from its response.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthHeaders {
    /// Path of requests to it.
    pub path: Option<String>,
    /// Headers that are sent.
    pub allowed_headers: Vec<String>,
    /// Headers that are taken from its response.
    pub allowed_response_headers: Vec<String>,
}

/// Whether bodies are sent to a service that admits requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ForwardBody {
    /// Largest body in bytes.
    pub max_size: Option<i64>,
}
