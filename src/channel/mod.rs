//! The conversation between the creator of a container and its init process.
//!
//! One enum for each direction, so that a message out of turn does not compile.
//! ARCHITECTURE.md draws the whole conversation. A message is JSON in datagrams of a
//! SOCK_SEQPACKET pair, nearly always one, and may carry one descriptor. The end of the
//! channel is a message too: init has executed the program, or it is dead.

pub mod gate;
pub mod unix_socket;

use std::io::{IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::Poll;

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Failure;

/// What init says. `Failed` may come at any point and ends the conversation.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromInit {
    /// The process in between has made the one that stays; carries its pidfd.
    Spawned,
    /// The context of a file system; carries its descriptor.
    Procfs,
    /// The new namespaces that get their ids or offsets from the creator are there.
    Unshared,
    /// The master side of the terminal; carries its descriptor.
    Console,
    /// The listener of the notifying filter; carries its descriptor.
    Listener,
    /// Mounts and devices are there; the creator's hooks may run.
    RootfsReady,
    /// All is done but what `start` starts.
    Ready,
    /// Something is wrong.
    Failed(Failure),
}

/// What init is told.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToInit {
    /// The creator has the process that one in between has made, and knows where to find it.
    Known,
    /// The maps of the new user namespace are in force, and the pid of an init that stays is
    /// on disk.
    Placed,
    /// The process is in its unit of systemd's, and the limits of that are in force.
    Grouped,
    /// What the next mount is made of, where that is the creator's to open: the tree of a bind,
    /// or the context of a file system. Carries its descriptor.
    Tree,
    /// The hooks that belong between `RootfsReady` and pivot_root have run.
    HooksDone,
    /// The answer to `Listener`: the agent has it.
    ListenerTaken,
    /// The answer to `Ready`: run the program. Carries the page for the result of
    /// execve(2) where it does not share one with init already.
    Start,
}

/// The bytes of a datagram that is not the last of its message. What is usually said fits
/// into less, so that the reader needs one call and a small buffer.
pub const DATAGRAM: usize = 2048;
/// The bytes of a message that nobody has a reason for: the other side may be made to lie.
const LONGEST: usize = 1 << 20;

/// One end of a channel that can only send `Tx` and receive `Rx`.
#[derive(Debug)]
pub struct Channel<Tx, Rx> {
    socket: OwnedFd,
    types: PhantomData<(Tx, Rx)>,
}

/// What init has said, with the descriptor that it carries. None: the channel has ended.
pub type Heard = Option<(FromInit, Option<OwnedFd>)>;
/// The creator's end, and `start`'s.
pub type CreatorEnd = Channel<ToInit, FromInit>;
/// Init's end.
pub type InitEnd = Channel<FromInit, ToInit>;

/// A connected pair of ends.
pub fn pair() -> Result<(CreatorEnd, InitEnd)> {
    let (creator, init) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .context("socketpair")?;
    Ok((Channel::over(creator), Channel::over(init)))
}

impl<Tx: Serialize, Rx: DeserializeOwned> Channel<Tx, Rx> {
    /// A channel over a connected SOCK_SEQPACKET socket.
    pub fn over(socket: OwnedFd) -> Self {
        Self { socket, types: PhantomData }
    }

    /// Sends a message.
    pub fn send(&self, message: &Tx) -> Result<()> {
        self.send_parts(message, &[])
    }

    /// Sends a message with a descriptor.
    pub fn send_with(&self, message: &Tx, descriptor: impl AsFd) -> Result<()> {
        self.send_parts(message, &[descriptor.as_fd()])
    }

