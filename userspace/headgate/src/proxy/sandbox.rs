//! The proxy permanently forbids itself the system calls that container runtimes forbid to processes
//! without capabilities (seccomp). The runtime's own profile would come too early: the proxy needs
//! bpf(2) at its start.

use anyhow::{Context, Result};
use nix::libc::{self, c_long};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter_all_threads,
};

/// System calls with a history of privilege escalations, beyond those that the kernel reserves for
/// privileged processes.
const FORBIDDEN: [c_long; 37] = [
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

/// Forbids these system calls to all threads of the process, present and future: they fail with
/// `EPERM`.
pub(crate) fn enter() -> Result<()> {
    let new_users = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Qword,
        SeccompCmpOp::MaskedEq(libc::CLONE_NEWUSER as u64),
        libc::CLONE_NEWUSER as u64,
    )?;
    let clone = (libc::SYS_clone, vec![SeccompRule::new(vec![new_users])?]);
    let forbidden = FORBIDDEN.into_iter().map(|call| (call, Vec::new()));
    forbid(forbidden.chain([clone]), libc::EPERM)?;
    // A filter cannot read its flags, which are in memory. The C library falls back to clone(2).
    forbid([(libc::SYS_clone3, Vec::new())], libc::ENOSYS)
}

fn forbid(
    calls: impl IntoIterator<Item = (c_long, Vec<SeccompRule>)>,
    error: libc::c_int,
) -> Result<()> {
    let refused = SeccompAction::Errno(error as u32);
    let machine = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(
        calls.into_iter().collect(),
        SeccompAction::Allow,
        refused,
        machine,
    )?;
    let filter = BpfProgram::try_from(filter)?;
    apply_filter_all_threads(&filter).context("the kernel does not accept a seccomp filter")
}

#[cfg(test)]
mod tests {
    use std::{process::Command, thread};

    use nix::{
        errno::Errno,
        sched::{CloneFlags, unshare},
    };

    use super::enter;

    #[test]
    fn system_calls_are_forbidden_to_every_thread() {
        let (begin, begun) = std::sync::mpsc::channel();
        let before = thread::spawn(move || {
            begun.recv().unwrap();
            unshare(CloneFlags::CLONE_NEWUTS)
        });
        enter().unwrap();
        let after = thread::spawn(|| unshare(CloneFlags::CLONE_NEWUTS));
        begin.send(()).unwrap();
        assert_eq!(before.join().unwrap(), Err(Errno::EPERM));
        assert_eq!(after.join().unwrap(), Err(Errno::EPERM));
        assert!(Command::new("true").status().unwrap().success());
    }
}
