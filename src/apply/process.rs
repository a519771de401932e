//! From a process of the runtime to the program: limits, ids, capabilities,
//! filter, execve(2). `create` and `exec` share it.
//!
//! The order is given by the kernel. Without no_new_privs a filter needs
//! CAP_SYS_ADMIN, so all that a filter could refuse is done before it, and only
//! execve(2) after it; with no_new_privs the last capset comes just before it.

use std::ffi::{CStr, CString};
use std::fs;
use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use ferrun_seccomp::Filter;
use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use oci_spec::runtime::PosixRlimitType;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, accessat, fchown, fstat, open, statat};
use rustix::process::chdir;
use rustix::thread::{
    CapabilitySet, CapabilitySets as ThreadSets, CpuSet, capabilities,
    clear_ambient_capability_set, configure_capability_in_ambient_set, sched_getaffinity,
    sched_setaffinity, set_capabilities, set_keep_capabilities, set_no_new_privs,
};

use crate::apply::security_module::Attributes;
use crate::channel::gate::Verdict;
use crate::channel::{FromInit, InitEnd, ToInit};
use crate::error::{InField as _, words};
use crate::log;
use crate::plan::capabilities::CapabilitySets;
use crate::plan::process::{ProcessPlan, Rlimit, User};
use crate::sys;
use crate::sys::process as kernel;

/// Where programs are looked for without a PATH, as execvp(3) does.
pub(crate) const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";
/// CAP_SYS_ADMIN, which loading a filter needs.
const SYS_ADMIN: u64 = 1 << 21;

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
    pub attributes: Option<&'a Attributes>,
    /// Whether it is in between, and its clone becomes the program.
    pub is_between: bool,
}

/// The oom_score_adj that a process is to inherit, taken on by its parent for the
/// time of the clone: inside, in a user namespace or behind a /proc that the
/// container has made, it could not be written. Dropping it sets it back, by a descriptor
/// from before: an ordinary user's process that has hidden itself may not open the file.
#[derive(Debug, Default)]
pub struct OomScoreAdj {
    before: Option<(fs::File, String)>,
}

impl OomScoreAdj {
    const FILE: &str = "/proc/self/oom_score_adj";

    /// Takes the value of the plan on, if it has one.
    pub fn take(plan: Option<&ProcessPlan>) -> Result<Self> {
        let Some((plan, score)) = plan.and_then(|plan| Some((plan, plan.oom_score_adj?))) else {
            return Ok(Self::default());
        };
        let set = || -> Result<Self> {
            let before = fs::read_to_string(Self::FILE)?;
            if before.trim() == score.to_string() {
                return Ok(Self::default());
            }
            let mut file = fs::File::options().write(true).open(Self::FILE)?;
            file.write_all(score.to_string().as_bytes())?;
            Ok(Self { before: Some((file, before)) })
        };
        set()
            .with_context(|| format!("{score}: write oom_score_adj"))
            .in_field(plan.field.of("oomScoreAdj"))
    }
}

impl Drop for OomScoreAdj {
    fn drop(&mut self) {
        if let Some((file, before)) = &mut self.before
            && let Err(error) = file.write_all(before.trim().as_bytes())
        {
            log::warn(format!("set the own oom_score_adj back: {}", words(error)));
        }
    }
}

/// The processors that a process is to inherit, taken on by its parent for the time of
/// the clone. Dropping it sets those before back.
#[derive(Debug, Default)]
pub struct InitialAffinity {
    before: Option<CpuSet>,
}

impl InitialAffinity {
    /// Takes those of the plan on, if it has any.
    pub fn take(plan: &ProcessPlan) -> Result<Self> {
        let Some(mask) = &plan.exec_affinity.initial else { return Ok(Self::default()) };
        let before = sched_getaffinity(None).context("sched_getaffinity")?;
        set_affinity(plan, mask, "initial")?;
        Ok(Self { before: Some(before) })
    }
}

impl Drop for InitialAffinity {
    fn drop(&mut self) {
        if let Some(before) = &self.before
            && let Err(error) = sched_setaffinity(None, before)
        {
            log::warn(format!("set the own processors back: {}", words(error)));
        }
    }
}

/// Takes on the processors that the process is to have in the container's cgroup.
pub fn set_final_affinity(plan: &ProcessPlan) -> Result<()> {
    match &plan.exec_affinity.last {
        Some(mask) => set_affinity(plan, mask, "final"),
        None => Ok(()),
    }
}

