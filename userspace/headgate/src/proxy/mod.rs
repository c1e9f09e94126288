//! The L7 proxy: a source of Ingresses, the loop that makes routes of them, and sockets.

mod args;
pub(crate) mod client;
mod gateway_ports;
mod inspect;
mod listening;
mod metrics;
#[cfg(feature = "page")]
mod page;
mod probes;
mod question;
mod run;
mod sandbox;

pub(crate) use args::ProxyArgs;
pub(crate) use run::run;
