//! Containers and processes in the making, and other commands at work.

use std::fs;
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, Error, Result};
use ferrun::error::message;
use ferrun::{Checkpoint, Create, Exec, Image, Made, Outcome, Restore, Runtime, Starting, Work};
use nix::sys::signal::Signal;
use rustix::event::epoll::EventFlags;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::read;
use serde_json::json;

use super::{Held, Server, today};
use crate::apart::{Apart, MOUNT, may_wait};
use crate::config::Config;
use crate::log;
use crate::messages::{CheckpointOptions, CreateTaskRequest, Options};
use crate::mounts::{mount_all, unmount_all};
use crate::options::Given;
use crate::poller::Source;
use crate::service::answer::{Call, Code, Refusal, done};
use crate::service::task::{Names, Who};
use crate::streams::{About, Prepared, Reader, prepare};

/// Where containers are remembered if nothing else is said, as with runc.
const ROOT: &str = "/run/containerd/runc";
/// The file in a bundle that has the pid of its init process.
pub const PID_FILE: &str = "init.pid";
/// The file in a bundle that has the options of its container.
pub const OPTIONS: &str = "options.json";
/// The file in a bundle that gets the warnings of the runtime.
const LOG: &str = "log.json";

/// The directory in a bundle that gets the logs of CRIU.
const CRIU: &str = "criu-work";

/// What the error of an image begins with.
const CHECKPOINT_FAILED: &str = "OCI runtime checkpoint failed";
/// What the error of a mount begins with.
const MOUNT_FAILED: &str = "failed to mount rootfs component";
/// The same of an unmount.
pub const UNMOUNT_FAILED: &str = "failed rootfs umount";

/// A process that is about to be made.
#[derive(Debug)]
pub enum Making {
    /// The first one of a container.
    Init { id: String, create: Create, own_pids: bool, prepared: Prepared },
    /// The first one of a container that is restored from this image.
    Restored { id: String, image: PathBuf, prepared: Prepared },
    /// Another one.
    Exec { who: Who, process: OwnedFd, prepared: Prepared },
}

/// What a process that is about to be made will be.
#[derive(Debug)]
enum Due {
    Created(String),
    Restored(String),
    Added(Who),
}

/// A command at work.
#[derive(Debug)]
pub enum Working {
    Create { id: String, own_pids: bool, prepared: Prepared, work: Work },
    Restore { id: String, prepared: Prepared, work: Work },
    Execute { who: Who, prepared: Prepared, _process: OwnedFd, work: Work },
    Start { id: String, work: Work<()> },
    Starting { id: String, work: Box<Starting> },
    Delete { id: String, work: Work<()> },
    Move { call: Call, id: String, runs: bool, work: Work<()> },
    Update { call: Call, work: Work<()> },
    Checkpoint { call: Call, work: Work<()> },
    Mount { create: Box<(CreateTaskRequest, Options, Config)>, work: Apart },
    Unmount { id: String, work: Apart },
}

impl Working {
    /// The process that runs it.
    pub fn pid(&self) -> Option<i32> {
        match self {
            Self::Create { work, .. } | Self::Restore { work, .. } | Self::Execute { work, .. } => {
                work.pid()
            }
            Self::Start { work, .. }
            | Self::Delete { work, .. }
            | Self::Move { work, .. }
            | Self::Update { work, .. }
            | Self::Checkpoint { work, .. } => work.pid(),
            Self::Starting { .. } => None,
            Self::Mount { work, .. } | Self::Unmount { work, .. } => Some(work.pid()),
        }
    }
}

impl AsFd for Working {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Create { work, .. } | Self::Restore { work, .. } | Self::Execute { work, .. } => {
                work.as_fd()
            }
            Self::Start { work, .. }
            | Self::Delete { work, .. }
            | Self::Move { work, .. }
            | Self::Update { work, .. }
            | Self::Checkpoint { work, .. } => work.as_fd(),
            Self::Starting { work, .. } => work.as_fd(),
            Self::Mount { work, .. } | Self::Unmount { work, .. } => work.as_fd(),
        }
    }
}

impl Making {
    fn prepared(&mut self) -> &mut Prepared {
        match self {
            Self::Init { prepared, .. }
            | Self::Restored { prepared, .. }
            | Self::Exec { prepared, .. } => prepared,
        }
    }

