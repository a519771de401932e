//! The container's side of `create` and `exec`, from the clone to execve(2).
//!
//! Read from top to bottom it is the order of things; each step is carried out
//! by `apply`. Nothing here may return into the creator's code: the process has a
//! copy of the creator's memory, and would undo with its destructors what the
//! creator has made.

use std::cell::Cell;
use std::convert::Infallible;
use std::mem::take;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use nix::sched::setns;
use oci_spec::runtime::LinuxNamespaceType as Kind;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::io::Errno;

use crate::apply::console;
use crate::apply::inherited::{set_final_affinity, take_all_processors};
use crate::apply::net_devices::FoundDevice;
use crate::apply::process::{Confined, Confinement};
use crate::apply::security_module::LabelWriter;
use crate::apply::stdio::own_null;
use crate::apply::sysctls::Parameters;
use crate::apply::{hooks, namespaces, net_devices, process, rootfs};
use crate::channel::gate::{self, Verdict};
use crate::channel::{FromInit, InitEnd, ToInit};
use crate::create::spawn::{self, Remaining};
use crate::error::{Failure, InField as _, words};
use crate::log;
use crate::plan::Plan;
use crate::plan::exec::ExecPlan;
use crate::plan::policies::Policies;
use crate::plan::process::ProcessPlan;
use crate::store::Identity;
use crate::store::Status;
use crate::sys;
use crate::sys::process::{self as kernel, OneThread};

/// What opens the way to the program.
#[derive(Debug)]
pub enum StartedBy<'a> {
    /// A `start` that comes through the gate.
    Gate(OwnedFd),
    /// The creator, who stays.
    Creator(&'a Verdict),
}

impl StartedBy<'_> {
    fn gate(&self) -> Option<&OwnedFd> {
        match self {
            Self::Gate(gate) => Some(gate),
            Self::Creator(_) => None,
        }
    }
}

/// What init needs to know besides the plan.
#[derive(Debug)]
pub struct Given<'a> {
    /// Who waits for what comes after `Ready`.
    pub start: StartedBy<'a>,
    /// What hooks get to read.
    pub identity: Identity<'a>,
    /// The mount that is the creator's root.
    pub creator_root: u64,
    /// The way to the program's labels, where it has any.
    pub labels: Option<&'a LabelWriter>,
    /// The network interfaces that the creator moves here.
    pub net_devices: &'a [FoundDevice],
    /// Where kernel parameters are written.
    pub parameters: Parameters,
}

/// The init process of a container. Returns only where it has failed and said so.
pub fn container(
    alone: OneThread,
    plan: &Plan,
    mut given: Given<'_>,
    remaining: Remaining<'_>,
    creator: InitEnd,
) -> Result<Infallible> {
    let is_between = remaining.is_between;
    // It holds a descriptor of the host.
    let parameters = take(&mut given.parameters);
    let settled = prepare_container(plan, &given, parameters, remaining, &creator)
        .and_then(|prepared| settle(alone, prepared, plan, &given, is_between, &creator));
    let confined = told(&creator, settled)?;
    let run = |verdict: &Verdict, other: &InitEnd| match confined {
        Some(confined) => run_container(alone, plan, &given.identity, confined, (verdict, other)),
        None => bail!("process: missing: there is no program to start"),
    };
    match given.start {
        StartedBy::Gate(gate) => {
            // The creator goes, and init stays.
            drop(creator);
            let (start, verdict) = gate::wait(&gate)?;
            told(&start, run(&verdict, &start))
        }
        StartedBy::Creator(verdict) => {
            told(&creator, creator.expect(&ToInit::Start).and_then(|()| run(verdict, &creator)))
        }
    }
}

/// What a process that `exec` adds needs to know besides the plan.
#[derive(Debug)]
pub struct Additional<'a> {
    /// Where its labels are written.
    pub labels: Option<&'a LabelWriter>,
    /// The root to enter, where there is no mount namespace to join.
    pub root: Option<&'a OwnedFd>,
    /// Where the result of execve(2) goes.
    pub verdict: &'a Verdict,
    /// Whether systemd puts it into its group.
    pub is_grouped_later: bool,
}

