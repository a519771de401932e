//! From a process of the runtime to the program: limits, ids, capabilities,
//! filter, execve(2). `create` and `exec` share it.
//!
//! The order is given by the kernel. Without no_new_privs a filter needs
//! CAP_SYS_ADMIN, so all that a filter could refuse is done before it, and only
//! execve(2) after it; with no_new_privs the last capset comes just before it.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use ferrun_seccomp::Filter;
use nix::errno::Errno;
use rustix::fs::Mode;
use rustix::process::chdir;
use rustix::thread::{CapabilitySets as ThreadSets, set_capabilities, set_no_new_privs};

use super::courier::Courier;
use super::program::{find_program, home_directory};
use super::rlimits::{set_rlimit, set_rlimits};
use super::security_module::LabelWriter;
use super::stdio::give_stdio;
use super::user::{Granted, set_user};
use crate::channel::gate::Verdict;
use crate::channel::{FromInit, InitEnd, ToInit};
use crate::error::InField as _;
use crate::log;
use crate::plan::process::{ProcessPlan, Rlimit};
use crate::sys;
use crate::sys::process as kernel;

/// A process that only has to be told to go: all that could fail is behind it.
#[derive(Debug)]
pub struct Confined<'plan> {
    plan: &'plan ProcessPlan,
    /// None: not found outside of the pid namespace.
    program: Option<CString>,
    /// Whether it is in its working directory, which may not be there outside either.
    is_in_place: bool,
    args: Vec<CString>,
    env: Vec<CString>,
    /// The sets that the program is to have.
    sets: ThreadSets,
    /// Limits that would be in our own way.
    late_limits: Vec<&'plan Rlimit>,
    /// Whether the filter is in force.
    is_filtered: bool,
    /// Whether the process is in between.
    is_between: bool,
}

/// What a process is confined with besides its plan.
#[derive(Debug)]
pub struct Confinement<'a> {
    /// Whether its user namespace is new.
    pub new_user_namespace: bool,
    /// The way to its labels, where it has any.
    pub labels: Option<&'a LabelWriter>,
    /// Whether it is in between, and its clone becomes the program.
    pub is_between: bool,
}

/// Takes the user, the groups, the limits and the capabilities of the program on,
/// and looks the program up.
pub fn confine<'plan>(
    plan: &'plan ProcessPlan,
    confinement: &Confinement<'_>,
) -> Result<Confined<'plan>> {
    if let Some((class, priority)) = plan.io_priority {
        kernel::set_io_priority(class, priority)
            .context("ioprio_set")
            .in_field(plan.field.of("ioPriority"))?;
    }
    if !confinement.is_between || !plan.gets_scheduler_by_creator() {
        set_scheduler(plan, 0)?;
    }
    // What is logged comes before the limits: one on the size of files is not for the log.
    log::debug(|| plan.summary());
    let granted = Granted::of(plan)?;
    // While root still is, whom a module may ask for more than a user.
    if let Some(labels) = confinement.labels {
        labels.label_program(plan)?;
    }
    let late_limits = set_rlimits(&plan.rlimits, confinement.is_between)?;
    let uid = plan.user.uid;
    if uid != 0 || confinement.new_user_namespace {
        give_stdio(uid, plan.terminal.is_some());
    }
    // As the runtime first, who may enter more; as the user where root may not.
    let entered = chdir(&plan.cwd);
    let sets = set_user(plan, &granted)?;
    let entered = match entered {
        Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => chdir(&plan.cwd),
        entered => entered,
    };
    // It may be in /proc/self, which this process is not in, and then so may the program.
    let is_late = confinement.is_between && plan.cwd_may_be_in_proc();
    let is_in_place = !(is_late && entered == Err(rustix::io::Errno::NOENT));
    if is_in_place {
        stay_in(plan, entered)?;
    }
    rustix::process::umask(Mode::from_raw_mode(plan.user.umask));
    let program = match find_program(plan) {
        Err(_) if confinement.is_between && plan.may_be_in_proc() => None,
        found => Some(found?),
    };
    let mut env = plan.env.clone();
    if plan.variable("HOME").is_none() {
        let mut home = b"HOME=".to_vec();
        home.extend(home_directory(uid));
        env.extend(CString::new(home));
    }
    let args = plan.args.clone();
    let is_between = confinement.is_between;
    let is_filtered = false;
    Ok(Confined {
        plan,
        program,
        is_in_place,
        args,
        env,
        sets,
        late_limits,
        is_filtered,
        is_between,
    })
}

/// Gives a process its scheduling policy, if it has one; 0 is the calling one.
pub fn set_scheduler(plan: &ProcessPlan, pid: i32) -> Result<()> {
    match &plan.scheduler {
        Some(scheduler) => kernel::set_scheduler(pid, scheduler)
            .context("sched_setattr")
            .in_field(plan.field.of("scheduler")),
        None => Ok(()),
    }
}

