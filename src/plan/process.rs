//! `process`: everything that the program gets besides its file system.
//!
//! `create` and `exec` share it, and so does everything that init does with it.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};
use ferrun_seccomp::Filter;
use oci_spec::runtime::{
    IOPriorityClass, LinuxSchedulerFlag, LinuxSchedulerPolicy, LinuxSeccomp, PosixRlimitType,
    Process, Scheduler,
};

use super::capabilities::CapabilitySets;
use super::last_calls::may_come_first;
use super::numbers::{self, HIGHEST, bit_mask};
use super::request::{Console, Streams};
use crate::abi::SchedulerAttributes;
use crate::error::InField as _;

/// What the program is and runs with.
#[derive(Debug, Clone)]
pub struct ProcessPlan {
    /// Its place in the configuration: `process`, or `` for exec's own file.
    pub field: Field,
    /// argv, never empty.
    pub args: Vec<CString>,
    /// environ, as given.
    pub env: Vec<CString>,
    /// The working directory inside.
    pub cwd: PathBuf,
    /// A pty for stdin, stdout and stderr.
    pub terminal: Option<Terminal>,
    /// User and groups inside.
    pub user: User,
    /// The five capability sets.
    pub capabilities: CapabilitySets,
    /// Resource limits, each type once.
    pub rlimits: Vec<Rlimit>,
    /// no_new_privs.
    pub no_new_privileges: bool,
    /// The value for oom_score_adj; None leaves it.
    pub oom_score_adj: Option<i32>,
    /// I/O class and priority.
    pub io_priority: Option<(u32, u32)>,
    /// Scheduling policy.
    pub scheduler: Option<SchedulerAttributes>,
    /// The seccomp filter.
    pub filter: Option<Filter>,
    /// Whether it is loaded as soon as the process has the rights of the program.
    pub filter_comes_first: bool,
    /// The AppArmor profile.
    pub apparmor_profile: Option<String>,
    /// The SELinux label.
    pub selinux_label: Option<String>,
    /// The processors of a process that `exec` adds.
    pub exec_affinity: ExecAffinity,
    /// How many descriptors after stdio it gets.
    pub descriptors: u32,
    /// The caller's name for the user of a new user namespace, who gets the pipes and sockets
    /// among stdio.
    pub pipes_owner: Option<u32>,
}

/// Processors as bit masks, lowest first; None leaves what is
/// (config.md#linux-process, execCPUAffinity).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecAffinity {
    /// Before the process joins the container's cgroup.
    pub initial: Option<Vec<u64>>,
    /// After that.
    pub last: Processors,
}

/// The processors of a process in its cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Processors {
    /// All that the cgroup has.
    #[default]
    All,
    /// Those of this bit mask.
    These(Vec<u64>),
    /// What the kernel makes of those that it came with.
    Kept,
}

/// The place of the process in the configuration, for errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field(&'static str);

impl Field {
    /// config.json's.
    pub const CONFIG: Self = Self("process.");
    /// A file that holds a process alone, or the command line.
    pub const OWN: Self = Self("");

    /// The full name of a property of the process.
    pub fn of(self, property: &str) -> Property<'_> {
        Property { of: self, property }
    }
}

/// The full name of a property of the process, put into words only where an error needs it.
#[derive(Debug, Clone, Copy)]
pub struct Property<'a> {
    of: Field,
    property: &'a str,
}

impl fmt::Display for Property<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.of.0)?;
        f.write_str(self.property)
    }
}

/// The terminal of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terminal {
    /// Rows and columns; None leaves them as they come.
    pub size: Option<(u16, u16)>,
    /// The socket of whoever serves it; None: the caller does.
    pub socket: Option<PathBuf>,
    /// Whether lines end as the program writes them. Else it is a terminal like any other, whose
    /// driver puts a carriage return before each line feed.
    pub keeps_line_ends: bool,
}

/// Whom the program runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// Supplementary groups, each once.
    pub groups: Vec<u32>,
    /// The file mode creation mask.
    pub umask: u32,
}

/// One resource limit (getrlimit(2)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rlimit {
    /// `process.rlimits[n]`.
    pub field: String,
    /// What is limited.
    pub kind: PosixRlimitType,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

