//! What is remembered of a container between two commands, and what may be
//! done with it in which state.
//!
//! A container is a directory ROOT/ID. Making the directory reserves the ID; the
//! record in it is written before anything else is made, so whatever happens to
//! its creator, `delete --force` knows what to look for. The record is replaced
//! by renaming: readers need no lock. The process is never trusted by its pid
//! alone, and whether its program runs is asked of the kernel.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail};
use oci_spec::runtime::{LinuxNamespaceType, LinuxResources};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::cgroups;
use crate::hook_state::HookState;
use crate::plan::cgroup::Group;
use crate::plan::hooks::Hook;
use crate::plan::intel_rdt;

/// The version of the record's format.
pub const VERSION: u32 = 1;
/// The file of the record.
pub const RECORD: &str = "state.json";
/// The copy of config.json that later operations use.
pub const CONFIG: &str = "config.json";
/// The limits of the last update.
const RESOURCES: &str = "resources.json";

/// What is remembered of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The version of this format.
    pub version: u32,
    /// The container's ID.
    pub id: String,
    /// The absolute path of its bundle.
    pub bundle: PathBuf,
    /// The absolute path of its root on the host.
    pub rootfs: PathBuf,
    /// When it was created, RFC 3339.
    pub created: String,
    /// The user id of whoever created it.
    pub owner: u32,
    /// The boot of the machine that the processes belong to.
    pub boot: String,
    /// Who is creating it; None once it is created.
    pub creator: Option<ProcessId>,
    /// Its init process; None until it is made.
    pub init: Option<ProcessId>,
    /// Whether it has a program to start.
    pub has_process: bool,
    /// The namespaces that are not the creator's.
    pub namespaces: Vec<LinuxNamespaceType>,
    /// Whether all its processes end with its init.
    pub own_pids: bool,
    /// Its cgroup.
    pub group: Group,
    /// Its groups in resctrl.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intel_rdt: Option<intel_rdt::Group>,
    /// Whether it has no session keyring of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub callers_keyring: bool,
    /// Mounts to undo one by one, where it has no mount namespace of its own.
    pub mounts: Vec<RecordedMount>,
    /// `annotations` of the configuration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Hooks that `start` calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub poststart: Vec<Hook>,
    /// Hooks that `delete` calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub poststop: Vec<Hook>,
}

/// A mount that was made in somebody else's mount namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedMount {
    /// Where inside of the rootfs.
    pub target: PathBuf,
    /// What was mounted at that place before.
    pub before: u64,
}

/// A process that cannot be mistaken for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its pid, as the creator sees it.
    pub pid: i32,
    /// When it started, in clock ticks since boot (field 22 of /proc/PID/stat).
    pub started: u64,
}

/// The states of a container (runtime.md#state), and `paused`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// `create` is at work, or has died over it.
    Creating,
    /// Everything is there but the program.
    Created,
    /// The program runs.
    Running,
    /// All its processes are frozen.
    Paused,
    /// Its init process has ended.
    Stopped,
}

/// What may be asked of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Run the program.
    Start,
    /// Signal the init process.
    Kill,
    /// Run another program in it.
    Exec,
    /// Freeze.
    Pause,
    /// Thaw.
    Resume,
    /// Remove, without force.
    Delete,
    /// List its processes.
    Ps,
    /// Change its limits.
    Update,
    /// Read what it uses.
    Events,
}

impl Status {
    /// The name that `state` prints.
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }

    /// Whether `operation` is allowed now; if not, the reason in the words that
    /// callers look for.
    pub fn check(self, operation: Operation) -> Result<()> {
        use Operation::*;
        use Status::*;
        let reason = match (operation, self) {
            (Start, Created)
            | (Kill, Created | Running | Paused)
            | (Exec, Created | Running)
            | (Pause, Created | Running)
            | (Resume, Paused)
            | (Delete, Created | Stopped)
            | (Ps, Created | Running | Paused) => return Ok(()),
            // Nothing runs any more, which is not an error for a list.
            (Ps, Stopped) => return Ok(()),
            (Update | Events, Created | Running | Paused) => return Ok(()),
            (_, Creating) => "container is still being created",
            (Start, Running | Paused) => "cannot start an already running container",
            (Start, Stopped) => "cannot start a container that has stopped",
            (Kill | Pause | Update | Events, Stopped) | (Pause, Paused) => "container not running",
            (Exec, Stopped) => "cannot exec in a stopped container",
            (Exec, Paused) => "cannot exec in a paused container (use --ignore-paused to override)",
            (Resume, _) => "container not paused",
            (Delete, Running | Paused) => "is not stopped",
        };
        bail!(reason)
    }
}

