//! Certificates of the proxy, if there is one.

use headgate_proxy::{CertificateKind, CertificateRow, Table};

use super::{Finding, Level};
use crate::{
    cli::days,
    http::client::{Place, ask},
};

const ABOUT: &str = "certificates";
/// A certificate should be renewed before so many days are left.
const SOON_DAYS: i64 = 14;

/// Nothing, if no proxy answers.
pub(super) fn examine(place: Place) -> Vec<Finding> {
    let Ok(table) = ask::<Table>(place, "/table", &[]) else {
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
            format!("all last for {SOON_DAYS} days and more"),
        )],
        false => found,
    }
}

fn finding(row: &CertificateRow, left: i64) -> Option<Finding> {
    let (level, end) = match left {
        ..-1 => (Level::Error, format!("ended {} ago", in_words(-left - 1))),
        -1 => (Level::Error, "ended in the last day".into()),
        0..SOON_DAYS => (Level::Warning, format!("ends in {}", in_words(left))),
        _ => return None,
    };
    let secret = row.secret.as_deref().unwrap_or_default();
    let hosts = match row.hosts.is_empty() {
        true => "every other host".into(),
        false => row.hosts.join(", "),
    };
    Some(Finding {
        level,
        ..Finding::warning(
            ABOUT,
            format!("that of Secret {secret}, for {hosts}, {end}"),
            "put a new one into the Secret; if cert-manager should have done so, see the events of \
             its Certificate",
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
    fn l79_certificates_are_told_of_before_they_end_and_after() {
        let row = CertificateRow {
            kind: CertificateKind::Hosts,
            hosts: vec!["a.example.com".into()],
            secret: Some("shop/tls".into()),
            names: Vec::new(),
            not_after: None,
        };
        let told = |left| finding(&row, left).map(|finding| (finding.level, finding.what));
        let line = |end: &str| format!("that of Secret shop/tls, for a.example.com, {end}");
        assert_eq!(told(14), None);
        assert_eq!(told(13), Some((Level::Warning, line("ends in 13 days"))));
        assert_eq!(told(0), Some((Level::Warning, line("ends in 0 days"))));
        assert_eq!(
            told(-1),
            Some((Level::Error, line("ended in the last day")))
        );
        assert_eq!(told(-2), Some((Level::Error, line("ended 1 day ago"))));
    }
}
