//! Hashes that every node of a cluster computes alike.

use headgate_abi::{Addr, FlowKey};

/// Hash of the client's end of a flow. Every node with the same seed gets the same value, whatever
/// address the client used to get in, so a flow that moves to another node keeps its backend.
#[inline(always)]
pub fn flow_hash(flow: &FlowKey, seed: u32) -> u32 {
    let port = u32::from(flow.source_port.word()) << 8 | u32::from(flow.protocol.0);
    client_hash(&flow.source, port, seed)
}

#[inline(always)]
pub(crate) fn client_hash(client: &Addr, port: u32, seed: u32) -> u32 {
    let [a, b, c, d] = client.words();
    let mut hash = seed;
    for word in [a, b, c, d, port] {
        // MurmurHash3's step: one multiply a word is what a packet can afford.
        hash = (hash ^ word.wrapping_mul(0xcc9e_2d51))
            .rotate_left(13)
            .wrapping_mul(5);
        hash = hash.wrapping_add(0xe654_6b64);
    }
    mix(hash)
}

/// MurmurHash3's finalizer: every input bit reaches every output bit.
#[inline(always)]
pub(crate) const fn mix(mut hash: u32) -> u32 {
    hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}
