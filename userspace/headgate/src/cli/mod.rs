//! The operator's commands. They read the pinned maps, so they work when the agent is dead; what is
//! served of Ingresses, the proxy is asked.

mod cleanup;
mod connections;
pub(crate) mod doctor;
mod explain;
mod ingress;
mod migrate;
mod monitor;
pub(crate) mod output;
mod probe;
mod services;
mod status;
pub(crate) mod top;

pub(crate) use cleanup::cleanup;
pub(crate) use connections::{Conntrack, affinity, conntrack, nat};
pub(crate) use doctor::command::{doctor, replace_kube_proxy};
pub(crate) use explain::{Explain, explain};
pub(crate) use ingress::{Served, certificates, days, routes};
pub(crate) use migrate::{Migrate, migrate};
pub(crate) use monitor::{Monitor, monitor};
pub(crate) use probe::{Probe, probe};
pub(crate) use services::{backends, services};
pub(crate) use status::{counters, drops, maps, status};
