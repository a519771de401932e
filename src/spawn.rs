//! How an init process comes into being in the right namespaces: what is made by
//! the clone itself, what its creator joins before, what it joins itself, and
//! when a process in between is needed.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::Pid;
use oci_spec::runtime::LinuxNamespaceType as Kind;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid as ProcessPid, WaitId, WaitIdOptions, waitid};

use crate::apply::intel_rdt::{explain, tasks};
use crate::apply::namespaces::{Excursion, Opened, explain_clone, open_joined, write_time_offsets};
use crate::cgroups::{self, Entrance};
use crate::channel::{CreatorEnd, Failure, FromInit, InitEnd, ToInit};
use crate::error::InField as _;
use crate::plan::cgroup::{Group, Version};
use crate::plan::intel_rdt;
use crate::plan::namespaces::{Namespaces, clone_flag};
use crate::sys::process::{Clone3, Cloned, clone3, exit_now};

/// A process that was made.
#[derive(Debug)]
pub struct Spawned {
    /// Its pid, as the creator sees it.
    pub pid: Pid,
    /// A handle on it.
    pub pidfd: OwnedFd,
}

impl Spawned {
    /// Whether the process has ended, reaped or not.
    pub fn has_ended(&self) -> Result<bool> {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        Ok(poll(&mut fds, Some(&now)).context("poll")? > 0)
    }
}

/// The container's cgroup, as a new process enters it: the directory of version 2
/// by the clone itself, the trees of version 1 by moving itself. So it does with its
/// groups in resctrl, whose file `tasks` is of the same kind.
#[derive(Debug)]
pub struct Cgroup {
    unified: Option<OwnedFd>,
    entrance: Entrance,
    has_v1: bool,
}

impl Cgroup {
    /// Opens the group's files, and those of the groups in resctrl.
    pub fn open(group: &Group, classes: Option<&intel_rdt::Group>) -> Result<Self> {
        let has_v1 = group.directories.iter().any(|directory| directory.version == Version::V1);
        let mut entrance = Entrance::open(group)?;
        for tasks in classes.map(tasks).transpose()?.into_iter().flatten() {
            entrance.add(tasks, explain).in_field("linux.intelRdt")?;
        }
        Ok(Self { unified: cgroups::directory_fd(group)?, entrance, has_v1 })
    }

    fn unified(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(AsFd::as_fd)
    }
}

/// What is left for the new process itself to do.
#[derive(Debug, Default)]
pub struct Remaining<'a> {
    /// Trees of cgroup version 1 to enter.
    pub entrance: Option<&'a Entrance>,
    /// To join, in this order.
    pub join: Vec<Opened>,
    /// The namespaces of another process to join at once.
    pub join_process: Option<(OwnedFd, CloneFlags)>,
    /// To make new, once it is in its cgroup.
    pub cgroup_namespace: bool,
    /// To make new with these offsets, in a user namespace of its own.
    pub time_offsets: Option<String>,
    /// Whether the process has entered a user namespace that others made.
    pub joined_user_namespace: bool,
}

