//! Runs `cargo nextest` and shows failures, skipped tests and progress, but nothing of tests that pass.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io::{BufRead, BufReader, IsTerminal, stderr},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::sh;

/// The result of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Passed,
    /// It printed `SKIPPED:` with a reason, for all of what it checks or for a part.
    Skipped,
    Failed,
}

/// Outcome and duration of a test.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Test {
    pub(crate) outcome: Outcome,
    pub(crate) seconds: f64,
}

/// The tests that ran.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// By binary and name, for example `headgate-prog::golden s01_cluster_ip`.
    pub(crate) tests: BTreeMap<String, Test>,
    /// Each `SKIPPED:` line.
    pub(crate) skips: Vec<String>,
    /// What each failed test printed, by binary and name.
    pub(crate) failures: BTreeMap<String, Vec<String>>,
}

impl Run {
    pub(crate) fn failed(&self) -> usize {
        let is_failed = |test: &&Test| test.outcome == Outcome::Failed;
        self.tests.values().filter(is_failed).count()
    }

    /// The tests that took longest, the slowest first.
    pub(crate) fn slowest(&self, count: usize) -> Vec<(&str, f64)> {
        let tests = self.tests.iter();
        let mut slowest: Vec<_> = tests
            .map(|(name, test)| (&name[..], test.seconds))
            .collect();
        slowest.sort_by(|one, other| other.1.total_cmp(&one.1));
        slowest.truncate(count);
        slowest
    }

    /// The sum of the tests' seconds by package, the largest first.
    pub(crate) fn by_package(&self) -> Vec<(&str, f64)> {
        let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
        for (name, test) in &self.tests {
            let package = name.split([':', ' ']).next().unwrap_or_default();
            *sums.entry(package).or_default() += test.seconds;
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_by(|one, other| other.1.total_cmp(&one.1));
        sums
    }
}

/// Runs the tests that these arguments of `cargo nextest run` select.
///
/// # Errors
///
/// If tests cannot be built or run. Tests that fail are part of the result.
pub(crate) fn run(arguments: &[&str]) -> Result<Run> {
    let mut command = sh::command("cargo nextest run --no-fail-fast --color never");
    // The output of tests that pass is read for `SKIPPED:`.
    command
        .args("--success-output immediate --no-tests fail".split(' '))
        .args(arguments);
    let mut reader = Reader::default();
    let is_terminal = stderr().is_terminal();
    let status = each_line(&mut command, |line| match reader.read(line) {
        Shown::Line => eprintln!("{line}"),
        Shown::Progress(progress) if is_terminal => eprint!("\r\x1b[K{progress}\r"),
        Shown::Progress(progress) if reader.run.tests.len().is_multiple_of(50) => {
            eprintln!("{progress}");
        }
        Shown::Progress(_) | Shown::Nothing => {}
    })?;
    let run = reader.run;
    ensure!(
        status.success() || run.failed() > 0,
        "cargo nextest: {status}"
    );
    Ok(run)
}

/// Runs `cargo nextest` and hands each line of its output on as it comes.
///
/// # Errors
///
/// If it cannot be run or read. The status says whether tests failed.
pub(crate) fn each_line(command: &mut Command, mut read: impl FnMut(&str)) -> Result<ExitStatus> {
    let command = command.env("RUST_BACKTRACE", "0").stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run cargo nextest")?;
    let Some(output) = child.stderr.take() else {
        bail!("cargo nextest has no output");
    };
    for line in BufReader::new(output).lines() {
        read(&line?);
    }
    Ok(child.wait()?)
}

/// What is shown for a line of nextest's output.
#[derive(Debug, PartialEq, Eq)]
enum Shown {
    Line,
    Nothing,
    Progress(String),
}

/// Reads nextest's output line by line.
#[derive(Default)]
struct Reader {
    run: Run,
    /// The test that the lines after its status are the output of.
    current: Option<(String, Outcome)>,
}

impl Reader {
    fn read(&mut self, line: &str) -> Shown {
        if line.trim_start().starts_with("SKIPPED:") {
            self.skip(line.trim());
            return Shown::Nothing;
        }
        let (word, rest) = line.trim_start().split_once(' ').unwrap_or_default();
        let outcome = match word {
            "PASS" | "LEAK" => Outcome::Passed,
            "FAIL" | "TIMEOUT" | "ABORT" | "LEAK-FAIL" => Outcome::Failed,
            _ if word.starts_with("SIG") => Outcome::Failed,
            "Summary" => {
                self.current = None;
                return Shown::Line;
            }
            _ => return self.output(line),
        };
        let Some((seconds, progress, name)) = status(rest) else {
            return self.output(line);
        };
        self.current = Some((name.into(), outcome));
        // The summary repeats the failures.
        if let Entry::Vacant(entry) = self.run.tests.entry(name.into()) {
            entry.insert(Test { outcome, seconds });
        }
        match outcome {
            Outcome::Failed => Shown::Line,
            Outcome::Passed | Outcome::Skipped => Shown::Progress(format!("  {progress} {name}")),
        }
    }

