//! Requests that are relayed as bytes, beside the same requests that are not.

use std::{net::SocketAddr, sync::Arc, sync::Mutex};

use headgate_model::{edge::Secret, ingress::Objects};
use headgate_proxy::Settings;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    client::Client,
    setup::{HOST, Setup, name, objects},
};

/// A host whose route has a condition that every client meets: its requests take the general way.
const GENERAL: &str = "b.test";

/// Responses of the backend to `/0`, `/1` and so on. A connection ends after those that do not say how long they are.
const ANSWERS: [&str; 24] = [
    "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nServer: own\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n",
    "HTTP/1.1 404 Not Here\r\ncontent-length: 2\r\nX-A: 1\r\nx-a: 2\r\n\r\nno",
    "HTTP/1.1 204 No Content\r\nX-B: \u{e9}\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\nContent-Length: 7\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nTrailer: X-T\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n",
    "HTTP/1.1 200 OK\r\n\r\nuntil the end",
    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx",
    "HTTP/1.1 200 OK\r\nConnection: X-Own, keep-alive\r\nX-Own: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 1\r\n\r\nx",
    "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: x\r\nUpgrade: h2\r\nContent-Length: 1\r\n\r\nx",
    "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nxy",
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nxy",
    "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nxy",
    "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx",
    "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    "HTTP/1.1 502 Bad\r\nContent-Length: 1\r\n\r\nx",
    "HTTP/1.1 200\r\nStrict-Transport-Security: max-age=1\r\nContent-Length: 1\r\n\r\nx",
    "HTTP/1.1 200 OK\r\nBad Name: 1\r\nContent-Length: 1\r\n\r\nx",
    "HTTP/1.1 99 Low\r\nContent-Length: 1\r\n\r\nx",
    "HTTP/1.1 200 OK\nContent-Length: 1\n\nx",
    "HTTP/1.1 200 OK\r\nTE: trailers\r\nContent-Length: 5\r\n\r\nshort",
];

/// Parts of requests: method, what follows `/N` in the target, and fields.
const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "DELETE", "OPTIONS", "TRACE", "get", "PATCH",
];
const ENDS: [&str; 12] = [
    "",
    "?a=1&b=%20",
    "/x%2fy",
    "/../n",
    "//n",
    ";p",
    "?",
    "/a\\b",
    "/\u{e9}",
    "#f",
    "/.hidden",
    "/{x}",
];
const FIELDS: [&str; 32] = [
    "",
    "X-Own: 1\r\nx-own: 2\r\n",
    "Connection: keep-alive\r\n",
    "Connection: close, X-Own\r\nX-Own: 1\r\n",
    "Connection: Host\r\n",
    "Connection: close\r\nConnection: close\r\n",
    "X-Forwarded-For: 9.9.9.9\r\nX-Real-IP: 9.9.9.9\r\nForwarded: for=x\r\n",
    "X_Forwarded_For: 9.9.9.9\r\n",
    "X-Forwarded-Prefix: /p\r\nX-Scheme: https\r\nX-Original-Forwarded-For: 1\r\n",
    "Proxy: http://x\r\nProxy-Connection: close\r\nKeep-Alive: 1\r\n",
    "Proxy-Authorization: x\r\nAuthorization: y\r\n",
    "X-Request-ID: mine\r\n",
    "X-Request-Id: a\r\nX-Request-Id: b\r\n",
    "X-Request-Id:\r\n",
    "Cookie: a=1\r\n",
    "Cookie: a=1\r\nCookie: b=2\r\n",
    "TE: trailers\r\n",
    "Upgrade: websocket\r\n",
    "Connection: upgrade\r\nUpgrade: h2c\r\n",
    "Expect: 100-continue\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: 2\r\nContent-Type: text/plain\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
    "Host: b.test\r\n",
    "User-Agent: \u{e9}\r\nReferer: x\r\nAccept: */*\r\n",
    "X-Empty:\r\n",
    "X-Tab:\ta\tb \r\n",
    " X-Folded: 1\r\n",
    "X-Space : 1\r\n",
    "Content-Type: application/grpc\r\n",
    "Trailer: x\r\nTraceparent: 00-1-1-00\r\n",
];

