//! The methods of the task service.

use prost::Message;
use serde_json::Value;

use super::answer::{Answer, Call, Code, Refusal, answer, done};
use super::task::{Container, Exit, Motion, Names, Phase, Process, Who};
use super::{Action, SERVICES, Service};
use crate::messages::{
    CheckpointTaskRequest, CloseIoRequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    DeleteRequest, ExecProcessRequest, KillRequest, PauseRequest, PidsRequest, Request,
    ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest, StateRequest, StateResponse,
    StatsRequest, TaskExecAdded, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use crate::options;

/// None: the answer comes later.
type Now = Result<Option<Vec<u8>>, Refusal>;

fn read<M: Message + Default>(payload: &[u8]) -> Result<M, Refusal> {
    M::decode(payload).map_err(|error| Refusal::new(Code::InvalidArgument, error.to_string()))
}

fn forbidden<T>(message: String) -> Result<T, Refusal> {
    Err(Refusal::new(Code::FailedPrecondition, message))
}

fn now(answer: Answer) -> Now {
    answer.map(Some)
}

impl Service {
    /// Takes in a call.
    pub fn call(&mut self, call: Call, request: &Request) {
        let Request { service, method, payload, .. } = request;
        let answered = if SERVICES.contains(&service.as_str()) {
            self.dispatch(call, method, payload)
        } else {
            Err(Refusal::new(Code::Unimplemented, format!("service {service}")))
        };
        if let Some(answer) = answered.transpose() {
            self.answer(call, answer);
        }
    }

    fn dispatch(&mut self, call: Call, method: &str, payload: &[u8]) -> Now {
        match method {
            "Create" => self.create(call, read(payload)?),
            "Start" => self.start(call, read(payload)?),
            "Exec" => self.exec(&read(payload)?),
            "Delete" => self.delete(call, read(payload)?),
            "Kill" => self.kill(call, read(payload)?),
            "State" => self.state(&read(payload)?),
            "Wait" => self.wait(call, &read(payload)?),
            "Connect" => self.connect(&read(payload)?),
            "Pids" => self.pids(call, read(payload)?),
            "Stats" => {
                let StatsRequest { id } = read(payload)?;
                self.container(&id)?;
                self.later(Action::Stats(call, id))
            }
            "Pause" => {
                let PauseRequest { id } = read(payload)?;
                self.change_motion(call, id, Motion::Free, Motion::Pausing)
            }
            "Resume" => {
                let ResumeRequest { id } = read(payload)?;
                self.change_motion(call, id, Motion::Paused, Motion::Paused)
            }
            "Update" => {
                let UpdateTaskRequest { id, resources, .. } = read(payload)?;
                self.container(&id)?;
                let resources = resources.unwrap_or_default().value;
                self.later(Action::Update(call, id, resources))
            }
            "ResizePty" => self.resize(read(payload)?),
            "CloseIO" => self.close_io(read(payload)?),
            "Shutdown" => {
                let ShutdownRequest { .. } = read(payload)?;
                if self.containers.is_empty() {
                    self.answer(call, done());
                    self.act(Action::End);
                    return Ok(None);
                }
                now(done())
            }
            "Checkpoint" => self.checkpoint(call, read(payload)?),
            _ => Err(Refusal::new(Code::Unimplemented, format!("method {method}"))),
        }
    }

    fn later(&mut self, action: Action) -> Now {
        self.act(action);
        Ok(None)
    }

    fn create(&mut self, call: Call, request: CreateTaskRequest) -> Now {
        let options = options::read(request.options.as_ref())?;
        if !request.parent_checkpoint.is_empty() {
            return forbidden("parent_checkpoint: an image itself names the one before".to_owned());
        }
        let id = request.id.clone();
        if self.containers.contains_key(&id) {
            return Err(Refusal::new(Code::AlreadyExists, format!("container {id:?} exists")));
        }
        let names = Names {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let container = Container {
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            image: request.checkpoint.clone(),
            creator: Some(call),
            own_pids: true,
            motion: Motion::Free,
            init: Process::new(names),
            execs: Default::default(),
        };
        self.containers.insert(id, container);
        self.later(Action::Create(Box::new(request), Box::new(options)))
    }

    fn start(&mut self, call: Call, StartRequest { id, exec_id }: StartRequest) -> Now {
        let container = self.container(&id)?;
        let has_ended = container.init.exit.is_some();
        if has_ended {
            return forbidden(format!("container {id:?}: its init process is not running"));
        }
        let Some(process) = container.process(&exec_id) else {
            return self.process(&id, &exec_id).map(|_| None);
        };
        let due = if exec_id.is_empty() { Phase::Created } else { Phase::Added };
        if process.phase != due {
            let name = if exec_id.is_empty() { &id } else { &exec_id };
            return forbidden(format!("process {name:?} was started before"));
        }
        process.phase = Phase::Starting(call);
        let names = process.names.clone();
        if exec_id.is_empty() {
            let image = container.image.clone();
            return self.later(match image.is_empty() {
                true => Action::Start(id),
                false => Action::Restore { id, image, names },
            });
        }
        let who = Who { container: id, exec: exec_id };
        let process = self.specs.remove(&who).unwrap_or_default();
        self.later(Action::Execute { who, process, names })
    }

    fn exec(&mut self, request: &ExecProcessRequest) -> Now {
        let ExecProcessRequest { id, exec_id, .. } = request;
        let container = self.container(id)?;
        if container.init.exit.is_some() || container.init.pid == 0 {
            return forbidden(format!("container {id:?}: its init process is not running"));
        }
        if exec_id.is_empty() || container.execs.contains_key(exec_id) {
            return Err(Refusal::new(Code::AlreadyExists, format!("process {exec_id:?} exists")));
        }
        let spec = request.spec.as_ref().map(|spec| spec.value.as_slice()).unwrap_or_default();
        let mut process: Value = serde_json::from_slice(spec)
            .map_err(|error| Refusal::new(Code::InvalidArgument, format!("spec: {error}")))?;
        if let Some(process) = process.as_object_mut() {
            process.insert("terminal".to_owned(), request.terminal.into());
        }
        let names = Names {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        container.execs.insert(exec_id.clone(), Process::new(names));
        let who = Who { container: id.clone(), exec: exec_id.clone() };
        self.specs.insert(who, process.to_string().into_bytes());
        let added = TaskExecAdded { container_id: id.clone(), exec_id: exec_id.clone() };
        self.publish("/tasks/exec-added", "TaskExecAdded", &added);
        now(done())
    }

    fn delete(&mut self, call: Call, DeleteRequest { id, exec_id }: DeleteRequest) -> Now {
        let process = self.process(&id, &exec_id)?;
        let is_first = process.deleters.is_empty();
        let who = Who { container: id, exec: exec_id };
        match process.phase {
            Phase::Starting(_) | Phase::Running if process.exit.is_none() => {
                return forbidden(format!("process {:?} is running", who.name()));
            }
            _ => process.deleters.push(call),
        }
        if process.phase == Phase::Created && process.pid == 0 {
            // It was to be restored, and is not any more.
            process.phase = Phase::Stopped;
        }
        let phase = process.phase;
        match phase {
            _ if !is_first => {}
            Phase::Stopped if who.exec.is_empty() => self.act(Action::Delete(who.container)),
            // Its streams may be open already.
            Phase::Stopped | Phase::Added => self.act(Action::Drain(who)),
            Phase::Created => self.act(Action::KillCreated(who.container)),
            // All of the container ends first.
            Phase::Starting(_) | Phase::Running => {}
        }
        Ok(None)
    }

    fn kill(&mut self, call: Call, request: KillRequest) -> Now {
        let KillRequest { id, exec_id, signal, all } = request;
        let process = self.process(&id, &exec_id)?;
        if process.exit.is_some() || process.phase == Phase::Stopped {
            return Err(Refusal::new(Code::NotFound, "process already finished"));
        }
        let (pid, signal) = (process.pid, signal.cast_signed());
        if exec_id.is_empty() {
            return self.later(Action::Kill(call, id, signal, all));
        }
        if pid == 0 {
            return forbidden(format!("process {exec_id:?} was not started"));
        }
        self.later(Action::KillProcess(call, pid, signal))
    }

    fn state(&mut self, StateRequest { id, exec_id }: &StateRequest) -> Now {
        let container = self.container(id)?;
        let (bundle, motion) = (container.bundle.clone(), container.motion);
        let process = self.process(id, exec_id)?;
        let (created, running, stopped, paused, pausing) = (1, 2, 3, 4, 5);
        let status = match (process.phase, motion) {
            (Phase::Stopped, _) => stopped,
            (_, Motion::Paused) => paused,
            (_, Motion::Pausing) => pausing,
            (Phase::Added | Phase::Created | Phase::Starting(_), _) => created,
            (Phase::Running, _) => running,
        };
        let Names { stdin, stdout, stderr, terminal } = process.names.clone();
        let exit = process.exit.filter(|_| process.phase == Phase::Stopped);
        now(answer(&StateResponse {
            id: if exec_id.is_empty() { id.clone() } else { exec_id.clone() },
            bundle,
            pid: process.pid.cast_unsigned(),
            status,
            stdin,
            stdout,
            stderr,
            terminal,
            exit_status: exit.map_or(0, |exit| exit.code),
            exited_at: exit.map(|exit| exit.at),
            exec_id: exec_id.clone(),
        }))
    }

    fn wait(&mut self, call: Call, WaitRequest { id, exec_id }: &WaitRequest) -> Now {
        let process = self.process(id, exec_id)?;
        match (process.phase, process.exit) {
            (Phase::Stopped, Some(exit)) => now(ended(exit)),
            _ => {
                process.waiters.push(call);
                Ok(None)
            }
        }
    }

    fn connect(&mut self, ConnectRequest { id }: &ConnectRequest) -> Now {
        let task_pid = self.container(id).map_or(0, |container| container.init.pid.cast_unsigned());
        now(answer(&ConnectResponse {
            shim_pid: std::process::id(),
            task_pid,
            version: String::new(),
        }))
    }

    fn pids(&mut self, call: Call, PidsRequest { id }: PidsRequest) -> Now {
        let container = self.container(&id)?;
        if container.init.phase == Phase::Stopped || container.init.pid == 0 {
            // A containerd that starts anew takes who has no process for a leak, and throws away
            // how it has ended, or what is to be restored.
            return forbidden(format!("container {id:?} does not run"));
        }
        let execs = container.execs.iter();
        let named = execs.filter(|(_, exec)| exec.pid != 0 && exec.exit.is_none());
        let named = named.map(|(name, exec)| (exec.pid, name.clone())).collect();
        self.later(Action::Pids(call, id, named))
    }

    fn change_motion(&mut self, call: Call, id: String, from: Motion, to: Motion) -> Now {
        let container = self.container(&id)?;
        if container.motion != from || container.init.phase != Phase::Running {
            let word = if from == Motion::Free { "running" } else { "paused" };
            return forbidden(format!("container {id:?} is not {word}"));
        }
        container.motion = to;
        self.later(Action::Move(call, id, from == Motion::Paused))
    }

    fn checkpoint(&mut self, call: Call, request: CheckpointTaskRequest) -> Now {
        let CheckpointTaskRequest { id, path: image, options } = request;
        let options = Box::new(options::of_checkpoint(options.as_ref())?);
        let init = &self.container(&id)?.init;
        if init.phase != Phase::Running || init.exit.is_some() {
            return forbidden(format!("container {id:?} is not running"));
        }
        if image.is_empty() {
            return Err(Refusal::new(Code::InvalidArgument, "path: of what image?"));
        }
        self.later(Action::Checkpoint { call, id, image, options })
    }

    fn resize(&mut self, request: ResizePtyRequest) -> Now {
        let ResizePtyRequest { id, exec_id, width, height } = request;
        let has_terminal = self.process(&id, &exec_id)?.names.terminal;
        if has_terminal {
            let size = |side: u32| u16::try_from(side).unwrap_or(u16::MAX);
            let who = Who { container: id, exec: exec_id };
            self.act(Action::Resize(who, size(width), size(height)));
        }
        now(done())
    }

    fn close_io(&mut self, request: CloseIoRequest) -> Now {
        let CloseIoRequest { id, exec_id, stdin } = request;
        self.process(&id, &exec_id)?;
        if stdin {
            self.act(Action::CloseStdin(Who { container: id, exec: exec_id }));
        }
        now(done())
    }
}

/// What who waits for the end of a process is told.
pub fn ended(exit: Exit) -> Answer {
    answer(&WaitResponse { exit_status: exit.code, exited_at: Some(exit.at) })
}
