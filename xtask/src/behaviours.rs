//! Compares the table of behaviours in `tests/README.md` with the tests that ran. A test carries the
//! numbers of the behaviours that it holds at the front of its name: `s11_s20_node_port_of_…`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context, Result, ensure};

use crate::nextest::{Outcome, Run};

const TABLE: &str = "tests/README.md";
/// Names the test that holds each of its promises.
const PROMISES: &str = "SECURITY.md";

/// Selects the tests that carry a number.
pub(crate) const FILTER: &str = r"test(/\b[gls][0-9]{2,3}_/)";

struct Row {
    number: String,
    title: String,
}

/// Fails if a test carries a number that the table lacks, or no test ran for a row; prints the outcome
/// of each row if `print`.
pub(crate) fn check(run: &Run, print: bool) -> Result<()> {
    let text = fs::read_to_string(TABLE).context(TABLE)?;
    let ran = outcomes(run);
    let rows = rows(&text);
    let numbers: BTreeSet<&String> = rows.iter().map(|row| &row.number).collect();
    let unlisted: Vec<&String> = ran.keys().filter(|key| !numbers.contains(key)).collect();
    ensure!(
        unlisted.is_empty(),
        "{TABLE} has no row for the behaviours {unlisted:?} that tests carry in their names"
    );
    let mut missing = Vec::new();
    for Row { number, title } in &rows {
        let tests = ran.get(number);
        let outcome = match tests.and_then(|tests| tests.values().max()) {
            None => "MISSING",
            Some(Outcome::Passed) => "ok",
            Some(Outcome::Skipped) => "SKIPPED",
            Some(Outcome::Failed) => "FAILED",
        };
        if print {
            let count = tests.map_or(0, BTreeMap::len);
            println!("{number}  {outcome:<8} {title} ({count} tests)");
        }
        if tests.is_none() {
            missing.push(number);
        }
    }
    ensure!(
        missing.is_empty(),
        "no test ran for the behaviours {missing:?} of {TABLE}"
    );
    let known: BTreeSet<&str> = ran.values().flat_map(BTreeMap::keys).copied().collect();
    let text = fs::read_to_string(PROMISES).context(PROMISES)?;
    let unknown: Vec<&str> = named(&text).filter(|name| !known.contains(name)).collect();
    ensure!(
        unknown.is_empty(),
        "{PROMISES} names tests that did not run: {unknown:?}"
    );
    Ok(())
}

fn rows(text: &str) -> Vec<Row> {
    text.lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [_, number, title, _] = cells[..] else {
                return None;
            };
            is_number(&number.to_lowercase()).then(|| Row {
                number: number.into(),
                title: title.into(),
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
    matches!(bytes.next(), Some(b'g' | b'l' | b's'))
        && (3..=4).contains(&text.len())
        && bytes.all(|byte| byte.is_ascii_digit())
}

/// Outcomes by number and name. A test that ran on several sources counts once.
fn outcomes(run: &Run) -> BTreeMap<String, BTreeMap<&str, Outcome>> {
    let mut outcomes: BTreeMap<String, BTreeMap<&str, Outcome>> = BTreeMap::new();
    for (name, test) in &run.tests {
        let name = name.rsplit([' ', ':']).next().unwrap_or_default();
        for number in name.split('_').take_while(|part| is_number(part)) {
            let tests = outcomes.entry(number.to_uppercase()).or_default();
            let known = tests.entry(name).or_insert(test.outcome);
            *known = test.outcome.max(*known);
        }
    }
    outcomes
}

#[cfg(test)]
mod tests {
    use super::{named, outcomes, rows};
    use crate::nextest::{Outcome, Run, Test};

    #[test]
    fn numbers_are_read_from_names() {
        let tests = [
            ("a::b s22_one", Outcome::Skipped),
            ("a::b api::s22_s23_two", Outcome::Failed),
            ("a::b manifests::s22_s23_two", Outcome::Passed),
            ("a::b l144_three", Outcome::Passed),
            ("a::b g07_four", Outcome::Passed),
        ];
        let mut run = Run::default();
        for (name, outcome) in tests {
            let test = Test {
                outcome,
                seconds: 1.0,
            };
            run.tests.insert(name.into(), test);
        }
        let outcomes = outcomes(&run);
        assert_eq!(outcomes["S22"]["s22_one"], Outcome::Skipped);
        assert_eq!(outcomes["S23"]["s22_s23_two"], Outcome::Failed);
        assert_eq!(outcomes["S22"].len(), 2);
        assert_eq!(outcomes["L144"]["l144_three"], Outcome::Passed);
        assert_eq!(outcomes["G07"]["g07_four"], Outcome::Passed);
    }

    #[test]
    fn names_are_found_in_prose() {
        let text = "| CVE | `s22_one` `l101_s02_two` `other_test` | S22, `s22` and `a b` |";
        assert_eq!(named(text).collect::<Vec<_>>(), ["s22_one", "l101_s02_two"]);
    }

    #[test]
    fn rows_are_read() {
        let rows = rows("| number | what |\n|---|---|\n| S101 | A thing |\n");
        let [row] = &rows[..] else { panic!("one row") };
        assert_eq!(
            (row.number.as_str(), row.title.as_str()),
            ("S101", "A thing")
        );
    }
}