/// A process that `exec` adds to a container.
pub fn additional(
    alone: OneThread,
    plan: &ExecPlan,
    given: &Additional<'_>,
    remaining: Remaining<'_>,
    creator: InitEnd,
) -> Result<Infallible> {
    let ExecPlan { process: plan, policies, keyring, .. } = plan;
    let is_between = remaining.is_between;
    let ran = (|| {
        stay_with(&creator)?;
        if given.is_grouped_later {
            creator.expect(&ToInit::Grouped)?;
        }
        let in_user_namespace = remaining.joined_user_namespace;
        join(remaining)?;
        set_final_affinity(plan)?;
        if let Some(root) = given.root {
            rustix::process::fchdir(root).context("fchdir")?;
            rustix::process::chroot(".").context("chroot")?;
        }
        namespaces::become_root_inside(in_user_namespace)?;
        // What it makes is to have nothing of the caller's terminal and process group either.
        nix::unistd::setsid().context("setsid")?;
        // After the user namespace, in which its name was given.
        if let Some(id) = keyring {
            let join = || _ = join_keyring(id);
            match given.labels {
                Some(labels) => labels.label_keys(plan, join)?,
                None => join(),
            }
        }
        take_terminal(plan, &creator, None)?;
        set_policies(policies)?;
        let mut confined = process::confine(
            plan,
            &Confinement { new_user_namespace: false, labels: given.labels, is_between },
        )?;
        leave_the_host(alone, plan.descriptors, &creator, None)?;
        confined.give_up(&creator)?;
        if is_between {
            spawn::emerge(alone, &creator)?;
            nix::unistd::setsid().context("setsid")?;
        }
        control_terminal(Some(plan))?;
        if is_between {
            // A clone has left it. Not known yet, it would be nobody's where the creator fails.
            stay_with(&creator)?;
            creator.expect(&ToInit::Known)?;
        }
        kernel::set_parent_death_signal(0).context("prctl")?;
        become_program(confined, given.verdict, &creator)
    })();
    told(&creator, ran)
}

/// Tells an error to whoever is at the other end, and passes everything on.
fn told<T>(other: &InitEnd, result: Result<T>) -> Result<T> {
    if let Err(error) = &result {
        // If nobody listens any more, nobody is left to be told.
        let _ = other.send(&FromInit::Failed(Failure::new(error)));
    }
    result
}

/// A container that only waits for its program.
struct Prepared<'plan> {
    /// None: it has no program.
    confined: Option<Confined<'plan>>,
    /// Whether the creator has said so.
    is_placed: bool,
}

/// Where systemd puts the process into its cgroup, when it is there.
struct Grouping<'a> {
    creator: &'a InitEnd,
    /// What has its root where the process is then.
    makes_namespace: bool,
    is_due: Cell<bool>,
}

impl<'a> Grouping<'a> {
    fn new(plan: &Plan, creator: &'a InitEnd) -> Self {
        let makes_namespace = plan.namespaces.is_new(Kind::Cgroup);
        Self { creator, makes_namespace, is_due: Cell::new(plan.unit.is_some()) }
    }

    /// Waits for it, the first time.
    fn wait(&self) -> Result<()> {
        if !self.is_due.replace(false) {
            return Ok(());
        }
        self.creator.expect(&ToInit::Grouped)?;
        if self.makes_namespace { namespaces::make_new(&[Kind::Cgroup]) } else { Ok(()) }
    }
}

