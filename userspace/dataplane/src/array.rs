//! BPF arrays as shared memory: reading and writing them takes no system call.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering, fence},
};

use aya::{
    Pod,
    maps::{MapData, MapType},
};

const WORD: usize = size_of::<u64>();
/// Most words of an element.
const MOST: usize = 32;

/// What memory is mapped for. The trait has no name outside of this crate.
pub trait Access {
    /// `PROT_` flags of mmap(2).
    const PROTECTION: libc::c_int;
}

/// A mapping that can only be read.
#[derive(Clone, Copy, Debug)]
pub enum ReadOnly {}
/// A mapping that can be read and written.
#[derive(Clone, Copy, Debug)]
pub enum ReadWrite {}

impl Access for ReadOnly {
    const PROTECTION: libc::c_int = libc::PROT_READ;
}
impl Access for ReadWrite {
    const PROTECTION: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;
}

/// An array map with `BPF_F_MMAPABLE` (Linux 5.5), mapped into memory.
///
/// Elements are stored word by word, the first word last. So a program that reads the first word in one
/// load finds the element either before or after the store.
#[derive(Debug)]
pub struct SharedArray<T, A = ReadOnly> {
    words: NonNull<AtomicU64>,
    bytes: usize,
    len: u32,
    element: PhantomData<(T, A)>,
}

// SAFETY: the memory is not bound to a thread, and is read and written by atomic operations alone.
unsafe impl<T: Send, A> Send for SharedArray<T, A> {}
// SAFETY: as above.
unsafe impl<T: Sync, A> Sync for SharedArray<T, A> {}

impl<T: Pod, A: Access> SharedArray<T, A> {
    const STRIDE: usize = {
        let words = size_of::<T>().div_ceil(WORD);
        assert!(words <= MOST);
        words
    };

    /// Maps all elements of an array map.
    ///
    /// # Errors
    ///
    /// If the map is not an array, or its elements are not as large as `T`, or the kernel refuses the
    /// mapping.
    pub(crate) fn map(map: &MapData) -> io::Result<Self> {
        let info = map.info().map_err(io::Error::other)?;
        let size = info.value_size() as usize;
        if info.map_type().map_err(io::Error::other)? != MapType::Array {
            return Err(io::Error::other("it is not an array"));
        }
        if size != size_of::<T>() {
            let expected = size_of::<T>();
            return Err(io::Error::other(format!(
                "its values have {size} bytes instead of {expected}"
            )));
        }
        let len = info.max_entries();
        let bytes = Self::STRIDE * WORD * len as usize;
        // SAFETY: a new mapping at an address that the kernel chooses replaces no memory.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                A::PROTECTION,
                libc::MAP_SHARED,
                map.fd().as_fd().as_raw_fd(),
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

    /// Returns the number of elements.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Returns whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn words(&self, index: u32) -> Option<&[AtomicU64]> {
        if index >= self.len {
            return None;
        }
        // SAFETY: the element is within the `len` elements that were mapped, which the map has: the kernel
        // rounds each up to a multiple of 8 bytes. They stay mapped while `self` lives, and so does the map.
        Some(unsafe {
            let first = self.words.add(index as usize * Self::STRIDE);
            std::slice::from_raw_parts(first.as_ptr(), Self::STRIDE)
        })
    }

    /// Returns the element at `index`, or `None` if there is no such index.
    pub fn get(&self, index: u32) -> Option<T> {
        let mut words = [0; MOST];
        for (word, source) in words.iter_mut().zip(self.words(index)?) {
            // Only relaxed loads are sure to write nothing, which memory that is read-only would punish.
            *word = source.load(Ordering::Relaxed);
            fence(Ordering::Acquire);
        }
        // SAFETY: `words` has at least as many bytes as T, and any bytes make a T (`Pod`).
        Some(unsafe { words.as_ptr().cast::<T>().read_unaligned() })
    }
}

impl<T: Pod> SharedArray<T, ReadWrite> {
    /// Replaces the element at `index`; returns false if there is no such index.
    #[must_use]
    pub fn set(&self, index: u32, element: T) -> bool {
        let Some(target) = self.words(index) else {
            return false;
        };
        let mut words = [0u64; MOST];
        // SAFETY: `words` has at least as many bytes as T.
        unsafe { words.as_mut_ptr().cast::<T>().write_unaligned(element) };
        for (word, value) in target.iter().zip(&words[..Self::STRIDE]).rev() {
            word.store(*value, Ordering::Release);
        }
        true
    }
}

/// Returns the value that these bytes make.
pub(crate) fn from_bytes<T: Pod, const N: usize>(bytes: &[u8; N]) -> T {
    const { assert!(size_of::<T>() == N) }
    // SAFETY: there are as many bytes as T has, and any bytes make a T (`Pod`).
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}

impl<T, A> Drop for SharedArray<T, A> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of this length, and nothing refers to it any more.
        unsafe { libc::munmap(self.words.as_ptr().cast(), self.bytes) };
    }
}
