//! The files of this crate are in one line: each uses only files before it.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::{fs, path::Path};

/// The files in reading order, as in `ebpf/README.md`.
const ORDER: [&str; 17] = [
    "checksum",
    "wire",
    "packet",
    "parse",
    "hash",
    "tables",
    "context",
    "conntrack",
    "select",
    "nat",
    "rewrite",
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
