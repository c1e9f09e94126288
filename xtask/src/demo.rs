//! Shows it at work.

use anyhow::Result;

use crate::{build, sh};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave the cluster up and print how to look around
    #[arg(long)]
    keep: bool,
    /// Remove a cluster that was left up
    #[arg(long)]
    down: bool,
}

/// Builds everything and runs `headgate-demo`, which needs the BPF object to be compiled at all.
pub(crate) fn run(options: &Options) -> Result<()> {
    build::run(&build::Options::default())?;
    sh::run(&mut sh::command(
        "cargo build --release --package headgate-netns --bins",
    ))?;
    let mut demo = sh::command("target/release/headgate-demo");
    if options.keep {
        demo.arg("--keep");
    }
    if options.down {
        demo.arg("--down");
    }
    sh::run(&mut demo)
}
