//! Regular expressions in Ingresses.

use std::{fmt, str::FromStr};

use regex::{Regex, RegexBuilder};
use regex_syntax::hir::{Hir, HirKind};

use super::path;

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
    /// If `text` is not a regular expression, is larger than 256 KiB when compiled, or contains what no path
    /// has in its decoded form.
    pub fn of_path(text: &str) -> Result<Self, String> {
        alone(text)?;
        let parsed = regex_syntax::parse(text).map_err(|error| error.to_string())?;
        if let Some(text) = foreign(&parsed) {
            let why = "paths are compared decoded, without empty segments and dot segments";
            return Err(format!("no request matches `{text}`: {why}"));
        }
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
    pub(crate) fn as_written(&self) -> &str {
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

/// Returns a text that is in everything that an expression matches, and in no decoded path.
fn foreign(parsed: &Hir) -> Option<String> {
    let mut texts = vec![String::new()];
    let branch = collect(parsed, &mut texts);
    branch.or_else(|| texts.into_iter().find(|text| !path::is_part(text)))
}

/// Appends the texts that are in everything that an expression matches. Returns a text if all branches of
/// an alternative have one that is in no decoded path.
fn collect(parsed: &Hir, texts: &mut Vec<String>) -> Option<String> {
    match parsed.kind() {
        HirKind::Empty | HirKind::Look(_) => None,
        HirKind::Literal(literal) => {
            let text = String::from_utf8_lossy(&literal.0);
            texts.last_mut()?.push_str(&text);
            None
        }
        HirKind::Capture(capture) => collect(&capture.sub, texts),
        HirKind::Concat(all) => all.iter().find_map(|one| collect(one, texts)),
        HirKind::Repetition(repetition) if repetition.min > 0 => {
            let branch = collect(&repetition.sub, texts);
            texts.push(String::new());
            branch
        }
        HirKind::Repetition(_) | HirKind::Class(_) => {
            texts.push(String::new());
            None
        }
        HirKind::Alternation(all) => {
            texts.push(String::new());
            let branches: Option<Vec<String>> = all.iter().map(foreign).collect();
            branches?.into_iter().next()
        }
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
