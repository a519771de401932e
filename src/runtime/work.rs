//! A command that runs in a process of its own.

use std::ffi::OsString;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio as ChildStdio};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::error::Error;
use super::listener::Listener;
use crate::cgroups::systemd::Buses;
use crate::error::{Kind, OfKind as _};
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

/// What a command finds around it.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Where systemd is looked for.
    pub buses: Buses,
    /// Where programs are looked for, as PATH says it.
    pub path: OsString,
}

impl Default for Surroundings {
    fn default() -> Self {
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into();
        Self { buses: Buses::default(), path }
    }
}

/// A process that was made.
#[derive(Debug)]
pub struct Made {
    /// Its pid, as the caller sees it.
    pub pid: i32,
    /// A handle on it, which becomes readable when it ends.
    pub pidfd: OwnedFd,
    /// The master side of its terminal, where it has one and no socket was named for that.
    pub console: Option<OwnedFd>,
}

/// What a command that has succeeded leaves its caller.
pub trait Outcome: Sized {
    /// Made of the process that it has told of. None: that one was due.
    #[doc(hidden)]
    fn of(made: Option<Made>) -> Option<Self>;
}

impl Outcome for Made {
    fn of(made: Option<Made>) -> Option<Self> {
        made
    }
}

impl Outcome for () {
    fn of(_: Option<Made>) -> Option<Self> {
        Some(())
    }
}

/// A command at work. Its descriptor becomes readable when [`Work::step`] gets further. To drop
/// it ends the command, and what it has not made to the end. So does the end of the thread that
/// has begun it, and that is why it belongs to one:
///
/// ```compile_fail
/// fn elsewhere(work: ferrun::Work) {
///     std::thread::spawn(move || work.wait());
/// }
/// ```
#[derive(Debug)]
pub struct Work<T = Made> {
    /// None once it was waited for.
    command: Option<Child>,
    reports: Reports,
    made: Option<Made>,
    console: Option<OwnedFd>,
    failed: Option<Error>,
    listener: Listener,
    outcome: PhantomData<(T, *const ())>,
}

impl<T: Outcome> Work<T> {
    /// Begins the command `words` of `program`. It has the listed environment, these three
    /// descriptors and one socket, and ends with the caller.
    pub(super) fn begin(
        program: &OwnedFd,
        words: Vec<OsString>,
        Surroundings { buses, path }: &Surroundings,
        stdio: Stdio,
        listener: Listener,
    ) -> Result<Self> {
        let or_null = |end: Option<OwnedFd>| end.map_or_else(ChildStdio::null, ChildStdio::from);
        let runtime_directory = buses.runtime_directory.clone().map(OsString::from);
        let variables = [
            ("PATH", Some(path.clone())),
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
        Ok(Self {
            command: Some(command),
            reports: reports(own),
            made: None,
            console: None,
            failed: None,
            listener,
            outcome: PhantomData,
        })
    }

    /// Takes in what the command has said by now, without waiting. None: it is still at work.
    ///
    /// # Errors
    /// Why the command failed.
    pub fn step(&mut self) -> Result<Option<T>, Error> {
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
    pub fn wait(mut self) -> Result<T, Error> {
        while !self.hear()? {}
        self.end()
    }

    /// Waits for the next that the command says. Returns whether that was all.
    fn hear(&mut self) -> Result<bool> {
        match self.reports.receive()? {
            Some((Report::Made { pid }, Some(pidfd))) => {
                self.made = Some(Made { pid, pidfd, console: None });
            }
            Some((Report::Console, master)) => self.console = master,
            Some((Report::Warning(message), _)) => self.listener.warn(&message),
            Some((Report::Failed(failure), _)) => self.failed = Some(failure.into()),
            Some((Report::Made { .. }, None)) => {}
            None => return Ok(true),
        }
        Ok(false)
    }

    fn end(&mut self) -> Result<T, Error> {
        let status = match &mut self.command {
            Some(command) => command.wait().context("wait for ferrun")?,
            None => return Err(anyhow::Error::msg("it was waited for before").into()),
        };
        self.command = None;
        let console = self.console.take();
        let made = self.made.take().map(|made| Made { console, ..made });
        match (self.failed.take(), T::of(made)) {
            (Some(error), _) => Err(error),
            (None, Some(outcome)) if status.success() => Ok(outcome),
            _ => {
                Err(anyhow::Error::msg(format!("ferrun ended by {status} and said nothing")).into())
            }
        }
    }
}

impl<T: Outcome> Work<T> {
    /// The process that runs the command, a child of the caller's. None once it was waited for.
    pub fn pid(&self) -> Option<i32> {
        self.command.as_ref().and_then(|command| i32::try_from(command.id()).ok())
    }
}

impl<T> AsFd for Work<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reports.as_fd()
    }
}

impl<T> Drop for Work<T> {
    fn drop(&mut self) {
        if let Some(command) = &mut self.command {
            let _ = command.kill();
            let _ = command.wait();
        }
    }
}

/// The options that are given; the command has another working directory.
pub fn given<const N: usize>(paths: [(&str, Option<PathBuf>); N]) -> Result<Vec<OsString>, Error> {
    let mut words = Vec::new();
    for (name, path) in paths.into_iter().filter_map(|(name, path)| Some((name, path?))) {
        let path = std::path::absolute(&path).with_context(|| format!("{name}: {path:?}"));
        words.extend([name.into(), path.of_kind(Kind::Configuration)?.into()]);
    }
    Ok(words)
}
