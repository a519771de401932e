//! What the service has decided, done.

use std::fs;

use anyhow::Result;
use ferrun::Kind;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::json;

use super::making::{UNMOUNT_FAILED, Working, memory_file, refusal};
use super::{Held, Server, children, today};
use crate::apart::{Apart, UNMOUNT};
use crate::log;
use crate::messages::{Any, PidsResponse, ProcessDetails, ProcessInfo, StatsResponse};
use crate::metrics::Meter;
use crate::mounts::unmount_all;
use crate::service::Action;
use crate::service::answer::{Answer, Call, Code, Refusal, answer, done};
use crate::service::task::Exit;

/// The file in a bundle that says how its init process has ended.
pub const EXIT: &str = "exit.json";

impl Server {
    /// Does all that there is to do now.
    pub(super) fn act(&mut self) {
        loop {
            let actions = self.service.take_actions();
            if actions.is_empty() {
                return;
            }
            for action in actions {
                self.act_once(action);
            }
        }
    }

    fn act_once(&mut self, action: Action) {
        match action {
            Action::Answer(call, answer) => self.answer(call, answer),
            Action::Publish(topic, event) => self.events.publish(topic, event, today()),
            Action::Keep { bundle, pid, exit } => keep_exit(&bundle, pid, exit),
            Action::Create(request, options) => self.create(&request, *options),
            Action::Start(id) => self.start(&id),
            Action::Restore { id, image, names } => self.restore(&id, &image, &names),
            Action::Checkpoint { call, id, image, options } => {
                self.checkpoint(call, &id, image, *options);
            }
            Action::Execute { who, process, names } => self.execute(&who, &process, &names),
            Action::Kill(call, id, signal, all) => {
                let answer = self.kill(&id, signal, all);
                self.answer(call, answer);
            }
            Action::KillProcess(call, pid, signal) => {
                let answer = kill_process(pid, signal);
                self.answer(call, answer);
            }
            Action::KillLeft(id) => self.kill_left(&id),
            Action::KillCreated(id) => {
                if let Err(refusal) = self.kill(&id, libc::SIGKILL, false) {
                    log::warn(format!("{id}: {}", refusal.message));
                }
            }
            Action::Delete(id) => self.delete(&id),
            Action::Drain(who) => self.drain(&who),
            Action::Move(call, id, runs) => self.set_motion(call, &id, runs),
            Action::Update(call, id, resources) => self.update(call, &id, &resources),
            Action::Pids(call, id, named) => {
                let answer = self.pids(&id, &named);
                self.answer(call, answer);
            }
            Action::Stats(call, id) => {
                let answer = self.stats(&id);
                self.answer(call, answer);
            }
            Action::Resize(who, width, height) => self.resize(&who, width, height),
            Action::CloseStdin(who) => self.close_stdin(&who),
            Action::End => self.end(),
        }
    }

    pub(super) fn held(&self, id: &str) -> Result<Held, Refusal> {
        let gone = || Refusal::new(Code::NotFound, format!("container {id:?} does not exist"));
        self.containers.get(id).cloned().ok_or_else(gone)
    }

    fn start(&mut self, id: &str) {
        let held = match self.held(id) {
            Ok(held) => held,
            Err(refusal) => return self.service.started(id, Err(refusal)),
        };
        let begun = match held.starts_slowly {
            true => held.runtime.begin_start(id).map(|work| Working::Start { id: id.into(), work }),
            false => held.runtime.starting(id).map(|work| {
                let work = Box::new(work);
                Working::Starting { id: id.into(), work }
            }),
        };
        // What has failed by now may end the container.
        let working = match begun {
            Ok(working) => working,
            Err(error) => return self.started(id, Err(error)),
        };
        if let Err(error) = self.await_work(working) {
            self.service.started(id, Err(refusal("OCI runtime start failed", &error)));
        }
    }

    /// The program of a container runs, or does not.
    pub(super) fn started(&mut self, id: &str, started: Result<(), ferrun::Error>) {
        let failed = started.map_err(|error| Refusal::of("OCI runtime start failed", &error));
        let has_failed = failed.is_err();
        self.service.started(id, failed);
        // What fails here ends the container, and reaps its init where that is our child.
        if has_failed
            && let Some(pid) = self.service.init_of(id)
            && kill(Pid::from_raw(pid), None).is_err()
        {
            let code = children::reaped(pid).unwrap_or(128 + libc::SIGKILL.cast_unsigned());
            self.service.exited(pid, Exit { code, at: today() });
        }
    }

