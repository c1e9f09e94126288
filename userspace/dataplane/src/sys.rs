//! Calls of bpf(2) that aya lacks, and the clock of the programs.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::OnceLock,
    time::Duration,
};

use headgate_abi::seconds;
use nix::{
    sys::resource::{RLIM_INFINITY, Resource, setrlimit},
    time::{ClockId, clock_gettime},
};

const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
const BPF_MAP_GET_NEXT_KEY: libc::c_int = 4;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_int = 26;
const BPF_LINK_UPDATE: libc::c_int = 29;

#[repr(C)]
struct Object {
    pathname: u64,
    fd: u32,
    flags: u32,
}

/// A key of a map, and its value or the next key.
#[repr(C)]
struct Element {
    map_fd: u32,
    zero: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct InfoByFd {
    fd: u32,
    info_len: u32,
    info: u64,
}

#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

fn bpf<T>(command: libc::c_int, mut attributes: T) -> io::Result<i32> {
    bpf_mut(command, &mut attributes)
}

/// Like [`bpf`], for commands that write into their attributes.
fn bpf_mut<T>(command: libc::c_int, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: `attributes` is a prefix of `union bpf_attr` of this size. The kernel reads and writes no more, but
    // for the memory that the attributes point to, which the callers own.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as i32)
}

/// Opens a pinned object.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let fd = bpf(
        BPF_OBJ_GET,
        Object {
            pathname: path.as_ptr() as u64,
            fd: 0,
            flags: 0,
        },
    )?;
    // SAFETY: the kernel just returned this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Replaces the program of a link in one step: each packet passes one of both (Linux 5.7).
pub(crate) fn replace_program(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    bpf(
        BPF_LINK_UPDATE,
        LinkUpdate {
            link_fd: link.as_raw_fd() as u32,
            new_prog_fd: program.as_raw_fd() as u32,
            flags: 0,
            old_prog_fd: 0,
        },
    )?;
    Ok(())
}

/// Returns the number of the device that a link of XDP or TC is attached to; 0 if the device is gone.
pub(crate) fn device_of_link(link: BorrowedFd<'_>) -> io::Result<u32> {
    /// The beginning of `struct bpf_link_info`: type, id and program; then, aligned to eight bytes, a union that
    /// begins with the device for XDP and TC.
    #[derive(Default)]
    #[repr(C, align(8))]
    struct LinkInfo {
        head: [u32; 4],
        device: u32,
        rest: [u32; 11],
    }
    let mut info = LinkInfo::default();
    let mut attributes = InfoByFd {
        fd: link.as_raw_fd() as u32,
        info_len: size_of::<LinkInfo>() as u32,
        info: &raw mut info as u64,
    };
    bpf_mut(BPF_OBJ_GET_INFO_BY_FD, &mut attributes)?;
    Ok(info.device)
}

/// Lifts the limit of locked memory, which maps count as before Linux 5.11. If it is too low and may not be
/// lifted, creating maps fails.
pub(crate) fn lift_memory_limit() {
    let _kept = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
}

/// Copies the entries of the next buckets of a hash map (Linux 5.6), as many as the vectors have capacity for.
/// Begins at `bucket`, or at the first. Returns the next bucket, or `None` at the end.
///
/// `K` and `V` must have the sizes of the map's keys and values: the kernel writes these.
pub(crate) fn next_entries<K: aya::Pod, V: aya::Pod>(
    map: BorrowedFd<'_>,
    bucket: Option<u32>,
    keys: &mut Vec<K>,
    values: &mut Vec<V>,
) -> io::Result<Option<u32>> {
    keys.clear();
    values.clear();
    let at_most = keys.capacity().min(values.capacity());
    let (to_keys, to_values) = (keys.as_mut_ptr() as u64, values.as_mut_ptr() as u64);
    let (count, next) = read_batch(map, bucket, to_keys, to_values, at_most)?;
    // SAFETY: the kernel wrote this number of elements, at most the capacity, and any bytes make a `Pod`.
    unsafe {
        keys.set_len(count);
        values.set_len(count);
    }
    Ok(next)
}

/// Copies the next entries of a hash map or an array, at most `at_most`. Begins where the last call ended, or at the
/// beginning. Returns their number and where to continue, or `None` at the end.
///
/// The slices must have the sizes of as many keys and values: the kernel writes these.
pub(crate) fn lookup_batch(
    map: BorrowedFd<'_>,
    from: Option<u32>,
    keys: &mut [u8],
    values: &mut [u8],
    at_most: usize,
) -> io::Result<(usize, Option<u32>)> {
    let (keys, values) = (keys.as_mut_ptr() as u64, values.as_mut_ptr() as u64);
    read_batch(map, from, keys, values, at_most)
}

