//! All packet and balancing logic of Headgate, compiled from one text for the kernel and the host.
//!
//! There is no helper call, no map and no pointer in this crate: packets are seen through
//! [`Packet`], everything else through [`Tables`]. [`walk()`] is the page to read first.
#![no_std]
#![forbid(unsafe_code)]

mod checksum;
mod conntrack;
mod context;
mod encap;
mod hash;
mod icmp;
pub mod maglev;
mod nat;
mod packet;
mod parse;
mod reject;
mod rewrite;
mod select;
pub mod socket;
mod tables;
mod walk;
mod wire;

pub use checksum::Sum;
pub use conntrack::{Direction, is_expired, mirror, next_state, timeout_s};
pub use context::{Context, Hook, Outcome, Verdict};
pub use hash::flow_hash;
pub use packet::{Packet, SlicePacket};
pub use parse::{Fragment, Parsed, TcpFlags, Transport, parse};
pub use select::select;
pub use tables::{Added, NextHop, Route, RouteQuery, RouteResult, Tables};
pub use walk::walk;
pub use wire::{Family, L3};
