//! kube-proxy on this node: whether it runs, and the rules that it left.

use std::{
    fmt, fs,
    io::{self, Write},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use headgate_dataplane::netfilter::{
    self, NftFamily, delete_table, destroy_set, has_chain, legacy_chains,
};

/// Rules that kube-proxy made, recognized by their names, which only kube-proxy uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Leftover {
    /// An nftables table.
    NftTable { family: NftFamily },
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
/// Our own nftables table, of the family `inet`. It keeps the kernel's NAT and connection tracking on while
/// connections of the removed rules are open.
pub(crate) const TAKEOVER_TABLE: &str = "headgate-takeover";

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

/// What kube-proxy left on this node.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) leftovers: Vec<Leftover>,
    /// What could not be checked, or is there and could not be listed, and why.
    pub(crate) unknown: Vec<String>,
}

/// Whether rules of kube-proxy are there that translate packets.
pub(crate) fn translates() -> io::Result<bool> {
    const CHAIN: &str = "KUBE-SERVICES";
    let tables = netfilter::tables()?;
    Ok(tables.iter().any(|(_, name)| name == NFT_TABLE)
        || has_chain(NftFamily::Ip, "nat", CHAIN)?
        || has_chain(NftFamily::Ip6, "nat", CHAIN)?
        || has_legacy_chains(false)?
        || has_legacy_chains(true)?)
}

fn has_legacy_chains(is_v6: bool) -> io::Result<bool> {
    let chains = legacy_chains(is_v6)?;
    Ok(chains.iter().any(|(_, chain)| is_chain(chain)))
}

/// Whether `iptables-nft` has chains of kube-proxy.
fn has_nft_chains(family: NftFamily) -> io::Result<bool> {
    for table in ["nat", "filter", "mangle"] {
        for chain in CHAINS.iter().filter(|chain| !chain.ends_with('-')) {
            if has_chain(family, table, chain)? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Asks the kernel what is there, and the programs of iptables for its rules.
pub(crate) fn find() -> Found {
    let mut found = Found::default();
    match netfilter::tables() {
        Ok(tables) => {
            let tables = tables.into_iter().filter(|(_, name)| name == NFT_TABLE);
            let tables = tables.map(|(family, _)| Leftover::NftTable { family });
            found.leftovers.extend(tables);
        }
        Err(error) => found.unknown.push(format!("tables of nftables: {error}")),
    }
    // A machine may have rules of both variants of iptables, whatever its default is.
    for (family, is_v6, [nft, legacy, usual]) in [
        (
            NftFamily::Ip,
            false,
            ["iptables-nft", "iptables-legacy", "iptables"],
        ),
        (
            NftFamily::Ip6,
            true,
            ["ip6tables-nft", "ip6tables-legacy", "ip6tables"],
        ),
    ] {
        for (is_there, program, variant) in [
            (has_nft_chains(family), nft, "nf_tables"),
            (has_legacy_chains(is_v6), legacy, "legacy"),
        ] {
            let listed = match is_there {
                Ok(false) => continue,
                Ok(true) => saved([program, usual], variant),
                Err(error) => Err(error.to_string()),
            };
            match listed {
                Ok(chains) => found.leftovers.extend(chains),
                Err(why) => found
                    .unknown
                    .push(format!("rules of kube-proxy in {program}: {why}")),
            }
        }
    }
    match netfilter::sets() {
        Ok(names) => {
            let names = names.into_iter().filter(|name| name.starts_with("KUBE-"));
            let sets = names.map(|name| Leftover::Ipset { name });
            found.leftovers.extend(sets);
        }
        Err(error) => found.unknown.push(format!("ipsets: {error}")),
    }
    found
}

/// Lists the chains of kube-proxy with the first of these programs that is installed and of this variant.
fn saved(programs: [&'static str; 2], variant: &str) -> Result<Vec<Leftover>, String> {
    for program in programs {
        let Ok(version) = Command::new(program).arg("--version").output() else {
            continue;
        };
        if !String::from_utf8_lossy(&version.stdout).contains(variant) {
            continue;
        }
        let output = Command::new(format!("{program}-save")).output();
        let output = output.map_err(|error| format!("{program}-save: {error}"))?;
        if !output.status.success() {
            let complaint = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{program}-save: {}", complaint.trim()));
        }
        return Ok(chains(program, &String::from_utf8_lossy(&output.stdout)));
    }
    Err("they are there, and the program is not installed here: run this on the host".into())
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

impl fmt::Display for Leftover {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NftTable { family } => {
                write!(out, "nftables table {} {NFT_TABLE}", family.name())
            }
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
            Self::NftTable { family } => Ok(delete_table(*family, NFT_TABLE)?),
            Self::Chains {
                program,
                table,
                chains,
                jumps,
            } => {
                let restore = format!("{program}-restore");
                run(&restore, &["--noflush"], &removal(table, chains, jumps))
            }
            Self::Ipset { name } => Ok(destroy_set(name)?),
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