fn set_affinity(plan: &ProcessPlan, mask: &[u64], property: &str) -> Result<()> {
    let mut set = CpuSet::new();
    for (word, bits) in mask.iter().enumerate() {
        for bit in (0..64).filter(|bit| bits & 1 << bit != 0) {
            set.set(word * 64 + bit);
        }
    }
    sched_setaffinity(None, &set)
        .context("sched_setaffinity")
        .in_field(plan.field.of(&format!("execCPUAffinity.{property}")))
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
    if let Some(attributes) = confinement.attributes {
        attributes.label_program(plan)?;
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
    rustix::process::umask(Mode::from_raw_mode(plan.user.umask & 0o777));
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

/// A thread beside the one that loads a notifying filter. The listener exists only once
/// the filter is loaded, and then any call of the filtered thread, the one that would
/// send it too, may have to wait for an answer that nobody can give yet. execve(2) ends
/// the thread without a trace.
#[derive(Debug)]
struct Courier {
    /// 0; the listener's number and 1; how it ended.
    word: Arc<AtomicU32>,
}

impl Courier {
    const TAKEN: u32 = u32::MAX;
    const LOST: u32 = u32::MAX - 1;
    /// How long the way may take.
    const PATIENCE: Duration = Duration::from_secs(10);

    /// Sends it out to wait for the listener, which it will send to `other`.
    fn send_out(other: &InitEnd) -> Result<Self> {
        let word = Arc::new(AtomicU32::new(0));
        let (other, shared) = (other.try_clone()?, Arc::clone(&word));
        std::thread::Builder::new()
            .stack_size(128 * 1024)
            .spawn(move || {
                let end = Instant::now() + Self::PATIENCE;
                while shared.load(Acquire) == 0 && Instant::now() < end {
                    std::thread::sleep(Duration::from_micros(50));
                }
                let taken = shared.load(Acquire).checked_sub(1).is_some_and(|number| {
                    let listener = sys::borrow_descriptor(number as i32);
                    other.send_with(&FromInit::Listener, listener).is_ok()
                        && other.expect(&ToInit::ListenerTaken).is_ok()
                });
                shared.store(if taken { Self::TAKEN } else { Self::LOST }, Release);
            })
            .context("clone: a thread to hand the listener over")?;
        Ok(Self { word })
    }

    /// Says which descriptor the listener is, and waits without a system call until the
    /// agent has it.
    fn deliver(&self, listener: i32) -> bool {
        self.word.store(listener as u32 + 1, Release);
        let end = Instant::now() + Self::PATIENCE;
        loop {
            match self.word.load(Acquire) {
                Self::TAKEN => return true,
                Self::LOST => return false,
                _ if Instant::now() > end => return false,
                _ => std::hint::spin_loop(),
            }
        }
    }
}

/// Sets all limits but those that could be in our own way: they are returned, for the end. So is
/// one on descriptors, and one on processes before a clone.
fn set_rlimits(limits: &[Rlimit], clones: bool) -> Result<Vec<&Rlimit>> {
    use rustix::process::Resource as Kind;
    let mut later = Vec::new();
    for limit in limits {
        let kind = match limit.kind {
            PosixRlimitType::RlimitNofile => Some(Kind::Nofile),
            PosixRlimitType::RlimitNproc if clones => Some(Kind::Nproc),
            _ => None,
        };
        let Some(kind) = kind else {
            set_rlimit(limit)?;
            continue;
        };
        // Raised at once, while there is the right to, and lowered at the end.
        if rustix::process::getrlimit(kind).maximum.is_some_and(|maximum| limit.hard > maximum) {
            set_rlimit(&Rlimit { soft: limit.hard, ..limit.clone() })?;
        }
        later.push(limit);
    }
    Ok(later)
}

fn set_rlimit(limit: &Rlimit) -> Result<()> {
    setrlimit(resource(limit.kind), limit.soft, limit.hard)
        .with_context(|| format!("setrlimit: soft {}, hard {}", limit.soft, limit.hard))
        .in_field(&limit.field)
}

fn resource(kind: PosixRlimitType) -> Resource {
    use PosixRlimitType::*;
    match kind {
        RlimitCpu => Resource::RLIMIT_CPU,
        RlimitFsize => Resource::RLIMIT_FSIZE,
        RlimitData => Resource::RLIMIT_DATA,
        RlimitStack => Resource::RLIMIT_STACK,
        RlimitCore => Resource::RLIMIT_CORE,
        RlimitRss => Resource::RLIMIT_RSS,
        RlimitNproc => Resource::RLIMIT_NPROC,
        RlimitNofile => Resource::RLIMIT_NOFILE,
        RlimitMemlock => Resource::RLIMIT_MEMLOCK,
        RlimitAs => Resource::RLIMIT_AS,
        RlimitLocks => Resource::RLIMIT_LOCKS,
        RlimitSigpending => Resource::RLIMIT_SIGPENDING,
        RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
        RlimitNice => Resource::RLIMIT_NICE,
        RlimitRtprio => Resource::RLIMIT_RTPRIO,
        RlimitRttime => Resource::RLIMIT_RTTIME,
    }
}

/// Lets the user of the program open its stdio again through /proc/self/fd. A device is the
/// host's, and stays as it is, but for the container's own terminal; so does what cannot be
/// given away, a file of a read-only file system say.
fn give_stdio(uid: u32, is_own_terminal: bool) {
    for number in 0..=2 {
        let descriptor = sys::borrow_descriptor(number);
        let Ok(stat) = fstat(descriptor) else { continue };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        if stat.st_uid != uid && (is_own_terminal || !is_device) {
            let _ = fchown(descriptor, Some(rustix::fs::Uid::from_raw(uid)), None);
        }
    }
}

/// The same for a program in a new user namespace, from outside of it: inside, what belongs to
/// nobody there cannot be given away. `uid` is the caller's name for the user. A file with a
/// name of its own stays the caller's.
pub fn give_pipes(uid: u32) {
    for number in 0..=2 {
        let descriptor = sys::borrow_descriptor(number);
        let Ok(stat) = fstat(descriptor) else { continue };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if stat.st_uid != uid && matches!(kind, FileType::Fifo | FileType::Socket) {
            let _ = fchown(descriptor, Some(rustix::fs::Uid::from_raw(uid)), None);
        }
    }
}

/// Capabilities as bit masks: what the runtime holds, and what of the wanted sets it can give.
struct Granted {
    held: u64,
    wanted: CapabilitySets,
}

impl Granted {
    fn of(plan: &ProcessPlan) -> Result<Self> {
        let field = plan.field.of("capabilities");
        let held = capabilities(None).context("capget").in_field(&field)?.permitted.bits();
        let granted = plan.capabilities.of_what_is(held, &field);
        granted.warnings.iter().for_each(log::warn);
        Ok(Self { held, wanted: granted.sets })
    }
}

/// Changes ids and capabilities. Returns the sets that the program is to have;
/// those in force keep CAP_SYS_ADMIN where the filter will need it.
fn set_user(plan: &ProcessPlan, granted: &Granted) -> Result<ThreadSets> {
    let field = plan.field.of("capabilities");
    let &Granted { held, ref wanted } = granted;
    drop_bounding(plan.capabilities.bounding, held).in_field(format!("{field}.bounding"))?;
    set_keep_capabilities(true).context("prctl")?;
    set_ids(plan)?;
    let extra = if plan.filter_needs_admin() { SYS_ADMIN & held } else { 0 };
    let sets = |extra: u64| ThreadSets {
        effective: CapabilitySet::from_bits_retain(wanted.effective | extra),
        permitted: CapabilitySet::from_bits_retain(wanted.permitted | extra),
        inheritable: CapabilitySet::from_bits_retain(wanted.inheritable),
    };
    set_capabilities(None, sets(extra)).context("capset").in_field(&field)?;
    clear_ambient_capability_set().context("prctl").in_field(format!("{field}.ambient"))?;
    for bit in (0..64).map(|number| 1 << number).filter(|bit| wanted.ambient & bit != 0) {
        configure_capability_in_ambient_set(CapabilitySet::from_bits_retain(bit), true)
            .context("prctl")
            .in_field(format!("{field}.ambient"))?;
    }
    Ok(sets(0))
}

/// Drops from the bounding set what is not `wanted`. Who may not drop is left
/// with it; he holds nothing either.
fn drop_bounding(wanted: u64, held: u64) -> Result<()> {
    const SETPCAP: u64 = 1 << 8;
    if held & SETPCAP == 0 {
        return Ok(());
    }
    for number in (0..64).filter(|number| wanted & 1 << number == 0) {
        match kernel::drop_bounding(number) {
            Ok(()) => {}
            // Past the last one that this kernel knows.
            Err(Errno::EINVAL) => break,
            Err(errno) => return Err(errno).context("prctl"),
        }
    }
    Ok(())
}

fn set_ids(plan: &ProcessPlan) -> Result<()> {
    let User { uid, gid, groups, .. } = &plan.user;
    let mut result = kernel::set_ids(*uid, *gid, Some(groups));
    if result == Err(("setgroups", Errno::EPERM)) && groups.is_empty() {
        // In a user namespace that an ordinary user mapped himself nobody may set
        // groups (user_namespaces(7)), so none can be dropped either.
        result = kernel::set_ids(*uid, *gid, None);
    }
    result.map_err(|(call, errno)| {
        let (property, value) = match call {
            "setgroups" => ("user.additionalGids", format!("{groups:?}")),
            "setresgid" => ("user.gid", gid.to_string()),
            _ => ("user.uid", uid.to_string()),
        };
        let error = anyhow::Error::new(errno).context(call).context(value);
        error.context(plan.field.of(property))
    })
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

/// Finds the program as execvp(3) does. The texts are those that engines turn
/// into exit codes 126 and 127.
fn find_program(plan: &ProcessPlan) -> Result<CString> {
    look_up(plan).in_field(plan.field.of("args[0]"))
}

fn look_up(plan: &ProcessPlan) -> Result<CString> {
    let Some(name) = plan.args.first() else { bail!("args must not be empty") };
    let shown = name.to_string_lossy();
    let as_path = |bytes: &[u8]| PathBuf::from(std::ffi::OsStr::from_bytes(bytes));
    if name.as_bytes().contains(&b'/') {
        return match check_program(&as_path(name.as_bytes())) {
            Ok(()) => Ok(name.clone()),
            Err(Refusal::Missing(errno)) => {
                bail!(
                    "exec: {shown:?}: stat {shown}: {}",
                    errno_text(Errno::from_raw(errno.raw_os_error()))
                )
            }
            Err(Refusal::Directory) => bail!("exec: {shown:?}: is a directory"),
            Err(Refusal::Permission) => bail!("exec: {shown:?}: permission denied"),
        };
    }
    let mut refused = false;
    let path = plan.variable("PATH").unwrap_or(DEFAULT_PATH);
    for directory in path.split(|byte| *byte == b':') {
        let directory = if directory.is_empty() { b"." } else { directory };
        let candidate = [directory, b"/", name.as_bytes()].concat();
        match check_program(&as_path(&candidate)) {
            Ok(()) => return Ok(CString::new(candidate)?),
            Err(Refusal::Permission) => refused = true,
            Err(_) => {}
        }
    }
    if refused && !name.is_empty() {
        bail!("exec: {shown:?}: permission denied");
    }
    bail!("exec: {shown:?}: executable file not found in $PATH")
}

/// Why a file cannot be the program.
enum Refusal {
    Missing(rustix::io::Errno),
    Directory,
    Permission,
}

fn check_program(path: &Path) -> std::result::Result<(), Refusal> {
    let stat = statat(CWD, path, AtFlags::empty()).map_err(|errno| match errno {
        rustix::io::Errno::ACCESS => Refusal::Permission,
        errno => Refusal::Missing(errno),
    })?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(Refusal::Directory);
    }
    accessat(CWD, path, rustix::fs::Access::EXEC_OK, AtFlags::EACCESS)
        .map_err(|_| Refusal::Permission)
}

/// An errno in the words that engines look for, all lower case.
pub(crate) fn errno_text(errno: Errno) -> String {
    let text = errno.desc();
    let mut chars = text.chars();
    chars.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(chars).collect()
}

/// The home directory of a user by the container's /etc/passwd, which is hostile:
/// it may be a FIFO or endless.
fn home_directory(uid: u32) -> Vec<u8> {
    const LONGEST: u64 = 1 << 20;
    let read = || -> Option<Vec<u8>> {
        use std::io::Read as _;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = open("/etc/passwd", flags, Mode::empty()).ok()?;
        let stat = fstat(file.as_fd()).ok()?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return None;
        }
        let mut text = Vec::new();
        fs::File::from(file).take(LONGEST).read_to_end(&mut text).ok()?;
        text.split(|byte| *byte == b'\n').find_map(|line| {
            let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
            let [_, _, id, _, _, home, ..] = fields.as_slice() else { return None };
            (*id == uid.to_string().as_bytes() && !home.is_empty()).then(|| home.to_vec())
        })
    };
    read().unwrap_or_else(|| b"/".to_vec())
}
