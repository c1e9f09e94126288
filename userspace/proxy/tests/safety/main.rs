//! A whole proxy on the loopback, in front of backends that write down what reaches them, against
//! clients that mean no good.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod backend;
mod certificates;
mod claims;
mod client;
mod floods;
mod frames;
mod injection;
mod limits;
mod mirrors;
mod paths;
mod setup;
mod sizes;
mod slow;
mod smuggling;
mod upgrades;
