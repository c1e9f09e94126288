//! What is built in: licences, banned crates, sources, and known faults of crates.

use anyhow::Result;

use crate::sh;

/// Checks the dependencies by `deny.toml`.
pub(crate) fn run() -> Result<()> {
    if sh::output("cargo deny --version").is_none() {
        sh::heading("installing cargo-deny");
        sh::run(&mut sh::command("cargo install cargo-deny --locked"))?;
    }
    sh::heading("licences, bans and sources");
    // It tells of every crate that is there twice; that is no fault.
    let check = "cargo deny --log-level error check --hide-inclusion-graph --allow duplicate";
    sh::run(&mut sh::command(&format!("{check} bans licenses sources")))?;
    sh::heading("advisories");
    if sh::output("cargo deny fetch db").is_none() {
        println!("SKIPPED: the database of advisories cannot be reached");
        return Ok(());
    }
    sh::run(&mut sh::command(&format!(
        "{check} --disable-fetch advisories"
    )))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::sh;

    /// `cargo xtask deny` checks more, and takes minutes to install.
    #[test]
    fn banned_crates_are_not_built_in() {
        let text = fs::read_to_string(sh::root().join("deny.toml")).unwrap_or_default();
        let (_, bans) = text.split_once("\ndeny = [").unwrap_or_default();
        let banned: Vec<&str> = bans
            .lines()
            .filter_map(|line| line.split("crate = \"").nth(1)?.split('"').next())
            .collect();
        assert!(banned.contains(&"ring"), "{banned:?}");
        let tree = "cargo tree --workspace --locked --all-features --prefix none --format {p}";
        let tree = sh::output(tree).unwrap_or_default();
        let built = |name: &str| {
            tree.lines()
                .any(|line| line.split(' ').next() == Some(name))
        };
        assert!(built("rustls"), "{tree}");
        let wrong: Vec<&&str> = banned.iter().filter(|name| built(name)).collect();
        assert!(wrong.is_empty(), "{wrong:?}: `cargo tree --invert NAME`");
    }
}