/// A backend that answers `/N…` with [`ANSWERS`]`[N]`, and records heads.
async fn backend() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = heads.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let seen = seen.clone();
            tokio::spawn(async move {
                loop {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else {
                            return;
                        };
                        head.push(byte);
                    }
                    let head = String::from_utf8_lossy(&head).into_owned();
                    let end: &[u8] = match head.to_ascii_lowercase() {
                        head if head.contains("\r\ncontent-length: 2\r\n") => b"xy",
                        head if head.contains("\r\ntransfer-encoding: ") => b"\r\n0\r\n\r\n",
                        _ => b"",
                    };
                    let mut body = Vec::new();
                    while !body.ends_with(end) {
                        let Ok(byte) = stream.read_u8().await else {
                            return;
                        };
                        body.push(byte);
                    }
                    let digits = head.split_once(" /").map_or("", |(_, rest)| rest);
                    let end = digits.find(|byte: char| !byte.is_ascii_digit());
                    let number = digits.get(..end.unwrap_or(0)).unwrap_or_default();
                    let answer = ANSWERS.get(number.parse::<usize>().unwrap_or(0));
                    let answer = answer.copied().unwrap_or_default();
                    let is_head = head.starts_with("HEAD ");
                    seen.lock().unwrap().push(head);
                    let sent = match answer.split_once("\r\n\r\n") {
                        Some((head, _)) if is_head => format!("{head}\r\n\r\n"),
                        _ => answer.into(),
                    };
                    drop(stream.write_all(sent.as_bytes()).await);
                    let is_framed = ["ontent-", "oding"]
                        .iter()
                        .any(|part| answer.contains(part));
                    if !is_framed || answer.contains(": close") || answer.contains(" 101 ") {
                        return;
                    }
                }
            });
        }
    });
    (address, heads)
}

/// Annotations of a route with every guard of direct requests.
const GUARDS: [(&str, &str); 6] = [
    ("headgate.io/auth-type", "basic"),
    ("headgate.io/auth-secret", "users"),
    ("headgate.io/limit-rps", "1000000"),
    ("headgate.io/limit-connections", "100"),
    ("headgate.io/allowlist-source-range", "127.0.0.0/8"),
    ("headgate.io/denylist-source-range", "192.0.2.0/24"),
];
const RIGHT: &str = "Authorization: Basic YWRhOnNlY3JldA==\r\n";
/// Fields of requests to it; `RIGHT` stands for the right password.
const GUARDED: [&str; 12] = [
    "",
    "RIGHT",
    "RIGHTRIGHT",
    "RIGHTAuthorization: Basic YWRhOnNlY3JldA=\r\n",
    "authorization: BASIC  YWRhOnNlY3JldA== \r\n",
    "Authorization: Basic YWRhOndyb25n\r\n",
    "Authorization: Bearer YWRhOnNlY3JldA==\r\n",
    "Authorization: Basic\r\n",
    "Authorization:\r\n",
    "RIGHTX-Auth-User: eve\r\n",
    "RIGHTX_AUTH_USER: eve\r\n",
    "X-Auth-User: ada\r\n",
];

fn both(annotations: &[(&str, &str)]) -> Objects {
    let mut objects = objects(annotations);
    let secret = Secret {
        type_: "Opaque".into(),
        // The password is `secret`.
        data: [(
            "auth".into(),
            b"ada:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=".into(),
        )]
        .into(),
    };
    objects.secrets.insert(name("users"), secret);
    let mut general = objects.ingresses[&name("main")].clone();
    general.name = name("general");
    general.rules[0].host = GENERAL.into();
    let condition = ("headgate.io/match-source", "0.0.0.0/0");
    general
        .annotations
        .insert(condition.0.into(), condition.1.into());
    objects.ingresses.insert(general.name.clone(), general);
    objects
}

/// A message without what differs between two: order, host, random ids and the time.
fn plain(message: &str) -> Vec<String> {
    let (head, body) = message.split_once("\r\n\r\n").unwrap_or((message, ""));
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default().to_owned();
    let mut fields: Vec<String> = lines
        .map(|line| match line.split_once(": ") {
            Some(("x-request-id", id)) if id.len() == 32 => "x-request-id: random".into(),
            Some(("date", date)) if !date.contains("1970") => "date: now".into(),
            _ => line.replace(GENERAL, HOST),
        })
        .collect();
    // The lines of one field keep their order.
    fields.sort_by(|one, other| {
        let name = |line: &str| line.split(':').next().map(str::to_owned);
        name(one).cmp(&name(other))
    });
    [vec![first], fields, vec![body.replace(GENERAL, HOST)]].concat()
}

