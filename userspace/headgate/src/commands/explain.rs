//! Why something happens.

use anyhow::{Context, Result};
use headgate_abi::Reason;

use crate::view::fate;

/// Tells what a reason means, by its number or its name.
pub(crate) fn explain(text: &str) -> Result<()> {
    let is_it = |reason: &&Reason| reason.name() == text || text.parse() == Ok(**reason as u32);
    let reason = Reason::ALL.iter().find(is_it).with_context(|| {
        let names: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        format!("there is no reason {text}; there are {}", names.join(", "))
    })?;
    println!(
        "{} ({}), {}: {}",
        reason.name(),
        *reason as u32,
        fate(*reason),
        reason.sentence().trim()
    );
    Ok(())
}
