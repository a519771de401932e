//! Killing a process of a call at one of its system calls.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::Call;

/// How long a call may go on after one of its processes was killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The process that was called.
    Caller,
    /// One that it made: the init process, one in between, a hook.
    Child,
}

/// A signal and the stop at a system call at which the victim gets it. Each system call
/// has two, before and after it. 0 is the moment when it has cloned a process.
#[derive(Debug, Clone, Copy)]
pub struct Blow {
    /// What it gets.
    pub signal: Signal,
    /// Which stop, from 1 on.
    pub number: u32,
}

/// What became of a traced call.
#[derive(Debug)]
pub struct Ended {
    /// Whether the victim came to the stop at which it gets its signal.
    pub reached: bool,
    /// The exit code of the called process, -N if signal N killed it.
    pub code: i32,
}

/// Makes a call whose victim is hit. The stops of all children are counted together.
///
/// # Panics
/// If the call does not end.
#[track_caller]
pub fn hit(call: Call, victim: Victim, blow: Blow) -> Ended {
    hit_by(|| call, victim, blow)
}

/// The same of a call that its thread makes, wherever that goes before.
///
/// # Panics
/// If the call does not end.
#[track_caller]
pub fn hit_by(call: impl FnOnce() -> Call + Send, victim: Victim, blow: Blow) -> Ended {
    // Processes are traced by a thread; when that ends they go on untraced.
    thread::scope(|scope| {
        let ended = scope.spawn(move || trace(call, victim, blow)).join();
        ended.unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// Does something during which a process that runs already, or one that it makes meanwhile, is hit.
/// That process has to end by itself, or by what is done.
///
/// # Panics
/// If it cannot be traced, or by what is done.
#[track_caller]
pub fn strike<T>(running: Pid, victim: Victim, blow: Blow, act: impl FnOnce() -> T) -> (Ended, T) {
    let (attached, is_attached) = channel();
    thread::scope(|scope| {
        let tracer = scope.spawn(move || {
            ptrace::attach(running).expect("PTRACE_ATTACH");
            assert!(matches!(
                waitpid(running, Some(WaitPidFlag::__WALL)),
                Ok(WaitStatus::Stopped(..))
            ));
            ptrace::setoptions(running, options(victim)).expect("PTRACE_SETOPTIONS");
            attached.send(()).expect("who strikes");
            follow(running, victim, blow)
        });
        is_attached.recv().expect("it is traced");
        let done = catch_unwind(AssertUnwindSafe(act));
        if done.is_err() {
            let _ = kill(running, Signal::SIGKILL);
        }
        let ended = tracer.join().unwrap_or_else(|panic| resume_unwind(panic));
        (ended, done.unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// What the tracer of a victim is told of.
fn options(victim: Victim) -> Options {
    let children =
        Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK;
    match victim {
        Victim::Caller => Options::PTRACE_O_TRACESYSGOOD,
        Victim::Child => Options::PTRACE_O_TRACESYSGOOD | children,
    }
}

fn trace(call: impl FnOnce() -> Call, victim: Victim, blow: Blow) -> Ended {
    let (begun, begins) = channel();
    let (done, waits) = channel::<()>();
    // Where this thread goes it may be able to make no other.
    let watchdog = thread::spawn(move || {
        let Ok(called) = begins.recv() else { return false };
        let hung = waits.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout);
        if hung {
            let _ = kill(called, Signal::SIGKILL);
        }
        hung
    });
    let running = call().traced().spawn();
    let called = running.pid();
    begun.send(called).expect("the watchdog");
    // At its execve(2).
    assert!(matches!(waitpid(called, Some(WaitPidFlag::__WALL)), Ok(WaitStatus::Stopped(..))));
    ptrace::setoptions(called, options(victim)).expect("PTRACE_SETOPTIONS");
    let ended = follow(called, victim, blow);
    drop(done);
    assert!(!watchdog.join().expect("the watchdog"), "no end after {blow:?}");
    ended
}

/// Lets all tracees go on until the called one ends, and hits one on the way.
fn follow(called: Pid, victim: Victim, blow: Blow) -> Ended {
    let is_victim = |pid| (pid == called) == (victim == Victim::Caller);
    // Whoever went before waitpid(2) says so has been killed from elsewhere.
    let resume = |pid, signal| {
        let _ = match is_victim(pid) {
            true => ptrace::syscall(pid, signal),
            false => ptrace::cont(pid, signal),
        };
    };
    let mut known = BTreeSet::from([called]);
    let mut passed = 0;
    resume(called, None);
    loop {
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        match waitpid(None, Some(flags)).expect("waitpid") {
            WaitStatus::PtraceSyscall(pid) => {
                passed += 1;
                if passed == blow.number {
                    kill(pid, blow.signal).expect("kill");
                }
                resume(pid, None);
            }
            // Every tracee begins with a SIGSTOP, and has a SIGTRAP after execve(2).
            WaitStatus::Stopped(pid, Signal::SIGSTOP) if known.insert(pid) => resume(pid, None),
            WaitStatus::Stopped(pid, Signal::SIGTRAP) => resume(pid, None),
            WaitStatus::Stopped(pid, signal) => resume(pid, Some(signal)),
            WaitStatus::PtraceEvent(pid, ..) => {
                if is_victim(pid) && blow.number == 0 {
                    kill(pid, blow.signal).expect("kill");
                }
                resume(pid, None);
            }
            WaitStatus::Exited(pid, code) if pid == called => {
                return Ended { reached: passed >= blow.number, code };
            }
            WaitStatus::Signaled(pid, signal, _) if pid == called => {
                return Ended { reached: passed >= blow.number, code: -(signal as i32) };
            }
            _ => {}
        }
    }
}
