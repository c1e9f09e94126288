//! Which requests are answered, and what a browser may do with the response.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};

const HEADERS: [(HeaderName, &str); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
         img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
];

/// Refuses requests for other hosts, and sets security headers.
///
/// A malicious site may resolve its own name to the address of the page, and read the page as its own
/// (DNS rebinding). Its requests carry its name in `Host`, and are refused.
pub(crate) async fn guard(State(node): State<Arc<str>>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST);
    let mut answer = match host.is_some_and(|host| is_ours(host, &node)) {
        true => next.run(request).await,
        false => refusal(&node),
    };
    for (name, value) in HEADERS {
        let value = HeaderValue::from_static(value);
        answer.headers_mut().insert(name, value);
    }
    answer
}

fn refusal(node: &str) -> Response {
    let line =
        format!("the page is not served under this name: use an IP address, localhost or {node}\n");
    (StatusCode::MISDIRECTED_REQUEST, line).into_response()
}

fn is_ours(host: &HeaderValue, node: &str) -> bool {
    let Ok(authority) = Authority::try_from(host.as_bytes()) else {
        return false;
    };
    let name = authority.host();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    address.parse::<IpAddr>().is_ok()
        || ["localhost", node]
            .iter()
            .any(|ours| name.eq_ignore_ascii_case(ours))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::is_ours;

    #[test]
    fn only_addresses_and_names_of_this_node_are_answered() {
        for (host, wanted) in [
            ("127.0.0.1:10254", true),
            ("192.0.2.7", true),
            ("[::1]:10254", true),
            ("LocalHost:10254", true),
            ("node-1:10254", true),
            ("node-2", false),
            ("node-1.example.com", false),
            ("127.0.0.1.example.com:10254", false),
            ("localhost.", false),
            ("", false),
            ("a b", false),
        ] {
            let value = HeaderValue::from_static(host);
            assert_eq!(is_ours(&value, "node-1"), wanted, "{host}");
        }
    }
}
