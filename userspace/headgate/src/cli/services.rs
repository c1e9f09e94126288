//! Frontends and backends.

use std::path::Path;

use anyhow::Result;

use super::output::{OutputArgs, print_rows};
use crate::view::{AgentState, View};

pub(crate) fn services(pins: &Path, args: &OutputArgs) -> Result<()> {
    let rows = View::open(pins)?.frontends(AgentState::read(pins)?.as_ref())?;
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
        "listener",
        "since_s",
        "internal_policy",
        "affinity_s",
        "balancing",
        "is_restricted",
        "packets",
        "bytes",
    ];
    print_rows(args, &header, &wide, &rows)
}

pub(crate) fn backends(pins: &Path, args: &OutputArgs) -> Result<()> {
    let rows = View::open(pins)?.backends()?;
    let header = ["backend", "protocol", "node", "connections", "services"];
    print_rows(args, &header, &["id", "packets", "bytes"], &rows)
}
