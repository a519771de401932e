//! Every unsafe block of ferrun: one kernel call each, under its own name.
//!
//! What nix or rustix wrap safely is called through them and not repeated
//! here. Nothing in this module decides anything.

#![allow(unsafe_code)]

pub mod arena;
pub mod arguments;
pub mod loop_device;
pub mod mount;
pub mod process;
pub mod terminal;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use nix::errno::Errno;

/// The descriptor with this number, for stdio and the inherited range.
pub fn borrow_descriptor<'a>(number: RawFd) -> BorrowedFd<'a> {
    // SAFETY: used for 0, 1, 2 and numbers from --preserve-fds, which nothing in
    // this program closes.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// Takes over a descriptor that this program was executed with, by its number, so that no
/// program that it executes has it. To be called once for a number that nothing else here owns.
pub fn take_descriptor(number: RawFd) -> nix::Result<OwnedFd> {
    // SAFETY: F_SETFD only sets a flag, and fails where nothing is open by that number.
    let ret = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    Errno::result(ret)?;
    // SAFETY: it is open, and by the caller's word nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes a descriptor that a cloned process has inherited from its parent, whose
/// code owns it. Only for processes that never return to that code.
pub fn close_inherited(descriptor: impl AsFd) {
    // SAFETY: the owner is a variable of the parent's code, which this process has a copy of
    // and never runs on in, so the number is not used or closed again.
    let _ = unsafe { libc::close(descriptor.as_fd().as_raw_fd()) };
}

/// Closes every descriptor from `first` on but those `kept` (close_range(2)), and of the
/// `inherited` ones from `first` on what is close-on-exec: the caller's have come through an
/// execve(2), and it is not said that there are as many. Only for a process that is a copy of
/// its parent, never returns to the code that owns them, and owns none itself but `kept`.
pub fn close_others(first: u32, inherited: u32, kept: &[BorrowedFd<'_>]) -> nix::Result<()> {
    /// No more can be open (`fs.nr_open` of proc_sys_fs(5), as it comes).
    const MOST: u32 = 1 << 20;
    let close = |first: u32, last: u32| {
        // SAFETY: whoever owned what is closed does not run in this process (see above).
        let ret = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        Errno::result(ret).map(drop)
    };
    let mut kept: Vec<u32> = kept.iter().map(|kept| kept.as_raw_fd() as u32).collect();
    kept.sort_unstable();
    let mut next = first.saturating_add(inherited).min(MOST);
    for number in (first..next).filter(|number| !kept.contains(number)) {
        let flags = rustix::io::fcntl_getfd(borrow_descriptor(number as RawFd));
        if flags.is_ok_and(|flags| flags.contains(rustix::io::FdFlags::CLOEXEC)) {
            close(number, number)?;
        }
    }
    for number in kept.into_iter().filter(|number| *number >= next).collect::<Vec<_>>() {
        if next < number {
            close(next, number - 1)?;
        }
        next = number + 1;
    }
    close(next, u32::MAX)
}

/// The kind of namespace that a descriptor stands for, as its CLONE_NEW* flag
/// (ioctl_nsfs(2), NS_GET_NSTYPE). ENOTTY: not a namespace.
pub fn namespace_type(namespace: impl AsFd) -> nix::Result<libc::c_int> {
    const NS_GET_NSTYPE: u32 = 0xb703;
    // SAFETY: this ioctl takes no argument and returns a number.
    let ret = unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), NS_GET_NSTYPE as _) };
    Errno::result(ret)
}

/// Sets the flags of the network interface `lo` to up (netdevice(7)).
pub fn loopback_up(socket: impl AsFd) -> nix::Result<()> {
    // SAFETY: ifreq is plain data, all zero is a valid value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which lives until the call returns.
    let ret = unsafe {
        libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request)
    };
    Errno::result(ret).map(drop)
}

/// Joins the session keyring of this name, or a new one where none of this name can be
/// found (keyctl(2)). Returns its number.
pub fn join_session_keyring(name: &std::ffi::CStr) -> nix::Result<libc::c_long> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: the kernel reads the name, a NUL-terminated string that outlives the call.
    let ret =
        unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    Errno::result(ret)
}

/// Says what may be done with a key (keyctl_setperm(3)).
pub fn set_key_permissions(key: libc::c_long, permissions: u32) -> nix::Result<()> {
    const KEYCTL_SETPERM: libc::c_long = 5;
    // SAFETY: only numbers are passed.
    let ret = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, key, permissions) };
    Errno::result(ret).map(drop)
}

/// One BPF instruction, as struct sock_filter of linux/filter.h.
pub use ferrun_seccomp::Instruction;

/// Loads a filter for the calling thread (seccomp(2)). Without no_new_privs it
/// needs CAP_SYS_ADMIN. With `listens` it returns the descriptor on which the filter's
/// notifications are read.
pub fn seccomp_set_filter(
    program: &[Instruction],
    flags: u64,
    listens: bool,
) -> nix::Result<Option<OwnedFd>> {
    #[repr(C)]
    struct Program {
        length: u16,
        instructions: *const Instruction,
    }
    const SECCOMP_SET_MODE_FILTER: libc::c_ulong = 1;
    const SECCOMP_FILTER_FLAG_NEW_LISTENER: u64 = 1 << 3;
    let flags = if listens { flags | SECCOMP_FILTER_FLAG_NEW_LISTENER } else { flags };
    let length = u16::try_from(program.len()).map_err(|_| Errno::E2BIG)?;
    let program = Program { length, instructions: program.as_ptr() };
    // SAFETY: Program has the layout of struct sock_fprog, its pointer and length come
    // from one slice that outlives the call, and the kernel copies it.
    let ret = unsafe {
        libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    let number = Errno::result(ret)? as RawFd;
    // SAFETY: with this flag the kernel has just made the descriptor for us.
    Ok(listens.then(|| unsafe { OwnedFd::from_raw_fd(number) }))
}
