//! A file system that is made in a mount namespace of its own, in which its layers have short
//! names and other ids, and which nobody else sees. What is handed back is attached nowhere; the
//! namespace ends with the call, and with a process that is killed in the middle of it.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context as _, Result};
use ferrun::apply::mounts::{attach, clone_tree, map_ids};
use ferrun::resolve;
use ferrun::sys::mount::change_propagation;
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, open};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, fsconfig_create, fsmount, fsopen,
};
use rustix::process::fchdir;

use super::plan::{Apart, Layer};

/// Where the file system is mounted beside its layers.
const WHOLE: &str = "whole";

/// Makes it, from the calling thread, which must have no other thread beside it in its process.
/// `place` is a directory that may be covered meanwhile.
pub fn make(place: &Path, asked: &Apart, users: Option<&OwnedFd>) -> Result<OwnedFd> {
    let open = |path: &str| open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let namespace = open("/proc/thread-self/ns/mnt").context("its mount namespace")?;
    let directory = open(".").context("the working directory")?;
    unshare(CloneFlags::CLONE_NEWNS).context("unshare: a mount namespace")?;
    let made = make_here(place, asked, users);
    setns(&namespace, CloneFlags::CLONE_NEWNS).context("setns: back")?;
    fchdir(&directory).context("fchdir: back")?;
    made
}

fn make_here(place: &Path, asked: &Apart, users: Option<&OwnedFd>) -> Result<OwnedFd> {
    change_propagation(c"/", libc::MS_REC | libc::MS_PRIVATE).context("mount: private")?;
    let directory = small_directory(place)?;
    fchdir(&directory).context("fchdir")?;
    for (at, layer) in asked.layers.iter().enumerate() {
        show(&at.to_string(), layer, users).with_context(|| format!("{:?}", layer.path))?;
    }
    mkdirat(CWD, WHOLE, Mode::RWXU).context("mkdir")?;
    let system = &asked.file_system;
    let data = CString::new(data(asked)).context("its parameters")?;
    let read_only = system.switches.contains(&"ro");
    let flags = if read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    rustix::mount::mount(system.source.as_str(), WHOLE, system.fstype.as_str(), flags, &*data)
        .with_context(|| format!("mount {:?}", system.fstype))?;
    let whole = clone_tree(resolve::host(WHOLE.as_ref()).context(WHOLE)?, false)?;
    if let Some(users) = users.filter(|_| asked.layers.is_empty()) {
        map_ids(&whole, false, users)?;
    }
    Ok(whole)
}

/// An empty directory at `place`, in memory.
fn small_directory(place: &Path) -> Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).context("fsopen")?;
    fsconfig_create(&context).context("mount \"tmpfs\"")?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        .context("fsmount")?;
    attach(&mount, resolve::root(place).with_context(|| format!("{place:?}"))?)?;
    Ok(mount)
}

/// Shows a layer by a short name, with other ids.
fn show(name: &str, layer: &Layer, users: Option<&OwnedFd>) -> Result<()> {
    mkdirat(CWD, name, Mode::RWXU).context("mkdir")?;
    let tree = clone_tree(resolve::host(layer.path.as_ref())?, false)?;
    if let Some(users) = users {
        map_ids(&tree, false, users)?;
    }
    attach(&tree, resolve::host(name.as_ref())?)
}

/// The parameters as mount(2) takes them.
fn data(asked: &Apart) -> String {
    let mut list = String::new();
    for (at, layer) in asked.layers.iter().enumerate() {
        let sign = match (at, layer.data_only) {
            (0, _) => "lowerdir=",
            (_, true) => "::",
            (_, false) => ":",
        };
        list += &format!("{sign}{at}");
    }
    let others = asked.file_system.data.iter().map(|(key, value)| match value {
        Some(value) => format!("{key}={value}"),
        None => key.clone(),
    });
    let list = Some(list).filter(|list| !list.is_empty());
    others.chain(list).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrun::plan::mounts::FileSystem;

    #[test]
    fn layers_have_numbers_for_names() {
        let layer = |path: &str, data_only| Layer { path: path.into(), data_only };
        let mut asked = Apart {
            file_system: FileSystem {
                data: vec![("upperdir".into(), Some("/u".into())), ("volatile".into(), None)],
                ..FileSystem::default()
            },
            layers: vec![layer("/a", false), layer("/b", false), layer("/c", true)],
            ids: None,
        };
        assert_eq!(data(&asked), "upperdir=/u,volatile,lowerdir=0:1::2");
        asked.layers.clear();
        assert_eq!(data(&asked), "upperdir=/u,volatile");
    }
}
