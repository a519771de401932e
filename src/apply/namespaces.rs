//! Joining namespaces and setting new ones up.

use std::fs;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::Pid;
use oci_spec::runtime::LinuxNamespaceType as Kind;
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use crate::error::{InField as _, message, words};
use crate::log;
use crate::plan::namespaces::{IdMaps, IdRange, Join, clone_flag, name, proc_name};
use crate::sys;
use crate::sys::process::clone_that_waits;

/// Where a process writes the offsets of the time namespace that its children will be in.
const OWN_OFFSETS: &str = "/proc/self/timens_offsets";

/// A namespace to join, opened and checked.
#[derive(Debug)]
pub struct Opened {
    /// Its type.
    pub kind: Kind,
    /// A descriptor of it.
    pub namespace: OwnedFd,
    /// Its place in the configuration.
    pub field: String,
}

/// Opens a namespace and checks that it is of the type that is wanted.
pub fn open_joined(join: &Join) -> Result<Opened> {
    let path = &join.path;
    let namespace = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| format!("{path:?}"))
        .in_field(&join.field)?;
    match sys::namespace_type(&namespace) {
        Ok(flag) if flag as u64 == clone_flag(join.kind) => {}
        Ok(_) => bail!("{}: {path:?}: is no {} namespace", join.field, name(join.kind)),
        Err(_) => bail!("{}: {path:?}: is no namespace", join.field),
    }
    Ok(Opened { kind: join.kind, namespace, field: join.field.clone() })
}

impl Opened {
    /// Joins it.
    pub fn join(&self) -> Result<()> {
        setns(&self.namespace, CloneFlags::from_bits_retain(clone_flag(self.kind) as i32))
            .context("setns")
            .in_field(&self.field)?;
        log::debug(|| format!("{}: joined a {} namespace", self.field, name(self.kind)));
        Ok(())
    }
}

/// Joins all of them, a mount namespace last. A user namespace comes after what can be joined
/// with the caller's rights, and before what takes rights inside of it.
pub fn join_all(opened: Vec<Opened>) -> Result<()> {
    let (mounts, others): (Vec<_>, Vec<_>) =
        opened.into_iter().partition(|join| join.kind == Kind::Mount);
    let (user, others): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|join| join.kind == Kind::User);
    let is_refused = |join: &Opened| match join.join() {
        Ok(()) => false,
        Err(error) => {
            log::debug(|| format!("{}: tried again in the user namespace", message(&error)));
            true
        }
    };
    let refused: Vec<Opened> = others.into_iter().filter(is_refused).collect();
    user.iter().chain(&refused).chain(&mounts).try_for_each(Opened::join)
}

/// Joins all of these and makes new ones, in which time runs by these offsets.
pub fn enter(opened: Vec<Opened>, new: &[Kind], offsets: Option<&str>) -> Result<()> {
    let file = offsets.map(|_| open_own_offsets()).transpose()?;
    join_all(opened)?;
    make_new(new)?;
    let (Some(mut file), Some(offsets)) = (file, offsets) else { return Ok(()) };
    file.write_all(offsets.as_bytes())
        .with_context(|| format!("write {offsets:?} to {OWN_OFFSETS}"))
        .in_field("linux.timeOffsets")
}

/// Opens the file for the offsets of the calling process's children. That of a hidden process
/// is root's, so one of an ordinary user shows itself for this moment: it has joined nothing
/// yet, and only his own processes have rights over it.
fn open_own_offsets() -> Result<fs::File> {
    let open = || fs::File::options().write(true).open(OWN_OFFSETS);
    let file = open().or_else(|_| {
        set_dumpable_behavior(DumpableBehavior::Dumpable)?;
        let file = open();
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        file
    });
    file.context(OWN_OFFSETS).in_field("linux.timeOffsets")
}

/// In a user namespace the caller's ids are not what they were outside.
pub fn become_root_inside(entered: bool) -> Result<()> {
    if !entered {
        return Ok(());
    }
    sys::process::set_ids(0, 0, None).map_err(|(call, errno)| {
        anyhow::Error::new(errno)
            .context(call)
            .context("linux.uidMappings: root is not mapped into the user namespace")
    })
}

/// The types as the configuration spells them, for the log.
pub fn names(kinds: &[Kind]) -> String {
    kinds.iter().map(|kind| name(*kind)).collect::<Vec<_>>().join(", ")
}

/// Makes new namespaces of the calling process, in one call: a user namespace among them owns
/// the others. A time namespace is that of its children.
pub fn make_new(kinds: &[Kind]) -> Result<()> {
    if kinds.is_empty() {
        return Ok(());
    }
    let flags = kinds.iter().map(|kind| clone_flag(*kind) as i32).sum();
    unshare(CloneFlags::from_bits_retain(flags))
        .map_err(|errno| explain_new("unshare", errno, kinds))?;
    log::debug(|| format!("unshare: new namespaces: {}", names(kinds)));
    Ok(())
}

/// The namespaces that the caller left for a while; dropping it returns to them.
#[derive(Debug, Default)]
pub struct LeftNamespaces {
    home: Vec<(Kind, OwnedFd)>,
}

