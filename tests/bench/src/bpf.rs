//! Calls of bpf(2) that aya lacks: test runs with live frames and contexts, and small programs written
//! here as instructions.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    time::Duration,
};

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_LINK_CREATE: libc::c_int = 28;

const BPF_MAP_TYPE_PROG_ARRAY: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;

pub(crate) const XDP_DROP: u32 = 1;
pub(crate) const XDP_PASS: u32 = 2;
pub(crate) const XDP_TX: u32 = 3;

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: `attributes` is a prefix of `union bpf_attr` of the size given, which bpf(2) reads and,
    // for test runs, writes.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as i32)
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just returned this descriptor, and no other value owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[derive(Default)]
#[repr(C)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    zero: u32,
}

/// Runs a program once over a frame (none for a socket look-up), with a context.
pub(crate) fn test_run(
    program: BorrowedFd<'_>,
    frame: &[u8],
    context: &[u8],
) -> io::Result<Duration> {
    let mut run = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: match frame {
            [] => 0,
            [..] => frame.as_ptr() as u64,
        },
        repeat: 1,
        ctx_size_in: context.len() as u32,
        ctx_in: context.as_ptr() as u64,
        ..TestRun::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut run)?;
    Ok(Duration::from_nanos(run.duration.into()))
}

/// Runs an XDP program `repeat` times on frames as if they arrived on a device of this thread's namespace;
/// the kernel performs the action that the program returns (Linux 5.18).
pub(crate) fn run_live(
    program: BorrowedFd<'_>,
    frame: &[u8],
    ifindex: u32,
    repeat: u32,
) -> io::Result<()> {
    let context = xdp_context(frame, ifindex);
    let mut run = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat,
        ctx_size_in: context.len() as u32,
        ctx_in: context.as_ptr() as u64,
        flags: BPF_F_TEST_XDP_LIVE_FRAMES,
        ..TestRun::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut run)?;
    Ok(())
}

/// `struct xdp_md` of a frame that arrives on a device.
pub(crate) fn xdp_context(frame: &[u8], ifindex: u32) -> Vec<u8> {
    words(&[0, frame.len() as u32, 0, ifindex, 0, 0])
}

/// `struct __sk_buff` of a frame that arrives on a device, with the fields that may be set.
pub(crate) fn skb_context(ifindex: u32) -> Vec<u8> {
    let mut fields = [0; 11];
    fields[10] = ifindex;
    words(&fields)
}

/// `struct bpf_sk_lookup` of a TCP connection over IPv4.
pub(crate) fn lookup_context(port: u16) -> Vec<u8> {
    let [local, remote] = [[10, 0, 0, 2], [10, 0, 0, 1]].map(u32::from_ne_bytes);
    let mut fields = [0; 18];
    fields[2] = libc::AF_INET as u32;
    fields[3] = libc::IPPROTO_TCP as u32;
    fields[4] = remote;
    fields[9] = u32::from(1000u16.to_be());
    fields[10] = local;
    fields[15] = port.into();
    words(&fields)
}

fn words(fields: &[u32]) -> Vec<u8> {
    fields
        .iter()
        .flat_map(|field| field.to_ne_bytes())
        .collect()
}

/// One instruction: `struct bpf_insn`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Insn {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn insn(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Insn {
    Insn {
        code,
        registers: source << 4 | destination,
        offset,
        immediate,
    }
}

const EXIT: Insn = insn(0x95, 0, 0, 0, 0);

const fn set(register: u8, value: i32) -> Insn {
    insn(0xb7, register, 0, 0, value)
}

/// The end of an XDP program.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End<'a> {
    /// Returns this action.
    Action(u32),
    /// Continues with another program, as part of this run.
    Program(BorrowedFd<'a>),
}

/// An XDP program that writes these bytes to the start of the frame and then ends. Live frames are used
/// again with the bytes that the run before left.
pub(crate) fn writer(bytes: &[u8], end: End<'_>) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
    let words: Vec<[u8; 4]> = bytes
        .chunks(4)
        .map(|chunk| {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            word
        })
        .collect();
    let mut text = vec![
        // r6 = context; r2 = data; r3 = data_end
        insn(0xbf, 6, 1, 0, 0),
        insn(0x61, 2, 1, 0, 0),
        insn(0x61, 3, 1, 4, 0),
        // if (data + len > data_end) skip the stores
        insn(0xbf, 4, 2, 0, 0),
        insn(0x07, 4, 0, 0, 4 * words.len() as i32),
        insn(0x2d, 4, 3, words.len() as i16, 0),
    ];
    for (index, word) in words.iter().enumerate() {
        text.push(insn(
            0x62,
            2,
            0,
            4 * index as i16,
            i32::from_ne_bytes(*word),
        ));
    }
    let mut array = None;
    match end {
        End::Action(action) => text.push(set(0, action as i32)),
        End::Program(program) => {
            let map = program_array(program)?;
            // bpf_tail_call(context, map, 0), which returns only if it fails.
            text.extend([
                insn(0xbf, 1, 6, 0, 0),
                insn(0x18, 2, 1, 0, map.as_raw_fd()),
                insn(0, 0, 0, 0, 0),
                set(3, 0),
                insn(0x85, 0, 0, 0, 12),
                set(0, 0),
            ]);
            array = Some(map);
        }
    }
    text.push(EXIT);
    Ok((load_xdp(&text)?, array))
}

/// An XDP program that only returns an action.
pub(crate) fn action(action: u32) -> io::Result<OwnedFd> {
    load_xdp(&[set(0, action as i32), EXIT])
}

fn load_xdp(text: &[Insn]) -> io::Result<OwnedFd> {
    #[derive(Default)]
    #[repr(C)]
    struct Load {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
        prog_name: [u8; 16],
        prog_ifindex: u32,
        expected_attach_type: u32,
    }
    let mut load = Load {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: text.len() as u32,
        insns: text.as_ptr() as u64,
        license: c"Dual BSD/GPL".as_ptr() as u64,
        expected_attach_type: BPF_XDP,
        ..Load::default()
    };
    bpf(BPF_PROG_LOAD, &mut load).map(owned)
}

fn program_array(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Create {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
    }
    #[repr(C)]
    struct Update {
        map_fd: u32,
        zero: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let mut create = Create {
        map_type: BPF_MAP_TYPE_PROG_ARRAY,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
    };
    let map = owned(bpf(BPF_MAP_CREATE, &mut create)?);
    let (key, value) = (0u32, program.as_raw_fd() as u32);
    let mut update = Update {
        map_fd: map.as_raw_fd() as u32,
        zero: 0,
        key: &raw const key as u64,
        value: &raw const value as u64,
        flags: 0,
    };
    bpf(BPF_MAP_UPDATE_ELEM, &mut update)?;
    Ok(map)
}

/// Attaches an XDP program to the driver of a device of this thread's namespace, until the link is
/// closed.
pub(crate) fn attach_xdp(program: BorrowedFd<'_>, ifindex: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Create {
        prog_fd: u32,
        target_ifindex: u32,
        attach_type: u32,
        flags: u32,
    }
    let mut create = Create {
        prog_fd: program.as_raw_fd() as u32,
        target_ifindex: ifindex,
        attach_type: BPF_XDP,
        flags: XDP_FLAGS_DRV_MODE,
    };
    bpf(BPF_LINK_CREATE, &mut create).map(owned)
}
