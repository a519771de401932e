//! The root file system while layers are applied to it (image-spec, layer.md).
//!
//! Every path of a layer is hostile. A path is cleaned as text, its directory is
//! opened by the kernel with the rootfs as the root of all look-ups
//! (RESOLVE_IN_ROOT), and what is made in that directory is made by name, newly,
//! and never through a link. So nothing outside can be reached, whatever links
//! earlier entries or layers have left.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashSet};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::hash::BuildHasher;
use std::io::{BufRead, Read, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
    chownat, fchmod, fchown, fsetxattr, futimens, linkat, makedev, mkdirat, mknodat, openat2,
    readlinkat, symlinkat, utimensat,
};
use rustix::io::Errno;

use crate::archive::{Archive, Entry, Kind};
use crate::limits;
use crate::tree;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Notes of the AUFS storage driver, which mean nothing in a layer.
const WHITEOUT_META: &[u8] = b".wh..wh.";
/// Links followed by hand on the way to a directory that is missing; the kernel's own limit.
const LINKS: usize = 40;
/// How often a look-up is tried again when something moved meanwhile.
const RACES: usize = 16;

/// Kinds of omitted things that are told apart: an image may invent names without end.
const OMITTED_KINDS: usize = 16;

/// What a directory gets at the end, when nothing in it changes any more.
#[derive(Debug, Clone, Copy)]
struct Late {
    mode: u32,
    times: (i64, u32),
}

/// A root file system under construction.
pub struct Rootfs {
    root: OwnedFd,
    owner: (u32, u32),
    privileged: bool,
    late: BTreeMap<PathBuf, Late>,
    /// The directory of the last entry: most entries stand beside their predecessor.
    parent: Option<(PathBuf, Rc<OwnedFd>)>,
    layer: Touched,
    late_bytes: usize,
    entries: u64,
    allowance: u64,
    omitted: Omitted,
}

/// What the layer at hand has made so far. Its whiteouts hide what is below it,
/// not what it brings itself.
#[derive(Default)]
struct Touched {
    /// There is nothing below the first layer, so nothing to remember for it.
    lowest: bool,
    paths: HashSet<u64>,
    hasher: RandomState,
}

impl Touched {
    fn insert(&mut self, path: &Path) -> Result<()> {
        if self.lowest {
            return Ok(());
        }
        for path in path.ancestors() {
            if !self.paths.insert(self.hasher.hash_one(path)) {
                break;
            }
        }
        let limit = limits::TOUCHED_PATHS;
        ensure!(self.paths.len() <= limit, "the layer touches more than {limit} paths");
        Ok(())
    }

    fn contains(&self, path: &Path) -> bool {
        self.paths.contains(&self.hasher.hash_one(path))
    }
}

/// What was left out, each with its number and its first place.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Omitted {
    counts: BTreeMap<String, (u64, PathBuf)>,
}

impl Omitted {
    fn note(&mut self, what: String, path: &Path) {
        let known = self.counts.contains_key(&what) || self.counts.len() < OMITTED_KINDS;
        let what = if known { what } else { "others".to_owned() };
        self.counts.entry(what).or_insert_with(|| (0, path.to_owned())).0 += 1;
    }

    /// One line for each kind.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.counts.iter().map(|(what, (count, path))| {
            format!("{what}: left out {count} times, first at {path:?}")
        })
    }
}

impl Rootfs {
    /// An empty root file system in the directory `root`, with room for
    /// `allowance` bytes of unpacked layers.
    pub fn new(root: OwnedFd, allowance: u64) -> Result<Self> {
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        // A set-gid directory around the bundle would hand its group down to all files.
        fchown(&root, None, Some(Gid::from_raw(owner.1))).context("chown of the rootfs")?;
        fchmod(&root, Mode::from_raw_mode(0o755)).context("chmod of the rootfs")?;
        Ok(Self {
            root,
            owner,
            privileged: owner.0 == 0,
            late: BTreeMap::new(),
            parent: None,
            layer: Touched { lowest: true, ..Touched::default() },
            late_bytes: 0,
            entries: 0,
            allowance,
            omitted: Omitted::default(),
        })
    }

