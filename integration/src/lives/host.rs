//! The host around a life: files that it may bind, and what must be as it was.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::leftovers::{self, Leftover};
use crate::{Bed, described};

/// What stands in the host's files.
pub(super) const TEXT: &str = "of the host\n";
/// A directory of the host's files with another mount in it, at `below`.
pub(super) const TREE: &str = "tree";

/// Files such as a host may have, none of which is the machine's.
#[derive(Debug)]
pub(super) struct Host {
    /// What has to stay as it is.
    pub(super) tree: PathBuf,
    /// What hooks write to.
    pub(super) log: PathBuf,
}

impl Host {
    pub(super) fn new(bed: &Bed) -> Self {
        let tree = bed.directory.join("host");
        for name in ["directory/below", "tree/below"] {
            fs::create_dir_all(tree.join(name)).expect("a directory");
        }
        let below = tree.join(TREE).join("below");
        mount(Some("tmpfs"), &below, Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .expect("a tmpfs");
        for name in
            ["file", "directory/file", "directory/odd", "directory/below/file", "tree/below/file"]
        {
            fs::write(tree.join(name), TEXT).expect("a file");
        }
        mknod(&tree.join("full"), SFlag::S_IFCHR, Mode::empty(), makedev(1, 7)).expect("mknod");
        // A mode and an owner that nothing gives by default.
        for name in ["full", "directory/odd"] {
            fs::set_permissions(tree.join(name), fs::Permissions::from_mode(0o640))
                .expect("a mode");
            chown(tree.join(name), Some(11), Some(12)).expect("an owner");
        }
        let log = bed.write("log", "");
        fs::set_permissions(&log, fs::Permissions::from_mode(0o666)).expect("a mode");
        Self { tree, log }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = umount2(&self.tree.join(TREE).join("below"), MntFlags::MNT_DETACH);
    }
}

/// What there is of the host, and of containers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    files: Vec<String>,
    mounts: Vec<String>,
    left: Vec<Leftover>,
}

/// Parameters that namespaces have for themselves, and those that nobody may change.
const PARAMETERS: [&str; 11] = [
    "fs/mqueue/msg_max",
    "fs/suid_dumpable",
    "kernel/core_pattern",
    "kernel/domainname",
    "kernel/hostname",
    "kernel/msgmax",
    "kernel/shm_rmid_forced",
    "net/ipv4/ip_default_ttl",
    "net/ipv4/ip_forward",
    "net/ipv4/ip_unprivileged_port_start",
    "user/max_user_namespaces",
];

const DEVICES: [&str; 9] =
    ["console", "full", "fuse", "null", "ptmx", "random", "tty", "urandom", "zero"];

impl Seen {
    pub(super) fn now(bed: &Bed, host: &Host) -> Self {
        let mut files = described(&host.tree);
        files.extend(PARAMETERS.map(|name| {
            let value = fs::read_to_string(Path::new("/proc/sys").join(name));
            format!("{name} {}", value.unwrap_or_default().trim())
        }));
        files.extend(DEVICES.map(|name| {
            let Ok(found) = fs::symlink_metadata(Path::new("/dev").join(name)) else {
                return format!("{name} none");
            };
            format!("{name} {:o} {} {}:{}", found.mode(), found.rdev(), found.uid(), found.gid())
        }));
        let table = fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
        let mounts = table.lines().map(str::to_owned).collect();
        Self { files, mounts, left: leftovers::find(bed) }
    }

    /// What is otherwise than it was before.
    pub(super) fn changes(&self, before: &Self) -> Vec<String> {
        let mut changes = differences(&before.files, &self.files);
        changes.extend(differences(&before.mounts, &self.mounts));
        let new = self.left.iter().filter(|left| !before.left.contains(left));
        changes.extend(new.map(|left| format!("left behind: {left}")));
        changes
    }

    pub(super) fn has_mounts_of(&self, directory: &Path) -> bool {
        let directory = directory.display().to_string();
        self.mounts.iter().any(|line| line.contains(&directory))
    }
}

fn differences(before: &[String], after: &[String]) -> Vec<String> {
    let gone =
        before.iter().filter(|line| !after.contains(line)).map(|line| format!("gone: {line}"));
    let new = after.iter().filter(|line| !before.contains(line)).map(|line| format!("new: {line}"));
    gone.chain(new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_changes_is_gone_and_new() {
        let lines = |all: &[&str]| all.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        let found = differences(&lines(&["a", "b"]), &lines(&["b", "c"]));
        assert_eq!(found, ["gone: a", "new: c"]);
    }
}
