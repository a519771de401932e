//! How the process that becomes a program comes into being in the right namespaces: what
//! is made by the clone itself, what its creator joins before, what it joins itself, and
//! when a process in between is needed.
//!
//! A pid namespace is where others see a process, by /proc/PID: its root, its mounts, its
//! descriptors, and with CAP_SYS_PTRACE all that it may do. So nothing is cloned into a pid
//! namespace in which somebody may be before everything else is behind it. A process in
//! between, which they cannot see, joins and prepares all of it, gives up what the program
//! does not get, closes what is the host's, and then makes the one that stays ([`emerge`]).

use std::convert::Infallible;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Pid;
use oci_spec::runtime::LinuxNamespaceType as Kind;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{
    Pid as ProcessPid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid,
};

use crate::apply::namespaces::{
    LeftNamespaces, Opened, enter, explain_new, open_joined, write_time_offsets,
};
use crate::cgroups::{self, Entering, TasksFiles, resctrl};
use crate::channel::{CreatorEnd, FromInit, InitEnd, ToInit};
use crate::error::{Failure, InField as _};
use crate::plan::cgroup::Group;
use crate::plan::intel_rdt;
use crate::plan::namespaces::{Namespaces, clone_flag};
use crate::processes::ProcessFacts;
use crate::sys::process::{Clone3, Cloned, OneThread, clone_sibling, clone3, exit_now};

/// The new process was killed before it ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KilledAtBirth;

impl fmt::Display for KilledAtBirth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the new process was killed before it ran")
    }
}

impl std::error::Error for KilledAtBirth {}

/// Carries `make` out, with processes that are born in their cgroup, and once more if one was
/// killed at its birth. Kernels since 6.14, and older ones with the same mend, compare how often
/// cgroup.kill was written to the group of the caller and to the new one, and take a difference
/// for a kill that came during the clone (cgroup_css_set_fork of kernel/cgroup/cgroup.c).
pub fn born_alive<T>(mut make: impl FnMut(Entering) -> Result<T>) -> Result<T> {
    match make(Entering::AtBirth) {
        Err(error) if error.is::<KilledAtBirth>() => {
            crate::log::debug(|| "killed at birth: tried again, without a clone into the cgroup");
            make(Entering::ByItself)
        }
        made => made,
    }
}

/// A process that was made.
#[derive(Debug)]
pub struct Spawned {
    /// Its pid, as the creator sees it.
    pub pid: Pid,
    /// A handle on it.
    pub pidfd: OwnedFd,
    /// Whether it is in between, and another process will take its place.
    pub is_between: bool,
    /// Whether others than its creator may see it: then it may be made to say anything.
    pub is_seen: bool,
}

impl Spawned {
    /// Whether the process has ended, reaped or not.
    pub fn has_ended(&self) -> Result<bool> {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        Ok(poll(&mut fds, Some(&now)).context("poll")? > 0)
    }

    /// What it is, for the log.
    pub fn summary(&self, name: &str) -> String {
        let role = if self.is_between { "in between, to make the one that stays" } else { name };
        format!("process {}: made: {role}", self.pid)
    }

    /// Whether it was killed before it ran: it has not even touched its stack. For a child that
    /// nobody has waited for.
    pub fn was_killed_at_birth(&self) -> bool {
        match ProcessFacts::read(self.pid.as_raw()) {
            Ok(Some(facts)) if facts.is_exiting && !facts.has_run => {
                // Its end of the channel goes before it can be waited for.
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
                let ended = waitid(WaitId::PidFd(self.pidfd.as_fd()), options);
                ended.is_ok_and(|ended| ended.is_some_and(|ended| ended.killed()))
            }
            _ => false,
        }
    }

