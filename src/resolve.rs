//! Paths inside a container, looked up in a way that cannot leave it.
//!
//! The rootfs is hostile, and so may be a process that changes it at this very
//! moment. Every look-up starts at a descriptor of the root, is confined to it
//! by the kernel (openat2(2), RESOLVE_IN_ROOT) and ends in a descriptor: no
//! path is looked up twice.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Error, Result, bail};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, mkdirat, open, openat, openat2, readlinkat,
    statat,
};
use rustix::io::Errno;

/// What is only a name for the calls that follow.
const HANDLE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
/// The same of a directory.
const DIRECTORY: OFlags = HANDLE.union(OFlags::DIRECTORY);
/// A file that nobody has made yet.
const NEW_FILE: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// How often a look-up is tried again while somebody renames directories.
const ATTEMPTS: usize = 128;
/// As many symbolic links as the kernel follows in one look-up.
const LINKS: usize = 40;

/// Opens `path` below `root` as a handle (O_PATH).
pub fn handle(root: impl AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    in_root(root, path, HANDLE, ResolveFlags::empty())
}

/// Opens `path` below `root` as a handle, refusing symbolic links on the way:
/// ELOOP. For places that only a real directory may be.
pub fn handle_without_links(root: impl AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    in_root(root, path, DIRECTORY, ResolveFlags::NO_SYMLINKS)
}

/// Opens `path` below `root` with `flags`.
pub fn in_root(
    root: impl AsFd,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    let resolve = resolve | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 1..ATTEMPTS {
        match openat2(&root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
    openat2(&root, path, flags, Mode::empty(), resolve)
}

/// What is to be there at the end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A directory.
    Directory,
    /// Anything but a directory; an empty file is made where nothing is.
    File,
}

/// Opens `path` below `root` as a handle, making what is missing of it.
pub fn make(root: impl AsFd, path: &Path, target: Target) -> Result<OwnedFd> {
    let flags = match target {
        Target::Directory => DIRECTORY,
        Target::File => HANDLE,
    };
    match in_root(&root, path, flags, ResolveFlags::empty()) {
        Err(Errno::NOENT) => make_missing(root, path, target),
        Err(errno) => Err(explain(&root, path, errno)),
        Ok(found) => Ok(found),
    }
}

/// The same where nothing was there just now.
pub fn make_missing(root: impl AsFd, path: &Path, target: Target) -> Result<OwnedFd> {
    if target == Target::Directory
        && let Ok(made) = make_last(&root, path)
    {
        return Ok(made);
    }
    Walk::new(root.as_fd())?.make(path, target)
}

/// The error of a look-up of `path`, with the element that is a file where a directory has to be.
pub fn explain(root: impl AsFd, path: &Path, errno: Errno) -> Error {
    let is_file = |part: &Path| {
        in_root(&root, part, DIRECTORY, ResolveFlags::empty())
            .is_err_and(|error| error == Errno::NOTDIR)
    };
    let ancestors: Vec<_> = path.ancestors().filter(|part| !part.as_os_str().is_empty()).collect();
    let error = Error::new(errno);
    let error = match ancestors.into_iter().rev().find(|part| is_file(part)) {
        Some(file) if errno == Errno::NOTDIR && file == path => error.context("is a file"),
        Some(file) if errno == Errno::NOTDIR => error.context(format!("{file:?} is a file")),
        _ => error,
    };
    error.context(format!("{path:?}"))
}

/// The common case of `make`: one directory is missing, at the end.
fn make_last(root: impl AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::INVAL);
    };
    let parent = handle(root, parent)?;
    mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
    openat(&parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
}

/// The directories in which files are made, one after the other: most of them are
/// in /dev, which is opened once.
#[derive(Debug)]
pub struct Parents<'root> {
    root: BorrowedFd<'root>,
    last: Option<(PathBuf, OwnedFd)>,
}

impl<'root> Parents<'root> {
    /// Directories below `root`.
    pub fn new(root: BorrowedFd<'root>) -> Self {
        Self { root, last: None }
    }

