//! What goes to others than the container: of a process that was made a handle and its pid, its
//! terminal, the listener of its filter, and that its program is ready.

pub mod console;
mod pid_file;
pub mod report;
pub mod sd_notify;
pub mod seccomp_agent;

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use self::report::Reporter;
use crate::channel::unix_socket::{dial, send_descriptor};
use crate::log;

/// Who is told of a process.
#[derive(Debug, Clone, Default)]
pub struct Handover {
    /// The socket that gets a pidfd of it (`--pidfd-socket`).
    pub pidfd_socket: Option<PathBuf>,
    /// The file that gets its pid (`--pid-file`).
    pub pid_file: Option<PathBuf>,
    /// Who has executed this command (`--report`).
    pub reporter: Option<Arc<Reporter>>,
}

impl Handover {
    /// Tells them of the process with this pid, which `pidfd` is a handle on.
    pub fn tell_of(&self, pid: i32, pidfd: impl AsFd) -> Result<()> {
        if let Some(path) = &self.pidfd_socket {
            dial(path)
                .and_then(|socket| send_descriptor(socket, &pidfd, b"pidfd"))
                .with_context(|| format!("--pidfd-socket: {path:?}"))?;
        }
        if let Some(path) = &self.pid_file {
            pid_file::write(path, pid)?;
            log::debug(|| format!("--pid-file: {path:?}: written"));
        }
        match &self.reporter {
            Some(reporter) => reporter.made(pid, pidfd),
            None => Ok(()),
        }
    }
}