    /// What it says next, or the process that takes its place. None: the channel has ended, or
    /// the process, or it has become its program.
    pub fn hear(
        &self,
        creator: &CreatorEnd,
        has_executed: impl Fn() -> Result<bool>,
    ) -> Result<Option<(FromInit, Option<OwnedFd>)>> {
        // The one that it makes has the other end too, and would wait for ever to be known.
        if self.is_between || self.is_seen {
            creator.receive_while(|| Ok(!self.has_ended()? && !has_executed()?))
        } else {
            creator.receive()
        }
    }

    /// Takes the one that this one, in between, has made, after which this one ends. Others may
    /// speak for it by now: that it is a child of the caller's own is what proves it.
    pub fn is_succeeded_by(&mut self, pidfd: OwnedFd) -> Result<()> {
        if !self.is_between {
            bail!("Spawned out of turn from the new process");
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::PidFd(pidfd.as_fd()), options).context("the new process is no child")?;
        let pid = pid_of(&pidfd).context("the new process has no pid")?;
        if pid == self.pid {
            bail!("the process in between took its own place");
        }
        self.reap();
        *self = Self { pid, pidfd, is_between: false, is_seen: true };
        Ok(())
    }

    /// Why something failed with it.
    pub fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        if self.was_killed_at_birth() { error.context(KilledAtBirth) } else { error }
    }

    /// Gives up on it, with whatever it has made and could not tell of: that ends with the
    /// channel, since it is not known yet.
    pub fn abandon(&self, creator: CreatorEnd) {
        /// How long it may take to see the end of the channel.
        const PATIENCE: Duration = Duration::from_secs(1);
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        drop(creator);
        self.reap();
        let end = Instant::now() + PATIENCE;
        while self.is_between && Instant::now() < end {
            match waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
                Ok(Some(_)) => {}
                Ok(None) => std::thread::sleep(Duration::from_millis(1)),
                Err(_) => return,
            }
        }
    }

    /// Ends the process, and waits until it is gone: left to others it could stay a zombie,
    /// which keeps its pid namespace from ending.
    pub fn kill(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        self.reap();
    }

    /// Waits for the end of the process, which is a child.
    pub fn reap(&self) {
        if let Some(pid) = ProcessPid::from_raw(self.pid.as_raw()) {
            let _ = rustix::io::retry_on_intr(|| waitid(WaitId::Pid(pid), WaitIdOptions::EXITED));
        }
    }
}

/// The pid of the process that `pidfd` is a handle on, as the caller sees it (`Pid:` of
/// /proc/PID/fdinfo, pidfd_open(2)).
fn pid_of(pidfd: &OwnedFd) -> Option<Pid> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let file = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut buffer = [0; 512];
    let length = rustix::io::read(file, &mut buffer).ok()?;
    let text = std::str::from_utf8(buffer.get(..length)?).ok()?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()?;
    (pid > 0).then(|| Pid::from_raw(pid))
}

/// The container's groups, as a new process enters them: the directory of version 2
/// by the clone itself if it can be, the trees of version 1 by moving itself. So it does with
/// its groups in resctrl, whose file `tasks` is of the same kind.
#[derive(Debug)]
pub struct Groups {
    unified: Option<OwnedFd>,
    tasks: TasksFiles,
    /// Whether the process leaves the creator's group, in some tree, by itself.
    moves: bool,
    /// Whether somebody else puts it into its group, later.
    is_later: bool,
}

impl Groups {
    /// Opens the group's files, and those of the groups in resctrl.
    pub fn open(
        group: &Group,
        classes: Option<&intel_rdt::ClassGroup>,
        entering: Entering,
    ) -> Result<Self> {
        let unified = match entering {
            Entering::AtBirth => cgroups::directory_fd(group)?,
            Entering::ByItself => None,
        };
        let mut tasks = TasksFiles::open(group, entering)?;
        let moves = !tasks.is_empty();
        for path in classes.map(resctrl::tasks).transpose()?.into_iter().flatten() {
            tasks.add(path, resctrl::explain).in_field("linux.intelRdt")?;
        }
        Ok(Self { unified, tasks, moves, is_later: false })
    }

