//! Headers between client and backend: hop-by-hop fields, fields that name the client, and changes by
//! operators.

use std::{borrow::Cow, net::IpAddr};

use headgate_model::ingress::HeaderEdit;
use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use ipnet::IpNet;

/// Hop-by-hop fields (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// CGI scripts read it as `HTTP_PROXY`, their own configuration (CVE-2016-5385).
const PROXY: HeaderName = HeaderName::from_static("proxy");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Removes hop-by-hop fields. `TE: trailers` stays: it says that the client itself accepts trailers.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let takes_trailers = takes_trailers(headers);
    if let Some(named) = connection_options(headers) {
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    headers.remove(PROXY_CONNECTION);
    if takes_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

fn takes_trailers(headers: &HeaderMap) -> bool {
    let fields = headers.get_all(header::TE).iter();
    let texts = fields.filter_map(|value| value.to_str().ok());
    texts
        .flat_map(|text| text.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

/// Returns the field names in `Connection`.
fn connection_options(headers: &HeaderMap) -> Option<Vec<HeaderName>> {
    if !headers.contains_key(header::CONNECTION) {
        return None;
    }
    let fields = headers.get_all(header::CONNECTION).iter();
    let texts = fields.filter_map(|value| value.to_str().ok());
    let names = texts.flat_map(|text| text.split(','));
    Some(names.filter_map(|name| name.trim().parse().ok()).collect())
}

/// Returns the protocol that a client asks to switch to. Not `h2c`: requests inside of it would reach
/// the backend without any rule applied.
pub(crate) fn upgrade(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    let options = connection_options(headers)?;
    let is_asked = version == Version::HTTP_11 && options.contains(&header::UPGRADE);
    let protocol = headers.get(header::UPGRADE).filter(|_| is_asked)?;
    let mut names = protocol.to_str().ok()?.split(',');
    let is_h2c = |name: &str| name.trim().to_ascii_lowercase().starts_with("h2c");
    (!names.any(is_h2c)).then(|| protocol.clone())
}

/// Returns the address of the client: the last one in the chain of proxies that is not trusted.
pub(crate) fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(&address));
    if !is_trusted(peer) {
        return peer;
    }
    let fields = headers.get_all(FORWARDED_FOR).iter();
    let texts: Vec<&str> = fields.filter_map(|value| value.to_str().ok()).collect();
    let mut client = peer;
    for text in texts.iter().rev().flat_map(|text| text.rsplit(',')) {
        let Ok(address) = text.trim().parse() else {
            break;
        };
        client = address;
        if !is_trusted(address) {
            break;
        }
    }
    client
}

/// What backends are sent about the client and its request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ForwardedInfo<'a> {
    pub(crate) peer: IpAddr,
    /// The address of the peer as text.
    pub(crate) peer_text: &'a HeaderValue,
    pub(crate) client: IpAddr,
    pub(crate) is_secure: bool,
    pub(crate) port: u16,
    pub(crate) host: &'a str,
    pub(crate) prefix: Option<&'a str>,
}

/// Sets the headers that name the client. Values from an untrusted peer are replaced; values from a
/// trusted proxy are kept, and its address is added to `X-Forwarded-For`.
pub(crate) fn set_forwarded(headers: &mut HeaderMap, arrival: ForwardedInfo<'_>, is_trusted: bool) {
    remove(headers, |name| {
        let dashed: Cow<'_, str> = match name.contains('_') {
            true => name.replace('_', "-").into(),
            false => name.into(),
        };
        let is_believed = is_trusted && dashed == name;
        dashed == PROXY.as_str() || is_about_client(&dashed) && !is_believed
    });
    let scheme = if arrival.is_secure { "https" } else { "http" };
    let known = |headers: &HeaderMap, name: &HeaderName| is_trusted && headers.contains_key(name);
    if !known(headers, &FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme));
    }
    if !known(headers, &FORWARDED_HOST) {
        // Usually the same as `Host`, whose bytes can be shared.
        let named = headers.get(header::HOST);
        match named.filter(|named| *named == arrival.host).cloned() {
            Some(host) => drop(headers.insert(FORWARDED_HOST, host)),
            None => insert(headers, FORWARDED_HOST, arrival.host),
        }
    }
    if !known(headers, &FORWARDED_PORT) {
        headers.insert(FORWARDED_PORT, arrival.port.into());
    }
    match is_trusted.then(|| headers.get(FORWARDED_FOR)).flatten() {
        Some(before) => {
            let before = before.to_str().unwrap_or_default();
            let chain = format!("{before}, {}", arrival.peer);
            insert(headers, FORWARDED_FOR, &chain);
        }
        None => drop(headers.insert(FORWARDED_FOR, arrival.peer_text.clone())),
    }
    match arrival.client == arrival.peer {
        true => drop(headers.insert(REAL_IP, arrival.peer_text.clone())),
        false => insert(headers, REAL_IP, &arrival.client.to_string()),
    }
    if let Some(prefix) = arrival.prefix {
        insert(headers, FORWARDED_PREFIX, prefix);
    }
}