impl Confined<'_> {
    /// The same with another program: a hook, which inherits the environment
    /// unless it has its own.
    pub fn instead(&self, program: &Path, args: &[String], env: Option<&[String]>) -> Result<Self> {
        let strings = |texts: &[String]| {
            texts.iter().map(|text| CString::new(text.as_str())).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            plan: self.plan,
            program: Some(CString::new(program.as_os_str().as_bytes())?),
            is_in_place: self.is_in_place,
            args: strings(args)?,
            env: env.map_or_else(|| Ok(self.env.clone()), strings)?,
            sets: self.sets,
            late_limits: Vec::new(),
            is_filtered: self.is_filtered,
            is_between: self.is_between,
        })
    }

    /// Looks for the working directory and the program again, if they were not found from
    /// outside of the pid namespace.
    pub fn look_again(&mut self) -> Result<()> {
        if !self.is_in_place {
            stay_in(self.plan, chdir(&self.plan.cwd))?;
            self.is_in_place = true;
        }
        if self.program.is_none() {
            self.program = Some(find_program(self.plan)?);
        }
        Ok(())
    }

    /// Gives up what the program does not get: loads the filter, where it lets the rest
    /// through, and then nothing is held for its sake any more.
    /// The creator gets the listener of one that notifies: no call of ours will be notified.
    pub fn give_up(&mut self, creator: &InitEnd) -> Result<()> {
        let comes_first = |filter: &&Filter| {
            // A listener is told with its pid, which a process in between does not have.
            self.plan.filter_comes_first && !(filter.notifies && self.is_between)
        };
        let Some(filter) = self.plan.filter.as_ref().filter(comes_first) else { return Ok(()) };
        self.forbid_new_privileges()?;
        if let Some(listener) = load(filter, filter.flags.bits(), filter.notifies)? {
            creator.send_with(&FromInit::Listener, listener)?;
            creator.expect(&ToInit::ListenerTaken)?;
        }
        if !self.plan.no_new_privileges {
            self.take_sets()?;
        }
        self.is_filtered = true;
        Ok(())
    }

    /// Sets no_new_privs, with the program's own capabilities in force.
    fn forbid_new_privileges(&self) -> Result<()> {
        if !self.plan.no_new_privileges {
            return Ok(());
        }
        self.take_sets()?;
        set_no_new_privs(true).context("prctl").in_field(self.plan.field.of("noNewPrivileges"))
    }

    fn take_sets(&self) -> Result<()> {
        set_capabilities(None, self.sets)
            .context("capset")
            .in_field(self.plan.field.of("capabilities"))
    }

    /// Runs the program. Returns only with an error, which under the filter cannot
    /// be told in any other way than by `verdict`. `other` gets the listener of a
    /// notifying filter.
    pub fn execute(mut self, verdict: &Verdict, other: Option<&InitEnd>) -> Result<Errno> {
        self.look_again()?;
        self.late_limits.iter().try_for_each(|limit| set_rlimit(limit))?;
        kernel::reset_signals().context("sigaction")?;
        let args: Vec<&CStr> = self.args.iter().map(CString::as_c_str).collect();
        let env: Vec<&CStr> = self.env.iter().map(CString::as_c_str).collect();
        let filter = self.plan.filter.as_ref().filter(|_| !self.is_filtered);
        let courier = match (filter.filter(|filter| filter.notifies), other) {
            (Some(_), Some(other)) => Some(Courier::send_out(other)?),
            _ => None,
        };
        if !self.is_filtered {
            self.forbid_new_privileges()?;
        }
        if let Some(filter) = filter {
            // The courier must stay free of the filter; it is the only other thread.
            let flags = match &courier {
                Some(_) => filter.flags.bits() & !ferrun_seccomp::FilterFlags::TSYNC.bits(),
                None => filter.flags.bits(),
            };
            let listens = courier.is_some();
            let listener = load(filter, flags, listens)?;
            if let (Some(courier), Some(listener)) = (courier, &listener)
                && !courier.deliver(listener.as_raw_fd())
            {
                verdict.failed(Errno::ETIMEDOUT);
                return Ok(Errno::ETIMEDOUT);
            }
        }
        verdict.executing();
        let program = self.program.as_deref().unwrap_or_default();
        let errno = match nix::unistd::execve(program, &args, &env) {
            Err(errno) => errno,
            Ok(never) => match never {},
        };
        verdict.failed(errno);
        Ok(errno)
    }
}

/// Loads a filter. Returns its listener, where it has one.
fn load(filter: &Filter, flags: u64, listens: bool) -> Result<Option<OwnedFd>> {
    sys::seccomp_set_filter(&filter.instructions, flags, listens)
        .context("seccomp")
        .in_field("linux.seccomp")
}

/// Stays in the working directory, where that was `entered`.
fn stay_in(plan: &ProcessPlan, entered: rustix::io::Result<()>) -> Result<()> {
    entered.with_context(|| format!("{:?}", plan.cwd)).in_field(plan.field.of("cwd"))?;
    refuse_outside(plan)
}

/// A working directory that is reached through a descriptor of the host would
/// show the host's files: the kernel then gives no path for it.
fn refuse_outside(plan: &ProcessPlan) -> Result<()> {
    let inside =
        rustix::process::getcwd(Vec::new()).is_ok_and(|cwd| cwd.as_bytes().starts_with(b"/"));
    if !inside {
        bail!("{}: {:?}: outside of the container", plan.field.of("cwd"), plan.cwd);
    }
    Ok(())
}
