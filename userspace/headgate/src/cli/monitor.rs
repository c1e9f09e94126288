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

use super::output::{Format, OutputArgs};
use crate::view::{Versioned, View, client, endpoint, fate, protocol};

#[derive(Args)]
pub(crate) struct MonitorArgs {
    #[command(flatten)]
    output: OutputArgs,
    /// Only rejected and dropped packets and sockets
    #[arg(long)]
    drops: bool,
    /// Show one event in N, selected at random: for busy nodes
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    one_in: u32,
    /// Exit after this number of events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// How often the names of Services are read again, and the lease of the monitor is renewed.
const RENEW_MS: u16 = 1000;

#[derive(Serialize)]
struct EventRow {
    time: Zoned,
    fate: &'static str,
    reason: &'static str,
    service: String,
    protocol: &'static str,
    /// The client.
    from: String,
    /// The frontend.
    to: String,
    /// The client as the backend sees it, if that differs.
    source: Option<String>,
    backend: Option<String>,
    /// The device, or the process.
    at: String,
}

pub(crate) fn monitor(pins: &Path, args: &MonitorArgs) -> Result<()> {
    let mut view = View::open(pins)?;
    let mut events = Events::open(pins, args.one_in)?;
    let mut lost = events.lost()?;
    let mut renewed = Instant::now();
    let mut left = args.count.unwrap_or(u64::MAX);
    eprintln!("new connections, rejected and dropped packets; Ctrl-C ends");
    while left > 0 {
        wait(&events)?;
        while let Some(event) = events.next_event() {
            left -= u64::from(show(&view, args, &event)?);
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
                eprintln!("{} events were lost: `--one-in 10` shows fewer", now - lost);
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

/// Prints an event if the filters select it; returns whether they do.
fn show(view: &View, args: &MonitorArgs, event: &Event) -> Result<bool> {
    let number = |reason: &&Reason| **reason as u8 == event.reason;
    let Some(reason) = Reason::ALL.iter().copied().find(|reason| number(&reason)) else {
        return Ok(false);
    };
    let is_drop = matches!(reason.fate(), Fate::Drop | Fate::Reject);
    let row = row(view, event, reason)?;
    let value = serde_json::to_value(&row)?;
    if args.drops && !is_drop || !args.output.selects(&value) {
        return Ok(false);
    }
    let mut out = stdout().lock();
    match args.output.output {
        Format::Json => writeln!(out, "{}", serde_json::to_string(&Versioned::new(&value))?)?,
        Format::Yaml => write!(
            out,
            "---\n{}",
            yaml_serde::to_string(&Versioned::new(&value))?
        )?,
        Format::Table | Format::Wide => writeln!(out, "{}", line(&row))?,
    }
    out.flush()?;
    Ok(true)
}

fn line(row: &EventRow) -> String {
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

fn row(view: &View, event: &Event, reason: Reason) -> Result<EventRow> {
    let flow = &event.flow;
    let is_socket = event.site == EventSite::SOCKET;
    let from = match is_socket {
        true => client(flow.source),
        false => endpoint(flow.source, flow.source_port),
    };
    let is_translated = reason.fate() == Fate::Forward;
    let source = endpoint(event.source, event.source_port);
    let service = match event.service {
        // The event of a drop has no service: the frontend of the packet names it.
        0 => {
            let key = FrontendKey::new(flow.destination, flow.destination_port, flow.protocol);
            let frontend = view.maps.frontends.get(&key, 0);
            frontend.map_or_else(|_| "-".into(), |entry| view.service_name(entry.outside))
        }
        id => view.service_name(id),
    };
    Ok(EventRow {
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

/// Converts a time of the monotonic clock to wall-clock time.
fn when(time_ns: u64) -> Result<Zoned> {
    let age = SignedDuration::from_nanos(now_ns().saturating_sub(time_ns) as i64);
    let at = Timestamp::now().checked_sub(age)?;
    Ok(at.to_zoned(TimeZone::system()))
}
