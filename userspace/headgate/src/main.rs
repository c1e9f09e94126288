//! The binary: agent and operator's commands. Composition only.
#![deny(unsafe_code)]

mod agent;
mod commands;
mod doctor;
mod explain;
mod health;
mod leftovers;
mod look;
mod memory;
mod metrics;
mod node;
mod output;
mod page;
mod process;
mod proxy;
mod sandbox;
mod top;
mod view;

use std::{path::PathBuf, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};
use headgate_abi::names;

/// Requests of the proxy come and go by the ten thousand a second, and the agent's objects in bursts.
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
    /// Keep the kernel in step with Services and EndpointSlices
    Agent(Box<agent::Options>),
    /// Serve Ingresses
    Proxy(Box<proxy::Options>),
    /// Ask a proxy on this machine whether it lives, or takes connections
    Probe(commands::Probe),
    /// Show agent, hooks, map fill and what became of packets
    Status(output::Options),
    /// Show frontends and the services behind them
    Services(output::Options),
    /// Show backends and their traffic
    Backends(output::Options),
    /// Show what the proxy serves: routes in order of precedence, and what stands in front of them
    Routes(commands::Served),
    /// Show the certificates of the proxy, and when they end
    Certificates(commands::Served),
    /// Show connections
    Conntrack(commands::Conntrack),
    /// Show connections whose source is translated, by the backend that sees this node
    Nat(output::Options),
    /// Show which backends the clients of services with session affinity got
    Affinity(output::Options),
    /// Show how full the maps are, and their memory
    Maps(output::Options),
    /// Show what became of packets and sockets, and why
    Counters(output::Options),
    /// Show why packets and sockets were dropped or refused
    Drops(output::Options),
    /// Tell what becomes of a packet or a request, step by step, and why
    Explain(commands::Explain),
    /// Show new connections, and what is rejected or dropped, as it happens
    Monitor(commands::Monitor),
    /// Look at rates, drops and maps, live
    Top(top::Options),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
    /// Look at everything that could be wrong with this node, and say what to do
    Doctor(doctor::Options),
    /// Say what becomes of the manifests of another Ingress controller; exit code 1 if not all is
    /// supported
    Migrate(commands::Migrate),
    /// Remove what kube-proxy left on this node; without --yes, say what that would be
    ReplaceKubeProxy {
        /// Do it
        #[arg(long)]
        yes: bool,
    },
    /// Detach every program and remove every map
    Cleanup,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let pins = &arguments.pins;
    let result = match arguments.command {
        Command::Agent(options) => agent::run(pins, &options),
        Command::Proxy(options) => proxy::run(pins, &options),
        Command::Probe(command) => commands::probe(&command),
        Command::Status(options) => commands::status(pins, &options),
        Command::Services(options) => commands::services(pins, &options),
        Command::Backends(options) => commands::backends(pins, &options),
        Command::Routes(command) => commands::routes(&command),
        Command::Certificates(command) => commands::certificates(&command),
        Command::Conntrack(options) => commands::conntrack(pins, &options),
        Command::Nat(options) => commands::nat(pins, &options),
        Command::Affinity(options) => commands::affinity(pins, &options),
        Command::Maps(options) => commands::maps(pins, &options),
        Command::Counters(options) => commands::counters(pins, &options),
        Command::Drops(options) => commands::drops(pins, &options),
        Command::Explain(command) => commands::explain(pins, &command),
        Command::Monitor(command) => commands::monitor(pins, &command),
        Command::Top(options) => top::run(pins, &options),
        Command::Completions { shell } => {
            let mut out = std::io::stdout();
            clap_complete::generate(shell, &mut Arguments::command(), "headgate", &mut out);
            Ok(())
        }
        Command::Man => clap_mangen::Man::new(Arguments::command())
            .render(&mut std::io::stdout())
            .map_err(Into::into),
        Command::Doctor(options) => match commands::doctor(pins, &options) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::Migrate(command) => match commands::migrate(&command) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::ReplaceKubeProxy { yes } => commands::replace_kube_proxy(pins, yes),
        Command::Cleanup => commands::cleanup(pins),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("headgate: {}", output::in_one_line(&error));
            ExitCode::FAILURE
        }
    }
}
