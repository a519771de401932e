//! The streams of a process: pipes of its own, never what containerd reads by, so that nobody who
//! comes or goes there is noticed by the process.

use std::fs::{DirBuilder, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::process::{Command, Stdio as ChildStdio};

use anyhow::{Context as _, Error, Result};
use ferrun::Stdio;
use ferrun::sys::process::spawn_with;
use rustix::fs::{Mode, OFlags, fchown, fcntl_setfl, open};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Gid, Uid};

use crate::service::task::Names;
use crate::targets::{Logger, Target, target};

/// Who owns the pipes of a process, and whom a logger is told that they are of.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The name of the process.
    pub name: &'a str,
    /// containerd's namespace.
    pub namespace: &'a str,
}

/// What is opened before a process is made.
#[derive(Debug, Default)]
pub struct Prepared {
    /// The ends of the process.
    pub stdio: Stdio,
    /// What is copied from and to.
    pub outputs: Vec<(OwnedFd, OwnedFd)>,
    /// Where its stdin comes from.
    pub input: Option<Input>,
    /// Where the output of its terminal goes.
    pub of_terminal: Option<OwnedFd>,
    /// The program that reads its output.
    pub logger: Option<Reader>,
}

/// Where the stdin of a process comes from.
#[derive(Debug)]
pub struct Input {
    /// What is read.
    pub from: OwnedFd,
    /// An end that is held, so that it does not end with the one who writes, until it is closed.
    pub held: OwnedFd,
    /// The end of the pipe to the process. None: it goes to its terminal.
    pub to: Option<OwnedFd>,
}

/// A program that reads an output.
#[derive(Debug)]
pub struct Reader {
    /// Its pid.
    pub pid: i32,
    /// Ends when it is ready.
    pub ready: OwnedFd,
    /// Whether a byte has to come before.
    pub says_ready: bool,
}

/// Opens all that `names` stand for.
///
/// # Errors
/// Names what cannot be opened.
pub fn prepare(names: &Names, about: About<'_>) -> Result<Prepared> {
    let mut prepared = Prepared::default();
    if !names.stdin.is_empty() {
        let mut input = input(&names.stdin).context("stdin")?;
        if !names.terminal {
            let (theirs, ours) = pipe(about, false)?;
            not_blocking(&ours)?;
            prepared.stdio.stdin = Some(theirs);
            input.to = Some(ours);
        }
        prepared.input = Some(input);
    }
    outputs(names, about, &mut prepared)?;
    Ok(prepared)
}

fn input(name: &str) -> Result<Input> {
    let path = match target(name).map_err(Error::msg)? {
        Target::Path(path) => path,
        _ => return Err(Error::msg(format!("{name:?}: not a pipe"))),
    };
    let flags = OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let opened = |way| open(&path, way | flags, Mode::empty()).with_context(|| format!("{path:?}"));
    Ok(Input { from: opened(OFlags::RDONLY)?, held: opened(OFlags::WRONLY)?, to: None })
}

fn outputs(names: &Names, about: About<'_>, prepared: &mut Prepared) -> Result<()> {
    let stdout = target(&names.stdout).map_err(Error::msg).context("stdout")?;
    let Prepared { stdio, outputs, of_terminal, logger, .. } = prepared;
    if let Target::Logger(program) = &stdout {
        let (their_stdout, stdout) = pipe(about, false)?;
        let (their_stderr, stderr) = pipe(about, false)?;
        *logger = Some(start(program, their_stdout, their_stderr, about)?);
        if names.terminal {
            not_blocking(&stdout)?;
            *of_terminal = Some(stdout);
        } else {
            (stdio.stdout, stdio.stderr) = (Some(stdout), Some(stderr));
        }
        return Ok(());
    }
    if names.terminal {
        *of_terminal = sink(&stdout).context("stdout")?;
        return Ok(());
    }
    if let Some(sink) = sink(&stdout).context("stdout")? {
        let (ours, theirs) = pipe(about, true)?;
        stdio.stdout = Some(theirs);
        outputs.push((ours, sink));
    }
    // What is written to a file is written to one.
    let stderr = match (&stdout, names.stderr.is_empty()) {
        (Target::File(_), false) => stdout,
        _ => target(&names.stderr).map_err(Error::msg).context("stderr")?,
    };
    if let Some(sink) = sink(&stderr).context("stderr")? {
        let (ours, theirs) = pipe(about, true)?;
        stdio.stderr = Some(theirs);
        outputs.push((ours, sink));
    }
    Ok(())
}

/// Opens what is written to. A pipe is opened for reading as well: it needs no reader to be
/// opened, and none that leaves breaks it.
fn sink(target: &Target) -> Result<Option<OwnedFd>> {
    match target {
        Target::Nothing => Ok(None),
        Target::Path(path) => {
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
            let flags = flags | OFlags::APPEND;
            let file = open(path, flags, Mode::empty()).with_context(|| format!("{path:?}"))?;
            Ok(Some(file))
        }
        Target::File(path) => {
            if let Some(directory) = path.parent() {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o755)
                    .create(directory)
                    .with_context(|| format!("{directory:?}"))?;
            }
            let mut options = OpenOptions::new();
            let file = options.append(true).create(true).mode(0o644).open(path);
            Ok(Some(file.with_context(|| format!("{path:?}"))?.into()))
        }
        Target::Logger(logger) => {
            Err(Error::msg(format!("{:?}: a program is named for stdout", logger.program)))
        }
    }
}

/// A pipe that `about` owns: the end that is read and the end that is written to. Ours never
/// blocks, whichever that is; the other one is the process's.
fn pipe(about: About<'_>, we_read: bool) -> Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).context("pipe")?;
    if (about.uid, about.gid) != (0, 0) {
        for end in [&read, &write] {
            let (uid, gid) = (Uid::from_raw(about.uid), Gid::from_raw(about.gid));
            fchown(end, Some(uid), Some(gid)).context("chown: a pipe")?;
        }
    }
    if we_read {
        not_blocking(&read)?;
    }
    Ok((read, write))
}

fn not_blocking(end: &OwnedFd) -> Result<()> {
    fcntl_setfl(end, OFlags::NONBLOCK).context("fcntl: a pipe")
}

/// Starts the program that reads an output.
fn start(logger: &Logger, stdout: OwnedFd, stderr: OwnedFd, about: About<'_>) -> Result<Reader> {
    let (ready, theirs) = pipe_with(PipeFlags::CLOEXEC).context("pipe")?;
    not_blocking(&ready)?;
    let mut command = Command::new(&logger.program);
    command
        .args(&logger.arguments)
        .env_clear()
        .env("CONTAINER_ID", about.name)
        .env("CONTAINER_NAMESPACE", about.namespace)
        .stdin(ChildStdio::null())
        .stdout(ChildStdio::null())
        .stderr(ChildStdio::null());
    let child = spawn_with(&mut command, vec![stdout, stderr, theirs]);
    let child = child.with_context(|| format!("execute {:?}", logger.program))?;
    Ok(Reader { pid: child.id().cast_signed(), ready, says_ready: logger.says_ready })
}