    /// Opens the directory that `path` is or will be in, made where it is missing, and
    /// gives it with the last name of `path`.
    pub fn of<'p>(&mut self, path: &'p Path) -> Result<(BorrowedFd<'_>, &'p OsStr)> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            bail!("{path:?}: not a path of a file");
        };
        let last = match self.last.take().filter(|(last, _)| last == parent) {
            Some(last) => last,
            None => (parent.to_owned(), make(self.root, parent, Target::Directory)?),
        };
        let last: &(PathBuf, OwnedFd) = self.last.insert(last);
        Ok((last.1.as_fd(), name))
    }
}

/// A walk from the root, one component at a time, that follows links by itself
/// so that it can make what they point to.
struct Walk<'root> {
    root: BorrowedFd<'root>,
    /// The directories from the root to here.
    here: Vec<OwnedFd>,
}

impl<'root> Walk<'root> {
    fn new(root: BorrowedFd<'root>) -> Result<Self> {
        Ok(Self { root, here: Vec::new() })
    }

    fn current(&self) -> BorrowedFd<'_> {
        self.here.last().map_or(self.root, AsFd::as_fd)
    }

    fn make(mut self, path: &Path, target: Target) -> Result<OwnedFd> {
        let mut links = 0;
        let mut rest: VecDeque<OsString> = parts(path).collect();
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                self.here.pop();
                continue;
            }
            let last = rest.is_empty();
            match self.step(&name, last, target).with_context(|| format!("{path:?}: {name:?}"))? {
                Step::Into(directory) => self.here.push(directory),
                Step::Link(text) => {
                    links += 1;
                    if links > LINKS {
                        bail!("{path:?}: too many levels of symbolic links");
                    }
                    if text.is_absolute() {
                        self.here.clear();
                    }
                    for part in parts(&text).collect::<Vec<_>>().into_iter().rev() {
                        rest.push_front(part);
                    }
                }
            }
        }
        match self.here.pop() {
            Some(found) => Ok(found),
            None => Ok(openat(self.root, ".", HANDLE, Mode::empty())?),
        }
    }

    fn step(&self, name: &OsStr, last: bool, target: Target) -> Result<Step> {
        let here = self.current();
        for _ in 0..ATTEMPTS {
            match openat(here, name, HANDLE | OFlags::NOFOLLOW, Mode::empty()) {
                Ok(found) => {
                    let stat = statat(&found, "", AtFlags::EMPTY_PATH)?;
                    return match FileType::from_raw_mode(stat.st_mode) {
                        FileType::Symlink => {
                            let text = readlinkat(&found, "", Vec::new())?;
                            Ok(Step::Link(OsString::from_vec(text.into_bytes()).into()))
                        }
                        FileType::Directory => Ok(Step::Into(found)),
                        _ if last && target == Target::File => Ok(Step::Into(found)),
                        _ => Err(Errno::NOTDIR.into()),
                    };
                }
                Err(Errno::NOENT) if last && target == Target::File => {
                    match openat(here, name, NEW_FILE, Mode::from_raw_mode(0o644)) {
                        Ok(_) | Err(Errno::EXIST) => {}
                        Err(errno) => return Err(errno.into()),
                    }
                }
                Err(Errno::NOENT) => match mkdirat(here, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno.into()),
                },
                Err(errno) => return Err(errno.into()),
            }
        }
        bail!("somebody keeps removing it");
    }
}

enum Step {
    Into(OwnedFd),
    Link(PathBuf),
}

/// The names in a path, `..` among them.
fn parts(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    })
}

/// Opens a directory of the host, as the root of look-ups.
pub fn root(path: &Path) -> rustix::io::Result<OwnedFd> {
    open(path, DIRECTORY, Mode::empty())
}

/// The path of a directory of the host from the root, without links. As realpath(3),
/// but asked of the kernel at once.
pub fn real_path(path: &Path) -> rustix::io::Result<PathBuf> {
    use std::os::fd::AsRawFd as _;
    let directory = root(path)?;
    let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
    Ok(OsString::from_vec(readlinkat(CWD, link, Vec::new())?.into_bytes()).into())
}

/// Opens a path of the host as a handle.
pub fn host(path: &Path) -> rustix::io::Result<OwnedFd> {
    openat(CWD, path, HANDLE, Mode::empty())
}

