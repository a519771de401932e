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
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | flags;
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
        write_file(&self.directory.join(RECORD), OFlags::EXCL, &serde_json::to_vec(&self.record)?)
    }

    /// Writes the record.
    pub fn save(&self) -> Result<()> {
        crate::log::debug(|| format!("record {:?}: written", self.directory));
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