/// What the client and the backend get.
async fn exchanged(
    setup: &Setup,
    heads: &Mutex<Vec<String>>,
    host: &str,
    (method, target, fields): (&str, &str, &str),
) -> (Vec<String>, Vec<Vec<String>>) {
    heads.lock().unwrap().clear();
    let mut client = Client::connect(setup.http).await;
    let head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
    let body = match fields {
        _ if fields.contains("chunked") => "2\r\nxy\r\n0\r\n\r\n",
        _ if fields.contains("Length: 2") => "xy",
        _ => "",
    };
    client.send(format!("{head}{body}")).await;
    // The last request of the connection.
    client
        .send(format!(
            "GET /0 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        ))
        .await;
    let answers = client.rest().await;
    let seen = heads.lock().unwrap().clone();
    // Two responses, as one text.
    let answers = answers.split("HTTP/1.1 ").flat_map(plain).collect();
    (answers, seen.iter().map(|head| plain(head)).collect())
}

#[tokio::test]
async fn l180_requests_relayed_as_bytes_have_the_same_result() {
    let (address, heads) = backend().await;
    let setup = Setup::with(Settings::default(), &both(&[])).await;
    setup.place_all(address);
    let mut cases = Vec::new();
    for (number, answer) in ANSWERS.iter().enumerate() {
        cases.push(("GET", format!("/{number}"), ""));
        if !answer.starts_with("HTTP/1.1 1") {
            cases.push(("HEAD", format!("/{number}"), ""));
        }
        cases.push(("GET", format!("/{number}"), "Connection: close\r\n"));
    }
    for method in METHODS {
        cases.push((method, "/0".into(), ""));
    }
    for end in ENDS {
        cases.push(("GET", format!("/0{end}"), ""));
    }
    for fields in FIELDS {
        for method in ["GET", "POST"] {
            cases.push((method, "/2".into(), fields));
        }
    }
    for (method, target, fields) in &cases {
        let case = (*method, target.as_str(), *fields);
        let direct = exchanged(&setup, &heads, HOST, case).await;
        let general = exchanged(&setup, &heads, GENERAL, case).await;
        assert_eq!(direct, general, "{case:?}");
        assert!(!direct.0.is_empty(), "{case:?}");
    }
}

#[tokio::test]
async fn l180_guarded_requests_relayed_as_bytes_have_the_same_result() {
    let (address, heads) = backend().await;
    let setup = Setup::with(Settings::default(), &both(&GUARDS)).await;
    setup.place_all(address);
    // The second time, the password is known.
    for round in 0..2 {
        for fields in GUARDED {
            let fields = fields.replace("RIGHT", RIGHT);
            let case = ("GET", "/2", &*fields);
            let direct = exchanged(&setup, &heads, HOST, case).await;
            let general = exchanged(&setup, &heads, GENERAL, case).await;
            assert_eq!(direct, general, "{round}, {fields}");
            let is_admitted = fields
                .to_ascii_lowercase()
                .starts_with("authorization: basic  ")
                || fields.starts_with(RIGHT) && fields.matches("uthorization").count() == 1;
            assert_eq!(
                direct.1.len(),
                usize::from(is_admitted),
                "{round}, {fields}"
            );
            for head in direct.1 {
                let users = head.iter().filter(|line| line.contains("auth-user"));
                assert_eq!(users.collect::<Vec<_>>(), ["x-auth-user: ada"], "{fields}");
            }
        }
    }
}

#[tokio::test]
async fn l180_a_request_that_leaves_the_direct_way_counts_once() {
    let (address, heads) = backend().await;
    let limits = [
        ("headgate.io/limit-rpm", "1"),
        ("headgate.io/limit-burst-multiplier", "2"),
        ("headgate.io/limit-connections", "1"),
    ];
    let setup = Setup::with(Settings::default(), &both(&limits)).await;
    setup.place_all(address);
    for host in [HOST, GENERAL] {
        // The backend switches protocols, which was not asked for.
        let mut statuses = Vec::new();
        for _ in 0..4 {
            let case = ("GET", "/17", "Connection: close\r\n");
            let (answers, _) = exchanged(&setup, &heads, host, case).await;
            statuses.extend(answers.into_iter().find(|line| line.starts_with('5')));
        }
        let [admitted, refused] = ["502 Bad Gateway", "503 Service Unavailable"];
        assert_eq!(statuses, [admitted, admitted, admitted, refused], "{host}");
    }
}
