//! Regular expressions in Ingresses and routes.

use std::{
    collections::HashMap,
    fmt, mem,
    str::FromStr,
    sync::{LazyLock, Mutex, PoisonError},
};

use regex::{Regex, RegexBuilder};
use regex_syntax::hir::{Class, Hir, HirKind};

use super::path;

/// Largest compiled form in bytes.
const SIZE_LIMIT: usize = 1 << 18;
/// Number of states, about 30 bytes each, of the patterns that are kept for objects that are read again. Twice
/// as many may be kept.
const KEPT: u64 = 4_000_000;

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
        let is_possible = |parsed: &Hir| match foreign(parsed) {
            None => Ok(()),
            Some(text) => {
                let why = "paths are compared decoded, without empty segments and dot segments";
                Err(format!("no request matches `{text}`: {why}"))
            }
        };
        compiled(text, format!("^(?:{text})"), true, is_possible)
    }

    /// Compiles a pattern that matches whole texts.
    ///
    /// # Errors
    ///
    /// As [`Pattern::of_path`].
    pub fn whole(text: &str) -> Result<Self, String> {
        compiled(text, format!("^(?:{text})$"), false, |_| Ok(()))
    }

    /// Returns about how many states the compiled form has, before it is compiled: the cost of compiling.
    ///
    /// # Errors
    ///
    /// If `text` is not a regular expression.
    pub(crate) fn weight(text: &str) -> Result<u64, String> {
        parse(text).map(|parsed| total_weight(text, &parsed))
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

/// Parses a text. One that closes more groups than it opens is refused: it would close the group around it.
fn parse(text: &str) -> Result<Hir, String> {
    regex_syntax::parse(text).map_err(|error| last_line(&error.to_string()))
}

/// What a compiled expression costs besides its states, in states.
const FIXED_WEIGHT: u64 = 200;

/// The weight of an expression: its states, what each compiled one costs, and what reading its text costs.
fn total_weight(text: &str, parsed: &Hir) -> u64 {
    weight(parsed)
        .saturating_add(FIXED_WEIGHT)
        .saturating_add(text.len() as u64)
}

/// The number of states of an expression: one for each byte, range of characters and alternative, as often
/// as it is repeated.
fn weight(parsed: &Hir) -> u64 {
    let sum = |all: &[Hir]| {
        let weights = all.iter().map(weight);
        weights.fold(1, u64::saturating_add)
    };
    match parsed.kind() {
        HirKind::Empty | HirKind::Look(_) => 1,
        HirKind::Literal(literal) => literal.0.len() as u64,
        HirKind::Class(Class::Unicode(class)) => 4 * class.ranges().len() as u64,
        HirKind::Class(Class::Bytes(class)) => class.ranges().len() as u64,
        HirKind::Capture(capture) => weight(&capture.sub).saturating_add(2),
        HirKind::Concat(all) | HirKind::Alternation(all) => sum(all),
        HirKind::Repetition(repetition) => {
            let copies = repetition.max.unwrap_or(repetition.min).max(1);
            weight(&repetition.sub)
                .saturating_add(1)
                .saturating_mul(u64::from(copies))
        }
    }
}

/// An error marks the place over several lines; the last line is the reason.
fn last_line(error: &str) -> String {
    error.lines().next_back().unwrap_or(error).to_owned()
}

/// What compiling a text gave, with the weight of the text.
type Compiled = (Result<Pattern, String>, u64);

/// Compiled patterns. All objects are read again when one changes; compiling takes much longer than the rest.
#[derive(Default)]
struct Kept {
    recent: HashMap<String, Compiled>,
    /// The sum of the weights in `recent`.
    weight: u64,
    /// Those that were recent before: what is not used again is dropped with them.
    older: HashMap<String, Compiled>,
}

static KEPT_PATTERNS: LazyLock<Mutex<Kept>> = LazyLock::new(Mutex::default);

impl Kept {
    fn find(&mut self, text: &str) -> Option<Result<Pattern, String>> {
        if let Some((known, _)) = self.recent.get(text) {
            return Some(known.clone());
        }
        let (known, weight) = self.older.remove(text)?;
        self.keep(text.to_owned(), known.clone(), weight);
        Some(known)
    }

    fn keep(&mut self, text: String, compiled: Result<Pattern, String>, weight: u64) {
        if self.weight.saturating_add(weight) > KEPT {
            self.older = mem::take(&mut self.recent);
            self.weight = 0;
        }
        self.weight = self.weight.saturating_add(weight);
        self.recent.insert(text, (compiled, weight));
    }
}

/// Returns the compiled form of a text that is valid and passes a check. What surrounds the text says whether
/// case counts: patterns of paths of Ingresses have no `$` at the end.
fn compiled(
    text: &str,
    whole: String,
    ignores_case: bool,
    check: impl FnOnce(&Hir) -> Result<(), String>,
) -> Result<Pattern, String> {
    let kept = || KEPT_PATTERNS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = kept().find(&whole) {
        return known;
    }
    let parsed = parse(text)?;
    let mut builder = RegexBuilder::new(&whole);
    builder
        .case_insensitive(ignores_case)
        .size_limit(SIZE_LIMIT);
    let compile = || {
        let regex = builder.build().map(Pattern);
        regex.map_err(|error| last_line(&error.to_string()))
    };
    let regex = check(&parsed).and_then(|()| compile());
    // A form that is too large is compiled up to the limit.
    let weight = total_weight(text, &parsed).min(SIZE_LIMIT as u64);
    kept().keep(whole, regex.clone(), weight);
    regex
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