    /// Applies a layer; returns its reader, read up to the end of the archive.
    pub fn apply<R: BufRead>(&mut self, layer: R) -> Result<R> {
        let mut archive = Archive::new(layer, self.allowance);
        while let Some(entry) = archive.next_entry()? {
            self.count()?;
            self.apply_entry(&entry, &mut archive)
                .with_context(|| entry.path.escape_ascii().to_string())?;
        }
        self.layer = Touched::default();
        let (reader, allowance) = archive.into_inner();
        self.allowance = allowance;
        Ok(reader)
    }

    fn count(&mut self) -> Result<()> {
        self.entries += 1;
        let limit = limits::ENTRIES;
        ensure!(self.entries <= limit, "the image makes more than {limit} files and directories");
        Ok(())
    }

    /// The bytes of layers that may still come.
    pub fn allowance(&self) -> u64 {
        self.allowance
    }

    /// Counts bytes of a layer that were read past its archive.
    pub fn spend(&mut self, bytes: u64) {
        self.allowance = self.allowance.saturating_sub(bytes);
    }

    /// Gives the directories their modes and times; returns what was left out.
    pub fn finish(self) -> Result<Omitted> {
        // From the bottom up: a mode may close a directory to us.
        for (path, late) in self.late.iter().rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let directory = match open_in(&self.root, path, flags) {
                Ok(directory) => directory,
                // A later layer has put something else there.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(error) => return Err(error).with_context(|| format!("open {path:?}")),
            };
            fchmod(&directory, Mode::from_raw_mode(late.mode))
                .with_context(|| format!("chmod {path:?}"))?;
            futimens(&directory, &timestamps(late.times))
                .with_context(|| format!("utimens {path:?}"))?;
        }
        Ok(self.omitted)
    }

    /// A file of the rootfs, read as a whole by name as the container would see it.
    ///
    /// # Errors
    /// It is not a regular file, or it is longer than `limit` bytes.
    pub fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        let file =
            match open_in(&self.root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
                Ok(file) => File::from(file),
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
                Err(error) => return Err(error).with_context(|| format!("{path:?} of the image")),
            };
        ensure!(file.metadata()?.is_file(), "{path:?} of the image: not a regular file");
        let mut bytes = Vec::new();
        file.take(limit + 1)
            .read_to_end(&mut bytes)
            .with_context(|| format!("{path:?} of the image"))?;
        ensure!(bytes.len() as u64 <= limit, "{path:?} of the image: longer than {limit} bytes");
        Ok(Some(bytes))
    }

    fn apply_entry<R: BufRead>(&mut self, entry: &Entry, archive: &mut Archive<R>) -> Result<()> {
        let path = clean(&entry.path)?;
        let Some((parent_path, name)) = path.parent().zip(path.file_name()) else {
            ensure!(entry.kind == Kind::Directory, "the root of the image is not a directory");
            return self.set_directory(&path, &self.root.try_clone()?, entry);
        };
        let name = name.as_bytes();
        if name.starts_with(WHITEOUT) {
            return self.apply_whiteout(parent_path, name);
        }
        let parent = self.parent(parent_path)?;
        self.layer.insert(&path)?;
        let name = CString::new(name).context("a name with a NUL byte")?;
        let place = Place { parent: &parent, name: &name, path: &path };
        match &entry.kind {
            Kind::Directory => self.make_directory(&place, entry),
            Kind::Regular => self.make_file(&place, entry, archive),
            Kind::HardLink(target) => {
                let (target_parent, target_name) = self.link_target(target)?;
                self.make(&place, || {
                    linkat(&target_parent, &target_name, &parent, &name, AtFlags::empty())
                })
                .with_context(|| format!("hard link to {}", target.escape_ascii()))
            }
            Kind::Symlink(target) => {
                self.make(&place, || symlinkat(target.as_slice(), &parent, &name))
                    .context("symlink")?;
                self.set_attributes(&place, entry)
            }
            Kind::Fifo => self.make_node(&place, entry, FileType::Fifo, 0),
            Kind::Character(..) | Kind::Block(..) if !self.privileged => {
                self.omitted.note("device (only root can make one)".to_owned(), &path);
                self.remove(&place)
            }
            Kind::Character(major, minor) => {
                self.make_node(&place, entry, FileType::CharacterDevice, makedev(*major, *minor))
            }
            Kind::Block(major, minor) => {
                self.make_node(&place, entry, FileType::BlockDevice, makedev(*major, *minor))
            }
        }
    }

    /// Makes something newly, after what is in its place has been removed.
    fn make<T>(
        &mut self,
        place: &Place<'_>,
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T> {
        match make() {
            // Mostly nothing is there, so looking first would be a call wasted.
            Err(Errno::EXIST) => {
                self.remove(place)?;
                Ok(make()?)
            }
            result => Ok(result?),
        }
    }

    fn remove(&mut self, place: &Place<'_>) -> Result<()> {
        tree::remove(place.parent, place.name).context("remove what is in its place")?;
        self.forget(place.path);
        Ok(())
    }

    /// Drops what is remembered of a path that was removed.
    fn forget(&mut self, path: &Path) {
        self.parent = None;
        // Paths are ordered by component, so all that is below a path follows it.
        let below = self.late.range(path.to_owned()..).map(|(path, _)| path.clone());
        let below: Vec<PathBuf> = below.take_while(|below| below.starts_with(path)).collect();
        for path in below {
            self.late.remove(&path);
        }
    }

    fn make_directory(&mut self, place: &Place<'_>, entry: &Entry) -> Result<()> {
        let usable = Mode::from_raw_mode(entry.mode & 0o777 | 0o700);
        match mkdirat(place.parent, place.name, usable) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(place.parent, place.name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    self.remove(place)?;
                    mkdirat(place.parent, place.name, usable).context("mkdir")?;
                }
            }
            Err(error) => return Err(error).context("mkdir"),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory =
            rustix::fs::openat(place.parent, place.name, flags, Mode::empty()).context("open")?;
        self.set_directory(place.path, &directory, entry)
    }

    fn set_directory(&mut self, path: &Path, directory: &OwnedFd, entry: &Entry) -> Result<()> {
        if self.privileged {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            fchown(directory, Some(uid), Some(gid)).context("chown")?;
        }
        self.set_xattrs(path, directory, entry)?;
        self.late_bytes += path.as_os_str().len();
        let limit = limits::DIRECTORY_BYTES;
        ensure!(self.late_bytes <= limit, "the directories have more than {limit} bytes of names");
        self.late.insert(path.to_owned(), Late { mode: entry.mode, times: entry.modified });
        Ok(())
    }

    fn make_file<R: BufRead>(
        &mut self,
        place: &Place<'_>,
        entry: &Entry,
        archive: &mut Archive<R>,
    ) -> Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let file = self
            .make(place, || rustix::fs::openat(place.parent, place.name, flags, mode))
            .context("create")?;
        let mut file = File::from(file);
        archive.content(|piece| file.write_all(piece))?;
        if self.privileged && (entry.uid, entry.gid) != self.owner {
            fchown(&file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
                .context("chown")?;
        }
        // Writing and chown both take set-id bits and capabilities away: they come last.
        if entry.mode & 0o7000 != 0 {
            fchmod(&file, Mode::from_raw_mode(entry.mode)).context("chmod")?;
        }
        self.set_xattrs(place.path, &file, entry)?;
        futimens(&file, &timestamps(entry.modified)).context("utimens")
    }

    fn make_node(
        &mut self,
        place: &Place<'_>,
        entry: &Entry,
        kind: FileType,
        device: u64,
    ) -> Result<()> {
        let mode = Mode::from_raw_mode(entry.mode);
        self.make(place, || mknodat(place.parent, place.name, kind, mode, device))
            .context("mknod")?;
        self.set_attributes(place, entry)
    }

    /// Owner and times of what can't be opened: links, devices, pipes.
    fn set_attributes(&mut self, place: &Place<'_>, entry: &Entry) -> Result<()> {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        if self.privileged && (entry.uid, entry.gid) != self.owner {
            chownat(place.parent, place.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .context("chown")?;
        }
        for (name, _) in &entry.xattrs {
            self.omitted
                .note(format!("xattr {} of a link or device", name.escape_ascii()), place.path);
        }
        utimensat(place.parent, place.name, &timestamps(entry.modified), AtFlags::SYMLINK_NOFOLLOW)
            .context("utimens")
    }

    fn set_xattrs(
        &mut self,
        path: &Path,
        file: impl std::os::fd::AsFd,
        entry: &Entry,
    ) -> Result<()> {
        for (name, value) in &entry.xattrs {
            // All others belong to the machine that built the layer: labels, overlay's notes.
            let wanted =
                name.starts_with(b"user.") || (self.privileged && name == b"security.capability");
            if !wanted {
                self.omitted.note(format!("xattr {}", name.escape_ascii()), path);
                continue;
            }
            match fsetxattr(&file, name.as_slice(), value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::NOTSUP) => self
                    .omitted
                    .note(format!("xattr {} (not supported here)", name.escape_ascii()), path),
                Err(error) => {
                    return Err(error).with_context(|| format!("xattr {}", name.escape_ascii()));
                }
            }
        }
        Ok(())
    }

    fn link_target(&mut self, target: &[u8]) -> Result<(Rc<OwnedFd>, CString)> {
        let shown = || format!("hard link to {}", target.escape_ascii());
        ensure!(!climbs_out(target), "{}: it points outside the image", shown());
        let path = clean(target).with_context(shown)?;
        let Some((parent, name)) = path.parent().zip(path.file_name()) else {
            bail!("{}: it is the root", shown())
        };
        let directory =
            open_in(&self.root, parent, OFlags::PATH | OFlags::DIRECTORY).with_context(shown)?;
        Ok((Rc::new(directory), CString::new(name.as_bytes()).with_context(shown)?))
    }

    /// The directory `path`, made where it is missing.
    fn parent(&mut self, path: &Path) -> Result<Rc<OwnedFd>> {
        if let Some((last, directory)) = &self.parent
            && last == path
        {
            return Ok(Rc::clone(directory));
        }
        let directory =
            Rc::new(match open_in(&self.root, path, OFlags::PATH | OFlags::DIRECTORY) {
                Err(Errno::NOENT) => self.make_missing(path, LINKS)?,
                result => result.with_context(|| format!("directory {path:?}"))?,
            });
        self.parent = Some((path.to_owned(), Rc::clone(&directory)));
        Ok(directory)
    }

    /// Makes `path` and what is missing above it. A link on the way may point to
    /// a directory that no layer has brought yet, such as /run.
    fn make_missing(&mut self, path: &Path, links: usize) -> Result<OwnedFd> {
        let open = |root: &OwnedFd| open_in(root, path, OFlags::PATH | OFlags::DIRECTORY);
        let Some((above, name)) = path.parent().zip(path.file_name()) else {
            return Ok(open(&self.root)?);
        };
        let above_fd = match open_in(&self.root, above, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => self.make_missing(above, links)?,
            result => result.with_context(|| format!("directory {above:?}"))?,
        };
        match mkdirat(&above_fd, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                self.count()?;
                self.layer.insert(path)?;
            }
            Err(Errno::EXIST) => {
                if let Err(Errno::NOENT) = open(&self.root) {
                    let links = links
                        .checked_sub(1)
                        .with_context(|| format!("directory {path:?}: too many links"))?;
                    let target = readlinkat(&above_fd, name, Vec::new())
                        .with_context(|| format!("directory {path:?}"))?;
                    let target = above.join(OsStr::from_bytes(target.as_bytes()));
                    self.make_missing(&clean(target.as_os_str().as_bytes())?, links)?;
                }
            }
            Err(error) => return Err(error).with_context(|| format!("mkdir {path:?}")),
        }
        open(&self.root).with_context(|| format!("directory {path:?}"))
    }

    fn apply_whiteout(&mut self, parent: &Path, name: &[u8]) -> Result<()> {
        if name == OPAQUE {
            return self.clear(parent);
        }
        if name.starts_with(WHITEOUT_META) {
            return Ok(());
        }
        let target = name.strip_prefix(WHITEOUT).unwrap_or_default();
        ensure!(
            !matches!(target, b"" | b"." | b".."),
            "a whiteout of {:?}",
            String::from_utf8_lossy(target)
        );
        let path = parent.join(OsStr::from_bytes(target));
        if self.layer.lowest {
            return Ok(());
        }
        if self.layer.contains(&path) {
            // The layer has put something there itself. If that is a directory,
            // what lower layers have in it is hidden still.
            return self.clear(&path);
        }
        let directory = match open_in(&self.root, parent, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(error) => return Err(error).with_context(|| format!("directory {parent:?}")),
        };
        let name = CString::new(target).context("a name with a NUL byte")?;
        self.remove(&Place { parent: &directory, name: &name, path: &path })
    }

    /// Removes from a directory what the layer at hand has not put there.
    fn clear(&mut self, path: &Path) -> Result<()> {
        if self.layer.lowest {
            return Ok(());
        }
        let mut directories = vec![path.to_owned()];
        while let Some(path) = directories.pop() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let directory = match open_in(&self.root, &path, flags) {
                Ok(directory) => directory,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(error) => return Err(error).with_context(|| format!("directory {path:?}")),
            };
            for entry in Dir::read_from(&directory)? {
                let entry = entry?;
                let name = entry.file_name();
                if name == c"." || name == c".." {
                    continue;
                }
                let path = path.join(OsStr::from_bytes(name.to_bytes()));
                if self.layer.contains(&path) {
                    directories.push(path);
                } else {
                    self.remove(&Place { parent: &directory, name, path: &path })?;
                }
            }
        }
        Ok(())
    }
}