    fn send_parts(&self, message: &Tx, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        let mut bytes = serde_json::to_vec(message)?;
        if bytes.len().is_multiple_of(DATAGRAM) {
            bytes.push(b' ');
        }
        for (index, datagram) in bytes.chunks(DATAGRAM).enumerate() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if index == 0 && !descriptors.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(descriptors));
            }
            rustix::io::retry_on_intr(|| {
                sendmsg(&self.socket, &[IoSlice::new(datagram)], &mut control, SendFlags::NOSIGNAL)
            })
            .context("the other side of the conversation is gone")?;
        }
        Ok(())
    }

    /// Waits for a message and the descriptor it carries. None: the channel has ended.
    pub fn receive(&self) -> Result<Option<(Rx, Option<OwnedFd>)>> {
        self.receive_after(|| Ok(true))
    }

    /// The same, where `is_there` waits for each datagram, and may say that none will come.
    fn receive_after(
        &self,
        mut is_there: impl FnMut() -> Result<bool>,
    ) -> Result<Option<(Rx, Option<OwnedFd>)>> {
        let mut buffer = [0; DATAGRAM];
        let mut next = |buffer: &mut _| match is_there()? {
            true => self.receive_datagram(buffer),
            false => Ok(None),
        };
        let Some((length, descriptor)) = next(&mut buffer)? else { return Ok(None) };
        if length < DATAGRAM {
            return Ok(Some((serde_json::from_slice(&buffer[..length])?, descriptor)));
        }
        let mut message = buffer.to_vec();
        loop {
            let Some((length, _)) = next(&mut buffer)? else { return Ok(None) };
            message.extend_from_slice(&buffer[..length]);
            if length < DATAGRAM {
                return Ok(Some((serde_json::from_slice(&message)?, descriptor)));
            }
            if message.len() > LONGEST {
                bail!("the other process says more than anybody has to say");
            }
        }
    }

    /// The length of the next datagram, and its descriptor. None: there is none.
    fn receive_datagram(
        &self,
        buffer: &mut [u8; DATAGRAM],
    ) -> Result<Option<(usize, Option<OwnedFd>)>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = last_words(|| {
            let pieces = &mut [IoSliceMut::new(buffer)];
            recvmsg(&self.socket, pieces, &mut control, RecvFlags::CMSG_CLOEXEC)
        })?;
        let Some(received) = received.filter(|received| received.bytes > 0) else {
            return Ok(None);
        };
        if received.flags.contains(ReturnFlags::TRUNC) {
            bail!("the other process says it in the way of another version");
        }
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        Ok(Some((received.bytes, descriptor)))
    }
}

/// Receives from a peer that may have ended with a message of ours unread. The kernel
/// says so once, and before it gives what the peer said last. None: the end.
fn last_words<T>(mut receive: impl FnMut() -> rustix::io::Result<T>) -> Result<Option<T>> {
    let mut receive = || rustix::io::retry_on_intr(&mut receive);
    let received = match receive() {
        Err(Errno::CONNRESET) => receive(),
        received => received,
    };
    match received {
        Ok(received) => Ok(Some(received)),
        Err(Errno::CONNRESET) => Ok(None),
        Err(errno) => Err(errno).context("the conversation with the other process"),
    }
}

impl<Tx, Rx> AsFd for Channel<Tx, Rx> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl CreatorEnd {
    /// Waits for a message from a process whose end others may have too: one in between and
    /// the one that it makes share it, and whoever may trace that can take a copy. None: the
    /// channel has ended, or `goes_on` says that nothing more will come.
    pub fn receive_while(&self, goes_on: impl Fn() -> Result<bool>) -> Result<Heard> {
        const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        let mut wait = |time| rustix::io::retry_on_intr(|| poll(&mut fds, time)).context("poll");
        self.receive_after(|| {
            loop {
                if wait(Some(&PAUSE))? > 0 {
                    return Ok(true);
                }
                // Last words may have come just before the end.
                if !goes_on()? {
                    return Ok(wait(Some(&NOW))? > 0);
                }
            }
        })
    }

    /// The same without waiting.
    pub fn receive_now(&self, goes_on: impl FnOnce() -> Result<bool>) -> Result<Poll<Heard>> {
        let is_ready = || -> Result<bool> {
            const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
            let ready = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&NOW)));
            Ok(ready.context("poll")? > 0)
        };
        if !is_ready()? {
            if goes_on()? {
                return Ok(Poll::Pending);
            }
            // Last words may have come just before the end.
            if !is_ready()? {
                return Ok(Poll::Ready(None));
            }
        }
        self.receive().map(Poll::Ready)
    }

    /// Closes the copy of this end that a cloned process has: while anybody has it open,
    /// that process could not see the end of its creator. To be called in the new process
    /// alone, which never returns to where this end is owned.
    pub fn close_in_child(&self) {
        crate::sys::close_inherited(&self.socket);
    }
}

