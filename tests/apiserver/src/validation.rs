//! Validation of names, and of kinds other than Service.

use std::net::IpAddr;

use serde_json::Value;

use crate::error::Cause;
use crate::resource::Resource;

/// Whether the text has the characters of a label; `first` says which may be the first one.
fn has_label_form(text: &str, first: impl Fn(char) -> bool) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    text.chars().all(inner) && text.starts_with(first) && !text.ends_with('-')
}

/// Whether the name is an RFC 1035 label, as for Services.
pub(crate) fn is_dns1035_label(text: &str) -> bool {
    text.len() <= 63 && has_label_form(text, |c| c.is_ascii_lowercase())
}

/// Whether the name is an RFC 1123 label, as for Namespaces and ports.
pub(crate) fn is_dns1123_label(text: &str) -> bool {
    text.len() <= 63 && has_label_form(text, is_lowercase_or_digit)
}

/// Whether the name is an RFC 1123 subdomain, as for most objects. The API limits its length, not that of its labels.
pub(crate) fn is_dns1123_subdomain(text: &str) -> bool {
    let mut labels = text.split('.');
    text.len() <= 253 && labels.all(|label| has_label_form(label, is_lowercase_or_digit))
}

fn is_lowercase_or_digit(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

/// The reasons why an object that is not a Service cannot be stored.
pub(crate) fn check(resource: &Resource, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let name = &object["metadata"]["name"];
    let text = name.as_str().unwrap_or_default();
    let valid = match resource.table {
        // Checked with the rest of the Service.
        "services" => true,
        "namespaces" => is_dns1123_label(text),
        _ => is_dns1123_subdomain(text),
    };
    if !valid {
        causes.push(Cause::invalid(
            "metadata.name",
            name,
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
        ));
    }
    if resource.table == "endpointslices" {
        check_endpoint_slice(object, old, &mut causes);
    }
    causes
}

fn check_endpoint_slice(slice: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let kind = &slice["addressType"];
    let address_type = kind.as_str().unwrap_or_default();
    if address_type.is_empty() {
        causes.push(Cause::required("addressType", ""));
        return;
    }
    if !["FQDN", "IPv4", "IPv6"].contains(&address_type) {
        causes.push(Cause::not_supported(
            "addressType",
            kind,
            &["FQDN", "IPv4", "IPv6"],
        ));
        return;
    }
    if old.is_some_and(|old| old["addressType"] != *kind) {
        causes.push(Cause::invalid("addressType", kind, "field is immutable"));
    }
    for (at, endpoint) in slice["endpoints"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let addresses = endpoint["addresses"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        if addresses.is_empty() {
            let field = format!("endpoints[{at}].addresses");
            causes.push(Cause::required(field, "must contain at least 1 address"));
        }
        for (index, address) in addresses.iter().enumerate() {
            let parsed = address.as_str().and_then(|a| a.parse::<IpAddr>().ok());
            let fits = match address_type {
                "IPv4" => parsed.is_some_and(|a| a.is_ipv4()),
                "IPv6" => parsed.is_some_and(|a| a.is_ipv6()),
                _ => true,
            };
            let field = format!("endpoints[{at}].addresses[{index}]");
            if !fits {
                let why = format!("must be an {address_type} address");
                causes.push(Cause::invalid(field, address, &why));
            } else if parsed.is_some_and(|a| a.is_loopback()) {
                let why = "may not be in the loopback range (127.0.0.0/8, ::1/128)";
                causes.push(Cause::invalid(field, address, why));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resource::find;

    #[test]
    fn names_follow_their_rfc() {
        assert!(is_dns1035_label("a-1"));
        assert!(!is_dns1035_label("1a"));
        assert!(!is_dns1035_label("a-"));
        assert!(!is_dns1035_label("A"));
        assert!(!is_dns1035_label(""));
        assert!(!is_dns1035_label(&"a".repeat(64)));
        assert!(is_dns1123_label("1a"));
        assert!(is_dns1123_subdomain("a.17f"));
        assert!(!is_dns1123_subdomain("a..b"));
        assert!(!is_dns1123_label(&"a".repeat(64)));
        assert!(is_dns1123_subdomain(&"a".repeat(253)));
        assert!(!is_dns1123_subdomain(&"a".repeat(254)));
    }

    #[test]
    fn an_endpoint_of_the_wrong_family_is_refused() {
        let slices = find("discovery.k8s.io", "v1", "endpointslices").unwrap();
        let slice = json!({"metadata": {"name": "a"}, "addressType": "IPv4",
                           "endpoints": [{"addresses": ["fd00::1"]}, {"addresses": ["10.0.0.1"]}]});
        let causes = check(&slices, &slice, None);
        assert_eq!(causes.len(), 1);
        assert_eq!(causes[0].field, "endpoints[0].addresses[0]");
    }
}
