//! The order of the routes of a host.

use std::{cmp::Reverse, sync::Arc};

use crate::edge::{PathMatch, Route};

/// A route of a host, with what its rank depends on.
#[derive(Clone)]
pub(super) struct PathCandidate {
    pub(super) route: Route,
    /// Length of the decoded path, with a slash at its end; an empty one means `/`.
    pub(super) written: usize,
}

impl PathCandidate {
    /// The order of routes: exact paths first, because no prefix that matches is longer, and a long
    /// regular expression should not win. Then the longest path, so that `/foo/` wins over `/foo`,
    /// then more conditions.
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

    /// Whether another one must not be added: it is for the same requests, or of another namespace
    /// and would take some of these.
    pub(super) fn excludes(&self, other: &Self) -> bool {
        let is_same_namespace =
            self.route.origin.name.namespace == other.route.origin.name.namespace;
        match is_same_namespace {
            true => self.is_same(other),
            false => !self.is_root() && self.route.path.overlaps(&other.route.path),
        }
    }

    /// Sends paths as they are.
    pub(super) fn leave_path(&mut self) {
        if self.route.policy.rewrite.is_some() {
            Arc::make_mut(&mut self.route.policy).rewrite = None;
        }
    }

    /// Whether every path matches.
    pub(super) fn is_root(&self) -> bool {
        self.route.path == PathMatch::Prefix(String::new())
    }
}
