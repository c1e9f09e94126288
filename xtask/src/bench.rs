//! What a packet costs.

use anyhow::Result;

use crate::{build, setup, sh};

/// Prints verified instructions and nanoseconds beside two baselines, measured in one run.
pub(crate) fn run() -> Result<()> {
    build::object(setup::run()?)?;
    sh::run(&mut sh::command(
        "cargo run --release --package headgate-prog --example cost",
    ))
}
