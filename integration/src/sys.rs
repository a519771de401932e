//! What a child does between fork and exec, where only a few calls are allowed.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

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
            unsafe { libc::close_range(0, 2, 0) };
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only; it allocates and locks nothing.
    unsafe { command.pre_exec(run) };
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