/// Where an entry goes: a name in an open directory, and its path for memory and messages.
struct Place<'a> {
    parent: &'a OwnedFd,
    name: &'a std::ffi::CStr,
    path: &'a Path,
}

fn open_in(root: &OwnedFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut result = Err(Errno::AGAIN);
    for _ in 0..RACES {
        result = openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
        // The kernel's word for "something was renamed while I looked".
        if result.as_ref().err() != Some(&Errno::AGAIN) {
            break;
        }
    }
    result
}

/// A path as text, relative to the root, without `.`, `..` and empty components.
fn clean(path: &[u8]) -> Result<PathBuf> {
    let mut components: Vec<&[u8]> = Vec::new();
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => drop(components.pop()),
            name => components.push(name),
        }
    }
    ensure!(
        components.len() <= limits::PATH_DEPTH,
        "a path of more than {} components",
        limits::PATH_DEPTH
    );
    ensure!(!path.contains(&0), "a path with a NUL byte");
    Ok(components.into_iter().map(OsStr::from_bytes).collect())
}

/// Whether the `..` of a path lead above where it begins.
fn climbs_out(path: &[u8]) -> bool {
    let depths = path.split(|byte| *byte == b'/').scan(0_i64, |depth, component| {
        *depth += match component {
            b"" | b"." => 0,
            b".." => -1,
            _ => 1,
        };
        Some(*depth)
    });
    depths.into_iter().any(|depth| depth < 0)
}

