//! A connection that neither waits for who reads nor for who writes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::frames::{self, Broken, Frame, Kind};
use crate::poller::{Poller, Source};

/// How much is read at once.
const CHUNK: usize = 16 * 1024;
/// How much may wait for somebody who does not read: from there on nothing is heard from him.
const MOST_UNREAD: usize = 1 << 20;
/// What a buffer keeps for next time.
const KEPT: usize = 4096;

/// One end of a connection that speaks ttrpc.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    /// What has come and is not a whole frame.
    input: Vec<u8>,
    /// What the other side has not taken.
    output: Vec<u8>,
    /// How much of `output` it has.
    sent: usize,
    /// What it is waited for.
    interest: EventFlags,
}

/// Why a connection is at its end.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The other side has gone.
    Closed,
    /// It does not speak the protocol.
    Broken(Broken),
}

impl Connection {
    /// Over a stream socket that does not block. It is waited for what comes.
    pub fn over(socket: OwnedFd) -> Self {
        let interest = EventFlags::IN;
        Self { socket, input: Vec::new(), output: Vec::new(), sent: 0, interest }
    }

    /// Takes in what has come, as much as can be without waiting or end.
    ///
    /// # Errors
    /// Where nothing more will come.
    pub fn read(&mut self) -> Result<(), End> {
        let mut chunk = [0; CHUNK];
        match recv(&self.socket, &mut chunk, RecvFlags::DONTWAIT) {
            Ok((0, _)) => Err(End::Closed),
            Ok((length, _)) => {
                self.input.extend(&chunk[..length]);
                Ok(())
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(_) => Err(End::Closed),
        }
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// Where what has come is none.
    pub fn take(&mut self) -> Result<Option<Frame>, End> {
        let frame = frames::decode(&mut self.input).map_err(End::Broken)?;
        if self.input.is_empty() && self.input.capacity() > KEPT {
            self.input = Vec::new();
        }
        Ok(frame)
    }

    /// Sends a message, now or when the other side takes it. False: it is too long.
    pub fn send(&mut self, stream: u32, kind: Kind, data: &[u8]) -> bool {
        let Some(bytes) = frames::encode(stream, kind, data) else { return false };
        self.output.extend(bytes);
        true
    }

    /// Hands over what waits, as much as is taken.
    ///
    /// # Errors
    /// Where the other side has gone.
    pub fn flush(&mut self) -> Result<(), End> {
        while self.sent < self.output.len() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match send(&self.socket, &self.output[self.sent..], flags) {
                Ok(length) => self.sent += length,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.output.drain(..self.sent);
                    self.sent = 0;
                    return Ok(());
                }
                Err(_) => return Err(End::Closed),
            }
        }
        self.sent = 0;
        self.output.clear();
        if self.output.capacity() > KEPT {
            self.output = Vec::new();
        }
        Ok(())
    }

    /// Whether the other side takes what it is sent.
    fn is_read(&self) -> bool {
        self.output.len() - self.sent < MOST_UNREAD
    }

    /// Has it waited for what is due now, where that is something else than before.
    pub fn wait_for_next(&mut self, poller: &Poller, source: Source) {
        let mut due = EventFlags::empty();
        due.set(EventFlags::IN, self.is_read());
        due.set(EventFlags::OUT, self.sent < self.output.len());
        if due != self.interest {
            poller.change(&*self, source, due);
            self.interest = due;
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
