//! Signals to the processes of a container.

use anyhow::{Context as _, Error, Result};
use nix::errno::Errno;

use crate::cgroups;
use crate::error::Kind;
use crate::log;
use crate::store::{Container, Operation, Status};
use crate::sys;

/// Sends a signal, by its number, to the init process. SIGKILL ends all others with it.
pub fn send(container: &Container, number: i32) -> Result<()> {
    let status = container.status()?;
    let kills_others = number == libc::SIGKILL && !container.record.own_pids;
    if kills_others && status == Status::Stopped {
        return kill_left(container);
    }
    status.check(Operation::Kill)?;
    let Some(init) = container.open_init()? else { return Err(not_running()) };
    let group = &container.record.group;
    log::debug(|| {
        let pid = container.record.init.map_or(0, |init| init.pid);
        format!("signal {number} to init, process {pid}, of a container that is {}", status.name())
    });
    match sys::process::pidfd_send_signal(&init, number) {
        Ok(()) => {}
        Err(Errno::ESRCH) => return Err(not_running()),
        Err(errno) => return Err(errno).context("kill"),
    }
    if kills_others {
        log::debug(|| format!("SIGKILL to all in {}", group.paths()));
        // The others do not end with init.
        cgroups::kill_all(group)?;
    } else if number == libc::SIGKILL
        && (status == Status::Paused || cgroups::has_freezers_below(group)?)
    {
        log::debug(|| format!("{}: thawed, so that who is frozen can die", group.paths()));
        // On cgroup v1 a frozen process cannot die.
        cgroups::thaw_all(group)?;
    }
    Ok(())
}

fn not_running() -> Error {
    Kind::WrongState.error("container not running")
}

/// Also what the end of init has left behind; nothing left is no error.
pub fn send_to_all(container: &Container, number: i32) -> Result<()> {
    if number == 0 {
        return Ok(());
    }
    let group = cgroups::kept(&container.record.group, &container.directory)?;
    let signal = rustix::process::Signal::from_named_raw(number)
        .with_context(|| format!("--all: signal {number} has no name"))?;
    log::debug(|| format!("signal {number} to all in {}", group.paths()));
    cgroups::signal_all(&group, signal)
}

/// Ends the processes that do not end with init, and have not.
fn kill_left(container: &Container) -> Result<()> {
    let left = cgroups::kept(&container.record.group, &container.directory)?;
    if cgroups::processes(&left)?.is_empty() {
        return Err(not_running());
    }
    cgroups::kill_all(&left)
}
