//! Fault scenarios on clusters of network namespaces, for long, and a table of what became of the load.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    process::Stdio,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{build, setup, sh};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only scenarios whose names contain this: agents, backends, floods, api, proxies …
    name: Option<String>,
    /// How often each scenario does its worst
    #[arg(long, default_value_t = 100)]
    rounds: u32,
}

const HEAD: &str = "\
| scenario | rounds | requests | datagrams | lost | wrong backend | what else | result |
|---|---|---|---|---|---|---|---|";

pub(crate) fn run(options: &Options) -> Result<()> {
    build::object(setup::run()?)?;
    sh::heading("building the binaries");
    sh::run(&mut sh::command(
        "cargo build --package headgate --package headgate-netns --bins",
    ))?;
    sh::heading("scenarios");
    let mut command = sh::command(
        "cargo nextest run --package headgate-netns --test faults --profile fault \
         --no-fail-fast --success-output immediate --no-tests fail --color never",
    );
    let name = options.name.as_deref().unwrap_or("fault_");
    command
        .arg(name)
        .env("HEADGATE_FAULT_ROUNDS", options.rounds.to_string())
        .env("RUST_BACKTRACE", "0")
        .stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run cargo nextest")?;
    let Some(stderr) = child.stderr.take() else {
        bail!("cargo nextest has no output");
    };
    let mut table = Table::default();
    for line in BufReader::new(stderr).lines() {
        let line = line?;
        eprintln!("{line}");
        table.read(&line);
    }
    let status = child.wait()?;
    println!("\n{HEAD}");
    for row in table.rows {
        println!("{row}");
    }
    ensure!(status.success(), "cargo nextest: {status}");
    Ok(())
}

/// Rows that scenarios print, each with its result.
#[derive(Default)]
struct Table {
    rows: Vec<String>,
    /// The scenario whose output comes now, and its result.
    now: Option<(String, &'static str)>,
    /// Scenarios that have a row.
    told: BTreeSet<String>,
}

impl Table {
    /// A test's result comes before what it printed: `PASS [ 3.1s] ( 1/10) package::file name`. Those
    /// that failed are listed once more at the end.
    fn read(&mut self, line: &str) {
        let line = line.trim();
        let mut words = line.split_whitespace();
        match (words.next(), words.next_back()) {
            (Some("PASS"), Some(name)) => self.begin(name, "held"),
            (Some("FAIL" | "TIMEOUT"), Some(name)) => self.begin(name, "FAILED"),
            (Some("FAULT:"), _) => self.row(line.trim_start_matches("FAULT: ")),
            (Some("Summary"), _) => self.end(),
            _ => {}
        }
    }

    fn begin(&mut self, name: &str, result: &'static str) {
        self.end();
        self.now = Some((name.into(), result));
    }

    fn row(&mut self, row: &str) {
        if let Some((name, result)) = &self.now
            && self.told.insert(name.clone())
        {
            self.rows.push(format!("{row} {result} |"));
        }
    }

    /// One that failed early has nothing to tell but its name.
    fn end(&mut self) {
        if let Some((name, "FAILED")) = self.now.clone() {
            self.row(&format!("| {name} | | | | | | |"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn rows_have_the_result_of_their_test() {
        let mut table = Table::default();
        for line in [
            "        PASS [   3.101s] (1/3) headgate-netns::faults fault_one",
            "    FAULT: | one | 3 | 10 | 0 | 0 | 0 | |",
            "        FAIL [   1.000s] (2/3) headgate-netns::faults fault_two",
            "    FAULT: | two | 3 | 10 | 0 | 1 | 0 | |",
            "        FAIL [   1.000s] (3/3) headgate-netns::faults fault_three",
            "     Summary [   5.101s] 3 tests run: 1 passed, 2 failed, 0 skipped",
            "        FAIL [   1.000s] (2/3) headgate-netns::faults fault_two",
        ] {
            table.read(line);
        }
        assert_eq!(
            table.rows,
            [
                "| one | 3 | 10 | 0 | 0 | 0 | | held |",
                "| two | 3 | 10 | 0 | 1 | 0 | | FAILED |",
                "| fault_three | | | | | | | FAILED |",
            ]
        );
    }
}
