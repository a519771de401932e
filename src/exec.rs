//! The caller's side of `exec`: another process in a container that is there.
//!
//! It gets every restriction that the container's own program has, unless it is
//! told otherwise: filter, capabilities, limits, groups, cgroup.

use std::mem::take;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use nix::sched::CloneFlags;
use oci_spec::runtime::{Capabilities, Capability, LinuxNamespaceType as Kind, Process, Spec};
use rustix::fs::{Mode, OFlags};

use crate::apply::process::{InitialAffinity, OomScoreAdj, give_pipes, set_scheduler};
use crate::bundle;
use crate::cgroups::{self, systemd};
use crate::channel::{self, CreatorEnd, FromInit, ToInit};
use crate::console;
use crate::create::hide;
use crate::error::{errno, message};
use crate::foreground;
use crate::gate::Verdict;
use crate::init::{self, Additional};
use crate::log;
use crate::pid_file;
use crate::plan::Policies;
use crate::plan::cgroup::Group;
use crate::plan::namespaces::{Namespaces, clone_flag, proc_name};
use crate::plan::numbers::parse_id;
use crate::plan::process::{Field, ProcessPlan};
use crate::processes::ProcessFacts;
use crate::refused_program;
use crate::seccomp_agent;
use crate::security_module::{self, Attributes};
use crate::spawn::{self, Spawned};
use crate::state::{Container, Operation, Status};
use crate::sys::process as kernel;

/// What to run, and how.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A file that holds the process.
    pub process: Option<PathBuf>,
    /// The program and its arguments, where there is no such file.
    pub args: Vec<String>,
    /// Another working directory than the container's.
    pub cwd: Option<String>,
    /// Variables besides the container's.
    pub env: Vec<String>,
    /// A terminal.
    pub tty: bool,
    /// `UID[:GID]`.
    pub user: Option<String>,
    /// Groups besides the container's.
    pub additional_gids: Vec<u32>,
    /// Capabilities besides the container's.
    pub capabilities: Vec<String>,
    /// Set no_new_privs.
    pub no_new_privileges: bool,
    /// Another AppArmor profile than the container's.
    pub apparmor: Option<String>,
    /// Another SELinux label than the container's.
    pub label: Option<String>,
    /// Cgroups below the container's, as [`Group::below`] reads them.
    pub cgroups: Vec<String>,
    /// Who gets the terminal.
    pub console_socket: Option<PathBuf>,
    /// Who gets a pidfd of the process.
    pub pidfd_socket: Option<PathBuf>,
    /// Where to write the pid.
    pub pid_file: Option<PathBuf>,
    /// Descriptors after stdio that the program gets.
    pub preserved: u32,
    /// Whether the caller serves the terminal himself.
    pub serves_terminal: bool,
}

