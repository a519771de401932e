//! Processes by what the kernel says of them.
//!
//! A pid is used again, so a process is known by its pid, its start time and the boot of
//! the machine, and it is held by a handle. It has ended when its handle says so, not
//! before: /proc/PID/stat shows a zombie where the first thread alone is gone. A name in
//! there is bytes that the process chooses. What is not understood is an error and never
//! taken for an end: whoever is thought to have ended is forgotten.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, stat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

/// A process that cannot be mistaken for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its pid, as the creator sees it.
    pub pid: i32,
    /// When it started, in clock ticks since boot (field 22 of /proc/PID/stat), by the
    /// machine's own clock whatever time namespace it is read in.
    pub started: u64,
}

impl ProcessId {
    /// A process that started when field 22 shows `shown` to the caller.
    pub fn as_shown(pid: i32, shown: u64) -> Result<Self> {
        let (started, _) = unshifted(shown, boottime_offset()?);
        Ok(Self { pid, started })
    }
}

/// What /proc/PID/stat says of a process (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessFacts {
    /// Its pid.
    pub pid: i32,
    /// When it started, by the clock of the reader's time namespace.
    shown: u64,
    /// Whether its first thread is a zombie, or less. Others may run on.
    pub leader_has_ended: bool,
    /// Whether its first thread is on its way out, and has no namespaces any more.
    pub is_exiting: bool,
    /// Whether it has called execve(2) since it was cloned.
    pub has_executed: bool,
    /// Whether it has touched memory that it shares with its parent or that was not there.
    /// Nothing can run without.
    pub has_run: bool,
}

impl ProcessFacts {
    /// Reads the facts; None where there is no such process.
    pub fn read(pid: i32) -> Result<Option<Self>> {
        let path = format!("/proc/{pid}/stat");
        let mut buffer = [0; 1024];
        let mut read = || match read_line(&path, &mut buffer) {
            Ok(text) => match Self::parse(pid, text) {
                Some(facts) => Ok(Some(facts)),
                None => bail!("{path}: {:?}: not understood", text.escape_ascii().to_string()),
            },
            Err(Errno::NOENT | Errno::SRCH) => Ok(None),
            Err(errno) => Err(errno).context(path.clone()),
        };
        match read()? {
            None if handle(pid)?.is_some() => match read()? {
                None => bail!("{path}: hidden: nobody can tell which process {pid} is"),
                facts => Ok(facts),
            },
            facts => Ok(facts),
        }
    }

    fn parse(pid: i32, text: &[u8]) -> Option<Self> {
        // Of linux/sched.h: on its way out; cloned, and has not called execve(2).
        const PF_EXITING: u64 = 0x4;
        const PF_FORKNOEXEC: u64 = 0x40;
        // The name, in brackets, may hold anything, brackets too.
        let end_of_name = text.iter().rposition(|&byte| byte == b')')?;
        let fields = std::str::from_utf8(text.get(end_of_name + 1..)?).ok()?;
        // The first of them is field 3.
        let mut fields = fields.split_ascii_whitespace();
        let leader_has_ended = matches!(fields.next()?, "Z" | "X" | "x");
        let mut number =
            |since_the_last: usize| fields.nth(since_the_last - 1)?.parse::<u64>().ok();
        let flags = number(9 - 3)?;
        let minor_faults = number(10 - 9)?;
        Some(Self {
            pid,
            shown: number(22 - 10)?,
            leader_has_ended,
            is_exiting: flags & PF_EXITING != 0,
            has_executed: flags & PF_FORKNOEXEC == 0,
            has_run: minor_faults > 0,
        })
    }

    /// The process as it is remembered.
    pub fn id(&self) -> Result<ProcessId> {
        ProcessId::as_shown(self.pid, self.shown)
    }

    /// Whether this is the process that is remembered as `id`.
    pub fn is(&self, id: ProcessId) -> Result<bool> {
        if self.pid != id.pid {
            return Ok(false);
        }
        // To find one's own namespace makes the kernel build a directory of /proc, a
        // twentieth of `state`. Only a pid that is used again could look the same without,
        // and its time of start would have to lie just the offset before, to the tick.
        if self.shown == id.started {
            return Ok(true);
        }
        let (first, last) = unshifted(self.shown, boottime_offset()?);
        Ok((first..=last).contains(&id.started))
    }
}

/// A handle on a process: None if it has ended, or its pid is nobody's or another one's.
pub fn open_process(process: ProcessId) -> Result<Option<OwnedFd>> {
    Ok(hold(process)?.map(|(handle, _)| handle))
}

/// As [`open_process`], with what the kernel said of the process after the handle was there.
pub fn hold(process: ProcessId) -> Result<Option<(OwnedFd, ProcessFacts)>> {
    let Some(handle) = handle(process.pid)? else { return Ok(None) };
    // Looked at after the handle is taken: it is of this process or of none.
    let Some(facts) = ProcessFacts::read(process.pid)? else { return Ok(None) };
    if !facts.is(process)? || (facts.leader_has_ended && has_ended(&handle)?) {
        return Ok(None);
    }
    Ok(Some((handle, facts)))
}

fn handle(pid: i32) -> Result<Option<OwnedFd>> {
    let Some(pid) = Pid::from_raw(pid) else { return Ok(None) };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => Ok(Some(handle)),
        // Kernels to 6.12 say INVAL of a process that is just being reaped, and of a thread
        // that is not the first one, of which newer ones say NOENT.
        Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno).context("pidfd_open"),
    }
}

/// Whether the last thread of a process is gone.
fn has_ended(handle: &OwnedFd) -> Result<bool> {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::new(handle, PollFlags::IN)];
    Ok(rustix::io::retry_on_intr(|| poll(&mut fds, Some(&now))).context("poll")? > 0)
}

