//! Frontends and backends.

use std::path::Path;

use anyhow::Result;

use super::output::{Options, print_rows};
use crate::view::{Report, View};

pub(crate) fn services(pins: &Path, options: &Options) -> Result<()> {
    let rows = View::open(pins)?.frontends(Report::read(pins)?.as_ref())?;
    let header = [
        "service",
        "kind",
        "protocol",
        "frontend",
        "policy",
        "state",
        "connections",
        "backends",
    ];
    let wide = [
        "since_s",
        "internal_policy",
        "affinity_s",
        "balancing",
        "is_restricted",
        "packets",
        "bytes",
    ];
    print_rows(options, &header, &wide, &rows)
}

pub(crate) fn backends(pins: &Path, options: &Options) -> Result<()> {
    let rows = View::open(pins)?.backends()?;
    let header = ["backend", "protocol", "node", "connections", "services"];
    print_rows(options, &header, &["id", "packets", "bytes"], &rows)
}
