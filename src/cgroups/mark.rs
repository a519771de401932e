//! Whose a group is. `create` takes a group that is there and empty, so two records may
//! name one group, one after the other: it bears the name of the container that took it
//! last, as an extended attribute. The first of its directories does, and each that was
//! there before; the others are whose the first one is.
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
use crate::error::words;
use crate::log;
use crate::plan::cgroup::{Directory, Group};

const TRUSTED: &CStr = c"trusted.ferrun.container";
const USER: &CStr = c"user.ferrun.container";

/// A mark, and whether nobody in a container can have written it.
struct Mark {
    container: Vec<u8>,
    is_trusted: bool,
}

/// Marks the group as that of the container with this directory. Where nothing can bear
/// a mark, as in the trees of version 1 for anybody but root, there is none.
pub(super) fn put(group: &Group, new: &Group, container: &Path) -> Result<()> {
    let container = container.as_os_str().as_bytes();
    for (at, directory) in group.directories.iter().enumerate() {
        if at > 0 && new.directories.contains(directory) {
            continue;
        }
        let path = checked(directory)?;
        let put = |name| lsetxattr(path, name, container, XattrFlags::empty());
        if let Err(errno) = put(TRUSTED).or_else(|_| put(USER)) {
            log::debug(|| format!("cgroup {path:?}: bears no mark: {}", words(errno)));
        }
    }
    Ok(())
}

/// The same for a group that somebody else has made for the container.
pub fn mark(group: &Group, container: &Path) -> Result<()> {
    put(group, &Group::default(), container)
}

/// The mark that holds for a directory of the group.
fn of(group: &Group, directory: &Directory) -> Result<Option<Mark>> {
    let first = group.directories.first();
    for place in [Some(directory), first].into_iter().flatten() {
        for (name, is_trusted) in [(TRUSTED, true), (USER, false)] {
            if let Some(container) = get(checked(place)?, name) {
                return Ok(Some(Mark { container, is_trusted }));
            }
        }
    }
    Ok(None)
}

fn get(path: &Path, name: &CStr) -> Option<Vec<u8>> {
    /// PATH_MAX of linux/limits.h.
    const LONGEST: usize = 4096;
    let mut mark = vec![0; LONGEST];
    let length = lgetxattr(path, name, &mut mark[..]).ok()?;
    mark.truncate(length);
    Some(mark)
}

/// Those directories of the group that bear the mark of this container.
pub fn marked(group: &Group, container: &Path) -> Result<Group> {
    let own = container.as_os_str().as_bytes();
    filter(group, |directory| Ok(of(group, directory)?.is_some_and(|mark| mark.container == own)))
}

/// Those directories of a group that nobody has taken since it was the group of this
/// container. That somebody has may be a lie of the container's own, which is an error.
pub fn kept(group: &Group, container: &Path) -> Result<Group> {
    let own = container.as_os_str().as_bytes();
    filter(group, |directory| match of(group, directory)? {
        None => Ok(true),
        Some(mark) if mark.container == own => Ok(true),
        Some(mark) if mark.is_trusted => Ok(false),
        Some(mark) => {
            let other = mark.container.escape_ascii();
            bail!("{:?} says that it is the group of \"{other}\" by now", directory.path)
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
