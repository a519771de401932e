//! Kernel parameters. A process in the container's namespaces that writes to a procfs of the
//! host writes those of the container, and no image can forge what it writes to.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::{FsWord, Mode, OFlags, fstatfs, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use crate::error::{InField as _, message};
use crate::log;
use crate::plan::sysctls::Sysctl;
use crate::resolve;

/// The procfs that parameters are written to: the caller's, or one that is attached nowhere
/// where his is closed, as in a container or a service that may change no parameter.
#[derive(Debug, Default)]
pub struct Parameters {
    /// None where the creator may not mount one; the container may be allowed to.
    procfs: Option<OwnedFd>,
}

impl Parameters {
    /// Finds it, as the creator.
    pub fn find(sysctls: &[Sysctl]) -> Self {
        if sysctls.is_empty() {
            return Self { procfs: None };
        }
        let callers = resolve::host(Path::new("/proc")).ok();
        let callers = callers.filter(|procfs| sysctls.iter().all(|one| is_open(procfs, &one.path)));
        let own = || {
            let own = own_procfs();
            own.inspect_err(|error| log::debug(|| format!("linux.sysctl: {}", message(error)))).ok()
        };
        Self { procfs: callers.or_else(own) }
    }

    /// Writes the parameters, as a process in the container's namespaces, and lets go of it.
    pub fn write(self, sysctls: &[Sysctl]) -> Result<()> {
        if sysctls.is_empty() {
            return Ok(());
        }
        let own;
        let procfs = match &self.procfs {
            Some(procfs) => procfs,
            None => {
                own = own_procfs()
                    .context("the caller's /proc/sys is closed, and there is no other")
                    .in_field("linux.sysctl")?;
                &own
            }
        };
        sysctls.iter().try_for_each(|sysctl| {
            let path = Path::new("sys").join(&sysctl.path);
            openat(procfs, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(std::io::Error::from)
                .and_then(|file| File::from(file).write_all(sysctl.value.as_bytes()))
                .with_context(|| format!("write {:?}", sysctl.value))
                .in_field(&sysctl.field)?;
            log::debug(|| format!("{}: {:?} written", sysctl.field, sysctl.value));
            Ok(())
        })
    }
}

/// Whether a parameter can be written below `procfs`: nothing covers it there, and it is not
/// read-only.
fn is_open(procfs: &OwnedFd, parameter: &str) -> bool {
    /// PROC_SUPER_MAGIC of linux/magic.h, and ST_RDONLY of statfs(2).
    const MAGIC: FsWord = 0x9fa0;
    const READ_ONLY: FsWord = 1;
    let path = Path::new("sys").join(parameter);
    // That of an interface of the container is not there yet.
    let mut nearest = path.ancestors().filter(|path| !path.as_os_str().is_empty());
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    nearest
        .find_map(|path| fstatfs(openat(procfs, path, flags, Mode::empty()).ok()?).ok())
        .is_some_and(|stat| stat.f_type == MAGIC && stat.f_flags & READ_ONLY == 0)
}

fn own_procfs() -> Result<OwnedFd> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC).context("fsopen \"proc\"")?;
    fsconfig_create(&context).context("mount \"proc\"")?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).context("fsmount \"proc\"")
}
