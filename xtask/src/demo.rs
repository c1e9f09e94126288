//! Shows it work.

use anyhow::Result;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave the cluster up and print how to look around
    #[arg(long)]
    pub(crate) keep: bool,
}

pub(crate) fn run(_options: &Options) -> Result<()> {
    Ok(())
}
