//! A procfs of a pid namespace that the process which mounts it is not in.
//!
//! A procfs shows the pid namespace of whoever calls fsopen(2), and in a joined one others
//! may look into whoever is there. So the call is made by a process that has nothing: its
//! root is an empty file system, its namespaces are its own and empty, it has no descriptor
//! but the way back, and rights in a user namespace of its own alone. They suffice to make
//! the context of a file system; to mount it takes the rights of whoever gets it.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use oci_spec::runtime::LinuxNamespaceType as Kind;
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsmount, fsopen, move_mount, unmount,
};
use rustix::process::{fchdir, pivot_root};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use super::namespaces::{Opened, become_root_inside, join_all, make_new};
use crate::channel::{self, FromInit, InitEnd};
use crate::create::spawn::{Birth, Groups, spawn};
use crate::error::{Failure, message};
use crate::log;
use crate::sys;
use crate::sys::process::{
    Clone3, Cloned, OneThread, clone3, exit_now, hide, set_parent_death_signal,
};

/// How long the context may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The context of a procfs (fsopen(2)) that shows the pid namespace among `joined`, which may
/// take the rights of a user namespace among them to enter. `cgroup` is the container's.
pub fn context_in(alone: OneThread, joined: Vec<Opened>, cgroup: &Groups) -> Result<OwnedFd> {
    let (creator, end) = channel::pair()?;
    let helper = spawn(alone, &Birth::in_group(cgroup.unified()), &creator, |alone| {
        end_with_parent()?;
        cgroup.tasks().enter()?;
        let Err(error) = bring_context(alone, joined, &end).map(|()| exit_now(0));
        let _ = end.send(&FromInit::Failed(Failure::new(&error)));
        exit_now(1)
    })?;
    drop(end);
    // Whoever may stop its child there would have us wait for ever.
    let began = Instant::now();
    let goes_on = || Ok(began.elapsed() < PATIENCE && !helper.has_ended()?);
    let told = creator.receive_while(goes_on);
    // It ends when its child has, which could be stopped too.
    let _ = creator.receive_while(goes_on);
    helper.kill();
    match told? {
        Some((FromInit::Procfs, Some(context))) => Ok(context),
        Some((FromInit::Failed(failure), _)) => Err(failure.into_error()),
        _ => bail!("the process that opens a procfs in the joined pid namespace died"),
    }
    .context("a process without rights in the joined pid namespace")
}

/// Gives everything away, and then lets a child in the pid namespace make the context.
fn bring_context(alone: OneThread, joined: Vec<Opened>, end: &InitEnd) -> Result<()> {
    const NEW: [Kind; 6] =
        [Kind::User, Kind::Mount, Kind::Network, Kind::Ipc, Kind::Uts, Kind::Cgroup];
    let in_user_namespace = joined.iter().any(|join| join.kind == Kind::User);
    join_all(joined)?;
    // Who has no id there may make no user namespace (unshare(2)).
    become_root_inside(in_user_namespace)?;
    // A change of ids has cleared it.
    end_with_parent()?;
    if let Err(error) = make_new(&NEW) {
        // Where nobody may have user namespaces (user.max_user_namespaces) it is done as by
        // other runtimes, with a right that whoever may trace processes there can take.
        make_new(NEW.get(1..).unwrap_or_default())?;
        let right = CapabilitySet::SYS_ADMIN;
        let none = CapabilitySet::empty();
        let sets = CapabilitySets { effective: right, permitted: right, inheritable: none };
        set_capabilities(None, sets).context("capset")?;
        log::warn(format!(
            "a process with CAP_SYS_ADMIN opens the procfs of the joined pid namespace: {}",
            message(&error)
        ));
    }
    enter_empty_root().context("an empty root")?;
    sys::close_others(0, 0, &[end.as_fd()]).context("close_range")?;
    log::leave_file();
    sys::arguments::forget(alone);
    hide().context("prctl")?;
    let child = match clone3(alone, &Clone3::default()).context("clone3")? {
        Cloned::Parent(pid, _) => pid,
        Cloned::Child(_) => {
            let sent = end_with_parent()
                .and_then(|()| {
                    fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC).context("fsopen \"proc\"")
                })
                .and_then(|context| end.send_with(&FromInit::Procfs, context));
            if let Err(error) = &sent {
                let _ = end.send(&FromInit::Failed(Failure::new(error)));
            }
            exit_now(i32::from(sent.is_err()))
        }
    };
    // It may not stay behind, a zombie that its pid namespace would show.
    match nix::sys::wait::waitpid(child, None) {
        Ok(_) | Err(Errno::ECHILD) => Ok(()),
        Err(errno) => Err(errno).context("waitpid"),
    }
}

/// Ends with its parent, which is alive as long as nobody has been told.
fn end_with_parent() -> Result<()> {
    set_parent_death_signal(libc::SIGKILL).context("prctl")
}

fn enter_empty_root() -> Result<()> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).context("fsopen \"tmpfs\"")?;
    fsconfig_create(&context).context("mount \"tmpfs\"")?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)
        .context("fsmount")?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&mount, "", CWD, "/", flags).context("move_mount")?;
    fchdir(&mount).context("fchdir")?;
    // The old root ends up on top of the new one, and goes from there.
    pivot_root(".", ".").context("pivot_root")?;
    unmount(".", UnmountFlags::DETACH).context("umount")
}
