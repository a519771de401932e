//! Removing a container, from its record alone, in whatever state it was left.
//!
//! The one way to undo: `create` uses it when it fails, `delete` and `run` at the
//! end, `delete --force` after a creator that was killed. Each step takes what
//! is not there for done, so it can be cut short and repeated. The directory goes
//! last: while it is there, somebody still knows what to look for.
//!
//! A group is killed for a container only where that is proven: our own record says that
//! its init was put there and nobody has taken the group since; or, for what others have
//! recorded, its init is in it now; or the group bears the container's mark.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::apply::{hooks, mounts};
use crate::cgroups::systemd::Buses;
use crate::cgroups::{self, resctrl, systemd};
use crate::channel::gate::GATE;
use crate::error::{InField as _, Kind, errno, message};
use crate::host;
use crate::log;
use crate::plan::cgroup::{CgroupAccess, Group, Layout};
use crate::plan::request::{CgroupMaker, Cgroups};
use crate::processes::open_process;
use crate::resolve;
use crate::store::{
    CONFIG, Container, Foreign, Operation, RECORD, Record, Remembered, Status, Store,
};
use crate::sys::process::send_signal;

/// How long a killed process may take to end: so often this long.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
const ATTEMPTS: u32 = 100;

/// How long an init process may live on after its creator was killed.
const LAST_BREATH: Duration = Duration::from_secs(2);

/// Ends and removes the container `id`, or what is left of one. Without `force` it must have
/// stopped, or, unless `is_strict`, not have been started. Groups of others' records are looked
/// for as `cgroups` and `buses` say.
pub fn delete(
    store: &Store,
    id: &str,
    force: bool,
    is_strict: bool,
    (cgroups, buses): (Cgroups, &Buses),
) -> Result<()> {
    let container = match force {
        true => match store.find(id)? {
            Remembered::Own(container) => container,
            Remembered::Foreign(directory, foreign) => {
                // Its group is that of a file system, whoever makes new ones.
                let cgroups = Cgroups { maker: CgroupMaker::Runtime, ..cgroups };
                let host = host::gather(cgroups, buses)?;
                let (layout, access) = (&host.cgroups, &cgroups.access(&host));
                return destroy_foreign(&directory, &foreign, layout, access)
                    .with_context(|| format!("container {id:?} {}", foreign.maker));
            }
            // Cut short before it was written down, and so before anything was made.
            Remembered::Begun(directory) => return remove_directory(&directory),
            Remembered::None => return Ok(()),
        },
        false => store.load(id)?,
    };
    let mut may_live = true;
    if !force {
        let status = container.status()?;
        may_live = status != Status::Stopped;
        if let Err(error) = status.check(Operation::Delete) {
            if status == Status::Creating {
                return Err(error);
            }
            return Err(not_stopped(id, status));
        }
        if is_strict && status == Status::Created {
            return Err(not_stopped(id, status));
        }
    }
    match end(&container, may_live) {
        // Somebody else deletes it too, and was faster.
        Err(error) if force && errno(&error) == Some(libc::ENOENT) => Ok(()),
        destroyed => destroyed,
    }
}

fn not_stopped(id: &str, status: Status) -> Error {
    let name = status.name();
    Kind::WrongState.error(format!("cannot delete container {id} that is not stopped: {name}"))
}

/// Kills what is left of a container and removes everything of it.
pub fn destroy(container: &Container) -> Result<()> {
    end(container, true)
}

/// The same, where it may be known that init does not live.
fn end(container: &Container, may_live: bool) -> Result<()> {
    stop_creator(container)?;
    // He may have gone on from what was read of the container until he was stopped.
    let now = container.record.creator.map(|_| container.as_recorded_now());
    let container = now.as_ref().unwrap_or(container);
    stop_processes(container, may_live)?;
    forget(container)
}

