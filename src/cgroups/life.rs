//! A group while it lives and when it ends: who is in it, freezing, killing,
//! removing. All of it works from a remembered [`Group`] of which any part may
//! not exist, since its creator may have been killed half-way.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::mark::filter;
use super::tree::walk;
use super::{checked, try_read, try_read_bytes, try_write, write};
use crate::log;
use crate::plan::cgroup::{Directory, Group, Version};

/// How long a group may take to freeze, to die, or to let itself be removed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sleeps that grow from a quarter of a millisecond to a tenth of a second.
struct Waits {
    end: Instant,
    next: Duration,
}

impl Waits {
    fn new(patience: Duration) -> Self {
        Self { end: Instant::now() + patience, next: Duration::from_micros(250) }
    }

    /// Sleeps, or says that the time is over.
    fn wait(&mut self) -> bool {
        if Instant::now() >= self.end {
            return false;
        }
        sleep(self.next);
        self.next = (self.next * 2).min(Duration::from_millis(100));
        true
    }
}

/// The processes in the group and below it, in all trees, by number.
pub fn processes(group: &Group) -> Result<Vec<u32>> {
    let mut found = BTreeSet::new();
    for directory in &group.directories {
        let path = checked(directory)?;
        walk(path, |here| collect(here, &mut found), |_, _| Ok(()))
            .with_context(|| format!("list the processes of {path:?}"))?;
    }
    Ok(found.into_iter().collect())
}

/// Those directories of the group that hold a process, themselves or further down.
pub fn holding(group: &Group, pid: i32) -> Result<Group> {
    filter(group, |directory| {
        let alone = Group { directories: vec![directory.clone()] };
        Ok(processes(&alone)?.into_iter().any(|number| i32::try_from(number) == Ok(pid)))
    })
}

/// Nobody ends himself, and so nobody the groups that he is in, of which the root of the
/// tree is one.
fn refuse_own(processes: &[u32]) -> Result<()> {
    if processes.contains(&std::process::id()) {
        bail!("the calling process is in the container's cgroup");
    }
    Ok(())
}

