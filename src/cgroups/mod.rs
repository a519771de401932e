//! The machine's control groups: where they are mounted, and what
//! `plan::cgroup` decided done to them.
//!
//! Nothing here chooses what to write. Nothing waits without a bound, and what
//! runs into it names the process that blocks. Nothing is done to a mount point
//! itself or outside of it, whatever a state record says.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{Access, AtFlags, CWD, FsWord, Mode, OFlags, accessat, open, statfs};

use crate::plan::cgroup::{Directory, Group, Hierarchy, Layout, Unified, Version};

mod apply;
mod bpf;
mod create;
mod life;
mod mark;
mod oom;
pub mod resctrl;
mod stats;
pub mod systemd;
mod tree;

pub use apply::{Held, apply_devices, apply_settings, held};
pub use create::{
    CreatedGroups, Entering, TasksFiles, create, delegate, directory_fd, hand_down, put_into,
};
pub use life::{
    freeze, has_freezers_below, holding, is_frozen, kill_all, oom_kills, processes, remove,
    remove_unused, signal_all, thaw, thaw_all, wait_until_thawed,
};
pub use mark::{kept, mark, marked};
pub use oom::OomWatch;
pub use stats::{Stats, stats};

/// Where control groups are mounted by convention.
const ROOT: &str = "/sys/fs/cgroup";

/// CGROUP_SUPER_MAGIC and CGROUP2_SUPER_MAGIC of linux/magic.h.
const MAGIC_V1: FsWord = 0x0027_e0eb;
const MAGIC_V2: FsWord = 0x6367_7270;

/// Looks where the control groups are mounted.
///
/// A machine with version 2 alone costs one statfs and one read. The table of
/// mounts, which grows with the number of containers, is read only where a tree
/// is not where it is by convention.
pub fn layout() -> Result<Layout> {
    if magic(Path::new(ROOT)) == Some(MAGIC_V2) {
        return Ok(Layout::V2(unified(ROOT.into())?));
    }
    let groups = read_bytes(Path::new("/proc/self/cgroup"))?;
    let mut mounts = Mounts::default();
    let mut hierarchies = Vec::new();
    let mut beside = None;
    for Membership { controllers, .. } in memberships(&groups) {
        if controllers.is_empty() {
            let convention = Path::new(ROOT).join("unified");
            beside = match magic(&convention) {
                Some(MAGIC_V2) => Some(convention),
                _ => mounts.find("cgroup2", None)?,
            };
            continue;
        }
        let mount = match conventional(controllers) {
            Some(mount) => Some(mount),
            None => mounts.find("cgroup", Some(controllers))?,
        };
        // A controller that is in use but mounted nowhere is out of reach.
        hierarchies.extend(mount.map(|mount| Hierarchy {
            controllers: split(controllers).map(|name| lossy(name).into()).collect(),
            mount,
        }));
    }
    let unified = beside.map(unified).transpose()?;
    Ok(match unified {
        Some(unified) if hierarchies.is_empty() => Layout::V2(unified),
        None if hierarchies.is_empty() => Layout::None,
        unified => Layout::V1 { hierarchies, unified },
    })
}

/// The caller's own group in the tree of version 2, if groups can be made in it
/// and processes moved into them.
pub fn delegated(layout: &Layout) -> Result<Option<String>> {
    let Layout::V2(unified) = layout else { return Ok(None) };
    let groups = read_bytes(Path::new("/proc/self/cgroup"))?;
    let own = memberships(&groups).find(|member| member.controllers.is_empty());
    let Some(own) = own else { return Ok(None) };
    let directory = own.below(&unified.mount);
    let writable = |path: &Path| accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok();
    if !writable(&directory) || !writable(&directory.join("cgroup.procs")) {
        return Ok(None);
    }
    match std::str::from_utf8(own.path) {
        Ok(path) => Ok(Some(path.to_owned())),
        Err(_) => bail!("{directory:?}: the caller's cgroup has a name that is no UTF-8"),
    }
}

/// Where the process `member` of `group` is now. That is below `group` where
/// the container has made groups of its own: the kernel may then refuse to let
/// anything join `group` itself (EBUSY).
pub fn group_of(group: &Group, member: u32) -> Result<Group> {
    let groups = read_bytes(&PathBuf::from(format!("/proc/{member}/cgroup")))?;
    let now = |directory: &Directory| {
        let names = match directory.version {
            Version::V1 => directory.controllers.join(","),
            Version::V2 => String::new(),
        };
        let is_it = |found: &Membership<'_>| found.controllers == names.as_bytes();
        let Some(found) = memberships(&groups).find(is_it) else {
            bail!("process {member} is in no cgroup of {:?}", directory.mount);
        };
        let path = found.below(&directory.mount);
        ensure!(
            path.starts_with(checked(directory)?) && !climbs(&path),
            "process {member} has left its cgroup {:?} for {:?}",
            directory.path,
            OsStr::from_bytes(found.path)
        );
        Ok(Directory { path, ..directory.clone() })
    };
    Ok(Group { directories: group.directories.iter().map(now).collect::<Result<_>>()? })
}

