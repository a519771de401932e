//! The runtime as a library: what a program that embeds it may call.
//!
//! A [`Runtime`] has a place for its containers and the program that creates them. `create`
//! and `exec` run that program in a process of its own, since a process that makes a container
//! leaves its namespaces, hides itself and takes on what its child is to inherit. So does what is
//! begun by a `begin_` for a caller that must not wait. All else runs in the caller and leaves it
//! as it was. The caller may have other threads, and ignores SIGPIPE as Rust's programs do.
//!
//! ```
//! use ferrun::{Create, Error, Kind, Runtime};
//!
//! /// A life, where there is a bundle.
//! fn live(runtime: &Runtime) -> Result<(), Error> {
//!     let made = runtime.create("one", Create::bundle("/tmp/alpine"))?.wait()?;
//!     runtime.start("one")?;
//!     println!("process {} is {}", made.pid, runtime.state("one")?.status.name());
//!     match runtime.delete("one", false) {
//!         Err(error) if error.kind() == Kind::WrongState => runtime.delete("one", true),
//!         deleted => deleted,
//!     }
//! }
//!
//! # fn main() -> Result<(), Error> {
//! # let (ferrun, place) = ("/proc/self/exe", std::env::temp_dir().join("ferrun-example"));
//! let runtime = Runtime::new(ferrun, place)?.with_log(|warning| eprintln!("{warning}"));
//! assert!(runtime.list()?.is_empty());
//! assert_eq!(runtime.state("one").unwrap_err().kind(), Kind::NotFound);
//! # Ok(())
//! # }
//! ```

mod error;
mod images;
mod listener;
mod starting;
mod work;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use nix::libc;

pub use self::error::Error;
pub use self::images::{Checkpoint, Image, Restore};
use self::listener::Listener;
pub use self::starting::Starting;
pub use self::work::{Made, Outcome, Stdio, Work};
use self::work::{Surroundings, given};
use crate::cgroups::systemd::Buses;
use crate::cgroups::{self, OomWatch, Stats};
use crate::destroy;
use crate::error::{Kind, OfKind as _};
use crate::own_executable;
use crate::plan::cgroup::Group;
use crate::plan::request::{CgroupMaker, Cgroups};
use crate::processes::ProcessId;
use crate::signal;
use crate::start;
use crate::store::{Container, Operation, Status, Store};
use crate::update;

/// A place for containers, and the program that creates them.
#[derive(Debug, Clone)]
pub struct Runtime {
    store: Store,
    program: Arc<OwnedFd>,
    by_systemd: bool,
    surroundings: Surroundings,
    listener: Listener,
}

/// How a container is to be created: what `ferrun create` takes.
#[derive(Debug, Default)]
pub struct Create {
    /// The directory of the bundle.
    pub bundle: PathBuf,
    /// Another file than config.json in it.
    pub config: Option<PathBuf>,
    /// The socket that gets the terminal.
    pub console_socket: Option<PathBuf>,
    /// The file that gets the pid of the init process.
    pub pid_file: Option<PathBuf>,
    /// Whether pivot_root(2) is not to be used.
    pub no_pivot: bool,
    /// Whether the program stays in the session keyring of the caller.
    pub no_new_keyring: bool,
    /// The file that warnings are appended to, as JSON, instead of the runtime's log.
    pub log: Option<PathBuf>,
    /// What the program has as stdin, stdout and stderr.
    pub stdio: Stdio,
}

/// A process to add to a container: what `ferrun exec --detach` takes.
#[derive(Debug, Default)]
pub struct Exec {
    /// The file that holds the process (config.md#process).
    pub process: PathBuf,
    /// The socket that gets the terminal.
    pub console_socket: Option<PathBuf>,
    /// The file that gets the pid of the process.
    pub pid_file: Option<PathBuf>,
    /// The file that warnings are appended to, as JSON, instead of the runtime's log.
    pub log: Option<PathBuf>,
    /// What the process has as stdin, stdout and stderr.
    pub stdio: Stdio,
}

/// What is known of a container (runtime.md#state).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Its ID.
    pub id: String,
    /// Its status, as the kernel tells it now.
    pub status: Status,
    /// Its init process, while there is one.
    pub init: Option<ProcessId>,
    /// The absolute path of its bundle.
    pub bundle: PathBuf,
    /// When it was created (RFC 3339).
    pub created: String,
}

impl Create {
    /// A container of the bundle in this directory.
    pub fn bundle(directory: impl Into<PathBuf>) -> Self {
        Self { bundle: directory.into(), ..Self::default() }
    }
}

