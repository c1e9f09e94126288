//! Values of annotations.

use std::{net::IpAddr, str::FromStr, time::Duration};

use ipnet::IpNet;

use crate::edge::{Rewrite, Template, is_framing};

/// As Go reads them (`strconv.ParseBool`), and as nginx does.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" | "on" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" | "off" => Ok(false),
        _ => Err(format!("`{text}` is neither true nor false")),
    }
}

pub(super) fn number<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("`{text}`: {error}"))
}

/// A number that is not 0.
pub(super) fn positive(text: &str) -> Result<u32, String> {
    match number(text)? {
        0 => Err("must not be 0".into()),
        number => Ok(number),
    }
}

/// Seconds, or a number with one of the units `ms`, `s`, `m`, `h`; not 0.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    let count: u64 = number(digits)?;
    let duration = match text.strip_prefix(digits) {
        Some("ms") => Duration::from_millis(count),
        Some("" | "s") => Duration::from_secs(count),
        Some("m") => Duration::from_secs(count.saturating_mul(60)),
        Some("h") => Duration::from_secs(count.saturating_mul(3600)),
        _ => {
            return Err(format!(
                "`{text}` is not a time such as 5, 30s, 500ms or 2m"
            ));
        }
    };
    match duration.is_zero() {
        true => Err("must not be 0".into()),
        false => Ok(duration),
    }
}

/// Bytes, or a number with one of the units `k`, `m`, `g`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    let count: u64 = number(digits)?;
    let unit: u64 = match text
        .strip_prefix(digits)
        .map(str::to_ascii_lowercase)
        .as_deref()
    {
        Some("") => 1,
        Some("k") => 1 << 10,
        Some("m") => 1 << 20,
        Some("g") => 1 << 30,
        _ => return Err(format!("`{text}` is not a size such as 512, 8k, 10m or 1g")),
    };
    count
        .checked_mul(unit)
        .ok_or_else(|| format!("`{text}` is too large"))
}

/// What stands separated by commas.
pub(super) fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

/// Refuses an empty list: it would mean the opposite of what was intended.
pub(super) fn not_empty<T>(items: Vec<T>) -> Result<Vec<T>, String> {
    match items.is_empty() {
        true => Err("is empty".into()),
        false => Ok(items),
    }
}

/// Networks, or addresses, separated by commas; at least one.
pub(super) fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    let network = |item: &str| {
        let address = item.parse::<IpAddr>().map(IpNet::from);
        let network = item.parse::<IpNet>();
        network.or_else(|error| address.map_err(|_no_address| format!("`{item}`: {error}")))
    };
    let networks: Vec<IpNet> = list(text).map(network).collect::<Result<_, _>>()?;
    not_empty(networks)
}

/// The name of a header that may be set, in lower case.
pub(super) fn settable(text: &str) -> Result<String, String> {
    let name = token(text)?.to_ascii_lowercase();
    match is_framing(&name) {
        true => Err(format!("`{name}` cannot be set")),
        false => Ok(name),
    }
}

/// A field name or method (RFC 9110, 5.6.2).
pub(super) fn token(text: &str) -> Result<String, String> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    match !text.is_empty() && text.bytes().all(is_token) {
        true => Ok(text.into()),
        false => Err(format!("`{text}` is not a name of a header or method")),
    }
}

/// A field value: no control characters (RFC 9110, 5.5).
pub(super) fn field_value(text: &str) -> Result<String, String> {
    let is_visible = |byte: u8| (b' '..=b'~').contains(&byte) || byte == b'\t';
    match text.bytes().all(is_visible) {
        true => Ok(text.trim().into()),
        false => Err("has characters that are not allowed in a header".into()),
    }
}

/// A path with leading `/`, valid in a request line.
pub(super) fn path(text: &str) -> Result<String, String> {
    let is_fit = |byte: u8| (b'!'..=b'~').contains(&byte) && !b"\"<>\\^`{|}#".contains(&byte);
    match text.starts_with('/') && text.bytes().all(is_fit) {
        true => Ok(text.into()),
        false => Err(format!("`{text}` is not a path")),
    }
}

/// A host name, perhaps with a port.
pub(super) fn host(text: &str) -> Result<String, String> {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    match !text.is_empty() && text.bytes().all(is_fit) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(format!("`{text}` is not a host")),
    }
}

/// The host of a rule: a name, perhaps with `*.` in front.
pub(super) fn rule_host(text: &str) -> Result<String, String> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(is_fit);
    match name.split('.').all(is_label) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(format!("`{text}` is not a host of a rule")),
    }
}

/// A Service and the number of its port: `name:port`.
pub(super) fn service_port(text: &str) -> Result<(String, u16), String> {
    let (name, port) = text
        .split_once(':')
        .ok_or(format!("`{text}` is not NAME:PORT"))?;
    Ok((plain_name(name)?, number(port)?))
}