/// Takes back what a failed create has made, from within it. What cannot be taken
/// back is logged; its record stays for `delete --force`.
pub fn undo_create(mut container: Container, cgroup: cgroups::CreatedGroups) {
    // The creator is this process.
    container.record.creator = None;
    let stopped = stop_created(&container, cgroup);
    // Deleted before it was written down, its ID may be another one's by now.
    let is_replaced = container.is_replaced();
    warn(stopped.and_then(|()| if is_replaced { Ok(()) } else { forget(&container) }));
}

/// Destroys a created container for which something else has failed.
pub fn after_failure(container: &Container) {
    warn(destroy(container));
}

fn warn(done: Result<()>) {
    if let Err(error) = done {
        log::warn(format!("while cleaning up: {}", message(&error)));
    }
}

/// Ends what create has begun, and leaves alone what was there before.
fn stop_created(container: &Container, cgroup: cgroups::CreatedGroups) -> Result<()> {
    let group = &container.record.group;
    if let Some(init) = container.open_init()? {
        kill_init(container, &init)?;
    }
    if container.record.unit.is_some() {
        stop_unit(container)?;
        return cgroup.undo();
    }
    // Before there was an init, only others can be in the group.
    if container.record.init.is_some() {
        cgroups::kill_all(group)?;
        cgroups::remove(&cgroup.part_of(group)?)?;
    } else {
        // What a process in between has made, and could not tell of, ends with the channel.
        cgroups::remove_unused(&cgroup.part_of(group)?, LAST_BREATH)?;
    }
    cgroup.undo()
}

/// Ends the container that another program has recorded in `directory`, or nobody can
/// tell who, as far as it is proven to be the container. If anything may be left, an
/// error says what, and the record stays.
pub fn destroy_foreign(
    directory: &Path,
    foreign: &Foreign,
    layout: &Layout,
    access: &CgroupAccess,
) -> Result<()> {
    let is_of_ferrun = foreign.maker.is_ferrun();
    let path = directory.join(CONFIG);
    let config = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        config => Some(config.with_context(|| format!("{path:?}"))?),
    };
    if foreign.guesses_group() && config.is_none() {
        // The copy is there before anything is made.
        return match foreign.maker.is_cut_short() {
            true => remove_directory(directory),
            false => {
                bail!("nothing tells what belongs to it; {directory:?} has to be removed by hand")
            }
        };
    }
    let group = foreign.group(config.as_deref(), layout, access)?;
    let record = Record { group, ..foreign.record.clone() };
    let container = Container { directory: directory.to_owned(), record };
    if foreign.guesses_group() {
        stop_guessed(&container)?;
    } else {
        stop_creator(&container)?;
        stop_proven(&container)?;
    }
    if !is_of_ferrun {
        log::warn("it was not created by ferrun: its poststop hooks are not called");
    }
    forget(&container)
}

/// What is left of a container whose processes have ended.
fn forget(container: &Container) -> Result<()> {
    if let Some(group) = &container.record.intel_rdt {
        resctrl::remove(group, &container.record.id).in_field("linux.intelRdt")?;
    }
    unmount(container)?;
    let state = container.record.identity().for_hooks(Status::Stopped, 0);
    hooks::run_all(&container.record.poststop, &state, &container.record.bundle);
    remove_directory(&container.directory)
}

/// Removes a directory whose record was never written: nothing else was made.
pub fn remove_directory(directory: &Path) -> Result<()> {
    // Most hold these alone, and trying is cheaper than looking. One that `run` made has no gate.
    let without = |names: &[&str]| {
        for name in names {
            let _ = fs::remove_file(directory.join(name));
        }
        fs::remove_dir(directory)
    };
    let removed = without(&[CONFIG, RECORD])
        .or_else(|_| without(&[GATE]))
        .or_else(|_| fs::remove_dir_all(directory));
    log::debug(|| format!("record {directory:?}: removed"));
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.with_context(|| format!("remove {directory:?}")),
    }
}

