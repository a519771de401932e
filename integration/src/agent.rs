//! A seccomp agent: it gets the listener of a container's filter with the state of
//! the process, and answers the calls that the kernel reports.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::Value;

use crate::Bed;

/// What an agent says to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The kernel is to carry it out.
    Continue,
    /// It fails with this errno.
    Errno(i32),
    /// The agent dies over it.
    None,
}

/// An agent at work. Its threads end with the containers that they serve.
#[derive(Debug)]
pub struct Agent {
    /// Where it listens (`linux.seccomp.listenerPath`).
    pub path: PathBuf,
    seen: Arc<Mutex<Seen>>,
}

/// What an agent has got.
#[derive(Debug, Default)]
struct Seen {
    states: Vec<Value>,
    /// How often each call was reported, by its number.
    calls: BTreeMap<i64, u32>,
}

/// An agent that does not look at who connects yet.
#[derive(Debug)]
pub struct Idle {
    /// Where it listens.
    pub path: PathBuf,
    listener: UnixListener,
}

impl Idle {
    /// Listens in the bed's directory.
    pub fn listen(bed: &Bed) -> Self {
        let directory = bed.make_directory(&format!("agent-{}", bed.next()), 0o755);
        let path = directory.join("socket");
        let listener = UnixListener::bind(&path).expect("bind");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))
            .expect("the socket's mode");
        Self { path, listener }
    }

    /// Goes to work. `answer` gets the number of a call.
    pub fn serve(self, answer: fn(i64) -> Answer) -> Agent {
        let Self { path, listener } = self;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(&stream, &shared, answer));
            }
        });
        Agent { path, seen }
    }
}

impl Agent {
    /// An agent at work in the bed's directory. `answer` gets the number of a call.
    pub fn listen(bed: &Bed, answer: fn(i64) -> Answer) -> Self {
        Idle::listen(bed).serve(answer)
    }

    /// The states that were sent, in their order.
    pub fn states(&self) -> Vec<Value> {
        lock(&self.seen).states.clone()
    }

    /// How often a call was reported.
    pub fn count(&self, number: i64) -> u32 {
        lock(&self.seen).calls.get(&number).copied().unwrap_or(0)
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves one connection: a descriptor with the state, and then the calls.
fn serve(stream: &UnixStream, seen: &Mutex<Seen>, answer: fn(i64) -> Answer) {
    let (listeners, state) = receive(stream).expect("the listener and the state");
    // As many descriptors as the state gives names to.
    assert_eq!(Some(listeners.len()), state["fds"].as_array().map(Vec::len), "{state}");
    lock(seen).states.push(state);
    for listener in &listeners {
        while let Some(call) = next_call(listener) {
            *lock(seen).calls.entry(call.data.nr.into()).or_default() += 1;
            match answer(call.data.nr.into()) {
                Answer::None => return,
                answer => reply(listener, call.id, answer),
            }
        }
    }
}

/// Reads the descriptors and the state, which need not be the end of the connection:
/// runc keeps it open.
fn receive(stream: &UnixStream) -> io::Result<(Vec<OwnedFd>, Value)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut first = vec![0; 1 << 16];
    let buffers = &mut [IoSliceMut::new(&mut first)];
    let received = recvmsg(stream, buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(list) = message {
            descriptors.extend(list);
        }
    }
    let text = first[..received.bytes].chain(stream);
    let mut values = serde_json::Deserializer::from_reader(text).into_iter();
    let state = values.next().ok_or(io::ErrorKind::UnexpectedEof)??;
    Ok((descriptors, state))
}

/// Waits for a call. None when no process is left under the filter.
fn next_call(listener: &OwnedFd) -> Option<libc::seccomp_notif> {
    loop {
        let mut fds = [PollFd::new(listener, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) if fds[0].revents().contains(PollFlags::IN) => {}
            Ok(_) => return None,
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => panic!("poll: {errno}"),
        }
        // SAFETY: the kernel wants the structure zeroed, which is a value of it: it
        // holds integers alone.
        let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the request writes one seccomp_notif, which `call` has room for.
        let done = unsafe {
            libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV as _, &raw mut call)
        };
        match done {
            0 => return Some(call),
            // The caller was killed in between.
            _ if io::Error::last_os_error().raw_os_error() == Some(libc::ENOENT) => {}
            _ => panic!("SECCOMP_IOCTL_NOTIF_RECV: {}", io::Error::last_os_error()),
        }
    }
}

fn reply(listener: &OwnedFd, id: u64, answer: Answer) {
    let (error, flags) = match answer {
        Answer::Continue => (0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        Answer::Errno(errno) => (-errno, 0),
        Answer::None => return,
    };
    let mut reply = libc::seccomp_notif_resp { id, val: 0, error, flags };
    // SAFETY: the request reads one seccomp_notif_resp, which `reply` is.
    let done = unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND as _, &raw mut reply)
    };
    let error = io::Error::last_os_error();
    // The caller may have been killed in between.
    assert!(done == 0 || error.raw_os_error() == Some(libc::ENOENT), "NOTIF_SEND: {error}");
}
