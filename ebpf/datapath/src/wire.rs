//! Offsets and lengths of headers.

pub use headgate_abi::Family;

/// Offset of the network header: Ethernet without tag.
pub const L3: u32 = 14;
/// Offset of the EtherType.
pub(crate) const ETHERTYPE: u32 = 12;
pub(crate) const ETHERTYPE_V4: u16 = 0x0800;
pub(crate) const ETHERTYPE_V6: u16 = 0x86dd;
pub(crate) const V4_HEADER: u32 = 20;
pub(crate) const V6_HEADER: u32 = 40;
/// Offset of the identification in an IPv4 header.
pub(crate) const V4_ID: u32 = 4;
/// The bit that forbids routers to fragment, in the two bytes after the identification.
pub(crate) const V4_DONT_FRAGMENT: u16 = 0x4000;
pub(crate) const TCP_HEADER: u32 = 20;
pub(crate) const UDP_HEADER: u32 = 8;
pub(crate) const ICMP_HEADER: u32 = 8;
pub(crate) const FRAGMENT_HEADER: u32 = 8;
