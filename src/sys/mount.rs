//! Kernel calls on mounts that rustix does not wrap.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

use crate::abi::MountAttributes;

/// Changes the attributes of the mount that `mount` is the root of, with
/// `recursive` those of every mount below it too.
pub fn mount_setattr(
    mount: impl AsFd,
    recursive: bool,
    attributes: &MountAttributes,
) -> nix::Result<()> {
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is a literal, the kernel reads as many bytes of `attributes`
    // as the size says, and writes nothing.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const *attributes,
            size_of::<MountAttributes>(),
        )
    };
    Errno::result(ret).map(drop)
}

/// What the kernel had to say about the last failure on a file system context
/// (fsopen(2)): reading from it gives messages such as `e tmpfs: Bad value for 'size'`.
pub fn context_message(context: impl AsFd) -> Option<String> {
    let mut buffer = [0u8; 512];
    let mut last = None;
    while let Ok(length) = rustix::io::read(context.as_fd(), &mut buffer) {
        let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        match text.strip_prefix("e ") {
            Some(error) => last = Some(error.trim_end().to_owned()),
            None if length == 0 => break,
            None => {}
        }
    }
    last
}

/// mount(2) for changes of propagation: `path` must be a mount point.
pub fn change_propagation(path: &CStr, flags: libc::c_ulong) -> nix::Result<()> {
    // SAFETY: `path` is NUL-terminated and outlives the call; the null pointers stand for
    // arguments that the kernel does not look at when only propagation changes.
    let ret = unsafe {
        libc::mount(std::ptr::null(), path.as_ptr(), std::ptr::null(), flags, std::ptr::null())
    };
    Errno::result(ret).map(drop)
}
