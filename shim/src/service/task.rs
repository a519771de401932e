//! What is known of the containers of this shim and their processes.

use std::collections::BTreeMap;

use super::answer::Call;
use crate::messages::{Mount, Timestamp};

/// A process of a container: its init where `exec` is empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Who {
    /// The container.
    pub container: String,
    /// The process that was added to it.
    pub exec: String,
}

impl Who {
    /// The init process of a container.
    pub fn init(container: &str) -> Self {
        Self { container: container.to_owned(), exec: String::new() }
    }

    /// What events call it.
    pub fn name(&self) -> &str {
        if self.exec.is_empty() { &self.container } else { &self.exec }
    }
}

/// Where the streams of a process go, as containerd names it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names {
    /// Its stdin; empty: the null device, as with the others.
    pub stdin: String,
    /// Its stdout, or both of a terminal.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
    /// Whether it has a terminal.
    pub terminal: bool,
}

/// How a process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code, or 128 and the number of a signal.
    pub code: u32,
    /// When.
    pub at: Timestamp,
}

/// How far a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Known by its name, and not there: an exec that was not started, an init in the making.
    Added,
    /// Init waits at its gate.
    Created,
    /// The answer to this call is being worked at.
    Starting(Call),
    /// Its program runs.
    Running,
    /// It could not be started, or has ended and everybody was told.
    Stopped,
}

/// A process.
#[derive(Debug)]
pub struct Process {
    /// Where its streams go.
    pub names: Names,
    /// Its pid, 0 before there is one.
    pub pid: i32,
    /// How far it is.
    pub phase: Phase,
    /// How it has ended. Where it is not `Stopped` yet, nobody was told.
    pub exit: Option<Exit>,
    /// Who waits for its end.
    pub waiters: Vec<Call>,
    /// Who waits for its removal.
    pub deleters: Vec<Call>,
}

impl Process {
    /// One that is not there yet.
    pub fn new(names: Names) -> Self {
        Self {
            names,
            pid: 0,
            phase: Phase::Added,
            exit: None,
            waiters: Vec::new(),
            deleters: Vec::new(),
        }
    }

    /// What is told of its end: the exit code, and when that was. It may never have run.
    pub fn told(&self) -> (u32, Option<Timestamp>) {
        self.exit.map_or((0, None), |exit| (exit.code, Some(exit.at)))
    }

    /// Whether something of it is still to come.
    pub fn is_pending(&self) -> bool {
        matches!(self.phase, Phase::Starting(_) | Phase::Running)
    }
}

/// Whether the processes of a container run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Motion {
    /// They do.
    Free,
    /// They are about to stand still.
    Pausing,
    /// They stand still.
    Paused,
}

/// A container.
#[derive(Debug)]
pub struct Container {
    /// The directory of its bundle.
    pub bundle: String,
    /// What containerd has said that its root is made of.
    pub rootfs: Vec<Mount>,
    /// The image that it is restored from when it is started; empty: it is created.
    pub image: String,
    /// Who waits for it to be created.
    pub creator: Option<Call>,
    /// Whether its processes end with its init.
    pub own_pids: bool,
    /// Whether its processes run.
    pub motion: Motion,
    /// Its first process.
    pub init: Process,
    /// Those that were added.
    pub execs: BTreeMap<String, Process>,
}

impl Container {
    /// The process of this name, init's being empty.
    pub fn process(&mut self, exec: &str) -> Option<&mut Process> {
        if exec.is_empty() { Some(&mut self.init) } else { self.execs.get_mut(exec) }
    }

    /// All processes, init first, whose name is empty.
    pub fn processes(&mut self) -> impl Iterator<Item = (&str, &mut Process)> {
        let execs = self.execs.iter_mut().map(|(name, process)| (name.as_str(), process));
        std::iter::once(("", &mut self.init)).chain(execs)
    }
}