impl ProcessPlan {
    /// Plans a process. `field` says where in the configuration it stands.
    pub fn plan(
        process: &Process,
        seccomp: Option<&LinuxSeccomp>,
        field: Field,
        streams: &Streams,
    ) -> Result<Self> {
        let strings = |property: &str, texts: &Option<Vec<String>>| {
            texts
                .iter()
                .flatten()
                .enumerate()
                .map(|(at, text)| {
                    CString::new(text.as_str())
                        .in_field(format_args!("{}[{at}]", field.of(property)))
                })
                .collect::<Result<Vec<_>>>()
        };
        let args = strings("args", process.args())?;
        if args.is_empty() {
            bail!("{}: args must not be empty", field.of("args"));
        }
        let cwd = process.cwd().clone();
        if !cwd.is_absolute() {
            bail!("{}: {cwd:?}: not absolute", field.of("cwd"));
        }
        let filter = seccomp
            .map(|profile| ferrun_seccomp::compile(profile, ferrun_seccomp::Arch::native()))
            .transpose()
            // They begin with the field below.
            .map_err(|error| anyhow!("linux.seccomp.{error:#}"))?;
        let listens = seccomp.is_some_and(|profile| profile.listener_path().is_some());
        if filter.as_ref().is_some_and(|filter| filter.notifies) && !listens {
            bail!("linux.seccomp.listenerPath: missing, and SCMP_ACT_NOTIFY needs it");
        }
        let mut planned = Self {
            field,
            args,
            env: environment(process, field)?,
            cwd,
            terminal: terminal(process, field, streams)?,
            user: user(process, field)?,
            capabilities: CapabilitySets::plan(process),
            rlimits: rlimits(process, field)?,
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            oom_score_adj: oom_score_adj(process, field)?,
            io_priority: io_priority(process, field)?,
            scheduler: scheduler(process, field)?,
            filter_comes_first: filter.as_ref().is_some_and(may_come_first),
            filter,
            apparmor_profile: label("apparmorProfile", process.apparmor_profile(), field)?,
            selinux_label: label("selinuxLabel", process.selinux_label(), field)?,
            exec_affinity: exec_affinity(process, field)?,
            descriptors: streams.preserved + streams.listening,
            pipes_owner: None,
        };
        if streams.listening > 0 {
            // They follow stdio. The pid is that of a container's init process.
            planned.set_variable("LISTEN_FDS", &streams.listening.to_string())?;
            planned.set_variable("LISTEN_PID", "1")?;
        }
        Ok(planned)
    }

    /// Whether a process in between cannot hand its scheduling policy on: then the creator
    /// gives it to the one that stays.
    pub fn gets_scheduler_by_creator(&self) -> bool {
        self.scheduler.as_ref().is_some_and(|scheduler| !scheduler.are_inherited())
    }

    /// Gives it a variable, whatever its configuration says of that.
    pub(super) fn set_variable(&mut self, name: &str, value: &str) -> Result<()> {
        self.env.retain(|other| name_of(other.as_bytes()) != name.as_bytes());
        self.env.push(CString::new(format!("{name}={value}")).in_field(name)?);
        Ok(())
    }

    /// Whether its filter is loaded with a right that the program does not get (seccomp(2)).
    pub fn filter_needs_admin(&self) -> bool {
        self.filter.is_some() && !self.no_new_privileges
    }

    /// Whether the program is looked for by a path that may lead through /proc, by its name
    /// alone: /dev/fd and its like are links to there.
    pub fn may_be_in_proc(&self) -> bool {
        let name = self.args.first().map(|name| name.as_bytes()).unwrap_or_default();
        let path = self.variable("PATH").unwrap_or_default();
        let places = if name.contains(&b'/') { name } else { path };
        places.split(|byte| *byte == b':').any(is_below_proc) || self.cwd_may_be_in_proc()
    }

    /// The same of its working directory.
    pub fn cwd_may_be_in_proc(&self) -> bool {
        is_below_proc(self.cwd.as_os_str().as_bytes())
    }

    /// What it runs as, for the log. Of its environment nothing but the number of variables.
    pub fn summary(&self) -> String {
        let User { uid, gid, groups, .. } = &self.user;
        let CapabilitySets { effective, bounding, ambient, .. } = self.capabilities;
        let filter = match &self.filter {
            None => "no filter".to_owned(),
            Some(filter) => {
                let first = self.filter_comes_first;
                let when = if first { "with its rights" } else { "just before execve" };
                format!("a filter of {} instructions, loaded {when}", filter.instructions.len())
            }
        };
        format!(
            "{}: {:?}, {} arguments, {} variables; uid {uid}, gid {gid}, groups {groups:?}; \
             capabilities: effective {effective:#x}, bounding {bounding:#x}, ambient {ambient:#x}; \
             no_new_privs {}; {} limits; {filter}",
            self.field.of("args[0]"),
            self.args.first().map(|name| name.to_string_lossy()).unwrap_or_default(),
            self.args.len(),
            self.env.len(),
            self.no_new_privileges,
            self.rlimits.len(),
        )
    }

