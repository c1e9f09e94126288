//! Why something is refused.

/// A reason of a condition: one word for programs, and a text for people.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The word.
    pub reason: &'static str,
    /// The text.
    pub message: String,
}

impl Problem {
    /// Makes a problem.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}