fn collect(here: BorrowedFd<'_>, found: &mut BTreeSet<u32>) -> rustix::io::Result<()> {
    let read = || {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let mut file = File::from(openat(here, "cgroup.procs", flags, Mode::empty())?);
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = match read().map_err(|error: io::Error| error.raw_os_error()) {
        Ok(text) => text,
        // A threaded group of version 2 lists its processes further up.
        Err(Some(libc::EOPNOTSUPP | libc::ENOENT | libc::ENODEV)) => return Ok(()),
        Err(errno) => return Err(errno.map_or(Errno::IO, Errno::from_raw_os_error)),
    };
    found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    Ok(())
}

/// Whether the group is frozen, by its own state or that of a group above it. So it is
/// while a process that has come later is still to stand still.
pub fn is_frozen(group: &Group) -> Result<bool> {
    let Some(directory) = group.freezer() else { return Ok(false) };
    match directory.version {
        Version::V1 => has_line(directory, "freezer.state", &["FROZEN", "FREEZING"]),
        Version::V2 => Ok(has_line(directory, "cgroup.events", &["frozen 1"])?
            || has_line(directory, "cgroup.freeze", &["1"])?),
    }
}

/// Whether every process of the group stands still.
pub fn stands_still(directory: &Directory) -> Result<bool> {
    match directory.version {
        Version::V1 => has_line(directory, "freezer.state", &["FROZEN"]),
        Version::V2 => has_line(directory, "cgroup.events", &["frozen 1"]),
    }
}

fn has_line(directory: &Directory, file: &str, lines: &[&str]) -> Result<bool> {
    let path = checked(directory)?.join(file);
    let text = present(try_read(&path)).with_context(|| format!("read {path:?}"))?;
    Ok(text.is_some_and(|text| text.lines().any(|found| lines.contains(&found))))
}

/// What is gone, or goes while it is used, is none rather than an error.
fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Asks for one state or the other, and waits for neither.
fn set_frozen(directory: &Directory, frozen: bool) -> Result<()> {
    let (file, value) = match (directory.version, frozen) {
        (Version::V1, true) => ("freezer.state", "FROZEN"),
        (Version::V1, false) => ("freezer.state", "THAWED"),
        (Version::V2, true) => ("cgroup.freeze", "1"),
        (Version::V2, false) => ("cgroup.freeze", "0"),
    };
    log::debug(|| format!("write {value:?} to {file} of {:?}", directory.path));
    write(&checked(directory)?.join(file), value)
}

/// Waits until somebody else lets the group run again.
pub fn wait_until_thawed(group: &Group) -> Result<()> {
    let mut waits = Waits::new(PATIENCE);
    while is_frozen(group)? {
        if !waits.wait() {
            bail!("it is still paused after {} s", PATIENCE.as_secs());
        }
    }
    Ok(())
}

/// Stops every process of the group and waits until they are stopped. If one
/// does not stop in time, all run again and the error names it.
pub fn freeze(group: &Group) -> Result<()> {
    let Some(directory) = group.freezer() else { bail!("the container has no cgroup to freeze") };
    if reach_frozen(directory, PATIENCE)? {
        return Ok(());
    }
    let culprit = culprit(group);
    set_frozen(directory, false)?;
    bail!("{:?} did not freeze in {} s: {culprit}", directory.path, PATIENCE.as_secs());
}

fn reach_frozen(directory: &Directory, patience: Duration) -> Result<bool> {
    let mut waits = Waits::new(patience);
    loop {
        // Version 1 may stay between the states for ever unless it is told again.
        set_frozen(directory, true)?;
        if stands_still(directory)? {
            return Ok(true);
        }
        if !waits.wait() {
            return Ok(false);
        }
    }
}

/// Lets the processes of the group run.
pub fn thaw(group: &Group) -> Result<()> {
    let Some(directory) = group.freezer() else { bail!("the container has no cgroup to thaw") };
    set_frozen(directory, false)
}

/// Lets the group and every group below it run, as far as that is theirs to say, so that
/// a signal can end who is in them. Version 2 needs none of it: there who is frozen dies.
pub fn thaw_all(group: &Group) -> Result<()> {
    let Some(directory) = group.directory_of("freezer") else { return Ok(()) };
    if directory.version == Version::V2 {
        return Ok(());
    }
    let path = checked(directory)?;
    walk(path, thaw_here, |_, _| Ok(())).with_context(|| format!("thaw {path:?}"))
}

/// Whether there are groups below that may be frozen on their own. In a file system of
/// groups a directory has two links, and one more for each below it.
pub fn has_freezers_below(group: &Group) -> Result<bool> {
    let Some(directory) = group.directory_of("freezer") else { return Ok(false) };
    let found = rustix::fs::stat(checked(directory)?);
    Ok(directory.version == Version::V1 && found.is_ok_and(|found| found.st_nlink > 2))
}

fn thaw_here(here: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let thaw = || {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(here, "freezer.state", flags, Mode::empty())?;
        rustix::io::write(file, b"THAWED")
    };
    match thaw() {
        Ok(_) | Err(Errno::NOENT | Errno::NODEV) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Sends `signal` to every process of the group once.
pub fn signal_all(group: &Group, signal: Signal) -> Result<()> {
    // A number in the list may be another process's by the time it is
    // signalled. A handle cannot: who is still listed after it was opened is
    // the process that the handle is for.
    let mut handles = Vec::new();
    let members = processes(group)?;
    refuse_own(&members)?;
    for number in members {
        let Some(pid) = i32::try_from(number).ok().and_then(Pid::from_raw) else { continue };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handles.push((number, handle)),
            // Kernels to 6.12 say INVAL of a process that is just being reaped.
            Err(Errno::SRCH | Errno::INVAL) => {}
            Err(error) => return Err(error).with_context(|| format!("pidfd_open {number}")),
        }
    }
    let still = processes(group)?;
    for (number, handle) in handles.into_iter().filter(|(number, _)| still.contains(number)) {
        log::debug(|| format!("process {number}: {signal:?}"));
        match pidfd_send_signal(&handle, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("send signal to process {number}"));
            }
        }
    }
    Ok(())
}

/// Kills every process of the group, frozen or not, and waits until none is
/// left. If one stays, the error names it.
pub fn kill_all(group: &Group) -> Result<()> {
    let mut waits = Waits::new(PATIENCE);
    loop {
        let members = processes(group)?;
        if members.is_empty() {
            return Ok(());
        }
        refuse_own(&members)?;
        kill_once(group)?;
        if processes(group)?.is_empty() {
            return Ok(());
        }
        if !waits.wait() {
            bail!("not all processes died in {} s: {}", PATIENCE.as_secs(), culprit(group));
        }
    }
}