/// Makes the init process of a container. `child` runs in it and never returns.
pub fn container(
    namespaces: &Namespaces,
    cgroup: &Cgroup,
    creator: &CreatorEnd,
    init: InitEnd,
    child: impl FnOnce(InitEnd, Remaining<'_>) -> Result<Infallible>,
) -> Result<Spawned> {
    let mut opened = namespaces.joined.iter().map(open_joined).collect::<Result<Vec<_>>>()?;
    let mut remaining = Remaining { entrance: Some(&cgroup.entrance), ..Remaining::default() };
    let mut excursion = Excursion::default();
    let new_user = namespaces.is_new(Kind::User);
    let mut flags: u64 = namespaces.new.iter().map(|kind| clone_flag(*kind)).sum();

    // On v1 the cgroup is joined after the clone, and the namespace must be rooted there.
    if namespaces.is_new(Kind::Cgroup) && cgroup.has_v1 {
        flags &= !clone_flag(Kind::Cgroup);
        remaining.cgroup_namespace = true;
    }
    if !namespaces.time_offsets.is_empty() {
        // A clone into a new time namespace would freeze its offsets.
        flags &= !clone_flag(Kind::Time);
        if new_user {
            remaining.time_offsets = Some(namespaces.time_offsets.clone());
        } else {
            excursion.leave(Kind::Time)?;
            unshare(CloneFlags::from_bits_retain(clone_flag(Kind::Time) as i32))
                .context("unshare: linux.namespaces: time")?;
            write_time_offsets(&namespaces.time_offsets)?;
        }
    }
    if opened.iter().any(|join| join.kind == Kind::User) {
        return in_between(
            flags,
            cgroup.unified(),
            &namespaces.new,
            opened,
            remaining,
            creator,
            init,
            child,
        );
    }
    // A new user namespace has no rights over the others: the creator joins those for
    // it. So he does for pid and time, which only children enter.
    let by_creator = |join: &Opened| new_user || matches!(join.kind, Kind::Pid | Kind::Time);
    for join in opened.extract_if(.., |join| by_creator(join)) {
        excursion.leave(join.kind)?;
        join.join()?;
    }
    remaining.join = opened;
    spawn(flags, cgroup.unified(), &namespaces.new, creator, move || child(init, remaining))
}

/// Makes a process in the namespaces of the process that `target` is a handle on.
/// `flags` are those that it does not share with the caller.
pub fn beside(
    target: OwnedFd,
    flags: CloneFlags,
    cgroup: &Cgroup,
    creator: &CreatorEnd,
    init: InitEnd,
    child: impl FnOnce(InitEnd, Remaining<'_>) -> Result<Infallible>,
) -> Result<Spawned> {
    if flags.contains(CloneFlags::CLONE_NEWUSER) {
        let join = move || setns(&target, flags).context("setns");
        let remaining = Remaining {
            entrance: Some(&cgroup.entrance),
            joined_user_namespace: true,
            ..Remaining::default()
        };
        let child = move |init| child(init, remaining);
        return through(0, cgroup.unified(), &[], join, creator, init, child);
    }
    let of_children =
        CloneFlags::CLONE_NEWPID | CloneFlags::from_bits_retain(clone_flag(Kind::Time) as i32);
    let before = flags & of_children;
    if !before.is_empty() {
        setns(&target, before).context("setns")?;
    }
    let rest = flags - of_children;
    let join_process = (!rest.is_empty()).then_some((target, rest));
    let remaining =
        Remaining { entrance: Some(&cgroup.entrance), join_process, ..Remaining::default() };
    spawn(0, cgroup.unified(), &[], creator, move || child(init, remaining))
}

/// A joined user namespace: only a process inside of it may enter what belongs to
/// it, and a pid namespace takes effect for children.
#[expect(clippy::too_many_arguments, reason = "a step of `container`, cut out of it")]
fn in_between(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    new: &[Kind],
    opened: Vec<Opened>,
    mut remaining: Remaining<'_>,
    creator: &CreatorEnd,
    init: InitEnd,
    child: impl FnOnce(InitEnd, Remaining<'_>) -> Result<Infallible>,
) -> Result<Spawned> {
    let (mounts, others): (Vec<_>, Vec<_>) =
        opened.into_iter().partition(|join| join.kind == Kind::Mount);
    remaining.join = mounts;
    remaining.joined_user_namespace = true;
    let join = move || {
        let (user, others): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|join| join.kind == Kind::User);
        // With the caller's rights first, then with those inside.
        let refused: Vec<Opened> = others.into_iter().filter(|join| join.join().is_err()).collect();
        user.iter().chain(&refused).try_for_each(Opened::join)
    };
    through(flags, cgroup, new, join, creator, init, move |init| child(init, remaining))
}

/// Makes the process through another one, which runs `join` and becomes nobody's
/// parent: the new process is the creator's own child. It inherits the cgroup: from
/// inside of the user namespace none could be given that belongs to its user.
fn through(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    new: &[Kind],
    join: impl FnOnce() -> Result<()>,
    creator: &CreatorEnd,
    init: InitEnd,
    child: impl FnOnce(InitEnd) -> Result<Infallible>,
) -> Result<Spawned> {
    let first = Clone3 { flags: 0, cgroup };
    let between = match clone3(&first).map_err(|errno| explain_clone(errno, &[]))? {
        Cloned::Parent(pid, _) => pid,
        Cloned::Child => {
            creator.close_in_child();
            between(flags, new, join, init, child)
        }
    };
    let spawned = match creator.receive()? {
        Some((FromInit::Spawned(pid), Some(pidfd))) => {
            // Only now may the new process speak: its first words could overtake these.
            let _ = creator.send(&ToInit::Known);
            Ok(Spawned { pid: Pid::from_raw(pid), pidfd })
        }
        Some((FromInit::Failed(failure), _)) => Err(failure.into_error()),
        _ => bail!("the process between died"),
    };
    reap(between);
    spawned
}

/// The life of the process in between.
fn between(
    flags: u64,
    new: &[Kind],
    join: impl FnOnce() -> Result<()>,
    init: InitEnd,
    child: impl FnOnce(InitEnd) -> Result<Infallible>,
) -> ! {
    let args = Clone3 { flags: flags | libc::CLONE_PARENT as u64, cgroup: None };
    let cloned = join().and_then(|()| clone3(&args).map_err(|errno| explain_clone(errno, new)));
    let told = match cloned {
        Ok(Cloned::Child) => {
            if init.expect(&ToInit::Known).is_ok() {
                let Err(_) = child(init);
            }
            exit_now(1)
        }
        Ok(Cloned::Parent(pid, pidfd)) => init.send_with(&FromInit::Spawned(pid.as_raw()), pidfd),
        Err(error) => init.send(&FromInit::Failed(Failure::new(&error))),
    };
    exit_now(i32::from(told.is_err()))
}

fn spawn(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    new: &[Kind],
    creator: &CreatorEnd,
    child: impl FnOnce() -> Result<Infallible>,
) -> Result<Spawned> {
    match clone3(&Clone3 { flags, cgroup }).map_err(|errno| explain_clone(errno, new))? {
        Cloned::Parent(pid, pidfd) => Ok(Spawned { pid, pidfd }),
        Cloned::Child => {
            creator.close_in_child();
            let Err(_) = child();
            exit_now(1)
        }
    }
}

/// Takes the exit status of a child that is known to have ended.
fn reap(pid: Pid) {
    if let Some(pid) = ProcessPid::from_raw(pid.as_raw()) {
        let _ = rustix::io::retry_on_intr(|| waitid(WaitId::Pid(pid), WaitIdOptions::EXITED));
    }
}
