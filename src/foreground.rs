//! A caller who stays with a process until it ends: signals are passed on,
//! children reaped, the terminal served.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::WaitOptions;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use crate::create::spawn::Spawned;
use crate::log;
use crate::sys;

/// How much input may wait for a program that does not read, in bytes.
const WAITING: usize = 64 * 1024;

/// Everything that must be in place before the process is made, so that neither
/// its end nor a signal can be missed.
#[derive(Debug)]
pub struct Watch {
    signals: SignalFd,
}

impl Watch {
    /// Holds signals back from now on. With `adopts`, orphans of the process
    /// become children of this one and are reaped.
    pub fn new(adopts: bool) -> Result<Self> {
        let mut mask = SigSet::all();
        for signal in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL] {
            mask.remove(signal);
        }
        mask.thread_block().context("sigprocmask")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&mask, flags).context("signalfd")?;
        if adopts {
            nix::sys::prctl::set_child_subreaper(true).context("prctl")?;
        }
        Ok(Self { signals })
    }

    /// Serves the process until it ends. Returns its exit code, 128 and the number
    /// of the signal that killed it.
    pub fn serve(&self, process: &Spawned, master: Option<OwnedFd>) -> Result<i32> {
        let mut terminal = master.map(ServedTerminal::new).transpose()?;
        loop {
            let interests = terminal.as_ref().map(ServedTerminal::interests).unwrap_or_default();
            let (has_signal, ready): (bool, Vec<(End, PollFlags)>) = {
                let mut fds = vec![PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN)];
                for (end, flags) in &interests {
                    if let Some(file) = terminal.as_ref().and_then(|terminal| terminal.file(*end)) {
                        fds.push(PollFd::from_borrowed_fd(file, *flags));
                    }
                }
                match poll(&mut fds, None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(errno) => return Err(errno).context("poll"),
                }
                let mut events = fds.iter().map(PollFd::revents);
                let has_signal = events.next().is_some_and(|events| !events.is_empty());
                (has_signal, interests.iter().map(|(end, _)| *end).zip(events).collect())
            };
            if has_signal && let Some(code) = self.handle_signal(process, terminal.as_ref())? {
                if let Some(terminal) = &mut terminal {
                    terminal.drain();
                }
                return Ok(code);
            }
            if let Some(terminal) = &mut terminal {
                for (end, _) in ready.into_iter().filter(|(_, events)| !events.is_empty()) {
                    terminal.copy(end);
                }
            }
        }
    }

    /// Takes one signal. Where there are more, poll(2) says so again.
    fn handle_signal(
        &self,
        process: &Spawned,
        terminal: Option<&ServedTerminal>,
    ) -> Result<Option<i32>> {
        let Some(info) = self.signals.read_signal().context("signalfd")? else { return Ok(None) };
        match Signal::try_from(info.ssi_signo as i32) {
            Ok(Signal::SIGCHLD) => return reap(process.pid),
            Ok(Signal::SIGPIPE) => {}
            Ok(Signal::SIGWINCH) if terminal.is_some() => {
                if let Some(master) = terminal.and_then(|terminal| terminal.master.as_ref()) {
                    take_size(master);
                }
            }
            _ => {
                log::debug(|| format!("signal {}: passed on to {}", info.ssi_signo, process.pid));
                // It may have ended by now.
                let _ = sys::process::pidfd_send_signal(&process.pidfd, info.ssi_signo as i32);
            }
        }
        Ok(None)
    }
}

/// Reaps the children that have ended, until it is the one that is waited for, whose exit
/// code it returns. By rustix, since nix has no name for a real-time signal.
fn reap(process: Pid) -> Result<Option<i32>> {
    loop {
        let (pid, status) = match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(reaped)) => reaped,
            Ok(None) | Err(Errno::CHILD) => return Ok(None),
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno).context("wait"),
        };
        if pid.as_raw_nonzero().get() == process.as_raw() {
            let killed = status.terminating_signal().map(|number| 128 + number);
            return Ok(status.exit_status().or(killed));
        }
    }
}

/// The terminal of the caller and the master side of the container's.
#[derive(Debug)]
struct ServedTerminal {
    /// None once the program, or the reader of its output, is gone. To close it hangs up.
    master: Option<OwnedFd>,
    /// What stdin's modes were, where it is a terminal; set back at the end.
    before: Option<Termios>,
    /// Input that the program has not taken yet.
    input: Vec<u8>,
    /// Output that nobody has taken yet. A write waits for a reader, and this process has
    /// signals to pass on: so it writes when poll(2) says that there is room.
    output: Vec<u8>,
    stdin_open: bool,
}

