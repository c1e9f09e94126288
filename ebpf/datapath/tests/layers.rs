//! The files of this crate are in one line: each uses only files before it.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::{fs, path::Path};

/// The files in reading order, as in `ebpf/README.md`.
const ORDER: [&str; 22] = [
    "checksum",
    "wire",
    "packet",
    "truth",
    "parse",
    "sequence",
    "hash",
    "tables",
    "context",
    "conntrack",
    "select",
    "nat",
    "track",
    "rewrite",
    "fragment",
    "link",
    "encap",
    "reject",
    "icmp",
    "walk",
    "socket",
    "maglev",
];

#[test]
fn each_file_uses_only_files_before_it() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = fs::read_dir(&sources).unwrap().count();
    assert_eq!(files, ORDER.len() + 1, "a file is missing in the order");
    for (index, name) in ORDER.iter().enumerate() {
        let text = fs::read_to_string(sources.join(format!("{name}.rs"))).unwrap();
        let later = &ORDER[index..];
        let imports = text.split("use crate::").skip(1);
        for import in imports.map(|rest| rest.split_once(';').unwrap().0) {
            for path in import.split(|letter: char| !letter.is_alphanumeric() && letter != ':') {
                let module = path.split("::").next().unwrap();
                assert!(!later.contains(&module), "{name}.rs uses {module}.rs");
            }
        }
    }
}

#[test]
fn tests_of_invariants_exist() {
    let ebpf = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = fs::read_to_string(ebpf.join("README.md")).unwrap();
    let folders = ["abi/tests", "datapath/tests", "packets/cases"].map(|folder| ebpf.join(folder));
    let files = folders
        .iter()
        .flat_map(|folder| fs::read_dir(folder).unwrap());
    let sources: String = files
        .map(|file| fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    let rows = readme.lines().filter(|line| line.starts_with("| I"));
    let named: Vec<&str> = rows.filter_map(|row| row.split('`').nth_back(1)).collect();
    assert_eq!(named.len(), 24, "{named:?}");
    for name in named {
        assert!(
            sources.contains(&format!("fn {name}(")),
            "no test is named {name}"
        );
    }
}
