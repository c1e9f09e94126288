//! Socket lookup: chooses the socket of a new connection to this node.

use aya_ebpf::{
    bindings::{bpf_sk_lookup, sk_action::SK_PASS},
    macros::sk_lookup,
    programs::SkLookupContext,
};
use headgate_abi::{Addr, AddressFamily, ListenerKey, Port, Protocol};

use crate::maps::LISTENERS;

#[inline(always)]
fn local_address(lookup: *mut bpf_sk_lookup, family: AddressFamily) -> Addr {
    // SAFETY: the kernel hands us a valid context, of which it lets us read these fields, one
    // aligned word at a time.
    unsafe {
        if family == AddressFamily::INET {
            return Addr::from_v4_word((*lookup).local_ip4);
        }
        let words = (&raw const (*lookup).local_ip6).cast::<u32>();
        let word = |index| words.add(index).read_volatile();
        Addr::from_words([word(0), word(1), word(2), word(3)])
    }
}

#[sk_lookup]
fn hg_sk_lookup(context: SkLookupContext) -> u32 {
    let lookup = context.lookup;
    // SAFETY: the kernel hands us a valid context, of which it lets us read these fields. Only the
    // local port is in host order.
    let key = unsafe {
        ListenerKey {
            port: Port::new((*lookup).local_port as u16),
            protocol: Protocol((*lookup).protocol as u8),
            family: AddressFamily((*lookup).family as u8),
        }
    };
    // Connections to loopback go to the sockets bound there, among them the steered ones.
    if !local_address(lookup, key.family).is_loopback() {
        // If this finds no usable socket, the kernel looks for one itself.
        let _steered = LISTENERS.redirect_sk_lookup(&context, key, 0);
    }
    SK_PASS
}
