//! Flags of `headgate proxy`.

use std::net::{IpAddr, SocketAddr};

use clap::value_parser;
use headgate_control::Address;
use headgate_model::NamespacedName;
use headgate_proxy::Settings;
use http::Uri;
use ipnet::IpNet;

use crate::{http::ListenAddress, process::CommonArgs};

#[derive(clap::Args)]
pub(crate) struct ProxyArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,
    /// Serve Ingresses of IngressClasses with this `spec.controller`
    #[arg(long, default_value = "headgate.io/ingress")]
    pub(super) controller: String,
    /// Serve Gateways of the cluster as well, which needs a role that may read them; those of a folder are
    /// always served
    #[arg(long)]
    pub(super) gateways: bool,
    /// Serve Gateways of GatewayClasses with this `spec.controllerName`
    #[arg(long, default_value = "headgate.io/gateway")]
    pub(super) gateway_controller: String,
    /// Serve Ingresses without a class as well
    #[arg(long)]
    pub(super) without_class: bool,
    /// Serve only Ingresses of these namespaces; default: all
    #[arg(long, value_name = "NAMESPACE", value_delimiter = ',')]
    pub(super) namespaces: Vec<String>,
    /// Let Ingresses of any namespace add paths to a host, as ingress-nginx does; default: a host
    /// belongs to the namespace of its oldest Ingress
    #[arg(long)]
    pub(super) share_hosts: bool,
    /// Service for requests that no rule matches
    #[arg(long, value_name = "NAMESPACE/SERVICE:PORT", value_parser = parse_backend)]
    pub(super) default_backend: Option<(NamespacedName, u16)>,
    /// Secret with the certificate for hosts without one
    #[arg(long, value_name = "NAMESPACE/SECRET", value_parser = parse_name)]
    pub(super) default_certificate: Option<NamespacedName>,
    /// Write these addresses or host names into the status of Ingresses
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub(super) publish_address: Vec<Address>,
    /// Write the addresses of this Service into the status of Ingresses
    #[arg(long, value_name = "NAMESPACE/SERVICE", value_parser = parse_name)]
    #[arg(conflicts_with = "publish_address")]
    pub(super) publish_service: Option<NamespacedName>,
    /// Port for HTTP
    #[arg(long, default_value_t = 80)]
    pub(super) http_port: u16,
    /// Port for HTTPS
    #[arg(long, default_value_t = 443)]
    pub(super) https_port: u16,
    /// Listen on these addresses; default: all node addresses, without a capability, which needs an
    /// agent with `--proxy-user`
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub(super) bind_addresses: Vec<IpAddr>,
    /// Proxies whose X-Forwarded headers are trusted
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub(super) trusted_proxies: Vec<IpNet>,
    /// Load balancers that send a PROXY protocol header at the start of each connection
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub(super) proxy_protocol_from: Vec<IpNet>,
    /// Networks that `auth-url`, `auth-server` and `auth-issuer` may reach although they belong to the
    /// node: loopback, link-local and the node's own addresses
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub(super) auth_local_networks: Vec<IpNet>,
    /// Maximum number of client connections; further ones wait to be accepted
    #[arg(long, default_value_t = Settings::default().max_connections)]
    pub(super) max_connections: usize,
    /// Timeout for the head of a request, and for an idle connection between requests
    #[arg(long, value_name = "SECONDS", value_parser = value_parser!(u64).range(1..))]
    #[arg(default_value_t = Settings::default().head_timeout.as_secs())]
    pub(super) client_header_timeout: u64,
    /// Timeout between two reads of a request body, while the request has no response yet
    #[arg(long, value_name = "SECONDS", value_parser = value_parser!(u64).range(1..))]
    #[arg(default_value_t = Settings::default().body_timeout.as_secs())]
    pub(super) client_body_timeout: u64,
    /// Timeout between two writes of a response: the client reads nothing for this long
    #[arg(long, value_name = "SECONDS", value_parser = value_parser!(u64).range(1..))]
    #[arg(default_value_t = Settings::default().answer_timeout.as_secs())]
    pub(super) client_answer_timeout: u64,
    /// Format of the access log on standard output
    #[arg(long, default_value = "json")]
    pub(super) access_log: AccessLogFormat,
    /// Send spans of requests to this OTLP/HTTP collector, at the URL and `/v1/traces`
    #[arg(long, value_name = "URL", value_parser = parse_collector)]
    pub(super) otlp_endpoint: Option<Uri>,
    /// Sampling ratio of new traces, 0 to 1; the sampled flag of an incoming `traceparent` is
    /// honoured
    #[arg(long, value_name = "RATIO", default_value_t = 1.0, value_parser = parse_ratio)]
    #[arg(requires = "otlp_endpoint")]
    pub(super) trace_sample_rate: f64,
    /// Number of threads that serve requests; default: one for each CPU
    #[arg(long)]
    pub(super) threads: Option<usize>,
    /// Address of `/livez` and `/readyz`, or the path of a Unix socket for `headgate probe`
    #[arg(long, value_name = "ADDR:PORT|PATH", default_value = "0.0.0.0:10246")]
    pub(super) healthz_bind_address: ListenAddress,
    /// Address of `/metrics`, and of what `headgate routes`, `certificates` and `explain request`
    /// read
    #[arg(long, default_value = "127.0.0.1:10245")]
    pub(super) metrics_bind_address: SocketAddr,
}

