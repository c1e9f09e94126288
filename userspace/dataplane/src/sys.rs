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

const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_LINK_UPDATE: libc::c_int = 29;

#[repr(C)]
struct ObjGet {
    pathname: u64,
    fd: u32,
    flags: u32,
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
        ObjGet {
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
    let mut next = 0u32;
    let mut batch = Batch {
        in_batch: bucket
            .as_ref()
            .map_or(0, |bucket| &raw const *bucket as u64),
        out_batch: &raw mut next as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: keys.capacity().min(values.capacity()) as u32,
        map_fd: map.as_raw_fd() as u32,
        elem_flags: 0,
        flags: 0,
    };
    let is_end = match bpf_mut(BPF_MAP_LOOKUP_BATCH, &mut batch) {
        Ok(_) => false,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
        Err(error) => return Err(error),
    };
    // SAFETY: the kernel wrote this number of elements, at most the capacity, and any bytes make a `Pod`.
    unsafe {
        keys.set_len(batch.count as usize);
        values.set_len(batch.count as usize);
    }
    Ok((!is_end).then_some(next))
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
