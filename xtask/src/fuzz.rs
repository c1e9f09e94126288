//! Random input, for as long as is wanted.

use std::ffi::OsString;

use anyhow::Result;

use crate::{build, setup, sh};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Target and limits: `cargo xtask fuzz -- --help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

/// Builds and runs `headgate-fuzz`.
pub(crate) fn run(options: &Options) -> Result<()> {
    build::object(setup::bpf()?)?;
    let mut command = sh::command("cargo run --package headgate-fuzz --");
    sh::run(command.args(&options.rest))
}
