//! One file for each verb: it turns what was typed into a call and prints what
//! comes back.

mod checkpoint;
mod create;
mod delete;
mod events;
mod exec;
mod features;
mod kill;
mod list;
mod pause;
mod ps;
mod restore;
mod resume;
mod run;
mod spec;
mod start;
mod state;
pub mod update;

use std::ffi::OsString;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{Access, access};
use rustix::io::Errno;
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

use crate::cgroups::systemd::Buses;
use crate::cli::Given;
use crate::error::errno;
use crate::handover::Handover;
use crate::handover::report::Reporter;
use crate::host;
use crate::plan::notify;
use crate::plan::request::{CgroupMaker, Cgroups, Console, Streams};
use crate::store::{Container, Operation, Status, Store};
use crate::sys::process::OneThread;

/// What holds for every verb.
#[derive(Debug)]
pub struct Global {
    /// Where containers are remembered.
    pub store: Store,
    /// Whether `--root` was given, so that the place must exist.
    pub root_given: bool,
    /// What is said of the cgroups of new containers.
    pub cgroups: Cgroups,
    /// Where systemd is looked for.
    pub buses: Buses,
    /// Who has executed this command, and wants to know more than its exit code.
    pub reporter: Option<Arc<Reporter>>,
    /// That this process has one thread, which containers are made by.
    pub alone: OneThread,
}

impl Global {
    /// The settings of a command line.
    pub fn new(given: &Given, reporter: Option<Arc<Reporter>>, alone: OneThread) -> Result<Self> {
        let manager = given.text("cgroup-manager");
        let maker = match manager {
            Some("disabled") => CgroupMaker::Nobody,
            Some("systemd") => CgroupMaker::Systemd,
            None if given.has("systemd-cgroup") => CgroupMaker::Systemd,
            _ => CgroupMaker::Runtime,
        };
        let root = given.path("root");
        let rootless = match given.text("global-rootless") {
            Some("true") => Some(true),
            Some("false") => Some(false),
            _ => None,
        };
        let root_given = root.is_some();
        let store = match root {
            Some(root) => Store::below(&root)?,
            None => Store::new(default_root()),
        };
        let cgroups = Cgroups { maker, rootless };
        Ok(Self { store, root_given, cgroups, buses: buses(), reporter, alone })
    }
}

impl Global {
    /// Whether an ordinary user has said nowhere where containers are remembered, and may not
    /// do it in root's place.
    fn has_no_place(&self) -> bool {
        let is_refused = |path: &Path| match access(path, Access::WRITE_OK | Access::EXEC_OK) {
            Err(Errno::NOENT) => path
                .parent()
                .is_some_and(|above| access(above, Access::WRITE_OK | Access::EXEC_OK).is_err()),
            answer => answer.is_err(),
        };
        let variable = std::env::var_os("XDG_RUNTIME_DIR");
        let is_default = !self.root_given && variable.is_none_or(|named| named.is_empty());
        is_default && host::caller().uid != 0 && is_refused(self.store.root())
    }
}

/// What the environment says of the buses by which systemd can be asked.
fn buses() -> Buses {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let text = |name: &str| variable(name).and_then(|value| value.into_string().ok());
    Buses {
        system: text("DBUS_SYSTEM_BUS_ADDRESS"),
        session: text("DBUS_SESSION_BUS_ADDRESS"),
        runtime_directory: variable("XDG_RUNTIME_DIR").map(PathBuf::from),
    }
}

/// The socket of a service manager that wants to know when the program is ready, if there is one
/// (sd_notify(3)).
fn service_manager() -> Option<OsString> {
    std::env::var_os(notify::VARIABLE).filter(|path| !path.is_empty())
}

/// What is said of the descriptors of a program. `in_foreground`: the caller stays until it ends.
fn streams(given: &Given, global: &Global, in_foreground: bool) -> Streams {
    let console = console(given, global, in_foreground);
    let preserved = given.number("preserve-fds").unwrap_or(0);
    Streams { console, preserved, ..Streams::default() }
}

/// Who serves the terminal of a program.
fn console(given: &Given, global: &Global, in_foreground: bool) -> Console {
    match given.path("console-socket") {
        Some(path) => Console::Socket(path),
        None if in_foreground => Console::Caller,
        None if global.reporter.is_some() => Console::Embedder,
        None => Console::Nobody,
    }
}

/// Hands the terminal of a process to who has executed this command, where he is to serve it.
fn hand_over_terminal(global: &Global, master: Option<OwnedFd>) -> Result<()> {
    match (&global.reporter, master) {
        (Some(reporter), Some(master)) => reporter.console(master),
        _ => Ok(()),
    }
}

