//! Sizes and offsets of everything that crosses. If an assertion here fails, an agent would misread
//! the pinned maps of a running node: raise `ABI_VERSION` and say in the change log what an upgrade
//! does.

use core::mem::{offset_of, size_of};

use crate::{
    Addr, AddressEntry, AffinityEntry, AffinityKey, BackendEntry, BackendKey, CtEntry,
    DatapathConfig, Event, FlowKey, FragmentEntry, FragmentKey, FrontendEntry, FrontendKey,
    KernelHelpers, LinkEntry, ListenerKey, MemberKey, MonitorEntry, RangeKey, ServiceEntry,
    ServiceLabel, ServiceRange, SocketEntry, SocketKey, SourceEntry, Takeover, Timeouts, Traffic,
};

/// The layout of one type.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Name of the type.
    pub name: &'static str,
    /// Size in bytes.
    pub size: usize,
    /// Names and offsets of its fields, in bytes.
    pub fields: &'static [(&'static str, usize)],
}

#[cfg(feature = "user")]
const fn is_plain<T: bytemuck::Pod>() {}

macro_rules! layouts {
    ($($type:ident, $size:literal: $($field:ident at $offset:literal),*;)+) => {
        $(
            const _: () = {
                assert!(size_of::<$type>() == $size);
                $(assert!(offset_of!($type, $field) == $offset);)*
                #[cfg(feature = "user")]
                is_plain::<$type>();
            };
            #[cfg(feature = "user")]
            // SAFETY: the derived `FromBytes` and `IntoBytes` prove that any bytes are a value and
            // that there is no padding.
            unsafe impl aya::Pod for $type {}
        )+

        /// Every type that crosses.
        pub const LAYOUTS: &[Layout] = &[$(Layout {
            name: stringify!($type),
            size: $size,
            fields: &[$((stringify!($field), $offset)),*],
        }),+];
    };
}

layouts! {
    FrontendKey, 20: address at 0, port at 16, protocol at 18, zero at 19;
    FrontendEntry, 16: inside at 0, outside at 4, flags at 8, programmed_s at 12;
    ServiceEntry, 16: table at 0, affinity_timeout_s at 8, flags at 12;
    ServiceLabel, 192: bytes at 0;
    BackendEntry, 20: address at 0, port at 16, protocol at 18, location at 19;
    BackendKey, 20: address at 0, port at 16, protocol at 18, zero at 19;
    FlowKey, 40: source at 0, destination at 16, source_port at 32, destination_port at 34, protocol at 36, zero at 37;
    CtEntry, 64: source at 0, destination at 16, source_port at 32, destination_port at 34, service at 36, backend at 40, seen_s at 44, end at 48, acknowledged at 52, claimed at 56, state at 60, flags at 61, zero at 62;
    SocketKey, 16: cookie at 0, number at 8, zero at 12;
    SocketEntry, 48: frontend at 0, backend at 16, frontend_port at 32, backend_port at 34, protocol at 36, is_hidden at 37, zero at 38, service at 40, backend_id at 44;
    Addr, 16: ;
    AddressEntry, 4: ;
    AffinityKey, 20: client at 0, service at 16;
    AffinityEntry, 8: backend at 0, seen_s at 4;
    MemberKey, 8: service at 0, backend at 4;
    RangeKey, 20: service at 0, address at 4;
    FragmentKey, 40: source at 0, destination at 16, id at 32, protocol at 36, zero at 37;
    FragmentEntry, 20: source_port at 0, destination_port at 2, protocol at 4, state at 5, end at 6, forwarded at 8, id at 12, seen_s at 16;
    LinkEntry, 16: ifindex at 0, seen_s at 4, address at 8, zero at 14;
    SourceEntry, 32: v4 at 0, v6 at 16;
    ServiceRange, 32: address at 0, mask at 16;
    ListenerKey, 4: port at 0, protocol at 2, family at 3;
    Takeover, 4: ;
    Traffic, 24: connections at 0, packets at 8, bytes at 16;
    DatapathConfig, 72: snat_v4 at 0, snat_v6 at 16, host_netns_cookie at 32, seed at 40, snat_port_first at 44, snat_port_last at 46, dsr_port at 48, forwards_by_dsr at 50, leaves_pods at 51, routes_replies at 52, zero at 53, timeouts at 56;
    Timeouts, 16: tcp_established_s at 0, tcp_close_wait_s at 4, udp_s at 8, udp_stream_s at 12;
    KernelHelpers, 12: coarse_clock at 0, set_retval at 4, xdp_frags at 8;
    Event, 104: time_ns at 0, flow at 8, source at 48, destination at 64, source_port at 80, destination_port at 82, service at 84, backend at 88, ifindex at 92, pid at 96, reason at 100, site at 101, zero at 102;
    MonitorEntry, 16: until_s at 0, share at 4, lost at 8;
}
