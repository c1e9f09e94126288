//! The agent: a source, the maps, and the loop between them.

mod args;
mod config;
mod hooks;
mod memory;
pub(crate) mod node;
mod opted_out;
mod ranges;
mod run;
mod takeover;

pub(crate) use args::AgentArgs;
pub(crate) use run::run;
