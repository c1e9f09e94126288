//! Pinned maps outlive the agent: their layout has a version.

use std::fmt::Write;

use headgate_abi::{ABI_VERSION, CONTENTS, LAYOUTS, RECORDED_LAYOUTS, names};

/// The layouts of this version, as text.
fn layouts() -> String {
    let mut text = String::new();
    for map in CONTENTS {
        let line = format!("map {} {} {} {}", map.map, map.kind, map.key, map.value);
        text += &line;
        text.push('\n');
    }
    for layout in LAYOUTS {
        let _infallible = write!(text, "type {} {}", layout.name, layout.size);
        for (field, offset) in layout.fields {
            let _infallible = write!(text, " {field} {offset}");
        }
        text.push('\n');
    }
    for (name, size) in [
        ("u32", 4),
        ("u64", 8),
        ("text", names::TEXT_SIZE),
        ("none", 0),
    ] {
        let _infallible = writeln!(text, "type {name} {size}");
    }
    text
}

#[test]
fn layout_changes_only_with_the_version() {
    let now = layouts();
    let (version, recorded) = RECORDED_LAYOUTS[RECORDED_LAYOUTS.len() - 1];
    assert!(
        (version, recorded) == (ABI_VERSION, &now),
        "maps, names, sizes or offsets changed: raise ABI_VERSION, say in the change log what an upgrade does, and \
         record the new version in a file of ebpf/abi/layouts:\n{now}"
    );
}

#[test]
fn contents_are_those_of_all_maps() {
    assert_eq!(CONTENTS.map(|contents| contents.map), names::MAPS);
    let fits = |(_, text): &(u32, &str)| text.len() < names::TEXT_SIZE;
    assert!(RECORDED_LAYOUTS.iter().all(fits));
}
