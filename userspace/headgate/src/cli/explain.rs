//! Why something happens.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use headgate_abi::Reason;
use pcap_file::{DataLink, pcap::PcapReader};

use super::{
    ingress::{self, Request},
    output::{Form, print},
};
use crate::{
    explain::{self, Explainer, Explanation, Question},
    view::{View, fate, flow::Protocol},
};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Explain {
    /// Where the packet is from, as ADDRESS:PORT
    #[arg(required = true)]
    source: Option<SocketAddr>,
    #[arg(required = true)]
    protocol: Option<Protocol>,
    /// Where it goes, as ADDRESS:PORT
    #[arg(required = true)]
    destination: Option<SocketAddr>,
    /// The device that it comes in on; default: the external one, if there is one alone
    #[arg(long, global = true)]
    dev: Option<String>,
    /// Form of the output
    #[arg(short, long, global = true, value_enum, default_value_t = Form::Table)]
    output: Form,
    #[command(subcommand)]
    other: Option<Other>,
}

#[derive(clap::Subcommand)]
enum Other {
    /// Tell what a reason means
    Drop {
        /// Its name or number, as `drops` shows it
        reason: String,
    },
    /// Explain what a process of this node gets that connects or sends
    Connect {
        protocol: Protocol,
        /// Where to, as ADDRESS:PORT
        destination: SocketAddr,
    },
    /// Explain what a proxy of this node makes of a request for an Ingress
    Request(Request),
    /// Explain the packets of a capture, one after the other
    Pcap {
        /// A file as tcpdump -w writes it, of Ethernet frames
        file: PathBuf,
    },
}

pub(crate) fn explain(pins: &Path, command: &Explain) -> Result<()> {
    let explanations = match &command.other {
        Some(Other::Drop { reason }) => return reason_of(reason),
        Some(Other::Request(request)) => return ingress::explain(request, command.output),
        Some(Other::Connect {
            protocol,
            destination,
        }) => vec![explain::connect(pins, *protocol, *destination)?],
        Some(Other::Pcap { file }) => capture(pins, file, command.dev.as_deref())?,
        None => {
            let question = Question {
                source: command.source.context("SOURCE is missing")?,
                protocol: command.protocol.context("PROTOCOL is missing")?,
                destination: command.destination.context("DESTINATION is missing")?,
                device: command.dev.clone(),
            };
            vec![explain::run(pins, &question)?]
        }
    };
    print(command.output, &explanations, || {
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

fn capture(pins: &Path, path: &Path, device: Option<&str>) -> Result<Vec<Explanation>> {
    let shown = path.display();
    let file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
    let mut reader = PcapReader::new(file).with_context(|| format!("{shown} is no capture"))?;
    ensure!(
        reader.header().datalink == DataLink::ETHERNET,
        "{shown} has no Ethernet frames: capture on one device, not on `any`"
    );
    let view = View::open(pins)?;
    let mut explainer = Explainer::new(pins, &view, device)?;
    let mut explanations = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.with_context(|| format!("{shown} is damaged"))?;
        explanations.push(explainer.frame(&packet.data)?);
    }
    Ok(explanations)
}

/// Tells what a reason means, by its number or its name.
fn reason_of(text: &str) -> Result<()> {
    let is_it = |reason: &&Reason| reason.name() == text || text.parse() == Ok(**reason as u32);
    let reason = Reason::ALL.iter().find(is_it).with_context(|| {
        let names: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        format!("there is no reason {text}; there are {}", names.join(", "))
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