    /// Where systemd puts the process into its group, once it is there. It is in those in
    /// resctrl from the beginning.
    pub fn open_later(classes: Option<&intel_rdt::ClassGroup>) -> Result<Self> {
        let cgroup = Self::open(&Group::default(), classes, Entering::AtBirth)?;
        Ok(Self { is_later: true, ..cgroup })
    }

    /// The directory of version 2, where a process is cloned into it.
    pub fn unified(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(AsFd::as_fd)
    }

    /// What a process enters by itself.
    pub fn tasks(&self) -> &TasksFiles {
        &self.tasks
    }
}

/// What is left for the new process itself to do.
#[derive(Debug, Default)]
pub struct Remaining<'a> {
    /// Trees of cgroup version 1 to enter.
    pub tasks: Option<&'a TasksFiles>,
    /// To join.
    pub join: Vec<Opened>,
    /// The namespaces of another process to join at once.
    pub join_process: Option<(&'a OwnedFd, CloneFlags)>,
    /// To make new, once all is joined and the process is in its cgroup.
    pub new: Vec<Kind>,
    /// The offsets of a time namespace among the new ones, where nobody else writes them.
    pub offsets: Option<&'a str>,
    /// Whether the process has entered a user namespace that others made.
    pub joined_user_namespace: bool,
    /// Whether the process is in between: it prepares everything and then makes the one
    /// that stays, by [`emerge`].
    pub is_between: bool,
}

/// Makes the init process of a container, or the process in between that will make it.
/// `child` runs in it and never returns.
pub fn container(
    alone: OneThread,
    namespaces: &Namespaces,
    cgroup: &Groups,
    creator: &CreatorEnd,
    init: InitEnd,
    child: impl FnOnce(OneThread, InitEnd, Remaining<'_>) -> Result<Infallible>,
) -> Result<Spawned> {
    let mut opened = namespaces.joined.iter().map(open_joined).collect::<Result<Vec<_>>>()?;
    let mut remaining = Remaining {
        tasks: Some(&cgroup.tasks),
        joined_user_namespace: namespaces.is_joined(Kind::User),
        ..Remaining::default()
    };
    let mut new = namespaces.new.clone();
    if cgroup.is_later {
        // It makes the namespace when it is there.
        new.retain(|kind| *kind != Kind::Cgroup);
    }
    if namespaces.is_prepared_outside() {
        remaining.join = opened;
        remaining.new = new;
        remaining.offsets = namespaces.own_offsets();
        remaining.is_between = true;
        let birth = Birth::in_group(cgroup.unified());
        let between = spawn(alone, &birth, creator, move |alone| child(alone, init, remaining))?;
        return Ok(Spawned { is_between: true, ..between });
    }

    let mut left = LeftNamespaces::default();
    let new_user = namespaces.is_new(Kind::User);
    // Where the cgroup is entered after the clone, the namespace must be rooted there.
    if new.contains(&Kind::Cgroup) && cgroup.moves {
        new.retain(|kind| *kind != Kind::Cgroup);
        remaining.new.push(Kind::Cgroup);
    }
    if !namespaces.time_offsets.is_empty() {
        // A clone into a new time namespace would freeze its offsets.
        new.retain(|kind| *kind != Kind::Time);
        if namespaces.gets_offsets() {
            remaining.new.push(Kind::Time);
        } else if namespaces.own_offsets().is_none() {
            left.leave(Kind::Time)?;
            unshare(CloneFlags::from_bits_retain(clone_flag(Kind::Time) as i32))
                .context("unshare: linux.namespaces: time")?;
            write_time_offsets(Pid::this(), &namespaces.time_offsets)?;
        }
    }
    let flags = new.iter().map(|kind| clone_flag(*kind)).sum();
    let birth = Birth { flags, group: cgroup.unified(), new: &namespaces.new };
    if namespaces.is_joined(Kind::User) {
        // A mount namespace changes what paths mean; that is the new process's to meet.
        let mounts = opened.extract_if(.., |join| join.kind == Kind::Mount);
        remaining.join = mounts.collect();
        let offsets = namespaces.own_offsets();
        let time = offsets.map(|_| Kind::Time);
        let join = move || enter(opened, time.as_slice(), offsets);
        let child = move |alone, init| child(alone, init, remaining);
        return through(alone, &birth, join, (creator, init), child);
    }
    // A new user namespace has no rights over the others: the creator joins those for
    // it. So he does for time, which only children enter.
    for join in opened.extract_if(.., |join| new_user || join.kind == Kind::Time) {
        left.leave(join.kind)?;
        join.join()?;
    }
    remaining.join = opened;
    spawn(alone, &birth, creator, move |alone| child(alone, init, remaining))
}

/// A process whose namespaces another one is to be in.
#[derive(Debug, Clone, Copy)]
pub struct Neighbour<'a> {
    /// A handle on it.
    pub pidfd: &'a OwnedFd,
    /// The namespaces that it does not share with the caller.
    pub namespaces: CloneFlags,
}