/// Runs the process. Returns it, and the terminal that the caller serves.
pub fn exec(container: &Container, options: &Options) -> Result<(Spawned, Option<OwnedFd>)> {
    let target = container.hold_init_for(Operation::Exec)?;
    let spec = container.config()?;
    let (mut process, field) = choose(&spec, options)?;
    keep_confined(&mut process, spec.process().as_ref());
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let mut plan = ProcessPlan::plan(&process, seccomp, field)?;
    let policies = Policies::plan(&spec)?;
    security_module::refuse_missing(Some(&plan), None)?;
    let attributes = Attributes::open(Some(&plan))?;
    if options.serves_terminal && plan.terminal.is_some() {
        plan.take_size_of_caller(foreground::own_size());
    }
    let console = match (&options.console_socket, plan.terminal.is_some()) {
        (Some(_), false) => bail!("--console-socket: given, but the process has no terminal"),
        (None, true) if !options.serves_terminal => {
            bail!(
                "terminal: cannot allocate tty if ferrun will detach without setting console socket"
            )
        }
        (Some(path), true) => Some(console::connect_to(path)?),
        (None, _) => None,
    };
    let init = container.record.init.context("container not running")?;
    let flags = namespaces_to_join(container, init.pid)?;
    log::debug(|| format!("container {:?}: init {}", container.record.id, init.pid));
    let planned = Namespaces::plan(spec.linux().as_ref())?;
    // One that was not made for the container, the caller's or a joined one, has another root:
    // the container's was entered by chroot.
    let root = (!planned.is_new(Kind::Mount)).then(|| open_root(init.pid)).transpose()?;
    if let Some(maps) = planned.id_maps
        && let Some(uid) = maps.user_outside(plan.user.uid)
    {
        give_pipes(uid);
    }
    let verdict = Verdict::new()?;
    kernel::ignored_signals();
    let _inherited = (OomScoreAdj::take(Some(&plan))?, InitialAffinity::take(&plan)?);
    // From its first moment: where the container has the caller's pid namespace it is seen.
    hide()?;
    // No group: systemd is asked, and the process waits for it.
    let spawn = |group: Option<&Group>, entering| -> Result<(Spawned, CreatorEnd)> {
        let classes = container.record.intel_rdt.as_ref();
        let cgroup = match group {
            Some(group) => spawn::Cgroup::open(group, classes, entering)?,
            None => spawn::Cgroup::open_later(classes)?,
        };
        let (creator, end) = channel::pair()?;
        let given = Additional {
            preserved: options.preserved,
            attributes: attributes.as_ref(),
            root: root.as_ref(),
            keyring: (!container.record.callers_keyring).then_some(&container.record.id),
            policies: &policies,
            verdict: &verdict,
            is_grouped_later: group.is_none(),
        };
        let spawned = spawn::beside(&target, flags, &cgroup, &creator, end, |end, remaining| {
            init::additional(&plan, &given, remaining, end)
        })?;
        Ok((spawned, creator))
    };
    let group = container.record.group.below(&options.cgroups).context("--cgroup")?;
    spawn::born_alive(|entering| {
        let (mut spawned, creator) = match spawn(Some(&group), entering) {
            // An ordinary user in a session of his own: the group above both is root's.
            Err(error)
                if matches!(errno(&error), Some(libc::EACCES | libc::EPERM))
                    && container.record.unit.is_some()
                    && options.cgroups.is_empty() =>
            {
                log::debug(|| format!("{}: systemd is asked", message(&error)));
                spawn(None, entering).and_then(|spawned| attach(container, spawned))?
            }
            // The container has put groups of its own below, so the kernel lets nothing
            // into this one: then into the one that its init is in now.
            Err(error) if errno(&error) == Some(libc::EBUSY) && options.cgroups.is_empty() => {
                log::debug(|| format!("{}: into the cgroup of init", message(&error)));
                spawn(Some(&cgroups::group_of(&group, init.pid as u32)?), entering)?
            }
            spawned if options.cgroups.is_empty() => spawned?,
            spawned => spawned.context("--cgroup")?,
        };
        log::debug(|| spawned.summary("the new process"));
        let console = console.as_ref();
        match finish(container, options, &plan, &mut spawned, &creator, &verdict, console) {
            Ok(master) => Ok((spawned, master)),
            Err(error) => {
                let error = spawned.explain(error);
                spawned.abandon(creator);
                Err(error)
            }
        }
    })
}