/// Where a process is in each tree, by the tree's controllers, as the kernel tells it.
pub fn places_of(process: u32) -> Result<Vec<(String, PathBuf)>> {
    let groups = read_bytes(&PathBuf::from(format!("/proc/{process}/cgroup")))?;
    let place = |found: Membership<'_>| {
        (lossy(found.controllers).into_owned(), OsStr::from_bytes(found.path).into())
    };
    Ok(memberships(&groups).map(place).collect())
}

/// Why an init process is gone that its memory limit left no room for, if that is so.
pub fn want_of_memory(group: &Group) -> Option<anyhow::Error> {
    const REASON: &str =
        "linux.resources.memory.limit: too small: the init process was killed for want of memory";
    (oom_kills(group).unwrap_or(0) > 0).then(|| anyhow::anyhow!(REASON))
}

/// One line of /proc/PID/cgroup. Names of groups are bytes that whoever makes them
/// chooses, but for the line feed.
struct Membership<'a> {
    /// Empty for version 2.
    controllers: &'a [u8],
    path: &'a [u8],
}

impl Membership<'_> {
    /// The directory of the group in the tree that is mounted at `mount`.
    fn below(&self, mount: &Path) -> PathBuf {
        let path = Path::new(OsStr::from_bytes(self.path));
        mount.join(path.strip_prefix("/").unwrap_or(path))
    }
}

fn memberships(text: &[u8]) -> impl Iterator<Item = Membership<'_>> {
    lines(text).filter_map(|line| {
        let mut fields = line.splitn(3, |&byte| byte == b':').skip(1);
        Some(Membership { controllers: fields.next()?, path: fields.next()? })
    })
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n')
}

fn split(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&byte| byte == b',')
}

fn lossy(name: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(name)
}

/// /sys/fs/cgroup/cpu,cpuacct, or a link to it under the first name alone.
fn conventional(controllers: &[u8]) -> Option<PathBuf> {
    let whole = controllers.strip_prefix(b"name=").unwrap_or(controllers);
    let first = split(whole).next().unwrap_or(whole);
    [whole, first]
        .into_iter()
        .map(|name| Path::new(ROOT).join(OsStr::from_bytes(name)))
        .find(|mount| magic(mount) == Some(MAGIC_V1))
}

fn unified(mount: PathBuf) -> Result<Unified> {
    let controllers = read(&mount.join("cgroup.controllers"))?;
    Ok(Unified { controllers: controllers.split_whitespace().map(str::to_owned).collect(), mount })
}

/// Where a file system of this kind is mounted first.
pub(crate) fn mount_of(kind: &str) -> Result<Option<PathBuf>> {
    Mounts::default().find(kind, None)
}

fn magic(path: &Path) -> Option<FsWord> {
    statfs(path).ok().map(|stat| stat.f_type)
}

/// /proc/self/mountinfo, read when it is first asked for. Paths in it are bytes that
/// anybody who may mount chooses.
#[derive(Default)]
struct Mounts(Option<Vec<u8>>);

impl Mounts {
    /// The first mount of `kind` that has all of `controllers`.
    fn find(&mut self, kind: &str, controllers: Option<&[u8]>) -> Result<Option<PathBuf>> {
        let text = match &mut self.0 {
            Some(text) => text,
            none => none.insert(read_bytes(Path::new("/proc/self/mountinfo"))?),
        };
        Ok(find_mount(text, kind, controllers))
    }
}

/// See proc_pid_mountinfo(5): the point is the fifth field; kind, source and the
/// file system's options follow a lone dash.
fn find_mount(mountinfo: &[u8], kind: &str, controllers: Option<&[u8]>) -> Option<PathBuf> {
    lines(mountinfo).find_map(|line| {
        let words: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
        let dash = words.iter().position(|word| word == b"-")?;
        let has_all = |names: &[u8]| {
            let options = words.get(dash + 3).copied().unwrap_or_default();
            split(names).all(|name| split(options).any(|option| option == name))
        };
        let matches = *words.get(dash + 1)? == kind.as_bytes() && controllers.is_none_or(has_all);
        matches.then(|| words.get(4).map(|point| unescape(point))).flatten()
    })
}

/// Mount points hold `\040` and the like for white space and backslashes.
fn unescape(text: &[u8]) -> PathBuf {
    let mut parts = text.split(|&byte| byte == b'\\');
    let mut path = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                path.push(byte);
                path.extend_from_slice(part.get(3..).unwrap_or_default());
            }
            None => {
                path.push(b'\\');
                path.extend_from_slice(part);
            }
        }
    }
    OsString::from_vec(path).into()
}

/// The directory's path, if it is below its mount point and climbs nowhere.
fn checked(directory: &Directory) -> Result<&Path> {
    let (path, mount) = (&directory.path, &directory.mount);
    // By their bytes: to take paths apart was a twelfth of all that `create` computed.
    let below = path.as_os_str().as_bytes().strip_prefix(mount.as_os_str().as_bytes());
    let is_below = below.is_some_and(|below| {
        below.starts_with(b"/") && parts(below).any(|part| !matches!(part, b"" | b"."))
    });
    ensure!(
        is_below && mount.is_absolute() && !climbs(path),
        "{path:?} is no cgroup below {mount:?}"
    );
    Ok(path)
}

