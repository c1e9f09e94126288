//! The access log: one line per request.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, Write},
    iter,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        mpsc::{self, Receiver, SyncSender, channel, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use headgate_model::edge::{RouteKind, RouteOrigin};
use http::{HeaderValue, Method, StatusCode, Version, header, request::Parts};
use jiff::{Timestamp, Zoned, tz::TimeZone};
use serde::Serialize;

use crate::{direct::RequestHead as DirectHead, serving::ServedRoute, upstream::Upstream};

/// Capacity of the queue, in lines. Lines beyond it are dropped, so that a slow disk does not delay
/// requests.
const MAX_WAITING: usize = 1 << 14;
/// Time in which lines are collected: waking the thread for each of them would cost more than the line.
const COLLECTING: Duration = Duration::from_millis(10);
/// Longest time to wait for the lines of a process that ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Format of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A JSON object.
    Json,
    /// Combined format of the Apache HTTP Server.
    Combined,
}

/// The access log: a queue, and a thread that writes it.
#[derive(Clone, Debug)]
pub struct AccessLog {
    format: LogFormat,
    queue: SyncSender<Item>,
}

#[derive(Debug)]
enum Item {
    Line(String),
    /// Asks for an answer when all lines before it are written.
    Flush(mpsc::Sender<()>),
}

impl AccessLog {
    /// Starts a thread that writes lines to `out`. It ends with the last clone of the log, or when a
    /// write fails; then lines are dropped.
    pub fn new(format: LogFormat, out: impl Write + Send + 'static) -> Self {
        let (queue, waiting) = sync_channel(MAX_WAITING);
        thread::spawn(move || write(&waiting, out));
        Self { format, queue }
    }

