//! The order of the routes of a host.

use std::cmp::Reverse;

use super::{PathMatch, Route};

/// A route with what its place among others depends on.
#[derive(Clone)]
pub(super) struct Candidate {
    pub(super) route: Route,
    /// Length of the path as it was written, where an empty one stands for `/`.
    pub(super) written: usize,
}

impl Candidate {
    /// Exact first: where one matches, no prefix that matches is longer, and a regular expression
    /// should not take its requests by being wordy. Then the longest path, so that of `/foo/` and
    /// `/foo` the former wins, then the one with more conditions.
    pub(super) fn rank(&self) -> impl Ord + use<> {
        let is_exact = matches!(self.route.path, PathMatch::Exact(_));
        let conditions = self.route.conditions.len();
        (!is_exact, Reverse(self.written), Reverse(conditions))
    }

    /// Whether both are for the same requests.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (&self.route.path, &self.route.conditions, self.written)
            == (&other.route.path, &other.route.conditions, other.written)
    }

    /// Whether every path matches.
    pub(super) fn is_root(&self) -> bool {
        self.route.path == PathMatch::Prefix(String::new())
    }
}
