//! Conversions between the model and the entries of the maps.

use std::net::IpAddr;

use headgate_abi::{
    Addr, BackendEntry, FrontendEntry, FrontendFlags, FrontendKey, FrontendKind as AbiKind,
    Location as AbiLocation, Port,
};
use headgate_model::{
    Backend, Frontend, FrontendKind, FrontendSpec, Location, Protocol, Scope, ServiceKey,
};

fn abi_protocol(protocol: Protocol) -> headgate_abi::Protocol {
    match protocol {
        Protocol::Tcp => headgate_abi::Protocol::TCP,
        Protocol::Udp => headgate_abi::Protocol::UDP,
    }
}

fn model_protocol(protocol: headgate_abi::Protocol) -> Protocol {
    match protocol {
        headgate_abi::Protocol::UDP => Protocol::Udp,
        _ => Protocol::Tcp,
    }
}

pub(super) fn backend_entry(backend: &Backend) -> BackendEntry {
    BackendEntry {
        address: Addr::from(backend.address),
        port: Port::new(backend.port),
        protocol: abi_protocol(backend.protocol),
        location: match backend.location {
            Location::Outside => AbiLocation::OUTSIDE,
            Location::OtherNode => AbiLocation::OTHER_NODE,
            Location::ThisNode => AbiLocation::THIS_NODE,
        },
    }
}

pub(super) fn backend(entry: &BackendEntry) -> Backend {
    Backend {
        address: IpAddr::from(entry.address),
        port: entry.port.number(),
        protocol: model_protocol(entry.protocol),
        location: match entry.location {
            AbiLocation::OUTSIDE => Location::Outside,
            AbiLocation::THIS_NODE => Location::ThisNode,
            _ => Location::OtherNode,
        },
    }
}

pub(super) fn frontend_key(frontend: &Frontend) -> FrontendKey {
    FrontendKey::new(
        Addr::from(frontend.address),
        Port::new(frontend.port),
        abi_protocol(frontend.protocol),
    )
}

pub(super) fn frontend(key: &FrontendKey) -> Frontend {
    Frontend {
        address: IpAddr::from(key.address),
        port: key.port.number(),
        protocol: model_protocol(key.protocol),
    }
}

pub(super) fn frontend_flags(spec: &FrontendSpec) -> FrontendFlags {
    let mut flags = FrontendFlags::of_kind(match spec.kind {
        FrontendKind::ClusterIp => AbiKind::ClusterIp,
        FrontendKind::NodePort => AbiKind::NodePort,
        FrontendKind::LoadBalancer => AbiKind::LoadBalancer,
        FrontendKind::ExternalIp => AbiKind::ExternalIp,
    });
    flags.set(
        FrontendFlags::DROP_INSIDE,
        spec.inside.scope == Scope::Local,
    );
    flags.set(
        FrontendFlags::DROP_OUTSIDE,
        spec.outside.scope == Scope::Local,
    );
    flags.set(FrontendFlags::SOURCE_RANGES, spec.is_restricted);
    flags
}

fn model_kind(kind: AbiKind) -> FrontendKind {
    match kind {
        AbiKind::ClusterIp => FrontendKind::ClusterIp,
        AbiKind::NodePort => FrontendKind::NodePort,
        AbiKind::LoadBalancer => FrontendKind::LoadBalancer,
        AbiKind::ExternalIp => FrontendKind::ExternalIp,
    }
}

pub(super) fn frontend_spec(
    entry: &FrontendEntry,
    inside: &ServiceKey,
    outside: &ServiceKey,
) -> FrontendSpec {
    FrontendSpec {
        kind: model_kind(entry.flags.kind()),
        inside: inside.clone(),
        outside: outside.clone(),
        is_restricted: entry.flags.contains(FrontendFlags::SOURCE_RANGES),
    }
}
