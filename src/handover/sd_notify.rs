//! Telling the service manager that started the runtime when the program is ready
//! (sd_notify(3)).
//!
//! The program gets a socket of ours: by the manager's own it could say anything in the
//! name of the service. That it is ready is all that is passed on, and for a detached
//! container which process it is. The socket exists as long as somebody listens, so it is
//! made by `start` or `run`, in a directory that `create` has mounted.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, chmodat, flock};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

use crate::channel::gate::already_open;
use crate::channel::unix_socket::{address, send_descriptor};
use crate::plan::notify::{DIRECTORY, NAME, VARIABLE};
use crate::store::Container;

/// How long the manager may take over what it was told.
const PATIENCE: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

/// What stands between the program and the manager.
#[derive(Debug)]
pub struct Relay {
    program: UnixDatagram,
    manager: UnixDatagram,
    _lock: OwnedFd,
}

impl Relay {
    /// Listens to the program, which has not started yet, for the manager at the socket
    /// `manager`. None: there is none, or the container was created without one.
    pub fn listen(container: &Container, manager: Option<&OsStr>) -> Result<Option<Self>> {
        let Some(path) = manager else { return Ok(None) };
        let directory = match open_directory(&container.directory.join(DIRECTORY)) {
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            directory => directory.context(DIRECTORY)?,
        };
        let manager = connect(path).with_context(|| format!("{VARIABLE}: {path:?}"))?;
        // Held until this process ends: another `start` must not take the socket away.
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(already_open()),
            locked => locked.context("lock the directory for the program's notifications")?,
        }
        let program = listen(&directory).context("the socket for the program's notifications")?;
        Ok(Some(Self { program, manager, _lock: directory }))
    }

    /// Waits until the program is ready, and says so. `main` is its pid, where the
    /// manager is to watch it instead of this process. Returns as well when the program
    /// has ended, which `init` is a handle on.
    pub fn serve(&self, init: impl AsFd, main: Option<i32>) -> Result<()> {
        while self.await_message(&init)? {
            let mut message = [0; 4096];
            let length = self.program.recv(&mut message)?;
            let text = message.get(..length).unwrap_or_default();
            let ready = text.split(|byte| *byte == b'\n').find(|line| line.starts_with(b"READY="));
            let Some(ready) = ready else { continue };
            self.manager.send(&[ready, b"\n"].concat())?;
            if let Some(pid) = main {
                self.manager.send(format!("MAINPID={pid}\n").as_bytes())?;
                self.barrier()?;
            }
            break;
        }
        Ok(())
    }

    /// False: the program has ended.
    fn await_message(&self, init: impl AsFd) -> Result<bool> {
        let mut fds =
            [PollFd::new(&self.program, PollFlags::IN), PollFd::new(&init, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut fds, None)).context("poll")?;
        Ok(fds[0].revents().contains(PollFlags::IN))
    }

    /// Waits until the manager has read what was sent, while it can still see who did
    /// (sd_notify_barrier(3)).
    fn barrier(&self) -> Result<()> {
        let (reader, writer) = std::io::pipe().context("pipe")?;
        send_descriptor(&self.manager, writer, b"BARRIER=1").context("send the barrier")?;
        let mut fds = [PollFd::new(&reader, PollFlags::empty())];
        rustix::io::retry_on_intr(|| poll(&mut fds, Some(&PATIENCE))).context("poll")?;
        Ok(())
    }
}

/// A name that starts with @ is no path (unix(7), abstract sockets).
fn connect(path: &OsStr) -> std::io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    match path.as_bytes() {
        [b'@', name @ ..] => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        _ => socket.connect(path)?,
    }
    Ok(socket)
}

fn open_directory(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn listen(directory: &OwnedFd) -> rustix::io::Result<UnixDatagram> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // One of a start that failed.
    let _ = rustix::fs::unlinkat(directory, NAME, AtFlags::empty());
    bind(&socket, &address(directory, NAME.as_ref())?)?;
    // Whatever user the program is.
    chmodat(directory, NAME, Mode::from_raw_mode(0o777), AtFlags::empty())?;
    Ok(socket.into())
}
