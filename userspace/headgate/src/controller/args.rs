//! Flags of `headgate controller`.

use std::net::SocketAddr;

use ipnet::IpNet;

use crate::process::LogFormat;

#[derive(clap::Args)]
pub(crate) struct ControllerArgs {
    /// Name of this replica, which no other one has
    #[arg(long, env = "POD_NAME")]
    pub(super) identity: String,
    /// Namespace of the Lease of the replica that writes, and of the proxies
    #[arg(long, env = "POD_NAMESPACE")]
    pub(super) namespace: String,
    /// Name of that Lease
    #[arg(long, default_value = "headgate-controller")]
    pub(super) lease: String,
    /// Write statuses of Gateways of GatewayClasses with this `spec.controllerName`
    #[arg(long, default_value = "headgate.io/gateway")]
    pub(super) gateway_controller: String,
    /// Network whose addresses Gateways get; may be repeated; default: the load balancers of the cluster give them
    #[arg(long = "address-pool", value_name = "CIDR", value_delimiter = ',')]
    pub(super) pools: Vec<IpNet>,
    /// The flag of the proxies: networks of the node that services which RoutePolicies ask may be in
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub(super) auth_local_networks: Vec<IpNet>,
    /// Selects the pods of proxies by label
    #[arg(long, value_name = "SELECTOR")]
    #[arg(default_value = "app.kubernetes.io/name=headgate,app.kubernetes.io/component=proxy")]
    pub(super) proxy_selector: String,
    /// Selects the pods of agents by label, to report TCP and UDP listeners that agents do not serve. Empty if agents do
    /// not run in pods: then they are taken to serve these listeners
    #[arg(long, value_name = "SELECTOR")]
    #[arg(default_value = "app.kubernetes.io/name=headgate,app.kubernetes.io/component=agent")]
    pub(super) agent_selector: String,
    /// Address of `/livez` and `/readyz`
    #[arg(long, default_value = "0.0.0.0:10246")]
    pub(super) healthz_bind_address: SocketAddr,
    /// Address of `/metrics`
    #[arg(long, default_value = "0.0.0.0:10245")]
    pub(super) metrics_bind_address: SocketAddr,
    /// Format of the log on standard error; RUST_LOG selects what is logged
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(super) log_format: LogFormat,
}
