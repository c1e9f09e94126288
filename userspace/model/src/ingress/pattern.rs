//! Regular expressions in Ingresses.

use std::{fmt, str::FromStr};

use regex::{Regex, RegexBuilder};

/// Largest compiled form in bytes.
const SIZE_LIMIT: usize = 1 << 18;

/// A regular expression that matches in time linear in the text (crate `regex`: neither look-around
/// nor back references). Two are equal if their texts are.
#[derive(Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// Compiles a pattern that ignores case and matches from the start of a text, as ingress-nginx
    /// matches paths.
    ///
    /// # Errors
    ///
    /// If `text` is not a regular expression, or is larger than 256 KiB when compiled.
    pub fn of_path(text: &str) -> Result<Self, String> {
        alone(text)?;
        compile(RegexBuilder::new(&format!("^(?:{text})")).case_insensitive(true))
    }

    /// Compiles a pattern that matches whole texts.
    ///
    /// # Errors
    ///
    /// As [`Pattern::of_path`].
    pub fn whole(text: &str) -> Result<Self, String> {
        alone(text)?;
        compile(&mut RegexBuilder::new(&format!("^(?:{text})$")))
    }

    /// Returns the pattern of a path as it was written.
    pub(super) fn as_written(&self) -> &str {
        let text = self.0.as_str();
        let inner = text
            .strip_prefix("^(?:")
            .and_then(|text| text.strip_suffix(')'));
        inner.unwrap_or(text)
    }

    /// Returns the compiled form.
    pub fn regex(&self) -> &Regex {
        &self.0
    }
}

/// Refuses a text that closes more groups than it opens: it would close the group around it.
fn alone(text: &str) -> Result<(), String> {
    compile(&mut RegexBuilder::new(text)).map(|_| ())
}

fn compile(builder: &mut RegexBuilder) -> Result<Pattern, String> {
    let regex = builder.size_limit(SIZE_LIMIT).build();
    // The error marks the place over several lines; the last line is the reason.
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
