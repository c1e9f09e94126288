//! Routes of all kinds, in the order in which they attach.

use std::sync::Arc;

use super::{
    RouteKind, World,
    object::{GrpcRoute, HttpRoute, L4Route, Meta, ParentRef, TlsRoute},
};
use crate::Protocol;

/// A route of any kind.
#[derive(Clone, Copy)]
pub(super) enum AnyRoute<'a> {
    Http(&'a Arc<HttpRoute>),
    Grpc(&'a Arc<GrpcRoute>),
    Tls(&'a TlsRoute),
    L4(&'a L4Route, Protocol),
}

impl<'a> AnyRoute<'a> {
    pub(super) fn kind(self) -> RouteKind {
        match self {
            Self::Http(_) => RouteKind::Http,
            Self::Grpc(_) => RouteKind::Grpc,
            Self::Tls(_) => RouteKind::Tls,
            Self::L4(_, Protocol::Tcp) => RouteKind::Tcp,
            Self::L4(_, Protocol::Udp) => RouteKind::Udp,
        }
    }

    pub(super) fn meta(self) -> &'a Meta {
        match self {
            Self::Http(route) => &route.meta,
            Self::Grpc(route) => &route.meta,
            Self::Tls(route) => &route.meta,
            Self::L4(route, _) => &route.meta,
        }
    }

    pub(super) fn parents(self) -> &'a [ParentRef] {
        match self {
            Self::Http(route) => &route.spec.parent_refs,
            Self::Grpc(route) => &route.spec.parent_refs,
            Self::Tls(route) => &route.spec.parent_refs,
            Self::L4(route, _) => &route.spec.parent_refs,
        }
    }

    pub(super) fn hostnames(self) -> &'a [String] {
        match self {
            Self::Http(route) => &route.spec.hostnames,
            Self::Grpc(route) => &route.spec.hostnames,
            Self::Tls(route) => &route.spec.hostnames,
            Self::L4(..) => &[],
        }
    }
}

/// All routes, older ones first.
pub(super) fn candidates<'a>(world: &World<'a>) -> Vec<AnyRoute<'a>> {
    let objects = world.objects;
    let tcp = objects.tcp_routes.values();
    let udp = objects.udp_routes.values();
    let mut all: Vec<AnyRoute<'a>> = Vec::new();
    all.extend(objects.http_routes.values().map(AnyRoute::Http));
    all.extend(objects.grpc_routes.values().map(AnyRoute::Grpc));
    all.extend(objects.tls_routes.values().map(AnyRoute::Tls));
    all.extend(tcp.map(|route| AnyRoute::L4(route, Protocol::Tcp)));
    all.extend(udp.map(|route| AnyRoute::L4(route, Protocol::Udp)));
    all.sort_by_cached_key(|route| (route.meta().age(), route.kind()));
    all
}
