//! What `start` opens: a socket in the container's directory, on which the init
//! process of a created container waits.
//!
//! It works in both directions, so `start` learns how execve(2) went, and it
//! survives a `start` that was killed half-way: init waits for the next one.
//! The socket is reached through the directory's descriptor, because a path
//! may be longer than the 108 bytes that an address holds.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context as _, Error, Result, bail};
use nix::errno::Errno;
use rustix::fs::MemfdFlags;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, accept_with, bind, connect, listen, socket_with,
};

use crate::channel::unix_socket::address;
use crate::channel::{Channel, CreatorEnd, InitEnd, ToInit};
use crate::error::Kind;
use crate::sys::process::SharedWord;

/// The socket's name in the container's directory.
pub const GATE: &str = "gate";

/// What a second `start` is told.
pub fn already_open() -> Error {
    Kind::WrongState.error("cannot start an already running container")
}

/// The word that both sides see, before anything is known.
const WAITING: u32 = 0;
/// The word just before execve(2): if the channel ends now, it has succeeded.
const EXECUTING: u32 = u32::MAX;

/// The page that carries the result of execve(2), which a filter may keep from
/// being told in any other way.
#[derive(Debug)]
pub struct Verdict(SharedWord);

impl Verdict {
    /// Shared with children cloned from now on.
    pub fn new() -> Result<Self> {
        Ok(Self(SharedWord::new().context("mmap")?))
    }

    /// Says that execve(2) comes next.
    pub fn executing(&self) {
        self.0.set(EXECUTING);
    }

    /// Says why execve(2) failed.
    pub fn failed(&self, errno: Errno) {
        self.0.set(errno as u32);
    }

    /// Why execve(2) failed, if it did.
    pub fn errno(&self) -> Option<Errno> {
        match self.0.get() {
            WAITING | EXECUTING => None,
            errno => Some(Errno::from_raw(errno as i32)),
        }
    }

    /// Whether execve(2) was announced, and has not failed so far.
    pub fn is_executing(&self) -> bool {
        self.0.get() == EXECUTING
    }

    /// Whether init has not come as far as the program.
    pub fn is_open(&self) -> bool {
        self.0.get() == WAITING
    }

    /// What became of the program, once the channel has ended. `explain` makes the error of an
    /// execve(2) that failed.
    pub fn read(&self, explain: impl FnOnce(Errno) -> Error) -> Result<()> {
        match self.0.get() {
            EXECUTING => Ok(()),
            WAITING => bail!("the init process died before it could run the program"),
            errno => Err(explain(Errno::from_raw(errno as i32))),
        }
    }
}

/// Makes the gate of a container, in the directory that `directory` is open on.
pub fn make(directory: impl AsFd) -> Result<OwnedFd> {
    let socket = new_socket()?;
    bind(&socket, &address(&directory, GATE.as_ref())?).context("bind the gate")?;
    listen(&socket, 16).context("listen at the gate")?;
    Ok(socket)
}

/// Waits at the gate for a `start` that lives long enough to say so. Returns
/// the way back to it and the page for the result.
pub fn wait(gate: impl AsFd) -> Result<(InitEnd, Verdict)> {
    loop {
        let connection = rustix::io::retry_on_intr(|| accept_with(&gate, SocketFlags::CLOEXEC))
            .context("accept at the gate")?;
        let start: InitEnd = Channel::over(connection);
        if let Ok(Some((ToInit::Start, Some(memfd)))) = start.receive() {
            let word = SharedWord::in_memfd(&memfd).context("mmap")?;
            return Ok((start, Verdict(word)));
        }
    }
}

/// Opens the gate. Returns the way to init, and the page for the result. Nothing has
/// happened to the container where this fails.
pub fn open(directory: impl AsFd) -> Result<(CreatorEnd, Verdict)> {
    let socket = new_socket()?;
    match connect(&socket, &address(&directory, GATE.as_ref())?) {
        Ok(()) => {}
        Err(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::NOENT) => {
            return Err(already_open());
        }
        Err(errno) => return Err(errno).context("connect to the gate"),
    }
    let memfd = rustix::fs::memfd_create("ferrun-verdict", MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&memfd, 4096)?;
    let verdict = Verdict(SharedWord::in_memfd(&memfd).context("mmap")?);
    let init: CreatorEnd = Channel::over(socket);
    if init.send_with(&ToInit::Start, &memfd).is_err() {
        return Err(already_open());
    }
    Ok((init, verdict))
}

fn new_socket() -> Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .context("socket")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> (std::path::PathBuf, OwnedFd) {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let long = "x".repeat(200);
        let path = std::env::temp_dir()
            .join(format!("ferrun-gate-{}-{number}-{long}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        let opened = std::fs::File::open(&path).unwrap().into();
        (path, opened)
    }

    #[test]
    fn the_gate_survives_a_start_that_died_and_tells_the_next_one_the_result() {
        let (path, directory) = directory();
        let gate = make(&directory).unwrap();
        let dead = new_socket().unwrap();
        connect(&dead, &address(&directory, GATE.as_ref()).unwrap()).unwrap();
        drop(dead);
        let init = std::thread::spawn(move || {
            let (_start, verdict) = wait(&gate).unwrap();
            verdict.failed(Errno::ENOEXEC);
        });
        let (channel, verdict) = open(&directory).unwrap();
        assert!(channel.receive().unwrap().is_none());
        let error = verdict.read(Error::new).unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&Errno::ENOEXEC));
        init.join().unwrap();
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn success_is_the_end_of_the_channel_after_execve_was_announced() {
        for announced in [true, false] {
            let (path, directory) = directory();
            let gate = make(&directory).unwrap();
            let init = std::thread::spawn(move || {
                let (_start, verdict) = wait(&gate).unwrap();
                if announced {
                    verdict.executing();
                }
            });
            let (channel, verdict) = open(&directory).unwrap();
            assert!(channel.receive().unwrap().is_none());
            assert_eq!(
                (verdict.read(Error::new).is_ok(), verdict.is_open()),
                (announced, !announced)
            );
            init.join().unwrap();
            std::fs::remove_dir_all(path).unwrap();
        }
    }
}
