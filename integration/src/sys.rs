//! What a child does between fork and exec, where only a few calls are allowed.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::mem::MaybeUninit;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitStatus};
use std::time::Duration;

/// The name of a session keyring that /proc/keys shows to those alone whose it is.
pub const CALLERS_KEYRING: &CStr = c"callers-own";

/// What a child does before it becomes the program.
#[derive(Debug, Default)]
pub struct Before {
    /// Writes its pid to this `cgroup.procs`, which only root may.
    pub join: Option<File>,
    /// Leads a session whose terminal is its stdin.
    pub leads_session: bool,
    /// Gives up root for this user and group id.
    pub user: Option<u32>,
    /// Has a session keyring of its own, [`CALLERS_KEYRING`].
    pub has_keyring: bool,
    /// Gets SIGTERM when the parent's thread ends.
    pub dies_with_parent: bool,
    /// Is traced by its parent.
    pub traced: bool,
    /// Sets its umask.
    pub umask: Option<u32>,
    /// Ignores SIGCHLD, as careless parents do.
    pub ignores_children: bool,
    /// Does without stdin, stdout and stderr.
    pub closes_stdio: bool,
    /// Is in a time namespace of its own, with these offsets.
    pub time_offsets: Option<&'static str>,
}

/// Makes the child of `command` do that.
pub fn before_exec(command: &mut Command, before: Before) {
    let run = move || -> io::Result<()> {
        let Before {
            join, leads_session, user, traced, umask, ignores_children, closes_stdio, ..
        } = &before;
        if let Some(mut procs) = join.as_ref() {
            procs.write_all(b"0")?;
        }
        if *leads_session {
            rustix::process::setsid()?;
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        if let Some(mask) = umask {
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(*mask));
        }
        if let Some(id) = user {
            become_user(*id)?;
        }
        if before.has_keyring {
            join_new_keyring()?;
        }
        // Changing the user would have cleared it.
        if before.dies_with_parent {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
        }
        if let Some(offsets) = before.time_offsets {
            enter_new_time(offsets)?;
        }
        // Whoever runs the tests may ignore these, as nohup does.
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
            // SAFETY: SIG_DFL is no function that could run at a wrong time.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        if *ignores_children {
            // SAFETY: SIG_IGN is no function that could run at a wrong time.
            unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        }
        if *traced {
            nix::sys::ptrace::traceme()?;
        }
        if *closes_stdio {
            // SAFETY: the program that follows is to find them closed, and nothing
            // is printed before it.
            unsafe { libc::syscall(libc::SYS_close_range, 0, 2, 0) };
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only; it allocates and locks nothing.
    unsafe { command.pre_exec(run) };
}

/// The runtime, deadline and period of a process's scheduler (sched_getattr(2)).
pub fn deadline_of(pid: i32) -> io::Result<[u64; 3]> {
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        times: [u64; 3],
    }
    let mut found = Attributes::default();
    let size = size_of::<Attributes>() as libc::c_uint;
    // SAFETY: the kernel writes at most `size` bytes, which `found` has, and any bytes are
    // values of its integers.
    let refused =
        unsafe { libc::syscall(libc::SYS_sched_getattr, pid, &raw mut found, size, 0) } != 0;
    if refused { Err(io::Error::last_os_error()) } else { Ok(found.times) }
}

/// By itself a process gets there at execve(2), but not on every kernel.
fn enter_new_time(offsets: &str) -> io::Result<()> {
    use rustix::fs::{Mode, OFlags, open};
    // SAFETY: only numbers are passed.
    if unsafe { libc::unshare(libc::CLONE_NEWTIME) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let file = open(c"/proc/self/timens_offsets", OFlags::WRONLY, Mode::empty())?;
    rustix::io::write(&file, offsets.as_bytes())?;
    let namespace = open(c"/proc/self/ns/time_for_children", OFlags::RDONLY, Mode::empty())?;
    // SAFETY: the descriptor is open, and the other argument a number.
    let refused =
        unsafe { libc::setns(std::os::fd::AsRawFd::as_raw_fd(&namespace), libc::CLONE_NEWTIME) };
    if refused != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn join_new_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    const KEYCTL_SETPERM: libc::c_long = 5;
    /// Everything, and to nobody else.
    const TO_POSSESSORS: libc::c_long = 0x3f00_0000;
    // SAFETY: the kernel reads the name, a constant.
    let key = unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, CALLERS_KEYRING.as_ptr())
    };
    // SAFETY: only numbers are passed.
    let refused = key < 0
        || unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, key, TO_POSSESSORS) } != 0;
    if refused { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// std's own way would come before the cgroup is joined.
fn become_user(id: u32) -> io::Result<()> {
    // SAFETY: the list is empty, so no pointer is followed; the child has a single
    // thread, so that no other one keeps the old ids.
    let refused = unsafe {
        libc::setgroups(0, std::ptr::null()) != 0
            || libc::setresgid(id, id, id) != 0
            || libc::setresuid(id, id, id) != 0
    };
    if refused { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The capabilities by their numbers, without `CAP_` (capability.h).
pub(crate) const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a process and the children that it waited for have cost (getrusage(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Page faults.
    pub faults: u64,
    /// Voluntary context switches: how often somebody was waited for.
    pub switches: u64,
    /// Processor time, the kernel's included.
    pub cpu: Duration,
}

/// Runs a program to its end. It is started without a copy of this process, which would be
/// counted too.
pub fn usage_of(command: &mut Command) -> io::Result<(ExitStatus, Usage)> {
    let child = command.spawn()?;
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both places are of the types that the call writes.
    let waited =
        unsafe { libc::wait4(child.id() as libc::pid_t, &raw mut status, 0, usage.as_mut_ptr()) };
    if waited < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has written it, and all zeros would be one too.
    let usage = unsafe { usage.assume_init() };
    let faults = (usage.ru_minflt + usage.ru_majflt).unsigned_abs();
    let switches = usage.ru_nvcsw.unsigned_abs();
    let micros =
        |time: libc::timeval| time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_usec.unsigned_abs();
    let cpu = Duration::from_micros(micros(usage.ru_utime) + micros(usage.ru_stime));
    Ok((ExitStatus::from_raw(status), Usage { faults, switches, cpu }))
}
