//! Benchmarks: what is measured, beside what, and what comes of it. Subjects take turns within one
//! run, and medians count, because absolute figures are a machine's and ratios less so.

mod bpf;
pub mod churn;
pub mod control;
pub mod forwarding;
pub mod l7;
pub mod packets;
pub mod paths;
mod report;
mod rules;
mod tools;

pub use report::{Machine, Report, Table};
pub use rules::{Service, iptables, load_iptables, load_nftables, manifests, nftables};

/// What to measure of a benchmark, and how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// Fewer and shorter rounds.
    pub quick: bool,
    /// Only tables whose title contains this.
    pub name: Option<String>,
}

impl Options {
    /// Whether a table of this title is wanted.
    fn wants(&self, title: &str) -> bool {
        self.name.as_ref().is_none_or(|name| title.contains(name))
    }
}