/// A create that is still at work would go on making what is removed here.
fn stop_creator(container: &Container) -> Result<()> {
    let Some(creator) = container.record.creator else { return Ok(()) };
    if creator.pid == std::process::id() as i32 || !container.is_of_this_boot()? {
        return Ok(());
    }
    match open_process(creator)? {
        // It may have ended its work meanwhile and be at another one: `run` waits for the program.
        Some(_) if container.as_recorded_now().record.creator.is_none() => Ok(()),
        Some(process) => {
            log::debug(|| format!("process {}: creates the container: killed", creator.pid));
            kill(&process, || {}).context("the process that creates the container")
        }
        None => Ok(()),
    }
}

/// Kills init, and with it or after it everything else in the container, and takes
/// the cgroup away.
fn stop_processes(container: &Container, may_live: bool) -> Result<()> {
    let open_init = || if may_live { container.open_init() } else { Ok(None) };
    let group = &container.record.group;
    if container.record.restored {
        // CRIU traces what it restores, and is in the group with it. Cut short it may wait for
        // ever for one of them, which has ended and which nobody else can wait for then.
        cgroups::kill_all(&cgroups::kept(group, &container.directory)?)?;
    }
    if container.record.unit.is_some() {
        if let Some(init) = open_init()? {
            kill_init(container, &init)?;
        }
        return stop_unit(container);
    }
    if container.record.init.is_none() {
        log::debug(|| "no init is on record");
        // An init that was made and not recorded is dying with its creator.
        if cgroups::remove_unused(group, LAST_BREATH)? {
            return Ok(());
        }
        // Another one may have been in the group already, and then it bears no mark of ours.
        let marked = cgroups::marked(group, &container.directory)?;
        cgroups::kill_all(&marked)?;
        cgroups::remove(&marked)?;
        return cgroups::remove_unused(group, Duration::ZERO).map(drop);
    }
    if let Some(init) = open_init()? {
        kill_init(container, &init)?;
    }
    // Mostly everything has ended with init, and nobody need be looked for.
    if cgroups::remove_unused(group, Duration::ZERO)? {
        return Ok(());
    }
    let kept = cgroups::kept(group, &container.directory)?;
    cgroups::kill_all(&kept)?;
    cgroups::remove(&kept)
}

/// Ends whatever is left in the unit that holds the container, and the unit. The group is
/// recorded once the unit is started, so that it is never another's of the same name.
fn stop_unit(container: &Container) -> Result<()> {
    let Record { group, unit, .. } = &container.record;
    let Some(unit) = unit else { return Ok(()) };
    // A group that systemd has made anew for another unit of the name bears no mark of ours.
    let kept = cgroups::marked(group, &container.directory)?;
    cgroups::kill_all(&kept)?;
    let is_gone = || kept.directories.iter().all(|directory| !directory.path.exists());
    if let Err(error) = systemd::stop(unit, &container.unit_mark(), is_gone) {
        // It goes with its last process anyhow, only later, and takes its group along. Without
        // that systemd would not notice.
        log::warn(message(&error));
        return Ok(());
    }
    cgroups::remove(&kept)
}

/// The same by the record of another program: what it calls init has to be in the group,
/// or known by its boot, and the group has to hold it or bear the container's mark.
fn stop_proven(container: &Container) -> Result<()> {
    let Record { group, init, boot, .. } = &container.record;
    let mut proven = cgroups::marked(group, &container.directory)?;
    if let (Some(process), Some(init)) = (container.open_init()?, init) {
        let pid = init.pid;
        let holding = cgroups::holding(group, pid)?;
        if holding.directories.is_empty() && boot.is_empty() {
            bail!("process {pid} seems to be its init, but is not in its cgroup");
        }
        proven.directories.extend(holding.directories);
        kill_init(container, &process)?;
    }
    cgroups::kill_all(&proven)?;
    cgroups::remove(&proven)?;
    remove_if_empty(group, if init.is_none() { LAST_BREATH } else { Duration::ZERO })
}

