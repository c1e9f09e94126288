//! Headers between client and backend: hop-by-hop fields, fields that name the client, and changes by
//! operators.

use std::{borrow::Cow, net::IpAddr};

use bytes::BytesMut;
use headgate_model::edge::HeaderEdit;
use http::{HeaderMap, HeaderName, HeaderValue, Version, header};

use crate::{
    fields::{elements, first, has},
    http1::field,
    origin::{FORWARDED_FOR, FORWARDED_PORT, FORWARDED_PROTO, Origin},
};

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
/// Fields about the body and about cached copies, which a request that the proxy derives does not have.
pub(crate) const BODY_AND_CACHE: [HeaderName; 8] = [
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::EXPECT,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::RANGE,
];
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// CGI scripts read it as `HTTP_PROXY`, their own configuration (CVE-2016-5385).
const PROXY: HeaderName = HeaderName::from_static("proxy");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
/// The scheme once more: ingress-nginx sends these as well.
const FORWARDED_SCHEME: HeaderName = HeaderName::from_static("x-forwarded-scheme");
const SCHEME: HeaderName = HeaderName::from_static("x-scheme");
const ORIGINAL_FOR: HeaderName = HeaderName::from_static("x-original-forwarded-for");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Returns the request id of the client, or sets a random one.
pub(crate) fn request_id(headers: &mut HeaderMap) -> HeaderValue {
    if let Some(named) = headers.get(REQUEST_ID) {
        return named.clone();
    }
    let id = HeaderValue::from_bytes(&random_id());
    let id = id.unwrap_or(HeaderValue::from_static(""));
    headers.insert(REQUEST_ID, id.clone());
    id
}

/// A random request id: 32 hexadecimal digits.
pub(crate) fn random_id() -> [u8; 32] {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let random = fastrand::u128(..);
    std::array::from_fn(|place| DIGITS[(random >> (4 * place)) as usize & 15])
}

/// Removes hop-by-hop fields. `TE: trailers` stays: it says that the client itself accepts trailers.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let takes_trailers = has(headers, &header::TE, "trailers");
    for name in connection_options(headers).into_iter().flatten() {
        // `Host` concerns the request; without it nothing could be routed.
        if name != header::HOST {
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

/// Leaves one statement about the length of a response (RFC 9112, 6.3): `Transfer-Encoding` counts, else
/// one number. The HTTP library has refused different numbers.
pub(crate) fn end_framing(headers: &mut HeaderMap) {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
        return;
    }
    let named =
        first(headers, &header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    let is_one = headers
        .get_all(header::CONTENT_LENGTH)
        .iter()
        .nth(1)
        .is_none();
    let is_plain =
        |length: &HeaderValue| is_one && length.as_bytes().iter().all(u8::is_ascii_digit);
    if headers.get(header::CONTENT_LENGTH).is_none_or(is_plain) {
        return;
    }
    match named {
        Some(length) => drop(headers.insert(header::CONTENT_LENGTH, length.into())),
        None => drop(headers.remove(header::CONTENT_LENGTH)),
    }
}

/// Fields about framing, routing and proof, which trailers must not have (RFC 9110, 6.5.1).
const NOT_IN_TRAILERS: [HeaderName; 12] = [
    header::AUTHORIZATION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::HOST,
    header::SET_COOKIE,
    header::TRAILER,
    REQUEST_ID,
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];

/// Removes from trailers what a header could not carry past this proxy: fields of the connection, fields
/// that trailers must not have, fields that name the client, and those that `is_reserved` names. Names are
/// compared with `-` for `_`.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap, is_reserved: impl Fn(&str) -> bool) {
    strip_hop_by_hop(trailers);
    trailers.remove(header::TE);
    remove(trailers, |name| {
        let dashed = name.replace('_', "-");
        let is_known = |names: &[HeaderName]| names.iter().any(|known| *known == *dashed);
        is_known(&NOT_IN_TRAILERS)
            || is_known(&HOP_BY_HOP)
            || dashed == PROXY.as_str()
            || is_about_client(&dashed)
            || is_reserved(&dashed)
    });
}

/// Returns the field names in `Connection`.
fn connection_options(headers: &HeaderMap) -> Option<Vec<HeaderName>> {
    if !headers.contains_key(header::CONNECTION) {
        return None;
    }
    let names = elements(headers, &header::CONNECTION);
    Some(names.filter_map(|name| name.parse().ok()).collect())
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

/// What backends are sent about the client and its request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ForwardedInfo<'a> {
    pub(crate) peer: IpAddr,
    /// The address of the peer as text.
    pub(crate) peer_text: &'a HeaderValue,
    pub(crate) origin: Origin,
    pub(crate) prefix: Option<&'a str>,
}

/// Sets the headers that name the client, its host, scheme and port. Values from an untrusted peer are
/// replaced; of those from a trusted proxy the ones are kept that this proxy reads (see [`Origin`]), and
/// the peer's address is added to `X-Forwarded-For`.
pub(crate) fn set_forwarded(headers: &mut HeaderMap, arrival: ForwardedInfo<'_>) {
    let origin = arrival.origin;
    remove(headers, |name| {
        let dashed: Cow<'_, str> = match name.contains('_') {
            true => name.replace('_', "-").into(),
            false => name.into(),
        };
        let is_believed = origin.is_trusted && dashed == name;
        dashed == PROXY.as_str() || is_about_client(&dashed) && !is_believed
    });
    let scheme = HeaderValue::from_static(origin.scheme());
    for name in [FORWARDED_PROTO, FORWARDED_SCHEME, SCHEME] {
        headers.insert(name, scheme.clone());
    }
    headers.insert(FORWARDED_PORT, origin.port.into());
    let named = first(headers, &FORWARDED_HOST).and_then(|host| HeaderValue::from_str(host).ok());
    if let Some(host) = named.or_else(|| headers.get(header::HOST).cloned()) {
        headers.insert(FORWARDED_HOST, host);
    }
    let before = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .map(HeaderValue::as_bytes);
    let mut chain: Vec<&[u8]> = before.filter(|line| !line.is_empty()).collect();
    match chain.is_empty() {
        true => drop(headers.insert(FORWARDED_FOR, arrival.peer_text.clone())),
        false => {
            chain.push(arrival.peer_text.as_bytes());
            let chain = HeaderValue::from_bytes(&chain.join(&b", "[..]));
            let chain = chain.unwrap_or_else(|_| arrival.peer_text.clone());
            headers.insert(FORWARDED_FOR, chain);
        }
    }
    match origin.client == arrival.peer {
        true => drop(headers.insert(REAL_IP, arrival.peer_text.clone())),
        false => insert(headers, REAL_IP, &origin.client.to_string()),
    }
    if let Some(prefix) = arrival.prefix {
        insert(headers, FORWARDED_PREFIX, prefix);
    }
}

