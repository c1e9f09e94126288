//! Packet and load-balancing logic of Headgate, one source for the kernel and the host.
//!
//! This crate calls no helper, reads no map and holds no pointer: it reads packets through
//! [`Packet`] and everything else through [`Tables`]. Read [`walk()`] first; `ebpf/README.md` lists
//! the files in reading order.
#![no_std]
#![forbid(unsafe_code)]

mod checksum;
mod conntrack;
mod context;
mod encap;
mod fragment;
mod hash;
mod icmp;
mod link;
pub mod maglev;
mod nat;
mod packet;
mod parse;
mod reject;
mod rewrite;
mod select;
mod sequence;
pub mod socket;
mod tables;
mod track;
mod truth;
mod walk;
mod wire;

pub use checksum::Sum;
pub use conntrack::{Direction, is_expired, mirror, mirrored, next_state, state_after, timeout_s};
pub use context::{Hook, Outcome, Verdict};
pub use hash::flow_hash;
pub use packet::{Packet, Receiver, SlicePacket};
pub use parse::{Fragment, Identification, Parsed, Segment, TcpFlags, Transport, parse};
pub use select::select;
pub use sequence::{Standing, follow, judge};
pub use tables::{Added, NextHop, Route, RouteQuery, RouteResult, Tables};
pub use walk::{Memory, walk};
pub use wire::{Family, L3};
