//! The BPF object that `cargo xtask build` makes.

use std::{borrow::Cow, env, fs, path::PathBuf};

use headgate_abi::KernelHelpers;

use crate::error::Error;

/// The environment variable that names another object, to try programs without building this binary again.
const OTHER: &str = "HEADGATE_BPF_OBJECT";

/// The parser needs the object aligned.
#[cfg(headgate_embeds_bpf)]
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

#[cfg(headgate_embeds_bpf)]
static EMBEDDED: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("HEADGATE_BUILT_OBJECT")));

/// The bytes of the object for a kernel with these helpers.
///
/// # Errors
///
/// If its file cannot be read.
pub(crate) fn read(helpers: &KernelHelpers) -> Result<Cow<'static, [u8]>, Error> {
    let object = built()?;
    Ok(match helpers.xdp_frags {
        0 => Cow::Owned(without_frags(object.into_owned())),
        _ => object,
    })
}

/// The object of the file that `HEADGATE_BPF_OBJECT` names, else embedded, else of the file that the last build made
/// (debug builds).
fn built() -> Result<Cow<'static, [u8]>, Error> {
    let other = env::var_os(OTHER).map(PathBuf::from);
    #[cfg(headgate_embeds_bpf)]
    if other.is_none() {
        return Ok(Cow::Borrowed(&EMBEDDED.0));
    }
    let path = other.unwrap_or_else(|| env!("HEADGATE_BUILT_OBJECT").into());
    let bytes = fs::read(&path).map_err(|source| Error::NoObject { path, source })?;
    Ok(Cow::Owned(bytes))
}

/// Changes the object for kernels before 5.18: the name of the XDP programs' section asks for frames in several buffers,
/// and these kernels refuse its programs. Everything that names the section is changed alike: the end of
/// `.relxdp.frags`, and the debug information (BTF). So no other section may have the new name.
fn without_frags(mut object: Vec<u8>) -> Vec<u8> {
    const NAME: &[u8] = b"xdp.frags\0";
    let names = object.windows(NAME.len()).enumerate();
    let found: Vec<usize> = names
        .filter_map(|(at, name)| (name == NAME).then_some(at))
        .collect();
    for at in found {
        if let Some(dot) = object.get_mut(at + b"xdp".len()) {
            *dot = 0;
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use super::without_frags;

    #[test]
    fn s175_older_kernels_get_programs_for_one_buffer() {
        let object = b"\0.relxdp.frags\0xdp.frags\0xdp_frags\0classifier\0".to_vec();
        let wanted = b"\0.relxdp\0frags\0xdp\0frags\0xdp_frags\0classifier\0";
        assert_eq!(without_frags(object), wanted);
    }
}
