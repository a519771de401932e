//! What has happened: what was begun is done or has failed, processes have ended.

use super::answer::{Answer, Call, Code, Refusal, answer, done};
use super::methods::ended;
use super::task::{Exit, Motion, Phase, Process, Who};
use super::{Action, Service};
use crate::messages::{
    CreateTaskResponse, DeleteResponse, StartResponse, TaskCreate, TaskDelete, TaskExecStarted,
    TaskExit, TaskIo, TaskOom, TaskPaused, TaskResumed, TaskStart, Timestamp,
};

/// What an exec that never ran has ended with, for who waits for it.
const NEVER_RAN: u32 = 255;

impl Service {
    /// A container was created, with this pid, and whether all its processes end with that, or was
    /// not. One that is to be restored has none yet.
    pub fn created(&mut self, id: &str, made: Result<(i32, bool), Refusal>) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some(call) = container.creator.take() else { return };
        let (pid, own_pids) = match made {
            Ok(made) => made,
            Err(refusal) => {
                self.containers.remove(id);
                return self.answer(call, Err(refusal));
            }
        };
        container.own_pids = own_pids;
        container.init.pid = pid;
        container.init.phase = Phase::Created;
        let names = container.init.names.clone();
        let event = TaskCreate {
            container_id: id.to_owned(),
            bundle: container.bundle.clone(),
            rootfs: std::mem::take(&mut container.rootfs),
            io: Some(TaskIo {
                stdin: names.stdin,
                stdout: names.stdout,
                stderr: names.stderr,
                terminal: names.terminal,
            }),
            checkpoint: container.image.clone(),
            pid: pid.cast_unsigned(),
        };
        if pid != 0 {
            self.pids.insert(pid, Who::init(id));
        }
        self.publish("/tasks/create", "TaskCreate", &event);
        self.answer(call, answer(&CreateTaskResponse { pid: pid.cast_unsigned() }));
    }

    /// The program of a container runs, or does not.
    pub fn started(&mut self, id: &str, started: Result<(), Refusal>) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Phase::Starting(call) = container.init.phase else { return };
        let pid = container.init.pid.cast_unsigned();
        match started {
            Ok(()) => {
                container.init.phase = Phase::Running;
                let event = TaskStart { container_id: id.to_owned(), pid };
                self.publish("/tasks/start", "TaskStart", &event);
                self.answer(call, answer(&StartResponse { pid }));
            }
            Err(refusal) => {
                container.init.phase = Phase::Created;
                self.answer(call, Err(refusal));
            }
        }
        self.conclude(id);
    }

    /// A container was restored, with this pid, and its program runs, or was not.
    pub fn restored(&mut self, id: &str, restored: Result<i32, Refusal>) {
        if let (Ok(pid), Some(container)) = (&restored, self.containers.get_mut(id)) {
            container.init.pid = *pid;
            self.pids.insert(*pid, Who::init(id));
        }
        self.started(id, restored.map(drop));
    }

    /// A process was added to a container, with this pid, or was not.
    pub fn executed(&mut self, who: &Who, made: Result<i32, Refusal>, at: Timestamp) {
        let Some(container) = self.containers.get_mut(&who.container) else { return };
        let Some(process) = container.execs.get_mut(&who.exec) else { return };
        let Phase::Starting(call) = process.phase else { return };
        match made {
            Ok(pid) => {
                process.phase = Phase::Running;
                process.pid = pid;
                let event = TaskExecStarted {
                    container_id: who.container.clone(),
                    exec_id: who.exec.clone(),
                    pid: pid.cast_unsigned(),
                };
                self.pids.insert(pid, who.clone());
                self.publish("/tasks/exec-started", "TaskExecStarted", &event);
                self.answer(call, answer(&StartResponse { pid: pid.cast_unsigned() }));
            }
            Err(refusal) => {
                process.phase = Phase::Stopped;
                process.exit = Some(Exit { code: NEVER_RAN, at });
                self.answer(call, Err(refusal));
                self.answer_waiters(who);
                self.conclude(&who.container);
            }
        }
    }

    /// A process that was known has ended.
    pub fn exited(&mut self, pid: i32, exit: Exit) {
        let Some(who) = self.pids.remove(&pid) else { return };
        let Some(container) = self.containers.get_mut(&who.container) else { return };
        let own_pids = container.own_pids;
        let Some(process) = container.process(&who.exec) else { return };
        process.exit = Some(exit);
        if who.exec.is_empty() {
            if !own_pids {
                self.act(Action::KillLeft(who.container.clone()));
            }
        } else {
            process.phase = Phase::Stopped;
            self.tell_of_exit(&who, pid, exit);
        }
        self.conclude(&who.container);
    }

    /// Tells of the end of a container's init once all else has ended that was started.
    fn conclude(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let init = &mut container.init;
        let is_starting = matches!(init.phase, Phase::Starting(_));
        let Some(exit) = init.exit.filter(|_| init.phase != Phase::Stopped && !is_starting) else {
            return;
        };
        if container.execs.values().any(|exec| exec.is_pending()) {
            return;
        }
        init.phase = Phase::Stopped;
        let (pid, is_deleted) = (init.pid, !init.deleters.is_empty());
        container.motion = Motion::Free;
        self.actions.push(Action::Keep { bundle: container.bundle.clone(), pid, exit });
        self.tell_of_exit(&Who::init(id), pid, exit);
        if is_deleted {
            self.act(Action::Delete(id.to_owned()));
        }
    }

    fn tell_of_exit(&mut self, who: &Who, pid: i32, exit: Exit) {
        let event = TaskExit {
            container_id: who.container.clone(),
            id: who.name().to_owned(),
            pid: pid.cast_unsigned(),
            exit_status: exit.code,
            exited_at: Some(exit.at),
        };
        self.publish("/tasks/exit", "TaskExit", &event);
        self.answer_waiters(who);
    }

    fn answer_waiters(&mut self, who: &Who) {
        let Ok(process) = self.process(&who.container, &who.exec) else { return };
        let Some(exit) = process.exit else { return };
        for call in std::mem::take(&mut process.waiters) {
            self.answer(call, ended(exit));
        }
    }

    /// A container was removed, or could not be.
    pub fn deleted(&mut self, id: &str, deleted: Result<(), Refusal>) {
        match deleted {
            Ok(()) => self.act(Action::Drain(Who::init(id))),
            Err(refusal) => {
                let Ok(process) = self.process(id, "") else { return };
                for call in std::mem::take(&mut process.deleters) {
                    self.answer(call, Err(refusal.clone()));
                }
            }
        }
    }

    /// The streams of a process have ended: it is forgotten, and with init all of its container.
    pub fn drained(&mut self, who: &Who) {
        let Ok(container) = self.container(&who.container) else { return };
        if !who.exec.is_empty() {
            let Some(process) = container.execs.remove(&who.exec) else { return };
            self.specs.remove(who);
            return self.answer_last(who, process);
        }
        let Some(container) = self.containers.remove(&who.container) else { return };
        self.specs.retain(|other, _| other.container != who.container);
        let (code, at) = container.init.told();
        let event = TaskDelete {
            container_id: who.container.clone(),
            pid: container.init.pid.cast_unsigned(),
            exit_status: code,
            exited_at: at,
            id: String::new(),
        };
        self.publish("/tasks/delete", "TaskDelete", &event);
        // Not all that was added need have been deleted.
        for (exec, process) in container.execs {
            self.answer_last(&Who { container: who.container.clone(), exec }, process);
        }
        self.answer_last(who, container.init);
    }

    /// Answers all who wait for something of a process that is forgotten.
    fn answer_last(&mut self, who: &Who, process: Process) {
        let (code, at) = process.told();
        let pid = process.pid.cast_unsigned();
        for call in process.deleters {
            let response = DeleteResponse { pid, exit_status: code, exited_at: at };
            self.answer(call, answer(&response));
        }
        // A process that is no more does not end.
        for call in process.waiters {
            let gone = Refusal::new(Code::NotFound, format!("process {:?}: deleted", who.name()));
            self.answer(call, Err(gone));
        }
    }

    /// The processes of a container stand still, or run again, or neither.
    pub fn moved(&mut self, call: Call, id: &str, runs: bool, moved: Result<(), Refusal>) {
        let Ok(container) = self.container(id) else {
            return self.answer(call, moved.and_then(|()| done()));
        };
        let was_done = moved.is_ok();
        if container.motion != Motion::Free {
            container.motion = if was_done == runs { Motion::Free } else { Motion::Paused };
        }
        let container_id = id.to_owned();
        match (was_done, runs) {
            (true, true) => {
                self.publish("/tasks/resumed", "TaskResumed", &TaskResumed { container_id });
            }
            (true, false) => {
                self.publish("/tasks/paused", "TaskPaused", &TaskPaused { container_id });
            }
            (false, _) => {}
        }
        let answer: Answer = moved.and_then(|()| done());
        self.answer(call, answer);
    }

    /// The kernel has killed a process of a container for want of memory.
    pub fn out_of_memory(&mut self, id: &str) {
        // Nothing is told of a container after its end.
        if self.containers.get(id).is_some_and(|held| held.init.phase != Phase::Stopped) {
            self.publish("/tasks/oom", "TaskOOM", &TaskOom { container_id: id.to_owned() });
        }
    }
}