impl LeftNamespaces {
    /// Remembers the caller's own namespace of this type before he leaves it.
    pub fn leave(&mut self, kind: Kind) -> Result<()> {
        // pid and time namespaces are those of children; one's own never changes.
        let path = format!("/proc/self/ns/{}", proc_name(kind));
        let home = open(path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .with_context(|| path.clone())?;
        self.home.push((kind, home));
        Ok(())
    }
}

impl Drop for LeftNamespaces {
    fn drop(&mut self) {
        for (kind, home) in self.home.drain(..).rev() {
            let flag = CloneFlags::from_bits_retain(clone_flag(kind) as i32);
            if let Err(errno) = setns(home.as_fd(), flag) {
                let name = name(kind);
                log::warn(format!("return to the own {name} namespace: {}", words(errno)));
            }
        }
    }
}

/// Writes the maps of the user namespace that `pid` is in. Who may not write
/// them himself asks newuidmap(1) and newgidmap(1), which know what is his.
pub fn write_id_maps(pid: Pid, maps: &IdMaps, uid: u32, gid: u32) -> Result<()> {
    let process = format!("/proc/{pid}");
    let own = |ranges: &[IdRange], id: u32| matches!(ranges, [only] if only.size == 1 && only.outside == id);
    let privileged = uid == 0;
    if !privileged && own(&maps.gids, gid) {
        // Without privileges a group map may only be written once groups can no
        // longer be dropped (user_namespaces(7)).
        fs::write(format!("{process}/setgroups"), "deny").context("write setgroups")?;
    }
    for (ranges, file, program, direct, field) in [
        (
            &maps.uids,
            "uid_map",
            "newuidmap",
            privileged || own(&maps.uids, uid),
            "linux.uidMappings",
        ),
        (
            &maps.gids,
            "gid_map",
            "newgidmap",
            privileged || own(&maps.gids, gid),
            "linux.gidMappings",
        ),
    ] {
        let written = if direct {
            let text: String = ranges
                .iter()
                .map(|range| format!("{} {} {}\n", range.inside, range.outside, range.size))
                .collect();
            fs::write(Path::new(&process).join(file), text).with_context(|| format!("write {file}"))
        } else {
            ask_for_map(program, pid, ranges)
        };
        written.in_field(field)?;
        log::debug(|| {
            let by = if direct { "written" } else { program };
            format!("{field}: {} ranges in force for process {pid}: {by}", ranges.len())
        });
    }
    Ok(())
}

fn ask_for_map(program: &str, pid: Pid, ranges: &[IdRange]) -> Result<()> {
    let mut command = Command::new(program);
    command.arg(pid.to_string()).stdin(Stdio::null());
    for range in ranges {
        command.args([range.inside, range.outside, range.size].map(|id| id.to_string()));
    }
    let output = command.output().with_context(|| {
        format!("{program}: needed for ids that are not the caller's own (package uidmap)")
    })?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{}", stderr.lines().last().unwrap_or("failed without a word"));
    }
    Ok(())
}

/// A user namespace with these maps, for id-mapped mounts. It needs a process to
/// come into being, and none to go on.
pub fn user_namespace(maps: &IdMaps, uid: u32, gid: u32) -> Result<OwnedFd> {
    let (pid, pidfd) = clone_that_waits(clone_flag(Kind::User))
        .map_err(|errno| explain_new("clone3", errno, &[Kind::User]))?;
    let made = write_id_maps(pid, maps, uid, gid).and_then(|()| user_namespace_of(pid));
    let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
    let _ = nix::sys::wait::waitpid(pid, None);
    made
}

/// The user namespace that a process is in.
pub fn user_namespace_of(pid: Pid) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/ns/user");
    open(path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).with_context(|| path)
}

/// Writes the offsets of the time namespace that the children of a process will be in.
pub fn write_time_offsets(pid: Pid, offsets: &str) -> Result<()> {
    let file = format!("/proc/{pid}/timens_offsets");
    fs::write(&file, offsets)
        .with_context(|| format!("write {offsets:?} to {file}"))
        .in_field("linux.timeOffsets")
}

/// Enters the time namespace that the caller's children will be in. By itself a process
/// gets there at execve(2), but not on every kernel: 6.1 leaves it where it is.
pub fn enter_own_time() -> Result<()> {
    let path = "/proc/self/ns/time_for_children";
    let namespace = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).context(path)?;
    let flag = CloneFlags::from_bits_retain(clone_flag(Kind::Time) as i32);
    setns(namespace, flag).context("setns: linux.namespaces: time")
}

/// Why the call that makes new namespaces failed, with the setting that forbids it.
pub fn explain_new(call: &'static str, errno: nix::errno::Errno, new: &[Kind]) -> anyhow::Error {
    use nix::errno::Errno;
    let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let error = anyhow::Error::new(errno).context(call);
    // Ubuntu's AppArmor answers with EACCES.
    if !matches!(errno, Errno::ENOSPC | Errno::EPERM | Errno::EACCES | Errno::EUSERS) {
        return error;
    }
    if new.contains(&Kind::User) {
        for (path, setting) in [
            ("/proc/sys/kernel/unprivileged_userns_clone", "kernel.unprivileged_userns_clone"),
            ("/proc/sys/user/max_user_namespaces", "user.max_user_namespaces"),
        ] {
            if read(path).as_deref() == Some("0") {
                return error
                    .context(format!("linux.namespaces: user: forbidden by {setting} = 0"));
            }
        }
        let restricted = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";
        if read(restricted).as_deref() == Some("1") {
            return error.context(
                "linux.namespaces: user: forbidden by kernel.apparmor_restrict_unprivileged_userns = 1",
            );
        }
    }
    for kind in new {
        let file = proc_name(*kind);
        if read(&format!("/proc/sys/user/max_{file}_namespaces")).as_deref() == Some("0") {
            return error.context(format!(
                "linux.namespaces: {}: forbidden by user.max_{file}_namespaces = 0",
                name(*kind)
            ));
        }
    }
    error.context("linux.namespaces")
}
