//! Running from a file that no container can write to.
//!
//! A process that enters a container is visible there by /proc/PID/exe, and
//! `#!/proc/self/exe` in a container runs it again: whoever is root inside could
//! then open our binary for writing, and own the host with the next command
//! (CVE-2019-5736). Being non-dumpable does not help against CAP_SYS_PTRACE, and
//! comparing files is a race. So the commands that enter containers run from
//! something that cannot be written: a binary on a read-only mount as it is;
//! else root executes itself again from a read-only clone of the mount, which is
//! attached nowhere, and an ordinary user who could write his binary from a
//! sealed copy in memory.

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::{
    Access, CWD, MemfdFlags, OFlags, SealFlags, StatVfsMountFlags, accessat, fcntl_add_seals,
    fcntl_get_seals, memfd_create, open, statvfs,
};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::abi::MountAttributes;
use crate::plan::options::MOUNT_ATTR_RDONLY;
use crate::sys::arguments::Arguments;
use crate::sys::mount::mount_setattr;
use crate::sys::process::FIRST_FREE;

const EXECUTABLE: &str = "/proc/self/exe";
const FAILED: &str = "execute the protected executable";

/// Returns once the process runs from something that cannot be written. To be
/// called first of all: it may start the program anew, with the same `arguments`.
pub fn protect(arguments: Arguments) -> Result<()> {
    let filesystem = statvfs(EXECUTABLE).context(EXECUTABLE)?;
    if filesystem.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    if rustix::process::geteuid().is_root()
        && let Ok(clone) = read_only_clone(EXECUTABLE)
    {
        return Err(arguments.execute(clone)).context(FAILED);
    }
    // Root without the right to clone mounts, in a container say, is an ordinary user here.
    if is_sealed()? || !may_write() {
        return Ok(());
    }
    Err(arguments.execute(sealed_copy()?)).context(FAILED)
}

/// Holds the program at `path` for [`path_of`], by a mount of its own that is read-only and
/// attached nowhere where the caller may make one: so protected, it need not start twice.
pub fn hold(path: &Path) -> Result<OwnedFd> {
    let held = open(path, OFlags::PATH | OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
    let held = read_only_clone(&path_of(&held)).unwrap_or(held);
    // Not by a number that the program gets something else by, before it is executed.
    fcntl_dupfd_cloexec(&held, FIRST_FREE).context("dup")
}

/// The path by which a child of this process executes a program that is held.
pub fn path_of(held: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", held.as_raw_fd())
}

/// What this process runs from, for the log.
pub fn describe() -> &'static str {
    match statvfs(EXECUTABLE) {
        Ok(filesystem) if filesystem.f_flag.contains(StatVfsMountFlags::RDONLY) => {
            "runs from a read-only mount"
        }
        _ if is_sealed().unwrap_or(false) => "runs from a sealed copy in memory",
        _ => "runs from its own file",
    }
}

/// The binary on a mount of its own that is read-only and attached nowhere. The
/// descriptor must be closed by execve(2): through it the mount could be changed.
fn read_only_clone(path: &str) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let clone = open_tree(CWD, path, flags).context("open_tree")?;
    let read_only = MountAttributes { set: MOUNT_ATTR_RDONLY, ..Default::default() };
    mount_setattr(&clone, false, &read_only).context("mount_setattr")?;
    Ok(clone)
}

fn is_sealed() -> Result<bool> {
    let executable = open(EXECUTABLE, OFlags::RDONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty())
        .context(EXECUTABLE)?;
    Ok(fcntl_get_seals(&executable).is_ok_and(|seals| seals.contains(SealFlags::WRITE)))
}

/// Whether the caller could write the file, or make it so because it is his.
fn may_write() -> bool {
    let owner = rustix::fs::stat(EXECUTABLE).map(|stat| stat.st_uid);
    accessat(CWD, EXECUTABLE, Access::WRITE_OK, rustix::fs::AtFlags::EACCESS).is_ok()
        || owner == Ok(rustix::process::geteuid().as_raw())
}

fn sealed_copy() -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know the flag for a memfd that may be executed, and need none.
    let copy = memfd_create("ferrun", flags | MemfdFlags::EXEC)
        .or_else(|_| memfd_create("ferrun", flags))
        .context("memfd_create")?;
    let mut copy = File::from(copy);
    let mut executable = File::open(EXECUTABLE).context(EXECUTABLE)?;
    std::io::copy(&mut executable, &mut copy).context("copy the executable into memory")?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&copy, seals).context("seal the copy of the executable")?;
    Ok(copy.into())
}
