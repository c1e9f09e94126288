//! Reads and writes bytes of packets by words.
//!
//! A word's address may be misaligned. By Rust's rules such an access is undefined behaviour; here
//! it relies on LLVM's BPF target, which emits one load of the word, and on the verifier, which
//! refuses misaligned packet accesses on processors that cannot do them. `read_unaligned` does not
//! work: the compiler turns it into single bytes, and the XDP program exceeds the stack of 512
//! bytes (LLVM 22.1). Its switch `allows-misaligned-mem-access` does not work either: it makes
//! misaligned accesses to the stack, which the verifier refuses everywhere (Linux 6.18).

/// VERIFIER: offsets into a packet must be bounded by a constant before they are added to the
/// pointer. No header that is read starts further in.
const MAX_OFFSET: usize = 0x1ff;

/// Returns the address of `len` bytes at `offset` of a packet, if they lie before its end.
#[inline(always)]
pub(crate) fn locate(data: usize, end: usize, offset: u32, len: usize) -> Option<usize> {
    let start = data + (offset as usize & MAX_OFFSET);
    // VERIFIER: the compiler (LLVM 22) turns `start + 1 > end` into `start >= end`, from which the
    // verifier (Linux 6.18) learns nothing. No header ends after its first byte, so asking for two
    // bytes is equivalent.
    if start + len.max(2) > end {
        return None;
    }
    Some(start)
}

/// Reads `N` bytes.
///
/// # Safety
///
/// `N` bytes from `start` on are readable.
#[inline(always)]
pub(crate) unsafe fn read<const N: usize>(start: usize) -> [u8; N] {
    let mut bytes = [0; N];
    let mut done = 0;
    while done + 4 <= N {
        // SAFETY: within the N bytes; for the alignment see above.
        let word = unsafe { *((start + done) as *const u32) };
        let [a, b, c, d] = word.to_ne_bytes();
        bytes[done] = a;
        bytes[done + 1] = b;
        bytes[done + 2] = c;
        bytes[done + 3] = d;
        done += 4;
    }
    if done + 2 <= N {
        // SAFETY: as above.
        let [a, b] = unsafe { *((start + done) as *const u16) }.to_ne_bytes();
        bytes[done] = a;
        bytes[done + 1] = b;
        done += 2;
    }
    if done < N {
        // SAFETY: as above.
        bytes[done] = unsafe { *((start + done) as *const u8) };
    }
    bytes
}

/// Writes `N` bytes.
///
/// # Safety
///
/// `N` bytes from `start` on are writable.
#[inline(always)]
pub(crate) unsafe fn write<const N: usize>(start: usize, bytes: &[u8; N]) {
    let mut done = 0;
    while done + 4 <= N {
        let word = [
            bytes[done],
            bytes[done + 1],
            bytes[done + 2],
            bytes[done + 3],
        ];
        // SAFETY: within the N bytes; for the alignment see above.
        unsafe { *((start + done) as *mut u32) = u32::from_ne_bytes(word) };
        done += 4;
    }
    if done + 2 <= N {
        let half = [bytes[done], bytes[done + 1]];
        // SAFETY: as above.
        unsafe { *((start + done) as *mut u16) = u16::from_ne_bytes(half) };
        done += 2;
    }
    if done < N {
        // SAFETY: as above.
        unsafe { *((start + done) as *mut u8) = bytes[done] };
    }
}
