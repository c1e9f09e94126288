//! Names of objects and hosts, checked as the API server does.

use std::net::IpAddr;

fn is_label(text: &str) -> bool {
    let is_inner = |letter: char| matches!(letter, 'a'..='z' | '0'..='9' | '-');
    let is_outer = |text: &str| !text.is_empty() && !text.starts_with('-') && !text.ends_with('-');
    text.len() <= 63 && is_outer(text) && text.chars().all(is_inner)
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// A host, perhaps with `*.` in front for any one label. Returned in lower case and without final
/// dot.
pub(crate) fn host(text: &str) -> Result<String, String> {
    let host = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if host.parse::<IpAddr>().is_ok() {
        return Err(format!("`{text}` must be a DNS name, not an IP address"));
    }
    match is_subdomain(host.strip_prefix("*.").unwrap_or(&host)) {
        true => Ok(host),
        false => Err(format!(
            "`{text}` is not a DNS name, with or without `*.` in front"
        )),
    }
}

/// The name of a Service.
pub(super) fn service(text: &str) -> Result<String, String> {
    match is_label(text) {
        true => Ok(text.into()),
        false => Err(format!("`{text}` is not a valid name of a Service")),
    }
}

/// The name of a Secret.
pub(super) fn secret(text: &str) -> Result<String, String> {
    match is_subdomain(text) {
        true => Ok(text.into()),
        false => Err(format!("`{text}` is not a valid name of a Secret")),
    }
}

/// The name of a port (RFC 6335, section 5.1).
pub(super) fn port(text: &str) -> Result<String, String> {
    let has_letter = text.contains(|letter: char| letter.is_ascii_lowercase());
    match text.len() <= 15 && is_label(text) && has_letter && !text.contains("--") {
        true => Ok(text.into()),
        false => Err(format!("`{text}` is not a valid name of a port")),
    }
}