    /// Waits until all lines so far are written, a second at most.
    pub(crate) fn flush(&self) {
        let (written, answer) = channel();
        if self.queue.try_send(Item::Flush(written)).is_ok() {
            // The writer has failed, or what it writes to is slow: the process ends anyway.
            let _missing = answer.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

/// Writes lines, and flushes when no other line waits.
fn write(waiting: &Receiver<Item>, out: impl Write) -> io::Result<()> {
    let mut out = io::BufWriter::new(out);
    while let Ok(first) = waiting.recv() {
        if matches!(first, Item::Line(_)) {
            thread::sleep(COLLECTING);
        }
        let mut asked = Vec::new();
        for item in iter::once(first).chain(waiting.try_iter()) {
            match item {
                Item::Line(line) => out.write_all(line.as_bytes())?,
                Item::Flush(written) => asked.push(written),
            }
        }
        out.flush()?;
        for written in asked {
            // It may have stopped waiting.
            let _gone = written.send(());
        }
    }
    Ok(())
}

/// The facts of a request that its line contains.
#[derive(Debug)]
pub(crate) struct Entry {
    log: Arc<AccessLog>,
    begin: Instant,
    /// `None` if the HTTP library refused the request.
    method: Option<Method>,
    target: String,
    version: Version,
    referer: Option<HeaderValue>,
    agent: Option<HeaderValue>,
    pub(crate) client: IpAddr,
    pub(crate) host: String,
    /// The decoded path, by which the route was selected.
    pub(crate) path: Option<String>,
    pub(crate) route: Option<Arc<ServedRoute>>,
    pub(crate) request_id: Option<HeaderValue>,
    pub(crate) trace: Option<u128>,
    pub(crate) sent: Option<Delivery>,
    /// `None` until the request is answered.
    pub(crate) status: Option<StatusCode>,
}

/// Where a request was sent.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) endpoint: SocketAddr,
    pub(crate) tries: usize,
    pub(crate) took: Duration,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    client: IpAddr,
    method: &'a str,
    host: &'a str,
    target: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    protocol: String,
    status: u16,
    bytes: u64,
    seconds: f64,
    referer: Option<Cow<'a, str>>,
    user_agent: Option<Cow<'a, str>>,
    request_id: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    ingress: Option<String>,
    /// The rule of a Gateway's route.
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    service: Option<String>,
    endpoint: Option<SocketAddr>,
    tries: Option<usize>,
    endpoint_seconds: Option<f64>,
}

impl Entry {
    pub(crate) fn new(log: Arc<AccessLog>, peer: SocketAddr, parts: &Parts) -> Self {
        let field = |name| parts.headers.get(name).cloned();
        let target = parts.uri.path_and_query();
        Self {
            method: Some(parts.method.clone()),
            target: target.map_or("", |target| target.as_str()).into(),
            version: parts.version,
            referer: field(header::REFERER),
            agent: field(header::USER_AGENT),
            ..Self::unknown(log, peer.ip())
        }
    }

    /// The line of a direct request.
    pub(crate) fn direct(log: Arc<AccessLog>, client: IpAddr, head: &DirectHead<'_>) -> Self {
        let field = |value: Option<&[u8]>| HeaderValue::from_bytes(value?).ok();
        Self {
            method: Some(head.method.clone()),
            target: head.target.into(),
            referer: field(head.referer),
            agent: field(head.agent),
            host: head.host.clone().into_owned(),
            path: Some(head.path.into()),
            ..Self::unknown(log, client)
        }
    }

    /// The line of a request that was refused before it was read: nothing of it is known.
    pub(crate) fn refused(
        log: Arc<AccessLog>,
        client: IpAddr,
        version: Version,
        status: StatusCode,
    ) -> Self {
        Self {
            target: "-".into(),
            version,
            status: Some(status),
            ..Self::unknown(log, client)
        }
    }

    /// The same, of a request that arrived then.
    pub(crate) fn begun(self, begin: tokio::time::Instant) -> Self {
        Self {
            begin: begin.into_std(),
            ..self
        }
    }

    fn unknown(log: Arc<AccessLog>, client: IpAddr) -> Self {
        Self {
            log,
            begin: Instant::now(),
            method: None,
            target: String::new(),
            version: Version::HTTP_11,
            referer: None,
            agent: None,
            client,
            host: String::new(),
            path: None,
            route: None,
            request_id: None,
            trace: None,
            sent: None,
            status: None,
        }
    }

    /// Writes the line after `bytes` of the body were sent.
    pub(crate) fn write(&self, bytes: u64) {
        let line = match self.log.format {
            LogFormat::Json => self.json(bytes),
            LogFormat::Combined => self.combined(bytes),
        };
        // The queue is full or the writer has failed: requests continue.
        let _dropped = self.log.queue.try_send(Item::Line(line));
    }

    fn method(&self) -> &str {
        self.method.as_ref().map_or("-", Method::as_str)
    }

    /// 499, as in nginx, if the client left before the response.
    fn code(&self) -> u16 {
        self.status.map_or(499, |status| status.as_u16())
    }

    fn json(&self, bytes: u64) -> String {
        let sent = self.sent.as_ref();
        let origin = self.route.as_ref().map(|route| &route.model().origin);
        let is_ingress = |origin: &&RouteOrigin| origin.kind == RouteKind::Ingress;
        let (ingress, rule) = (
            origin.filter(is_ingress),
            origin.filter(|origin| !is_ingress(origin)),
        );
        let line = Line {
            time: Timestamp::now().to_string(),
            client: self.client,
            method: self.method(),
            host: &self.host,
            target: &self.target,
            path: self.path.as_deref(),
            protocol: format!("{:?}", self.version),
            status: self.code(),
            bytes,
            seconds: self.begin.elapsed().as_secs_f64(),
            referer: text(self.referer.as_ref()),
            user_agent: text(self.agent.as_ref()),
            request_id: text(self.request_id.as_ref()),
            trace_id: self.trace.map(|id| format!("{id:032x}")),
            ingress: ingress.map(|origin| origin.name.to_string()),
            route: rule.map(RouteOrigin::to_string),
            service: sent.map(|sent| sent.upstream.key().to_string()),
            endpoint: sent.map(|sent| sent.endpoint),
            tries: sent.map(|sent| sent.tries),
            endpoint_seconds: sent.map(|sent| sent.took.as_secs_f64()),
        };
        serde_json::to_string(&line).map_or_else(|_| String::new(), |line| line + "\n")
    }

    fn combined(&self, bytes: u64) -> String {
        let time = Zoned::now().with_time_zone(TimeZone::UTC);
        let mut line = format!("{} - - [", self.client);
        // Writing to a String cannot fail.
        let _ok = write!(line, "{}] \"", time.strftime("%d/%b/%Y:%H:%M:%S %z"));
        let request = format!("{} {} {:?}", self.method(), self.target, self.version);
        quote(&mut line, request.as_bytes());
        let _ok = write!(line, "\" {} {bytes} \"", self.code());
        quote(&mut line, octets(self.referer.as_ref()));
        line.push_str("\" \"");
        quote(&mut line, octets(self.agent.as_ref()));
        line.push_str("\"\n");
        line
    }
}

/// The line of a request in progress. It is written even if the client leaves before the response.
#[derive(Debug)]
pub(crate) struct Pending(Option<Box<Entry>>);

impl Pending {
    pub(crate) fn new(entry: Option<Entry>) -> Self {
        Self(entry.map(Box::new))
    }

    pub(crate) fn entry(&mut self) -> Option<&mut Entry> {
        self.0.as_deref_mut()
    }

    /// Returns the line: it is written with the response.
    pub(crate) fn answered(mut self) -> Option<Box<Entry>> {
        self.0.take()
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(entry) = &self.0 {
            entry.write(0);
        }
    }
}

/// A value as text. A byte that is not UTF-8 must not hide the others.
fn text(value: Option<&HeaderValue>) -> Option<Cow<'_, str>> {
    Some(String::from_utf8_lossy(value?.as_bytes()))
}

fn octets(value: Option<&HeaderValue>) -> &[u8] {
    value.map_or(b"-", HeaderValue::as_bytes)
}

/// Escapes quotes, backslashes and what is not ASCII, as nginx does, so that a client cannot end a field.
fn quote(line: &mut String, text: &[u8]) {
    for byte in text {
        match byte {
            b'"' | b'\\' => line.extend(['\\', char::from(*byte)]),
            b' '..=b'~' => line.push(char::from(*byte)),
            // Writing to a String cannot fail.
            _ => drop(write!(line, "\\x{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        os::unix::net::UnixStream,
        sync::{Arc, mpsc::sync_channel},
    };

    use http::{HeaderValue, Request, StatusCode};

    use super::{AccessLog, Entry, Item, LogFormat};

    fn line(format: LogFormat) -> String {
        let (queue, waiting) = sync_channel(1);
        let log = Arc::new(AccessLog { format, queue });
        let request = Request::get("http://a.b/x?y=1").header("user-agent", "me \"too\" \u{e9}");
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let mut entry = Entry::new(log, "192.0.2.1:4000".parse().unwrap(), &parts);
        entry.host = "a.b".into();
        entry.status = Some(StatusCode::NOT_FOUND);
        entry.request_id = Some(HeaderValue::from_static("id"));
        entry.write(7);
        match waiting.recv().unwrap() {
            Item::Line(line) => line,
            Item::Flush(_) => panic!("no line"),
        }
    }

    #[test]
    fn l48_no_line_is_lost_at_the_end() {
        let (mut lines, out) = UnixStream::pair().unwrap();
        // Otherwise reading would wait.
        lines.set_nonblocking(true).unwrap();
        let log = Arc::new(AccessLog::new(LogFormat::Json, out));
        for status in [200, 404] {
            let entry = Entry {
                status: StatusCode::from_u16(status).ok(),
                ..Entry::unknown(log.clone(), [192, 0, 2, 1].into())
            };
            entry.write(0);
        }
        log.flush();
        let mut buffer = [0; 4096];
        let length = lines.read(&mut buffer).unwrap();
        assert_eq!(
            str::from_utf8(&buffer[..length]).unwrap().lines().count(),
            2
        );
    }

    #[test]
    fn l48_lines_are_json_or_combined() {
        let json: serde_json::Value = serde_json::from_str(&line(LogFormat::Json)).unwrap();
        assert_eq!(json["client"], "192.0.2.1");
        assert_eq!(json["host"], "a.b");
        assert_eq!(json["status"], 404);
        assert_eq!(json["bytes"], 7);
        assert_eq!(json["user_agent"], "me \"too\" \u{e9}");
        assert_eq!(json["endpoint"], serde_json::Value::Null);
        let combined = line(LogFormat::Combined);
        let (client, rest) = combined.split_once(" - - [").unwrap();
        assert_eq!(client, "192.0.2.1");
        let (_, rest) = rest.split_once("] ").unwrap();
        assert_eq!(rest.lines().count(), 1);
        assert!(
            rest.ends_with("404 7 \"-\" \"me \\\"too\\\" \\xC3\\xA9\"\n"),
            "{rest}"
        );
    }
}