    fn kill(&mut self, id: &str, signal: i32, all: bool) -> Answer {
        let runtime = self.held(id)?.runtime;
        let killed = match all {
            true => runtime.kill_all(id, signal),
            false => runtime.kill(id, signal),
        };
        match killed {
            Ok(()) => done(),
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::WrongState) => {
                Err(Refusal::new(Code::NotFound, format!("process already finished: {error}")))
            }
            Err(error) => Err(Refusal::of("kill", &error)),
        }
    }

    fn kill_left(&mut self, id: &str) {
        let Ok(held) = self.held(id) else { return };
        match held.runtime.kill_all(id, libc::SIGKILL) {
            Err(error) if error.kind() != Kind::NotFound => log::warn(format!("{id}: {error}")),
            _ => {}
        }
    }

    fn delete(&mut self, id: &str) {
        let held = match self.held(id) {
            Ok(held) => held,
            Err(refusal) => return self.service.deleted(id, Err(refusal)),
        };
        if !held.ends_slowly {
            return self.deleted(id, held.runtime.delete(id, false));
        }
        let begun = held.runtime.begin_delete(id, false).map_err(anyhow::Error::from);
        let begun =
            begun.and_then(|work| self.await_work(Working::Delete { id: id.to_owned(), work }));
        if let Err(error) = begun {
            self.service.deleted(id, Err(refusal("failed to delete task", &error)));
        }
    }

    /// A container was removed by the runtime, or could not be.
    pub(super) fn deleted(&mut self, id: &str, deleted: Result<(), ferrun::Error>) {
        if let Err(error) = deleted
            && error.kind() != Kind::NotFound
        {
            let refusal = Refusal::of("failed to delete task", &error);
            return self.service.deleted(id, Err(refusal));
        }
        let unmounted = match self.containers.get(id) {
            Some(Held { mounted: Some((root, false)), .. }) => unmount_all(root),
            Some(Held { mounted: Some((_, true)), bundle, .. }) => {
                let begun = Apart::begin(UNMOUNT, &bundle.to_string_lossy(), &[]);
                let working = begun.map(|work| Working::Unmount { id: id.to_owned(), work });
                match working.and_then(|working| self.await_work(working)) {
                    Ok(()) => return,
                    Err(error) => Err(error),
                }
            }
            _ => Ok(()),
        };
        let unmounted = unmounted.map_err(|error| refusal(UNMOUNT_FAILED, &error));
        self.service.deleted(id, unmounted);
    }

    fn set_motion(&mut self, call: Call, id: &str, runs: bool) {
        let begun = self.held(id).and_then(|held| {
            let begun =
                if runs { held.runtime.begin_resume(id) } else { held.runtime.begin_pause(id) };
            let work = begun.map_err(|error| Refusal::of("pause", &error))?;
            let working = Working::Move { call, id: id.to_owned(), runs, work };
            self.await_work(working).map_err(|error| refusal("pause", &error))
        });
        if let Err(refusal) = begun {
            self.service.moved(call, id, runs, Err(refusal));
        }
    }

    fn update(&mut self, call: Call, id: &str, resources: &[u8]) {
        let begun = self.held(id).and_then(|held| {
            let file = memory_file(resources).map_err(|error| refusal("update", &error))?;
            let work = held.runtime.begin_update(id, file);
            let work = work.map_err(|error| Refusal::of("update", &error))?;
            let working = Working::Update { call, work };
            self.await_work(working).map_err(|error| refusal("update", &error))
        });
        if let Err(refusal) = begun {
            self.answer(call, Err(refusal));
        }
    }

    fn pids(&mut self, id: &str, named: &[(i32, String)]) -> Answer {
        let pids = self.held(id)?.runtime.processes(id);
        let pids = pids.map_err(|error| Refusal::of("pids", &error))?;
        let info = |pid: &u32| {
            let name = named.iter().find(|(named, _)| named.cast_unsigned() == *pid);
            name.map(|(_, name)| {
                let details = ProcessDetails { exec_id: name.clone() };
                Any::of("containerd.runc.v1.ProcessDetails", &details)
            })
        };
        let processes = pids.iter().map(|pid| ProcessInfo { pid: *pid, info: info(pid) });
        answer(&PidsResponse { processes: processes.collect() })
    }

    fn stats(&mut self, id: &str) -> Answer {
        let runtime = self.held(id)?.runtime;
        if !self.meters.contains_key(id) {
            let group = runtime.group(id).map_err(|error| Refusal::of("stats", &error))?;
            self.meters.insert(id.to_owned(), Meter::new(&group));
        }
        let stats = self.meters.get_mut(id).and_then(Meter::read);
        let none = || Refusal::new(Code::NotFound, format!("container {id:?} has no cgroup"));
        answer(&StatsResponse { stats: Some(stats.ok_or_else(none)?) })
    }
}

fn kill_process(pid: i32, signal: i32) -> Answer {
    // It is not reaped, so the pid is its own. By number: nix has no name for a real-time signal.
    match ferrun::sys::process::send_signal(pid, signal) {
        Ok(()) => done(),
        Err(nix::errno::Errno::ESRCH) => {
            Err(Refusal::new(Code::NotFound, "process already finished"))
        }
        Err(errno) => {
            let reason = ferrun::error::errno_words(errno as i32);
            Err(Refusal::new(Code::Unknown, format!("kill: {reason}")))
        }
    }
}

/// Keeps how the init process of a container has ended, for `delete` after the end of this
/// program.
fn keep_exit(bundle: &str, pid: i32, exit: Exit) {
    let seconds = exit.at.seconds.cast_unsigned();
    let text = json!({
        "Timestamp": ferrun::time::rfc3339(seconds, exit.at.nanos.cast_unsigned(), 9),
        "Pid": pid,
        "Status": exit.code,
        "Seconds": exit.at.seconds,
        "Nanos": exit.at.nanos,
    });
    let path = std::path::Path::new(bundle).join(EXIT);
    if let Err(error) = fs::write(&path, text.to_string()) {
        log::warn(format!("{path:?}: {error}"));
    }
}
