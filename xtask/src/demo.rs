//! Runs the demo.

use std::time::Instant;

use anyhow::Result;

use crate::{build, setup, sh};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave the cluster up and print how to inspect it
    #[arg(long)]
    keep: bool,
    /// Remove a cluster that was left up
    #[arg(long)]
    down: bool,
}

/// Builds what the demo needs and runs `headgate-demo`.
pub(crate) fn run(options: &Options) -> Result<()> {
    let start = Instant::now();
    if !sh::root().join("target/debug/headgate-demo").exists() {
        eprintln!(
            "The first run installs compilers and compiles everything: about 10 minutes of CPU time, so 6 \
             minutes on two cores. Later runs start at once."
        );
    }
    let toolchain = setup::bpf()?;
    setup::tools(&setup::DEMO_TOOLS)?;
    build::object(toolchain)?;
    sh::heading("building the agent, the proxy and the demo");
    sh::run(&mut sh::command(
        "cargo build --package headgate --package headgate-netns --package headgate-demo --bins",
    ))?;
    eprintln!(
        "built in {} s, CPU {} s",
        start.elapsed().as_secs(),
        sh::cpu_seconds()
    );
    let mut demo = sh::command("target/debug/headgate-demo");
    if options.keep {
        demo.arg("--keep");
    }
    if options.down {
        demo.arg("--down");
    }
    sh::run(&mut demo)
}
