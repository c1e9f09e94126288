//! Pinned maps outlive the agent: their layout has a version.

use headgate_abi::{ABI_VERSION, LAYOUTS};

/// Hash of all layouts, by version of the ABI. A new version gets a new line; a line never changes.
const RECORDED: [(u32, u64); 2] = [
    (2, 11_633_111_652_567_073_049),
    (3, 15_480_185_552_148_883_475),
];

/// FNV-1a.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

#[test]
fn layout_changes_only_with_the_version() {
    let now = (ABI_VERSION, hash(&format!("{LAYOUTS:?}")));
    assert_eq!(
        RECORDED.last(),
        Some(&now),
        "names, sizes or offsets changed: raise ABI_VERSION, say in the change log what an upgrade \
         does, and record the new version here"
    );
}
