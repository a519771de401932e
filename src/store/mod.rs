//! What is remembered of a container between two commands, and what may be
//! done with it in which state.
//!
//! A container is a directory ROOT/ID. Making the directory reserves the ID; the
//! record in it is written before anything else is made, so whatever happens to
//! its creator, `delete --force` knows what to look for. The record is replaced
//! by renaming: readers need no lock. The process is never trusted by its pid
//! alone, and whether its program runs is asked of the kernel.

mod lifecycle;
pub mod record;
mod state_json;

use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use oci_spec::runtime::LinuxResources;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use self::record::FoundRecord;
use crate::cgroups::{self, Stats, resctrl};
use crate::error::Kind;
use crate::plan::cgroup::unit::{Property, documentation};
use crate::processes::{boot_id, hold, open_process};

pub use self::lifecycle::{Operation, Status};
pub use self::record::{CONFIG, Foreign, Maker, RECORD, Record, RecordedMount, VERSION};
pub use self::state_json::{Identity, More, StateJson};
pub use crate::processes::{ProcessFacts, ProcessId};

/// The limits of the last update.
const RESOURCES: &str = "resources.json";

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

/// What is remembered under an ID.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a command makes one, and mostly the large one")]
pub enum Remembered {
    /// A container of ours.
    Own(Container),
    /// What only `delete --force` can deal with, and its directory.
    Foreign(PathBuf, Box<Foreign>),
    /// The directory of a container whose creation has just begun, or was cut short before
    /// anything was made.
    Begun(PathBuf),
    /// Nothing.
    None,
}

impl Store {
    /// The containers below `root`, an absolute path.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The containers below `root`, which may be any directory but `/`.
    pub fn below(root: &Path) -> Result<Self> {
        let absolute = std::path::absolute(root).with_context(|| format!("--root: {root:?}"))?;
        if absolute.parent().is_none() {
            bail!("--root: {absolute:?}: cannot be the root directory");
        }
        Ok(Self::new(absolute))
    }

