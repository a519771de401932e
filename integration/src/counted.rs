//! What commands cost: what strace(1) has written, counted, and instructions, one by one.

use std::fs;

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::{Bed, Running, View};

const FORKS: [&str; 4] = ["clone", "clone3", "fork", "vfork"];
const OPENED: [&str; 3] = ["open", "openat", "openat2"];

/// Whether the machine is one on which the tables of costs hold: what they depend on, beside the
/// runtime.
///
/// # Errors
/// Why not.
///
/// # Panics
/// If the kernel does not tell its release.
pub fn is_as_when_counted(bed: &Bed) -> Result<(), &'static str> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let mut numbers = release.split(['.', '-']).map(|word| word.parse().unwrap_or(0));
    let release: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let modules = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    match () {
        () if bed.view == View::Hybrid => Err("the same as with version 1 alone"),
        () if bed.view == View::V2 && !bed.has_controller("hugetlb") => {
            Err("it was counted where groups of version 2 can have a controller")
        }
        () if cfg!(not(target_arch = "x86_64")) => Err("it was counted on x86_64"),
        () if release < (6, 15) => Err("it was counted on Linux 6.18; older ones take other calls"),
        () if modules.contains("apparmor") || modules.contains("selinux") => Err(
            "it was counted without AppArmor and SELinux, which are asked in calls of their own",
        ),
        () => Ok(()),
    }
}

/// Counts a call by its name: system calls, processes made, files opened.
pub fn count(counts: &mut [u64; 3], call: &str) {
    let name = call.split('(').next().unwrap_or_default();
    counts[0] += 1;
    counts[1] += u64::from(FORKS.contains(&name));
    counts[2] += u64::from(OPENED.contains(&name));
}

/// How many instructions a call that was started traced takes to its end, in user mode. What it
/// executes in its own place is among them, what processes do that it makes is not.
///
/// # Panics
/// If it cannot be traced.
pub fn instructions_of(running: &Running) -> u64 {
    let pid = running.pid();
    // At its execve(2).
    assert!(matches!(stop_of(pid), WaitStatus::Stopped(..)));
    ptrace::setoptions(pid, Options::PTRACE_O_EXITKILL).expect("PTRACE_SETOPTIONS");
    // On one processor both take turns ten times as fast as two that wake each other.
    let this = Pid::from_raw(0);
    let own = sched_getaffinity(this).expect("sched_getaffinity");
    let mut one = CpuSet::new();
    one.set(sched_getcpu().expect("sched_getcpu")).expect("a processor");
    for process in [this, pid] {
        sched_setaffinity(process, &one).expect("sched_setaffinity");
    }
    let instructions = step_through(pid);
    sched_setaffinity(this, &own).expect("sched_setaffinity");
    instructions
}

fn step_through(pid: Pid) -> u64 {
    let mut signal = None;
    for instructions in 0.. {
        ptrace::step(pid, signal.take()).expect("PTRACE_SINGLESTEP");
        match stop_of(pid) {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
            WaitStatus::Stopped(_, other) => signal = Some(other),
            WaitStatus::Exited(_, 0) => return instructions,
            other => panic!("{other:?}"),
        }
    }
    unreachable!("some instruction ends it")
}

fn stop_of(pid: Pid) -> WaitStatus {
    waitpid(pid, Some(WaitPidFlag::__WALL)).expect("waitpid")
}

/// All calls of all processes in a log of `strace -f`.
pub fn calls_of_all(log: &str) -> [u64; 3] {
    let mut counts = [0; 3];
    for line in log.lines() {
        let event = line.split_once(' ').map_or("", |(_, event)| event.trim_start());
        // The second half of a call, the end of a process, a signal.
        if !event.is_empty() && !event.starts_with(['<', '+', '-']) {
            count(&mut counts, event);
        }
    }
    counts
}
