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

use crate::spawn::Spawned;
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
            if let Some(code) = self.handle_signals(process, terminal.as_ref())? {
                if let Some(terminal) = &mut terminal {
                    terminal.drain();
                }
                return Ok(code);
            }
            let mut fds = vec![PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN)];
            if let Some(terminal) = &terminal {
                terminal.interests(&mut fds);
            }
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).context("poll"),
            }
            let ready: Vec<PollFlags> = fds.iter().skip(1).map(PollFd::revents).collect();
            drop(fds);
            if let Some(terminal) = &mut terminal {
                terminal.copy(&ready);
            }
        }
    }

    fn handle_signals(
        &self,
        process: &Spawned,
        terminal: Option<&ServedTerminal>,
    ) -> Result<Option<i32>> {
        let mut ended = None;
        while let Some(info) = self.signals.read_signal().context("signalfd")? {
            match Signal::try_from(info.ssi_signo as i32) {
                Ok(Signal::SIGCHLD) => ended = reap(process.pid)?.or(ended),
                Ok(Signal::SIGPIPE) => {}
                Ok(Signal::SIGWINCH) if terminal.is_some() => {
                    if let Some(terminal) = terminal {
                        take_size(&terminal.master);
                    }
                }
                _ => {
                    // It may have ended by now.
                    let _ = sys::process::pidfd_send_signal(&process.pidfd, info.ssi_signo as i32);
                }
            }
        }
        Ok(ended)
    }
}

/// Reaps every child that has ended. Returns the exit code of the one that is
/// waited for. By rustix, since nix has no name for a real-time signal.
fn reap(process: Pid) -> Result<Option<i32>> {
    let mut ended = None;
    loop {
        let (pid, status) = match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(reaped)) => reaped,
            Ok(None) | Err(Errno::CHILD) => return Ok(ended),
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno).context("wait"),
        };
        if pid.as_raw_nonzero().get() == process.as_raw() {
            ended = status.exit_status().or(status.terminating_signal().map(|number| 128 + number));
        }
    }
}

/// The terminal of the caller and the master side of the container's.
#[derive(Debug)]
struct ServedTerminal {
    master: OwnedFd,
    /// What stdin's modes were, where it is a terminal; set back at the end.
    before: Option<Termios>,
    /// Input that the program has not taken yet.
    input: Vec<u8>,
    stdin_open: bool,
    master_open: bool,
}

fn stdin() -> BorrowedFd<'static> {
    rustix::stdio::stdin()
}

/// The rows and columns of the caller's terminal, if he has one.
pub fn own_size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(stdin()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
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
        let terminal =
            Self { master, before, input: Vec::new(), stdin_open: true, master_open: true };
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

    /// What to wait for: the master, and stdin behind it.
    fn interests<'fd>(&'fd self, fds: &mut Vec<PollFd<'fd>>) {
        if self.master_open {
            let mut flags = PollFlags::IN;
            if !self.input.is_empty() {
                flags |= PollFlags::OUT;
            }
            fds.push(PollFd::new(&self.master, flags));
            if self.stdin_open && self.input.len() < WAITING {
                fds.push(PollFd::from_borrowed_fd(stdin(), PollFlags::IN));
            }
        }
    }

    /// Moves what is ready, in the order of `interests`.
    fn copy(&mut self, ready: &[PollFlags]) {
        let mut buffer = [0; 8192];
        if ready.get(1).is_some_and(|events| !events.is_empty()) {
            match rustix::io::read(stdin(), &mut buffer) {
                Ok(0) => self.stdin_open = false,
                Ok(length) => {
                    self.input.extend_from_slice(buffer.get(..length).unwrap_or_default())
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(_) => self.stdin_open = false,
            }
        }
        if !self.input.is_empty()
            && let Ok(length) = rustix::io::write(&self.master, &self.input)
        {
            self.input.drain(..length);
        }
        if ready.first().is_some_and(|events| !events.is_empty()) {
            match rustix::io::read(&self.master, &mut buffer) {
                Ok(length @ 1..) => show(buffer.get(..length).unwrap_or_default()),
                Err(Errno::INTR | Errno::AGAIN) => {}
                // EIO: nobody has the other side open any more.
                Ok(_) | Err(_) => self.master_open = false,
            }
        }
    }

    /// Shows what the program wrote last.
    fn drain(&mut self) {
        let mut buffer = [0; 8192];
        while let Ok(length @ 1..) = rustix::io::read(&self.master, &mut buffer) {
            show(buffer.get(..length).unwrap_or_default());
        }
    }
}

fn show(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match rustix::io::write(rustix::stdio::stdout(), bytes) {
            Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let stdout = rustix::stdio::stdout();
                let _ = poll(&mut [PollFd::from_borrowed_fd(stdout, PollFlags::OUT)], None);
            }
            Err(_) => return,
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