/// Format of the access log.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum AccessLogFormat {
    /// JSON objects
    Json,
    /// Apache's combined format
    Combined,
    /// No access log
    Off,
}

fn parse_name(text: &str) -> Result<NamespacedName, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok(NamespacedName::new(namespace, name))
        }
        _ => Err("write NAMESPACE/NAME".into()),
    }
}

fn parse_backend(text: &str) -> Result<(NamespacedName, u16), String> {
    let (name, port) = text
        .rsplit_once(':')
        .ok_or("write NAMESPACE/SERVICE:PORT")?;
    let port = port
        .parse()
        .map_err(|error| format!("port `{port}`: {error}"))?;
    Ok((parse_name(name)?, port))
}

fn parse_collector(text: &str) -> Result<Uri, String> {
    let url: Uri = text.parse().map_err(|error| format!("{error}"))?;
    let is_http = matches!(url.scheme_str(), Some("http" | "https"));
    match is_http && url.query().is_none() {
        true => Ok(url),
        false => Err("write http://HOST:PORT or https://HOST:PORT".into()),
    }
}

fn parse_ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().map_err(|error| format!("{error}"))?;
    match (0.0..=1.0).contains(&ratio) {
        true => Ok(ratio),
        false => Err("is not between 0 and 1".into()),
    }
}

#[cfg(test)]
mod tests {
    use headgate_model::NamespacedName;

    use super::{parse_backend, parse_collector, parse_name, parse_ratio};

    #[test]
    fn values_of_flags_are_checked() {
        let web = NamespacedName::new("shop", "web");
        assert_eq!(parse_name("shop/web"), Ok(web.clone()));
        assert_eq!(parse_backend("shop/web:80"), Ok((web, 80)));
        for text in ["web", "/web", "shop/"] {
            assert!(parse_name(text).is_err(), "{text}");
        }
        for text in ["shop/web", "shop/web:http", "shop/web:65536", "web:80"] {
            assert!(parse_backend(text).is_err(), "{text}");
        }
        assert!(parse_collector("https://collector:4318/base").is_ok());
        for text in ["collector:4318", "ftp://collector", "http://collector/?a=b"] {
            assert!(parse_collector(text).is_err(), "{text}");
        }
        assert_eq!(parse_ratio("0.25"), Ok(0.25));
        for text in ["-0.1", "1.1", "nan", "half"] {
            assert!(parse_ratio(text).is_err(), "{text}");
        }
    }
}
