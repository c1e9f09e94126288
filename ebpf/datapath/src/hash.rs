//! Hashes that have the same value on every node of a cluster.

use headgate_abi::{Addr, FlowKey};

/// Hash of a client's address, port and protocol. It is the same on every node with the same seed
/// and for every frontend address, so a flow that moves to another node keeps its backend.
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
        // A step of MurmurHash3 without one multiplication and one rotation, to save time.
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
