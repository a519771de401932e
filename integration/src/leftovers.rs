//! What a runtime may leave behind of a bed's containers. Everything of a bed bears
//! its name, so nothing of anybody else's is ever counted or removed.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::Pid;

use crate::Bed;

/// One thing that is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Leftover {
    Process {
        pid: i32,
        name: String,
    },
    Cgroup {
        path: PathBuf,
        /// Of each process in it /proc/PID/stat, as far as it goes.
        holds: Vec<String>,
    },
    /// Of resctrl.
    Group(PathBuf),
    Mount(PathBuf),
    Socket(String),
    File(PathBuf),
}

impl fmt::Display for Leftover {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self:?}")
    }
}

/// Everything that is left of the containers of `bed`.
pub(crate) fn find(bed: &Bed) -> Vec<Leftover> {
    let mut left = processes(bed);
    let groups = cgroups(bed).into_iter().filter(|path| is_cgroup(path));
    left.extend(groups.map(|path| Leftover::Cgroup { holds: held_by(&path), path }));
    left.extend(groups_of_resctrl(bed).into_iter().map(Leftover::Group));
    left.extend(mounts(bed, "/proc/thread-self/mountinfo").into_iter().map(Leftover::Mount));
    left.extend(mounts(bed, "/proc/1/mountinfo").into_iter().map(Leftover::Mount));
    left.extend(sockets(bed).into_iter().map(Leftover::Socket));
    left.extend(files(bed).into_iter().map(Leftover::File));
    left
}

/// What is in a group.
fn held_by(group: &Path) -> Vec<String> {
    let members = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let stat = |pid: &str| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or(pid.into());
    members.lines().map(|pid| stat(pid).chars().take(60).collect()).collect()
}

/// Removes everything of `bed`, its directory too.
pub(crate) fn remove(bed: &Bed) {
    // Who is frozen in version 1 does not even die.
    for path in cgroups(bed) {
        let _ = fs::write(path.join("freezer.state"), "THAWED");
    }
    for leftover in processes(bed) {
        if let Leftover::Process { pid, .. } = leftover {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    let mut mounted = mounts(bed, "/proc/thread-self/mountinfo");
    while let Some(path) = mounted.pop() {
        let _ = umount2(&path, MntFlags::MNT_DETACH);
    }
    for path in cgroups(bed) {
        // A process that was killed needs a moment to leave.
        for _ in 0..50 {
            if fs::remove_dir(&path).is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
    for mount in hierarchies() {
        let _ = fs::remove_dir(mount.join(&bed.name));
    }
    for path in groups_of_resctrl(bed) {
        let _ = fs::remove_dir(&path);
    }
    // Whatever is mounted there would be emptied.
    if mounts(bed, "/proc/thread-self/mountinfo").is_empty() {
        let _ = fs::remove_dir_all(&bed.directory);
    }
}

/// Processes that bear the name in their arguments, cgroup or mounts. Those that
/// share this thread's mounts are judged by the first two alone.
fn processes(bed: &Bed) -> Vec<Leftover> {
    let namespace = |path: &str| fs::metadata(path).map(|found| found.ino()).ok();
    let own = namespace("/proc/thread-self/ns/mnt");
    let mut left = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if pid == std::process::id() as i32 {
            continue;
        }
        let bears_name = |file: &str| {
            let text = fs::read(entry.path().join(file)).unwrap_or_default();
            text.windows(bed.name.len()).enumerate().any(|(at, found)| {
                // ferrun-test-1-1 is not ferrun-test-1-12.
                found == bed.name.as_bytes()
                    && !text.get(at + found.len()).is_some_and(u8::is_ascii_digit)
            })
        };
        let elsewhere = namespace(&format!("/proc/{pid}/ns/mnt")) != own;
        if is_zombie(pid) {
            continue;
        }
        if bears_name("cmdline") || bears_name("cgroup") || elsewhere && bears_name("mountinfo") {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let name = String::from_utf8_lossy(&line).replace('\0', " ");
            left.push(Leftover::Process { pid, name });
        }
    }
    left
}

fn is_zombie(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z') || rest.starts_with('X'))
}

/// The cgroups below the bed's own, the deepest first. The bed's own is no leftover:
/// it may have been there before the first container.
fn cgroups(bed: &Bed) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for mount in hierarchies() {
        collect(&mount.join(&bed.name), &mut found);
    }
    found
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), found);
            found.push(entry.path());
        }
    }
}

/// The classes and the MON groups that bear the name, a class after those in it.
fn groups_of_resctrl(bed: &Bed) -> Vec<PathBuf> {
    let of_bed = format!("{}-", bed.name);
    let mut found = Vec::new();
    collect(Path::new("/sys/fs/resctrl"), &mut found);
    let name = |path: &PathBuf| path.file_name().and_then(|name| name.to_str().map(str::to_owned));
    found.retain(|path| name(path).is_some_and(|name| name.starts_with(&of_bed)));
    found
}

/// Where cgroups are mounted, and where crun only thinks so.
fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    let mut all = vec![root.clone()];
    if !root.join("cgroup.controllers").exists() {
        let entries = fs::read_dir(&root).into_iter().flatten().flatten();
        all.extend(entries.map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
    all
}

fn is_cgroup(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| {
        [CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC].contains(&found.filesystem_type())
    })
}

/// The mount points below the bed's directory.
fn mounts(bed: &Bed, table: &str) -> Vec<PathBuf> {
    let text = fs::read_to_string(table).unwrap_or_default();
    let points = text.lines().filter_map(|line| line.split(' ').nth(4));
    points.map(PathBuf::from).filter(|point| point.starts_with(&bed.directory)).collect()
}

fn sockets(bed: &Bed) -> Vec<String> {
    let text = fs::read_to_string("/proc/thread-self/net/unix").unwrap_or_default();
    let below = format!("{}/root/", bed.directory.display());
    text.lines().filter(|line| line.contains(&below)).map(str::to_owned).collect()
}

/// What is remembered of containers, and what was put beside a bundle's own files.
fn files(bed: &Bed) -> Vec<PathBuf> {
    let list = |path: &Path| {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let mut left = list(&bed.root());
    for path in list(&bed.directory) {
        let is_bundle =
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("bundle-"));
        if is_bundle {
            let own = ["config.json", "rootfs"].map(|name| path.join(name));
            left.extend(list(&path).into_iter().filter(|file| !own.contains(file)));
        }
    }
    left
}
