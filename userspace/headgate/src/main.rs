//! The binary: agent and operator's commands. Composition only.
#![deny(unsafe_code)]

mod agent;
mod cli;
mod explain;
mod http;
mod kube_proxy;
mod process;
mod proxy;
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
    Probe(cli::Probe),
    /// Show agent, hooks, map fill and what became of packets
    Status(cli::output::Options),
    /// Show frontends and the services behind them
    Services(cli::output::Options),
    /// Show backends and their traffic
    Backends(cli::output::Options),
    /// Show what the proxy serves: routes in order of precedence, and what stands in front of them
    Routes(cli::Served),
    /// Show the certificates of the proxy, and when they end
    Certificates(cli::Served),
    /// Show connections
    Conntrack(cli::Conntrack),
    /// Show connections whose source is translated, by the backend that sees this node
    Nat(cli::output::Options),
    /// Show which backends the clients of services with session affinity got
    Affinity(cli::output::Options),
    /// Show how full the maps are, and their memory
    Maps(cli::output::Options),
    /// Show what became of packets and sockets, and why
    Counters(cli::output::Options),
    /// Show why packets and sockets were dropped or refused
    Drops(cli::output::Options),
    /// Tell what becomes of a packet or a request, step by step, and why
    Explain(cli::Explain),
    /// Show new connections, and what is rejected or dropped, as it happens
    Monitor(cli::Monitor),
    /// Look at rates, drops and maps, live
    Top(cli::top::Options),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
    /// Look at everything that could be wrong with this node, and say what to do
    Doctor(cli::doctor::Options),
    /// Say what becomes of the manifests of another Ingress controller; exit code 1 if not all is
    /// supported
    Migrate(cli::Migrate),
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
        Command::Probe(command) => cli::probe(&command),
        Command::Status(options) => cli::status(pins, &options),
        Command::Services(options) => cli::services(pins, &options),
        Command::Backends(options) => cli::backends(pins, &options),
        Command::Routes(command) => cli::routes(&command),
        Command::Certificates(command) => cli::certificates(&command),
        Command::Conntrack(options) => cli::conntrack(pins, &options),
        Command::Nat(options) => cli::nat(pins, &options),
        Command::Affinity(options) => cli::affinity(pins, &options),
        Command::Maps(options) => cli::maps(pins, &options),
        Command::Counters(options) => cli::counters(pins, &options),
        Command::Drops(options) => cli::drops(pins, &options),
        Command::Explain(command) => cli::explain(pins, &command),
        Command::Monitor(command) => cli::monitor(pins, &command),
        Command::Top(options) => cli::top::run(pins, &options),
        Command::Completions { shell } => {
            let mut out = std::io::stdout();
            clap_complete::generate(shell, &mut Arguments::command(), "headgate", &mut out);
            Ok(())
        }
        Command::Man => clap_mangen::Man::new(Arguments::command())
            .render(&mut std::io::stdout())
            .map_err(Into::into),
        Command::Doctor(options) => match cli::doctor(pins, &options) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::Migrate(command) => match cli::migrate(&command) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::ReplaceKubeProxy { yes } => cli::replace_kube_proxy(pins, yes),
        Command::Cleanup => cli::cleanup(pins),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("headgate: {}", cli::output::in_one_line(&error));
            ExitCode::FAILURE
        }
    }
}
