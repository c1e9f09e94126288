//! Regular expressions in routes: how many a namespace may have.
//!
//! Compiling takes time, about 0.4 µs for each state, in the loop that serves all namespaces. So the number of
//! states is limited: in a pattern, in a namespace, and in all namespaces together. Older routes come first,
//! so that a new one takes nothing from them.

use std::collections::BTreeMap;

use super::{Problem, rules::unsupported};
use crate::edge::Pattern;

/// Longest text in bytes. A path of the API has at most 1024.
const MAX_TEXT: usize = 1024;
/// Largest number of states of a pattern, in a namespace, and in all.
const MAX_PATTERN: u64 = 16_000;
const MAX_NAMESPACE: u64 = 300_000;
const MAX_ALL: u64 = 2_000_000;

/// Whether the states of a pattern fit into the limits.
type Admitted = Result<(), String>;

/// The patterns of all routes, counted in one pass over the routes.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    /// Patterns by namespace, each counted once.
    counted: BTreeMap<String, BTreeMap<String, Counted>>,
    /// Number of states, by namespace.
    states: BTreeMap<String, u64>,
    all: u64,
}

/// A pattern that is counted.
#[derive(Clone, Debug)]
pub(super) struct Counted {
    /// Its number of states; `None` if there was no need to know.
    weight: Option<Result<u64, String>>,
    admitted: Admitted,
}

/// The patterns of a route.
pub(super) type Used = BTreeMap<String, Counted>;

/// The patterns of a namespace, for one of its routes.
pub(super) struct RoutePatterns<'a> {
    all: &'a mut Patterns,
    namespace: &'a str,
    pub(super) used: Used,
}

impl<'a> RoutePatterns<'a> {
    pub(super) fn new(all: &'a mut Patterns, namespace: &'a str) -> Self {
        Self {
            all,
            namespace,
            used: Used::new(),
        }
    }

    /// Returns a regular expression that matches whole texts.
    pub(super) fn whole(&mut self, text: &str) -> Result<Pattern, Problem> {
        let invalid = |reason| unsupported(format!("regular expression `{text}`: {reason}"));
        let counted = self.all.admit(self.namespace, text, None);
        self.used.insert(text.to_owned(), counted.clone());
        counted.admitted.map_err(invalid)?;
        Pattern::whole(text).map_err(invalid)
    }
}

impl Patterns {
    /// Counts the patterns of a route again; returns whether each fits as it did before.
    pub(super) fn admits_again(&mut self, namespace: &str, used: &Used) -> bool {
        // All are counted, in any case: later routes must find the same numbers.
        let same = used.iter().filter(|(text, before)| {
            let now = self.admit(namespace, text, before.weight.as_ref());
            now.admitted == before.admitted
        });
        same.count() == used.len()
    }

    fn admit(
        &mut self,
        namespace: &str,
        text: &str,
        weight: Option<&Result<u64, String>>,
    ) -> Counted {
        let known = self.counted.get(namespace);
        if let Some(known) = known.and_then(|known| known.get(text)) {
            return known.clone();
        }
        let counted = self.count(namespace, text, weight);
        let of_namespace = self.counted.entry(namespace.to_owned()).or_default();
        of_namespace.insert(text.to_owned(), counted.clone());
        counted
    }

    fn count(
        &mut self,
        namespace: &str,
        text: &str,
        weight: Option<&Result<u64, String>>,
    ) -> Counted {
        let refused = |reason| Counted {
            weight: weight.cloned(),
            admitted: Err(reason),
        };
        if text.len() > MAX_TEXT {
            return refused(format!("it is longer than {MAX_TEXT} bytes"));
        }
        let states = self.states.entry(namespace.to_owned()).or_default();
        let left = (MAX_NAMESPACE - *states).min(MAX_ALL - self.all);
        if left == 0 {
            return refused(too_many(namespace));
        }
        let weight = weight.cloned().unwrap_or_else(|| Pattern::weight(text));
        let wanted = weight.clone().unwrap_or(text.len() as u64);
        // What is refused costs as well.
        let cost = wanted.min(MAX_PATTERN).min(left);
        *states += cost;
        self.all += cost;
        let admitted = match &weight {
            Err(reason) => Err(reason.clone()),
            Ok(weight) if *weight > MAX_PATTERN => Err(format!(
                "it has about {weight} states, more than {MAX_PATTERN}"
            )),
            Ok(weight) if *weight > cost => Err(too_many(namespace)),
            Ok(_) => Ok(()),
        };
        Counted {
            weight: Some(weight),
            admitted,
        }
    }
}

fn too_many(namespace: &str) -> String {
    format!(
        "the older regular expressions have all states that namespace {namespace} may have \
         ({MAX_NAMESPACE}, and {MAX_ALL} in all namespaces)"
    )
}
