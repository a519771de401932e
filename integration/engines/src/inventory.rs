//! Everything that an engine and its containers have at a moment, so that what a series
//! of containers leaves behind can be told from what was there before.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use integration::Bed;

/// What there is, each thing as a line that tells what it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory(BTreeSet<String>);

impl Inventory {
    /// What there is in the calling thread's namespaces, and in the bed's cgroups.
    pub(crate) fn take(bed: &Bed) -> Self {
        let mut found = BTreeSet::new();
        for (_, command) in processes() {
            found.insert(format!("process {command}"));
        }
        found.extend(mounts().iter().map(|point| format!("mount {point}")));
        // Docker makes it for the first container without a network of its own, and keeps it.
        found.remove("mount /run/docker/netns/default");
        let sockets = read("/proc/thread-self/net/unix");
        let names = sockets.lines().skip(1).filter_map(|line| line.split_whitespace().nth(7));
        // Those that the kernel has named, with five digits, are nobody's to find.
        let named = names.filter(|name| !(name.starts_with('@') && name.len() == 6));
        found.extend(named.map(|name| format!("socket {name}")));
        // Runtimes, shims and engines keep their state below /run.
        walk(Path::new("/run"), &mut |path| {
            found.insert(format!("file {}", path.display()));
        });
        // Once a minute Docker unlinks the files on which network namespaces were mounted. The
        // other ones are its own, one for each time that it was started.
        found.retain(|line| {
            !line.starts_with("file /run/docker/netns") && !line.contains("/run/docker/libnetwork")
        });
        for hierarchy in hierarchies() {
            walk(&hierarchy.join(&bed.name), &mut |path| {
                if path.is_dir() {
                    found.insert(format!("cgroup {}", path.display()));
                }
            });
        }
        Self(found)
    }

    /// What is there that was not there before.
    pub fn since(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

/// The roots of the cgroup hierarchies: the one of version 2, or those below it of version 1.
pub(crate) fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// The mount points in the calling thread's mount namespace.
pub(crate) fn mounts() -> Vec<String> {
    let table = read("/proc/thread-self/mountinfo");
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(str::to_owned).collect()
}

/// The processes in the calling thread's mount or network namespace, with their command
/// lines. This process itself is none of them.
pub(crate) fn processes() -> Vec<(i32, String)> {
    let namespace = |task: &str, kind: &str| {
        fs::metadata(format!("/proc/{task}/ns/{kind}")).map(|found| found.ino()).ok()
    };
    let kinds = ["mnt", "net"];
    let own = kinds.map(|kind| namespace("thread-self", kind));
    let mut found = Vec::new();
    for name in list("/proc") {
        let Ok(pid) = name.parse::<i32>() else { continue };
        let here = kinds
            .iter()
            .zip(&own)
            .any(|(kind, own)| own.is_some() && namespace(&name, kind) == *own);
        if here && pid != std::process::id() as i32 {
            let line = fs::read(format!("/proc/{name}/cmdline")).unwrap_or_default();
            found.push((pid, String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned()));
        }
    }
    found
}

fn list(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Calls `found` for all that is below a directory of this file system.
fn walk(directory: &Path, found: &mut dyn FnMut(&Path)) {
    let device = |path: &Path| fs::symlink_metadata(path).map(|found| found.dev()).ok();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        found(&path);
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_dir && device(&path) == device(directory) {
            walk(&path, found);
        }
    }
}
