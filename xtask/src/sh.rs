//! Running commands.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A command in the folder of the workspace.
pub(crate) fn command(line: &str) -> Command {
    let mut words = line.split_whitespace();
    let program = match words.next() {
        Some("cargo") => env::var("CARGO").unwrap_or_else(|_| "cargo".into()),
        other => other.unwrap_or_default().into(),
    };
    let mut command = Command::new(program);
    // Where xtask, the demo and the tests look for what was built.
    let target = root().join("target");
    command
        .args(words)
        .current_dir(root())
        .env("CARGO_TARGET_DIR", target);
    command
}

/// Prints a command and runs it.
///
/// # Errors
///
/// If it cannot be started or does not succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    eprintln!("   $ {shown}");
    let status = command
        .status()
        .with_context(|| format!("cannot run {shown}"))?;
    ensure!(status.success(), "{shown}: {status}");
    Ok(())
}

/// Runs a command without its standard output.
pub(crate) fn run_quietly(command: &mut Command) -> Result<()> {
    run(command.stdout(Stdio::null()))
}

/// Standard output of a command, if it succeeds.
pub(crate) fn output(line: &str) -> Option<String> {
    let output = command(line).stdin(Stdio::null()).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// When the first heading was printed.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Prints a heading, and the time and the CPU time (of all commands that have ended) until here.
pub(crate) fn heading(text: &str) {
    let seconds = START.elapsed().as_secs();
    eprintln!("\n== {text}  (after {seconds} s, CPU {} s)", cpu_seconds());
}

/// CPU time of the commands that have ended, in seconds; 0 if the kernel does not say.
pub(crate) fn cpu_seconds() -> i64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN);
    usage.map_or(0, |usage| {
        usage.user_time().num_seconds() + usage.system_time().num_seconds()
    })
}

fn show(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or_default();
    std::iter::once(program)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}
