//! Rules that kube-proxy left in this network namespace.

use std::{
    fmt,
    io::Write,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

/// Something that kube-proxy made. It belongs to kube-proxy alone, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Leftover {
    /// A table of nftables.
    NftTable { family: String },
    /// Chains of one table of iptables, and the rules elsewhere that jump to them.
    Chains {
        /// `iptables-nft` for example: the one whose `-save` shows them.
        program: &'static str,
        table: String,
        chains: Vec<String>,
        /// In the words of `iptables-save`, beginning with `-A`.
        jumps: Vec<String>,
    },
    /// A set that its rules for IPVS use.
    Ipset { name: String },
}

const NFT_TABLE: &str = "kube-proxy";

/// Chains by name or, with a dash at the end, by prefix (kube-proxy, `pkg/proxy/{iptables,ipvs}`).
/// The kubelet's own, `KUBE-FIREWALL` and `KUBE-KUBELET-CANARY`, are not among them.
const CHAINS: [&str; 18] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-NODE-PORT",
    "KUBE-POSTROUTING",
    "KUBE-FORWARD",
    "KUBE-LOAD-BALANCER",
    "KUBE-SOURCE-RANGES-FIREWALL",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
    "KUBE-PROXY-FIREWALL",
    "KUBE-PROXY-CANARY",
    "KUBE-MARK-MASQ",
    "KUBE-SVC-",
    "KUBE-SVL-",
    "KUBE-SEP-",
    "KUBE-EXT-",
    "KUBE-FW-",
];

fn is_chain(name: &str) -> bool {
    CHAINS.iter().any(|known| match known.ends_with('-') {
        true => name.starts_with(known),
        false => name == *known,
    })
}

/// What is there, and which programs could not be asked.
pub(crate) fn find() -> (Vec<Leftover>, Vec<&'static str>) {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    match ask("nft", &["list", "tables"]) {
        Some(text) => found.extend(nft_tables(&text)),
        None => missing.push("nft"),
    }
    // A machine may have rules in either kind of iptables, whichever is the usual one.
    for programs in [
        ["iptables-nft", "iptables-legacy", "iptables"],
        ["ip6tables-nft", "ip6tables-legacy", "ip6tables"],
    ] {
        let [nft, legacy, usual] = programs;
        let saved = |program: &'static str| {
            let text = ask(&format!("{program}-save"), &[])?;
            Some(chains(program, &text))
        };
        match (saved(nft), saved(legacy)) {
            (None, None) => match saved(usual) {
                Some(chains) => found.extend(chains),
                None => missing.push(usual),
            },
            both => found.extend(both.0.into_iter().chain(both.1).flatten()),
        }
    }
    match ask("ipset", &["list", "-n"]) {
        Some(text) => found.extend(sets(&text)),
        None => missing.push("ipset"),
    }
    (found, missing)
}

/// What a program prints; `None` if there is none. One that fails has nothing to tell, for the
/// kernel lacks what it is about.
fn ask(program: &str, words: &[&str]) -> Option<String> {
    let output = Command::new(program).args(words).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(if output.status.success() {
        text
    } else {
        String::new()
    })
}

/// Reads `table ip kube-proxy`.
fn nft_tables(text: &str) -> Vec<Leftover> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (family, name) = (words.next()?, words.next()?);
        (name == NFT_TABLE).then(|| Leftover::NftTable {
            family: family.into(),
        })
    });
    lines.collect()
}

/// Reads what `iptables-save` prints.
fn chains(program: &'static str, text: &str) -> Vec<Leftover> {
    let mut found = Vec::new();
    for section in text
        .split("\n*")
        .map(|section| section.trim_start_matches('*'))
    {
        let table = section.lines().next().unwrap_or_default();
        let declared = section.lines().filter_map(|line| {
            let name = line.strip_prefix(':')?.split(' ').next()?;
            is_chain(name).then(|| name.to_owned())
        });
        let jumps = section.lines().filter(|line| {
            let mut words = line.split(' ');
            let is_rule = words.next() == Some("-A");
            let is_elsewhere = words.next().is_some_and(|chain| !is_chain(chain));
            let mut targets = words
                .skip_while(|word| !matches!(*word, "-j" | "-g"))
                .skip(1);
            is_rule && is_elsewhere && targets.next().is_some_and(is_chain)
        });
        let chains: Vec<String> = declared.collect();
        if !chains.is_empty() {
            found.push(Leftover::Chains {
                program,
                table: table.into(),
                chains,
                jumps: jumps.map(String::from).collect(),
            });
        }
    }
    found
}

fn sets(text: &str) -> Vec<Leftover> {
    let names = text.lines().filter(|name| name.starts_with("KUBE-"));
    names
        .map(|name| Leftover::Ipset { name: name.into() })
        .collect()
}

impl fmt::Display for Leftover {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NftTable { family } => write!(out, "table {family} {NFT_TABLE} of nftables"),
            Self::Chains {
                program,
                table,
                chains,
                jumps,
            } => write!(
                out,
                "{} chains in table {table} of {program}, and {} rules that jump there",
                chains.len(),
                jumps.len()
            ),
            Self::Ipset { name } => write!(out, "set {name} of ipset"),
        }
    }
}

impl Leftover {
    /// Removes it, in one step for packets.
    pub(crate) fn remove(&self) -> Result<()> {
        match self {
            Self::NftTable { family } => run("nft", &["delete", "table", family, NFT_TABLE], ""),
            Self::Chains {
                program,
                table,
                chains,
                jumps,
            } => {
                let restore = format!("{program}-restore");
                run(&restore, &["--noflush"], &removal(table, chains, jumps))
            }
            Self::Ipset { name } => run("ipset", &["destroy", name], ""),
        }
    }
}

/// Empties the chains, removes what jumps to them, and then them.
fn removal(table: &str, chains: &[String], jumps: &[String]) -> String {
    let mut text = format!("*{table}\n");
    for chain in chains {
        text.push_str(&format!(":{chain} - [0:0]\n"));
    }
    for jump in jumps {
        text.push_str(&jump.replacen("-A ", "-D ", 1));
        text.push('\n');
    }
    for chain in chains {
        text.push_str(&format!("-X {chain}\n"));
    }
    text + "COMMIT\n"
}

fn run(program: &str, words: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        words.join(" "),
        complaint.trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Leftover, chains, removal};

    #[test]
    fn chains_of_the_kubelet_and_of_others_are_left_alone() {
        let saved = "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-KUBELET-CANARY - [0:0]\n\
                     :KUBE-SERVICES - [0:0]\n:KUBE-SVC-ABC - [0:0]\n:MINE - [0:0]\n\
                     -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
                     -A PREROUTING -j MINE\n-A KUBE-SERVICES -j KUBE-SVC-ABC\nCOMMIT\n\
                     *filter\n:KUBE-FIREWALL - [0:0]\nCOMMIT\n";
        let found = chains("iptables", saved);
        let [
            Leftover::Chains {
                table,
                chains,
                jumps,
                ..
            },
        ] = found.as_slice()
        else {
            panic!("{found:?}");
        };
        assert_eq!(table, "nat");
        assert_eq!(chains, &["KUBE-SERVICES", "KUBE-SVC-ABC"]);
        assert_eq!(jumps.len(), 1);
        assert_eq!(
            removal(table, chains, jumps),
            "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-ABC - [0:0]\n\
             -D PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
             -X KUBE-SERVICES\n-X KUBE-SVC-ABC\nCOMMIT\n"
        );
    }
}
