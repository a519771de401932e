//! Loads a filter for the calling thread: the crate itself never does.

#![allow(unsafe_code)]

use std::io;

use ferrun_seccomp::Instruction;

/// seccomp(2) with `SECCOMP_SET_MODE_FILTER` and no flags, after
/// `PR_SET_NO_NEW_PRIVS`. Both hold for this thread alone.
pub fn load(instructions: &[Instruction]) -> io::Result<()> {
    let len = u16::try_from(instructions.len()).map_err(io::Error::other)?;
    // SAFETY: this prctl takes plain numbers.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let program = libc::sock_fprog {
        len,
        filter: instructions.as_ptr().cast_mut().cast::<libc::sock_filter>(),
    };
    // SAFETY: `Instruction` has the layout of `sock_filter`; `program` and the
    // instructions it points to outlive the call, which only reads them.
    let ret = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
    };
    if ret == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