/// Makes a process in the namespaces of another one, or the one in between.
pub fn beside(
    alone: OneThread,
    neighbour: Neighbour<'_>,
    cgroup: &Groups,
    creator: &CreatorEnd,
    init: InitEnd,
    child: impl FnOnce(OneThread, InitEnd, Remaining<'_>) -> Result<Infallible>,
) -> Result<Spawned> {
    let flags = neighbour.namespaces;
    // What only children enter, and what is entered after a user namespace of its own.
    let for_children = CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUSER
        | CloneFlags::from_bits_retain(clone_flag(Kind::Time) as i32);
    let remaining = Remaining {
        tasks: Some(&cgroup.tasks),
        join_process: (!flags.is_empty()).then_some((neighbour.pidfd, flags)),
        joined_user_namespace: flags.contains(CloneFlags::CLONE_NEWUSER),
        is_between: flags.intersects(for_children),
        ..Remaining::default()
    };
    let is_between = remaining.is_between;
    let birth = Birth::in_group(cgroup.unified());
    let spawned = spawn(alone, &birth, creator, move |alone| child(alone, init, remaining))?;
    Ok(Spawned { is_between, ..spawned })
}

/// Makes a process in new namespaces that belong to a joined user namespace, through another
/// one, which runs `join` and becomes nobody's parent: the new process is the creator's own
/// child. It inherits the cgroup: from inside of the user namespace none could be given that
/// belongs to its user.
fn through(
    alone: OneThread,
    birth: &Birth<'_>,
    join: impl FnOnce() -> Result<()>,
    (creator, init): (&CreatorEnd, InitEnd),
    child: impl FnOnce(OneThread, InitEnd) -> Result<Infallible>,
) -> Result<Spawned> {
    let first = Birth::in_group(birth.group);
    let mut process = spawn(alone, &first, creator, move |alone| {
        let args = Clone3 { flags: birth.flags | libc::CLONE_PARENT as u64, cgroup: None };
        let clone =
            || clone3(alone, &args).map_err(|errno| explain_new("clone3", errno, birth.new));
        let stays = join().and_then(|()| hand_over(&init, clone()?));
        if let Err(error) = stays {
            let _ = init.send(&FromInit::Failed(Failure::new(&error)));
            exit_now(1);
        }
        init.expect(&ToInit::Known)?;
        child(alone, init)
    })?;
    process.is_between = true;
    match process.hear(creator, || Ok(false))? {
        Some((FromInit::Spawned, Some(pidfd))) => {
            process.is_succeeded_by(pidfd)?;
            // Nobody is in its new pid namespace, or all who could see it are in the caller's.
            process.is_seen = false;
            // Only now may the new process speak: its first words could overtake these.
            let _ = creator.send(&ToInit::Known);
            Ok(process)
        }
        told => {
            let unborn = process.was_killed_at_birth();
            process.kill();
            match told {
                Some((FromInit::Failed(failure), _)) => Err(failure.into_error()),
                None if unborn => bail!(KilledAtBirth),
                _ => bail!("the process in between died"),
            }
        }
    }
}

/// Makes the process that stays, where this one is in between. Returns in the new process
/// alone, which may speak once it is [`ToInit::Known`].
pub fn emerge(alone: OneThread, init: &InitEnd) -> Result<()> {
    let cloned = clone_sibling(alone).map_err(|errno| {
        let error = anyhow::Error::new(errno).context("clone");
        match errno {
            // This process counts too.
            Errno::EAGAIN => error.context("pids.limit or RLIMIT_NPROC: no room for one more"),
            _ => error,
        }
    });
    hand_over(init, cloned?)
}

/// In the process in between: tells the creator of the process that was made, and ends.
fn hand_over(init: &InitEnd, cloned: Cloned) -> Result<()> {
    match cloned {
        Cloned::Child(_) => Ok(()),
        Cloned::Parent(_, pidfd) => {
            let told = init.send_with(&FromInit::Spawned, &pidfd);
            exit_now(i32::from(told.is_err()))
        }
    }
}

/// What a process has from its first moment.
#[derive(Debug, Clone, Copy)]
pub struct Birth<'a> {
    /// The CLONE_NEW* flags.
    flags: u64,
    /// Its cgroup of version 2; None: its parent's.
    group: Option<BorrowedFd<'a>>,
    /// The namespaces that are new, for errors.
    new: &'a [Kind],
}

