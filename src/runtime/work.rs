//! A command that runs in a process of its own.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio as ChildStdio};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::error::Error;
use crate::cgroups::systemd::Buses;
use crate::handover::report::{Report, Reports, reports};
use crate::sys::process::spawn_alone;

/// The first three descriptors of a process; the null device where there is none.
#[derive(Debug, Default)]
pub struct Stdio {
    /// Stdin.
    pub stdin: Option<OwnedFd>,
    /// Stdout.
    pub stdout: Option<OwnedFd>,
    /// Stderr.
    pub stderr: Option<OwnedFd>,
}

/// A process that was made.
#[derive(Debug)]
pub struct Made {
    /// Its pid, as the caller sees it.
    pub pid: i32,
    /// A handle on it, which becomes readable when it ends.
    pub pidfd: OwnedFd,
}

/// A command at work. Its descriptor becomes readable when [`Work::step`] gets further. To drop
/// it ends the command, and what it has not made to the end.
#[derive(Debug)]
pub struct Work {
    /// None once it was waited for.
    command: Option<Child>,
    reports: Reports,
    made: Option<Made>,
    failed: Option<Error>,
}

impl Work {
    /// Begins the command `words` of `program`. It has the listed environment, these three
    /// descriptors and one socket, and ends with the caller.
    pub(super) fn begin(
        program: &OwnedFd,
        words: Vec<OsString>,
        buses: &Buses,
        stdio: Stdio,
    ) -> Result<Self> {
        let or_null = |end: Option<OwnedFd>| end.map_or_else(ChildStdio::null, ChildStdio::from);
        let runtime_directory = buses.runtime_directory.clone().map(OsString::from);
        let variables = [
            ("DBUS_SYSTEM_BUS_ADDRESS", buses.system.clone().map(OsString::from)),
            ("DBUS_SESSION_BUS_ADDRESS", buses.session.clone().map(OsString::from)),
            ("XDG_RUNTIME_DIR", runtime_directory),
        ];
        let (own, theirs) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .context("socketpair")?;
        let mut command = Command::new(crate::own_executable::path_of(program));
        command
            .arg0("ferrun")
            .args(["--report", "3"])
            .args(words)
            .env_clear()
            .envs(variables.into_iter().filter_map(|(name, value)| Some((name, value?))))
            .current_dir("/")
            .stdin(or_null(stdio.stdin))
            .stdout(or_null(stdio.stdout))
            .stderr(or_null(stdio.stderr));
        let command = spawn_alone(&mut command, theirs).context("execute ferrun")?;
        Ok(Self { command: Some(command), reports: reports(own), made: None, failed: None })
    }

    /// Takes in what the command has said by now, without waiting. None: it is still at work.
    ///
    /// # Errors
    /// Why the command failed.
    pub fn step(&mut self) -> Result<Option<Made>, Error> {
        loop {
            let mut fds = [PollFd::new(&self.reports, PollFlags::IN)];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            let ready = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&now))).context("poll")?;
            if ready == 0 {
                return Ok(None);
            }
            if self.hear()? {
                return self.end().map(Some);
            }
        }
    }

    /// Waits for the end of the command.
    ///
    /// # Errors
    /// Why the command failed.
    pub fn wait(mut self) -> Result<Made, Error> {
        while !self.hear()? {}
        self.end()
    }

    /// Waits for the next that the command says. Returns whether that was all.
    fn hear(&mut self) -> Result<bool> {
        match self.reports.receive()? {
            Some((Report::Made { pid }, Some(pidfd))) => self.made = Some(Made { pid, pidfd }),
            Some((Report::Failed(failure), _)) => self.failed = Some(failure.into()),
            Some((Report::Made { .. }, None)) => {}
            None => return Ok(true),
        }
        Ok(false)
    }

    fn end(&mut self) -> Result<Made, Error> {
        let status = match &mut self.command {
            Some(command) => command.wait().context("wait for ferrun")?,
            None => return Err(anyhow::Error::msg("it was waited for before").into()),
        };
        self.command = None;
        match (self.failed.take(), self.made.take()) {
            (Some(error), _) => Err(error),
            (None, Some(made)) if status.success() => Ok(made),
            _ => {
                Err(anyhow::Error::msg(format!("ferrun ended by {status} and said nothing")).into())
            }
        }
    }
}

impl AsFd for Work {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reports.as_fd()
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Some(command) = &mut self.command {
            let _ = command.kill();
            let _ = command.wait();
        }
    }
}