    /// What is shown for a line of a test's output, or of nextest's own.
    fn output(&mut self, line: &str) -> Shown {
        match &self.current {
            Some((_, Outcome::Passed)) => return Shown::Nothing,
            Some((name, Outcome::Failed)) => {
                let lines = self.run.failures.entry(name.clone()).or_default();
                lines.push(line.trim().into());
            }
            _ => {}
        }
        Shown::Line
    }

    fn skip(&mut self, line: &str) {
        self.run.skips.push(line.into());
        let current = self.current.as_ref();
        if let Some(test) = current.and_then(|(name, _)| self.run.tests.get_mut(name)) {
            test.outcome = test.outcome.max(Outcome::Skipped);
        }
    }
}

/// Seconds, progress and name in a text like `[   1.178s] ( 2/10) package::binary module::test`.
fn status(text: &str) -> Option<(f64, &str, &str)> {
    let (time, rest) = text.trim_start().strip_prefix('[')?.split_once(']')?;
    let seconds = time.trim().trim_end_matches('s').parse().ok()?;
    let (progress, name) = rest.split_once(')')?;
    Some((
        seconds,
        progress.trim_start_matches([' ', '(']),
        name.trim(),
    ))
}

#[cfg(test)]
mod tests {
    use super::{Outcome, Reader, Shown};

    #[test]
    fn failures_and_skips_are_shown_and_passes_are_not() {
        let lines = [
            ("   Compiling headgate v0.1.0", Shown::Line),
            (
                "        PASS [   1.178s] ( 1/3) a::b s22_one",
                Shown::Progress("  1/3 a::b s22_one".into()),
            ),
            ("  SKIPPED: s22_one: no root", Shown::Nothing),
            ("    more of its output", Shown::Nothing),
            ("        FAIL [   0.1s] ( 2/3) a::b api::two", Shown::Line),
            ("    assertion failed", Shown::Line),
            ("     Summary [  12.3s] 3 tests run: 1 passed", Shown::Line),
            ("        FAIL [   0.1s] ( 2/3) a::b api::two", Shown::Line),
        ];
        let mut reader = Reader::default();
        for (line, shown) in lines {
            assert_eq!(reader.read(line), shown, "{line}");
        }
        let run = reader.run;
        assert_eq!(run.skips, ["SKIPPED: s22_one: no root"]);
        assert_eq!(run.tests["a::b s22_one"].outcome, Outcome::Skipped);
        assert_eq!(run.tests["a::b api::two"].outcome, Outcome::Failed);
        assert_eq!(run.failures["a::b api::two"], ["assertion failed"]);
        assert_eq!((run.tests.len(), run.failed()), (2, 1));
        assert_eq!(run.slowest(1), [("a::b s22_one", 1.178)]);
    }
}