    fn due(&self) -> Due {
        match self {
            Self::Init { id, .. } => Due::Created(id.clone()),
            Self::Restored { id, .. } => Due::Restored(id.clone()),
            Self::Exec { who, .. } => Due::Added(who.clone()),
        }
    }
}

impl Server {
    /// Begins to create a container.
    pub(super) fn create(&mut self, request: &CreateTaskRequest, given: Given) {
        let options = match given.load() {
            Ok(options) => options,
            Err(refusal) => return self.create_failed(&request.id, refusal),
        };
        if let Err(error) = self.begin_create(request, options) {
            self.create_failed(&request.id, refusal("OCI runtime create failed", &error));
        }
    }

    fn begin_create(&mut self, request: &CreateTaskRequest, mut options: Options) -> Result<()> {
        let bundle = PathBuf::from(&request.bundle);
        let config = Config::of(&bundle)?;
        // Not everyone who names a unit can say so by an option.
        options.systemd_cgroup |= config.names_a_unit();
        let options = &options;
        let runtime = self.runtime(options)?;
        keep_options(&bundle, options)?;
        let depends = config.depends_on_others();
        let mut held = Held {
            runtime,
            bundle: bundle.clone(),
            mounted: None,
            // Whoever shares its pids can stop it on the way.
            starts_slowly: depends || !config.has_own_pids(),
            ends_slowly: depends || options.systemd_cgroup || !config.has_own_pids(),
            owner: (options.io_uid, options.io_gid),
            logs: Some(&options.criu_work_path).filter(|path| !path.is_empty()).map(PathBuf::from),
        };
        if request.rootfs.is_empty() {
            self.containers.insert(request.id.clone(), held);
            return self.create_mounted(request, options, &config);
        }
        let (root, waits) = (bundle.join("rootfs"), may_wait(&request.rootfs));
        held.mounted = Some((root.clone(), waits));
        self.containers.insert(request.id.clone(), held);
        if waits {
            let work = Apart::begin(MOUNT, &request.bundle, &request.rootfs)?;
            let create = Box::new((request.clone(), options.clone(), config));
            return self.await_work(Working::Mount { create, work });
        }
        mount_all(&root, &request.rootfs).context(MOUNT_FAILED)?;
        self.create_mounted(request, options, &config)
    }

