//! Images of containers, which CRIU makes and restores.

use std::ffi::OsString;
use std::path::PathBuf;

use super::error::Error;
use super::work::{Stdio, given};

/// An image, and what CRIU is told of it (criu(8)).
#[derive(Debug, Default)]
pub struct Image {
    /// Its directory.
    pub directory: PathBuf,
    /// The directory of CRIU's log, where that is another one.
    pub work: Option<PathBuf>,
    /// Whether TCP connections belong to it.
    pub tcp_established: bool,
    /// Whether a socket of its may lead to a program outside.
    pub ext_unix_sk: bool,
    /// Whether its session and terminal are those of a caller.
    pub shell_job: bool,
    /// Whether file locks belong to it.
    pub file_locks: bool,
    /// How its control groups are restored: `soft`, `full`, `strict` or `ignore`.
    pub cgroups_mode: Option<String>,
}

/// How a container is to be dumped: what `ferrun checkpoint` takes.
#[derive(Debug, Default)]
pub struct Checkpoint {
    /// The image to be made.
    pub image: Image,
    /// An earlier image beside it, as a path from it.
    pub parent: Option<PathBuf>,
    /// Whether it goes on afterwards, and is not deleted.
    pub leave_running: bool,
}

/// How a container is to be restored: what `ferrun restore --detach` takes.
#[derive(Debug, Default)]
pub struct Restore {
    /// The directory of the bundle.
    pub bundle: PathBuf,
    /// The image.
    pub image: Image,
    /// The socket that gets the terminal.
    pub console_socket: Option<PathBuf>,
    /// The file that gets the pid of the init process.
    pub pid_file: Option<PathBuf>,
    /// The file that warnings are appended to, as JSON, instead of the runtime's log.
    pub log: Option<PathBuf>,
    /// What the program has as stdin, stdout and stderr, where these were pipes.
    pub stdio: Stdio,
}

impl Image {
    /// The one in this directory.
    pub fn directory(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), ..Self::default() }
    }

    /// The options of a command.
    pub(super) fn words(self) -> Result<Vec<OsString>, Error> {
        let mut words =
            given([("--image-path", Some(self.directory)), ("--work-path", self.work)])?;
        let flags = [
            (self.tcp_established, "--tcp-established"),
            (self.ext_unix_sk, "--ext-unix-sk"),
            (self.shell_job, "--shell-job"),
            (self.file_locks, "--file-locks"),
        ];
        words.extend(flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag.into()));
        let mode = self.cgroups_mode.into_iter();
        words.extend(mode.flat_map(|mode| ["--manage-cgroups-mode".into(), mode.into()]));
        Ok(words)
    }
}
