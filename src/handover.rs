//! What callers ask for of a process that was made: a handle on it, and its pid in a file.

use std::path::PathBuf;

use anyhow::Result;

use crate::console::send_pidfd;
use crate::log;
use crate::pid_file;
use crate::spawn::Spawned;

/// Who is told of a process.
#[derive(Debug, Clone, Default)]
pub struct Handover {
    /// The socket that gets a pidfd of it (`--pidfd-socket`).
    pub pidfd_socket: Option<PathBuf>,
    /// The file that gets its pid (`--pid-file`).
    pub pid_file: Option<PathBuf>,
}

impl Handover {
    /// Tells them.
    pub fn tell_of(&self, process: &Spawned) -> Result<()> {
        if let Some(path) = &self.pidfd_socket {
            send_pidfd(path, &process.pidfd)?;
        }
        if let Some(path) = &self.pid_file {
            pid_file::write(path, process.pid.as_raw())?;
            log::debug(|| format!("--pid-file: {path:?}: written"));
        }
        Ok(())
    }
}