/// The directory that holds a directory for each container.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// A container that is remembered.
#[derive(Debug)]
pub struct Container {
    /// Its directory.
    pub directory: PathBuf,
    /// What is remembered.
    pub record: Record,
}

impl Store {
    /// The containers below `root`.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where the container of this ID is remembered. Refuses what is no ID.
    pub fn directory(&self, id: &str) -> Result<PathBuf> {
        check_id(id)?;
        Ok(self.root.join(id))
    }

    /// Reserves an ID by making its directory, which must not exist.
    pub fn reserve(&self, id: &str) -> Result<PathBuf> {
        let directory = self.directory(id)?;
        let make = |path: &Path, mode| DirBuilder::new().mode(mode).create(path);
        let mut made = make(&directory, 0o700);
        if made.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&self.root)
                .with_context(|| format!("--root: {:?}", self.root))?;
            made = make(&directory, 0o700);
        }
        match made {
            Ok(()) => Ok(directory),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                bail!("container with given ID already exists: {id:?}")
            }
            Err(error) => Err(error).with_context(|| format!("mkdir {directory:?}")),
        }
    }

    /// What is remembered of a container.
    pub fn load(&self, id: &str) -> Result<Container> {
        let directory = self.directory(id)?;
        let record = match read_record(&directory) {
            Ok(record) => record,
            Err(error) if is_missing(&error) && directory.is_dir() => {
                bail!(
                    "container {id:?} has no record: its creation was cut short, delete --force removes it"
                )
            }
            Err(error) if is_missing(&error) => bail!("container {id:?} does not exist"),
            Err(error) => return Err(error),
        };
        Ok(Container { directory, record })
    }

    /// All containers, by ID. What cannot be read is passed over with a warning.
    pub fn list(&self) -> Result<Vec<Container>> {
        let entries =
            fs::read_dir(&self.root).with_context(|| format!("--root: {:?}", self.root))?;
        let mut containers = Vec::new();
        for entry in entries {
            let Ok(id) = entry?.file_name().into_string() else { continue };
            let Ok(directory) = self.directory(&id) else { continue };
            match read_record(&directory) {
                Ok(record) => containers.push(Container { directory, record }),
                // Deleted since, a file, or a creation that was cut short.
                Err(error) if is_missing(&error) => {}
                Err(error) => crate::log::warn(format!("container {id:?}: {error:#}")),
            }
        }
        containers.sort_by(|a, b| a.record.id.cmp(&b.record.id));
        Ok(containers)
    }
}

fn is_missing(error: &anyhow::Error) -> bool {
    matches!(crate::error::errno(error), Some(libc::ENOENT | libc::ENOTDIR))
}

/// Makes a file, or empties one, and writes it.
fn write_file(path: &Path, flags: OFlags, text: &[u8]) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | flags;
    let write = || -> std::io::Result<()> {
        let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?;
        File::from(file).write_all(text)
    };
    write().with_context(|| format!("write {path:?}"))
}

fn read_record(directory: &Path) -> Result<Record> {
    let path = directory.join(RECORD);
    let text = fs::read_to_string(&path).with_context(|| format!("{path:?}"))?;
    if text.is_empty() {
        return Err(rustix::io::Errno::NOENT).with_context(|| format!("{path:?}"));
    }
    let record: Record = serde_json::from_str(&text).with_context(|| format!("{path:?}"))?;
    if record.version != VERSION {
        bail!("{path:?}: version {} of the record, this is {VERSION}", record.version);
    }
    Ok(record)
}

/// IDs are names of directories, with the characters that runc allows.
pub fn check_id(id: &str) -> Result<()> {
    const LONGEST: usize = 255;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
    if id.is_empty() {
        bail!("container id cannot be empty");
    }
    if id == "." || id == ".." || id.len() > LONGEST || !id.chars().all(allowed) {
        bail!("invalid container id {id:?}: only letters, digits and _ + - . up to {LONGEST}");
    }
    Ok(())
}

impl Record {
    /// What hooks get to read.
    pub fn hook_state(&self) -> HookState<'_> {
        HookState { id: &self.id, bundle: &self.bundle, annotations: &self.annotations }
    }
}

