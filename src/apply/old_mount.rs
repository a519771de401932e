//! mount(2), for file systems with a parameter that is too long for fsconfig(2), such as
//! the list of layers of an overlay. It mounts at once, so there is no moment at which the
//! mount has its place in the container and not its flags: those go with the call.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};
use rustix::mount::MountFlags;

use crate::error::InField as _;
use crate::plan::mounts::{FileSystem, MountStep};
use crate::plan::options::PAIRED;
use crate::resolve;

/// Mounts a file system on the directory `place`, which its step names below `root`.
/// Returns a handle on the new mount.
pub fn mount(
    root: BorrowedFd<'_>,
    place: &OwnedFd,
    step: &MountStep,
    file_system: &FileSystem,
) -> Result<OwnedFd> {
    let FileSystem { fstype, source, .. } = file_system;
    let data = CString::new(data(file_system)).in_field(step.field.of("options"))?;
    let flags = flags(step, file_system);
    rustix::mount::mount(
        source.as_str(),
        resolve::own_path(place),
        fstype.as_str(),
        flags,
        data.as_c_str(),
    )
    .with_context(|| format!("mount {fstype:?}"))
    .in_field(step.field)?;
    // The old handle is on what is covered now.
    let mount = resolve::handle(root, &step.target)
        .with_context(|| format!("{:?}", step.target))
        .in_field(step.field.of("destination"))?;
    if !is_new(&mount, place)? {
        bail!("{}: {:?}: somebody has exchanged it", step.field.of("destination"), step.target);
    }
    Ok(mount)
}

/// The flags that a mount must have from its first moment, and those of its super block.
fn flags(step: &MountStep, file_system: &FileSystem) -> MountFlags {
    // These four have the same bits for both calls.
    let paired = MountFlags::from_bits_truncate((step.attributes.set & PAIRED) as u32);
    let switches = file_system.switches.iter().map(|switch| match *switch {
        "ro" => MountFlags::RDONLY,
        "sync" => MountFlags::SYNCHRONOUS,
        "dirsync" => MountFlags::DIRSYNC,
        "lazytime" => MountFlags::LAZYTIME,
        "mand" => MountFlags::PERMIT_MANDATORY_FILE_LOCKING,
        _ => MountFlags::empty(),
    });
    switches.fold(paired, |flags, switch| flags | switch)
}

/// The parameters as one text. A label has commas of its own, and is quoted.
fn data(file_system: &FileSystem) -> String {
    let label = file_system.label.iter().map(|label| format!("context=\"{label}\""));
    let given = file_system.data.iter().map(|(key, value)| match value {
        Some(value) if key.ends_with("context") => format!("{key}=\"{value}\""),
        Some(value) => format!("{key}={value}"),
        None => key.clone(),
    });
    label.chain(given).collect::<Vec<_>>().join(",")
}

/// Whether a handle is on the root of another mount than `place` is in.
fn is_new(mount: impl AsFd, place: impl AsFd) -> Result<bool> {
    let look = |handle: BorrowedFd<'_>| {
        statx(handle, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).context("statx")
    };
    let (mount, place) = (look(mount.as_fd())?, look(place.as_fd())?);
    let is_root = mount.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    Ok(is_root && mount.stx_mnt_id != place.stx_mnt_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_become_one_text_and_words_become_flags() {
        let text = |text: &str| Some(text.to_owned());
        let file_system = FileSystem {
            data: vec![
                ("lowerdir".into(), text("/a:/b")),
                ("metacopy".into(), None),
                ("rootcontext".into(), text("u:r:t:s0:c1,c2")),
            ],
            label: text("u:r:t:s0"),
            switches: vec!["sync"],
            ..FileSystem::default()
        };
        assert_eq!(
            data(&file_system),
            r#"context="u:r:t:s0",lowerdir=/a:/b,metacopy,rootcontext="u:r:t:s0:c1,c2""#
        );
    }
}
