//! Walking the groups below one. A container that may write to its tree can
//! nest groups deeper than a path may be long or descriptors may be open, so the
//! walk holds one directory and goes by single names, back up by `..`.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, fstat, openat};
use rustix::io::{Errno, Result};

/// Opens `path` and all directories below it, parents first, and calls `enter`
/// for each; calls `leave` with the parent and the name of each once all below
/// it is done, except for `path` itself.
///
/// What is gone, or goes meanwhile, is no error.
pub(super) fn walk(
    path: &Path,
    mut enter: impl FnMut(BorrowedFd<'_>) -> Result<()>,
    mut leave: impl FnMut(BorrowedFd<'_>, &CStr) -> Result<()>,
) -> Result<()> {
    let Some(mut here) = present(directory(CWD, path))? else { return Ok(()) };
    enter(here.as_fd())?;
    // The way down: each name with what is still to be done at its level.
    let mut way: Vec<CString> = Vec::new();
    let mut pending = vec![children(here.as_fd())?];
    while let Some(level) = pending.last_mut() {
        if let Some(name) = level.pop() {
            let Some(child) = present(directory(here.as_fd(), name.as_c_str()))? else { continue };
            enter(child.as_fd())?;
            pending.push(children(child.as_fd())?);
            way.push(name);
            here = child;
        } else {
            pending.pop();
            let Some(name) = way.pop() else { return Ok(()) };
            let Some(parent) = present(directory(here.as_fd(), ".."))? else { return Ok(()) };
            here = parent;
            leave(here.as_fd(), &name)?;
        }
    }
    Ok(())
}

fn directory(parent: BorrowedFd<'_>, name: impl rustix::path::Arg) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// A directory without any has two links, which saves reading it.
fn children(here: BorrowedFd<'_>) -> Result<Vec<CString>> {
    let Some(stat) = present(fstat(here))? else { return Ok(Vec::new()) };
    if stat.st_nlink == 2 {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in Dir::read_from(here)? {
        let Some(entry) = present(entry)? else { break };
        let name = entry.file_name();
        if entry.file_type() == FileType::Directory && name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// What is gone is none rather than an error. A file of a group that goes while
/// it is open says ENODEV.
fn present<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT | Errno::NODEV) => Ok(None),
        Err(error) => Err(error),
    }
}
