//! The streams of processes, while they are copied.

use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::signal::Signal;
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::termios::{Winsize, tcsetwinsize};

use super::{Server, Timer};
use crate::copy::{Copy, has_reader};
use crate::log;
use crate::poller::Source;
use crate::service::task::Who;
use crate::streams::{Input, Prepared};

/// How long Delete waits for the streams of a process that was added: what it has left may write
/// on.
const EXEC: Duration = Duration::from_secs(10);
/// The same for a container, in which nobody is left.
const CONTAINER: Duration = Duration::from_secs(3);

/// How long to wait before it is looked whether somebody reads what has ended; twice as long each
/// time, up to the last.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LAST_LOOK: Duration = Duration::from_secs(5);

/// A stream of a process that is copied.
#[derive(Debug)]
pub struct Copying {
    copy: Copy,
    who: Who,
    is_output: bool,
}

/// What is open for a process.
#[derive(Debug, Default)]
pub struct Open {
    /// The copies of its output that have not ended.
    outputs: Vec<u64>,
    input: Option<u64>,
    /// The end that its stdin does not end before.
    held: Option<OwnedFd>,
    console: Option<OwnedFd>,
    logger: Option<i32>,
    /// The ends of outputs that have ended before somebody has come to read them.
    unread: Vec<OwnedFd>,
    /// Whether somebody waits for its end.
    is_drained: bool,
}

impl Server {
    /// Begins to copy what was prepared for a process.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub(super) fn begin_streams(
        &mut self,
        who: &Who,
        prepared: Prepared,
        console: Option<OwnedFd>,
    ) -> Result<(), Errno> {
        let mut open = Open { logger: prepared.logger.map(|reader| reader.pid), ..Open::default() };
        let mut outputs = prepared.outputs;
        if let Some(console) = &console {
            fcntl_setfl(console, fcntl_getfl(console)? | OFlags::NONBLOCK)?;
            let sink = match prepared.of_terminal {
                Some(sink) => sink,
                // What nobody reads would stop the program.
                None => open_null()?,
            };
            outputs.push((fcntl_dupfd_cloexec(console, 3)?, sink));
        }
        for (from, to) in outputs {
            open.outputs.push(self.begin_copy(who, from, to, true)?);
        }
        if let Some(Input { from, held, to }) = prepared.input {
            let to = match (to, &console) {
                (Some(to), _) => Some(to),
                (None, Some(console)) => Some(fcntl_dupfd_cloexec(console, 3)?),
                (None, None) => None,
            };
            if let Some(to) = to {
                open.input = Some(self.begin_copy(who, from, to, false)?);
                open.held = Some(held);
            }
        }
        open.console = console;
        self.streams.insert(who.clone(), open);
        Ok(())
    }

    fn begin_copy(
        &mut self,
        who: &Who,
        from: OwnedFd,
        to: OwnedFd,
        is_output: bool,
    ) -> Result<u64, Errno> {
        let number = self.number();
        let copy = Copy::begin(from, to, &self.poller, Source::Copy(number))?;
        self.copies.insert(number, Copying { copy, who: who.clone(), is_output });
        Ok(number)
    }

    /// Copies what there is.
    pub(super) fn copy(&mut self, number: u64) {
        let Some(copying) = self.copies.get_mut(&number) else { return };
        if !copying.copy.go_on(&self.poller, Source::Copy(number)) {
            return;
        }
        let Some(Copying { copy, who, is_output }) = self.copies.remove(&number) else { return };
        let Some(open) = self.streams.get_mut(&who) else { return };
        if !is_output {
            open.input = None;
            return;
        }
        open.outputs.retain(|output| *output != number);
        let is_first = open.unread.is_empty();
        open.unread.extend(copy.unread());
        let is_unread = is_first && !open.unread.is_empty();
        if open.is_drained && open.outputs.is_empty() {
            self.drained(&who);
        } else if is_unread {
            self.set_timer(FIRST_LOOK, Timer::Unread(who, FIRST_LOOK));
        }
    }

    /// Closes the ends of outputs that somebody reads by now: he sees their end by that.
    pub(super) fn look_for_readers(&mut self, who: &Who, waited: Duration) {
        let Some(open) = self.streams.get_mut(who) else { return };
        open.unread.retain(|end| !has_reader(end));
        if waited >= LAST_LOOK {
            open.unread.clear();
        } else if !open.unread.is_empty() {
            self.set_timer(waited * 2, Timer::Unread(who.clone(), waited * 2));
        }
    }

    /// Tells once the output of a process has ended, or after some time.
    pub(super) fn drain(&mut self, who: &Who) {
        match self.streams.get_mut(who) {
            Some(open) if !open.outputs.is_empty() => {
                open.is_drained = true;
                let patience = if who.exec.is_empty() { CONTAINER } else { EXEC };
                self.set_timer(patience, Timer::Drained(who.clone()));
            }
            _ => self.drained(who),
        }
    }

    /// Closes what is left of the streams of a process, which is forgotten then.
    pub(super) fn drained(&mut self, who: &Who) {
        // What it was told last is written when it has ended.
        if let Some(logger) = self.close(who) {
            self.loggers.insert(logger, Some(who.clone()));
            return;
        }
        self.forget(who);
    }

    /// Closes what is left of the streams of a process. Returns the program that reads its
    /// output, if that has not ended.
    fn close(&mut self, who: &Who) -> Option<i32> {
        self.timers.retain(|(_, timer)| {
            !matches!(timer, Timer::Drained(other) | Timer::Unread(other, _) if other == who)
        });
        let open = self.streams.remove(who)?;
        if !open.outputs.is_empty() {
            log::warn(format!("{}: its output has not ended", who.name()));
        }
        for number in open.outputs.into_iter().chain(open.input) {
            if let Some(copying) = self.copies.remove(&number) {
                copying.copy.end(&self.poller);
            }
        }
        open.logger.filter(|pid| self.end_logger(*pid, Signal::SIGTERM))
    }

    /// Nothing is left of a process, or of a container.
    pub(super) fn forget(&mut self, who: &Who) {
        if who.exec.is_empty() {
            // Of what was added not all need have been deleted.
            let added = self.streams.keys().filter(|other| other.container == who.container);
            for other in added.cloned().collect::<Vec<_>>() {
                self.close(&other);
            }
            // Its name may be another's by the time that they have ended.
            let is_of = |waits: &&mut Option<Who>| {
                waits.as_ref().is_some_and(|other| other.container == who.container)
            };
            self.loggers.values_mut().filter(is_of).for_each(|waits| *waits = None);
            self.containers.remove(&who.container);
            self.meters.remove(&who.container);
            self.forget_memory(&who.container);
        }
        self.service.drained(who);
    }

    /// Lets the stdin of a process end once all that was written is copied.
    pub(super) fn close_stdin(&mut self, who: &Who) {
        if let Some(open) = self.streams.get_mut(who) {
            open.held = None;
        }
    }

    /// Changes the size of a terminal.
    pub(super) fn resize(&self, who: &Who, width: u16, height: u16) {
        let Some(console) = self.streams.get(who).and_then(|open| open.console.as_ref()) else {
            return;
        };
        let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
        if let Err(errno) = tcsetwinsize(console, size) {
            log::warn(format!("{}: the size of its terminal: {errno}", who.name()));
        }
    }
}

fn open_null() -> Result<OwnedFd, Errno> {
    open("/dev/null", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
}