impl Container {
    /// Writes the record for the first time. Nobody counts on it before it is there:
    /// an empty one is none.
    pub fn save_first(&self) -> Result<()> {
        write_file(&self.directory.join(RECORD), OFlags::EXCL, &serde_json::to_vec(&self.record)?)
    }

    /// Writes the record.
    pub fn save(&self) -> Result<()> {
        self.replace(RECORD, &serde_json::to_vec(&self.record)?)
    }

    /// Writes a file so that a reader finds the old one or the new one whole.
    fn replace(&self, name: &str, text: &[u8]) -> Result<()> {
        let path = self.directory.join(name);
        let new = self.directory.join(format!(".{name}.new"));
        write_file(&new, OFlags::TRUNC, text)?;
        fs::rename(&new, &path).with_context(|| format!("write {path:?}"))
    }

    /// Keeps the configuration as it is now for later operations.
    pub fn keep_config(&self, text: &str) -> Result<()> {
        write_file(&self.directory.join(CONFIG), OFlags::EXCL, text.as_bytes())
    }

    /// The configuration as it was at create.
    pub fn config(&self) -> Result<Box<oci_spec::runtime::Spec>> {
        let path = self.directory.join(CONFIG);
        let text = fs::read_to_string(&path).with_context(|| format!("{path:?}"))?;
        crate::bundle::parse_stored(&text).with_context(|| format!("{path:?}"))
    }

    /// The limits in force: those of the configuration, or of the last update.
    pub fn resources(&self) -> Result<Option<LinuxResources>> {
        let path = self.directory.join(RESOURCES);
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map(Some).with_context(|| format!("{path:?}")),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let spec = self.config()?;
                Ok(spec.linux().as_ref().and_then(|linux| linux.resources().clone()))
            }
            Err(error) => Err(error).with_context(|| format!("{path:?}")),
        }
    }

    /// Keeps the limits of an update for the next one.
    pub fn keep_resources(&self, resources: &LinuxResources) -> Result<()> {
        self.replace(RESOURCES, &serde_json::to_vec(resources)?)
    }

    /// A descriptor of the directory.
    pub fn open_directory(&self) -> Result<OwnedFd> {
        let file = File::open(&self.directory).with_context(|| format!("{:?}", self.directory))?;
        Ok(file.into())
    }

    /// Holds the container against others that want to change it, until the
    /// descriptor is closed.
    pub fn lock(&self) -> Result<OwnedFd> {
        let directory = self.open_directory()?;
        rustix::io::retry_on_intr(|| flock(directory.as_fd(), FlockOperation::LockExclusive))
            .context("lock")?;
        Ok(directory)
    }

    /// Whether this is still the container that is remembered under its ID.
    pub fn is_current(&self) -> bool {
        read_record(&self.directory).is_ok_and(|now| now.created == self.record.created)
    }

    /// The status, as the kernel tells it now.
    pub fn status(&self) -> Result<Status> {
        if self.record.creator.is_some() {
            return Ok(Status::Creating);
        }
        let Some(init) = self.running_init() else { return Ok(Status::Stopped) };
        // A frozen created container is paused too, as under runc.
        if cgroups::is_frozen(&self.record.group).unwrap_or(false) {
            return Ok(Status::Paused);
        }
        Ok(if init.has_executed { Status::Running } else { Status::Created })
    }

    /// The status with an error for an operation that it does not allow.
    pub fn check(&self, operation: Operation) -> Result<Status> {
        let status = self.status()?;
        status.check(operation)?;
        Ok(status)
    }

    /// The init process, if it is alive.
    pub fn running_init(&self) -> Option<ProcessFacts> {
        let init = self.record.init?;
        if self.record.boot != boot_id() {
            return None;
        }
        let facts = ProcessFacts::read(init.pid)?;
        (facts.started == init.started && !facts.is_dead).then_some(facts)
    }

    /// A handle on the init process: None if it has ended.
    pub fn open_init(&self) -> Result<Option<OwnedFd>> {
        let Some(init) = self.record.init else { return Ok(None) };
        // Looked at after the handle is taken: it is of this process or of none.
        let pidfd = open_process(init)?;
        Ok(pidfd.filter(|_| self.running_init().is_some()))
    }
}