impl Runtime {
    /// The containers that are remembered below `root`; `program` is the command `ferrun`, which
    /// is held from now on: to replace the file changes nothing.
    ///
    /// # Errors
    /// `Configuration` where the program cannot be had, or `root` is `/`.
    pub fn new(program: impl AsRef<Path>, root: impl AsRef<Path>) -> Result<Self, Error> {
        let program = program.as_ref();
        let held = own_executable::hold(program).with_context(|| format!("{program:?}"));
        Ok(Self {
            store: Store::below(root.as_ref()).of_kind(Kind::Configuration)?,
            program: Arc::new(held.of_kind(Kind::Configuration)?),
            by_systemd: false,
            surroundings: Surroundings::default(),
            listener: Listener::default(),
        })
    }

    /// Has systemd make the cgroups of new containers, found by these buses.
    pub fn with_systemd(self, buses: Buses) -> Self {
        let surroundings = Surroundings { buses, ..self.surroundings };
        Self { by_systemd: true, surroundings, ..self }
    }

    /// Has programs that are named without a directory, such as `criu`, looked for in these
    /// directories, written as the variable PATH is; else in those of a system.
    pub fn with_search_path(self, path: impl Into<OsString>) -> Self {
        let surroundings = Surroundings { path: path.into(), ..self.surroundings };
        Self { surroundings, ..self }
    }

    /// Has warnings, of what was passed over, go to `warned`, each one line; else they go to stderr.
    /// It is called within a call of this, or of its [`Work`].
    pub fn with_log(self, warned: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { listener: Listener::new(warned), ..self }
    }

    /// Begins to create a container. Where that fails nothing is left of it; where the caller
    /// ends before, what there is ends with `delete`.
    ///
    /// # Errors
    /// Those of starting the program; [`Work`] tells of all others: `Exists`, `Configuration`,
    /// `Kernel`, `Hook`, `Unsupported`.
    pub fn create(&self, id: &str, options: Create) -> Result<Work, Error> {
        let mut words: Vec<OsString> = vec!["create".into()];
        let paths = [
            ("--bundle", Some(options.bundle)),
            ("--config", options.config),
            ("--console-socket", options.console_socket),
            ("--pid-file", options.pid_file),
        ];
        words.extend(given(paths)?);
        words.extend(options.no_pivot.then(|| "--no-pivot".into()));
        words.extend(options.no_new_keyring.then(|| "--no-new-keyring".into()));
        words.extend(["--".into(), id.into()]);
        self.work(words, options.log, options.stdio)
    }

    /// Begins to add a process to a container.
    ///
    /// # Errors
    /// As those of [`Runtime::create`], with `NotFound` and `WrongState`.
    pub fn exec(&self, id: &str, options: Exec) -> Result<Work, Error> {
        let mut words: Vec<OsString> = vec!["exec".into(), "--detach".into()];
        let paths = [
            ("--process", Some(options.process)),
            ("--console-socket", options.console_socket),
            ("--pid-file", options.pid_file),
        ];
        words.extend(given(paths)?);
        words.extend(["--".into(), id.into()]);
        self.work(words, options.log, options.stdio)
    }

    /// Begins to make an image of a container. Where that fails the container runs on.
    ///
    /// # Errors
    /// Those of starting the program; [`Work`] tells of all others: `NotFound`, `WrongState`,
    /// `Configuration`, `Unsupported`, and what CRIU refuses as `Other`.
    pub fn begin_checkpoint(&self, id: &str, options: Checkpoint) -> Result<Work<()>, Error> {
        let mut words: Vec<OsString> = vec!["checkpoint".into()];
        words.extend(options.image.words()?);
        let parent = options.parent.into_iter();
        words.extend(parent.flat_map(|parent| ["--parent-path".into(), parent.into()]));
        words.extend(options.leave_running.then(|| "--leave-running".into()));
        words.extend(["--".into(), id.into()]);
        self.work(words, None, Stdio::default())
    }

    /// Begins to restore a container, which runs then. Where that fails nothing is left of it.
    ///
    /// # Errors
    /// As those of [`Runtime::create`], and what CRIU refuses as `Other`.
    pub fn restore(&self, id: &str, options: Restore) -> Result<Work<Made>, Error> {
        let mut words: Vec<OsString> = vec!["restore".into(), "--detach".into()];
        words.extend(given([
            ("--bundle", Some(options.bundle)),
            ("--console-socket", options.console_socket),
            ("--pid-file", options.pid_file),
        ])?);
        words.extend(options.image.words()?);
        words.extend(["--".into(), id.into()]);
        self.work(words, options.log, options.stdio)
    }