    /// The directory that holds them.
    pub fn root(&self) -> &Path {
        &self.root
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
                let text = format!("container with given ID already exists: {id:?}");
                Err(Kind::Exists.error(text))
            }
            Err(error) => Err(error).with_context(|| format!("mkdir {directory:?}")),
        }
    }

    /// What is remembered of a container of ours.
    pub fn load(&self, id: &str) -> Result<Container> {
        match self.find(id)? {
            Remembered::Own(container) => Ok(container),
            Remembered::Foreign(_, foreign) => {
                let text =
                    format!("container {id:?} {}; only delete --force can end it", foreign.maker);
                Err(Kind::Unsupported.error(text))
            }
            // Callers look for the first words, and ask while it is created or deleted.
            Remembered::Begun(_) => Err(Kind::NotFound.error(format!(
                "container {id:?} does not exist: it has no record (delete --force removes the rest)"
            ))),
            Remembered::None => {
                Err(Kind::NotFound.error(format!("container {id:?} does not exist")))
            }
        }
    }

    /// What is remembered under an ID, whoever has put it there.
    pub fn find(&self, id: &str) -> Result<Remembered> {
        self.find_with(id, &mut Vec::new())
    }

    fn find_with(&self, id: &str, text: &mut Vec<u8>) -> Result<Remembered> {
        let directory = self.directory(id)?;
        match record::read_with(&directory, text) {
            Ok(FoundRecord::Own(record)) => Ok(Remembered::Own(Container { directory, record })),
            Ok(FoundRecord::Foreign(foreign)) => Ok(Remembered::Foreign(directory, foreign)),
            Err(error) if is_missing(&error) && directory.is_dir() => {
                Ok(Remembered::Begun(directory))
            }
            Err(error) if is_missing(&error) => Ok(Remembered::None),
            Err(error) => Err(error),
        }
    }

    /// All containers, by ID. What cannot be read is passed over with a warning.
    pub fn list(&self) -> Result<Vec<Container>> {
        let entries =
            fs::read_dir(&self.root).with_context(|| format!("--root: {:?}", self.root))?;
        let mut containers = Vec::new();
        let mut text = Vec::new();
        for entry in entries {
            let Ok(id) = entry?.file_name().into_string() else { continue };
            if check_id(&id).is_err() {
                continue;
            }
            match self.find_with(&id, &mut text) {
                Ok(Remembered::Own(container)) => containers.push(container),
                Ok(Remembered::Foreign(_, foreign)) => {
                    crate::log::warn(format!("container {id:?} {}", foreign.maker));
                }
                // Deleted since, a file, or a creation that was cut short.
                Ok(Remembered::Begun(_) | Remembered::None) => {}
                Err(error) => {
                    let why = crate::error::message(&error);
                    crate::log::warn(format!("container {id:?}: {why}"));
                }
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
    let flags = OFlags::from_iter([OFlags::WRONLY, OFlags::CREATE, OFlags::CLOEXEC, flags]);
    let write = || -> std::io::Result<()> {
        let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?;
        File::from(file).write_all(text)
    };
    write().with_context(|| format!("write {path:?}"))
}

/// IDs are names of directories, with the characters that runc allows.
pub fn check_id(id: &str) -> Result<()> {
    const LONGEST: usize = 255;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
    let wrong = |text: &str| Err(Kind::Configuration.error(text));
    if id.is_empty() {
        return wrong("container id cannot be empty");
    }
    if id == "." || id == ".." || id.len() > LONGEST || !id.chars().all(allowed) {
        return wrong(&format!(
            "invalid container id {id:?}: only letters, digits and _ + - . up to {LONGEST}"
        ));
    }
    Ok(())
}

impl Container {
    /// Writes the record for the first time. Nobody counts on it before it is there:
    /// an empty one is none.
    pub fn save_first(&self) -> Result<()> {
        write_file(&self.directory.join(RECORD), OFlags::EXCL, &self.record.text()?)
    }

    /// Writes the record.
    pub fn save(&self) -> Result<()> {
        crate::log::debug(|| format!("record {:?}: written", self.directory));
        self.replace(RECORD, &self.record.text()?)
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
        let mut text = Vec::new();
        record::read_file(&path, &mut text).with_context(|| format!("{path:?}"))?;
        let text = std::str::from_utf8(&text).with_context(|| format!("{path:?}"))?;
        crate::bundle::parse_stored(text).with_context(|| format!("{path:?}"))
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
        match File::open(&self.directory) {
            Ok(file) => Ok(file.into()),
            // Somebody else has deleted it since.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("container {:?} does not exist", self.record.id)
            }
            Err(error) => Err(error).with_context(|| format!("{:?}", self.directory)),
        }
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
        let is_it = |now: &Record| now.created == self.record.created;
        matches!(record::read(&self.directory), Ok(FoundRecord::Own(now)) if is_it(&now))
    }

    /// What a unit of systemd's bears that is the container's.
    pub fn unit_mark(&self) -> Property {
        documentation(&self.directory, &self.record.created)
    }

    /// What is written down of it by now. As it was, where that is gone or another one's.
    pub fn as_recorded_now(&self) -> Self {
        let Self { directory, record } = self;
        match record::read(directory) {
            Ok(FoundRecord::Own(now)) if now.created == record.created => {
                Self { directory: directory.clone(), record: now }
            }
            _ => Self { directory: directory.clone(), record: record.clone() },
        }
    }

    /// Whether another container is remembered under its ID.
    pub fn is_replaced(&self) -> bool {
        let is_another = |now: &Record| now.created != self.record.created;
        matches!(record::read(&self.directory), Ok(FoundRecord::Own(now)) if is_another(&now))
    }

    /// The status, as the kernel tells it now.
    pub fn status(&self) -> Result<Status> {
        match self.record.creator {
            Some(_) => Ok(Status::Creating),
            None => self.status_with(self.running_init()?),
        }
    }

    /// The status once it is created, where its init process is looked at already; None: it
    /// has ended.
    fn status_with(&self, init: Option<ProcessFacts>) -> Result<Status> {
        let Some(init) = init else { return Ok(Status::Stopped) };
        // A frozen created container is paused too, as under runc.
        if cgroups::is_frozen(&self.record.group)? {
            return Ok(Status::Paused);
        }
        let runs = init.has_executed || self.record.restored;
        Ok(if runs { Status::Running } else { Status::Created })
    }

    /// A handle on the init process, or an error where the status does not allow the operation.
    pub fn hold_init_for(&self, operation: Operation) -> Result<OwnedFd> {
        let held = match self.record.creator {
            Some(_) => None,
            None => self.hold_init()?,
        };
        let Some((handle, facts)) = held else {
            self.check(operation)?;
            return Err(Kind::WrongState.error("container not running"));
        };
        self.status_with(Some(facts))?.check(operation)?;
        Ok(handle)
    }

    /// The state now, as callers read it. `owner` is the name of who created it.
    pub fn state(&self, owner: String) -> Result<StateJson<'_>> {
        let status = self.status()?;
        let pid = match status {
            Status::Stopped => 0,
            _ => self.record.init.map_or(0, |init| init.pid),
        };
        let Record { rootfs, created, .. } = &self.record;
        Ok(self.record.identity().for_callers(status, pid, More { rootfs, created, owner }))
    }

    /// The pids of its processes.
    pub fn processes(&self) -> Result<Vec<u32>> {
        if self.record.group.directories.is_empty() && self.status()? != Status::Stopped {
            return Err(Kind::Unsupported.error("the container has no cgroup that lists them"));
        }
        cgroups::processes(&cgroups::kept(&self.record.group, &self.directory)?)
    }

    /// What it uses.
    pub fn stats(&self) -> Result<Stats> {
        if self.record.group.directories.is_empty() && self.record.intel_rdt.is_none() {
            return Err(Kind::Unsupported.error("the container has no cgroup that could be asked"));
        }
        let mut stats = cgroups::stats(&self.record.group)?;
        if let Some(group) = &self.record.intel_rdt {
            stats.intel_rdt = resctrl::stats(group)?;
        }
        Ok(stats)
    }

    /// The status with an error for an operation that it does not allow.
    pub fn check(&self, operation: Operation) -> Result<Status> {
        let status = self.status()?;
        status.check(operation)?;
        Ok(status)
    }

    /// Whether the machine runs since before the container was made. Where its creator did
    /// not know, pid and start time have to do.
    pub fn is_of_this_boot(&self) -> Result<bool> {
        Ok(self.record.boot.is_empty() || self.record.boot == boot_id()?)
    }

    /// The init process, if it is alive.
    pub fn running_init(&self) -> Result<Option<ProcessFacts>> {
        let Some(init) = self.record.init else { return Ok(None) };
        if !self.is_of_this_boot()? {
            return Ok(None);
        }
        let Some(facts) = ProcessFacts::read(init.pid)? else { return Ok(None) };
        let runs = facts.is(init)?
            // The other threads of a process may run on without the first.
            && (!facts.leader_has_ended || open_process(init)?.is_some());
        Ok(runs.then_some(facts))
    }

    /// A handle on the init process: None if it has ended.
    pub fn open_init(&self) -> Result<Option<OwnedFd>> {
        Ok(self.hold_init()?.map(|(handle, _)| handle))
    }

    fn hold_init(&self) -> Result<Option<(OwnedFd, ProcessFacts)>> {
        match self.record.init {
            Some(init) if self.is_of_this_boot()? => hold(init),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::message;

    #[test]
    fn ids_are_what_runc_allows() {
        for good in ["a", "A-b_c+d.9", "...", &"x".repeat(255)] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "../x", "a/b", "a b", "é", &"x".repeat(256), "a\n"] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
    }

    /// A store of its own for a test.
    struct Room(Store);

    impl Room {
        fn new(name: &str) -> Self {
            let name = format!("ferrun-store-{}-{name}", std::process::id());
            let root = std::env::temp_dir().join(name);
            fs::create_dir(&root).unwrap();
            Self(Store::new(root))
        }

        /// A container that is created, with an init process or without.
        fn container(&self, id: &str, init: Option<ProcessId>) -> Container {
            let record = Record {
                version: VERSION,
                id: id.into(),
                created: "monday".into(),
                init,
                ..Record::default()
            };
            let container = Container { directory: self.0.reserve(id).unwrap(), record };
            container.save_first().unwrap();
            container
        }
    }

    impl Drop for Room {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(self.0.root());
        }
    }

    fn own_facts() -> ProcessFacts {
        ProcessFacts::read(std::process::id().cast_signed()).unwrap().unwrap()
    }

    fn own() -> Option<ProcessId> {
        Some(own_facts().id().unwrap())
    }

    #[test]
    fn containers_may_be_below_any_directory_but_the_root() {
        let store = Store::below(Path::new("a")).unwrap();
        assert!(store.root().is_absolute() && store.root().ends_with("a"));
        assert_eq!(store.directory("b").unwrap(), store.root().join("b"));
        let error = Store::below(Path::new("/")).unwrap_err().to_string();
        assert_eq!(error, r#"--root: "/": cannot be the root directory"#);
    }

    #[test]
    fn what_is_no_container_is_told_from_one_that_cannot_be_read() {
        let room = Room::new("find");
        let file = room.0.root().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(room.0.find("file").unwrap(), Remembered::None));
        assert!(matches!(room.0.find("nobody").unwrap(), Remembered::None));
        room.0.reserve("begun").unwrap();
        assert!(matches!(room.0.find("begun").unwrap(), Remembered::Begun(_)));
        let odd = room.0.reserve("odd").unwrap();
        fs::create_dir(odd.join(RECORD)).unwrap();
        let error = message(&room.0.find("odd").unwrap_err());
        assert!(error.contains(RECORD), "{error}");
        // Where the store is a file nothing is reserved, and nothing was there before.
        let error = message(&Store::new(file).reserve("a").unwrap_err());
        assert!(error.starts_with("mkdir "), "{error}");
    }

    #[test]
    fn a_list_has_what_is_a_container_of_ours_by_id() {
        let room = Room::new("list");
        for id in ["b", "a", "c"] {
            room.container(id, None);
        }
        room.0.reserve("begun").unwrap();
        let foreign = room.0.reserve("foreign").unwrap();
        fs::write(foreign.join(RECORD), "{}").unwrap();
        fs::create_dir(room.0.root().join("no id")).unwrap();
        let ids: Vec<_> = room.0.list().unwrap().into_iter().map(|one| one.record.id).collect();
        assert_eq!(ids, ["a", "b", "c"]);
    }

    #[test]
    fn a_record_is_begun_once_and_replaced_whole() {
        let room = Room::new("record");
        let mut container = room.container("a", None);
        assert!(container.save_first().is_err(), "there is one");
        // A writer that was killed has left more than there is to write.
        let left = container.directory.join(format!(".{RECORD}.new"));
        fs::write(&left, "x".repeat(100_000)).unwrap();
        container.record.owner = 7;
        container.save().unwrap();
        assert_eq!(room.0.load("a").unwrap().record, container.record);
        assert!(!left.exists());
    }

    #[test]
    fn limits_are_those_of_the_configuration_until_they_are_updated() {
        let room = Room::new("limits");
        let container = room.container("a", None);
        assert!(container.config().is_err() && container.resources().is_err());
        let config = r#"{"ociVersion":"1.0.0","root":{"path":"r"},"hostname":"h",
            "linux":{"resources":{"pids":{"limit":5}}}}"#;
        container.keep_config(config).unwrap();
        assert!(container.keep_config(config).is_err(), "it stays what it was at create");
        assert_eq!(container.config().unwrap().hostname().as_deref(), Some("h"));
        let limit = || {
            let resources = container.resources().unwrap().unwrap();
            resources.pids().as_ref().map(|pids| pids.limit())
        };
        assert_eq!(limit(), Some(5));
        let updated = serde_json::from_str(r#"{"pids":{"limit":6}}"#).unwrap();
        container.keep_resources(&updated).unwrap();
        assert_eq!(limit(), Some(6));
        let path = container.directory.join(RESOURCES);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(container.resources().is_err(), "what cannot be read is not the configuration's");
    }

    #[test]
    fn a_directory_that_is_gone_was_deleted() {
        let room = Room::new("directory");
        let container = room.container("a", None);
        assert!(container.open_directory().is_ok());
        let held = container.lock().unwrap();
        let other = container.open_directory().unwrap();
        let now = FlockOperation::NonBlockingLockExclusive;
        assert!(flock(&other, now).is_err());
        drop(held);
        assert!(flock(&other, now).is_ok());
        fs::remove_dir_all(&container.directory).unwrap();
        let error = message(&container.open_directory().unwrap_err());
        assert_eq!(error, r#"container "a" does not exist"#);
        fs::write(&container.directory, "").unwrap();
        let below = Container { directory: container.directory.join("x"), ..container };
        let error = message(&below.open_directory().unwrap_err());
        assert!(error.contains("/x"), "{error}");
    }

    #[test]
    fn a_container_is_the_one_that_was_created_then() {
        let room = Room::new("current");
        let container = room.container("a", None);
        assert!(container.is_current() && !container.is_replaced());
        let mut other = room.0.load("a").unwrap();
        other.record.created = "tuesday".into();
        other.save().unwrap();
        assert!(!container.is_current() && container.is_replaced());
        fs::remove_dir_all(&container.directory).unwrap();
        assert!(!container.is_current() && !container.is_replaced());
        assert_eq!(container.unit_mark(), documentation(&container.directory, "monday"));
    }

    #[test]
    fn a_container_is_what_its_init_is() {
        let room = Room::new("status");
        let mut container = room.container("a", own());
        assert_eq!(container.status().unwrap(), Status::Running);
        let mut begun = own_facts();
        begun.has_executed = false;
        assert_eq!(container.status_with(Some(begun)).unwrap(), Status::Created);
        container.record.restored = true;
        assert_eq!(container.status_with(Some(begun)).unwrap(), Status::Running);
        assert!(container.check(Operation::Kill).is_ok());
        assert!(container.check(Operation::Start).is_err());
        let state = serde_json::to_value(container.state("me".into()).unwrap()).unwrap();
        assert_eq!(state["pid"], std::process::id());
        assert_eq!((&state["status"], &state["created"]), (&"running".into(), &"monday".into()));
        container.record.boot = "another".into();
        let state = serde_json::to_value(container.state("me".into()).unwrap()).unwrap();
        assert_eq!((&state["status"], &state["pid"]), (&"stopped".into(), &0.into()));
        assert_eq!(container.check(Operation::Delete).unwrap(), Status::Stopped);
        container.record.creator = own();
        assert_eq!(container.status().unwrap(), Status::Creating);
    }

    #[test]
    fn an_init_is_looked_for_by_its_boot_its_pid_and_when_it_started() {
        let room = Room::new("init");
        let mut container = room.container("a", own());
        let lives = |container: &Container| {
            let (found, held) = (container.running_init().unwrap(), container.open_init().unwrap());
            assert_eq!(found.is_some(), held.is_some());
            found.is_some()
        };
        assert!(lives(&container));
        for (boot, is_this_one) in [(boot_id().unwrap(), true), ("", true), ("another", false)] {
            container.record.boot = boot.to_owned();
            assert_eq!(container.is_of_this_boot().unwrap(), is_this_one, "{boot}");
            assert_eq!(lives(&container), is_this_one, "{boot}");
        }
        container.record.boot.clear();
        container.record.init = own().map(|own| ProcessId { started: own.started + 1, ..own });
        assert!(!lives(&container));
        container.record.init = None;
        assert!(!lives(&container));
    }

    #[test]
    fn an_init_that_nobody_has_waited_for_has_ended() {
        let room = Room::new("zombie");
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let pid = child.id().cast_signed();
        let facts = loop {
            let facts = ProcessFacts::read(pid).unwrap().unwrap();
            if facts.leader_has_ended {
                break facts;
            }
            std::thread::yield_now();
        };
        let container = room.container("a", Some(facts.id().unwrap()));
        assert_eq!(container.status().unwrap(), Status::Stopped);
        assert!(container.open_init().unwrap().is_none());
        child.wait().unwrap();
    }

    #[test]
    fn an_init_is_held_for_what_its_status_allows() {
        let room = Room::new("hold");
        let mut container = room.container("a", own());
        let refused = |container: &Container, operation| {
            container.hold_init_for(operation).map_or_else(|error| message(&error), |_| "".into())
        };
        assert_eq!(refused(&container, Operation::Kill), "");
        let reason = "cannot start an already running container";
        assert_eq!(refused(&container, Operation::Start), reason);
        container.record.init = None;
        for operation in [Operation::Kill, Operation::Delete] {
            assert_eq!(refused(&container, operation), "container not running");
        }
        container.record.creator = own();
        assert_eq!(refused(&container, Operation::Kill), "container is still being created");
    }

    #[test]
    fn where_a_container_has_no_group_nobody_says_what_runs_or_is_used() {
        let container = Room::new("stats").container("a", own());
        for error in [container.stats().err(), container.processes().err()] {
            let told = error.map(|error| message(&error)).unwrap_or_default();
            assert!(told.starts_with("the container has no cgroup that "), "{told}");
        }
    }

    #[test]
    fn what_a_container_uses_and_runs_is_read_in_its_group() {
        let room = Room::new("stats-of-a-group");
        let mut container = room.container("a", own());
        let mount = room.0.root().to_owned();
        let path = mount.join("group");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("pids.current"), "3\n").unwrap();
        fs::write(path.join("cgroup.procs"), "7\n5\n").unwrap();
        let version = crate::plan::cgroup::Version::V2;
        let controllers = vec!["pids".to_owned()];
        let directory = crate::plan::cgroup::Directory { version, controllers, mount, path };
        container.record.group.directories.push(directory);
        let stats = serde_json::to_value(container.stats().unwrap()).unwrap();
        assert_eq!(stats["pids"]["current"], 3);
        assert_eq!(container.processes().unwrap(), [5, 7]);
    }

    #[test]
    fn an_id_can_be_reserved_once() {
        let root = std::env::temp_dir().join(format!("ferrun-state-{}", std::process::id()));
        let store = Store::new(root.join("deeper"));
        store.reserve("a").unwrap();
        let error = store.reserve("a").unwrap_err();
        assert_eq!(message(&error), r#"container with given ID already exists: "a""#);
        let error = store.load("b").unwrap_err();
        assert_eq!(message(&error), r#"container "b" does not exist"#);
        let error = store.load("a").unwrap_err();
        assert!(message(&error).starts_with(r#"container "a" does not exist: "#), "{error}");
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_a_creator_has_written_since_is_known_and_another_ones_record_is_not() {
        let root = std::env::temp_dir().join(format!("ferrun-since-{}", std::process::id()));
        let store = Store::new(root.clone());
        let directory = store.reserve("a").unwrap();
        let remembered = |created: &str, owner| Container {
            directory: directory.clone(),
            record: Record {
                version: VERSION,
                id: "a".into(),
                created: created.into(),
                owner,
                ..Record::default()
            },
        };
        let read_before = remembered("monday", 1);
        remembered("monday", 2).save().unwrap();
        assert_eq!(read_before.as_recorded_now().record.owner, 2);
        remembered("tuesday", 3).save().unwrap();
        assert_eq!(read_before.as_recorded_now().record.owner, 1);
        fs::remove_dir_all(root).unwrap();
        assert_eq!(read_before.as_recorded_now().record.owner, 1);
    }
}
