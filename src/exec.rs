//! The caller's side of `exec`: another process in a container that is there.
//!
//! `plan::exec` decides what it is and gets; here it is made, and seen through until it is the
//! program.

use std::mem::take;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::sched::CloneFlags;
use oci_spec::runtime::{LinuxNamespaceType as Kind, Process};
use rustix::fs::{Mode, OFlags};

use crate::apply::inherited::{InitialAffinity, OomScoreAdj};
use crate::apply::process::set_scheduler;
use crate::apply::refused_program;
use crate::apply::security_module::{self, LabelWriter};
use crate::apply::stdio::give_pipes;
use crate::bundle;
use crate::cgroups::{self, Entering, systemd};
use crate::channel::gate::Verdict;
use crate::channel::{self, CreatorEnd, FromInit, ToInit};
use crate::create::init::{self, Additional};
use crate::create::spawn::{self, Neighbour, Spawned};
use crate::error::{self, OfKind as _, errno, message};
use crate::handover::seccomp_agent;
use crate::handover::{Handover, console};
use crate::host;
use crate::log;
use crate::plan::cgroup::Group;
use crate::plan::exec::{ExecPlan, ExecRequest, Inhabited, Typed, Wanted};
use crate::plan::namespaces::{clone_flag, proc_name};
use crate::plan::request::Streams;
use crate::processes::ProcessFacts;
use crate::store::{Container, Operation, Status};
use crate::sys::process::{self as kernel, OneThread};

/// What to run, and how.
#[derive(Debug, Clone)]
pub struct ExecOptions {
    /// A file that holds the process.
    pub process: Option<PathBuf>,
    /// The process by the command line, where there is no such file.
    pub typed: Typed,
    /// Cgroups below the container's, as [`Group::below`] reads them.
    pub cgroups: Vec<String>,
    /// What its descriptors are to be.
    pub streams: Streams,
    /// Who is told of the process.
    pub handover: Handover,
    /// That there is no thread which a copy of this process would lack.
    pub alone: OneThread,
}

/// Runs the process. Returns it, and the terminal that the caller serves.
pub fn exec(container: &Container, options: &ExecOptions) -> Result<(Spawned, Option<OwnedFd>)> {
    let target = container.hold_init_for(Operation::Exec)?;
    let init = container.record.init.context("container not running")?.pid;
    let record = &container.record;
    let spec = container.config()?;
    let process = match &options.process {
        Some(path) => Wanted::File(read_process(path).of_kind(error::Kind::Configuration)?),
        None => Wanted::Typed(&options.typed),
    };
    let request = ExecRequest { process, cgroups: &options.cgroups, streams: Streams::default() };
    let streams = host::with_size_of_terminal(&options.streams, request.has_terminal());
    let inhabited = Inhabited {
        spec: &spec,
        id: &record.id,
        namespaces: &record.namespaces,
        shares_user_namespace: record.namespaces.contains(&Kind::User)
            && shares_user_namespace(init)?,
        callers_keyring: record.callers_keyring,
        group: &record.group,
        is_unit: record.unit.is_some(),
    };
    let plan = ExecPlan::new(&ExecRequest { streams, ..request }, &inhabited)
        .of_kind(error::Kind::Configuration)?;
    security_module::refuse_missing(Some(&plan.process), None)?;
    let adding = Adding {
        container,
        plan: &plan,
        handover: &options.handover,
        alone: options.alone,
        target,
        init,
        labels: LabelWriter::open(Some(&plan.process))?,
        console: console::connect(Some(&plan.process))?,
        root: plan.enters_root.then(|| open_root(init)).transpose()?,
        verdict: Verdict::new()?,
    };
    log::debug(|| format!("container {:?}: init {init}", record.id));
    plan.process.pipes_owner.into_iter().for_each(give_pipes);
    kernel::ignored_signals();
    let _inherited =
        (OomScoreAdj::take(Some(&plan.process))?, InitialAffinity::take(&plan.process)?);
    // From its first moment: where the container has the caller's pid namespace it is seen.
    kernel::hide().context("prctl")?;
    spawn::born_alive(|entering| adding.add(entering))
}

/// The process that a file holds.
fn read_process(path: &Path) -> Result<Box<Process>> {
    let text = bundle::read(path).with_context(|| format!("--process: {path:?}"))?;
    let (process, warnings) =
        bundle::parse_process(&text).with_context(|| format!("--process: {path:?}"))?;
    warnings.iter().for_each(log::warn);
    Ok(process)
}

/// Whether the caller is in the user namespace of the process `init`.
fn shares_user_namespace(init: i32) -> Result<bool> {
    let inode = |process: &str| {
        let path = format!("/proc/{process}/ns/{}", proc_name(Kind::User));
        rustix::fs::stat(path.as_str()).map(|stat| stat.st_ino).with_context(|| path)
    };
    Ok(inode("self")? == inode(&init.to_string())?)
}

fn open_root(init: i32) -> Result<OwnedFd> {
    let path = format!("/proc/{init}/root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path.as_str(), flags, Mode::empty()).with_context(|| path)
}

/// A process while it is added.
struct Adding<'a> {
    container: &'a Container,
    plan: &'a ExecPlan,
    handover: &'a Handover,
    alone: OneThread,
    /// A handle on the container's init, and its pid.
    target: OwnedFd,
    init: i32,
    /// The way to the process's labels, where it has any.
    labels: Option<LabelWriter>,
    /// Who gets the terminal, where that is not the caller.
    console: Option<OwnedFd>,
    /// The root to enter, where there is no mount namespace to join.
    root: Option<OwnedFd>,
    /// Where the result of execve(2) goes.
    verdict: Verdict,
}