fn read_batch(
    map: BorrowedFd<'_>,
    from: Option<u32>,
    keys: u64,
    values: u64,
    at_most: usize,
) -> io::Result<(usize, Option<u32>)> {
    let mut next = 0u32;
    let mut batch = Batch {
        in_batch: from.as_ref().map_or(0, |from| &raw const *from as u64),
        out_batch: &raw mut next as u64,
        keys,
        values,
        count: at_most as u32,
        map_fd: map.as_raw_fd() as u32,
        elem_flags: 0,
        flags: 0,
    };
    let is_end = match bpf_mut(BPF_MAP_LOOKUP_BATCH, &mut batch) {
        Ok(_) => false,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
        Err(error) => return Err(error),
    };
    Ok((batch.count as usize, (!is_end).then_some(next)))
}

/// Adds or replaces `count` entries (Linux 5.6). The slices must have the sizes of as many keys and values.
pub(crate) fn update_batch(
    map: BorrowedFd<'_>,
    keys: &[u8],
    values: &[u8],
    count: usize,
) -> io::Result<()> {
    bpf(
        BPF_MAP_UPDATE_BATCH,
        Batch {
            in_batch: 0,
            out_batch: 0,
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count: count as u32,
            map_fd: map.as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        },
    )?;
    Ok(())
}

fn element(
    command: libc::c_int,
    map: BorrowedFd<'_>,
    key: u64,
    value: u64,
    flags: u64,
) -> io::Result<()> {
    bpf(
        command,
        Element {
            map_fd: map.as_raw_fd() as u32,
            zero: 0,
            key,
            value,
            flags,
        },
    )?;
    Ok(())
}

/// Makes a missing element false.
fn is_found(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        result => result.map(|()| true),
    }
}

/// Copies the value of a key; false if it has none. The slices must have the sizes of the map's keys and values.
pub(crate) fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    let (key, value) = (key.as_ptr() as u64, value.as_mut_ptr() as u64);
    is_found(element(BPF_MAP_LOOKUP_ELEM, map, key, value, 0))
}

/// Adds an entry, or replaces its value, by these flags of bpf(2). The slices must have the sizes of the map's keys and
/// values.
pub(crate) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
    let (key, value) = (key.as_ptr() as u64, value.as_ptr() as u64);
    element(BPF_MAP_UPDATE_ELEM, map, key, value, flags)
}

/// Removes an entry. The slice must have the size of the map's keys.
pub(crate) fn delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<()> {
    element(BPF_MAP_DELETE_ELEM, map, key.as_ptr() as u64, 0, 0)
}

/// Copies the key after this one, or the first; false at the end. The slices must have the size of the map's keys.
pub(crate) fn next_key(
    map: BorrowedFd<'_>,
    key: Option<&[u8]>,
    next: &mut [u8],
) -> io::Result<bool> {
    let key = key.map_or(0, |key| key.as_ptr() as u64);
    let next = next.as_mut_ptr() as u64;
    is_found(element(BPF_MAP_GET_NEXT_KEY, map, key, next, 0))
}

/// Pins a map, a program or a link.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    bpf(
        BPF_OBJ_PIN,
        Object {
            pathname: path.as_ptr() as u64,
            fd: object.as_raw_fd() as u32,
            flags: 0,
        },
    )?;
    Ok(())
}

/// Waits until every program that runs now on another CPU has ended: a grace period of the kernel, as membarrier(2)
/// waits for one.
pub(crate) fn wait_for_programs() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes integers alone.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result < 0 {
        // A kernel without it (`nohz_full`). Programs run for microseconds.
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Returns the time of the programs' clock, in nanoseconds: monotonic, without the time that the machine slept,
/// and without the offset of a time namespace.
pub fn now_ns() -> u64 {
    static AHEAD_NS: OnceLock<i64> = OnceLock::new();
    let ahead_ns = AHEAD_NS.get_or_init(|| {
        // Without the file there are no time namespaces (Linux 5.6).
        let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
        monotonic_offset_ns(&offsets).unwrap_or(0)
    });
    // It fails only for clocks that the kernel lacks.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    (now.as_nanos() as u64).wrapping_add_signed(-ahead_ns)
}

/// Returns the time of [`now_ns`] in seconds, as entries of maps hold it.
pub fn now_s() -> u32 {
    seconds(now_ns())
}

/// Reads the lines of time_namespaces(7): clock, seconds and nanoseconds.
fn monotonic_offset_ns(offsets: &str) -> Option<i64> {
    let line = offsets
        .lines()
        .find_map(|line| line.strip_prefix("monotonic"))?;
    let mut numbers = line.split_whitespace().map(str::parse::<i64>);
    let (seconds, nanoseconds) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

/// Returns the cookie of this thread's network namespace (`SO_NETNS_COOKIE`, Linux 5.14).
pub(crate) fn netns_cookie() -> io::Result<u64> {
    let socket =
        std::net::UdpSocket::bind("[::]:0").or_else(|_| std::net::UdpSocket::bind("0.0.0.0:0"))?;
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: both pointers are to live values, and `len` is the size of the first.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cookie)
}

#[cfg(test)]
mod tests {
    use super::monotonic_offset_ns;

    #[test]
    fn offset_of_a_time_namespace_is_read() {
        let text = "monotonic        -3   5000000\nboottime          7         0\n";
        assert_eq!(monotonic_offset_ns(text), Some(-2_995_000_000));
        assert_eq!(monotonic_offset_ns(""), None);
    }
}
