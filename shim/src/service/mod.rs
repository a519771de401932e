//! The task service, which decides and does nothing: calls, and what has happened, go in, and what
//! is to be done comes out.
//!
//! The order of events is made here: create before start before exit before delete, the exits of
//! all that was added to a container before that of its init.

pub mod answer;
mod exits;
mod methods;
pub mod task;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use self::answer::{Answer, Call, Code, Refusal};
use self::task::{Container, Exit, Names, Process, Who};
use crate::messages::{Any, CheckpointOptions, CreateTaskRequest};
use crate::options::Given;

/// The services that this is, which have the same messages.
const SERVICES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

/// What is to be done, in this order.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Answer a call.
    Answer(Call, Answer),
    /// Tell containerd of an event.
    Publish(&'static str, Any),
    /// Keep how the init process of a container has ended, in its bundle.
    Keep {
        /// The directory of the bundle.
        bundle: String,
        /// The pid that it had.
        pid: i32,
        /// How it has ended.
        exit: Exit,
    },
    /// Create a container, or get all ready for one that is to be restored, and tell of it by
    /// [`Service::created`].
    Create(Box<CreateTaskRequest>, Box<Given>),
    /// Run the program of a container, and tell by [`Service::started`].
    Start(String),
    /// Restore a container, and tell by [`Service::restored`].
    Restore {
        /// Which.
        id: String,
        /// The directory of its image.
        image: String,
        /// Where its streams go.
        names: Names,
    },
    /// Write an image of a container, and answer.
    Checkpoint {
        /// Who is answered.
        call: Call,
        /// The container.
        id: String,
        /// The directory of its image.
        image: String,
        /// How.
        options: Box<CheckpointOptions>,
    },
    /// Add a process to a container, and tell by [`Service::executed`].
    Execute {
        /// Which it will be.
        who: Who,
        /// What it is, as JSON.
        process: Vec<u8>,
        /// Where its streams go.
        names: Names,
    },
    /// Send a signal to the init process of a container, or to all of it, and answer.
    Kill(Call, String, i32, bool),
    /// Send a signal to a process that was added and is not reaped, and answer.
    KillProcess(Call, i32, i32),
    /// Kill what the end of init has left of a container.
    KillLeft(String),
    /// Kill the init process of a container that was never started.
    KillCreated(String),
    /// Remove a container, and tell by [`Service::deleted`].
    Delete(String),
    /// Wait until the streams of a process have ended, for a while, close what is left of them,
    /// and tell by [`Service::drained`].
    Drain(Who),
    /// Let the processes of a container stand still, or run, and tell by [`Service::moved`].
    Move(Call, String, bool),
    /// Change the limits of a container, and answer.
    Update(Call, String, Vec<u8>),
    /// Answer with the pids in a container, of which some have names.
    Pids(Call, String, Vec<(i32, String)>),
    /// Answer with what a container uses.
    Stats(Call, String),
    /// Change the size of a terminal: width and height.
    Resize(Who, u16, u16),
    /// Close the stdin of a process.
    CloseStdin(Who),
    /// End this program once containerd has all events.
    End,
}

/// The containers of this shim.
#[derive(Debug, Default)]
pub struct Service {
    containers: BTreeMap<String, Container>,
    /// What each process runs as, so that an exit finds it.
    pids: BTreeMap<i32, Who>,
    /// The processes that are in the making, by their file's content.
    specs: BTreeMap<Who, Vec<u8>>,
    actions: Vec<Action>,
}

impl Service {
    /// What is to be done now. Empty: nothing until something happens.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Forgets a caller: nobody is there to be answered.
    pub fn gone(&mut self, connection: u64) {
        let is_there = |call: &Call| call.connection != connection;
        for container in self.containers.values_mut() {
            for (_, process) in container.processes() {
                process.waiters.retain(is_there);
            }
        }
    }

    /// Whether there is such a process, which was not reaped.
    pub fn knows(&self, pid: i32) -> bool {
        self.pids.contains_key(&pid)
    }

    /// Which process has this pid, if it was not reaped.
    pub fn who(&self, pid: i32) -> Option<&Who> {
        self.pids.get(&pid)
    }

    /// The pid of the init process of a container, while it is not known to have ended.
    pub fn init_of(&self, id: &str) -> Option<i32> {
        let init = &self.containers.get(id)?.init;
        Some(init.pid).filter(|pid| self.pids.contains_key(pid))
    }

    fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn answer(&mut self, call: Call, answer: Answer) {
        self.act(Action::Answer(call, answer));
    }

    fn publish(&mut self, topic: &'static str, name: &str, event: &impl prost::Message) {
        let event = Any::of(&format!("containerd.events.{name}"), event);
        self.act(Action::Publish(topic, event));
    }

    /// A container that was created.
    fn container(&mut self, id: &str) -> Result<&mut Container, Refusal> {
        match self.containers.get_mut(id) {
            Some(container) if container.creator.is_none() => Ok(container),
            _ => Err(Refusal::new(Code::NotFound, format!("container {id:?} does not exist"))),
        }
    }

    fn process(&mut self, id: &str, exec: &str) -> Result<&mut Process, Refusal> {
        self.container(id)?.process(exec).ok_or_else(|| {
            Refusal::new(Code::NotFound, format!("process {exec:?} of {id:?} does not exist"))
        })
    }
}
