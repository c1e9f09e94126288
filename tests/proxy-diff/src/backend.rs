//! The backend of every case, and the service that `auth-url` names. Both answer with what they saw.

use std::{
    collections::BTreeMap,
    io::{self, BufReader, Write},
    net::{TcpListener, TcpStream},
    thread,
};

use serde_json::json;

use crate::client::{body, head};

/// Port of the backend.
pub const BACKEND_PORT: u16 = 8080;
/// Port of the service that `auth-url` names.
pub const AUTH_PORT: u16 = 8081;

/// Serves on both ports of an address, until the process ends.
///
/// # Errors
///
/// If a port is not free.
pub fn serve(address: &str) -> io::Result<()> {
    for (port, answer) in [(BACKEND_PORT, backend as Answer), (AUTH_PORT, authority)] {
        let listener = TcpListener::bind((address, port))?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || connection(&stream, answer));
            }
        });
    }
    Ok(())
}

/// Responses after which the backend closes the connection, although they are not complete.
const CUT: [(&str, &str); 3] = [
    ("cut-head", "HTTP/1.1 200 OK\r\nContent-Le"),
    (
        "cut-at-once",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
    ),
    ("cut", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhel"),
];

type Answer = fn(&str, &BTreeMap<String, String>, &str) -> String;

/// Serves a backend on another address, which answers with that address, until the process ends.
///
/// # Errors
///
/// If the port is not free.
pub fn serve_named(address: &'static str) -> io::Result<()> {
    let listener = TcpListener::bind((address, BACKEND_PORT))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut reader = BufReader::new(&stream);
                let length = address.len();
                let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{address}");
                while head(&mut reader).is_ok() && (&stream).write_all(text.as_bytes()).is_ok() {}
            });
        }
    });
    Ok(())
}

fn connection(stream: &TcpStream, answer: Answer) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (line, headers) = head(&mut reader)?;
        let has_body =
            ["content-length", "transfer-encoding"].map(|name| headers.contains_key(name));
        let body = match has_body.contains(&true) {
            true => body(&mut reader, &headers)?,
            false => Vec::new(),
        };
        let text = answer(&line, &headers, &String::from_utf8_lossy(&body));
        let mut stream = stream;
        stream.write_all(text.as_bytes())?;
        let is = |name, expected: &str| headers.get(name).is_some_and(|value| value == expected);
        let is_cut = CUT.iter().any(|(name, _)| is("x-answer", name));
        if is("connection", "close") || is_cut || line.ends_with("1.0") {
            return Ok(());
        }
    }
}

/// The answer of the backend: what it saw, as JSON; header `X-Answer` selects status and framing.
fn backend(line: &str, headers: &BTreeMap<String, String>, body: &str) -> String {
    let seen = json!({"line": line, "headers": headers, "body": body}).to_string();
    let length = format!(
        "Content-Type: application/json\r\nContent-Length: {}\r\n",
        seen.len()
    );
    let seen = if line.starts_with("HEAD ") { "" } else { &seen };
    let host = headers.get("host").map_or("", String::as_str);
    let wanted = headers.get("x-answer").map_or("200", String::as_str);
    if let Some((_, text)) = CUT.iter().find(|(name, _)| *name == wanted) {
        return (*text).into();
    }
    match wanted {
        "204" => "HTTP/1.1 204 No Content\r\nX-From: backend\r\n\r\n".into(),
        "302" => {
            format!("HTTP/1.1 302 Found\r\nLocation: http://{host}/next\r\n{length}\r\n{seen}")
        }
        "404" => format!("HTTP/1.1 404 Not Found\r\nServer: mine\r\n{length}\r\n{seen}"),
        "500" => format!("HTTP/1.1 500 Internal Server Error\r\n{length}\r\n{seen}"),
        "chunked" => format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Powered-By: rust\r\n\r\n{:x}\r\n{seen}\r\n0\r\n\r\n",
            seen.len()
        ),
        "cookies" => format!(
            "HTTP/1.1 200 OK\r\nSet-Cookie: a=1; Path=/app; Domain=internal.test\r\nSet-Cookie: b=2\r\n{length}\r\n{seen}"
        ),
        "cors" => format!(
            "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: https://backend.test\r\nVary: Origin\r\n{length}\r\n{seen}"
        ),
        _ => format!("HTTP/1.1 200 OK\r\n{length}\r\n{seen}"),
    }
}

/// The answer of the service that `auth-url` names: header `X-Allow` admits. What it saw is in `X-Seen`, and
/// the address to return to in `X-Back`.
fn authority(line: &str, headers: &BTreeMap<String, String>, _body: &str) -> String {
    const BY_CHANCE: [&str; 2] = ["x-request-id", "traceparent"];
    let back = headers.get("x-auth-request-redirect");
    let back = back.map_or("", String::as_str);
    let mut seen = line.to_owned();
    for (name, value) in headers {
        if !BY_CHANCE.contains(&name.as_str()) {
            seen += &format!("|{name}={}", value.replace('\n', ","));
        }
    }
    let status = match headers.contains_key("x-allow") {
        true => "200 OK\r\nSet-Cookie: proof=1; Path=/",
        false => "401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nSet-Cookie: login=1",
    };
    format!(
        "HTTP/1.1 {status}\r\nX-User: alice\r\nX-Back: {back}\r\nX-Seen: {seen}\r\nContent-Length: 0\r\n\r\n"
    )
}