/// Whether a header names the client or the address it requested.
fn is_about_client(name: &str) -> bool {
    name == header::FORWARDED.as_str()
        || name == REAL_IP.as_str()
        || name.starts_with("x-forwarded-")
}

fn remove(headers: &mut HeaderMap, is_bad: impl Fn(&str) -> bool) {
    let bad = headers.keys().filter(|name| is_bad(name.as_str()));
    for name in bad.cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
}

/// Removes headers that differ from a header of `edits` only by `_` for `-`: CGI reads both as one
/// variable.
pub(crate) fn remove_lookalikes(headers: &mut HeaderMap, edits: &[HeaderEdit]) {
    let is_edited = |name: &str| {
        edits.iter().any(|edit| match edit {
            HeaderEdit::Set(edited, _) | HeaderEdit::Remove(edited) => edited == name,
        })
    };
    remove(headers, |name| {
        name.contains('_') && is_edited(&name.replace('_', "-"))
    });
}

/// Applies the changes of an operator, in order.
pub(crate) fn edit(headers: &mut HeaderMap, edits: &[HeaderEdit]) {
    for edit in edits {
        match edit {
            HeaderEdit::Set(name, value) => {
                if let Ok(name) = HeaderName::try_from(name.as_str()) {
                    insert(headers, name, value);
                }
            }
            HeaderEdit::Remove(name) => drop(headers.remove(name.as_str())),
        }
    }
}

/// Sets a header. If `value` is not a valid header value, the header is removed.
pub(crate) fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    match HeaderValue::try_from(value) {
        Ok(value) => drop(headers.insert(name, value)),
        Err(_control_characters) => drop(headers.remove(name)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use headgate_model::ingress::HeaderEdit;
    use http::{HeaderMap, HeaderName, HeaderValue, Version};

    use super::{ForwardedInfo, client, edit, set_forwarded, strip_hop_by_hop, upgrade};

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let fields = fields.iter().map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        // `append`, so that a name can occur twice.
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn l21_hop_by_hop_fields_are_removed() {
        let mut all = headers(&[
            ("connection", "close, X-Private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip, trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("x-kept", "1"),
        ]);
        assert_eq!(
            upgrade(Version::HTTP_11, &all),
            None,
            "Connection does not name it"
        );
        strip_hop_by_hop(&mut all);
        assert_eq!(all, headers(&[("te", "trailers"), ("x-kept", "1")]));
    }

    #[test]
    fn l22_untrusted_clients_cannot_name_their_address() {
        let sent = headers(&[
            ("x-forwarded-for", "9.9.9.9, 8.8.8.8"),
            ("x-forwarded-proto", "https"),
        ]);
        let peer: IpAddr = "10.0.0.1".parse().unwrap();
        let peer_text = HeaderValue::from_static("10.0.0.1");
        let arrival = |client| ForwardedInfo {
            peer,
            peer_text: &peer_text,
            client,
            is_secure: false,
            port: 80,
            host: "a.b",
            prefix: None,
        };
        assert_eq!(client(peer, &sent, &[]), peer);
        let mut out = sent.clone();
        set_forwarded(&mut out, arrival(peer), false);
        assert_eq!(out["x-forwarded-for"], "10.0.0.1");
        assert_eq!(out["x-forwarded-proto"], "http");
        assert_eq!(out["x-real-ip"], "10.0.0.1");

        let trusted = ["10.0.0.0/8".parse().unwrap(), "8.8.8.8/32".parse().unwrap()];
        let behind = client(peer, &sent, &trusted);
        assert_eq!(behind, "9.9.9.9".parse::<IpAddr>().unwrap());
        let mut out = sent;
        set_forwarded(&mut out, arrival(behind), true);
        assert_eq!(out["x-forwarded-for"], "9.9.9.9, 8.8.8.8, 10.0.0.1");
        assert_eq!(out["x-forwarded-proto"], "https");
        assert_eq!(out["x-real-ip"], "9.9.9.9");
    }

    #[test]
    fn edits_are_applied_in_order() {
        let mut out = headers(&[("x-a", "1"), ("x-a", "2"), ("x-b", "1")]);
        edit(
            &mut out,
            &[
                HeaderEdit::Set("x-a".into(), "3".into()),
                HeaderEdit::Remove("x-b".into()),
            ],
        );
        assert_eq!(out, headers(&[("x-a", "3")]));
    }
}
