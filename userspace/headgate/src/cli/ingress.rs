//! What a proxy serves.

use anyhow::Result;
use clap::Args;
use headgate_proxy::{BackendRow, CertificateRow, EndpointRow, Explained, Table};
use jiff::Timestamp;
use serde::Serialize;

use super::output::{Form, Options, print, print_rows};
use crate::{
    http::client::{self, Place},
    proxy::{CLIENT, HEADER, METHOD, URL},
};

#[derive(Args)]
pub(crate) struct Served {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    place: Place,
}

/// A request that is to be explained.
#[derive(Args)]
pub(crate) struct Request {
    /// What is asked for, as https://HOST/PATH
    url: String,
    /// The method; default: GET
    #[arg(long)]
    method: Option<String>,
    /// A header, as 'NAME: VALUE'; may be given again
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Who asks; default: this machine
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    #[command(flatten)]
    place: Place,
}

#[derive(Serialize)]
struct Certificate {
    #[serde(flatten)]
    row: CertificateRow,
    /// Whole days; negative once it has ended.
    days_left: Option<i64>,
}

pub(crate) fn routes(command: &Served) -> Result<()> {
    let table: Table = client::ask(command.place, "/table", &[])?;
    let header = ["host", "path", "ingress", "target", "front"];
    let wide = ["conditions", "canary"];
    print_rows(&command.options, &header, &wide, &table.routes)
}

pub(crate) fn certificates(command: &Served) -> Result<()> {
    let table: Table = client::ask(command.place, "/table", &[])?;
    let rows = table.certificates.into_iter().map(|row| Certificate {
        days_left: row.not_after.map(|end| days(table.time, end)),
        row,
    });
    let rows: Vec<Certificate> = rows.collect();
    let header = ["secret", "kind", "hosts", "days_left", "not_after"];
    print_rows(&command.options, &header, &["names"], &rows)
}

/// Whole days from one moment to another.
pub(crate) fn days(now: Timestamp, end: Timestamp) -> i64 {
    const DAY_S: i64 = 24 * 60 * 60;
    (end.as_second() - now.as_second()).div_euclid(DAY_S)
}

pub(super) fn explain(request: &Request, form: Form) -> Result<()> {
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
    let explained: Explained = client::ask(request.place, "/explain", &words)?;
    print(form, &explained, || text(&explained))
}

fn text(explained: &Explained) -> String {
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

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::days;

    #[test]
    fn l79_a_certificate_that_ended_has_less_than_no_days_left() {
        let at = |second| Timestamp::from_second(second).unwrap();
        for (end, left) in [(86_400, 1), (86_399, 0), (0, 0), (-1, -1), (-86_401, -2)] {
            assert_eq!(days(at(0), at(end)), left, "{end}");
        }
    }
}