/// One of the files that bytes come from or go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Master,
    Stdin,
    Stdout,
}

fn stdin() -> BorrowedFd<'static> {
    rustix::stdio::stdin()
}

/// Gives the container's terminal the size of the caller's after that has changed.
fn take_size(master: impl AsFd) {
    if let Ok(size) = tcgetwinsize(stdin()) {
        let _ = tcsetwinsize(master, size);
    }
}

impl ServedTerminal {
    fn new(master: OwnedFd) -> Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&master).context("fcntl")?;
        rustix::fs::fcntl_setfl(&master, flags | OFlags::NONBLOCK).context("fcntl")?;
        let before = tcgetattr(stdin()).ok();
        let (input, output) = (Vec::new(), Vec::new());
        let terminal = Self { master: Some(master), before, input, output, stdin_open: true };
        if let Some(before) = &terminal.before {
            let mut raw = before.clone();
            raw.make_raw();
            // The container's terminal passes line ends on as they are: this one turns them
            // into what the screen needs.
            raw.output_modes = before.output_modes;
            tcsetattr(stdin(), OptionalActions::Now, &raw).context("tcsetattr")?;
        }
        Ok(terminal)
    }

    /// What to wait for. Nothing more is read while the last is not taken.
    fn interests(&self) -> Vec<(End, PollFlags)> {
        let mut interests = Vec::new();
        if !self.output.is_empty() {
            interests.push((End::Stdout, PollFlags::OUT));
        }
        if self.master.is_none() {
            return interests;
        }
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, self.output.is_empty());
        flags.set(PollFlags::OUT, !self.input.is_empty());
        // Without any, the end of the program alone would be told again and again.
        if !flags.is_empty() {
            interests.push((End::Master, flags));
        }
        if self.stdin_open && self.input.len() < WAITING {
            interests.push((End::Stdin, PollFlags::IN));
        }
        interests
    }

    fn file(&self, end: End) -> Option<BorrowedFd<'_>> {
        match end {
            End::Master => self.master.as_ref().map(AsFd::as_fd),
            End::Stdin => Some(stdin()),
            End::Stdout => Some(rustix::stdio::stdout()),
        }
    }

    /// Moves what there is at an end that is ready.
    fn copy(&mut self, end: End) {
        let mut buffer = [0; 8192];
        match end {
            End::Stdin => match rustix::io::read(stdin(), &mut buffer) {
                Ok(length @ 1..) => {
                    self.input.extend_from_slice(buffer.get(..length).unwrap_or_default());
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                Ok(_) | Err(_) => self.stdin_open = false,
            },
            End::Stdout => self.show(),
            End::Master => self.exchange(&mut buffer),
        }
    }

    fn exchange(&mut self, buffer: &mut [u8]) {
        let Some(master) = &self.master else { return };
        if !self.input.is_empty() {
            match rustix::io::write(master, &self.input) {
                Ok(length) => drop(self.input.drain(..length)),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(_) => self.input.clear(),
            }
        }
        if self.output.is_empty() {
            match rustix::io::read(master, &mut *buffer) {
                Ok(length @ 1..) => {
                    self.output.extend_from_slice(buffer.get(..length).unwrap_or_default());
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                // EIO: nobody has the other side open any more.
                Ok(_) | Err(_) => self.master = None,
            }
        }
    }

    /// Writes as much as a pipe has room for when it is ready (PIPE_BUF in pipe(7)).
    fn show(&mut self) {
        const ROOM: usize = 4096;
        let part = self.output.get(..ROOM).unwrap_or(&self.output);
        match rustix::io::write(rustix::stdio::stdout(), part) {
            Ok(length) => drop(self.output.drain(..length)),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => {
                // Nobody will ever read it. The program is told as by a terminal that is gone.
                self.output.clear();
                self.master = None;
            }
        }
    }

    /// Shows what the program wrote last.
    fn drain(&mut self) {
        loop {
            while !self.output.is_empty() {
                let stdout = rustix::stdio::stdout();
                let _ = poll(&mut [PollFd::from_borrowed_fd(stdout, PollFlags::OUT)], None);
                self.show();
            }
            let mut buffer = [0; 8192];
            let read = self.master.as_ref().map(|master| rustix::io::read(master, &mut buffer));
            let Some(Ok(length @ 1..)) = read else { return };
            self.output.extend_from_slice(buffer.get(..length).unwrap_or_default());
        }
    }
}

impl Drop for ServedTerminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(stdin(), OptionalActions::Now, before);
        }
    }
}
