//! The binary: agent, proxy and the operator's commands.
#![deny(unsafe_code)]

mod agent;
mod api_servers;
mod cli;
#[cfg(feature = "proxy")]
mod controller;
mod explain;
mod http;
mod kube_proxy;
mod process;
#[cfg(feature = "proxy")]
mod proxy;
mod view;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use headgate_abi::names;

/// The proxy allocates for tens of thousands of requests a second, the agent in bursts.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Kubernetes service load balancing in the kernel.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Folder of the pinned maps and links
    #[arg(long, global = true, env = "HEADGATE_PINS", default_value = names::DEFAULT_PIN_DIR)]
    pins: PathBuf,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Program Services and EndpointSlices into the kernel
    Agent(Box<agent::AgentArgs>),
    /// Serve Ingresses
    #[cfg(feature = "proxy")]
    Proxy(Box<proxy::ProxyArgs>),
    /// Write statuses of Gateways, and make a Service for each, once for the whole cluster
    #[cfg(feature = "proxy")]
    Controller(controller::ControllerArgs),
    /// Check whether a proxy on this machine runs, or accepts connections
    #[cfg(feature = "proxy")]
    Probe(cli::ProbeArgs),
    /// Show the state of the agent, hooks, maps, and counters by reason
    Status(cli::OutputArgs),
    /// Show frontends, their Services and backends
    Services(cli::OutputArgs),
    /// Show backends and their traffic
    Backends(cli::OutputArgs),
    /// Show the routes of the proxy in order of precedence, and the policies of each
    #[cfg(feature = "proxy")]
    Routes(cli::RoutesArgs),
    /// Show the listeners of Gateways, and what is wrong with each
    #[cfg(feature = "proxy")]
    Gateways(cli::GatewaysArgs),
    /// Show the certificates of the proxy, and when they expire
    #[cfg(feature = "proxy")]
    Certificates(cli::ProxyTableArgs),
    /// Show connections
    Conntrack(cli::ConntrackArgs),
    /// Show connections with a translated source address, by backend
    Nat(cli::OutputArgs),
    /// Show the backend of each client of Services with session affinity
    Affinity(cli::OutputArgs),
    /// Show how full the maps are, and their memory
    Maps(cli::OutputArgs),
    /// Show packets and sockets by outcome and reason
    Counters(cli::OutputArgs),
    /// Show rejected and dropped packets and sockets by reason
    Drops(cli::OutputArgs),
    /// Explain step by step what happens to a packet or a request
    Explain(cli::ExplainArgs),
    /// Show new connections, rejections and drops as they happen
    Monitor(cli::MonitorArgs),
    /// Show rates, drops and maps live
    #[cfg(feature = "top")]
    Top(cli::TopArgs),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
    /// Check this node for problems, and print what to do about each; exit code 1 if there is an
    /// error
    Doctor(cli::DoctorArgs),
    /// Check which parts of another Ingress controller's manifests are supported; exit code 1 if a
    /// part is not
    Migrate(cli::MigrateArgs),
    /// Remove the rules that kube-proxy left on this node; without --yes, list them. Connections that they
    /// translated continue. The exit code is 1 if rules could not be checked: those of iptables need its programs
    ReplaceKubeProxy {
        /// Remove them
        #[arg(long)]
        yes: bool,
    },
    /// Detach all programs and remove all maps. If kube-proxy's rules are there, they get the open connections;
    /// otherwise these are cut
    Cleanup,
}

impl Command {
    /// Whether it runs until it is stopped, and writes to sockets that clients may close.
    fn serves(&self) -> bool {
        match self {
            Self::Agent(_) => true,
            #[cfg(feature = "proxy")]
            Self::Proxy(_) | Self::Controller(_) => true,
            _ => false,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !arguments.command.serves() {
        // `headgate status | head` ends when head does.
        sigpipe::reset();
    }
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("headgate: {}", view::in_one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(Arguments { pins, command }: Arguments) -> Result<ExitCode> {
    let pins = &pins;
    match command {
        Command::Agent(args) => agent::run(pins, *args),
        #[cfg(feature = "proxy")]
        Command::Proxy(args) => proxy::run(pins, &args),
        #[cfg(feature = "proxy")]
        Command::Controller(args) => controller::run(&args),
        #[cfg(feature = "proxy")]
        Command::Probe(args) => cli::probe(&args),
        Command::Status(args) => cli::status(pins, &args),
        Command::Services(args) => cli::services(pins, &args),
        Command::Backends(args) => cli::backends(pins, &args),
        #[cfg(feature = "proxy")]
        Command::Routes(args) => cli::routes(&args),
        #[cfg(feature = "proxy")]
        Command::Gateways(args) => cli::gateways(&args),
        #[cfg(feature = "proxy")]
        Command::Certificates(args) => cli::certificates(&args),
        Command::Conntrack(args) => cli::conntrack(pins, &args),
        Command::Nat(args) => cli::nat(pins, &args),
        Command::Affinity(args) => cli::affinity(pins, &args),
        Command::Maps(args) => cli::maps(pins, &args),
        Command::Counters(args) => cli::counters(pins, &args),
        Command::Drops(args) => cli::drops(pins, &args),
        Command::Explain(args) => cli::explain(pins, &args),
        Command::Monitor(args) => cli::monitor(pins, &args),
        #[cfg(feature = "top")]
        Command::Top(args) => cli::top(pins, &args),
        Command::Completions { shell } => {
            let mut out = std::io::stdout();
            clap_complete::generate(shell, &mut Arguments::command(), "headgate", &mut out);
            Ok(())
        }
        Command::Man => clap_mangen::Man::new(Arguments::command())
            .render(&mut std::io::stdout())
            .map_err(Into::into),
        Command::Doctor(args) => return cli::doctor(pins, &args),
        Command::Migrate(args) => return cli::migrate(&args),
        Command::ReplaceKubeProxy { yes } => cli::replace_kube_proxy(pins, yes),
        Command::Cleanup => cli::cleanup(pins),
    }?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Arguments;

    #[test]
    fn flags_of_all_commands_are_consistent() {
        Arguments::command().debug_assert();
    }
}
