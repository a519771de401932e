//! Removal of directory trees that somebody else has shaped.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, Mode, OFlags, RenameFlags, chmodat, openat, renameat_with, unlinkat,
};
use rustix::io::{Errno, Result};

/// How deep a tree is entered. What lies deeper is first moved to the top, so
/// that no image can exhaust our descriptors.
const DEPTH: usize = 64;

struct Level {
    name: CString,
    entries: Dir,
    directory: OwnedFd,
}

/// Removes all that is in a directory.
pub fn clear(directory: &OwnedFd) -> Result<()> {
    let names: Vec<CString> = Dir::read_from(directory)?
        .map(|entry| entry.map(|entry| entry.file_name().to_owned()))
        .collect::<Result<_>>()?;
    let mut names = names.iter().filter(|name| !matches!(name.to_bytes(), b"." | b".."));
    names.try_for_each(|name| remove(directory, name))
}

/// Removes `name` in `parent`, whatever it is; no error if there is nothing.
/// Symbolic links are removed, never followed.
pub fn remove(parent: impl AsFd, name: &CStr) -> Result<()> {
    let parent = parent.as_fd();
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // Linux says so for a directory; POSIX, and some file systems, EPERM.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    let mut levels = vec![enter(parent, name)?];
    let mut moved: u64 = 0;
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.entries.read() else {
            let above = levels.iter().rev().nth(1).map_or(parent, |level| level.directory.as_fd());
            let Some(done) = levels.last() else { break };
            match unlinkat(above, &*done.name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => drop(levels.pop()),
                // Something was moved here, or came in behind the reader.
                Err(Errno::NOTEMPTY | Errno::EXIST) => {
                    if let Some(level) = levels.last_mut() {
                        level.entries.rewind();
                    }
                }
                Err(error) => return Err(error),
            }
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        match unlinkat(&level.directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error),
        }
        if levels.len() < DEPTH {
            let below =
                levels.last().map(|level| enter(level.directory.as_fd(), name)).transpose()?;
            levels.extend(below);
        } else if let (Some(top), Some(bottom)) = (levels.first(), levels.last()) {
            move_up(&bottom.directory, name, &top.directory, &mut moved)?;
        }
    }
    Ok(())
}

/// Moves `name` to a name in `top` that is free; the tree may hold any names.
fn move_up(from: &OwnedFd, name: &CStr, top: &OwnedFd, moved: &mut u64) -> Result<()> {
    loop {
        *moved += 1;
        let free = format!(".removed-{moved}");
        match renameat_with(from, name, top, free, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            result => return result,
        }
    }
}

/// Opens a directory, also one that is closed to its owner.
fn enter(parent: impl AsFd, name: &CStr) -> Result<Level> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match openat(&parent, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            chmodat(&parent, name, Mode::RWXU, AtFlags::empty())?;
            openat(&parent, name, flags, Mode::empty())?
        }
        result => result?,
    };
    Ok(Level { name: name.to_owned(), entries: Dir::read_from(&directory)?, directory })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    fn scratch(name: &str) -> (PathBuf, OwnedFd) {
        let path =
            std::env::temp_dir().join(format!("image-tool-tree-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let directory = fs::File::open(&path).unwrap().into();
        (path, directory)
    }

    #[test]
    fn a_tree_goes_with_all_in_it_and_nothing_that_its_links_point_to() {
        let (path, directory) = scratch("links");
        fs::create_dir_all(path.join("tree/a/b")).unwrap();
        fs::create_dir(path.join("kept")).unwrap();
        fs::write(path.join("kept/file"), "x").unwrap();
        fs::write(path.join("tree/a/file"), "x").unwrap();
        symlink("../../kept", path.join("tree/a/link")).unwrap();
        symlink("kept", path.join("top")).unwrap();
        for name in [c"tree", c"top", c"absent"] {
            remove(&directory, name).unwrap();
        }
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
        assert!(path.join("kept/file").exists());
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_tree_deeper_than_our_descriptors_reach_goes_too() {
        let (path, directory) = scratch("deep");
        rustix::fs::mkdirat(&directory, "d", Mode::RWXU).unwrap();
        fs::create_dir_all(path.join("d/.removed-1/x")).unwrap();
        let mut deepest = openat(&directory, ".", OFlags::RDONLY, Mode::empty()).unwrap();
        for _ in 0..3000 {
            let _ = rustix::fs::mkdirat(&deepest, "d", Mode::RWXU);
            deepest =
                openat(&deepest, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        remove(&directory, c"d").unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        fs::remove_dir_all(path).unwrap();
    }
}
