//! Regular expressions of operators.

use std::{fmt, str::FromStr};

use regex::{Regex, RegexBuilder};

/// Largest compiled form in bytes.
const SIZE_LIMIT: usize = 1 << 18;

/// A regular expression, which takes time linear in the text (crate `regex`: neither look-around
/// nor back references). Two are equal if their texts are.
#[derive(Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// One that ignores case and matches from the start of a text, as ingress-nginx matches paths.
    pub fn of_path(text: &str) -> Result<Self, String> {
        alone(text)?;
        compile(RegexBuilder::new(&format!("^(?:{text})")).case_insensitive(true))
    }

    /// One that matches whole texts.
    pub fn whole(text: &str) -> Result<Self, String> {
        alone(text)?;
        compile(&mut RegexBuilder::new(&format!("^(?:{text})$")))
    }

    /// The compiled form.
    pub fn regex(&self) -> &Regex {
        &self.0
    }
}

/// Refuses a text that closes a group which it did not open: that would be ours.
fn alone(text: &str) -> Result<(), String> {
    compile(&mut RegexBuilder::new(text)).map(|_| ())
}

fn compile(builder: &mut RegexBuilder) -> Result<Pattern, String> {
    let regex = builder.size_limit(SIZE_LIMIT).build();
    // The library draws the place over several lines; the last one says what is wrong.
    let reason = |error: regex::Error| {
        let text = error.to_string();
        text.lines().next_back().unwrap_or(&text).to_owned()
    };
    regex.map(Pattern).map_err(reason)
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::whole(text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "/{}/", self.0.as_str())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0.as_str())
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

impl PartialOrd for Pattern {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pattern {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.as_str().cmp(other.0.as_str())
    }
}