    /// The same, once its root is mounted.
    fn create_mounted(
        &mut self,
        request: &CreateTaskRequest,
        options: &Options,
        config: &Config,
    ) -> Result<()> {
        if !request.checkpoint.is_empty() {
            // All else comes with its start.
            self.service.created(&request.id, Ok((0, config.has_own_pids())));
            return Ok(());
        }
        let bundle = PathBuf::from(&request.bundle);
        let names = Names {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let prepared = self.prepare(&Who::init(&request.id), &names)?;
        let create = Create {
            bundle: bundle.clone(),
            pid_file: Some(bundle.join(PID_FILE)),
            no_pivot: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            log: Some(bundle.join(LOG)),
            ..Create::default()
        };
        let (id, own_pids) = (request.id.clone(), config.has_own_pids());
        self.make(Making::Init { id, create, own_pids, prepared })
    }

    /// Begins to restore a container.
    pub(super) fn restore(&mut self, id: &str, image: &str, names: &Names) {
        let begun = self.prepare(&Who::init(id), names).and_then(|prepared| {
            self.make(Making::Restored { id: id.to_owned(), image: image.into(), prepared })
        });
        if let Err(error) = begun {
            self.make_failed(Due::Restored(id.to_owned()), &error);
        }
    }

    /// Begins to add a process to a container.
    pub(super) fn execute(&mut self, who: &Who, process: &[u8], names: &Names) {
        let begun = memory_file(process)
            .and_then(|process| Ok((process, self.prepare(who, names)?)))
            .and_then(|(process, prepared)| {
                self.make(Making::Exec { who: who.clone(), process, prepared })
            });
        if let Err(error) = begun {
            self.make_failed(Due::Added(who.clone()), &error);
        }
    }

    /// Begins to write an image of a container.
    pub(super) fn checkpoint(
        &mut self,
        call: Call,
        id: &str,
        image: String,
        options: CheckpointOptions,
    ) {
        let begun = self.held(id).and_then(|held| {
            let work = held.runtime.begin_checkpoint(id, dump(&held, image, options));
            let work = work.map_err(|error| Refusal::of(CHECKPOINT_FAILED, &error))?;
            let begun = self.await_work(Working::Checkpoint { call, work });
            begun.map_err(|error| refusal(CHECKPOINT_FAILED, &error))
        });
        if let Err(refusal) = begun {
            self.answer(call, Err(refusal));
        }
    }

    fn prepare(&mut self, who: &Who, names: &Names) -> Result<Prepared> {
        let (uid, gid) = self.containers.get(&who.container).map_or((0, 0), |held| held.owner);
        let namespace = &self.settings.namespace;
        let prepared = prepare(names, About { uid, gid, name: who.name(), namespace })?;
        if let Some(logger) = &prepared.logger {
            self.loggers.insert(logger.pid, None);
        }
        Ok(prepared)
    }

    /// Makes it, once the program that reads its output is ready.
    fn make(&mut self, mut making: Making) -> Result<()> {
        let Some(logger) = &making.prepared().logger else { return self.begin(making) };
        let number = self.next + 1;
        self.poller.add(&logger.ready, Source::Logger(number), EventFlags::IN).context("epoll")?;
        self.next = number;
        self.making.insert(number, making);
        Ok(())
    }

    /// The program that reads an output is ready, or has ended.
    pub(super) fn hear_logger(&mut self, number: u64) {
        let Some(mut making) = self.making.remove(&number) else { return };
        let made = match &making.prepared().logger {
            Some(Reader { ready, says_ready, .. }) => {
                let has_said = read(ready, &mut [0; 1]).is_ok_and(|length| length > 0);
                self.poller.remove(ready);
                match has_said || !says_ready {
                    true => Ok(()),
                    false => Err(Error::msg("stdout: the program that reads it did not get ready")),
                }
            }
            None => Ok(()),
        };
        let due = making.due();
        if let Err(error) = made.and_then(|()| self.begin(making)) {
            self.make_failed(due, &error);
        }
    }

    /// What was about to be made will not be.
    fn make_failed(&mut self, due: Due, error: &Error) {
        match due {
            Due::Created(id) => {
                self.create_failed(&id, refusal("OCI runtime create failed", error));
            }
            Due::Restored(id) => {
                self.service.restored(&id, Err(refusal("OCI runtime restore failed", error)));
            }
            Due::Added(who) => {
                let refusal = refusal("OCI runtime exec failed", error);
                self.service.executed(&who, Err(refusal), today());
            }
        }
    }

    fn begin(&mut self, making: Making) -> Result<()> {
        let id = match &making {
            Making::Init { id, .. } | Making::Restored { id, .. } => id,
            Making::Exec { who, .. } => &who.container,
        };
        let held = self.containers.get(id).context("it was removed")?;
        let runtime = held.runtime.clone();
        let working = match making {
            Making::Init { id, mut create, own_pids, mut prepared } => {
                create.stdio = std::mem::take(&mut prepared.stdio);
                let work = runtime.create(&id, create)?;
                Working::Create { id, own_pids, prepared, work }
            }
            Making::Restored { id, image, mut prepared } => {
                let restore = Restore {
                    bundle: held.bundle.clone(),
                    image: restored_image(held, image),
                    pid_file: Some(held.bundle.join(PID_FILE)),
                    log: Some(held.bundle.join(LOG)),
                    stdio: std::mem::take(&mut prepared.stdio),
                    ..Restore::default()
                };
                let work = runtime.restore(&id, restore)?;
                Working::Restore { id, prepared, work }
            }
            Making::Exec { who, process, mut prepared } => {
                let exec = Exec {
                    // The command has none of our descriptors.
                    process: own_path(&process),
                    log: Some(held.bundle.join(LOG)),
                    stdio: std::mem::take(&mut prepared.stdio),
                    ..Exec::default()
                };
                let work = runtime.exec(&who.container, exec)?;
                Working::Execute { who, prepared, _process: process, work }
            }
        };
        self.await_work(working)
    }

    pub(super) fn await_work(&mut self, working: Working) -> Result<()> {
        let number = self.number();
        self.poller.add(&working, Source::Work(number), EventFlags::IN).context("epoll_ctl")?;
        self.works.insert(number, working);
        Ok(())
    }

    /// Hears all commands that are at work.
    pub(super) fn step_all(&mut self) {
        for number in self.works.keys().copied().collect::<Vec<_>>() {
            self.step(number);
        }
    }

    /// Hears a command that is at work.
    pub(super) fn step(&mut self, number: u64) {
        let Some(working) = self.works.get_mut(&number) else { return };
        match working {
            Working::Create { work, .. }
            | Working::Restore { work, .. }
            | Working::Execute { work, .. } => {
                let Some(result) = ended(work) else { return };
                let Some(working) = self.forget_work(number) else { return };
                self.made(working, result);
            }
            Working::Start { work, .. }
            | Working::Delete { work, .. }
            | Working::Move { work, .. }
            | Working::Update { work, .. }
            | Working::Checkpoint { work, .. } => {
                let Some(result) = ended(work) else { return };
                let Some(working) = self.forget_work(number) else { return };
                self.worked(working, result);
            }
            Working::Starting { work, .. } => {
                let Some(result) = work.step().transpose() else { return };
                let Some(working) = self.forget_work(number) else { return };
                self.worked(working, result);
            }
            Working::Mount { work, .. } | Working::Unmount { work, .. } => {
                let Some(result) = work.ended() else { return };
                let Some(working) = self.forget_work(number) else { return };
                self.mounted(&working, result);
            }
        }
    }

    fn forget_work(&mut self, number: u64) -> Option<Working> {
        let working = self.works.remove(&number)?;
        self.poller.remove(&working);
        Some(working)
    }

    fn made(&mut self, working: Working, made: Result<Made, ferrun::Error>) {
        let (due, prepared, own_pids) = match working {
            Working::Create { id, own_pids, prepared, .. } => {
                (Due::Created(id), prepared, own_pids)
            }
            Working::Restore { id, prepared, .. } => (Due::Restored(id), prepared, false),
            Working::Execute { who, prepared, .. } => (Due::Added(who), prepared, false),
            _ => return,
        };
        let Made { pid, console, .. } = match made {
            Ok(made) => made,
            Err(error) => {
                let logger = prepared.logger.as_ref().map(|logger| logger.pid);
                logger.map(|pid| self.end_logger(pid, Signal::SIGTERM));
                drop(prepared);
                return self.make_failed(due, &error.into());
            }
        };
        let who = match &due {
            Due::Created(id) | Due::Restored(id) => Who::init(id),
            Due::Added(who) => who.clone(),
        };
        if let Err(errno) = self.begin_streams(&who, prepared, console) {
            log::warn(format!("{}: its streams: {errno}", who.name()));
        }
        match due {
            Due::Created(id) => {
                self.watch_memory(&id);
                self.service.created(&id, Ok((pid, own_pids)));
            }
            Due::Restored(id) => {
                self.watch_memory(&id);
                self.service.restored(&id, Ok(pid));
            }
            Due::Added(who) => self.service.executed(&who, Ok(pid), today()),
        }
    }

    fn worked(&mut self, working: Working, done_or_not: Result<(), ferrun::Error>) {
        match working {
            Working::Start { id, .. } | Working::Starting { id, .. } => {
                self.started(&id, done_or_not);
            }
            Working::Delete { id, .. } => self.deleted(&id, done_or_not),
            Working::Move { call, id, runs, .. } => {
                let word = if runs { "resume" } else { "pause" };
                let moved = done_or_not.map_err(|error| Refusal::of(word, &error));
                self.service.moved(call, &id, runs, moved);
            }
            Working::Update { call, .. } => {
                let answer = done_or_not.map_err(|error| Refusal::of("update", &error));
                self.answer(call, answer.and_then(|()| done()));
            }
            Working::Checkpoint { call, .. } => {
                let answer = done_or_not.map_err(|error| Refusal::of(CHECKPOINT_FAILED, &error));
                self.answer(call, answer.and_then(|()| done()));
            }
            _ => {}
        }
    }

    /// A root was mounted or unmounted, or could not be.
    fn mounted(&mut self, working: &Working, done_or_not: Result<()>) {
        match working {
            Working::Mount { create, .. } => {
                let (request, options, config) = &**create;
                let mounted = done_or_not.context(MOUNT_FAILED);
                let begun = mounted.and_then(|()| self.create_mounted(request, options, config));
                if let Err(error) = begun {
                    self.create_failed(&request.id, refusal("OCI runtime create failed", &error));
                }
            }
            Working::Unmount { id, .. } => {
                let unmounted = done_or_not.map_err(|error| refusal(UNMOUNT_FAILED, &error));
                self.service.deleted(id, unmounted);
            }
            _ => {}
        }
    }

    fn create_failed(&mut self, id: &str, refusal: Refusal) {
        if let Some(held) = self.containers.remove(id)
            && let Some((root, _)) = held.mounted
            && let Err(error) = unmount_all(&root)
        {
            log::warn(format!("{root:?}: {}", message(&error)));
        }
        self.service.created(id, Err(refusal));
    }

    /// The runtime that these options ask for.
    fn runtime(&mut self, options: &Options) -> Result<Rc<Runtime>> {
        let root = root_of(&options.root, &self.settings.namespace);
        let by_systemd = options.systemd_cgroup;
        let found = self.runtimes.iter().find(|(at, maker, _)| *at == root && *maker == by_systemd);
        if let Some((.., runtime)) = found {
            return Ok(runtime.clone());
        }
        let runtime = Runtime::new("/proc/self/exe", &root)?.with_log(|line| log::warn(line));
        // What containerd finds, such as CRIU, is found.
        let runtime = match std::env::var_os("PATH") {
            Some(path) => runtime.with_search_path(path),
            None => runtime,
        };
        let runtime = Rc::new(match by_systemd {
            true => runtime.with_systemd(self.settings.buses.clone()),
            false => runtime,
        });
        self.runtimes.push((root, by_systemd, runtime.clone()));
        Ok(runtime)
    }
}

/// Where the containers of a namespace are remembered, as runc's are.
pub fn root_of(root: &str, namespace: &str) -> PathBuf {
    Path::new(if root.is_empty() { ROOT } else { root }).join(namespace)
}

/// How an image of a container is made.
fn dump(held: &Held, image: String, options: CheckpointOptions) -> Checkpoint {
    let named = |text: String| Some(text).filter(|text| !text.is_empty());
    let work = named(options.work_path).map(PathBuf::from);
    Checkpoint {
        image: Image {
            directory: image.into(),
            work: work.or_else(|| Some(held.logs())),
            tcp_established: options.open_tcp,
            ext_unix_sk: options.external_unix_sockets,
            shell_job: options.terminal,
            file_locks: options.file_locks,
            cgroups_mode: named(options.cgroups_mode),
        },
        parent: named(options.parent_path).map(PathBuf::from),
        leave_running: !options.exit,
    }
}

/// The image of a container that is restored. Whoever has made it has said what belongs to it,
/// and nobody says so again.
fn restored_image(held: &Held, directory: PathBuf) -> Image {
    Image {
        work: Some(held.logs()),
        tcp_established: true,
        ext_unix_sk: true,
        file_locks: true,
        ..Image::directory(directory)
    }
}

impl Held {
    /// The directory of CRIU's logs.
    fn logs(&self) -> PathBuf {
        self.logs.clone().unwrap_or_else(|| self.bundle.join(CRIU))
    }
}

/// How a command has ended, if it has.
fn ended<T: Outcome>(work: &mut Work<T>) -> Option<Result<T, ferrun::Error>> {
    work.step().transpose()
}

/// An error of this program, or one of the runtime's.
pub fn refusal(sentence: &str, error: &Error) -> Refusal {
    match error.downcast_ref::<ferrun::Error>() {
        Some(error) => Refusal::of(sentence, error),
        None => Refusal::new(Code::Unknown, format!("{sentence}: {}", message(error))),
    }
}

/// What `delete` has to know of the options, where they are not the usual ones.
fn keep_options(bundle: &Path, options: &Options) -> Result<()> {
    if options.root.is_empty() && !options.systemd_cgroup {
        return Ok(());
    }
    let path = bundle.join(OPTIONS);
    let text = json!({"root": options.root, "systemd_cgroup": options.systemd_cgroup}).to_string();
    fs::write(&path, text).with_context(|| format!("{path:?}"))
}

/// A file without a name that holds this.
pub fn memory_file(content: &[u8]) -> Result<OwnedFd> {
    let file = memfd_create("ferrun", MemfdFlags::CLOEXEC).context("memfd_create")?;
    let mut file = fs::File::from(file);
    file.write_all(content).context("write to memory")?;
    std::io::Seek::rewind(&mut file).context("seek in memory")?;
    Ok(file.into())
}

/// The path by which others open a descriptor of this process.
fn own_path(file: &OwnedFd) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
}