/// The path of what a handle is on, for calls that take no handle.
pub fn own_path(handle: &impl AsFd) -> String {
    use std::os::fd::AsRawFd as _;
    format!("/proc/self/fd/{}", handle.as_fd().as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("ferrun-resolve-{}-{name}", std::process::id()));
            std::fs::create_dir_all(path.join("root/dir")).unwrap();
            std::fs::create_dir_all(path.join("outside")).unwrap();
            Self(path)
        }

        fn root(&self) -> OwnedFd {
            super::root(&self.0.join("root")).unwrap()
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn missing_directories_are_made_inside_whatever_the_links_say() {
        let tree = Tree::new("links");
        let root = tree.0.join("root");
        symlink("/made/by/link", root.join("absolute")).unwrap();
        symlink("../../../outside", root.join("dir/up")).unwrap();
        symlink(tree.0.join("outside"), root.join("host")).unwrap();
        for (path, real) in [
            ("/a/b/c", "a/b/c"),
            ("/absolute/x", "made/by/link/x"),
            ("/dir/up/y", "outside/y"),
            ("/../../z", "z"),
        ] {
            make(tree.root(), Path::new(path), Target::Directory).unwrap();
            assert!(root.join(real).is_dir(), "{path}");
        }
        make(tree.root(), Path::new("/host/w"), Target::File).unwrap();
        assert_eq!(std::fs::read_dir(tree.0.join("outside")).unwrap().count(), 0);
        assert!(root.join(tree.0.strip_prefix("/").unwrap()).join("outside/w").is_file());
    }

    #[test]
    fn a_loop_of_links_and_a_file_in_the_way_are_errors() {
        let tree = Tree::new("loop");
        let root = tree.0.join("root");
        symlink("b", root.join("a")).unwrap();
        symlink("a", root.join("b")).unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        assert!(make(tree.root(), Path::new("/a/x"), Target::Directory).is_err());
        assert!(make(tree.root(), Path::new("/file/x"), Target::Directory).is_err());
        for file in ["/file", "/missing/../file"] {
            assert!(make(tree.root(), Path::new(file), Target::Directory).is_err(), "{file}");
        }
    }

    #[test]
    fn a_real_directory_can_be_demanded() {
        let tree = Tree::new("real");
        symlink("dir", tree.0.join("root/proc")).unwrap();
        assert!(handle_without_links(tree.root(), Path::new("/dir")).is_ok());
        assert_eq!(handle_without_links(tree.root(), Path::new("/proc")).unwrap_err(), Errno::LOOP);
    }

    #[test]
    fn what_is_there_is_opened_and_what_is_not_is_made_as_what_it_is_to_be() {
        let tree = Tree::new("kinds");
        let root = tree.0.join("root");
        std::fs::write(root.join("file"), "kept").unwrap();
        let kind =
            |found: &OwnedFd| FileType::from_raw_mode(rustix::fs::fstat(found).unwrap().st_mode);
        for path in ["/dir", "/", "/new", "/a/b/.."] {
            let made = make(tree.root(), Path::new(path), Target::Directory).unwrap();
            assert_eq!(kind(&made), FileType::Directory, "{path}");
        }
        for path in ["/file", "/other", "/x/y/file"] {
            let made = make(tree.root(), Path::new(path), Target::File).unwrap();
            assert_eq!(kind(&made), FileType::RegularFile, "{path}");
        }
        assert_eq!(std::fs::read_to_string(root.join("file")).unwrap(), "kept");
        assert!(root.join("x/y").is_dir() && root.join("a/b").is_dir());
    }

    #[test]
    fn as_many_links_are_followed_as_the_kernel_follows() {
        let tree = Tree::new("many");
        let root = tree.0.join("root");
        for at in 0..=LINKS {
            symlink(format!("l{}", at + 1), root.join(format!("l{at}"))).unwrap();
        }
        make(tree.root(), Path::new("/l1/x"), Target::Directory).unwrap();
        let last = root.join(format!("l{}", LINKS + 1));
        assert!(last.join("x").is_dir());
        std::fs::remove_dir_all(last).unwrap();
        // The kernel comes no further than to what is missing.
        let path = Path::new("/missing/../l0/x");
        let error = crate::error::message(&make(tree.root(), path, Target::Directory).unwrap_err());
        assert_eq!(error, r#""/missing/../l0/x": too many levels of symbolic links"#);
    }

    #[test]
    fn an_error_names_the_file_that_is_in_the_way() {
        let tree = Tree::new("names");
        std::fs::write(tree.0.join("root/file"), "").unwrap();
        let explained = |path: &str, errno| {
            crate::error::message(&explain(tree.root(), Path::new(path), errno))
        };
        let not_a_directory = "Not a directory";
        for (path, expected) in [
            ("/file", format!(r#""/file": is a file: {not_a_directory}"#)),
            ("/file/x/y", format!(r#""/file/x/y": "/file" is a file: {not_a_directory}"#)),
            ("/dir/x", format!(r#""/dir/x": {not_a_directory}"#)),
        ] {
            let found = explained(path, Errno::NOTDIR);
            assert!(found.starts_with(&expected), "{found}");
        }
        for path in ["/file", "/file/x"] {
            let found = explained(path, Errno::ACCESS);
            assert!(found.starts_with(&format!("{path:?}: Permission denied")), "{found}");
        }
    }

    #[test]
    fn no_look_up_leaves_the_root_by_a_link_of_the_kernels_or_of_the_images() {
        let tree = Tree::new("leaves");
        let root = tree.0.join("root");
        symlink("/", root.join("top")).unwrap();
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap());
        let top = handle(tree.root(), Path::new("/top")).unwrap();
        assert_eq!(rustix::fs::fstat(&top).unwrap().st_ino, inode(&root));
        // A link of procfs leads anywhere.
        let proc = super::root(Path::new("/proc/self")).unwrap();
        assert_eq!(handle(&proc, Path::new("cwd")).unwrap_err(), Errno::LOOP);
        assert!(handle_without_links(tree.root(), Path::new("/dir")).is_ok());
        std::fs::write(root.join("file"), "").unwrap();
        let error = handle_without_links(tree.root(), Path::new("/file")).unwrap_err();
        assert_eq!(error, Errno::NOTDIR);
    }

    #[test]
    fn no_program_inherits_what_was_looked_up() {
        let tree = Tree::new("inherited");
        symlink("made", tree.0.join("root/link")).unwrap();
        let made = |path: &str, target| make(tree.root(), Path::new(path), target).unwrap();
        for (name, found) in [
            ("root", tree.root()),
            ("host", host(&tree.0).unwrap()),
            ("handle", handle(tree.root(), Path::new("/dir")).unwrap()),
            ("real", handle_without_links(tree.root(), Path::new("/dir")).unwrap()),
            ("there", made("/dir", Target::Directory)),
            ("last", made("/new", Target::Directory)),
            ("walk", made("/link/x", Target::Directory)),
            ("top", made("/missing/../..", Target::Directory)),
            ("file", made("/file", Target::File)),
        ] {
            let flags = rustix::io::fcntl_getfd(&found).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "{name}");
            // A handle: nothing is read by it, and opening it has done nothing.
            let flags = rustix::fs::fcntl_getfl(&found).unwrap();
            assert!(flags.contains(OFlags::PATH), "{name}");
        }
    }

    #[test]
    fn the_parent_of_files_is_opened_again_where_it_is_another_one() {
        let tree = Tree::new("parents");
        let root = tree.root();
        let mut parents = Parents::new(root.as_fd());
        for (path, name) in [("/dev/null", "null"), ("/dev/zero", "zero"), ("/etc/x", "x")] {
            let (parent, last) = parents.of(Path::new(path)).unwrap();
            assert_eq!(last, name);
            mkdirat(parent, last, Mode::from_raw_mode(0o755)).unwrap();
            assert!(tree.0.join("root").join(&path[1..]).is_dir(), "{path}");
        }
        let error = parents.of(Path::new("/")).unwrap_err().to_string();
        assert_eq!(error, r#""/": not a path of a file"#);
    }

    #[test]
    fn places_of_the_host_are_directories_by_their_real_names() {
        let tree = Tree::new("host");
        symlink("root/dir", tree.0.join("link")).unwrap();
        let real = tree.0.join("root/dir");
        assert_eq!(real_path(&tree.0.join("link")).unwrap(), real.canonicalize().unwrap());
        std::fs::write(tree.0.join("file"), "").unwrap();
        assert_eq!(super::root(&tree.0.join("file")).unwrap_err(), Errno::NOTDIR);
        let file = host(&tree.0.join("file")).unwrap();
        let found = std::fs::read_link(own_path(&file)).unwrap();
        assert_eq!(found, tree.0.join("file").canonicalize().unwrap());
    }
}
