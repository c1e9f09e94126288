//! Saved inputs that failed once.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::Target;

fn folder(target: &Target) -> PathBuf {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    all.join(target.name)
}

/// Saved inputs of a target, each with the name of its file.
pub fn regressions(target: &Target) -> Result<Vec<(String, Vec<u8>)>> {
    let folder = folder(target);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut inputs = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        let input = bytes(&text).with_context(|| format!("{}: not hex", path.display()))?;
        let name = path.file_stem().unwrap_or_default();
        inputs.push((name.to_string_lossy().into_owned(), input));
    }
    inputs.sort();
    Ok(inputs)
}

/// Saves an input, so that the tests run it from now on.
pub fn save(target: &Target, name: &str, input: &[u8]) -> Result<PathBuf> {
    let path = folder(target).join(format!("{name}.hex"));
    fs::create_dir_all(folder(target))?;
    fs::write(&path, hex(input)).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Hexadecimal text, 32 bytes per line.
fn hex(input: &[u8]) -> String {
    let line = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let lines: Vec<String> = input.chunks(32).map(line).collect();
    lines.join("\n") + "\n"
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    pairs
        .iter()
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{bytes, hex};

    #[test]
    fn an_input_survives_its_file() {
        for input in [vec![], vec![0], (0..=255).collect()] {
            assert_eq!(bytes(&hex(&input)), Some(input));
        }
        assert_eq!(bytes("0"), None);
        assert_eq!(bytes("0x"), None);
    }
}
