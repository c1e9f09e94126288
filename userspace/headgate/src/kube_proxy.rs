//! kube-proxy on this node: whether it runs, and the rules that it left.

use std::{
    fmt, fs,
    io::Write,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

/// Rules that kube-proxy made, recognized by their names, which only kube-proxy uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Leftover {
    /// An nftables table.
    NftTable { family: String },
    /// Chains of one iptables table, and the rules in other chains that jump to them.
    Chains {
        /// The program whose `-save` lists them, for example `iptables-nft`.
        program: &'static str,
        table: String,
        chains: Vec<String>,
        /// Lines of `iptables-save` that begin with `-A`.
        jumps: Vec<String>,
    },
    /// An ipset of the IPVS mode.
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

/// Whether a process named kube-proxy runs. A container sees it only if it shares the host's process
/// namespace.
pub(crate) fn is_running() -> bool {
    fs::read_dir("/proc").into_iter().flatten().any(|entry| {
        let name = entry.and_then(|entry| fs::read_to_string(entry.path().join("comm")));
        name.is_ok_and(|name| name.trim_end() == "kube-proxy")
    })
}

fn is_chain(name: &str) -> bool {
    CHAINS.iter().any(|known| match known.ends_with('-') {
        true => name.starts_with(known),
        false => name == *known,
    })
}

/// Returns the rules that are left, and the programs that are not installed, whose rules are not
/// checked.
pub(crate) fn find() -> (Vec<Leftover>, Vec<&'static str>) {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    match ask("nft", &["list", "tables"]) {
        Some(text) => found.extend(nft_tables(&text)),
        None => missing.push("nft"),
    }
    // A machine may have rules of both variants of iptables, whatever its default is.
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

/// Returns what a program prints, or `None` if it is not installed. A program that fails has no rules:
/// the kernel lacks the module.
fn ask(program: &str, words: &[&str]) -> Option<String> {
    let output = Command::new(program).args(words).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(if output.status.success() {
        text
    } else {
        String::new()
    })
}

/// Parses lines such as `table ip kube-proxy`.
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

/// Parses the output of `iptables-save`.
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
            Self::NftTable { family } => write!(out, "nftables table {family} {NFT_TABLE}"),
            Self::Chains {
                program,
                table,
                chains,
                jumps,
            } => write!(
                out,
                "{} chains in table {table} of {program}, and {} rules that jump to them",
                chains.len(),
                jumps.len()
            ),
            Self::Ipset { name } => write!(out, "ipset {name}"),
        }
    }
}

impl Leftover {
    /// Removes the rules; for packets this is one atomic step.
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

/// Input of `iptables-restore`: empties the chains, deletes the rules that jump to them, then the
/// chains.
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
    fn chains_of_the_kubelet_and_of_other_programs_stay() {
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
