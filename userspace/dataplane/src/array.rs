//! BPF arrays as shared memory: reading and writing them takes no system call.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsRawFd, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::Pod;

const WORD: usize = size_of::<u64>();
/// Most words of an element.
const MOST: usize = 32;

/// An array map made with `BPF_F_MMAPABLE` (Linux 5.5).
///
/// Elements are stored word by word, the first word last: whoever reads the first word in one load
/// sees an element before or after the store, and nothing in between.
#[derive(Debug)]
pub struct SharedArray<T> {
    words: NonNull<AtomicU64>,
    bytes: usize,
    len: u32,
    element: PhantomData<T>,
}

// SAFETY: the memory is shared with the kernel anyway, and is only touched by atomic operations.
unsafe impl<T: Send> Send for SharedArray<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for SharedArray<T> {}

impl<T: Pod> SharedArray<T> {
    const STRIDE: usize = {
        let words = size_of::<T>().div_ceil(WORD);
        assert!(words <= MOST);
        words
    };

    /// Maps the `len` elements of a map.
    pub fn map(map: BorrowedFd<'_>, len: u32, writable: bool) -> io::Result<Self> {
        let bytes = Self::STRIDE * WORD * len as usize;
        let protection = if writable {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            libc::PROT_READ
        };
        // SAFETY: a new mapping, of which the kernel checks descriptor and length.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                protection,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let words =
            NonNull::new(memory.cast()).ok_or_else(|| io::Error::other("mapped at zero"))?;
        Ok(Self {
            words,
            bytes,
            len,
            element: PhantomData,
        })
    }

    /// Number of elements.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn words(&self, index: u32) -> Option<&[AtomicU64]> {
        if index >= self.len {
            return None;
        }
        // SAFETY: the element lies within the mapping, which lives as long as `self`.
        Some(unsafe {
            let first = self.words.add(index as usize * Self::STRIDE);
            std::slice::from_raw_parts(first.as_ptr(), Self::STRIDE)
        })
    }

    /// The element at `index`, or `None` if there is no such index.
    pub fn get(&self, index: u32) -> Option<T> {
        let mut words = [0; MOST];
        for (word, source) in words.iter_mut().zip(self.words(index)?) {
            *word = source.load(Ordering::Acquire);
        }
        // SAFETY: there are at least as many bytes as T has, and any bytes make a T (`Pod`).
        Some(unsafe { words.as_ptr().cast::<T>().read_unaligned() })
    }

    /// Replaces the element at `index`; false if there is no such index.
    #[must_use]
    pub fn set(&self, index: u32, element: T) -> bool {
        let Some(target) = self.words(index) else {
            return false;
        };
        let mut words = [0u64; MOST];
        // SAFETY: there are at least as many bytes as T has.
        unsafe { words.as_mut_ptr().cast::<T>().write_unaligned(element) };
        for (word, value) in target.iter().zip(&words[..Self::STRIDE]).rev() {
            word.store(*value, Ordering::Release);
        }
        true
    }
}

/// A value of these bytes.
pub(crate) fn from_bytes<T: Pod, const N: usize>(bytes: &[u8; N]) -> T {
    const { assert!(size_of::<T>() == N) }
    // SAFETY: as many bytes as T has, and any bytes make a T (`Pod`).
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}

impl<T> Drop for SharedArray<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing refers to it any more. It cannot fail for a
        // mapping that exists.
        unsafe { libc::munmap(self.words.as_ptr().cast(), self.bytes) };
    }
}