/// Refuses what cannot be in an address, in the text between variables.
fn address(text: &str) -> Result<Template, String> {
    let template = Template::parse(text)?;
    let plain = template.render(|_, _| {});
    let is_fit = |byte: u8| (b'!'..=b'~').contains(&byte) && !b"\"<>\\^`{|}".contains(&byte);
    match plain.bytes().all(is_fit) {
        true => Ok(template),
        false => Err(format!(
            "`{text}` has characters that an address cannot have"
        )),
    }
}

/// Whether an address has a scheme that clients can be redirected to.
fn is_absolute(text: &str) -> bool {
    let starts = ["http://", "https://", "$scheme://", "${scheme}://"];
    let lower = text.to_ascii_lowercase();
    starts.iter().any(|start| lower.starts_with(start))
}

/// An `http` or `https` address, or a path of the same host, with variables.
pub(super) fn location(text: &str) -> Result<Template, String> {
    match is_absolute(text) || text.starts_with('/') {
        true => address(text),
        false => Err(format!("`{text}` is not an address to redirect to")),
    }
}

/// A path with variables, or an address to redirect to. A query in it comes before that of the request;
/// `?` at its end removes that, as in nginx.
pub(super) fn rewrite(text: &str) -> Result<Rewrite, String> {
    let is_redirect = is_absolute(text);
    if !is_redirect && !text.starts_with(['/', '$']) {
        return Err(format!(
            "`{text}` is neither a path nor an address to redirect to"
        ));
    }
    let (target, query) = match text.split_once('?') {
        Some((target, query)) => (target, Some(query)),
        None => (text, None),
    };
    let query = query.map(|query| query.strip_suffix('?').unwrap_or(query));
    let query = query.filter(|query| !query.is_empty()).map(address);
    Ok(Rewrite {
        target: address(target)?,
        query: query.transpose()?,
        keeps_query: !text.ends_with('?'),
        is_redirect,
    })
}

/// A value of a header, with variables.
pub(super) fn header_text(text: &str) -> Result<Template, String> {
    Template::parse(&field_value(text)?)
}

/// An address with one of these schemes, without user or fragment.
pub(super) fn url(text: &str, schemes: &[&str]) -> Result<String, String> {
    let bad = || {
        format!(
            "`{text}` is not an address that begins with {}://",
            schemes.join(":// or ")
        )
    };
    let (scheme, rest) = text.split_once("://").ok_or_else(bad)?;
    let (authority, _) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let is_fit = |byte: u8| (b'!'..=b'~').contains(&byte) && !b"\"<>\\^`{|}#$".contains(&byte);
    match schemes.contains(&scheme) && host(authority).is_ok() && rest.bytes().all(is_fit) {
        true => Ok(text.into()),
        false => Err(bad()),
    }
}

/// The name of an object.
pub(super) fn plain_name(text: &str) -> Result<String, String> {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    match !text.is_empty() && text.bytes().all(is_fit) {
        true => Ok(text.into()),
        false => Err(format!("`{text}` is not a name of an object")),
    }
}

/// `namespace/name`, or a name in the namespace of the Ingress.
pub(super) fn object_name(text: &str) -> Result<(Option<String>, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) => Ok((Some(plain_name(namespace)?), plain_name(name)?)),
        None => Ok((None, plain_name(text)?)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{duration, field_value, host, location, networks, path, size, token, url};

    #[test]
    fn times_and_sizes_have_units() {
        assert_eq!(duration("60"), Ok(Duration::from_secs(60)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(size("8k"), Ok(8192));
        assert_eq!(size("1M"), Ok(1 << 20));
        for text in ["", "0", "5x", "-1", "1.5s"] {
            duration(text).unwrap_err();
        }
        for text in ["", "k", "1q", "99999999999g"] {
            size(text).unwrap_err();
        }
    }

    #[test]
    fn characters_that_end_a_header_or_line_are_refused() {
        for text in ["a\r\nb", "a\nb", "a\0b", "ä"] {
            field_value(text).unwrap_err();
            token(text).unwrap_err();
            host(text).unwrap_err();
            path(&format!("/{text}")).unwrap_err();
            location(&format!("/{text}")).unwrap_err();
        }
        for text in [
            "http://a\r\nb",
            "http://u@a/",
            "http:///",
            "http://$http_host/",
            "file:///a",
            "a",
        ] {
            url(text, &["http"]).unwrap_err();
        }
        assert!(url("http://a.b:80/c?d=e", &["http"]).is_ok());
        location("javascript:alert(1)").unwrap_err();
        location("$scheme://$no_such_host/").unwrap_err();
        assert!(location("$scheme://www.example.com$request_uri").is_ok());
    }

    #[test]
    fn networks_are_ranges_or_addresses() {
        assert_eq!(networks("10.0.0.0/8, ::1").unwrap().len(), 2);
        networks("10.0.0.0/33").unwrap_err();
        networks(" , ").unwrap_err();
    }
}
