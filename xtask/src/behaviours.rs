//! The table of behaviours in `tests/README.md`, held against the tests that ran. A test carries the
//! numbers of the behaviours that it holds at the front of its name: `s11_s20_node_port_of_…`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context, Result, ensure};

const TABLE: &str = "tests/README.md";
/// Names tests that hold what it promises.
const PROMISES: &str = "SECURITY.md";

/// Chooses the tests that carry a number.
pub(crate) const FILTER: &str = r"test(/\b[ls][0-9][0-9]_/)";

struct Row {
    number: String,
    title: String,
    tests: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Passed,
    Skipped,
    Failed,
}

/// Checks that the table names just the tests that ran, and prints how they went if asked.
pub(crate) fn check(lines: &[String], print: bool) -> Result<()> {
    let text = fs::read_to_string(TABLE).context(TABLE)?;
    let ran = outcomes(lines);
    let mut wrong = Vec::new();
    let rows = rows(&text);
    let mut unknown: BTreeSet<&String> = ran.keys().collect();
    for row in &rows {
        unknown.remove(&row.number);
    }
    wrong.extend(
        unknown
            .iter()
            .map(|number| format!("| {number} | what it is | |")),
    );
    for row in rows {
        let held = ran.get(&row.number).cloned().unwrap_or_default();
        let names: BTreeSet<String> = held.keys().cloned().collect();
        let outcome = match held.values().max() {
            None => "MISSING",
            Some(Outcome::Passed) => "ok",
            Some(Outcome::Skipped) => "SKIPPED",
            Some(Outcome::Failed) => "FAILED",
        };
        if print {
            println!(
                "{}  {outcome:<8} {} ({} tests)",
                row.number,
                row.title,
                names.len()
            );
        }
        if names != row.tests || names.is_empty() {
            let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
            let line = format!("| {} | {} | {} |", row.number, row.title, names.join(" "));
            wrong.push(line);
        }
    }
    let known: BTreeSet<&str> = ran
        .values()
        .flat_map(BTreeMap::keys)
        .map(String::as_str)
        .collect();
    let text = fs::read_to_string(PROMISES).context(PROMISES)?;
    let unknown: Vec<&str> = named(&text).filter(|name| !known.contains(name)).collect();
    ensure!(
        unknown.is_empty(),
        "{PROMISES} names tests that did not run: {unknown:?}"
    );
    ensure!(
        wrong.is_empty(),
        "{TABLE} does not name the tests that ran; its lines should be\n{}",
        wrong.join("\n")
    );
    Ok(())
}

fn rows(text: &str) -> Vec<Row> {
    text.lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [_, number, title, tests, _] = cells[..] else {
                return None;
            };
            is_number(&number.to_lowercase()).then(|| Row {
                number: number.into(),
                title: title.into(),
                tests: tests
                    .split_whitespace()
                    .map(|name| name.trim_matches('`').to_owned())
                    .collect(),
            })
        })
        .collect()
}

/// Names of numbered tests in a text.
fn named(text: &str) -> impl Iterator<Item = &str> {
    text.split('`')
        .filter(|word| word.contains('_') && word.split('_').next().is_some_and(is_number))
}

fn is_number(text: &str) -> bool {
    let mut bytes = text.bytes();
    matches!(bytes.next(), Some(b'l' | b's'))
        && text.len() == 3
        && bytes.all(|byte| byte.is_ascii_digit())
}

/// Tests by number, from lines like `PASS [ 1.2s] ( 2/10) package::file module::s22_name`. One that
/// ran on several sources counts once.
fn outcomes(lines: &[String]) -> BTreeMap<String, BTreeMap<String, Outcome>> {
    let mut outcomes: BTreeMap<String, BTreeMap<String, Outcome>> = BTreeMap::new();
    let mut last = None;
    for line in lines {
        let line = line.trim_start();
        let outcome = match line.split(' ').next() {
            Some("PASS") => Outcome::Passed,
            Some("FAIL" | "TIMEOUT" | "SIGSEGV" | "SIGABRT") => Outcome::Failed,
            Some("SKIPPED:") => Outcome::Skipped,
            _ => continue,
        };
        let name = match outcome {
            Outcome::Skipped => last.clone(),
            _ => line.split([' ', ':']).next_back().map(String::from),
        };
        let Some(name) = name else { continue };
        for number in name.split('_').take_while(|part| is_number(part)) {
            let tests = outcomes.entry(number.to_uppercase()).or_default();
            let known = tests.entry(name.clone()).or_insert(outcome);
            *known = outcome.max(*known);
        }
        last = Some(name);
    }
    outcomes
}

#[cfg(test)]
mod tests {
    use super::{Outcome, named, outcomes, rows};

    #[test]
    fn numbers_are_read_from_names() {
        let lines = [
            "    PASS [   1.178s] ( 2/10) a::b s22_one",
            "  SKIPPED: no root",
            "    FAIL [   1.178s] ( 2/10) a::b api::s22_s23_two",
            "    PASS [   1.178s] ( 2/10) a::b manifests::s22_s23_two",
        ];
        let outcomes = outcomes(&lines.map(String::from));
        assert_eq!(outcomes["S22"]["s22_one"], Outcome::Skipped);
        assert_eq!(outcomes["S23"]["s22_s23_two"], Outcome::Failed);
        assert_eq!(outcomes["S22"].len(), 2);
    }

    #[test]
    fn names_are_found_in_prose() {
        let text = "| CVE | `s22_one` `l01_s02_two` `other_test` | S22, `s22` and `a b` |";
        assert_eq!(named(text).collect::<Vec<_>>(), ["s22_one", "l01_s02_two"]);
    }

    #[test]
    fn rows_are_read() {
        let rows =
            rows("| number | what | tests |\n|---|---|---|\n| S01 | A thing | `s01_a` `s01_b` |\n");
        let [row] = &rows[..] else { panic!("one row") };
        assert_eq!((row.number.as_str(), row.tests.len()), ("S01", 2));
    }
}