fn kill_once(group: &Group) -> Result<()> {
    log::debug(|| format!("kills all in {}", group.paths()));
    if let Some(unified) = group.unified() {
        // A frozen group of version 2 dies as well.
        let kill = checked(unified)?.join("cgroup.kill");
        present(try_write(&kill, "1")).with_context(|| format!("write \"1\" to {kill:?}"))?;
    }
    let Some(freezer) = group.directory_of("freezer") else {
        return signal_all(group, Signal::KILL);
    };
    // Who is frozen cannot fork while the others are found. Who will not freeze
    // is signalled all the same; who is frozen dies when he is thawed.
    let exists = checked(freezer)?.try_exists().unwrap_or(false);
    if exists {
        reach_frozen(freezer, Duration::from_millis(5))?;
    }
    let signalled = signal_all(group, Signal::KILL);
    // Groups below may have been frozen on their own.
    thaw_all(group)?;
    signalled
}

/// Removes the group, with all groups below it, where it exists. A group can be
/// removed only once its last process is gone entirely, so this waits for that;
/// if it takes too long the error names who is left.
pub fn remove(group: &Group) -> Result<()> {
    let mut left: Vec<&Path> = group.directories.iter().map(checked).collect::<Result<_>>()?;
    let mut waits = Waits::new(PATIENCE);
    loop {
        let mut busy = Vec::new();
        for path in left {
            if !remove_tree(path)? {
                busy.push(path);
            }
        }
        let Some(first) = busy.first() else {
            log::debug(|| format!("removed: {}", group.paths()));
            return Ok(());
        };
        log::debug(|| format!("rmdir {first:?}: busy, tried again"));
        if !waits.wait() {
            bail!("rmdir {first:?}: busy for {} s: {}", PATIENCE.as_secs(), culprit(group));
        }
        left = busy;
    }
}

/// Removes the group where nothing is in it, neither processes nor groups, and
/// leaves it alone where that does not change for as long as `patience`. Says
/// whether it is gone.
pub fn remove_unused(group: &Group, patience: Duration) -> Result<bool> {
    let mut waits = Waits::new(patience);
    for directory in &group.directories {
        let path = checked(directory)?;
        while !removed(rustix::fs::rmdir(path)).with_context(|| format!("rmdir {path:?}"))? {
            if !waits.wait() {
                return Ok(false);
            }
        }
    }
    log::debug(|| format!("removed: {}", group.paths()));
    Ok(true)
}

/// Says whether `path` is gone, with all that was below it.
fn remove_tree(path: &Path) -> Result<bool> {
    let rmdir = || removed(rustix::fs::rmdir(path)).with_context(|| format!("rmdir {path:?}"));
    if rmdir()? {
        return Ok(true);
    }
    // One that is busy keeps its parents and no others.
    let below = |parent: BorrowedFd<'_>, name: &CStr| {
        removed(unlinkat(parent, name, AtFlags::REMOVEDIR)).map(drop)
    };
    walk(path, |_| Ok(()), below).with_context(|| format!("rmdir below {path:?}"))?;
    rmdir()
}

fn removed(result: rustix::io::Result<()>) -> rustix::io::Result<bool> {
    match result {
        Ok(()) | Err(Errno::NOENT | Errno::NODEV) => Ok(true),
        Err(Errno::BUSY | Errno::NOTEMPTY) => Ok(false),
        Err(error) => Err(error),
    }
}

