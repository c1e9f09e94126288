//! Between the model and the bytes in the maps.

use aya::maps::lpm_trie;
use headgate_abi::{Addr, FrontendFlags, FrontendKey, Port, RangeKey};
use headgate_model::{Frontend, FrontendKind, FrontendSpec, Protocol, Scope};
use ipnet::IpNet;

pub(super) fn range_key(service: u32, range: &IpNet) -> lpm_trie::Key<RangeKey> {
    let before = match range {
        IpNet::V4(_) => RangeKey::BITS_BEFORE_V4,
        IpNet::V6(_) => RangeKey::BITS_BEFORE_V6,
    };
    let address = Addr::from(range.network());
    lpm_trie::Key::new(
        before + u32::from(range.prefix_len()),
        RangeKey { service, address },
    )
}

pub(super) fn protocol(protocol: Protocol) -> headgate_abi::Protocol {
    match protocol {
        Protocol::Tcp => headgate_abi::Protocol::TCP,
        Protocol::Udp => headgate_abi::Protocol::UDP,
    }
}

pub(super) fn model_protocol(protocol: headgate_abi::Protocol) -> Protocol {
    if protocol == headgate_abi::Protocol::UDP {
        Protocol::Udp
    } else {
        Protocol::Tcp
    }
}

pub(super) fn frontend_key(frontend: &Frontend) -> FrontendKey {
    FrontendKey::new(
        Addr::from(frontend.address),
        Port::new(frontend.port),
        protocol(frontend.protocol),
    )
}

pub(super) fn flags(spec: &FrontendSpec) -> FrontendFlags {
    let kind = match spec.kind {
        FrontendKind::ClusterIp => 0,
        FrontendKind::NodePort => 1,
        FrontendKind::LoadBalancer => 2,
        FrontendKind::ExternalIp => 3,
    };
    let mut flags = kind << FrontendFlags::KIND_SHIFT;
    if spec.inside.scope == Scope::Local {
        flags |= FrontendFlags::DROP_INSIDE.0;
    }
    if spec.outside.scope == Scope::Local {
        flags |= FrontendFlags::DROP_OUTSIDE.0;
    }
    if spec.is_restricted {
        flags |= FrontendFlags::SOURCE_RANGES.0;
    }
    FrontendFlags(flags)
}
