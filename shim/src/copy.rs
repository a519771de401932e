//! A stream that is copied from one descriptor to another, without waiting for either.

use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, fcntl_getfl, open};
use rustix::io::{Errno, read, write};
use rustix::pipe::{SpliceFlags, splice};

use crate::poller::{Poller, Source};

/// How much is moved at once; a pipe holds as much.
const CHUNK: usize = 64 * 1024;
/// How much passes through memory of ours at once, where the kernel cannot move it.
const BUFFER: usize = 16 * 1024;

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// For something to copy.
    ForInput,
    /// For room.
    ForRoom,
}

/// A stream that is copied.
#[derive(Debug)]
pub struct Copy {
    from: OwnedFd,
    to: OwnedFd,
    waits: Waits,
    /// Whether the kernel moves what there is from one end to the other.
    is_spliced: bool,
    /// What was read and not written, where it does not.
    held: Vec<u8>,
}

/// Whether there may be more.
enum Step {
    On,
    Waits(Waits),
    Ended,
}

impl Copy {
    /// Begins. Neither descriptor may block.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn begin(
        from: OwnedFd,
        to: OwnedFd,
        poller: &Poller,
        source: Source,
    ) -> Result<Self, Errno> {
        poller.add(&from, source, EventFlags::IN)?;
        let waits = Waits::ForInput;
        Ok(Self { from, to, waits, is_spliced: true, held: Vec::new() })
    }

    /// Copies what there is and can be taken, a few times: others are to be served too. Says
    /// whether it has come to its end.
    pub fn go_on(&mut self, poller: &Poller, source: Source) -> bool {
        for _ in 0..4 {
            match self.step() {
                Step::On => {}
                Step::Waits(waits) => {
                    self.wait(waits, poller, source);
                    return false;
                }
                Step::Ended => {
                    self.end(poller);
                    return true;
                }
            }
        }
        false
    }

    /// Ends it here.
    pub fn end(&self, poller: &Poller) {
        poller.remove(match self.waits {
            Waits::ForInput => &self.from,
            Waits::ForRoom => &self.to,
        });
    }

    /// What is left of one that has ended: the end that was written to of a named pipe that nobody
    /// reads. Were it closed, what was said would be gone, and who opens the pipe later would wait
    /// for ever.
    pub fn unread(self) -> Option<OwnedFd> {
        // A named pipe was opened for both, and so has a reader in any case.
        let is_named = fcntl_getfl(&self.to).is_ok_and(|flags| flags.contains(OFlags::RDWR));
        if !is_named {
            return None;
        }
        let path = format!("/proc/self/fd/{}", self.to.as_raw_fd());
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let end = open(path, flags, Mode::empty()).ok()?;
        drop(self.to);
        (!has_reader(&end)).then_some(end)
    }

    fn wait(&mut self, waits: Waits, poller: &Poller, source: Source) {
        if self.waits == waits {
            return;
        }
        self.end(poller);
        self.waits = waits;
        // A file has always room and is not waited for.
        let _ = match waits {
            Waits::ForInput => poller.add(&self.from, source, EventFlags::IN),
            Waits::ForRoom => poller.add(&self.to, source, EventFlags::OUT),
        };
    }

    fn step(&mut self) -> Step {
        if !self.is_spliced {
            return self.step_by_memory();
        }
        match splice(&self.from, None, &self.to, None, CHUNK, SpliceFlags::NONBLOCK) {
            Ok(0) => Step::Ended,
            Ok(_) | Err(Errno::INTR) => Step::On,
            Err(Errno::AGAIN) if is_ready(&self.to, PollFlags::OUT) => Step::Waits(Waits::ForInput),
            Err(Errno::AGAIN) => Step::Waits(Waits::ForRoom),
            // A file that is appended to, a terminal on older kernels.
            Err(Errno::INVAL) => {
                self.is_spliced = false;
                Step::On
            }
            Err(_) => Step::Ended,
        }
    }

    fn step_by_memory(&mut self) -> Step {
        if self.held.is_empty() {
            let mut buffer = [0; BUFFER];
            match read(&self.from, &mut buffer) {
                // The end of a terminal is an error.
                Ok(0) | Err(Errno::IO) => return Step::Ended,
                Ok(length) => self.held.extend(&buffer[..length]),
                Err(Errno::AGAIN) => return Step::Waits(Waits::ForInput),
                Err(Errno::INTR) => return Step::On,
                Err(_) => return Step::Ended,
            }
        }
        match write(&self.to, &self.held) {
            Ok(length) if length == self.held.len() => {
                self.held = Vec::new();
                Step::On
            }
            Ok(length) => {
                self.held.drain(..length);
                Step::On
            }
            Err(Errno::AGAIN) => Step::Waits(Waits::ForRoom),
            Err(Errno::INTR) => Step::On,
            Err(_) => Step::Ended,
        }
    }
}

/// Whether somebody has this pipe open for reading, by its other end.
pub fn has_reader(end: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::new(end, PollFlags::OUT)];
    poll(&mut fds, Some(&now)).is_ok() && !fds[0].revents().contains(PollFlags::ERR)
}

fn is_ready(file: &OwnedFd, flags: PollFlags) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(file, flags)], Some(&now)).is_ok_and(|ready| ready > 0)
}
