//! Requests whose endpoint is chosen by a hash of several variables.

use crate::{Request, Transport};

/// Values of `upstream-hash-by`. The host of each is `hashN.test`.
pub const HASHED: [&str; 5] = [
    "$request_uri$host",
    "${arg_user}-$http_x_tenant",
    "$uri$is_args$args",
    "$cookie_session$remote_addr",
    "$host/$arg_user",
];

/// The host of a value.
pub(crate) fn host(index: usize) -> String {
    format!("hash{index}.test")
}

/// Requests for the host of a value, of which many differ only in what some values do not contain.
pub fn hash_requests(index: usize) -> Vec<Request> {
    let mut requests = Vec::new();
    for target in ["/a", "/a?user=1", "/a?user=2", "/a?x=1&user=2", "/b?user=1"] {
        for (name, value) in [
            ("X-Tenant", "one"),
            ("X-Tenant", "two"),
            ("Cookie", "session=1"),
            ("Cookie", "session=2"),
            ("Cookie", "session=3; theme=dark"),
        ] {
            requests.push(Request {
                name: format!("GET {target} | {name}: {value}"),
                host: host(index),
                transport: Transport::Http,
                method: "GET".into(),
                target: target.into(),
                headers: vec![("Host".into(), host(index)), (name.into(), value.into())],
                body: String::new(),
            });
        }
    }
    requests
}
