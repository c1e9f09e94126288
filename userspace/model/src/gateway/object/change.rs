//! Changes of objects.

use std::{borrow::Borrow, collections::BTreeMap};

use super::{
    BackendTlsPolicy, Gateway, GatewayClass, GrpcRoute, HttpRoute, L4Route, ListenerSet, Object,
    Objects, ReferenceGrant, RoutePolicy, TlsRoute,
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
    /// A RoutePolicy.
    RoutePolicy(NamespacedName, Option<RoutePolicy>),
    /// Labels of a Namespace.
    Namespace(String, Option<BTreeMap<String, String>>),
    /// Data of a ConfigMap.
    ConfigMap(NamespacedName, Option<BTreeMap<String, String>>),
}

impl Objects {
    /// Applies a change; returns what differs afterwards.
    pub fn apply(&mut self, change: Change) -> Difference {
        match change {
            Change::GatewayClass(name, new) => put_object(&mut self.classes, &name, new),
            Change::Gateway(name, new) => put_object(&mut self.gateways, &name, new),
            Change::ListenerSet(name, new) => put_object(&mut self.listener_sets, &name, new),
            Change::HttpRoute(name, new) => put_object(&mut self.http_routes, &name, new),
            Change::GrpcRoute(name, new) => put_object(&mut self.grpc_routes, &name, new),
            Change::TlsRoute(name, new) => put_object(&mut self.tls_routes, &name, new),
            Change::TcpRoute(name, new) => put_object(&mut self.tcp_routes, &name, new),
            Change::UdpRoute(name, new) => put_object(&mut self.udp_routes, &name, new),
            Change::ReferenceGrant(name, new) => put_object(&mut self.grants, &name, new),
            Change::BackendTlsPolicy(name, new) => put_object(&mut self.backend_tls, &name, new),
            Change::RoutePolicy(name, new) => put_object(&mut self.route_policies, &name, new),
            Change::Namespace(name, new) => asked(put(&mut self.namespaces, &name, new)),
            Change::ConfigMap(name, new) => asked(put(&mut self.config_maps, &name, new)),
        }
    }
}

/// What differs after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Nothing.
    None,
    /// A status, or a version.
    Status,
    /// What an object asks for.
    Asked,
}

fn asked(differs: bool) -> Difference {
    match differs {
        true => Difference::Asked,
        false => Difference::None,
    }
}

/// Upserts or deletes an object.
fn put_object<K: Ord + Clone, S: PartialEq, T: PartialEq, W>(
    objects: &mut BTreeMap<K, W>,
    name: &K,
    new: Option<Object<S, T>>,
) -> Difference
where
    W: From<Object<S, T>> + Borrow<Object<S, T>>,
{
    let Some(new) = new else {
        return asked(objects.remove(name).is_some());
    };
    let difference = match objects.get(name).map(Borrow::borrow) {
        // It stays in its place, by which a resolver knows that it has judged it.
        Some(old) if *old == new => return Difference::None,
        Some(old) if old.asks_same(&new) => Difference::Status,
        _ => Difference::Asked,
    };
    objects.insert(name.clone(), new.into());
    difference
}
