//! Events as they happen.

use std::{
    io::{Write, stdout},
    path::Path,
    time::Instant,
};

use anyhow::Result;
use clap::Args;
use headgate_abi::{Event, EventSite, Fate, FrontendKey, Reason};
use headgate_dataplane::{Monitor as Events, now_ns};
use jiff::{SignedDuration, Timestamp, Zoned, tz::TimeZone};
use nix::{
    net::if_::if_indextoname,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use serde::Serialize;

use super::output::{Form, Options};
use crate::view::{View, client, endpoint, fate, protocol};

#[derive(Args)]
pub(crate) struct Monitor {
    #[command(flatten)]
    options: Options,
    /// Only what is rejected or dropped
    #[arg(long)]
    drops: bool,
    /// Tell of one in N, taken at random: for busy nodes
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    one_in: u32,
    /// End after this many
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// How often the names of services are read anew, and the programs told to go on.
const RENEW_MS: u16 = 1000;

#[derive(Serialize)]
struct Row {
    time: Zoned,
    fate: &'static str,
    reason: &'static str,
    service: String,
    protocol: &'static str,
    /// The client.
    from: String,
    /// What it talks to.
    to: String,
    /// The client as the backend sees it, if that differs.
    source: Option<String>,
    backend: Option<String>,
    /// The device, or the process.
    at: String,
}

pub(crate) fn monitor(pins: &Path, command: &Monitor) -> Result<()> {
    let mut view = View::open(pins)?;
    let mut events = Events::open(pins, command.one_in)?;
    let mut lost = events.lost()?;
    let mut renewed = Instant::now();
    let mut left = command.count.unwrap_or(u64::MAX);
    eprintln!("new connections, and what goes no further; Ctrl-C ends");
    while left > 0 {
        wait(&events)?;
        while let Some(event) = events.next_event() {
            left -= u64::from(show(&view, command, &event)?);
            if left == 0 {
                return Ok(());
            }
        }
        if renewed.elapsed().as_millis() >= u128::from(RENEW_MS) {
            renewed = Instant::now();
            events.renew()?;
            view = View::open(pins)?;
            let now = events.lost()?;
            if now > lost {
                eprintln!(
                    "{} events were lost: `--one-in 10` tells of fewer",
                    now - lost
                );
                lost = now;
            }
        }
    }
    Ok(())
}

fn wait(events: &Events) -> Result<()> {
    let mut fds = [PollFd::new(events.fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(RENEW_MS))?;
    Ok(())
}

/// Whether it was asked for and shown.
fn show(view: &View, command: &Monitor, event: &Event) -> Result<bool> {
    let number = |reason: &&Reason| **reason as u8 == event.reason;
    let Some(reason) = Reason::ALL.iter().copied().find(|reason| number(&reason)) else {
        return Ok(false);
    };
    let is_drop = matches!(reason.fate(), Fate::Drop | Fate::Reject);
    let row = row(view, event, reason)?;
    let value = serde_json::to_value(&row)?;
    if command.drops && !is_drop || !command.options.asks_for(&value) {
        return Ok(false);
    }
    let mut out = stdout().lock();
    match command.options.output {
        Form::Json => writeln!(out, "{value}")?,
        Form::Yaml => write!(out, "---\n{}", serde_yaml_ng::to_string(&value)?)?,
        Form::Table | Form::Wide => writeln!(out, "{}", line(&row))?,
    }
    out.flush()?;
    Ok(true)
}

fn line(row: &Row) -> String {
    let time = row.time.strftime("%H:%M:%S%.3f");
    let mut line = format!(
        "{time} {:17} {} {} {} → {}",
        row.reason, row.service, row.protocol, row.from, row.to
    );
    if let Some(backend) = &row.backend {
        line.push_str(&format!(" ⇒ {backend}"));
    }
    if let Some(source) = &row.source {
        line.push_str(&format!(" as {source}"));
    }
    format!("{line} ({})", row.at)
}

fn row(view: &View, event: &Event, reason: Reason) -> Result<Row> {
    let flow = &event.flow;
    let is_socket = event.site == EventSite::SOCKET;
    let from = match is_socket {
        true => client(flow.source),
        false => endpoint(flow.source, flow.source_port),
    };
    let is_translated = reason.fate() == Fate::Forward;
    let source = endpoint(event.source, event.source_port);
    let service = match event.service {
        // A drop says what the packet was for, and the frontend whose that is.
        0 => {
            let key = FrontendKey::new(flow.destination, flow.destination_port, flow.protocol);
            let frontend = view.maps.frontends.get(&key, 0);
            frontend.map_or_else(|_| "-".into(), |entry| view.service_name(entry.outside))
        }
        id => view.service_name(id),
    };
    Ok(Row {
        time: when(event.time_ns)?,
        fate: fate(reason),
        reason: reason.name(),
        service,
        protocol: protocol(flow.protocol),
        to: endpoint(flow.destination, flow.destination_port),
        source: (is_translated && !is_socket && source != from).then_some(source),
        backend: is_translated.then(|| endpoint(event.destination, event.destination_port)),
        from,
        at: match event.site {
            EventSite::SOCKET => process(event.pid),
            EventSite::XDP => format!("{}, xdp", device(event.ifindex)),
            _ => format!("{}, tc", device(event.ifindex)),
        },
    })
}

fn device(ifindex: u32) -> String {
    let name = if_indextoname(ifindex).ok();
    let name = name.and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| format!("device {ifindex}"))
}

fn process(pid: u32) -> String {
    match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("{}, process {pid}", name.trim_end()),
        Err(_) => format!("process {pid}"),
    }
}

/// Wall-clock time of a moment of the monotonic clock.
fn when(time_ns: u64) -> Result<Zoned> {
    let age = SignedDuration::from_nanos(now_ns().saturating_sub(time_ns) as i64);
    let at = Timestamp::now().checked_sub(age)?;
    Ok(at.to_zoned(TimeZone::system()))
}
