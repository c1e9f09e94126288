//! The operator's commands. Most read the pinned maps, so they work while the agent does not run;
//! commands about Ingresses ask the proxy.

mod cleanup;
mod connections;
mod doctor;
mod explain;
#[cfg(feature = "proxy")]
mod gateways;
mod migrate;
mod monitor;
mod output;
#[cfg(feature = "proxy")]
mod probe;
mod replace_kube_proxy;
#[cfg(feature = "proxy")]
mod routes;
mod services;
mod status;
#[cfg(feature = "top")]
mod top;

pub(crate) use cleanup::cleanup;
pub(crate) use connections::{ConntrackArgs, affinity, conntrack, nat};
pub(crate) use doctor::{DoctorArgs, doctor};
pub(crate) use explain::{ExplainArgs, explain};
#[cfg(feature = "proxy")]
pub(crate) use gateways::{GatewaysArgs, gateways};
pub(crate) use migrate::{MigrateArgs, migrate};
pub(crate) use monitor::{MonitorArgs, monitor};
pub(crate) use output::OutputArgs;
#[cfg(feature = "proxy")]
pub(crate) use probe::{ProbeArgs, probe};
pub(crate) use replace_kube_proxy::replace_kube_proxy;
#[cfg(feature = "proxy")]
pub(crate) use routes::{ProxyTableArgs, RoutesArgs, certificates, routes};
pub(crate) use services::{backends, services};
pub(crate) use status::{counters, drops, maps, status};
#[cfg(feature = "top")]
pub(crate) use top::{TopArgs, top};
