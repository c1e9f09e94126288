//! Every check and every test that can run here.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::{behaviours, build, deny, nextest, setup, sh, words};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run only tests whose names contain this, and no lints
    filter: Option<String>,
    /// Build and run only the tests of this package, for example headgate-datapath; no lints
    #[arg(long, value_name = "CRATE")]
    only: Option<String>,
    /// Run all tests, but no lints
    #[arg(long)]
    fast: bool,
    /// Run only tests of numbered behaviours, and print the outcome of each behaviour; no lints
    #[arg(long, conflicts_with_all = ["filter", "only"])]
    behaviours: bool,
}

/// Every package of the workspace but the programs, which are compiled for the bpf target.
pub(crate) const HOST: &str = "--workspace --exclude headgate-programs";
/// Packages whose tests start the binaries that a user would start.
const STARTS_BINARIES: [&str; 3] = ["headgate-bench", "headgate-netns", "headgate-proxy-diff"];
/// Packages besides these whose tests load the BPF object.
const LOADS_PROGRAMS: [&str; 4] = [
    "headgate",
    "headgate-dataplane",
    "headgate-fuzz",
    "headgate-prog",
];

pub(crate) fn run(options: &Options) -> Result<()> {
    let start = Instant::now();
    let mut skips = Vec::new();
    let is_part = options.only.is_some() || options.filter.is_some() || options.behaviours;
    let lints = !is_part && !options.fast;
    if lints {
        sh::heading("format and words");
        sh::run(&mut sh::command("cargo fmt --all --check"))?;
        words::check()?;
    }
    prepare(options.only.as_deref())?;
    if lints {
        lint()?;
        skips.extend(deny::run()?);
    }
    sh::heading("tests");
    let mut arguments: Vec<&str> = match &options.only {
        Some(package) => vec!["--package", package],
        None => HOST.split(' ').collect(),
    };
    arguments.extend(options.filter.as_deref());
    if options.behaviours {
        arguments.extend(["-E", behaviours::FILTER]);
    }
    let run = nextest::run(&arguments)?;
    skips.extend_from_slice(&run.skips);
    let checked = match options.only.is_some() || options.filter.is_some() {
        true => Ok(()),
        false => behaviours::check(&run, options.behaviours),
    };
    summarize(&run, &skips, start);
    ensure!(run.failed() == 0, "{} tests failed", run.failed());
    checked
}

/// Builds and installs what the tests of one package, or of all, need.
fn prepare(only: Option<&str>) -> Result<()> {
    let starts_binaries = only.is_none_or(|package| STARTS_BINARIES.contains(&package));
    let loads_programs = only.is_none_or(|package| LOADS_PROGRAMS.contains(&package));
    setup::nextest()?;
    if starts_binaries || loads_programs {
        build::object(setup::bpf()?)?;
    }
    if starts_binaries {
        setup::tests()?;
        sh::heading("building the binaries");
        sh::run(&mut sh::command(&format!("cargo build {HOST} --bins")))?;
    }
    Ok(())
}

fn lint() -> Result<()> {
    sh::heading("lints, bpf target");
    let arguments = ["--all-features", "--", "-D", "warnings"];
    sh::run(setup::bpf()?.cargo("clippy").args(arguments))?;
    sh::heading("lints, host");
    let clippy = format!("cargo clippy {HOST} --all-targets -- -D warnings");
    sh::run(&mut sh::command(&clippy))?;
    sh::heading("documentation and its examples");
    let docs = format!("cargo doc {HOST} --no-deps --document-private-items");
    sh::run(sh::command(&docs).env("RUSTDOCFLAGS", "-D warnings"))?;
    sh::run(&mut sh::command(&format!(
        "cargo test {HOST} --doc --quiet"
    )))
}

/// As many lines of a failed test's output are printed again at the end.
const LAST_LINES: usize = 12;

/// Prints what was skipped, which tests took longest, how the failed ones ended, and the counts.
fn summarize(run: &nextest::Run, skips: &[String], start: Instant) {
    sh::heading("slowest tests");
    for (name, seconds) in run.slowest(10) {
        eprintln!("{seconds:>8.1} s  {name}");
    }
    sh::heading("test time by package");
    for (package, seconds) in run.by_package() {
        eprintln!("{seconds:>8.1} s  {package}");
    }
    if !skips.is_empty() {
        sh::heading("skipped");
        for skip in skips {
            eprintln!("  {skip}");
        }
    }
    // Again, for readers of the end of a log.
    for (name, lines) in &run.failures {
        sh::heading(&format!("failed: {name}"));
        let lines: Vec<_> = lines.iter().filter(|line| !line.is_empty()).collect();
        for line in &lines[lines.len().saturating_sub(LAST_LINES)..] {
            eprintln!("  {line}");
        }
    }
    eprintln!(
        "\nfinished in {} s, CPU {} s",
        start.elapsed().as_secs(),
        sh::cpu_seconds()
    );
    let failed = run.failed();
    println!(
        "{} passed, {failed} failed, {} skipped",
        run.tests.len() - failed,
        skips.len()
    );
}
