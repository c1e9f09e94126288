//! Runs the benchmarks.

use anyhow::Result;

use crate::{build, setup, sh};

/// Load generators, and what Headgate is compared with.
const TOOLS: [setup::Tool; 7] = [
    ("/usr/bin/ab", "apache2-utils"),
    ("/usr/sbin/nginx", "nginx-light"),
    ("/usr/sbin/haproxy", "haproxy"),
    ("/usr/bin/wrk", "wrk"),
    ("/usr/bin/h2load", "nghttp2-client"),
    ("/usr/sbin/nft", "nftables"),
    ("/usr/sbin/iptables", "iptables"),
];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Fewer and shorter rounds: five minutes in all
    #[arg(long)]
    quick: bool,
    /// What is measured: `packets`, `forwarding`, `paths`, `l7`, `control` or `served`; default: everything
    what: Option<String>,
    /// Only tables whose title contains this
    name: Option<String>,
}

/// Prints ratios, measured in one run, and writes `target/bench/WHAT.json`.
pub(crate) fn run(options: &Options) -> Result<()> {
    build::object(setup::bpf()?)?;
    setup::tools(&[&setup::DEMO_TOOLS[..], &TOOLS].concat())?;
    sh::heading("building the binaries");
    let packages = "--package headgate --package headgate-netns --package headgate-bench";
    sh::run(&mut sh::command(&format!(
        "cargo build --profile dist {packages} --bins"
    )))?;
    let run = "cargo run --profile dist --package headgate-bench --bin headgate-bench --";
    let mut command = sh::command(run);
    if options.quick {
        command.arg("--quick");
    }
    sh::run(command.args(&options.what).args(&options.name))
}
