//! Benchmarks: subjects, baselines and reports. Subjects alternate within one run and results are
//! medians, because absolute figures belong to one machine, and ratios less so.

mod bpf;
pub mod churn;
pub mod control;
pub mod forwarding;
pub mod l7;
pub mod packets;
pub mod paths;
mod plain;
mod report;
pub mod served;
mod tools;

pub use headgate_netns::rules::{
    Family, Service, iptables, load_iptables, load_nftables, manifests, nftables,
};
pub use report::{Machine, Report, Table};

/// Which tables of a benchmark to measure, and how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// Fewer and shorter rounds.
    pub quick: bool,
    /// Only tables whose title contains this.
    pub name: Option<String>,
}

impl Options {
    /// Whether the table with this title is selected.
    fn wants(&self, title: &str) -> bool {
        self.name.as_ref().is_none_or(|name| title.contains(name))
    }
}
