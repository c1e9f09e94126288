//! Routes and certificates of a proxy.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use headgate_proxy::{BackendRow, CertificateRow, EndpointRow, Explanation, Table};
use serde::Serialize;

use super::{
    gateways,
    output::{Format, OutputArgs, print, print_rows},
};
use crate::{
    proxy::client::{CLIENT, GATEWAY, HEADER, METHOD, ProxyAddress, URL, ask},
    view::days,
};

#[derive(Args)]
pub(crate) struct ProxyTableArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    proxy: ProxyAddress,
}

#[derive(Args)]
pub(crate) struct RoutesArgs {
    /// Show the routes of Gateways in this folder of manifests, and why one is not attached, instead of what the
    /// proxy serves
    #[arg(long, value_name = "DIR", conflicts_with = "proxy")]
    source: Option<PathBuf>,
    #[command(flatten)]
    table: ProxyTableArgs,
}

/// A request to explain.
#[derive(Args)]
pub(crate) struct RequestArgs {
    /// URL of the request, as https://HOST/PATH
    url: String,
    /// HTTP method; default: GET
    #[arg(long)]
    method: Option<String>,
    /// A request header, as 'NAME: VALUE'; may be repeated
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Address of the client; default: 127.0.0.1
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// Port of a Gateway that the client connects to; default: those of Ingresses
    #[arg(long, value_name = "NAMESPACE/NAME:PORT")]
    gateway: Option<String>,
    #[command(flatten)]
    proxy: ProxyAddress,
}

#[derive(Serialize)]
struct CertificateWithDays {
    #[serde(flatten)]
    row: CertificateRow,
    /// Whole days until the certificate expires; negative afterwards.
    days_left: Option<i64>,
}

pub(crate) fn routes(args: &RoutesArgs) -> Result<()> {
    if let Some(source) = &args.source {
        return gateways::routes(source, &args.table.output);
    }
    let args = &args.table;
    let table: Table = ask(args.proxy, "/table", &[])?;
    let header = ["host", "path", "ingress", "target", "front"];
    let wide = ["listener", "conditions", "canary"];
    print_rows(&args.output, &header, &wide, &table.routes)
}

pub(crate) fn certificates(args: &ProxyTableArgs) -> Result<()> {
    let table: Table = ask(args.proxy, "/table", &[])?;
    let rows = table
        .certificates
        .into_iter()
        .map(|row| CertificateWithDays {
            days_left: row.not_after.map(|end| days(table.time, end)),
            row,
        });
    let rows: Vec<CertificateWithDays> = rows.collect();
    let header = ["secret", "kind", "hosts", "days_left", "not_after"];
    print_rows(&args.output, &header, &["names"], &rows)
}

pub(super) fn explain(request: &RequestArgs, format: Format) -> Result<()> {
    let mut words = vec![(URL, request.url.as_str())];
    words.extend(
        request
            .method
            .iter()
            .map(|method| (METHOD, method.as_str())),
    );
    words.extend(
        request
            .headers
            .iter()
            .map(|header| (HEADER, header.as_str())),
    );
    words.extend(request.from.iter().map(|client| (CLIENT, client.as_str())));
    words.extend(request.gateway.iter().map(|port| (GATEWAY, port.as_str())));
    let explained: Explanation = ask(request.proxy, "/explain", &words)?;
    print(format, &explained, || text(&explained))
}

fn text(explained: &Explanation) -> String {
    let mut lines = vec![explained.request.clone()];
    let steps = explained.steps.iter().enumerate();
    lines.extend(steps.map(|(at, step)| format!("  {}. {step}", at + 1)));
    if let Some(answer) = &explained.answer {
        lines.push(format!("  answer {}: {}", answer.status, answer.says));
    }
    lines.extend(explained.backend.iter().map(backend));
    lines.join("\n")
}

fn backend(row: &BackendRow) -> String {
    let head = format!("  backend {}:{}", row.service, row.port);
    let endpoints = row.endpoints.iter().map(endpoint);
    std::iter::once(head)
        .chain(endpoints)
        .collect::<Vec<_>>()
        .join("\n")
}

fn endpoint(row: &EndpointRow) -> String {
    format!("    {}, weight {}, {}", row.address, row.weight, row.health)
}
