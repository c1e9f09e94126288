//! Many rounds of the fault scenarios on clusters of network namespaces, and a table of the outcomes.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use crate::{build, nextest, setup, sh, test::HOST};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only scenarios whose names contain this, for example agent, backends, floods, api or proxies
    name: Option<String>,
    /// Number of rounds of each scenario
    #[arg(long, default_value_t = 100)]
    rounds: u32,
}

const HEAD: &str = "\
| scenario | rounds | requests | datagrams | lost | wrong backend | what else | result |
|---|---|---|---|---|---|---|---|";

pub(crate) fn run(options: &Options) -> Result<()> {
    build::object(setup::bpf()?)?;
    setup::tests()?;
    sh::heading("building the binaries");
    sh::run(&mut sh::command(&format!("cargo build {HOST} --bins")))?;
    sh::heading("scenarios");
    // Of the whole workspace, as `test` does: with other packages, dependencies would be compiled with other features.
    let mut command = sh::command(&format!(
        "cargo nextest run {HOST} --profile fault --no-fail-fast --success-output immediate \
         --no-tests fail --color never"
    ));
    let name = options.name.as_deref().unwrap_or("fault_");
    let filter = format!("package(headgate-netns) & binary(faults) & test({name})");
    command
        .args(["-E", &filter])
        .env("HEADGATE_FAULT_ROUNDS", options.rounds.to_string());
    let mut table = Table::default();
    let status = nextest::each_line(&mut command, |line| {
        eprintln!("{line}");
        table.read(line);
    })?;
    println!("\n{HEAD}");
    for row in table.rows {
        println!("{row}");
    }
    ensure!(status.success(), "cargo nextest: {status}");
    Ok(())
}

/// The rows that scenarios print, each with the result of its test.
#[derive(Default)]
struct Table {
    rows: Vec<String>,
    /// The scenario whose output is read, and its result.
    current: Option<(String, &'static str)>,
    /// Scenarios that have a row.
    has_row: BTreeSet<String>,
}

impl Table {
    /// Reads a line of nextest. The result of a test comes before its output:
    /// `PASS [ 3.1s] ( 1/10) package::file name`. Failed tests are listed again at the end.
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
        self.current = Some((name.into(), result));
    }

    fn row(&mut self, row: &str) {
        if let Some((name, result)) = &self.current
            && self.has_row.insert(name.clone())
        {
            self.rows.push(format!("{row} {result} |"));
        }
    }

    /// Adds a row with only the name for a scenario that failed before it printed one.
    fn end(&mut self) {
        if let Some((name, "FAILED")) = self.current.clone() {
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
