//! The operator's commands. They read the pinned maps, so they work when the agent is dead; what is
//! served of Ingresses, the proxy is asked.

mod cleanup;
mod connections;
mod doctor;
mod explain;
pub(crate) mod flow;
mod ingress;
mod migrate;
mod monitor;
mod probe;
mod services;
mod status;

pub(crate) use cleanup::cleanup;
pub(crate) use connections::{Conntrack, affinity, conntrack, nat};
pub(crate) use doctor::{doctor, replace_kube_proxy};
pub(crate) use explain::{Explain, explain};
pub(crate) use ingress::{Served, certificates, days, routes};
pub(crate) use migrate::{Migrate, migrate};
pub(crate) use monitor::{Monitor, monitor};
pub(crate) use probe::{Probe, probe};
pub(crate) use services::{backends, services};
pub(crate) use status::{counters, drops, maps, status};
