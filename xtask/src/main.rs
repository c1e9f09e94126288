//! Build, demo and test commands: `cargo xtask --help`.

mod arch;
mod behaviours;
mod bench;
mod build;
mod demo;
mod deny;
mod fault;
mod fuzz;
mod nextest;
mod setup;
mod sh;
mod test;
mod vm;
mod words;

use clap::Parser;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Build, demo and test commands of Headgate"
)]
enum Verb {
    /// Install what build, demo and tests need
    Setup,
    /// Build the BPF object and the binary
    Build(build::Options),
    /// Run agents, a proxy and real traffic in a small cluster of network namespaces
    Demo(demo::Options),
    /// Run every check and every test that can run here
    Test(test::Options),
    /// Run kernel tests in virtual machines, with the kernels that Debian offers
    Vm(vm::Options),
    /// Break things under load, and print what was lost
    Fault(fault::Options),
    /// Measure packets, requests and changes beside nftables, iptables, nginx and haproxy
    Bench(bench::Options),
    /// Check licences, sources and advisories of the dependencies
    Deny,
    /// Run the fuzz targets: packets, objects and requests at random
    Fuzz(fuzz::Options),
}

fn main() -> anyhow::Result<()> {
    match Verb::parse() {
        Verb::Setup => setup::run(),
        Verb::Build(options) => build::run(&options),
        Verb::Demo(options) => demo::run(&options),
        Verb::Test(options) => test::run(&options),
        Verb::Vm(options) => vm::run(&options),
        Verb::Fault(options) => fault::run(&options),
        Verb::Bench(options) => bench::run(&options),
        Verb::Deny => {
            if let Some(skipped) = deny::run()? {
                println!("{skipped}");
            }
            Ok(())
        }
        Verb::Fuzz(options) => fuzz::run(&options),
    }
}