impl InitEnd {
    /// Another owner for the same end.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self::over(self.socket.try_clone().context("dup")?))
    }

    /// Waits for the one message that may come now.
    pub fn expect(&self, message: &ToInit) -> Result<()> {
        match self.receive()? {
            Some((received, _)) if received == *message => Ok(()),
            Some((other, _)) => bail!("{other:?} where {message:?} was due"),
            None => bail!("the creator is gone"),
        }
    }
}

impl InitEnd {
    /// Waits for the next tree, or the next context of a file system.
    pub fn expect_tree(&self) -> Result<OwnedFd> {
        match self.receive()? {
            Some((ToInit::Tree, Some(tree))) => Ok(tree),
            Some((other, _)) => bail!("{other:?} where a tree was due"),
            None => bail!("the creator is gone"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_with_its_descriptor() {
        let (creator, init) = pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        init.send_with(&FromInit::Console, &file).unwrap();
        let (message, descriptor) = creator.receive().unwrap().unwrap();
        assert_eq!(message, FromInit::Console);
        assert!(descriptor.is_some());
        drop(init);
        assert!(creator.receive().unwrap().is_none());
    }

    #[test]
    fn a_long_message_crosses_in_pieces_with_its_descriptor() {
        // Around the lengths where the last piece is full.
        for length in (4050..4100).chain([100_000]) {
            let (creator, init) = pair().unwrap();
            let file = std::fs::File::open("/dev/null").unwrap();
            let failure = FromInit::Failed(Failure {
                chain: vec!["x".repeat(length)],
                errno: None,
                kind: None,
                field: None,
            });
            init.send_with(&failure, &file).unwrap();
            init.send(&FromInit::Ready).unwrap();
            let (message, descriptor) = creator.receive().unwrap().unwrap();
            assert_eq!((message, descriptor.is_some()), (failure, true), "{length}");
            assert_eq!(creator.receive().unwrap().unwrap().0, FromInit::Ready, "{length}");
        }
    }

    #[test]
    fn a_message_without_an_end_is_refused() {
        let (creator, init) = pair().unwrap();
        let talker = std::thread::spawn(move || {
            while rustix::net::send(&init, &[b' '; DATAGRAM], SendFlags::NOSIGNAL).is_ok() {}
        });
        let error = creator.receive().unwrap_err();
        assert!(error.to_string().contains("more than anybody"), "{error}");
        drop(creator);
        talker.join().unwrap();
    }

    #[test]
    fn an_error_crosses_whole() {
        let error = anyhow::anyhow!("cause").context("middle").context("outer");
        let again = Failure::new(&error).into_error();
        assert_eq!(format!("{again:#}"), "outer: middle: cause");
        let refused = anyhow::Error::new(Errno::PERM).context("mount");
        let again = Failure::new(&refused).into_error();
        assert_eq!(crate::error::errno(&again), Some(libc::EPERM));
        assert_eq!(crate::error::message(&again), "mount: Operation not permitted");
    }

    #[test]
    fn the_last_words_of_the_other_side_are_heard_though_it_did_not_listen() {
        let (creator, init) = pair().unwrap();
        creator.send(&ToInit::Placed).unwrap();
        init.send(&FromInit::Ready).unwrap();
        drop(init);
        assert_eq!(creator.receive().unwrap().unwrap().0, FromInit::Ready);
        assert!(creator.receive().unwrap().is_none());
    }

    #[test]
    fn who_says_nothing_more_is_not_waited_for() {
        let (creator, init) = pair().unwrap();
        init.send(&FromInit::Unshared).unwrap();
        let receive = || creator.receive_while(|| Ok(false)).unwrap();
        assert_eq!(receive().unwrap().0, FromInit::Unshared);
        // The end of the channel is still open here.
        assert!(receive().is_none());
        // Nor is who stops in the middle of a message.
        rustix::net::send(&init, &[b' '; DATAGRAM], SendFlags::NOSIGNAL).unwrap();
        assert!(receive().is_none());
    }

    #[test]
    fn a_message_out_of_turn_is_an_error() {
        let (creator, init) = pair().unwrap();
        creator.send(&ToInit::Start).unwrap();
        let error = init.expect(&ToInit::HooksDone).unwrap_err();
        assert_eq!(error.to_string(), "Start where HooksDone was due");
    }
}
