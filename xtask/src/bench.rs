//! What packets, connections and requests cost.

use anyhow::Result;

use crate::{build, setup, sh};

/// What is measured beside, and with, apart from what the tests need as well.
const TOOLS: [(&str, &str); 4] = [
    ("/usr/sbin/nginx", "nginx-light"),
    ("/usr/sbin/haproxy", "haproxy"),
    ("/usr/bin/wrk", "wrk"),
    ("/usr/bin/h2load", "nghttp2-client"),
];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Fewer and shorter rounds: five minutes in all
    #[arg(long)]
    quick: bool,
    /// What is measured: `packets`, `forwarding`, `paths`, `l7` or `control`; default: everything
    what: Option<String>,
    /// Only tables whose title contains this
    name: Option<String>,
}

/// Prints ratios, measured in one run, and writes `target/bench/WHAT.json`.
pub(crate) fn run(options: &Options) -> Result<()> {
    build::object(setup::run()?)?;
    setup::tools(&TOOLS)?;
    sh::heading("building the binaries");
    let packages = "--package headgate --package headgate-netns --package headgate-bench";
    sh::run(&mut sh::command(&format!(
        "cargo build --release {packages} --bins"
    )))?;
    let run = "cargo run --release --package headgate-bench --bin headgate-bench --";
    let mut command = sh::command(run);
    if options.quick {
        command.arg("--quick");
    }
    sh::run(command.args(&options.what).args(&options.name))
}