/// Everything that is done to the container, and to the process until it has the rights of
/// the program. Each step stands where it does for the reason beside it.
fn prepare_container<'plan>(
    plan: &'plan Plan,
    given: &Given<'_>,
    parameters: Parameters,
    remaining: Remaining<'_>,
    creator: &InitEnd,
) -> Result<Prepared<'plan>> {
    // Before anything that a creator which is killed would leave behind.
    stay_with(creator)?;
    let new_user = plan.namespaces.is_new(Kind::User);
    let (is_between, in_user_namespace) =
        (remaining.is_between, new_user || remaining.joined_user_namespace);
    // While it has the rights of the caller, which a new user namespace takes away.
    join(remaining)?;
    if plan.namespaces.announces() {
        creator.send(&FromInit::Unshared)?;
    }
    // Without its ids it is nobody, and what the creator brings comes after that. All others
    // go on, and wait at the end.
    let mut is_placed = false;
    let needs_creator = plan.rootfs.opened_by_creator().next().is_some();
    if is_between
        || new_user
        || needs_creator
        || plan.unit.is_some()
        || plan.namespaces.announces()
        || !given.net_devices.is_empty()
    {
        creator.expect(&ToInit::Placed)?;
        is_placed = true;
    }
    let grouping = Grouping::new(plan, creator);
    // Its offsets are written by now, and with a process inside they could not be.
    if plan.namespaces.gets_offsets() || is_between && plan.namespaces.own_offsets().is_some() {
        namespaces::enter_own_time()?;
    }
    namespaces::become_root_inside(in_user_namespace)?;
    // The change of ids has shown it, and the creator has written to what a hidden one bars.
    kernel::hide().context("prctl")?;
    if needs_creator {
        // The creator says so before it sends the trees.
        grouping.wait()?;
    }
    // What it makes is to have nothing of the caller's terminal and process group either.
    nix::unistd::setsid().context("setsid")?;
    // What is made for the container does not depend on the caller's.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    take_all_processors();
    if plan.new_keyring {
        let make = || make_keyring(given.identity.id);
        match (given.labels, &plan.process) {
            (Some(labels), Some(process)) => labels.label_keys(process, make)?,
            _ => make(),
        }
    }
    // Before hooks, which may want to use them.
    set_names(plan)?;
    if plan.namespaces.is_new(Kind::Network) {
        raise_loopback()?;
    }
    net_devices::set_up(given.net_devices)?;

    // Below a descriptor of the root, as long as the host's files are there to be bound.
    let root = rootfs::prepare(&plan.rootfs)?;
    let trees = || creator.expect_tree();
    let (root, writable) = rootfs::fill(root, &plan.rootfs, trees, || grouping.wait())?;
    let root = root.as_fd();
    grouping.wait()?;
    // In the container's own devpts, which is mounted by now; hooks have it as their stdio.
    if let Some(process) = &plan.process {
        take_terminal(process, creator, Some(root))?;
    }
    // A clone would have a session of its own, and take it then.
    if !is_between {
        control_terminal(plan.process.as_ref())?;
    }
    // Mounts are there and the root is not entered (config.md#posix-platform-hooks).
    if !plan.hooks.prestart.is_empty() || !plan.hooks.create_runtime.is_empty() {
        creator.send(&FromInit::RootfsReady)?;
        if !is_placed {
            creator.expect(&ToInit::Placed)?;
            is_placed = true;
        }
        creator.expect(&ToInit::HooksDone)?;
    }
    let hooks = &plan.hooks.create_container;
    if !hooks.is_empty() {
        // As runc's, in the root file system.
        rustix::process::fchdir(root).context("fchdir").in_field("root.path")?;
        let pid = std::process::id() as i32;
        let state = given.identity.for_hooks(Status::Created, pid);
        hooks::run(hooks, &state, Path::new("."))?;
    }
    // After the hooks: they may have made the interfaces that a parameter is about.
    parameters.write(&plan.sysctls)?;
    // After all that writes into the root, and with the host's /dev/null at hand.
    rootfs::protect(root, &plan.rootfs, &writable)?;
    // What was opened here is closed here: see `leave_the_host`.
    drop(writable);
    rootfs::enter(root, &plan.rootfs, given.creator_root)?;

    // From here on it loses its rights: last what takes the most away.
    set_policies(&plan.policies)?;
    if plan.process.as_ref().is_some_and(|process| process.terminal.is_none()) {
        own_null();
    }
    let confinement =
        Confinement { new_user_namespace: new_user, labels: given.labels, is_between };
    let confined =
        plan.process.as_ref().map(|process| process::confine(process, &confinement)).transpose()?;
    Ok(Prepared { confined, is_placed })
}