    /// Its label or profile, as errors name it.
    pub fn named_label(&self) -> Option<String> {
        let named = |property: &str, text: &Option<String>| {
            text.as_ref().map(|text| format!("{} {text:?}", self.field.of(property)))
        };
        named("selinuxLabel", &self.selinux_label)
            .or_else(|| named("apparmorProfile", &self.apparmor_profile))
    }

    /// The value of a variable of the environment.
    pub fn variable(&self, name: &str) -> Option<&[u8]> {
        self.env
            .iter()
            .find_map(|entry| entry.as_bytes().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    }
}

fn environment(process: &Process, field: Field) -> Result<Vec<CString>> {
    let given = process.env().as_deref().unwrap_or_default();
    for (at, entry) in given.iter().enumerate() {
        // A value is nobody's to read but the program's.
        let problem = match entry.find('=') {
            None => format!("{entry:?}: missing '='"),
            Some(0) => "a value without a name".to_owned(),
            Some(_) => continue,
        };
        bail!("{}: {problem}", field.of(&format!("env[{at}]")));
    }
    let kept = last_of_each_name(given);
    kept.into_iter().map(|entry| CString::new(entry).in_field(field.of("env"))).collect()
}

/// The entries of an environment, of each name the last one alone: getenv(3) would take
/// the first, and whoever adds an entry means his own.
pub fn last_of_each_name(entries: &[String]) -> Vec<String> {
    let (mut seen, mut kept) = (BTreeSet::new(), Vec::new());
    for entry in entries.iter().rev() {
        if seen.insert(name_of(entry.as_bytes())) {
            kept.push(entry.clone());
        }
    }
    kept.reverse();
    kept
}

fn is_below_proc(place: &[u8]) -> bool {
    place.starts_with(b"/proc") || place.starts_with(b"/dev")
}

fn name_of(entry: &[u8]) -> &[u8] {
    entry.split(|byte| *byte == b'=').next().unwrap_or_default()
}

/// A label of a security module; an empty one is none. The kernel reads it to the first
/// line feed or NUL.
fn label(property: &str, text: &Option<String>, field: Field) -> Result<Option<String>> {
    let text = text.as_ref().filter(|text| !text.is_empty());
    if let Some(text) = text.filter(|text| text.contains(['\n', '\0'])) {
        bail!("{}: {text:?}: more than one line", field.of(property));
    }
    Ok(text.cloned())
}

fn exec_affinity(process: &Process, field: Field) -> Result<ExecAffinity> {
    let Some(given) = process.exec_cpu_affinity() else { return Ok(ExecAffinity::default()) };
    let mask = |property: &str, list: &Option<String>| match list.as_deref() {
        None | Some("") => Ok(None),
        Some(list) => bit_mask(list, HIGHEST)
            .in_field(field.of(&format!("execCPUAffinity.{property}")))
            .map(Some),
    };
    let initial = mask("initial", given.initial())?;
    let last = match mask("final", given.cpu_affinity_final())? {
        Some(mask) => Processors::These(mask),
        // SHOULD NOT be changed then (config.md#linux-process).
        None if initial.is_some() => Processors::Kept,
        None => Processors::All,
    };
    Ok(ExecAffinity { initial, last })
}

fn terminal(process: &Process, field: Field, streams: &Streams) -> Result<Option<Terminal>> {
    let field = field.of("terminal");
    if !process.terminal().unwrap_or(false) {
        return match streams.console {
            Console::Socket(_) => bail!("--console-socket: given, but {field} is not true"),
            Console::Caller | Console::Embedder | Console::Nobody => Ok(None),
        };
    }
    let socket = match &streams.console {
        Console::Socket(path) => Some(path.clone()),
        Console::Caller | Console::Embedder => None,
        // The words that callers look for.
        Console::Nobody => bail!(
            "{field}: true: cannot allocate tty if ferrun will detach without setting console socket"
        ),
    };
    let given = process.console_size().and_then(|size| {
        let rows = u16::try_from(size.height()).ok().filter(|rows| *rows > 0)?;
        let columns = u16::try_from(size.width()).ok().filter(|columns| *columns > 0)?;
        Some((rows, columns))
    });
    // The caller shows it on a terminal, which has such a driver too.
    let keeps_line_ends = streams.console == Console::Caller;
    Ok(Some(Terminal { size: streams.callers_size.or(given), socket, keeps_line_ends }))
}

/// What runc and crun give. The spec would leave the caller's, but BuildKit's is 0,
/// and every file of a build would be writable to all.
const DEFAULT_UMASK: u32 = 0o022;

/// NGROUPS_MAX of linux/limits.h. An error of setgroups(2) names them all.
const MOST_GROUPS: usize = 65_536;

fn user(process: &Process, field: Field) -> Result<User> {
    let user = process.user();
    let (mut groups, mut seen) = (Vec::new(), BTreeSet::new());
    for (at, group) in user.additional_gids().iter().flatten().enumerate() {
        let group =
            numbers::id(*group).in_field(field.of(&format!("user.additionalGids[{at}]")))?;
        // Docker gives a group twice where it is the user's own too.
        if seen.insert(group) {
            groups.push(group);
        }
    }
    if groups.len() > MOST_GROUPS {
        let field = field.of("user.additionalGids");
        bail!("{field}: {} groups: more than {MOST_GROUPS}", groups.len());
    }
    let umask = user.umask().unwrap_or(DEFAULT_UMASK);
    if umask > 0o777 {
        bail!("{}: {umask}: more than the permission bits", field.of("user.umask"));
    }
    Ok(User {
        uid: numbers::id(user.uid()).in_field(field.of("user.uid"))?,
        gid: numbers::id(user.gid()).in_field(field.of("user.gid"))?,
        groups,
        umask,
    })
}

fn rlimits(process: &Process, field: Field) -> Result<Vec<Rlimit>> {
    let mut limits: Vec<Rlimit> = Vec::new();
    for (at, limit) in process.rlimits().iter().flatten().enumerate() {
        let name = limit.typ().to_string();
        let field = format!("{}[{at}]", field.of("rlimits"));
        let kind = limit.typ();
        if limits.iter().any(|other| other.kind == kind) {
            bail!("{field}.type: {name} is given twice");
        }
        let (soft, hard) = (limit.soft(), limit.hard());
        if soft > hard {
            bail!("{field}.soft: {soft}: above the hard limit of {hard}");
        }
        limits.push(Rlimit { field, kind, soft, hard });
    }
    Ok(limits)
}

fn oom_score_adj(process: &Process, field: Field) -> Result<Option<i32>> {
    match process.oom_score_adj() {
        Some(score) if !(-1000..=1000).contains(&score) => {
            bail!("{}: {score}: not between -1000 and 1000", field.of("oomScoreAdj"))
        }
        score => Ok(score),
    }
}

fn io_priority(process: &Process, field: Field) -> Result<Option<(u32, u32)>> {
    let Some(given) = process.io_priority() else { return Ok(None) };
    let class = match given.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u32::try_from(given.priority()) {
        Ok(priority) if priority <= 7 => Ok(Some((class, priority))),
        _ => {
            bail!("{}: {}: not between 0 and 7", field.of("ioPriority.priority"), given.priority())
        }
    }
}

fn scheduler(process: &Process, field: Field) -> Result<Option<SchedulerAttributes>> {
    let Some(given) = process.scheduler() else { return Ok(None) };
    let nice = given.nice().unwrap_or(0);
    // The kernel would take the nearest one.
    if !(-20..=19).contains(&nice) {
        bail!("{}: {nice}: not between -20 and 19", field.of("scheduler.nice"));
    }
    let priority = given.priority().unwrap_or(0);
    let Ok(priority) = u32::try_from(priority) else {
        bail!("{}: {priority}: below zero", field.of("scheduler.priority"));
    };
    Ok(Some(scheduler_attributes(given, nice, priority)))
}

fn scheduler_attributes(given: &Scheduler, nice: i32, priority: u32) -> SchedulerAttributes {
    use LinuxSchedulerFlag::*;
    use LinuxSchedulerPolicy::*;
    let policy = match given.policy() {
        SchedOther => 0,
        SchedFifo => 1,
        SchedRr => 2,
        SchedBatch => 3,
        SchedIso => 4,
        SchedIdle => 5,
        SchedDeadline => 6,
    };
    let flag = |flag: &LinuxSchedulerFlag| match flag {
        SchedResetOnFork => 0x01,
        SchedFlagReclaim => 0x02,
        SchedFlagDLOverrun => 0x04,
        SchedFlagKeepPolicy => 0x08,
        SchedFlagKeepParams => 0x10,
        SchedFlagUtilClampMin => 0x20,
        SchedFlagUtilClampMax => 0x40,
    };
    SchedulerAttributes {
        size: 0,
        policy,
        flags: given.flags().iter().flatten().map(flag).fold(0, |a, b| a | b),
        nice,
        priority,
        runtime: given.runtime().unwrap_or(0),
        deadline: given.deadline().unwrap_or(0),
        period: given.period().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(rest: &str) -> Result<ProcessPlan> {
        plan_with(rest, &Streams::default())
    }

    fn plan_with(rest: &str, streams: &Streams) -> Result<ProcessPlan> {
        let json = format!(r#"{{"cwd":"/","user":{{"uid":1,"gid":2}},"args":["true"]{rest}}}"#);
        ProcessPlan::plan(&serde_json::from_str(&json).unwrap(), None, Field::CONFIG, streams)
    }

    #[test]
    fn capabilities_are_bits() {
        let sets = plan(
            r#","capabilities":{"bounding":["CAP_CHOWN","CAP_SYS_ADMIN"],"ambient":["CAP_KILL"]}"#,
        )
        .unwrap()
        .capabilities;
        assert_eq!((sets.bounding, sets.ambient, sets.permitted), (1 | 1 << 21, 1 << 5, 0));
        assert_eq!(plan("").unwrap().capabilities, CapabilitySets::default());
    }

    #[test]
    fn each_parameter_of_the_scheduler_has_its_place() {
        let json = r#","scheduler":{"policy":"SCHED_DEADLINE","nice":-3,"priority":4,
            "runtime":5,"deadline":6,"period":7,"flags":["SCHED_FLAG_KEEP_POLICY"]}"#;
        assert_eq!(
            plan(json).unwrap().scheduler.unwrap(),
            SchedulerAttributes {
                size: 0,
                policy: 6,
                flags: 8,
                nice: -3,
                priority: 4,
                runtime: 5,
                deadline: 6,
                period: 7,
            }
        );
    }

    #[test]
    fn groups_are_kept_once() {
        let process: Process = serde_json::from_str(
            r#"{"cwd":"/","args":["a"],"user":{"uid":0,"gid":0,"additionalGids":[0,10,0]}}"#,
        )
        .unwrap();
        let planned =
            ProcessPlan::plan(&process, None, Field::CONFIG, &Streams::default()).unwrap();
        assert_eq!(planned.user.groups, [0, 10]);
    }

    #[test]
    fn there_are_no_more_groups_than_the_kernel_takes() {
        let planned = |count: u32| {
            let gids: Vec<_> = (0..count).collect();
            let user = format!(r#"{{"uid":0,"gid":0,"additionalGids":{gids:?}}}"#);
            let json = format!(r#"{{"cwd":"/","args":["a"],"user":{user}}}"#);
            let process = serde_json::from_str(&json).unwrap();
            ProcessPlan::plan(&process, None, Field::CONFIG, &Streams::default())
                .map(|planned| planned.user.groups.len())
                .map_err(|error| error.to_string())
        };
        assert_eq!(planned(65_536), Ok(65_536));
        let refused = "process.user.additionalGids: 65537 groups: more than 65536";
        assert_eq!(planned(65_537), Err(refused.to_owned()));
    }

    #[test]
    fn a_variable_is_there_once_with_its_last_value() {
        let given = r#","env":["PATH=/a","PATHS=/c","LISTEN_FDS=9","PATH=/b","E="]"#;
        let streams = Streams { preserved: 1, listening: 2, ..Streams::default() };
        let planned = plan_with(given, &streams).unwrap();
        assert_eq!(planned.variable("PATH"), Some(&b"/b"[..]));
        assert_eq!(planned.variable("HOME"), None);
        assert_eq!(planned.descriptors, 3);
        let env: Vec<_> = planned.env.iter().map(|entry| entry.to_str().unwrap()).collect();
        assert_eq!(env, ["PATHS=/c", "PATH=/b", "E=", "LISTEN_FDS=2", "LISTEN_PID=1"]);
    }

    #[test]
    fn what_is_no_variable_is_refused_by_its_field() {
        for (entry, reason) in [("odd", "\"odd\": missing '='"), ("=x", "a value without a name")] {
            let error = plan(&format!(r#","env":["A=1","{entry}"]"#)).unwrap_err();
            assert_eq!(error.to_string(), format!("process.env[1]: {reason}"));
        }
    }

    #[test]
    fn a_console_size_counts_only_with_a_terminal_and_when_it_is_known() {
        for (json, expected) in [
            (r#","consoleSize":{"height":1,"width":2}"#, None),
            (r#","terminal":true"#, Some(None)),
            (r#","terminal":true,"consoleSize":{"height":0,"width":0}"#, Some(None)),
            (r#","terminal":true,"consoleSize":{"height":0,"width":80}"#, Some(None)),
            (r#","terminal":true,"consoleSize":{"height":24,"width":0}"#, Some(None)),
            (r#","terminal":true,"consoleSize":{"height":24,"width":65536}"#, Some(None)),
            (r#","terminal":true,"consoleSize":{"height":24,"width":80}"#, Some(Some((24, 80)))),
        ] {
            let terminal = plan(json).unwrap().terminal;
            assert_eq!(terminal.map(|terminal| terminal.size), expected, "{json}");
        }
    }

    #[test]
    fn a_terminal_is_served_by_the_caller_or_at_a_socket_and_by_nobody_else() {
        let own = r#","terminal":true,"consoleSize":{"height":24,"width":80}"#;
        let planned = |rest: &str, console: Console| {
            let streams = Streams { console, callers_size: Some((1, 2)), ..Streams::default() };
            plan_with(rest, &streams).map(|planned| planned.terminal)
        };
        let terminal = planned(own, Console::Caller).unwrap().unwrap();
        assert_eq!((terminal.size, &terminal.socket), (Some((1, 2)), &None));
        assert!(terminal.keeps_line_ends);
        let terminal = planned(own, Console::Socket("/s".into())).unwrap().unwrap();
        assert_eq!((&terminal.socket, terminal.keeps_line_ends), (&Some("/s".into()), false));
        let terminal = planned(own, Console::Embedder).unwrap().unwrap();
        assert_eq!((&terminal.socket, terminal.keeps_line_ends), (&None, false));
        assert_eq!(planned("", Console::Nobody).unwrap(), None);
        for (rest, console, reason) in [
            (
                "",
                Console::Socket("/s".into()),
                "--console-socket: given, but process.terminal is not true",
            ),
            (
                own,
                Console::Nobody,
                "process.terminal: true: cannot allocate tty if ferrun will detach without \
                 setting console socket",
            ),
        ] {
            assert_eq!(planned(rest, console).unwrap_err().to_string(), reason);
        }
    }

    #[test]
    fn lists_of_processors_become_masks() {
        let planned = plan(r#","execCPUAffinity":{"initial":"0-1,3"}"#).unwrap();
        let expected = ExecAffinity { initial: Some(vec![0b1011]), last: Processors::Kept };
        assert_eq!(planned.exec_affinity, expected);
        let planned = plan(r#","execCPUAffinity":{"final":"64"}"#).unwrap();
        assert_eq!(planned.exec_affinity.last, Processors::These(vec![0, 1]));
        for nothing in ["", r#","execCPUAffinity":{}"#] {
            let expected = ExecAffinity { initial: None, last: Processors::All };
            assert_eq!(plan(nothing).unwrap().exec_affinity, expected, "{nothing}");
        }
        let error = plan(r#","execCPUAffinity":{"final":"5000"}"#).unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            r#"process.execCPUAffinity.final: "5000": not a range up to 1023"#
        );
    }

    #[test]
    fn rlimits_and_scheduling_become_numbers() {
        let planned = plan(
            r#","rlimits":[{"type":"RLIMIT_NOFILE","soft":1,"hard":2}],
               "ioPriority":{"class":"IOPRIO_CLASS_IDLE","priority":7},
               "scheduler":{"policy":"SCHED_BATCH","nice":5,"flags":["SCHED_RESET_ON_FORK"]}"#,
        )
        .unwrap();
        assert_eq!(planned.rlimits[0].kind, PosixRlimitType::RlimitNofile);
        assert_eq!(planned.io_priority, Some((3, 7)));
        let expected = SchedulerAttributes { policy: 3, flags: 1, nice: 5, ..Default::default() };
        assert_eq!(planned.scheduler, Some(expected));
    }

    #[test]
    fn the_utmost_values_are_taken() {
        for score in [-1000, -1, 0, 5, 1000] {
            let planned = plan(&format!(r#","oomScoreAdj":{score}"#)).unwrap();
            assert_eq!(planned.oom_score_adj, Some(score));
        }
        assert_eq!(plan("").unwrap().oom_score_adj, None);
        for nice in [-20, 19] {
            let rest = format!(r#","scheduler":{{"policy":"SCHED_OTHER","nice":{nice}}}"#);
            assert_eq!(plan(&rest).unwrap().scheduler.unwrap().nice, nice);
        }
    }

    #[test]
    fn a_umask_is_permission_bits_and_0022_where_none_is_given() {
        let umask = |user: &str| {
            let json = format!(r#"{{"cwd":"/","args":["a"],"user":{{"uid":0,"gid":0{user}}}}}"#);
            let process = serde_json::from_str(&json).unwrap();
            ProcessPlan::plan(&process, None, Field::CONFIG, &Streams::default())
                .map(|planned| planned.user.umask)
        };
        assert_eq!((umask("").unwrap(), umask(r#","umask":511"#).unwrap()), (0o022, 0o777));
        assert_eq!(
            umask(r#","umask":512"#).unwrap_err().to_string(),
            "process.user.umask: 512: more than the permission bits"
        );
    }

    #[test]
    fn a_path_may_lead_through_proc_by_its_own_name_or_that_of_a_link_to_there() {
        let places = |name: &str, cwd: &str| {
            let json = format!(
                r#"{{"cwd":"{cwd}","args":["{name}"],"user":{{"uid":0,"gid":0}},
                "env":["PATH=/bin:/dev/fd"]}}"#
            );
            let process = serde_json::from_str(&json).unwrap();
            let planned =
                ProcessPlan::plan(&process, None, Field::CONFIG, &Streams::default()).unwrap();
            (planned.may_be_in_proc(), planned.cwd_may_be_in_proc())
        };
        assert_eq!(places("/bin/a", "/"), (false, false), "PATH is for names");
        assert_eq!(places("a", "/"), (true, false));
        assert_eq!(places("/proc/self/exe", "/"), (true, false));
        assert_eq!(places("/dev/fd/3", "/"), (true, false));
        assert_eq!(places("/bin/a", "/proc/self/fd/3"), (true, true));
        assert_eq!(places("./a", "/dev/fd/3"), (true, true));
    }

    #[test]
    fn a_policy_that_is_not_inherited_is_the_creators_to_give() {
        let by_creator = |rest: &str| plan(rest).unwrap().gets_scheduler_by_creator();
        assert!(!by_creator(""));
        assert!(!by_creator(r#","scheduler":{"policy":"SCHED_BATCH"}"#));
        assert!(by_creator(
            r#","scheduler":{"policy":"SCHED_BATCH","flags":["SCHED_RESET_ON_FORK"]}"#
        ));
    }

    #[test]
    fn an_error_names_the_label_that_there_is() {
        let named = |rest: &str| plan(rest).unwrap().named_label();
        assert_eq!(named(r#","selinuxLabel":"","apparmorProfile":"""#), None);
        assert_eq!(
            named(r#","selinuxLabel":"l","apparmorProfile":"p""#).as_deref(),
            Some(r#"process.selinuxLabel "l""#)
        );
        assert_eq!(
            named(r#","apparmorProfile":"p""#).as_deref(),
            Some(r#"process.apparmorProfile "p""#)
        );
    }

    #[test]
    fn a_filter_that_notifies_needs_somebody_who_listens() {
        let planned = |action: &str, listener: &str| {
            let process = r#"{"cwd":"/","args":["a"],"user":{"uid":0,"gid":0}}"#;
            let profile = format!(
                r#"{{"defaultAction":"SCMP_ACT_ALLOW"{listener},
                "syscalls":[{{"names":["mkdir"],"action":"{action}"}}]}}"#
            );
            let profile = serde_json::from_str(&profile).unwrap();
            let process = serde_json::from_str(process).unwrap();
            ProcessPlan::plan(&process, Some(&profile), Field::CONFIG, &Streams::default())
                .map_or_else(|error| error.to_string(), |_| String::new())
        };
        let missing = "linux.seccomp.listenerPath: missing, and SCMP_ACT_NOTIFY needs it";
        assert_eq!(planned("SCMP_ACT_NOTIFY", ""), missing);
        assert_eq!(planned("SCMP_ACT_NOTIFY", r#","listenerPath":"/l""#), "");
        assert_eq!(planned("SCMP_ACT_ERRNO", ""), "");
    }

    #[test]
    fn wrong_values_are_refused_by_their_field() {
        for (json, reason) in [
            (
                r#","rlimits":[{"type":"RLIMIT_CPU","soft":1,"hard":1},{"type":"RLIMIT_CPU","soft":1,"hard":1}]"#,
                "process.rlimits[1].type: RLIMIT_CPU is given twice",
            ),
            (
                r#","rlimits":[{"type":"RLIMIT_CPU","soft":2,"hard":1}]"#,
                "process.rlimits[0].soft: 2: above the hard limit of 1",
            ),
            (r#","oomScoreAdj":1001"#, "process.oomScoreAdj: 1001: not between -1000 and 1000"),
            (r#","oomScoreAdj":-1001"#, "process.oomScoreAdj: -1001: not between -1000 and 1000"),
            (
                r#","scheduler":{"policy":"SCHED_OTHER","nice":-21}"#,
                "process.scheduler.nice: -21: not between -20 and 19",
            ),
            (
                r#","scheduler":{"policy":"SCHED_OTHER","nice":20}"#,
                "process.scheduler.nice: 20: not between -20 and 19",
            ),
            (
                r#","scheduler":{"policy":"SCHED_FIFO","priority":-1}"#,
                "process.scheduler.priority: -1: below zero",
            ),
            (
                r#","ioPriority":{"class":"IOPRIO_CLASS_BE","priority":9}"#,
                "process.ioPriority.priority: 9: not between 0 and 7",
            ),
            (
                r#","apparmorProfile":"p\n""#,
                r#"process.apparmorProfile: "p\n": more than one line"#,
            ),
        ] {
            assert_eq!(plan(json).unwrap_err().to_string(), reason, "{json}");
        }
        let relative = r#"{"cwd":"tmp","args":["a"],"user":{"uid":0,"gid":0}}"#;
        let relative: Process = serde_json::from_str(relative).unwrap();
        let error =
            ProcessPlan::plan(&relative, None, Field::OWN, &Streams::default()).unwrap_err();
        assert_eq!(error.to_string(), r#"cwd: "tmp": not absolute"#);
        let empty = r#"{"cwd":"/","args":[],"user":{"uid":0,"gid":0}}"#;
        let empty: Process = serde_json::from_str(empty).unwrap();
        let error =
            ProcessPlan::plan(&empty, None, Field::CONFIG, &Streams::default()).unwrap_err();
        assert_eq!(error.to_string(), "process.args: args must not be empty");
    }

    #[test]
    fn the_log_says_what_a_program_runs_as_and_no_value_of_its_variables() {
        let rest = r#","env":["SECRET=x","A=b"],"noNewPrivileges":true,
            "capabilities":{"bounding":["CAP_KILL"],"effective":["CAP_CHOWN"]},
            "rlimits":[{"type":"RLIMIT_CORE","soft":0,"hard":1}]"#;
        let planned = plan(rest).unwrap();
        let expected = "process.args[0]: \"true\", 1 arguments, 2 variables; uid 1, gid 2, groups []; \
            capabilities: effective 0x1, bounding 0x20, ambient 0x0; no_new_privs true; 1 limits; \
            no filter";
        assert_eq!(planned.summary(), expected);
        let filter = ferrun_seccomp::Filter {
            instructions: vec![],
            flags: ferrun_seccomp::FilterFlags::LOG,
            notifies: false,
            warnings: vec![],
        };
        let mut filtered = ProcessPlan { filter: Some(filter), ..planned };
        for (first, when) in [(true, "with its rights"), (false, "just before execve")] {
            filtered.filter_comes_first = first;
            let end = format!("a filter of 0 instructions, loaded {when}");
            assert!(filtered.summary().ends_with(&end), "{}", filtered.summary());
        }
    }

    #[test]
    fn a_flag_of_the_scheduler_that_is_given_twice_is_one() {
        let flags = |flags: &str| {
            let rest = format!(r#","scheduler":{{"policy":"SCHED_BATCH","flags":[{flags}]}}"#);
            let scheduler = plan(&rest).unwrap().scheduler.unwrap();
            (scheduler.policy, scheduler.flags)
        };
        let (fork, clamp) = (r#""SCHED_RESET_ON_FORK""#, r#""SCHED_FLAG_UTIL_CLAMP_MIN""#);
        assert_eq!(flags(""), (3, 0));
        assert_eq!(flags(&format!("{fork},{clamp},{fork}")), (3, 0x21));
    }

    #[test]
    fn a_filter_takes_a_right_to_load_where_privileges_may_be_gained() {
        let needs = |seccomp: Option<&str>, no_new_privileges: bool| {
            let json = format!(
                r#"{{"cwd":"/","user":{{"uid":1,"gid":2}},"args":["a"],
                    "noNewPrivileges":{no_new_privileges}}}"#
            );
            let process = serde_json::from_str(&json).unwrap();
            let filter = seccomp.map(|profile| serde_json::from_str(profile).unwrap());
            let streams = Streams::default();
            ProcessPlan::plan(&process, filter.as_ref(), Field::CONFIG, &streams)
                .unwrap()
                .filter_needs_admin()
        };
        let profile = Some(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#);
        assert!(needs(profile, false));
        assert!(!needs(profile, true) && !needs(None, false));
    }
}