impl Adding<'_> {
    /// From the plan to a process that runs its program.
    fn add(&self, entering: Entering) -> Result<(Spawned, Option<OwnedFd>)> {
        let (mut spawned, creator) = self.spawn_in_place(entering)?;
        log::debug(|| spawned.summary("the new process"));
        let told = self.converse(&mut spawned, &creator).and_then(|master| {
            self.handover.tell_of(spawned.pid.as_raw(), &spawned.pidfd)?;
            Ok(master)
        });
        match told {
            Ok(master) => Ok((spawned, master)),
            Err(error) => {
                let error = spawned.explain(error);
                spawned.abandon(creator);
                Err(error)
            }
        }
    }

    /// Makes the process in its group, or in what the plan has in place of that.
    fn spawn_in_place(&self, entering: Entering) -> Result<(Spawned, CreatorEnd)> {
        let place = &self.plan.place;
        match self.spawn(Some(&place.group), entering) {
            Err(error)
                if place.else_by_systemd
                    && matches!(errno(&error), Some(libc::EACCES | libc::EPERM)) =>
            {
                log::debug(|| format!("{}: systemd is asked", message(&error)));
                self.spawn(None, entering).and_then(|spawned| self.attach(spawned))
            }
            Err(error) if place.else_beside_init && errno(&error) == Some(libc::EBUSY) => {
                log::debug(|| format!("{}: into the cgroup of init", message(&error)));
                let group = cgroups::group_of(&place.group, self.init as u32)?;
                self.spawn(Some(&group), entering)
            }
            spawned if place.is_typed => spawned.context("--cgroup"),
            spawned => spawned,
        }
    }

    /// Makes the process in this group. None: systemd is asked, and the process waits for it.
    fn spawn(&self, group: Option<&Group>, entering: Entering) -> Result<(Spawned, CreatorEnd)> {
        let classes = self.container.record.intel_rdt.as_ref();
        let cgroup = match group {
            Some(group) => spawn::Groups::open(group, classes, entering)?,
            None => spawn::Groups::open_later(classes)?,
        };
        let kinds = self.plan.namespaces.iter();
        let namespaces = kinds.fold(CloneFlags::empty(), |flags, kind| {
            flags | CloneFlags::from_bits_retain(clone_flag(*kind) as i32)
        });
        let (creator, end) = channel::pair()?;
        let given = Additional {
            labels: self.labels.as_ref(),
            root: self.root.as_ref(),
            verdict: &self.verdict,
            is_grouped_later: group.is_none(),
        };
        let neighbour = Neighbour { pidfd: &self.target, namespaces };
        let alone = self.alone;
        let spawned =
            spawn::beside(alone, neighbour, &cgroup, &creator, end, |alone, end, left| {
                init::additional(alone, self.plan, &given, left, end)
            })?;
        Ok((spawned, creator))
    }

    /// Has systemd put the new process into the container's unit.
    fn attach(&self, (spawned, creator): (Spawned, CreatorEnd)) -> Result<(Spawned, CreatorEnd)> {
        let unit = self.container.record.unit.as_ref().context("it is in no unit of systemd's")?;
        let attached = systemd::attach(unit, spawned.pid.as_raw() as u32)
            .and_then(|()| creator.send(&ToInit::Grouped));
        match attached {
            Ok(()) => Ok((spawned, creator)),
            Err(error) => {
                spawned.abandon(creator);
                Err(error)
            }
        }
    }

    /// Answers the process until it is the program. Returns the terminal, where the caller serves
    /// it.
    fn converse(&self, spawned: &mut Spawned, creator: &CreatorEnd) -> Result<Option<OwnedFd>> {
        let process = &self.plan.process;
        // Each is said once, if at all: the process may be another one's to command by now.
        let mut terminal_is_due = process.terminal.is_some();
        let mut listener_is_due = process.filter.as_ref().is_some_and(|filter| filter.notifies);
        let mut terminal = None;
        loop {
            let heard = spawned.hear(creator, || {
                Ok(self.verdict.is_executing()
                    && ProcessFacts::read(spawned.pid.as_raw())?
                        .is_some_and(|now| now.has_executed))
            })?;
            match heard {
                Some((FromInit::Spawned, Some(pidfd))) => {
                    spawned.is_succeeded_by(pidfd)?;
                    log::debug(|| spawned.summary("the new process"));
                    terminal_is_due = false;
                    if process.gets_scheduler_by_creator() {
                        set_scheduler(process, spawned.pid.as_raw())?;
                    }
                    // Where it has died over something, it has said so, and that is read next.
                    let _ = creator.send(&ToInit::Known);
                }
                None if spawned.is_between => bail!("the process in between died"),
                None => {
                    self.verdict.read(|errno| {
                        let root = open_root(self.init).ok();
                        refused_program::explain(root.as_ref(), process, errno)
                    })?;
                    log::debug(|| format!("process {}: the program was executed", spawned.pid));
                    return Ok(terminal);
                }
                Some((FromInit::Console, Some(master))) if take(&mut terminal_is_due) => {
                    terminal = console::deliver(self.console.as_ref(), master)?;
                }
                Some((FromInit::Listener, Some(listener))) if take(&mut listener_is_due) => {
                    let pid = spawned.pid.as_raw();
                    seccomp_agent::hand_over(self.container, pid, Status::Running, &listener)?;
                    creator.send(&ToInit::ListenerTaken)?;
                }
                Some((FromInit::Failed(failure), _)) => return Err(failure.into_error()),
                Some((other, _)) => bail!("{other:?} out of turn from the new process"),
            }
        }
    }
}
