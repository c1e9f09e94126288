//! Certificates of the proxy, if one runs here.

use headgate_proxy::{CertificateKind, CertificateRow, Table};

use super::{Finding, Level};
use crate::{
    proxy::client::{ProxyAddress, ask},
    view::days,
};

const ABOUT: &str = "certificates";
/// A certificate should be renewed earlier than this many days before it expires.
const SOON_DAYS: i64 = 14;

/// Returns no findings if no proxy answers.
pub(super) fn examine(proxy: ProxyAddress) -> Vec<Finding> {
    let Ok(table) = ask::<Table>(proxy, "/table", &[]) else {
        return Vec::new();
    };
    let rows = table.certificates.iter();
    let rows: Vec<_> = rows
        .filter(|row| row.kind != CertificateKind::SelfSigned)
        .collect();
    let left = |row: &CertificateRow| row.not_after.map(|end| days(table.time, end));
    let found = rows.iter().filter_map(|row| finding(row, left(row)?));
    let found: Vec<Finding> = found.collect();
    match found.is_empty() && !rows.is_empty() {
        true => vec![Finding::ok(
            ABOUT,
            format!("all are valid for {SOON_DAYS} days or more"),
        )],
        false => found,
    }
}

fn finding(row: &CertificateRow, left: i64) -> Option<Finding> {
    let (level, end) = match left {
        ..-1 => (Level::Error, format!("expired {} ago", in_words(-left - 1))),
        -1 => (Level::Error, "expired less than a day ago".into()),
        0..SOON_DAYS => (Level::Warning, format!("expires in {}", in_words(left))),
        _ => return None,
    };
    let secret = row.secret.as_deref().unwrap_or_default();
    let hosts = match row.hosts.is_empty() {
        true => "all other hosts".into(),
        false => row.hosts.join(", "),
    };
    Some(Finding {
        level,
        ..Finding::warning(
            ABOUT,
            format!("the certificate of Secret {secret}, for {hosts}, {end}"),
            "put a new certificate into the Secret; with cert-manager, see the events of its \
             Certificate",
        )
    })
}

fn in_words(days: i64) -> String {
    match days {
        1 => "1 day".into(),
        _ => format!("{days} days"),
    }
}

#[cfg(test)]
mod tests {
    use headgate_proxy::{CertificateKind, CertificateRow};

    use super::{Level, finding};

    #[test]
    fn l79_certificates_are_reported_before_and_after_they_expire() {
        let row = CertificateRow {
            kind: CertificateKind::Hosts,
            hosts: vec!["a.example.com".into()],
            secret: Some("shop/tls".into()),
            names: Vec::new(),
            not_after: None,
        };
        let report = |left| finding(&row, left).map(|finding| (finding.level, finding.what));
        let line =
            |end: &str| format!("the certificate of Secret shop/tls, for a.example.com, {end}");
        assert_eq!(report(14), None);
        assert_eq!(
            report(13),
            Some((Level::Warning, line("expires in 13 days")))
        );
        assert_eq!(report(0), Some((Level::Warning, line("expires in 0 days"))));
        assert_eq!(
            report(-1),
            Some((Level::Error, line("expired less than a day ago")))
        );
        assert_eq!(report(-2), Some((Level::Error, line("expired 1 day ago"))));
    }
}