/// From a prepared container to `Ready`. Whoever can see init from here on finds a process of
/// the container, with the rights of its program.
fn settle<'plan>(
    alone: OneThread,
    prepared: Prepared<'plan>,
    plan: &Plan,
    given: &Given<'_>,
    is_between: bool,
    creator: &InitEnd,
) -> Result<Option<Confined<'plan>>> {
    let Prepared { mut confined, is_placed } = prepared;
    if !is_placed {
        creator.expect(&ToInit::Placed)?;
    }
    let descriptors = plan.process.as_ref().map_or(0, |process| process.descriptors);
    leave_the_host(alone, descriptors, creator, given.start.gate())?;
    if given.start.gate().is_some() {
        kernel::end_by_signals().context("sigaction")?;
    }
    if let Some(confined) = &mut confined {
        confined.give_up(creator)?;
    }
    if is_between {
        spawn::emerge(alone, creator)?;
        nix::unistd::setsid().context("setsid")?;
        control_terminal(plan.process.as_ref())?;
        confined.iter_mut().try_for_each(Confined::look_again)?;
    }
    // Neither a clone nor a change of ids has left it.
    stay_with(creator)?;
    if is_between {
        creator.expect(&ToInit::Known)?;
    }
    // From here on others know the pid: whoever wants this process gone will find it.
    kernel::set_parent_death_signal(0).context("prctl")?;
    creator.send(&FromInit::Ready)?;
    Ok(confined)
}

/// Closes what is the host's, and forgets how this program was called. What was opened here
/// is closed by its owners already.
fn leave_the_host(
    alone: OneThread,
    descriptors: u32,
    creator: &InitEnd,
    gate: Option<&OwnedFd>,
) -> Result<()> {
    // A change of ids may have made it visible again (fs.suid_dumpable in proc_sys_fs(5)).
    kernel::hide().context("prctl")?;
    log::leave_file();
    let kept: Vec<_> = gate.map(OwnedFd::as_fd).into_iter().chain([creator.as_fd()]).collect();
    sys::close_others(3, descriptors, &kept).context("close_range")?;
    sys::arguments::forget(alone);
    Ok(())
}

/// Gives the session that this process leads its terminal, where there is one.
fn control_terminal(process: Option<&ProcessPlan>) -> Result<()> {
    match process.and_then(|process| process.terminal.as_ref()) {
        Some(_) => console::control(),
        None => Ok(()),
    }
}

/// What comes after the gate: hooks, and the program.
fn run_container(
    alone: OneThread,
    plan: &Plan,
    identity: &Identity<'_>,
    confined: Confined<'_>,
    (verdict, other): (&Verdict, &InitEnd),
) -> Result<Infallible> {
    // Without hooks no call is made that a filter might refuse.
    if !plan.hooks.start_container.is_empty() {
        let state = identity.for_hooks(Status::Created, std::process::id() as i32);
        hooks::run_confined(alone, &plan.hooks.start_container, &confined, &state)?;
    }
    become_program(confined, verdict, other)
}

/// The program, or the end of the process: under the filter nothing else is sure.
fn become_program(
    confined: Confined<'_>,
    verdict: &Verdict,
    other: &InitEnd,
) -> Result<Infallible> {
    confined.execute(verdict, Some(other))?;
    // execve(2) has failed, and the verdict says why.
    kernel::exit_now(1)
}

/// Ends with the creator until others know of this process. The signal may have
/// been asked for too late, so look whether he is still there.
fn stay_with(creator: &InitEnd) -> Result<()> {
    kernel::set_parent_death_signal(libc::SIGKILL).context("prctl")?;
    let mut fds = [PollFd::from_borrowed_fd(creator.as_fd(), PollFlags::empty())];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).context("poll")?;
    if fds[0].revents().contains(PollFlags::HUP) {
        bail!("the creator is gone");
    }
    Ok(())
}

