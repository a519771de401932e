//! The children of this program: commands at work, which reap themselves, the processes of
//! containers, which become its children when the commands end, what those leave, and loggers.

use std::time::Duration;

use ferrun::sys::process::ended_child;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid as NixPid;
use rustix::process::{Pid, WaitOptions, waitpid};

use super::{Server, Timer, today};
use crate::log;
use crate::service::task::Exit;

/// How long to wait for a command that has ended and still holds its socket.
const LATER: Duration = Duration::from_millis(20);
/// How long a logger may take to end.
const LAST_LINES: Duration = Duration::from_secs(12);

impl Server {
    /// Takes in which children have ended.
    pub(super) fn reap(&mut self) {
        while let Ok(Some(pid)) = ended_child() {
            // Who made it may have told of it, and ended, since that was looked at last.
            if !self.service.knows(pid) {
                self.step_all();
            }
            if self.is_at_work(pid) {
                return self.set_timer(LATER, Timer::Children);
            }
            let Some(code) = reaped(pid) else { continue };
            if let Some(Some(who)) = self.loggers.remove(&pid) {
                self.forget(&who);
            }
            if let Some(who) = self.service.who(pid).cloned() {
                self.look_at_memory(&who.container);
                if who.exec.is_empty() {
                    self.forget_memory(&who.container);
                }
                log::debug(|| format!("process {pid} has ended: {code}"));
                self.service.exited(pid, Exit { code, at: today() });
            }
        }
    }

    fn is_at_work(&self, pid: i32) -> bool {
        self.works.values().any(|working| working.pid() == Some(pid))
    }

    /// Tells a program that reads an output to end, in whatever time it takes up to a bound.
    /// Returns whether it has not ended.
    pub(super) fn end_logger(&mut self, pid: i32, signal: Signal) -> bool {
        // It is not reaped, so the pid is its own.
        if !self.loggers.contains_key(&pid) {
            return false;
        }
        let _ = kill(NixPid::from_raw(pid), signal);
        if signal != Signal::SIGKILL {
            self.set_timer(LAST_LINES, Timer::Logger(pid));
        }
        true
    }
}

/// The exit code of a child that has ended, or 128 and the number of a signal. None: somebody
/// else has reaped it.
pub fn reaped(pid: i32) -> Option<u32> {
    let (_, status) = waitpid(Pid::from_raw(pid), WaitOptions::NOHANG).ok()??;
    let killed = status.terminating_signal().map(|number| 128 + number);
    status.exit_status().or(killed).map(i32::cast_unsigned)
}