    /// Begins what [`Runtime::start`] does, where hooks may take long.
    ///
    /// # Errors
    /// Those of starting the program; [`Work`] tells of all others.
    pub fn begin_start(&self, id: &str) -> Result<Work<()>, Error> {
        self.begin("start", &[], id)
    }

    /// Begins what [`Runtime::delete`] does, where hooks, systemd, or processes that are to be
    /// ended may take long.
    ///
    /// # Errors
    /// As those of [`Runtime::begin_start`].
    pub fn begin_delete(&self, id: &str, force: bool) -> Result<Work<()>, Error> {
        self.begin("delete", if force { &["--force"] } else { &[] }, id)
    }

    /// Begins what [`Runtime::pause`] does: processes may take long to stand still.
    ///
    /// # Errors
    /// As those of [`Runtime::begin_start`].
    pub fn begin_pause(&self, id: &str) -> Result<Work<()>, Error> {
        self.begin("pause", &[], id)
    }

    /// Begins what [`Runtime::resume`] does.
    ///
    /// # Errors
    /// As those of [`Runtime::begin_start`].
    pub fn begin_resume(&self, id: &str) -> Result<Work<()>, Error> {
        self.begin("resume", &[], id)
    }

    /// Begins what [`Runtime::update`] does, by the words of `ferrun update --resources`, in
    /// which 0 stands for what is to stay. `resources` is the file that holds them.
    ///
    /// # Errors
    /// As those of [`Runtime::begin_start`].
    pub fn begin_update(&self, id: &str, resources: OwnedFd) -> Result<Work<()>, Error> {
        let words = ["update", "--resources", "-", "--", id].map(OsString::from);
        let stdio = Stdio { stdin: Some(resources), ..Stdio::default() };
        self.work(words.into(), None, stdio)
    }

    fn begin(&self, verb: &str, options: &[&str], id: &str) -> Result<Work<()>, Error> {
        let words = [&[verb], options, &["--", id]].concat();
        self.work(words.into_iter().map(OsString::from).collect(), None, Stdio::default())
    }

    fn work<T: Outcome>(
        &self,
        words: Vec<OsString>,
        log: Option<PathBuf>,
        stdio: Stdio,
    ) -> Result<Work<T>, Error> {
        let mut all: Vec<OsString> = vec!["--root".into(), self.store.root().into()];
        all.extend(self.by_systemd.then(|| "--systemd-cgroup".into()));
        if let Some(log) = log {
            all.extend(["--log".into(), log.into(), "--log-format".into(), "json".into()]);
        }
        all.extend(words);
        Ok(Work::begin(&self.program, all, &self.surroundings, stdio, self.listener.clone())?)
    }

    /// Runs the program of a created container. Waits until it runs.
    ///
    /// # Errors
    /// `NotFound`, `WrongState`; `Configuration` where the program cannot be executed, and
    /// `Hook`: then the container is gone.
    pub fn start(&self, id: &str) -> Result<(), Error> {
        self.logged(|| start::start(&self.store.load(id)?, None))
    }

    /// Begins what [`Runtime::start`] does, in this process. Init, which may be stopped or read
    /// its program from afar, is waited for by the descriptor of what is returned; hooks and the
    /// agent of a filter, where there are any, run within one of its steps.
    ///
    /// # Errors
    /// As those of [`Runtime::start`]; [`Starting::step`] tells of what comes after the gate.
    pub fn starting(&self, id: &str) -> Result<Starting, Error> {
        let begun = self.logged(|| start::Starting::begin(self.store.load(id)?))?;
        Ok(Starting::new(begun, self.listener.clone()))
    }

