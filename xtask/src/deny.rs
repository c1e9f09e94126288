//! Checks the dependencies by `deny.toml`: licences, banned crates, sources and advisories.

use anyhow::Result;

use crate::{setup, sh};

/// Checks the dependencies, and returns what could not be checked, as a `SKIPPED:` line.
pub(crate) fn run() -> Result<Option<String>> {
    if sh::output("cargo deny --version").is_none() {
        sh::heading("installing cargo-deny");
        sh::run(&mut setup::install("cargo-deny"))?;
    }
    sh::heading("licences, bans and sources");
    // A crate that is there in two versions is a warning, and not shown.
    let check = "cargo deny --log-level error check --hide-inclusion-graph --allow duplicate";
    sh::run(&mut sh::command(&format!("{check} bans licenses sources")))?;
    sh::heading("advisories");
    if sh::output("cargo deny fetch db").is_none() {
        return Ok(Some(
            "SKIPPED: advisories: their database cannot be fetched".into(),
        ));
    }
    sh::run(&mut sh::command(&format!("{check} advisories")))?;
    Ok(None)
}
