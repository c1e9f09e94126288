//! Rejects words that hide who acts or what happens. Texts are read by engineers in a hurry, many of them
//! in their second language: subject, verb, object, and the field's own term.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::sh;

/// A word or a phrase in lower case, and what to write instead.
const REJECTED: [(&str, &str); 43] = [
    ("told", "reported, logged, sent, shown"),
    ("tell", "report, log, send, show"),
    ("tells", "reports, logs, sends, shows"),
    ("telling", "reporting, logging, sending"),
    ("nobody", "name the actor: no client, no program"),
    ("somebody", "name the actor"),
    ("anybody", "name the actor: any client"),
    ("whoever", "name the actor"),
    ("whom", "name the actor"),
    ("anew", "again, or re-"),
    ("capsule", "encapsulated packet, outer header"),
    ("capsules", "encapsulated packets, outer headers"),
    ("straight", "direct, directly"),
    ("stranger", "name the actor: a client, a pod"),
    ("strangers", "name the actor: clients, pods"),
    ("mend", "fix, repair"),
    ("mends", "fixes, repairs"),
    ("mended", "fixed, repaired"),
    ("lest", "so that … not"),
    ("let go", "close, release"),
    ("kept from", "cannot"),
    ("becomes of", "the outcome of"),
    ("became of", "the outcome of"),
    ("for good", "permanently"),
    ("is none", "is not a …, is invalid, is empty"),
    ("are none", "are not …, are invalid"),
    ("so many", "the number, the limit"),
    ("so long as", "while"),
    ("in turns", "alternating"),
    ("by itself", "automatically"),
    ("look at", "read, check, inspect"),
    ("looks at", "reads, checks, inspects"),
    ("looked at", "read, checked, inspected"),
    ("looking at", "reading, checking"),
    ("go on", "continue"),
    ("goes on", "continues"),
    ("went on", "continued"),
    ("by leave of", "if … allows it"),
    ("in vain", "without effect"),
    ("of late", "recently"),
    ("thrice", "three times"),
    ("howsoever", "however"),
    ("be it", "whether"),
];

/// What is read: texts and code, but not data and not licences.
const EXTENSIONS: [&str; 9] = ["css", "html", "js", "md", "rs", "sh", "toml", "txt", "yaml"];

/// Files that quote these words: this list, and the rule in the guide.
const EXCEPTIONS: [&str; 2] = ["xtask/src/words.rs", "CONTRIBUTING.md"];

/// Reads every text of the repository.
///
/// # Errors
///
/// If one has a rejected word; the error names file, line, word and replacement.
pub(crate) fn check() -> Result<()> {
    let files = sh::output("git ls-files --cached --others --exclude-standard");
    let mut found = Vec::new();
    for file in files.context("git lists no files")?.lines() {
        let extension = file.rsplit('.').next().unwrap_or_default();
        if !EXTENSIONS.contains(&extension) || EXCEPTIONS.contains(&file) {
            continue;
        }
        // Deleted, and not committed yet.
        let Ok(text) = fs::read_to_string(sh::root().join(file)) else {
            continue;
        };
        for (number, line) in (1..).zip(text.lines()) {
            for (word, instead) in rejected(line) {
                found.push(format!("{file}:{number}: `{word}`: {instead}"));
            }
        }
    }
    ensure!(
        found.is_empty(),
        "{} unclear words:\n{}",
        found.len(),
        found.join("\n")
    );
    Ok(())
}

/// Rejected words and phrases of a line. Words are found in any case and in identifiers too, phrases in
/// lower case and in prose alone: `is_none` is a method, `let Go(on)` a pattern.
fn rejected(line: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let prose = padded(line.split(|char: char| !char.is_alphanumeric() && char != '_'));
    let lower = line.to_lowercase();
    let words = padded(lower.split(|char: char| !char.is_alphanumeric()));
    REJECTED.into_iter().filter(move |(word, _)| {
        let text = if word.contains(' ') { &prose } else { &words };
        text.contains(&format!(" {word} "))
    })
}

/// Words with a space around each.
fn padded<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    format!(" {} ", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::rejected;

    fn words(line: &str) -> Vec<&str> {
        rejected(line).map(|(word, _)| word).collect()
    }

    #[test]
    fn words_are_found_whole_in_any_case_and_in_identifiers() {
        assert_eq!(words("// Nobody is told."), ["told", "nobody"]);
        assert_eq!(words("fn s62_absent_server_is_told()"), ["told"]);
        assert!(words("a straightforward retelling").is_empty());
    }

    #[test]
    fn phrases_are_found_in_prose_alone() {
        assert_eq!(words("a certificate that is none,"), ["is none"]);
        assert!(words("value.is_none(), let Go(on) = way").is_empty());
    }
}
