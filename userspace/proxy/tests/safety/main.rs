//! A whole proxy on the loopback, between malicious clients and backends that record their requests.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod backend;
mod certificates;
mod claims;
mod client;
mod cut;
mod direct;
mod early;
mod floods;
mod frames;
mod injection;
mod limits;
mod logs;
mod messages;
mod mirrors;
mod paths;
mod rewrites;
mod setup;
mod sizes;
mod slow;
mod smuggling;
mod upgrades;
