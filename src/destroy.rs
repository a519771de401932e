//! Removing a container, from its record alone, in whatever state it was left.
//!
//! The one way to undo: `create` uses it when it fails, `delete` and `run` at the
//! end, `delete --force` after a creator that was killed. Each step takes what
//! is not there for done, so it can be cut short and repeated. The directory goes
//! last: while it is there, somebody still knows what to look for.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::apply::{hooks, intel_rdt, mounts};
use crate::cgroups;
use crate::error::InField as _;
use crate::log;
use crate::resolve;
use crate::state::{CONFIG, Container, RECORD, Status, open_process};

/// How long a killed process may take to end.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// How long an init process may live on after its creator was killed.
const LAST_BREATH: Duration = Duration::from_secs(2);

/// Kills what is left of a container and removes everything of it.
pub fn destroy(container: &Container) -> Result<()> {
    stop_creator(container)?;
    stop_processes(container)?;
    if let Some(group) = &container.record.intel_rdt {
        intel_rdt::remove(group, &container.record.id).in_field("linux.intelRdt")?;
    }
    unmount(container)?;
    let state = container.record.hook_state().json(Status::Stopped, 0);
    hooks::run_all(&container.record.poststop, &state);
    remove_directory(&container.directory)
}

/// Takes back what a failed create has made, from within it. What cannot be taken
/// back is logged; its record stays for `delete --force`.
pub fn undo_create(mut container: Container) {
    // The creator is this process.
    container.record.creator = None;
    if container.record.init.is_none() {
        // Nothing was ever in the group but what others have put there.
        let group = std::mem::take(&mut container.record.group);
        if let Err(error) = cgroups::remove_unused(&group, Duration::ZERO) {
            log::warn(format!("while cleaning up: {error:#}"));
        }
    }
    if let Err(error) = destroy(&container) {
        log::warn(format!("while cleaning up: {error:#}"));
    }
}

/// Removes a directory whose record was never written: nothing else was made.
pub fn remove_directory(directory: &Path) -> Result<()> {
    // Most hold these alone, and trying is cheaper than looking.
    for name in [CONFIG, RECORD] {
        let _ = fs::remove_file(directory.join(name));
    }
    let removed = fs::remove_dir(directory).or_else(|_| fs::remove_dir_all(directory));
    match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.with_context(|| format!("remove {directory:?}")),
    }
}

/// A create that is still at work would go on making what is removed here.
fn stop_creator(container: &Container) -> Result<()> {
    let Some(creator) = container.record.creator else { return Ok(()) };
    if creator.pid == std::process::id() as i32 || container.record.boot != crate::state::boot_id()
    {
        return Ok(());
    }
    match open_process(creator)? {
        Some(process) => kill(&process).context("the process that creates the container"),
        None => Ok(()),
    }
}

/// Kills init, and with it or after it everything else in the container, and takes
/// the cgroup away.
fn stop_processes(container: &Container) -> Result<()> {
    let group = &container.record.group;
    if container.record.init.is_none() {
        // Nobody knows whether the group is this container's: another one may have been in it
        // already. An init that was made and not recorded is dying with its creator.
        return cgroups::remove_unused(group, LAST_BREATH).map(drop);
    }
    if let Some(init) = container.open_init()? {
        // A frozen process cannot die of a signal on cgroup v1.
        let _ = cgroups::thaw(group);
        kill(&init).context("the init process")?;
    }
    // Mostly everything has ended with init, and nobody need be looked for.
    if cgroups::remove_unused(group, Duration::ZERO)? {
        return Ok(());
    }
    cgroups::kill_all(group)?;
    cgroups::remove(group)
}

/// Sends SIGKILL and waits for the end.
fn kill(process: &OwnedFd) -> Result<()> {
    match pidfd_send_signal(process, Signal::KILL) {
        Ok(()) => {}
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(errno) => return Err(errno).context("kill"),
    }
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    let ended = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&PATIENCE))).context("poll")?;
    if ended == 0 {
        bail!("does not end although it was killed");
    }
    // If it is our own child; else whoever is its parent does it.
    let _ = waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    Ok(())
}

/// Takes away the mounts of a container without a mount namespace of its own.
fn unmount(container: &Container) -> Result<()> {
    if container.record.mounts.is_empty() {
        return Ok(());
    }
    let rootfs = &container.record.rootfs;
    let root = match resolve::root(rootfs) {
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        root => root.with_context(|| format!("{rootfs:?}"))?,
    };
    for mount in container.record.mounts.iter().rev() {
        mounts::unmount(&root, &mount.target, mount.before)
            .with_context(|| format!("{:?} in {rootfs:?}", mount.target))?;
    }
    Ok(())
}