/// The fields that [`set_forwarded`] sets for every request of an untrusted peer, but for the host.
pub(crate) fn about(peer_text: &HeaderValue, origin: Origin) -> BytesMut {
    let mut out = BytesMut::new();
    let port = HeaderValue::from(origin.port);
    let scheme = HeaderValue::from_static(origin.scheme());
    for (name, value) in [
        (FORWARDED_PROTO, &scheme),
        (FORWARDED_SCHEME, &scheme),
        (SCHEME, &scheme),
        (FORWARDED_PORT, &port),
        (FORWARDED_FOR, peer_text),
        (REAL_IP, peer_text),
    ] {
        field(&mut out, &name, value);
    }
    out
}

/// Whether a header names the client or the address it requested.
fn is_about_client(name: &str) -> bool {
    [header::FORWARDED, REAL_IP, SCHEME, ORIGINAL_FOR]
        .iter()
        .any(|known| known == name)
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
pub(crate) fn remove_lookalikes(headers: &mut HeaderMap, changes: &[HeaderEdit]) {
    remove(headers, |name| {
        name.contains('_') && edits(changes, &name.replace('_', "-"))
    });
}

/// Whether changes concern a header.
pub(crate) fn edits(changes: &[HeaderEdit], name: &str) -> bool {
    changes.iter().any(|edit| match edit {
        HeaderEdit::Set(edited, _) | HeaderEdit::Add(edited, _) | HeaderEdit::Remove(edited) => {
            edited == name
        }
    })
}

/// Applies the changes of an operator, in order.
pub(crate) fn edit(headers: &mut HeaderMap, changes: &[HeaderEdit]) {
    for edit in changes {
        match edit {
            HeaderEdit::Set(name, value) => {
                if let Ok(name) = HeaderName::try_from(name.as_str()) {
                    insert(headers, name, value);
                }
            }
            HeaderEdit::Add(name, value) => {
                let name = HeaderName::try_from(name.as_str());
                if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
                    headers.append(name, value);
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
    use headgate_model::edge::HeaderEdit;
    use http::{HeaderMap, HeaderName, HeaderValue, Version};

    use super::{ForwardedInfo, clean_trailers, edit, set_forwarded, strip_hop_by_hop, upgrade};
    use crate::origin::Origin;

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

    fn sent(fields: &[(&'static str, &'static str)], origin: Origin) -> HeaderMap {
        let mut headers = headers(fields);
        let arrival = ForwardedInfo {
            peer: "10.0.0.1".parse().unwrap(),
            peer_text: &HeaderValue::from_static("10.0.0.1"),
            origin,
            prefix: None,
        };
        set_forwarded(&mut headers, arrival);
        headers
    }

    fn origin(client: &str, is_trusted: bool) -> Origin {
        Origin {
            client: client.parse().unwrap(),
            is_secure: is_trusted,
            port: if is_trusted { 8443 } else { 80 },
            is_trusted,
        }
    }

    #[test]
    fn l22_headers_of_untrusted_clients_are_replaced() {
        let forged = [
            ("host", "A.b:80"),
            ("x-forwarded-for", "9.9.9.9"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil"),
            ("x-forwarded-port", "1"),
            ("x-forwarded-ssl", "on"),
            ("x_forwarded_for", "9.9.9.9"),
            ("x-scheme", "https"),
            ("x-original-forwarded-for", "9.9.9.9"),
            ("x-real-ip", "9.9.9.9"),
            ("forwarded", "for=9.9.9.9"),
            ("proxy", "evil"),
        ];
        let expected = headers(&[
            ("host", "A.b:80"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-scheme", "http"),
            ("x-scheme", "http"),
            ("x-forwarded-host", "A.b:80"),
            ("x-forwarded-port", "80"),
            ("x-real-ip", "10.0.0.1"),
        ]);
        assert_eq!(sent(&forged, origin("10.0.0.1", false)), expected);
    }

    #[test]
    fn l131_headers_of_trusted_proxies_are_one_value_each() {
        let received = [
            ("host", "a.b"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-proto", "HTTPS,http"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "shop.example:8443, inner"),
            ("x-forwarded-port", "8443"),
            ("x-forwarded-ssl", "on"),
            ("x_forwarded_for", "9.9.9.9"),
        ];
        let expected = headers(&[
            ("host", "a.b"),
            ("x-forwarded-for", "6.6.6.6, 192.0.2.1, 10.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-scheme", "https"),
            ("x-scheme", "https"),
            ("x-forwarded-host", "shop.example:8443"),
            ("x-forwarded-port", "8443"),
            ("x-forwarded-ssl", "on"),
            ("x-real-ip", "192.0.2.1"),
        ]);
        assert_eq!(sent(&received, origin("192.0.2.1", true)), expected);
    }

    #[test]
    fn l128_a_response_has_one_length() {
        for (fields, expected) in [
            (&[("content-length", "5")][..], Some("5")),
            (&[("content-length", "2, 2")], Some("2")),
            (
                &[("content-length", "2"), ("content-length", "2")],
                Some("2"),
            ),
            (
                &[("content-length", "1"), ("transfer-encoding", "chunked")],
                None,
            ),
            (&[("transfer-encoding", "chunked")], None),
            (&[], None),
        ] {
            let mut all = headers(fields);
            super::end_framing(&mut all);
            let found: Vec<_> = all.get_all("content-length").iter().collect();
            assert_eq!(
                found,
                expected.into_iter().collect::<Vec<_>>(),
                "{fields:?}"
            );
        }
    }

    #[test]
    fn l123_trailers_carry_nothing_that_headers_may_not() {
        let mut trailers = headers(&[
            ("x-checksum", "1"),
            ("grpc-status", "0"),
            ("x-auth-user", "admin"),
            ("x_auth_user", "admin"),
            ("authorization", "Basic x"),
            ("cookie", "a=1"),
            ("content-length", "3"),
            ("content_length", "3"),
            ("transfer-encoding", "chunked"),
            ("host", "evil"),
            ("te", "trailers"),
            ("connection", "x-named"),
            ("x-named", "1"),
            ("x-real-ip", "6.6.6.6"),
            ("x_real_ip", "6.6.6.6"),
            ("x-forwarded-for", "6.6.6.6"),
            ("forwarded", "for=6.6.6.6"),
            ("proxy", "evil"),
        ]);
        clean_trailers(&mut trailers, |name| name == "x-auth-user");
        assert_eq!(
            trailers,
            headers(&[("x-checksum", "1"), ("grpc-status", "0")])
        );
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
