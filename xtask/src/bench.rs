//! What packets and requests cost.

use anyhow::Result;

use crate::{build, setup, sh};

/// What the benchmarks of the L7 proxy are measured beside, and with.
const L7_TOOLS: [(&str, &str); 4] = [
    ("/usr/sbin/nginx", "nginx-light"),
    ("/usr/sbin/haproxy", "haproxy"),
    ("/usr/bin/wrk", "wrk"),
    ("/usr/bin/h2load", "nghttp2-client"),
];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Fewer and shorter rounds
    #[arg(long)]
    quick: bool,
    /// What is measured
    #[arg(default_value = "packets")]
    what: What,
    /// Runs only loads whose name contains this
    name: Option<String>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    /// Verified instructions and nanoseconds of a packet, beside two baselines
    Packets,
    /// Requests through the L7 proxy, beside nginx and haproxy
    L7,
}

/// Prints ratios, measured in one run.
pub(crate) fn run(options: &Options) -> Result<()> {
    build::object(setup::run()?)?;
    match options.what {
        What::Packets => sh::run(&mut sh::command(
            "cargo run --release --package headgate-prog --example cost",
        )),
        What::L7 => l7(options),
    }
}

fn l7(options: &Options) -> Result<()> {
    setup::tools(&L7_TOOLS)?;
    sh::run(&mut sh::command("cargo build --release --package headgate"))?;
    let mut command = sh::command("cargo run --release --package headgate-netns --example l7 --");
    if options.quick {
        command.arg("--quick");
    }
    sh::run(command.args(&options.name))
}