/// How often the kernel killed a process of the group for want of memory; none
/// where nothing counts it.
pub fn oom_kills(group: &Group) -> Option<u64> {
    let directory = group.directory_of("memory")?;
    let file = match directory.version {
        Version::V1 => "memory.oom_control",
        Version::V2 => "memory.events",
    };
    let text = try_read(&checked(directory).ok()?.join(file)).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// Who is in the way, for an error: a process in uninterruptible sleep if there
/// is one, with what it waits for in the kernel.
fn culprit(group: &Group) -> String {
    let processes = processes(group).unwrap_or_default();
    let described: Vec<_> = processes.iter().filter_map(|&pid| describe(pid)).collect();
    let stuck = described.iter().find(|(state, _)| *state == 'D').or(described.first());
    stuck.map_or_else(|| "no process is left in it".to_owned(), |(_, text)| text.clone())
}

/// State and description of a process. The name may hold anything, so the state
/// is what follows the last parenthesis (proc_pid_stat(5)).
fn describe(pid: u32) -> Option<(char, String)> {
    let directory = PathBuf::from(format!("/proc/{pid}"));
    let stat = try_read_bytes(&directory.join("stat")).ok()?;
    let (name, state) = name_and_state(&stat)?;
    let place = try_read(&directory.join("wchan")).unwrap_or_default();
    let place =
        if place.is_empty() || place == "0" { String::new() } else { format!(" in {place}") };
    Some((state, format!("process {pid} (\"{name}\") is in state {state}{place}")))
}

fn name_and_state(stat: &[u8]) -> Option<(String, char)> {
    let begin = stat.iter().position(|&byte| byte == b'(')?;
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let name = stat.get(begin + 1..end)?.escape_ascii().to_string();
    Some((name, char::from(*stat.get(end + 2)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    use crate::plan::cgroup::{Directory, Version};

    /// A process that is in the list of a group at first, and after `left` no more.
    fn signalled(name: &str, left: bool) -> (Child, Result<()>) {
        let mount = std::env::temp_dir().join(format!("ferrun-{}-{name}", std::process::id()));
        let path = mount.join("group");
        std::fs::create_dir_all(&path).unwrap();
        // Each reader gets what is written while it is there.
        let list = path.join("cgroup.procs");
        nix::unistd::mkfifo(&list, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let child = Command::new("sleep").arg("100").spawn().unwrap();
        let first = format!("{}\n", child.id());
        let second = if left { String::new() } else { first.clone() };
        let writer = std::thread::spawn(move || {
            for text in [first, second] {
                std::fs::write(&list, text).unwrap();
                // The reader has to meet the end before the next writer is there.
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let group = Group {
            directories: vec![Directory {
                version: Version::V2,
                controllers: Vec::new(),
                mount: mount.clone(),
                path,
            }],
        };
        let result = signal_all(&group, Signal::TERM);
        writer.join().unwrap();
        std::fs::remove_dir_all(mount).unwrap();
        (child, result)
    }

    #[test]
    fn a_group_is_frozen_while_somebody_is_still_to_stand_still() {
        let mount = std::env::temp_dir().join(format!("ferrun-{}-frozen", std::process::id()));
        let path = mount.join("group");
        std::fs::create_dir_all(&path).unwrap();
        let group = |version, controllers: &[&str]| Group {
            directories: vec![Directory {
                version,
                controllers: controllers.iter().map(|&name| name.to_owned()).collect(),
                mount: mount.clone(),
                path: path.clone(),
            }],
        };
        let write = |file: &str, text: &str| std::fs::write(path.join(file), text).unwrap();
        for (state, frozen) in [("THAWED\n", false), ("FREEZING\n", true), ("FROZEN\n", true)] {
            write("freezer.state", state);
            assert_eq!(is_frozen(&group(Version::V1, &["freezer"])).unwrap(), frozen, "{state}");
        }
        // By itself or not, and whether all stand still.
        for (own, events, frozen) in [("0", "0", false), ("1", "0", true), ("0", "1", true)] {
            write("cgroup.freeze", &format!("{own}\n"));
            write("cgroup.events", &format!("populated 1\nfrozen {events}\n"));
            let group = group(Version::V2, &[]);
            assert_eq!(is_frozen(&group).unwrap(), frozen, "{own} {events}");
        }
        std::fs::remove_dir_all(&mount).unwrap();
    }

    #[test]
    fn who_has_left_the_group_meanwhile_is_not_signalled() {
        let (mut gone, result) = signalled("gone", true);
        result.unwrap();
        let has_ended = gone.try_wait().unwrap().is_some();
        gone.kill().unwrap();
        gone.wait().unwrap();
        assert!(!has_ended);
        let (mut there, result) = signalled("there", false);
        result.unwrap();
        use std::os::unix::process::ExitStatusExt as _;
        assert_eq!(there.wait().unwrap().signal(), Some(libc::SIGTERM));
    }

    #[test]
    fn a_process_is_described_whatever_its_name_is() {
        let names: [(&[u8], &str); 5] = [
            (b"sh", "sh"),
            (b"\xff", "\\xff"),
            (b"x\ny", "x\\ny"),
            (b") Z 1 (", ") Z 1 ("),
            (b"a\0b", "a\\x00b"),
        ];
        for (name, shown) in names {
            let stat = [b"7 (", name, b") D 1 2 3\n"].concat();
            assert_eq!(name_and_state(&stat), Some((shown.to_owned(), 'D')), "{name:?}");
        }
        assert_eq!(name_and_state(b"7 (sh"), None);
    }
}
