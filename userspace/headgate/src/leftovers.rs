//! Rules that kube-proxy left in this network namespace.

use std::process::Command;

/// Programs that print rules, and what kube-proxy's are named in them.
const RULES: [(&str, &[&str], &str); 4] = [
    ("nft", &["list", "tables"], "kube-proxy"),
    ("iptables-save", &[], ":KUBE-SERVICES"),
    ("ip6tables-save", &[], ":KUBE-SERVICES"),
    ("ipset", &["list", "-n"], "KUBE-"),
];

/// What was found, a line each, and what could not be looked at.
pub(crate) fn find() -> Vec<String> {
    let mut found = Vec::new();
    for (program, arguments, name) in RULES {
        let Ok(output) = Command::new(program).args(arguments).output() else {
            found.push(format!(
                "cannot look for rules of kube-proxy: there is no {program}"
            ));
            continue;
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let count = text.lines().filter(|line| line.contains(name)).count();
        if count > 0 {
            found.push(format!(
                "kube-proxy left rules that {program} shows ({count} lines with {name}): remove \
                 them with `kube-proxy --cleanup`"
            ));
        }
    }
    found
}
