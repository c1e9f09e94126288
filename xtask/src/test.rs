//! Every check and every test that can run here.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{behaviours, build, setup, sh};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only tests whose names contain this, and no lints
    filter: Option<String>,
    /// No lints
    #[arg(long)]
    fast: bool,
    /// Only tests of numbered behaviours, and how each behaviour fares; no lints
    #[arg(long, conflicts_with = "filter")]
    behaviours: bool,
}

/// Everything but the programs.
pub(crate) const HOST: &str = "--workspace --exclude headgate-programs";

pub(crate) fn run(options: &Options) -> Result<()> {
    let start = Instant::now();
    let toolchain = setup::run()?;
    let lints = !options.fast && !options.behaviours && options.filter.is_none();
    if lints {
        sh::heading("format");
        sh::run(&mut sh::command("cargo fmt --all --check"))?;
    }
    build::object(toolchain)?;
    if lints {
        sh::heading("lints, bpf target");
        sh::run(
            toolchain
                .cargo("clippy")
                .args(["--all-features", "--", "-D", "warnings"]),
        )?;
        sh::heading("lints, host");
        let clippy = format!("cargo clippy {HOST} --all-targets -- -D warnings");
        sh::run(&mut sh::command(&clippy))?;
        sh::heading("documentation");
        let docs = format!("cargo doc {HOST} --no-deps --document-private-items");
        sh::run(sh::command(&docs).env("RUSTDOCFLAGS", "-D warnings"))?;
    }
    // Tests start the binaries that a user would start.
    sh::heading("building the binaries");
    sh::run(&mut sh::command(&format!("cargo build {HOST} --bins")))?;
    sh::heading("tests");
    let lines = nextest(options)?;
    let count = summarize(&lines).context("cargo nextest gave no summary")?;
    let checked = match options.filter {
        Some(_) => Ok(()),
        None => behaviours::check(&lines, options.behaviours),
    };
    eprintln!("finished in {} s", start.elapsed().as_secs());
    println!(
        "{} passed, {} failed, {} skipped",
        count.passed, count.failed, count.skipped
    );
    ensure!(count.failed == 0, "{} tests failed", count.failed);
    checked
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    passed: usize,
    failed: usize,
    skipped: usize,
}

/// Runs the tests, shows what they print, and returns it. One that could not run says
/// `SKIPPED: why`.
fn nextest(options: &Options) -> Result<Vec<String>> {
    let mut command = sh::command(&format!("cargo nextest run {HOST} --no-fail-fast"));
    command
        .args([
            "--success-output",
            "immediate",
            "--no-tests",
            "fail",
            "--color",
            "never",
        ])
        .args(options.filter.as_deref())
        .args(
            options
                .behaviours
                .then_some(["-E", behaviours::FILTER])
                .into_iter()
                .flatten(),
        )
        .env("RUST_BACKTRACE", "0")
        .stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run cargo nextest")?;
    let Some(stderr) = child.stderr.take() else {
        bail!("cargo nextest has no output");
    };
    let mut lines = Vec::new();
    for line in BufReader::new(stderr).lines() {
        let line = line?;
        eprintln!("{line}");
        lines.push(line);
    }
    let status = child.wait()?;
    let failed = summarize(&lines).is_some_and(|count| count.failed > 0);
    ensure!(status.success() || failed, "cargo nextest: {status}");
    Ok(lines)
}

/// Reads `Summary [ 2.3s] 9 tests run: 7 passed (1 slow), 2 failed, 0 skipped`.
fn summarize(lines: &[String]) -> Option<Count> {
    let skipped = lines
        .iter()
        .filter(|line| line.trim_start().starts_with("SKIPPED:"))
        .count();
    let summary = lines
        .iter()
        .rev()
        .find(|line| line.trim_start().starts_with("Summary ["))?;
    let number = |word: &str| {
        let words: Vec<&str> = summary.split([' ', ',']).collect();
        let at = words.iter().position(|other| *other == word)?;
        words.get(at.checked_sub(1)?)?.parse().ok()
    };
    Some(Count {
        passed: number("passed").unwrap_or(0),
        failed: number("failed").unwrap_or(0) + number("timed").unwrap_or(0),
        skipped,
    })
}

#[cfg(test)]
mod tests {
    use super::{Count, summarize};

    fn count(summary: &str) -> Option<Count> {
        let lines = ["  SKIPPED: no kernel", summary, "error: test run failed"];
        summarize(&lines.map(String::from))
    }

    #[test]
    fn summary_is_read() {
        let summary = "     Summary [  12.3s] 9 tests run: 6 passed (1 slow), 2 failed, 1 timed out, 0 skipped";
        let expected = Count {
            passed: 6,
            failed: 3,
            skipped: 1,
        };
        assert_eq!(count(summary), Some(expected));
        assert_eq!(count("no summary"), None);
    }
}
