//! Explains packets, requests and reasons.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Args;
use headgate_abi::Reason;

use super::output::{Format, print_list};
#[cfg(feature = "proxy")]
use super::routes::{self, RequestArgs};
use crate::{
    explain::{self, Explainer, Explanation, PacketQuery, capture},
    view::{View, fate, flow::Protocol},
};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct ExplainArgs {
    /// Source of the packet, as ADDRESS:PORT
    #[arg(required = true)]
    source: Option<SocketAddr>,
    #[arg(required = true)]
    protocol: Option<Protocol>,
    /// Destination of the packet, as ADDRESS:PORT
    #[arg(required = true)]
    destination: Option<SocketAddr>,
    /// Device that receives the packet; default: the external device, if there is only one
    #[arg(long, global = true)]
    dev: Option<String>,
    /// Output format
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    #[command(subcommand)]
    other: Option<Other>,
}

#[derive(clap::Subcommand)]
enum Other {
    /// Explain a reason
    Drop {
        /// Name or number of the reason, as `headgate drops` shows it
        reason: String,
    },
    /// Explain what happens when a process of this node connects or sends
    Connect {
        protocol: Protocol,
        /// Destination, as ADDRESS:PORT
        destination: SocketAddr,
    },
    /// Explain how the proxy on this node handles a request
    #[cfg(feature = "proxy")]
    Request(RequestArgs),
    /// Explain the packets of a capture, one after the other
    Pcap {
        /// Capture of Ethernet frames, pcap or pcapng: as tcpdump or Wireshark writes it
        file: PathBuf,
    },
}

pub(crate) fn explain(pins: &Path, args: &ExplainArgs) -> Result<()> {
    let explanations = match &args.other {
        Some(Other::Drop { reason }) => return reason_of(reason),
        #[cfg(feature = "proxy")]
        Some(Other::Request(request)) => return routes::explain(request, args.output),
        Some(Other::Connect {
            protocol,
            destination,
        }) => vec![explain::connect(pins, *protocol, *destination)?],
        Some(Other::Pcap { file }) => explain_capture(pins, file, args.dev.as_deref())?,
        None => {
            let query = PacketQuery {
                source: args.source.context("SOURCE is missing")?,
                protocol: args.protocol.context("PROTOCOL is missing")?,
                destination: args.destination.context("DESTINATION is missing")?,
                device: args.dev.clone(),
            };
            vec![explain::run(pins, &query)?]
        }
    };
    print_list(args.output, &explanations, || {
        let texts: Vec<String> = explanations.iter().map(text).collect();
        texts.join("\n\n")
    })
}

fn text(explanation: &Explanation) -> String {
    let mut lines = vec![match &explanation.device {
        Some(device) => format!("{} on {device}", explanation.packet),
        None => explanation.packet.clone(),
    }];
    let steps = explanation.steps.iter().enumerate();
    lines.extend(steps.map(|(at, step)| format!("  {}. {step}", at + 1)));
    lines.push(format!("  {}: {}", explanation.reason, explanation.meaning));
    lines.push(match &explanation.program {
        Some(program) => format!("{program} says: {}", explanation.verdict),
        None => explanation.verdict.into(),
    });
    lines.extend(
        explanation
            .result
            .iter()
            .map(|packet| format!("  {packet}")),
    );
    lines.join("\n")
}

fn explain_capture(pins: &Path, path: &Path, device: Option<&str>) -> Result<Vec<Explanation>> {
    let frames = capture::read(path)?;
    let view = View::open(pins)?;
    let mut explainer = Explainer::new(pins, &view, device)?;
    frames.iter().map(|frame| explainer.frame(frame)).collect()
}

/// Prints what a reason means, by its number or its name.
fn reason_of(text: &str) -> Result<()> {
    let is_it = |reason: &&Reason| reason.name() == text || text.parse() == Ok(**reason as u32);
    let reason = Reason::ALL.iter().find(is_it).with_context(|| {
        let names: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        format!("{text} is not a reason; there are {}", names.join(", "))
    })?;
    println!(
        "{} ({}), {}: {}",
        reason.name(),
        *reason as u32,
        fate(*reason),
        reason.sentence().trim()
    );
    Ok(())
}
