//! Kernel calls on terminals that rustix does not wrap.

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

/// Makes `terminal` the controlling terminal of the calling session leader
/// (ioctl_tty(2), TIOCSCTTY).
pub fn set_controlling_terminal(terminal: impl AsFd) -> nix::Result<()> {
    // SAFETY: the argument of this ioctl is a number.
    let ret = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSCTTY as _, 0) };
    Errno::result(ret).map(drop)
}