impl<'a> Birth<'a> {
    /// A process in its parent's namespaces and this cgroup.
    pub fn in_group(group: Option<BorrowedFd<'a>>) -> Self {
        Self { flags: 0, group, new: &[] }
    }
}

/// Makes a process. `child` runs in it and never returns.
pub fn spawn(
    alone: OneThread,
    birth: &Birth<'_>,
    creator: &CreatorEnd,
    child: impl FnOnce(OneThread) -> Result<Infallible>,
) -> Result<Spawned> {
    let args = Clone3 { flags: birth.flags, cgroup: birth.group };
    match clone3(alone, &args).map_err(|errno| explain_new("clone3", errno, birth.new))? {
        Cloned::Parent(pid, pidfd) => Ok(Spawned { pid, pidfd, is_between: false, is_seen: false }),
        Cloned::Child(alone) => {
            creator.close_in_child();
            let Err(_) = child(alone);
            exit_now(1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{PidfdFlags, pidfd_open};
    use std::process::{Child, Command};

    fn child(program: &str, is_between: bool) -> (Child, Spawned) {
        let child = Command::new(program).arg("100").spawn().unwrap();
        let pid = ProcessPid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        (child, Spawned { pid, pidfd, is_between, is_seen: true })
    }

    #[test]
    fn only_a_child_takes_the_place_of_the_one_in_between_and_once() {
        let (_, mut between) = child("true", true);
        let parent = rustix::process::getppid().unwrap();
        let other = pidfd_open(parent, PidfdFlags::empty()).unwrap();
        let error = between.is_succeeded_by(other).unwrap_err();
        assert!(format!("{error:#}").starts_with("the new process is no child"), "{error:#}");
        let own = between.pidfd.try_clone().unwrap();
        assert!(between.is_succeeded_by(own).is_err());
        let (_, stays) = child("sleep", false);
        let pid = stays.pid;
        between.is_succeeded_by(stays.pidfd).unwrap();
        assert_eq!((between.pid, between.is_between), (pid, false));
        let (_, another) = child("sleep", false);
        assert!(between.is_succeeded_by(another.pidfd.try_clone().unwrap()).is_err());
        between.kill();
        another.kill();
    }
}
