//! Build, demo and test commands: `cargo xtask --help`.

mod behaviours;
mod bench;
mod build;
mod demo;
mod deny;
mod fault;
mod fuzz;
mod setup;
mod sh;
mod test;
mod vm;

use clap::Parser;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Build, demo and test commands of Headgate"
)]
enum Verb {
    /// Find and install what the build needs
    Setup,
    /// Build the BPF object and the binary
    Build(build::Options),
    /// Show it at work on a small cluster of network namespaces
    Demo(demo::Options),
    /// Run every check and every test that can run here
    Test(test::Options),
    /// Run tests in virtual machines with the kernels that Debian offers
    Vm(vm::Options),
    /// Break things while load goes on, and print what was lost
    Fault(fault::Options),
    /// Print what packets and requests cost
    Bench(bench::Options),
    /// Check licences, sources and known faults of what is built in
    Deny,
    /// Feed packets, objects and requests at random, and check what comes of them
    Fuzz(fuzz::Options),
}

fn main() -> anyhow::Result<()> {
    match Verb::parse() {
        Verb::Setup => setup::run().map(|_| ()),
        Verb::Build(options) => build::run(&options),
        Verb::Demo(options) => demo::run(&options),
        Verb::Test(options) => test::run(&options),
        Verb::Vm(options) => vm::run(&options),
        Verb::Fault(options) => fault::run(&options),
        Verb::Bench(options) => bench::run(&options),
        Verb::Deny => deny::run(),
        Verb::Fuzz(options) => fuzz::run(&options),
    }
}
