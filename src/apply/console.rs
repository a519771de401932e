//! The terminal of a container: the pair in its own devpts.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FileType, OFlags, ResolveFlags, fstat};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{OptionalActions, OutputModes, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

use crate::apply::mounts::{attach, clone_for_itself};
use crate::plan::process::Terminal;
use crate::resolve::{self, Target};
use crate::sys;

/// A pair of pseudo-terminal devices.
#[derive(Debug)]
pub struct Pair {
    /// Where the terminal is served from.
    pub master: OwnedFd,
    /// What becomes stdin, stdout and stderr.
    pub slave: OwnedFd,
}

/// Opens a pair in the devpts below `root`. The slave comes from the master
/// itself: a name could be exchanged.
pub fn open(root: impl AsFd, terminal: &Terminal) -> Result<Pair> {
    let path = Path::new("/dev/pts/ptmx");
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let master = resolve::in_root(root, path, flags, ResolveFlags::NO_SYMLINKS)
        .context("/dev/pts/ptmx: a terminal needs a devpts at /dev/pts")?;
    let stat = fstat(&master).context("fstat")?;
    let is_ptmx = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(5, 2);
    if !is_ptmx {
        bail!("/dev/pts/ptmx: is no terminal multiplexer");
    }
    unlockpt(&master).context("unlock the terminal")?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags).context("open the terminal")?;
    if terminal.keeps_line_ends {
        let mut modes = tcgetattr(&slave).context("tcgetattr")?;
        modes.output_modes.remove(OutputModes::ONLCR);
        tcsetattr(&slave, OptionalActions::Now, &modes).context("tcsetattr")?;
    }
    if let Some((rows, columns)) = terminal.size {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&slave, size).context("set the size of the terminal")?;
    }
    Ok(Pair { master, slave })
}

/// Makes the terminal appear as /dev/console below `root`.
pub fn bind(root: impl AsFd, slave: impl AsFd) -> Result<()> {
    let place = resolve::make(root, Path::new("/dev/console"), Target::File)?;
    attach(clone_for_itself(slave, false)?, place).context("/dev/console")
}

/// Makes stdin the controlling terminal of the calling session leader.
pub fn control() -> Result<()> {
    sys::terminal::set_controlling_terminal(rustix::stdio::stdin()).context("TIOCSCTTY")
}

/// Makes the terminal stdin, stdout and stderr.
pub fn take(slave: impl AsFd) -> Result<()> {
    rustix::stdio::dup2_stdin(&slave).context("dup2")?;
    rustix::stdio::dup2_stdout(&slave).context("dup2")?;
    rustix::stdio::dup2_stderr(&slave).context("dup2")
}
