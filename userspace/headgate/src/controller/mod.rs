//! The controller of Gateways: statuses, and a Service for each Gateway.

mod args;
mod metrics;
mod run;

pub(crate) use args::ControllerArgs;
pub(crate) use run::run;
