//! The objects of the Gateway API (`gateway.networking.k8s.io`), version 1.6, standard and experimental
//! channel. Values that this version does not know are kept as text, so that they can be reported.

mod change;
mod filter;
mod gateway;
mod policy;
mod route;
mod route_policy;
mod shared;

use std::{collections::BTreeMap, sync::Arc};

pub use change::{Change, Difference};
pub use filter::{
    AuthHeaders, CorsFilter, ExternalAuth, Filter, FilterType, ForwardBody, Fraction,
    HeaderModifier, HeaderValue, PathModifier, PathModifierType, RequestMirror, RequestRedirect,
    UrlRewrite,
};
pub use gateway::{
    AddressType, AllowedListeners, AllowedRoutes, BackendTls, FromNamespaces, FrontendTls,
    FrontendValidation, FrontendValidationMode, GatewayAddress, GatewayClassSpec,
    GatewayClassStatus, GatewaySpec, GatewayStatus, GatewayTls, Infrastructure, ListenerNamespaces,
    ListenerProtocol, ListenerSetSpec, ListenerSetStatus, ListenerSpec, ListenerStatus,
    ListenerTls, PortTls, RouteNamespaces, StatusAddress, SupportedFeature, TlsMode, ValidationTls,
};
pub use policy::{
    AncestorStatus, BackendTlsPolicySpec, BackendValidation, GrantFrom, GrantTo, PolicyStatus,
    PolicyTarget, ReferenceGrantSpec, SubjectAltName, SubjectAltNameType,
};
pub use route::{
    CookieConfig, GrpcMatch, GrpcMethodMatch, GrpcRouteSpec, GrpcRule, HttpMatch, HttpRouteSpec,
    HttpRule, L4RouteSpec, L4Rule, MatchType, NamedMatch, ParentStatus, PathMatchSpec,
    PathMatchType, RouteStatus, RouteTimeouts, RuleRetry, SessionPersistence, TlsRouteSpec,
};
pub use route_policy::{
    AffinityPolicy, ApiKeyAuth, AuthenticationPolicy, BasicAuth, CookieAffinity,
    ExternalAuthPolicy, HealthCheckPolicy, HmacAuth, IntrospectionAuth, JwtAuth, LdapAuth,
    LimitsPolicy, LoadBalancingPolicy, OidcAuth, POLICY_GROUP, PasetoAuth, RetryPolicy,
    RoutePolicyDocument, RoutePolicySpec, RoutePolicyTarget, SourcesPolicy, TargetKind,
    TimeoutsPolicy, route_policy_crd,
};
pub use shared::{
    BackendRef, CertificateRef, Condition, LabelSelector, LocalRef, ObjectRef, Parameters,
    ParentRef, RouteGroupKind, SelectorRequirement,
};

use crate::NamespacedName;

/// The API group of these objects.
pub const GROUP: &str = "gateway.networking.k8s.io";

/// An object: what the user wants, and what was written about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object<S, T = ()> {
    /// What all objects have.
    pub meta: Meta,
    /// `spec`.
    pub spec: S,
    /// `status`.
    pub status: T,
}

impl<S: PartialEq, T> Object<S, T> {
    /// Whether both ask for the same: neither the status nor the version counts.
    pub(super) fn asks_same(&self, other: &Self) -> bool {
        let (one, two) = (&self.meta, &other.meta);
        let is_same = one.uid == two.uid && one.created_s == two.created_s;
        is_same && one.name == two.name && self.spec == other.spec
    }
}

/// What all objects have: a part of `metadata`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Its name; objects of the cluster have the namespace `default`.
    pub name: NamespacedName,
    /// `uid`; may be empty in manifests.
    pub uid: String,
    /// `resourceVersion`; empty in manifests.
    pub version: String,
    /// `generation`: the number of changes of `spec`; 0 if it is not known.
    pub generation: i64,
    /// Creation time in seconds since 1970; `None` counts as the youngest.
    pub created_s: Option<i64>,
}

/// The order of objects: by creation time, then by `namespace/name`.
pub(super) type Age = (i64, String);

impl Meta {
    /// Returns the age; objects without a creation time count as the youngest.
    pub(super) fn age(&self) -> Age {
        (self.created_s.unwrap_or(i64::MAX), self.name.to_string())
    }
}

/// A GatewayClass.
pub type GatewayClass = Object<GatewayClassSpec, GatewayClassStatus>;
/// A Gateway.
pub type Gateway = Object<GatewaySpec, GatewayStatus>;
/// A ListenerSet: more listeners of a Gateway.
pub type ListenerSet = Object<ListenerSetSpec, ListenerSetStatus>;
/// An HTTPRoute.
pub type HttpRoute = Object<HttpRouteSpec, RouteStatus>;
/// A GRPCRoute.
pub type GrpcRoute = Object<GrpcRouteSpec, RouteStatus>;
/// A TLSRoute.
pub type TlsRoute = Object<TlsRouteSpec, RouteStatus>;
/// A TCPRoute or a UDPRoute.
pub type L4Route = Object<L4RouteSpec, RouteStatus>;
/// A ReferenceGrant.
pub type ReferenceGrant = Object<ReferenceGrantSpec>;
/// A BackendTLSPolicy.
pub type BackendTlsPolicy = Object<BackendTlsPolicySpec, PolicyStatus>;
/// A RoutePolicy.
pub type RoutePolicy = Object<RoutePolicyDocument, PolicyStatus>;

/// The objects of the Gateway API, and those of the core API that only it uses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    /// GatewayClasses, by name.
    pub classes: BTreeMap<String, GatewayClass>,
    /// Gateways.
    pub gateways: BTreeMap<NamespacedName, Gateway>,
    /// ListenerSets.
    pub listener_sets: BTreeMap<NamespacedName, ListenerSet>,
    /// HTTPRoutes.
    pub http_routes: BTreeMap<NamespacedName, Arc<HttpRoute>>,
    /// GRPCRoutes.
    pub grpc_routes: BTreeMap<NamespacedName, Arc<GrpcRoute>>,
    /// TLSRoutes.
    pub tls_routes: BTreeMap<NamespacedName, TlsRoute>,
    /// TCPRoutes.
    pub tcp_routes: BTreeMap<NamespacedName, L4Route>,
    /// UDPRoutes.
    pub udp_routes: BTreeMap<NamespacedName, L4Route>,
    /// ReferenceGrants.
    pub grants: BTreeMap<NamespacedName, ReferenceGrant>,
    /// BackendTLSPolicies.
    pub backend_tls: BTreeMap<NamespacedName, BackendTlsPolicy>,
    /// RoutePolicies.
    pub route_policies: BTreeMap<NamespacedName, RoutePolicy>,
    /// Whether RoutePolicies could not be listed. Then every route is closed: there may be one that guards it.
    pub lacks_policies: bool,
    /// Labels of Namespaces, by name.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Data of ConfigMaps.
    pub config_maps: BTreeMap<NamespacedName, BTreeMap<String, String>>,
}