/// Whether a path leads upwards somewhere.
fn climbs(path: &Path) -> bool {
    parts(path.as_os_str().as_bytes()).any(|part| part == b"..")
}

fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
}

fn read(path: &Path) -> Result<String> {
    try_read(path).with_context(|| format!("read {path:?}"))
}

fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    try_read_bytes(path).with_context(|| format!("read {path:?}"))
}

/// Reads a file in which the kernel alone chooses every word.
pub(crate) fn try_read(path: &Path) -> io::Result<String> {
    String::from_utf8(try_read_bytes(path)?).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Reads a file that may hold names: those are bytes, and whose they are chooses them.
///
/// A file of the kernel has no size that would be worth asking for first, and most
/// are shorter than one buffer.
fn try_read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let file = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = vec![0; 512];
    let mut length = 0;
    loop {
        let read = rustix::io::read(&file, text.get_mut(length..).unwrap_or_default())?;
        length += read;
        // As long as a page holds what is asked for, less than that is all there is
        // (seq_read_iter of fs/seq_file.c).
        if read == 0 || length < 512 {
            break;
        }
        if length == text.len() {
            text.resize(2 * length, 0);
        }
    }
    text.truncate(length);
    Ok(text)
}

fn write(path: &Path, value: &str) -> Result<()> {
    try_write(path, value).with_context(|| format!("write {value:?} to {path:?}"))
}

pub(crate) fn try_write(path: &Path, value: &str) -> io::Result<()> {
    write_to(&open_to_write(path)?, value)
}

/// Without O_CREAT, which would turn a file that does not exist into one that is
/// forbidden.
fn open_to_write(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// In one call, since each one is a command of its own.
fn write_to(file: &OwnedFd, value: &str) -> io::Result<()> {
    let written = rustix::io::write(file, value.as_bytes())?;
    if written == value.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &[u8] = b"\
23 1 0:21 / / rw shared:1 - ext4 /dev/vda rw
24 23 0:22 / /mnt/\xff\\012- rw - cgroup2x \xff rw
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /srv/my\\040groups/cpu rw shared:5 master:2 - cgroup none rw,cpu,cpuacct
33 31 0:30 / /srv/systemd rw - cgroup none rw,xattr,name=systemd
34 31 0:31 / /srv/\xc3nified\\134x rw - cgroup2 none rw,nsdelegate
";

    #[test]
    fn a_tree_is_found_by_all_of_its_controllers_wherever_it_is_mounted() {
        let find = |kind, controllers: Option<&str>| {
            let found = find_mount(MOUNTINFO, kind, controllers.map(str::as_bytes))?;
            Some(found.as_os_str().as_bytes().escape_ascii().to_string())
        };
        for (kind, controllers, mount) in [
            ("cgroup", Some("cpu,cpuacct"), Some("/srv/my groups/cpu")),
            ("cgroup", Some("cpuacct,cpu"), Some("/srv/my groups/cpu")),
            ("cgroup", Some("name=systemd"), Some("/srv/systemd")),
            ("cgroup", Some("cpu,memory"), None),
            ("cgroup2", None, Some(r"/srv/\xc3nified\\x")),
        ] {
            assert_eq!(find(kind, controllers).as_deref(), mount, "{controllers:?}");
        }
    }

    #[test]
    fn memberships_keep_every_byte_of_paths_and_drop_broken_lines() {
        let text = b"3:cpu,cpuacct:/a:b\n1:name=systemd:/\nbroken\n0::/x\xff) Z\n";
        let found: Vec<_> = memberships(text).map(|m| (m.controllers, m.path)).collect();
        let expected: [(&[u8], &[u8]); 3] =
            [(b"cpu,cpuacct", b"/a:b"), (b"name=systemd", b"/"), (b"", b"/x\xff) Z")];
        assert_eq!(found, expected);
    }

    #[test]
    fn no_record_can_name_a_mount_point_or_what_is_outside_of_it() {
        let check = |mount: &str, path: &str| {
            let directory = Directory {
                version: Version::V2,
                controllers: Vec::new(),
                mount: mount.into(),
                path: path.into(),
            };
            checked(&directory).map(Path::to_owned).map_err(|error| error.to_string())
        };
        assert_eq!(check("/c", "/c/box"), Ok("/c/box".into()));
        for (mount, path) in [
            ("/c", "/c"),
            ("/c", "/c/"),
            ("/c", "/c/."),
            ("/c", "/cbox"),
            ("/c", "/c/../etc"),
            ("/c", "/c/box/.."),
            ("/c", "/home"),
            ("c", "c/box"),
            ("", "box"),
            ("/", "/"),
        ] {
            let error = format!("{path:?} is no cgroup below {mount:?}");
            assert_eq!(check(mount, path), Err(error));
        }
    }
}