/// A handle on a process: None if its pid is nobody's or another one's.
pub fn open_process(process: ProcessId) -> Result<Option<OwnedFd>> {
    let Some(pid) = Pid::from_raw(process.pid) else { return Ok(None) };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        // Kernels to 6.12 say INVAL of a process that is just being reaped.
        Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(None),
        Err(errno) => return Err(errno).context("pidfd_open"),
    };
    let same = ProcessFacts::read(process.pid).is_some_and(|now| now.started == process.started);
    Ok(same.then_some(pidfd))
}

/// What /proc/PID/stat says of a process (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessFacts {
    /// Its pid.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub started: u64,
    /// Whether it is a zombie, or less.
    pub is_dead: bool,
    /// Whether it has called execve(2) since it was cloned.
    pub has_executed: bool,
}

impl ProcessFacts {
    /// Reads the facts; None where there is no such process.
    pub fn read(pid: i32) -> Option<Self> {
        let mut buffer = [0; 1024];
        Self::parse(pid, read_line(&format!("/proc/{pid}/stat"), &mut buffer)?)
    }

    fn parse(pid: i32, text: &str) -> Option<Self> {
        /// The flag of a process that was cloned and has not called execve(2).
        const PF_FORKNOEXEC: u64 = 0x40;
        // The name, in brackets, may hold anything, brackets too.
        let (_, fields) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            pid,
            started: number(22)?,
            is_dead: matches!(*fields.first()?, "Z" | "X" | "x"),
            has_executed: number(9)? & PF_FORKNOEXEC == 0,
        })
    }

    /// The process as it is remembered.
    pub fn id(&self) -> ProcessId {
        ProcessId { pid: self.pid, started: self.started }
    }
}

/// The random name of this boot of the machine; empty where it cannot be read.
pub fn boot_id() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        let mut buffer = [0; 64];
        let id = read_line("/proc/sys/kernel/random/boot_id", &mut buffer);
        id.unwrap_or_default().trim_end().to_owned()
    })
}

/// Reads a file of procfs that is one short line, with one read(2).
fn read_line<'buffer>(path: &str, buffer: &'buffer mut [u8]) -> Option<&'buffer str> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    let length = rustix::io::read(file, &mut *buffer).ok()?;
    std::str::from_utf8(buffer.get(..length)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_what_runc_allows() {
        for good in ["a", "A-b_c+d.9", "...", &"x".repeat(255)] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "../x", "a/b", "a b", "é", &"x".repeat(256), "a\n"] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_life_cycle_allows_this_and_nothing_else() {
        use Operation::*;
        use Status::*;
        let operations = [Start, Kill, Exec, Pause, Resume, Delete, Ps, Update, Events];
        for (status, allowed) in [
            (Creating, vec![]),
            (Created, vec![Start, Kill, Exec, Pause, Delete, Ps, Update, Events]),
            (Running, vec![Kill, Exec, Pause, Ps, Update, Events]),
            (Paused, vec![Kill, Resume, Ps, Update, Events]),
            (Stopped, vec![Delete, Ps]),
        ] {
            for operation in operations {
                assert_eq!(
                    status.check(operation).is_ok(),
                    allowed.contains(&operation),
                    "{operation:?} when {status:?}"
                );
            }
        }
    }

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let rest = "1 1 1 0 -1 4194368 1 2 3 4 5 6 7 8 20 0 1 0 777 0 0";
        let facts = ProcessFacts::parse(7, &format!("7 (a) b) S {rest}")).unwrap();
        assert_eq!(
            facts,
            ProcessFacts { pid: 7, started: 777, is_dead: false, has_executed: false }
        );
        assert!(ProcessFacts::parse(7, &format!("7 (a) Z {rest}")).unwrap().is_dead);
        assert_eq!(ProcessFacts::parse(7, "7 (a) S 1"), None);
        let own = ProcessFacts::read(std::process::id() as i32).unwrap();
        assert!(own.has_executed && !own.is_dead);
    }

    #[test]
    fn an_id_can_be_reserved_once() {
        let root = std::env::temp_dir().join(format!("ferrun-state-{}", std::process::id()));
        let store = Store::new(root.join("deeper"));
        store.reserve("a").unwrap();
        let error = store.reserve("a").unwrap_err();
        assert_eq!(error.to_string(), r#"container with given ID already exists: "a""#);
        let error = store.load("b").unwrap_err();
        assert_eq!(error.to_string(), r#"container "b" does not exist"#);
        let error = store.load("a").unwrap_err();
        assert!(error.to_string().contains("cut short"), "{error}");
        fs::remove_dir_all(root).unwrap();
    }
}