fn timestamps((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_cleaned_into_the_root() {
        for (path, cleaned) in [
            ("a/b", "a/b"),
            ("./a//b/", "a/b"),
            ("/a", "a"),
            ("../../a", "a"),
            ("a/../../b", "b"),
            ("a/b/..", "a"),
            ("", ""),
            ("/", ""),
            ("..", ""),
            ("...", "..."),
        ] {
            assert_eq!(clean(path.as_bytes()).unwrap(), Path::new(cleaned), "{path:?}");
        }
        assert!(clean(b"a\0b").is_err());
        assert!(clean("a/".repeat(limits::PATH_DEPTH + 1).as_bytes()).is_err());
    }

    #[test]
    fn a_path_that_leaves_where_it_begins_is_known() {
        for (path, out) in
            [("a", false), ("/a", false), ("..", true), ("a/../../b/c", true), ("a/../b", false)]
        {
            assert_eq!(climbs_out(path.as_bytes()), out, "{path:?}");
        }
    }

    #[test]
    fn what_is_left_out_is_told_in_few_lines_whatever_an_image_invents() {
        let mut omitted = Omitted::default();
        for index in 0..1000 {
            omitted.note(format!("xattr {index}"), Path::new("f"));
            omitted.note("device".to_owned(), Path::new("g"));
        }
        let warnings: Vec<String> = omitted.warnings().collect();
        assert_eq!(warnings.len(), OMITTED_KINDS + 1);
        assert_eq!(warnings[0], "device: left out 1000 times, first at \"g\"");
        assert_eq!(warnings[1], "others: left out 985 times, first at \"f\"");
    }

    #[test]
    fn what_a_layer_touches_includes_the_directories_above() {
        let mut touched = Touched::default();
        touched.insert(Path::new("a/b/c")).unwrap();
        for (path, expected) in
            [("a/b/c", true), ("a/b", true), ("a", true), ("a/c", false), ("b", false)]
        {
            assert_eq!(touched.contains(Path::new(path)), expected, "{path}");
        }
    }
}
