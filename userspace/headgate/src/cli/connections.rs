//! Connections, and session affinities.

use std::{net::SocketAddr, path::Path};

use anyhow::{Result, bail};
use clap::Args;
use headgate_abi::FlowKey;
use headgate_datapath::mirrored;
use headgate_dataplane::Maps;

use super::output::{OutputArgs, print_rows};
use crate::view::{
    ConnectionRow, View,
    flow::{self, Protocol},
};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ConntrackArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Delete one connection: a backend is chosen again for its next packet
    Flush {
        /// The client, as ADDRESS:PORT
        client: SocketAddr,
        protocol: Protocol,
        /// The frontend, as ADDRESS:PORT
        frontend: SocketAddr,
    },
}

const HEADER: [&str; 8] = [
    "service", "protocol", "client", "frontend", "source", "backend", "state", "idle_s",
];

pub(crate) fn conntrack(pins: &Path, args: &ConntrackArgs) -> Result<()> {
    match args.action {
        Some(Action::Flush {
            client,
            protocol,
            frontend,
        }) => flush(pins, &flow::key(client, protocol, frontend)?),
        None => {
            let rows = View::open(pins)?.connections(usize::MAX)?;
            print_rows(&args.output, &HEADER, &["timeout_s"], &rows)
        }
    }
}

/// Deletes both entries of a connection: one alone would bring the other back.
fn flush(pins: &Path, flow: &FlowKey) -> Result<()> {
    let mut maps = Maps::open(pins)?;
    let Ok(entry) = maps.connections.get(flow, 0) else {
        bail!("no connection of this client to this frontend: `headgate conntrack` lists them");
    };
    let (other_flow, _) = mirrored(flow, &entry);
    maps.connections.remove(flow)?;
    // The map may have evicted it.
    let _evicted = maps.connections.remove(&other_flow);
    println!("deleted");
    Ok(())
}

/// Shows connections with a translated source: the backend sees this node, and answers it.
pub(crate) fn nat(pins: &Path, args: &OutputArgs) -> Result<()> {
    let mut rows = View::open(pins)?.connections(usize::MAX)?;
    rows.retain(|row| row.client != row.source);
    rows.sort_by(|a: &ConnectionRow, b| (&a.backend, &a.source).cmp(&(&b.backend, &b.source)));
    let header = [
        "backend", "protocol", "source", "client", "frontend", "service",
    ];
    print_rows(args, &header, &["state", "idle_s"], &rows)
}

pub(crate) fn affinity(pins: &Path, args: &OutputArgs) -> Result<()> {
    let rows = View::open(pins)?.affinities()?;
    let header = ["service", "client", "backend", "idle_s", "timeout_s"];
    print_rows(args, &header, &[], &rows)
}
