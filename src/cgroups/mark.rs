//! Whose a group is. `create` takes a group that is there and empty, so two records may
//! name one group, one after the other: the directory bears the name of the container
//! that took it last, as an extended attribute.
//!
//! Only the machine's root can write `trusted.*`. What anybody else has to use can be
//! written by whoever the group was given to, a container's own root too: such a mark
//! proves the container's own claim, and never another's against a record.

use std::ffi::CStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Result, bail};
use rustix::fs::{XattrFlags, lgetxattr, lsetxattr};

use super::checked;
use crate::plan::cgroup::{Directory, Group};

const TRUSTED: &CStr = c"trusted.ferrun.container";
const USER: &CStr = c"user.ferrun.container";

/// Marks the group as that of the container with this directory. Where nothing can bear
/// a mark, as in the trees of version 1 for anybody but root, there is none.
pub(super) fn put(group: &Group, container: &Path) -> Result<()> {
    let container = container.as_os_str().as_bytes();
    for directory in &group.directories {
        let path = checked(directory)?;
        let put = |name| lsetxattr(path, name, container, XattrFlags::empty());
        let _ = put(TRUSTED).or_else(|_| put(USER));
    }
    Ok(())
}

fn get(directory: &Directory, name: &CStr) -> Result<Option<Vec<u8>>> {
    /// PATH_MAX of linux/limits.h.
    const LONGEST: usize = 4096;
    let mut mark = vec![0; LONGEST];
    let length = lgetxattr(checked(directory)?, name, &mut mark[..]).ok();
    Ok(length.map(|length| {
        mark.truncate(length);
        mark
    }))
}

/// Those directories of the group that bear the mark of this container.
pub fn marked(group: &Group, container: &Path) -> Result<Group> {
    let own = container.as_os_str().as_bytes();
    filter(group, |directory| {
        let mark = match get(directory, TRUSTED)? {
            None => get(directory, USER)?,
            trusted => trusted,
        };
        Ok(mark.is_some_and(|mark| mark == own))
    })
}

/// Those directories of a group that nobody has taken since it was the group of this
/// container. That somebody has may be a lie of the container's own, which is an error.
pub fn kept(group: &Group, container: &Path) -> Result<Group> {
    let own = container.as_os_str().as_bytes();
    filter(group, |directory| {
        if let Some(mark) = get(directory, TRUSTED)? {
            return Ok(mark == own);
        }
        match get(directory, USER)? {
            Some(mark) if mark != own => {
                let other = mark.escape_ascii();
                bail!("{:?} says that it is the group of \"{other}\" by now", directory.path)
            }
            _ => Ok(true),
        }
    })
}

pub(super) fn filter(
    group: &Group,
    mut keep: impl FnMut(&Directory) -> Result<bool>,
) -> Result<Group> {
    let mut kept = Group::default();
    for directory in &group.directories {
        if keep(directory)? {
            kept.directories.push(directory.clone());
        }
    }
    Ok(kept)
}