/// Who is told of the process that was made.
fn handover(given: &Given, global: &Global) -> Handover {
    Handover {
        reporter: global.reporter.clone(),
        pidfd_socket: given.path("pidfd-socket"),
        pid_file: given.path("pid-file"),
    }
}

/// /run/ferrun, or below the runtime directory of an ordinary user. He may be root in a
/// user namespace of his own, as under Podman; root who has entered one calls himself so.
fn default_root() -> PathBuf {
    let ordinary = || {
        let caller = host::caller();
        let is_called_root = std::env::var_os("USER").is_some_and(|user| user == "root");
        caller.uid != 0 || (caller.in_user_namespace && !is_called_root)
    };
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty() && ordinary()) {
        Some(directory) => PathBuf::from(directory).join("ferrun"),
        None => PathBuf::from("/run/ferrun"),
    }
}

/// Runs a verb. Returns the exit code.
pub fn dispatch(verb: &str, given: &Given, global: &Global) -> Result<i32> {
    let ran = run_verb(verb, given, global).map_err(|error| match errno(&error) {
        Some(libc::EACCES | libc::ENOENT) if global.has_no_place() => {
            error.context("neither --root nor XDG_RUNTIME_DIR says where containers are remembered")
        }
        _ => error,
    });
    if let (Err(error), Some(reporter)) = (&ran, &global.reporter) {
        reporter.failed(error);
    }
    ran
}

fn run_verb(verb: &str, given: &Given, global: &Global) -> Result<i32> {
    match verb {
        "checkpoint" => apart(|| checkpoint::run(given, global)).map(|()| 0),
        "create" => apart(|| create::run(given, global)).map(|()| 0),
        "delete" => apart(|| delete::run(given, global)).map(|()| 0),
        "events" => apart(|| events::run(given, global)).map(|()| 0),
        "exec" => apart(|| exec::run(given, global)),
        "features" => apart(features::run).map(|()| 0),
        "kill" => apart(|| kill::run(given, global)).map(|()| 0),
        "list" => apart(|| list::run(given, global)).map(|()| 0),
        "pause" => apart(|| pause::run(given, global)).map(|()| 0),
        "ps" => apart(|| ps::run(given, global)).map(|()| 0),
        "restore" => apart(|| restore::run(given, global)),
        "resume" => apart(|| resume::run(given, global)).map(|()| 0),
        "run" => apart(|| run::run(given, global)),
        "spec" => apart(|| spec::run(given)).map(|()| 0),
        "start" => apart(|| start::run(given, global)).map(|()| 0),
        "state" => apart(|| state::run(given, global)).map(|()| 0),
        "update" => apart(|| update::run(given, global)).map(|()| 0),
        other => bail!("{other:?}: unknown command"),
    }
}

/// Runs one verb, not inlined: all verbs in one function would have the stack of the largest,
/// whose pages each of them would touch.
#[inline(never)]
fn apart<T>(run: impl FnOnce() -> T) -> T {
    run()
}

/// Does something to a container that allows it now. Where that fails because somebody
/// else ends or deletes the container meanwhile, the error says so, in the words that
/// callers look for, and not which file or process was missing first.
fn while_allowed<T>(
    global: &Global,
    container: &Container,
    operation: Operation,
    act: impl FnOnce() -> Result<T>,
) -> Result<T> {
    container.check(operation)?;
    act().map_err(|error| unless_forbidden_now(global, container, operation, error))
}

/// The error, or that the container does not allow the operation any more.
fn unless_forbidden_now(
    global: &Global,
    container: &Container,
    operation: Operation,
    error: anyhow::Error,
) -> anyhow::Error {
    let now = global.store.load(&container.record.id).and_then(|now| {
        now.check(operation)?;
        match now.running_init()? {
            Some(init) if !init.is_exiting => Ok(()),
            _ => Status::Stopped.check(operation),
        }
    });
    now.err().unwrap_or(error)
}

/// JSON with this indentation and a line end.
fn print_json(value: &impl Serialize, indentation: &'static str) -> Result<()> {
    let mut text = Vec::new();
    let formatter = PrettyFormatter::with_indent(indentation.as_bytes());
    value.serialize(&mut Serializer::with_formatter(&mut text, formatter))?;
    text.push(b'\n');
    print(&text)
}

fn print(text: &[u8]) -> Result<()> {
    std::io::stdout().write_all(text).context("write to stdout")
}

/// The name of a user as `list` shows it, `#UID` where there is none.
fn user_name(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    passwd
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
        })
        .unwrap_or_else(|| format!("#{uid}"))
}