/// The same where only config.json tells of a group, which others may have asked for too.
fn stop_guessed(container: &Container) -> Result<()> {
    let Container { directory, record: Record { group, .. } } = container;
    if !group.directories.iter().any(|found| found.path.exists()) {
        bail!(
            "nothing tells whether its program lives; if not, {directory:?} has to be removed by hand"
        );
    }
    let marked = cgroups::marked(group, directory)?;
    cgroups::kill_all(&marked)?;
    cgroups::remove(&marked)?;
    remove_if_empty(group, Duration::ZERO)
}

/// Removes a group of which nothing proves whose it is.
fn remove_if_empty(group: &Group, patience: Duration) -> Result<()> {
    if cgroups::remove_unused(group, patience)? {
        return Ok(());
    }
    let processes = cgroups::processes(group)?;
    let path = group.directories.iter().map(|directory| &directory.path).find(|path| path.exists());
    bail!(
        "its cgroup {:?} holds processes that nothing proves to be the container's: {processes:?}",
        path.unwrap_or(&Path::new("").to_owned())
    )
}

fn kill_init(container: &Container, init: &OwnedFd) -> Result<()> {
    log::debug(|| "the init process: killed");
    // A frozen process cannot die of a signal on cgroup v1, and somebody may freeze it again.
    let let_go = || {
        if let Err(error) = cgroups::thaw_all(&container.record.group) {
            log::debug(|| format!("{}: killed all the same", message(&error)));
        }
        end_dump(container);
    };
    kill(init, let_go).context("the init process")
}

/// Ends a CRIU that traces init, where who had it make an image was killed: it may wait for one
/// of the processes, which has ended and which nobody else can wait for then.
fn end_dump(container: &Container) {
    let Some(init) = container.record.init else { return };
    let status = fs::read_to_string(format!("/proc/{}/status", init.pid)).unwrap_or_default();
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:\t"));
    let Some(tracer) = tracer.and_then(|pid| pid.parse::<i32>().ok()).filter(|pid| *pid != 0)
    else {
        return;
    };
    let words = fs::read(format!("/proc/{tracer}/cmdline")).unwrap_or_default();
    if words.split(|byte| *byte == 0).any(|word| word == b"swrk") {
        log::debug(|| format!("process {tracer}: CRIU, which traces init: killed"));
        let _ = send_signal(tracer, libc::SIGKILL);
    }
}

/// Sends SIGKILL and waits for the end, with `meanwhile` every now and then.
fn kill(process: &OwnedFd, meanwhile: impl Fn()) -> Result<()> {
    match pidfd_send_signal(process, Signal::KILL) {
        Ok(()) => {}
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(errno) => return Err(errno).context("kill"),
    }
    if !becomes_readable(process, meanwhile)? {
        bail!("does not end although it was killed");
    }
    // If it is our own child; else whoever is its parent does it.
    let _ = waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    Ok(())
}

/// Waits until a handle can be read, which that of a process can at its end. Says whether it
/// came to that.
fn becomes_readable(handle: &OwnedFd, meanwhile: impl Fn()) -> Result<bool> {
    let mut fds = [PollFd::new(handle, PollFlags::IN)];
    for _ in 0..ATTEMPTS {
        meanwhile();
        if rustix::io::retry_on_intr(|| poll(&mut fds, Some(&PATIENCE))).context("poll")? > 0 {
            return Ok(true);
        }
    }
    Ok(false)
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
        log::debug(|| format!("{:?} in {rootfs:?}: unmounted", mount.target));
        mounts::unmount(&root, &mount.target, mount.before)
            .with_context(|| format!("{:?} in {rootfs:?}", mount.target))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn what_is_done_meanwhile_is_done_again_until_the_end() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let times = Cell::new(0);
        let thaw = || {
            times.set(times.get() + 1);
            if times.get() == 3 {
                rustix::io::write(&write, b"x").unwrap();
            }
        };
        assert!(becomes_readable(&read, thaw).unwrap());
        assert_eq!(times.get(), 3);
    }
}