/// The random name of this boot of the machine.
pub fn boot_id() -> Result<&'static str> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    static BOOT: OnceLock<std::result::Result<String, Errno>> = OnceLock::new();
    let read = || {
        let mut buffer = [0; 64];
        read_line(PATH, &mut buffer).map(|id| String::from_utf8_lossy(id).trim_end().to_owned())
    };
    match BOOT.get_or_init(read) {
        Ok(id) => Ok(id),
        Err(errno) => Err(*errno).context(PATH),
    }
}

/// How far the clock since boot is ahead in the caller's time namespace, in nanoseconds.
/// Asked before the caller gets another namespace for its children, of which the file
/// with the offsets tells.
fn boottime_offset() -> Result<i128> {
    const PATH: &str = "/proc/self/timens_offsets";
    /// The inode of the machine's first time namespace (PROC_TIME_INIT_INO).
    const FIRST_TIME_NAMESPACE: u64 = 0xefff_fffa;
    static OFFSET: OnceLock<std::result::Result<i128, Errno>> = OnceLock::new();
    let read = || match stat("/proc/self/ns/time") {
        Ok(stat) if stat.st_ino == FIRST_TIME_NAMESPACE => Ok(0),
        // A kernel without time namespaces.
        Err(Errno::NOENT) => Ok(0),
        Err(errno) => Err(errno),
        Ok(_) => {
            let mut buffer = [0; 256];
            parse_offsets(read_line(PATH, &mut buffer)?).ok_or(Errno::INVAL)
        }
    };
    OFFSET.get_or_init(read).context(PATH)
}

/// Lines of a clock, seconds and nanoseconds (time_namespaces(7)).
fn parse_offsets(text: &[u8]) -> Option<i128> {
    let text = std::str::from_utf8(text).ok()?;
    let offset = text.lines().find_map(|line| line.strip_prefix("boottime"))?;
    let mut numbers = offset.split_ascii_whitespace().map(|number| number.parse::<i128>());
    Some(numbers.next()?.ok()? * 1_000_000_000 + numbers.next()?.ok()?)
}

/// The first and the last tick of the machine's clock that are shown as `shown` where
/// the clock is `offset` nanoseconds ahead: two where it is not ahead by whole ticks.
fn unshifted(shown: u64, offset: i128) -> (u64, u64) {
    /// USER_HZ is 100 wherever this runs.
    const TICK: i128 = 10_000_000;
    let first = i128::from(shown) * TICK - offset;
    let tick = |time: i128| u64::try_from(time.div_euclid(TICK)).unwrap_or(0);
    (tick(first), tick(first + TICK - 1))
}

/// Reads a file of procfs that is one short text, with one read(2).
fn read_line<'buffer>(path: &str, buffer: &'buffer mut [u8]) -> rustix::io::Result<&'buffer [u8]> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let length = rustix::io::read(file, &mut *buffer)?;
    Ok(buffer.get(..length).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let rest = "1 1 1 0 -1 4194368 1 2 3 4 5 6 7 8 20 0 1 0 777 0 0\n";
        let parse = |name: &[u8], state: &str| {
            ProcessFacts::parse(
                7,
                &[b"7 (", name, b") ", state.as_bytes(), b" ", rest.as_bytes()].concat(),
            )
        };
        let names: [&[u8]; 10] = [
            b"sh",
            b"a) b",
            b"\xff",
            b"\xc3",
            b"x\ny",
            b") Z 1",
            b")\nZ 1 1",
            b"a\0b",
            b"",
            b" ) ( ",
        ];
        for name in names {
            for (state, leader_has_ended) in [("S", false), ("Z", true), ("X", true)] {
                let expected = ProcessFacts {
                    pid: 7,
                    shown: 777,
                    leader_has_ended,
                    is_exiting: false,
                    has_executed: false,
                    has_run: true,
                };
                assert_eq!(parse(name, state), Some(expected), "{name:?} {state}");
            }
        }
        for wrong in ["", "7", "7 (a", "7 (a) S 1", "7 (a) S x x x x x x x x"] {
            assert_eq!(ProcessFacts::parse(7, wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn this_process_lives_and_nobody_has_no_facts() {
        let own = ProcessFacts::read(std::process::id() as i32).unwrap().unwrap();
        assert!(own.has_executed && !own.leader_has_ended && !own.is_exiting);
        let id = own.id().unwrap();
        assert!(own.is(id).unwrap());
        assert!(open_process(id).unwrap().is_some());
        let other = ProcessId { started: id.started + 1, ..id };
        assert!(open_process(other).unwrap().is_none());
        assert_eq!(ProcessFacts::read(i32::MAX).unwrap(), None);
    }

    #[test]
    fn a_start_time_is_the_same_in_every_time_namespace() {
        const SECOND: i128 = 1_000_000_000;
        for (offset, shown, expected) in [
            (0, 777, (777, 777)),
            (100_000 * SECOND, 10_000_777, (777, 777)),
            (-5 * SECOND, 277, (777, 777)),
            // By a part of a tick it is one of two.
            (1, 777, (776, 777)),
            (9_999_999, 777, (776, 777)),
            (-1, 777, (777, 778)),
        ] {
            assert_eq!(unshifted(shown, offset), expected, "{offset}");
        }
        let text = b"monotonic           7         8\nboottime            9         2\n";
        assert_eq!(parse_offsets(text), Some(9_000_000_002));
        assert_eq!(parse_offsets(b"boottime x 0"), None);
        assert_eq!(parse_offsets(b""), None);
    }
}