/// Enters the cgroups first: what a joined namespace shows of them may be less, and a new one
/// has them as its roots. Then what is joined, and at last what is made new, so that a new
/// user namespace takes no right to join away.
fn join(remaining: Remaining<'_>) -> Result<()> {
    if let Some(tasks) = remaining.tasks {
        tasks.enter()?;
    }
    if let Some((process, flags)) = &remaining.join_process {
        setns(process, *flags).context("setns")?;
        log::debug(|| format!("setns: joined those of the container: {flags:?}"));
    }
    namespaces::enter(remaining.join, &remaining.new, remaining.offsets)
}

/// Makes the container's session keyring. It can be found by its name, which is runc's.
pub fn make_keyring(id: &str) {
    /// What a new one has, and that its user may search it (KEY_USR_SEARCH).
    const PERMISSIONS: u32 = 0x3f1b_0000;
    if let Some(keyring) = join_keyring(id)
        && let Err(errno) = sys::set_key_permissions(keyring, PERMISSIONS)
    {
        log::debug(|| format!("the session keyring cannot be found by others: {}", words(errno)));
    }
}

/// Leaves the caller's session keyring for the container's. A kernel without keyrings, or
/// a quota that is used up, is no reason to fail.
fn join_keyring(id: &str) -> Option<libc::c_long> {
    let name = std::ffi::CString::new(format!("_ses.{id}")).ok()?;
    let keyring = sys::join_session_keyring(&name);
    keyring
        .inspect_err(|errno| log::debug(|| format!("no session keyring: {}", words(*errno))))
        .ok()
}

fn set_names(plan: &Plan) -> Result<()> {
    if let Some(hostname) = &plan.hostname {
        nix::unistd::sethostname(hostname)
            .context("sethostname")
            .in_field(format_args!("hostname: {hostname:?}"))?;
        log::debug(|| format!("hostname: {hostname:?}: set"));
    }
    if let Some(domainname) = &plan.domainname {
        rustix::system::setdomainname(domainname.as_bytes())
            .context("setdomainname")
            .in_field(format_args!("domainname: {domainname:?}"))?;
    }
    Ok(())
}

/// Sets the interface `lo` of the own network namespace up.
pub fn raise_loopback() -> Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    match socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None) {
        Ok(socket) => sys::loopback_up(&socket).map_err(anyhow::Error::from),
        // A service that may have no addresses (RestrictAddressFamilies of systemd.exec(5)).
        Err(Errno::AFNOSUPPORT) => {
            log::debug(|| "lo: AF_INET is refused: raised by rtnetlink");
            net_devices::set_loopback_up()
        }
        Err(errno) => Err(errno).context("socket"),
    }
    .context("raise the interface lo")
}

/// Opens the terminal in the container's devpts and hands its master over.
fn take_terminal(
    process: &ProcessPlan,
    creator: &InitEnd,
    root: Option<BorrowedFd<'_>>,
) -> Result<()> {
    let Some(terminal) = &process.terminal else { return Ok(()) };
    let pair = match root {
        Some(root) => {
            let pair = console::open(root, terminal)?;
            console::bind(root, &pair.slave)?;
            pair
        }
        None => console::open(crate::resolve::root("/".as_ref()).context("/")?, terminal)?,
    };
    creator.send_with(&FromInit::Console, &pair.master)?;
    log::debug(|| "terminal: opened, and its master sent");
    console::take(&pair.slave)
}

fn set_policies(policies: &Policies) -> Result<()> {
    if let Some(domain) = policies.personality {
        kernel::set_personality(domain).context("personality").in_field("linux.personality")?;
    }
    if let Some((mode, nodes)) = &policies.memory_policy {
        kernel::set_memory_policy(*mode, nodes)
            .context("set_mempolicy")
            .in_field("linux.memoryPolicy")?;
    }
    Ok(())
}