    /// What is known of a container.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn state(&self, id: &str) -> Result<State, Error> {
        self.logged(|| state(&self.store.load(id)?))
    }

    /// All containers, by ID. Those that cannot be read are left out.
    ///
    /// # Errors
    /// `Kernel` where the place cannot be read.
    pub fn list(&self) -> Result<Vec<State>, Error> {
        self.logged(|| match self.store.list() {
            // It comes into being with the first container.
            Err(error) if crate::error::errno(&error) == Some(libc::ENOENT) => Ok(Vec::new()),
            containers => Ok(containers?.iter().filter_map(|one| state(one).ok()).collect()),
        })
    }

    /// Sends a signal, by its number, to the init process of a container.
    ///
    /// # Errors
    /// `NotFound`, `WrongState`, `Kernel`.
    pub fn kill(&self, id: &str, signal: i32) -> Result<(), Error> {
        self.logged(|| signal::send(&self.store.load(id)?, signal))
    }

    /// The same to every process of a container, or what its init has left.
    ///
    /// # Errors
    /// As [`Runtime::kill`].
    pub fn kill_all(&self, id: &str, signal: i32) -> Result<(), Error> {
        self.logged(|| signal::send_to_all(&self.store.load(id)?, signal))
    }

    /// Removes a container that has stopped or was never started. With `force` it is killed
    /// first, and one that is not there is no error.
    ///
    /// # Errors
    /// `NotFound`, `WrongState`, `Kernel`.
    pub fn delete(&self, id: &str, force: bool) -> Result<(), Error> {
        let cgroups = Cgroups { maker: CgroupMaker::Runtime, rootless: None };
        self.logged(|| {
            destroy::delete(&self.store, id, force, false, (cgroups, &self.surroundings.buses))
        })
    }

    /// Freezes every process of a container.
    ///
    /// # Errors
    /// `NotFound`, `WrongState`, `Kernel`.
    pub fn pause(&self, id: &str) -> Result<(), Error> {
        self.logged(|| cgroups::freeze(&self.allowed(id, Operation::Pause)?.record.group))
    }

    /// Lets the processes of a paused container run.
    ///
    /// # Errors
    /// As [`Runtime::pause`].
    pub fn resume(&self, id: &str) -> Result<(), Error> {
        self.logged(|| cgroups::thaw(&self.allowed(id, Operation::Resume)?.record.group))
    }

    /// Lays these limits (an object of the form of linux.resources) over those of a container.
    ///
    /// # Errors
    /// `NotFound`, `WrongState`, `Configuration`, `Kernel`.
    pub fn update(&self, id: &str, resources: serde_json::Value) -> Result<(), Error> {
        self.logged(|| {
            let container = self.allowed(id, Operation::Update)?;
            update::update(&self.store, &container, resources, None)
        })
    }

    /// The pids of the processes of a container.
    ///
    /// # Errors
    /// `NotFound`, `WrongState`, `Kernel`; `Unsupported` where it has no cgroup.
    pub fn processes(&self, id: &str) -> Result<Vec<u32>, Error> {
        self.logged(|| self.allowed(id, Operation::Ps)?.processes())
    }

    /// The cgroup of a container, for who counts on his own.
    ///
    /// # Errors
    /// `NotFound`.
    #[doc(hidden)]
    pub fn group(&self, id: &str) -> Result<Group, Error> {
        self.logged(|| Ok(self.store.load(id)?.record.group.clone()))
    }

    /// What a container uses.
    ///
    /// # Errors
    /// `NotFound`, `WrongState`, `Kernel`; `Unsupported` where it has no cgroup.
    pub fn stats(&self, id: &str) -> Result<Stats, Error> {
        self.logged(|| self.allowed(id, Operation::Events)?.stats())
    }

    /// Watches a container for processes that the kernel kills for want of memory.
    ///
    /// # Errors
    /// `NotFound`, `WrongState`, and `Other` where its memory is not counted.
    pub fn watch_memory(&self, id: &str) -> Result<OomWatch, Error> {
        self.logged(|| OomWatch::new(&self.allowed(id, Operation::Events)?.record.group))
    }

    /// A handle on the init process of a container, which becomes readable when it ends. None: it
    /// has ended.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn open_init(&self, id: &str) -> Result<Option<OwnedFd>, Error> {
        self.logged(|| self.store.load(id)?.open_init())
    }

    /// The container, which is in a state that allows this.
    fn allowed(&self, id: &str, operation: Operation) -> anyhow::Result<Container> {
        let container = self.store.load(id)?;
        container.check(operation)?;
        Ok(container)
    }

    /// Makes a call in this process.
    fn logged<T>(&self, call: impl FnOnce() -> anyhow::Result<T>) -> Result<T, Error> {
        Ok(self.listener.during(call)?)
    }
}

fn state(container: &Container) -> anyhow::Result<State> {
    let record = &container.record;
    let status = container.status()?;
    Ok(State {
        id: record.id.clone(),
        status,
        init: record.init.filter(|_| status != Status::Stopped),
        bundle: record.bundle.clone(),
        created: record.created.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_or_a_program_that_cannot_be_is_refused() {
        for (program, root) in [("/proc/self/exe", "/"), ("/no/such/ferrun", "/tmp/ferrun")] {
            let refused = Runtime::new(program, root).unwrap_err();
            assert_eq!(refused.kind(), Kind::Configuration, "{refused}");
        }
    }
}
