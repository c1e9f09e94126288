//! The BPF object that `cargo xtask build` makes.

use std::{borrow::Cow, env, fs, path::PathBuf};

use crate::error::Error;

/// The environment variable that names another object, to try programs without building this binary again.
const OTHER: &str = "HEADGATE_BPF_OBJECT";

/// The parser needs the object aligned.
#[cfg(headgate_embeds_bpf)]
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

#[cfg(headgate_embeds_bpf)]
static EMBEDDED: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("HEADGATE_BUILT_OBJECT")));

/// The bytes of the object: of the file that `HEADGATE_BPF_OBJECT` names, else embedded, else of the file that
/// the last build made (debug builds).
///
/// # Errors
///
/// If the file cannot be read.
pub(crate) fn read() -> Result<Cow<'static, [u8]>, Error> {
    let other = env::var_os(OTHER).map(PathBuf::from);
    #[cfg(headgate_embeds_bpf)]
    if other.is_none() {
        return Ok(Cow::Borrowed(&EMBEDDED.0));
    }
    let path = other.unwrap_or_else(|| env!("HEADGATE_BUILT_OBJECT").into());
    let bytes = fs::read(&path).map_err(|source| Error::NoObject { path, source })?;
    Ok(Cow::Owned(bytes))
}
