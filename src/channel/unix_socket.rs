//! Unix sockets by their place in a directory, and descriptors sent over them.

use std::ffi::OsStr;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::{Errno, Result};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, sendmsg, socket_with,
};

use crate::resolve;

/// The address of the socket `name` in the directory that `directory` is open on,
/// which must stay open while the address is used. A path may be longer than the
/// 108 bytes that an address holds; this one is not.
pub fn address(directory: impl AsFd, name: &OsStr) -> Result<SocketAddrUnix> {
    let path = Path::new("/proc/self/fd").join(directory.as_fd().as_raw_fd().to_string());
    SocketAddrUnix::new(path.join(name))
}

/// Connects to a stream socket.
pub fn dial(path: &Path) -> Result<OwnedFd> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = resolve::root(parent.unwrap_or(Path::new(".")))?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &address(&directory, name)?)?;
    Ok(socket)
}

/// Sends a descriptor with a text, which must not be empty, beside it.
pub fn send_descriptor(socket: impl AsFd, descriptor: impl AsFd, text: &[u8]) -> Result<()> {
    let descriptors: [BorrowedFd<'_>; 1] = [descriptor.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    let sent = sendmsg(&socket, &[IoSlice::new(text)], &mut control, SendFlags::NOSIGNAL)?;
    // What did not fit goes without the descriptor, which has arrived.
    let mut rest = text.get(sent..).unwrap_or_default();
    while !rest.is_empty() {
        let sent = rustix::net::send(&socket, rest, SendFlags::NOSIGNAL)?;
        rest = rest.get(sent..).unwrap_or_default();
    }
    Ok(())
}