/// Has systemd put the new process into the container's unit.
fn attach(
    container: &Container,
    (spawned, creator): (Spawned, CreatorEnd),
) -> Result<(Spawned, CreatorEnd)> {
    let unit = container.record.unit.as_ref().context("it is in no unit of systemd's")?;
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

/// From a process that was made to one that runs its program.
fn finish(
    container: &Container,
    options: &Options,
    plan: &ProcessPlan,
    spawned: &mut Spawned,
    creator: &CreatorEnd,
    verdict: &Verdict,
    console: Option<&OwnedFd>,
) -> Result<Option<OwnedFd>> {
    let master = converse(container, plan, spawned, creator, verdict, console)?;
    if let Some(path) = &options.pidfd_socket {
        console::send_pidfd(path, &spawned.pidfd)?;
    }
    if let Some(path) = &options.pid_file {
        pid_file::write(path, spawned.pid.as_raw())?;
    }
    Ok(master)
}

/// The process that was asked for, and the name of its place.
fn choose(spec: &Spec, options: &Options) -> Result<(Box<Process>, Field)> {
    if let Some(path) = &options.process {
        let text = bundle::read(path).with_context(|| format!("--process: {path:?}"))?;
        let (mut process, warnings) =
            bundle::parse_process(&text).with_context(|| format!("--process: {path:?}"))?;
        warnings.iter().for_each(log::warn);
        if process.exec_cpu_affinity().is_none() {
            let of_container = spec.process().as_ref();
            process.set_exec_cpu_affinity(of_container.and_then(|p| p.exec_cpu_affinity().clone()));
        }
        return Ok((process, Field::OWN));
    }
    let Some(mut process) = spec.process().clone().map(Box::new) else {
        bail!("process: missing: the container has none to take the rest from")
    };
    process.set_args(Some(options.args.clone()));
    process.set_terminal(Some(options.tty));
    if let Some(cwd) = &options.cwd {
        process.set_cwd(cwd.into());
    }
    process.env_mut().get_or_insert_default().extend(options.env.iter().cloned());
    if let Some(user) = &options.user {
        let (uid, gid) = parse_user(user).with_context(|| format!("--user: {user:?}"))?;
        process.user_mut().set_uid(uid);
        if let Some(gid) = gid {
            process.user_mut().set_gid(gid);
        }
    }
    if !options.additional_gids.is_empty() {
        let mut groups = process.user().additional_gids().clone().unwrap_or_default();
        groups.extend(&options.additional_gids);
        process.user_mut().set_additional_gids(Some(groups));
    }
    if options.no_new_privileges {
        process.set_no_new_privileges(Some(true));
    }
    if options.apparmor.is_some() {
        process.set_apparmor_profile(options.apparmor.clone());
    }
    if options.label.is_some() {
        process.set_selinux_label(options.label.clone());
    }
    add_capabilities(&mut process, &options.capabilities)?;
    Ok((process, Field::OWN))
}

/// Gives the process the label and the profile of the container where it names none of its
/// own: without, it would have those of the runtime.
fn keep_confined(process: &mut Process, container: Option<&Process>) {
    let Some(container) = container else { return };
    let is_missing = |text: &Option<String>| text.as_ref().is_none_or(String::is_empty);
    if is_missing(process.selinux_label()) {
        process.set_selinux_label(container.selinux_label().clone());
    }
    if is_missing(process.apparmor_profile()) {
        process.set_apparmor_profile(container.apparmor_profile().clone());
    }
}

/// `UID[:GID]`.
fn parse_user(text: &str) -> Result<(u32, Option<u32>)> {
    match text.split_once(':') {
        Some((uid, gid)) => Ok((parse_id(uid)?, Some(parse_id(gid)?))),
        None => Ok((parse_id(text)?, None)),
    }
}

/// As runc: into the sets that the program itself has. What it starts inherits what the
/// container says and no more, so one is ambient only where it is inheritable already.
fn add_capabilities(process: &mut Process, names: &[String]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let mut added = Vec::new();
    for name in names {
        let capability: Capability = serde_json::from_value(name.as_str().into())
            .ok()
            .with_context(|| format!("--cap: {name:?}: not the name of a capability"))?;
        added.push(capability);
    }
    let mut sets = process.capabilities().clone().unwrap_or_else(empty_capabilities);
    let with = |set: &Option<Capabilities>| {
        let mut set = set.clone().unwrap_or_default();
        set.extend(added.iter().copied());
        Some(set)
    };
    sets.set_bounding(with(sets.bounding()));
    sets.set_effective(with(sets.effective()));
    sets.set_permitted(with(sets.permitted()));
    let inheritable = sets.inheritable().clone().unwrap_or_default();
    let mut ambient = sets.ambient().clone().unwrap_or_default();
    ambient.extend(added.iter().filter(|capability| inheritable.contains(capability)));
    sets.set_ambient(Some(ambient));
    process.set_capabilities(Some(sets));
    Ok(())
}

fn empty_capabilities() -> oci_spec::runtime::LinuxCapabilities {
    let mut sets = oci_spec::runtime::LinuxCapabilities::default();
    sets.set_bounding(None)
        .set_effective(None)
        .set_inheritable(None)
        .set_permitted(None)
        .set_ambient(None);
    sets
}

/// The namespaces of the container that are not the caller's. A user namespace
/// that is the caller's own cannot be joined again.
fn namespaces_to_join(container: &Container, init: i32) -> Result<CloneFlags> {
    let mut flags = CloneFlags::empty();
    for kind in &container.record.namespaces {
        if *kind == Kind::User {
            let inode = |process: &str| {
                let path = format!("/proc/{process}/ns/{}", proc_name(*kind));
                rustix::fs::stat(path.as_str()).map(|stat| stat.st_ino).with_context(|| path)
            };
            if inode("self")? == inode(&init.to_string())? {
                continue;
            }
        }
        flags |= CloneFlags::from_bits_retain(clone_flag(*kind) as i32);
    }
    Ok(flags)
}

fn open_root(init: i32) -> Result<OwnedFd> {
    let path = format!("/proc/{init}/root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path.as_str(), flags, Mode::empty()).with_context(|| path)
}

fn converse(
    container: &Container,
    plan: &ProcessPlan,
    spawned: &mut Spawned,
    creator: &CreatorEnd,
    verdict: &Verdict,
    console: Option<&OwnedFd>,
) -> Result<Option<OwnedFd>> {
    // Each is said once, if at all: the process may be another one's to command by now.
    let mut terminal_is_due = plan.terminal.is_some();
    let mut listener_is_due = plan.filter.as_ref().is_some_and(|filter| filter.notifies);
    let mut terminal = None;
    loop {
        let heard = spawned.hear(creator, || {
            Ok(verdict.is_executing()
                && ProcessFacts::read(spawned.pid.as_raw())?.is_some_and(|now| now.has_executed))
        })?;
        match heard {
            Some((FromInit::Spawned, Some(pidfd))) => {
                spawned.is_succeeded_by(pidfd)?;
                log::debug(|| spawned.summary("the new process"));
                terminal_is_due = false;
                if plan.gets_scheduler_by_creator() {
                    set_scheduler(plan, spawned.pid.as_raw())?;
                }
                // Where it has died over something, it has said so, and that is read next.
                let _ = creator.send(&ToInit::Known);
            }
            None if spawned.is_between => bail!("the process in between died"),
            None => {
                let init = container.record.init.context("container not running")?;
                let root = || open_root(init.pid).ok();
                verdict.read(|errno| refused_program::explain(root().as_ref(), plan, errno))?;
                log::debug(|| format!("process {}: the program was executed", spawned.pid));
                return Ok(terminal);
            }
            Some((FromInit::Console, Some(master))) if take(&mut terminal_is_due) => {
                match console {
                    Some(socket) => console::send(socket, master)?,
                    None => terminal = Some(master),
                }
            }
            Some((FromInit::Listener, Some(listener))) if take(&mut listener_is_due) => {
                let pid = spawned.pid.as_raw();
                seccomp_agent::hand_over(container, pid, Status::Running, &listener)?;
                creator.send(&ToInit::ListenerTaken)?;
            }
            Some((FromInit::Failed(failure), _)) => return Err(failure.into_error()),
            Some((other, _)) => bail!("{other:?} out of turn from the new process"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_a_label_or_profile_has_those_of_the_container() {
        let process = |label: Option<&str>, profile: Option<&str>| {
            let mut process = Process::default();
            process.set_selinux_label(label.map(str::to_owned));
            process.set_apparmor_profile(profile.map(str::to_owned));
            process
        };
        let kept = |mut own: Process, container: Option<&Process>| {
            keep_confined(&mut own, container);
            (own.selinux_label().clone(), own.apparmor_profile().clone())
        };
        let texts = |label: &str, profile: &str| (Some(label.to_owned()), Some(profile.to_owned()));
        let container = process(Some("l"), Some("p"));
        assert_eq!(kept(process(None, None), Some(&container)), texts("l", "p"));
        assert_eq!(kept(process(Some(""), Some("")), Some(&container)), texts("l", "p"));
        assert_eq!(kept(process(Some("own"), None), Some(&container)), texts("own", "p"));
        assert_eq!(kept(process(None, Some("own")), Some(&container)), texts("l", "own"));
        assert_eq!(kept(process(Some("own"), None), None), (Some("own".to_owned()), None));
    }

    #[test]
    fn users_are_numbers_and_nothing_else() {
        assert_eq!(parse_user("0").unwrap(), (0, None));
        assert_eq!(parse_user("1000:5").unwrap(), (1000, Some(5)));
        for wrong in ["", "root", "-1", "+1", " 1", "1:", ":1", "4294967296", "4294967295", "1:2:3"]
        {
            assert!(parse_user(wrong).is_err(), "{wrong}");
        }
    }
}
