//! A backend that accepts only standard HTTP/1.1, and records what it receives.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

/// A request as the backend received it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Lines after the last chunk.
    pub(crate) trailers: Vec<String>,
    /// Whether the whole body arrived.
    pub(crate) is_whole: bool,
}

impl Seen {
    /// Returns all values of a field.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let fields = self.fields.iter().filter(|(key, _)| key == name);
        fields.map(|(_, value)| value.as_str()).collect()
    }
}

/// A backend. It responds to `/user` with the field `X-User`, to `/hold` when it is released, to `/switch` with 101, to `/large` with
/// 1 MiB, to `/huge` with 64 MiB, and to other requests with `ok`.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    open: Arc<()>,
    pub(crate) release: Arc<Notify>,
}

impl Backend {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            open: Arc::default(),
            release: Arc::default(),
        };
        let (seen, open, release) = (
            backend.seen.clone(),
            backend.open.clone(),
            backend.release.clone(),
        );
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, open, release) = (seen.clone(), open.clone(), release.clone());
                tokio::spawn(async move {
                    // Some tests send incomplete requests.
                    drop(serve(stream, &seen, &release).await);
                    drop(open);
                });
            }
        });
        backend
    }

    /// Returns the requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Returns the targets of the requests so far.
    pub(crate) fn targets(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.target).collect()
    }

    pub(crate) fn forget(&self) {
        self.seen.lock().unwrap().clear();
    }

    /// Returns the number of open connections.
    pub(crate) fn open(&self) -> usize {
        // Minus the references of the backend and of its accepting task.
        Arc::strong_count(&self.open) - 2
    }
}

async fn serve(stream: TcpStream, all: &Mutex<Vec<Seen>>, release: &Notify) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let Some(head) = head(&mut stream).await? else {
            return Ok(());
        };
        let place = {
            let mut all = all.lock().unwrap();
            all.push(head.clone());
            all.len() - 1
        };
        let (body, trailers) = body(&head, &mut stream).await?;
        if let Some(seen) = all.lock().unwrap().get_mut(place) {
            (seen.body, seen.trailers, seen.is_whole) = (body, trailers, true);
        }
        if head.target.starts_with("/hold") {
            release.notified().await;
        }
        if head.target.starts_with("/switch") {
            let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
                Upgrade: websocket\r\n\r\n";
            stream.write_all(switch).await?;
            loop {
                let byte = stream.read_u8().await?;
                stream.write_u8(byte.to_ascii_uppercase()).await?;
            }
        }
        let body = match head.target.as_str() {
            "/large" => "x".repeat(1 << 20),
            "/huge" => "x".repeat(64 << 20),
            _ => "ok\n".into(),
        };
        let length = body.len();
        let user = match head.target.as_str() {
            "/user" => "X-User: ada\r\n",
            _ => "",
        };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{user}\r\n{body}");
        stream.write_all(answer.as_bytes()).await?;
    }
}

/// Reads a line that ends with CRLF.
async fn line(stream: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n") {
        bytes.push(stream.read_u8().await?);
    }
    bytes.truncate(bytes.len() - 2);
    let text = String::from_utf8(bytes).unwrap();
    assert!(!text.contains(['\r', '\n', '\0']), "{text:?}");
    Ok(text)
}

async fn head(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<Seen>> {
    let Ok(first) = line(stream).await else {
        return Ok(None);
    };
    let words: Vec<&str> = first.split(' ').collect();
    let [method, target, "HTTP/1.1"] = words[..] else {
        panic!("no request line: {first:?}");
    };
    let mut seen = Seen {
        method: method.into(),
        target: target.into(),
        ..Seen::default()
    };
    loop {
        let line = line(stream).await?;
        if line.is_empty() {
            return Ok(Some(seen));
        }
        let (name, value) = line.split_once(": ").unwrap();
        seen.fields.push((name.to_ascii_lowercase(), value.into()));
    }
}

/// Reads a body and its trailers.
async fn body(
    head: &Seen,
    stream: &mut BufReader<TcpStream>,
) -> std::io::Result<(Vec<u8>, Vec<String>)> {
    match (
        &head.all("content-length")[..],
        &head.all("transfer-encoding")[..],
    ) {
        ([], []) => Ok(Default::default()),
        ([length], []) => {
            let mut body = vec![0; length.parse().unwrap()];
            stream.read_exact(&mut body).await?;
            Ok((body, Vec::new()))
        }
        ([], ["chunked"]) => {
            let mut body = Vec::new();
            loop {
                let length = usize::from_str_radix(&line(stream).await?, 16).unwrap();
                if length == 0 {
                    let mut trailers = Vec::new();
                    loop {
                        match line(stream).await? {
                            end if end.is_empty() => return Ok((body, trailers)),
                            trailer => trailers.push(trailer),
                        }
                    }
                }
                let mut chunk = vec![0; length];
                stream.read_exact(&mut chunk).await?;
                body.extend(chunk);
                assert_eq!(line(stream).await?, "");
            }
        }
        _ => panic!("framed twice: {head:?}"),
    }
}
