//! Changes of objects.

use std::collections::BTreeMap;

use super::{
    BackendTlsPolicy, Gateway, GatewayClass, GrpcRoute, HttpRoute, L4Route, ListenerSet, Objects,
    ReferenceGrant, TlsRoute,
};
use crate::{NamespacedName, put};

/// Upserts (`Some`) or deletes (`None`) an object.
#[derive(Clone, Debug, PartialEq)]
#[allow(
    clippy::large_enum_variant,
    reason = "a change is boxed wherever it waits"
)]
pub enum Change {
    /// A GatewayClass.
    GatewayClass(String, Option<GatewayClass>),
    /// A Gateway.
    Gateway(NamespacedName, Option<Gateway>),
    /// A ListenerSet.
    ListenerSet(NamespacedName, Option<ListenerSet>),
    /// An HTTPRoute.
    HttpRoute(NamespacedName, Option<HttpRoute>),
    /// A GRPCRoute.
    GrpcRoute(NamespacedName, Option<GrpcRoute>),
    /// A TLSRoute.
    TlsRoute(NamespacedName, Option<TlsRoute>),
    /// A TCPRoute.
    TcpRoute(NamespacedName, Option<L4Route>),
    /// A UDPRoute.
    UdpRoute(NamespacedName, Option<L4Route>),
    /// A ReferenceGrant.
    ReferenceGrant(NamespacedName, Option<ReferenceGrant>),
    /// A BackendTLSPolicy.
    BackendTlsPolicy(NamespacedName, Option<BackendTlsPolicy>),
    /// Labels of a Namespace.
    Namespace(String, Option<BTreeMap<String, String>>),
    /// Data of a ConfigMap.
    ConfigMap(NamespacedName, Option<BTreeMap<String, String>>),
}

impl Objects {
    /// Applies a change; returns whether an object differs afterwards.
    pub fn apply(&mut self, change: Change) -> bool {
        match change {
            Change::GatewayClass(name, new) => put(&mut self.classes, &name, new),
            Change::Gateway(name, new) => put(&mut self.gateways, &name, new),
            Change::ListenerSet(name, new) => put(&mut self.listener_sets, &name, new),
            Change::HttpRoute(name, new) => put(&mut self.http_routes, &name, new),
            Change::GrpcRoute(name, new) => put(&mut self.grpc_routes, &name, new),
            Change::TlsRoute(name, new) => put(&mut self.tls_routes, &name, new),
            Change::TcpRoute(name, new) => put(&mut self.tcp_routes, &name, new),
            Change::UdpRoute(name, new) => put(&mut self.udp_routes, &name, new),
            Change::ReferenceGrant(name, new) => put(&mut self.grants, &name, new),
            Change::BackendTlsPolicy(name, new) => put(&mut self.backend_tls, &name, new),
            Change::Namespace(name, new) => put(&mut self.namespaces, &name, new),
            Change::ConfigMap(name, new) => put(&mut self.config_maps, &name, new),
        }
    }
}
