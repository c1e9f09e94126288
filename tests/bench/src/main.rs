//! `headgate-bench`: runs the benchmarks, as root.

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use headgate_bench::{Machine, Options, Report, control, forwarding, l7, packets, paths, served};
use nix::unistd::geteuid;

#[derive(Parser)]
struct Arguments {
    /// Fewer and shorter rounds
    #[arg(long)]
    quick: bool,
    /// What to measure; default: everything
    what: Option<What>,
    /// Only tables whose title contains this; the other tables of earlier runs stay in the file
    name: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// Nanoseconds for a packet by program and path, compared with two baselines
    Packets,
    /// Packets per second through a node, compared with kernel routing, nftables and iptables
    Forwarding,
    /// Connections, requests and bytes to services, compared with nftables and iptables
    Paths,
    /// Requests through the L7 proxy, compared with nginx and haproxy
    L7,
    /// From the API to the maps: time, memory and system calls of the agent
    Control,
    /// From a change at the API to the first request that sees it, with many Ingresses and Gateways
    Served,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(
        geteuid().is_root(),
        "benchmarks load programs and make network namespaces: run them as root"
    );
    let machine = Machine::read()?;
    println!("{machine}");
    let options = Options {
        quick: arguments.quick,
        name: arguments.name,
    };
    let all = What::value_variants();
    for what in arguments.what.as_ref().map_or(all, std::slice::from_ref) {
        let name = format!("{what:?}").to_lowercase();
        let mut report = Report::new(&name, &machine, &options);
        match what {
            What::Packets => packets::run(&options, &mut report)?,
            What::Forwarding => forwarding::run(&options, &mut report)?,
            What::Paths => paths::run(&options, &mut report)?,
            What::L7 => l7::run(&options, &mut report)?,
            What::Control => control::run(&options, &mut report)?,
            What::Served => served::run(&options, &mut report)?,
        }
        println!("\nwritten: {}", report.write()?.display());
    }
    Ok(())
}
