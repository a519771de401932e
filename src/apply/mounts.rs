//! Mounts, each by descriptor: the target is opened inside the root once, and
//! what is mounted is attached to that very handle.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Error, Result, bail};
use rustix::fs::{
    AtFlags, CWD, FileType, FsWord, Mode, OFlags, ResolveFlags, StatVfsMountFlags, StatxFlags,
    fstatfs, fstatvfs, openat, statat, statx, symlinkat,
};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::old_mount;
use crate::abi::MountAttributes;
use crate::error::{InField as _, errno, message};
use crate::log;
use crate::plan::mounts::{Bind, FileSystem, Instead, MountKind, MountStep, Opener};
use crate::plan::options::{
    MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, PAIRED,
};
use crate::resolve::{self, Parents, Target};
use crate::sys::mount::{context_message, mount_setattr};

/// The mount shows other ids than its files have (mount_setattr(2)).
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// PROC_SUPER_MAGIC and SYSFS_MAGIC of linux/magic.h.
const PROC_MAGIC: FsWord = 0x9fa0;
const SYSFS_MAGIC: FsWord = 0x6265_6572;

/// A flag by its bit for mount_setattr(2), as statvfs(3) tells it, and by name.
type Flag = (u64, StatVfsMountFlags, &'static str);

const FLAGS: [Flag; 4] = [
    (MOUNT_ATTR_RDONLY, StatVfsMountFlags::RDONLY, "ro"),
    (MOUNT_ATTR_NOSUID, StatVfsMountFlags::NOSUID, "nosuid"),
    (MOUNT_ATTR_NODEV, StatVfsMountFlags::NODEV, "nodev"),
    (MOUNT_ATTR_NOEXEC, StatVfsMountFlags::NOEXEC, "noexec"),
];

/// What a step leaves to be known.
#[derive(Debug)]
pub enum Done {
    /// A mount that is to be made read-only at the end.
    Writable(OwnedFd),
    /// The identity of a bind's mount: what is made in it is made on the host.
    Bound(u64),
    /// Nothing.
    Other,
}

/// Carries out one step below `root`. `opened` brings the tree of the next bind that
/// is the creator's to open.
pub fn apply(
    root: impl AsFd,
    step: &MountStep,
    opened: &impl Fn() -> Result<OwnedFd>,
) -> Result<Done> {
    let root = root.as_fd();
    log::debug(|| step.summary());
    match &step.kind {
        MountKind::New(file_system) => {
            let mount = attach_new(root, step, file_system, opened)?;
            return Ok(if step.ends_read_only { Done::Writable(mount) } else { Done::Other });
        }
        MountKind::Bind(bind) => {
            let tree = match bind.opener {
                Opener::Init => open_source(step, bind)?,
                Opener::Creator => opened()?,
            };
            return Ok(Done::Bound(attach_tree(root, step, &tree)?));
        }
        MountKind::Existing => {
            let target = resolve::handle(root, &step.target)
                .with_context(|| format!("{:?}", step.target))
                .in_field(step.field.of("destination"))?;
            change(&target, step).in_field(step.field)?;
        }
        MountKind::Link(text) => {
            let mut parents = Parents::new(root);
            let (parent, name) = parents.of(&step.target).in_field(step.field)?;
            match symlinkat(text, parent, name) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno).context("symlink").in_field(step.field),
            }
        }
    }
    Ok(Done::Other)
}

/// Makes a file system and attaches it at its place.
fn attach_new(
    root: BorrowedFd<'_>,
    step: &MountStep,
    file_system: &FileSystem,
    opened: &impl Fn() -> Result<OwnedFd>,
) -> Result<OwnedFd> {
    let place = directory(root, step, file_system)?;
    if file_system.has_long_parameter() {
        log::debug(|| format!("{}: a parameter too long for fsconfig: mount(2)", step.field));
        let mount = old_mount::mount(root, &place.handle, step, file_system)?;
        change(&mount, step).in_field(step.field)?;
        return Ok(mount);
    }
    let mount = match new_mount(&place, step, file_system, opened) {
        Err(error) if matches!(errno(&error), Some(libc::EPERM | libc::EBUSY)) => {
            log::debug(|| format!("{}: refused, so another is bound", message(&error)));
            let tree = instead(file_system, step).ok_or(error)?;
            set_attributes(&tree, step).in_field(step.field)?;
            tree
        }
        mount => mount?,
    };
    propagate(&mount, step).in_field(step.field)?;
    attach(&mount, &place.handle).in_field(step.field)?;
    if let Some(label) = &file_system.root_label {
        label_root(&mount, label).in_field("linux.mountLabel")?;
    }
    Ok(mount)
}

/// A copy of the tree of a bind, attached nowhere.
pub fn open_source(step: &MountStep, bind: &Bind) -> Result<OwnedFd> {
    let flags = tree_flags(bind.recursive) | OpenTreeFlags::AT_NO_AUTOMOUNT;
    if let Ok(tree) = open_tree(CWD, &bind.source, flags) {
        return Ok(tree);
    }
    // By two calls, which tell a source that is not there from one that may not be copied.
    let source = resolve::host(&bind.source)
        .with_context(|| format!("{:?}", bind.source))
        .in_field(step.field.of("source"))?;
    clone_tree(&source, bind.recursive).in_field(step.field)
}

/// Gives a detached tree the ids of a user namespace.
pub fn map_ids(tree: impl AsFd, recursive: bool, user_namespace: impl AsFd) -> Result<()> {
    use std::os::fd::AsRawFd as _;
    let attributes = MountAttributes {
        set: MOUNT_ATTR_IDMAP,
        user_namespace: user_namespace.as_fd().as_raw_fd() as u64,
        ..Default::default()
    };
    mount_setattr(tree, recursive, &attributes).context("mount_setattr: map the ids")
}

/// Attaches the detached tree of a bind at its place. Returns the identity of its mount.
fn attach_tree(root: impl AsFd, step: &MountStep, tree: &OwnedFd) -> Result<u64> {
    let wanted = StatxFlags::TYPE | StatxFlags::MNT_ID;
    let stat = statx(tree, "", AtFlags::EMPTY_PATH, wanted).context("statx")?;
    let target = match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::Directory => Target::Directory,
        _ => Target::File,
    };
    let destination = step.field.of("destination");
    let place = resolve::make(root, &step.target, target).in_field(destination)?;
    // Found out here: a move that fails costs a wait for every processor.
    if target == Target::File && file_type(&place)? == FileType::Directory {
        // Docker gives its hint, and its exit code, by "not a directory".
        bail!("{destination}: {:?} is one, but the source is not a directory", step.target);
    }
    change(tree, step).in_field(step.field)?;
    attach(tree, &place).in_field(step.field)?;
    Ok(stat.stx_mnt_id)
}

fn file_type(handle: impl AsFd) -> Result<FileType> {
    let stat = statat(handle, "", AtFlags::EMPTY_PATH).context("fstat")?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

/// A copy of the mount that `handle` is in, from there down, attached nowhere.
pub fn clone_tree(handle: impl AsFd, recursive: bool) -> Result<OwnedFd> {
    let flags = tree_flags(recursive) | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(handle, "", flags).context("open_tree")
}

fn tree_flags(recursive: bool) -> OpenTreeFlags {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    match recursive {
        true => flags | OpenTreeFlags::AT_RECURSIVE,
        false => flags,
    }
}

/// The same for the container alone: what is mounted on it is seen nowhere else.
pub fn clone_for_itself(handle: impl AsFd, recursive: bool) -> Result<OwnedFd> {
    let tree = clone_tree(handle, recursive)?;
    let private = MountAttributes { propagation: libc::MS_PRIVATE, ..Default::default() };
    mount_setattr(&tree, recursive, &private).context("mount_setattr")?;
    Ok(tree)
}

/// Attaches a detached mount at the handle of its target.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags).context("move_mount")
}

/// Gives the attributes and propagation types of a step.
fn change(mount: impl AsFd, step: &MountStep) -> Result<()> {
    set_attributes(&mount, step)?;
    propagate(mount, step)
}

fn set_attributes(mount: impl AsFd, step: &MountStep) -> Result<()> {
    let takes_back = step.attributes.clear & PAIRED != 0;
    // What the source has brought along, before words for all mounts add to it.
    let brought = takes_back.then(|| fstatvfs(&mount).context("fstatvfs")).transpose()?;
    let brought = brought.map_or(StatVfsMountFlags::empty(), |stat| stat.f_flag);
    if !step.recursive.is_empty() {
        mount_setattr(&mount, true, &step.recursive).context("mount_setattr")?;
    }
    if step.attributes.is_empty() {
        return Ok(());
    }
    if step.is_locked && takes_back {
        return keep_locked(&mount, step, brought);
    }
    match mount_setattr(&mount, false, &step.attributes) {
        Err(nix::errno::Errno::EPERM) if takes_back => keep_locked(&mount, step, brought),
        set => set.context("mount_setattr"),
    }
}

/// The flags of a bind where what its source brings along is locked: a user namespace
/// cannot lift what a mount from outside of it has (mount_namespaces(7)). What no word has
/// asked for stays; the rest is an error.
fn keep_locked(mount: impl AsFd, step: &MountStep, has: StatVfsMountFlags) -> Result<()> {
    let locked = FLAGS
        .iter()
        .filter(|(bit, flag, _)| step.attributes.clear & bit != 0 && has.contains(*flag));
    let (unnamed, named): (Vec<&Flag>, Vec<&Flag>) =
        locked.partition(|(bit, ..)| step.unnamed & bit != 0);
    if !named.is_empty() {
        let words: Vec<_> = named.iter().map(|(_, _, word)| *word).collect();
        bail!("the source is {}, which is locked in a user namespace", words.join(", "));
    }
    let stays = unnamed.iter().map(|flag| flag.0).sum::<u64>();
    log::debug(|| format!("{}: flags {stays:#x} of its source are locked: left", step.field));
    let clear = step.attributes.clear & !stays;
    mount_setattr(&mount, false, &MountAttributes { clear, ..step.attributes })
        .context("mount_setattr")
}

fn propagate(mount: impl AsFd, step: &MountStep) -> Result<()> {
    for (propagation, recursive) in &step.propagation {
        let attributes = MountAttributes { propagation: *propagation, ..Default::default() };
        mount_setattr(&mount, *recursive, &attributes).context("mount_setattr")?;
    }
    Ok(())
}

/// The directory that a new file system covers.
struct Place {
    handle: OwnedFd,
    /// Whether it was made for that.
    is_new: bool,
}

fn directory(root: impl AsFd, step: &MountStep, file_system: &FileSystem) -> Result<Place> {
    let destination = step.field.of("destination");
    // Behind a link the masks and read-only paths of the configuration would name other
    // files than these file systems'.
    let real = matches!(file_system.fstype.as_str(), "proc" | "sysfs");
    let found = if real {
        resolve::handle_without_links(&root, &step.target)
    } else {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        resolve::in_root(&root, &step.target, flags, ResolveFlags::empty())
    };
    match found {
        Ok(handle) => Ok(Place { handle, is_new: false }),
        Err(errno) if real && errno != Errno::NOENT => {
            // The words that callers look for.
            let needs = format!(
                "filesystem {:?} must be mounted on ordinary directory",
                file_system.fstype
            );
            Err(resolve::explain(&root, &step.target, errno).context(needs)).in_field(destination)
        }
        Err(errno) => {
            let make = if errno == Errno::NOENT { resolve::make_missing } else { resolve::make };
            let handle = make(&root, &step.target, Target::Directory);
            Ok(Place { handle: handle.in_field(destination)?, is_new: true })
        }
    }
}

fn label_root(mount: &OwnedFd, label: &str) -> Result<()> {
    let flags = rustix::fs::XattrFlags::empty();
    // The handle of a mount takes no attributes itself.
    rustix::fs::setxattr(resolve::own_path(mount), "security.selinux", label.as_bytes(), flags)
        .with_context(|| format!("{label:?}: setxattr"))
}

/// Makes a file system of its own with the attributes of its step, attached nowhere.
fn new_mount(
    place: &Place,
    step: &MountStep,
    file_system: &FileSystem,
    opened: &impl Fn() -> Result<OwnedFd>,
) -> Result<OwnedFd> {
    let FileSystem { fstype, .. } = file_system;
    let field = |property: &'static str| step.field.of(property);
    let context = match file_system.opener {
        Opener::Creator => opened()?,
        Opener::Init => match fsopen(fstype.as_str(), FsOpenFlags::FSOPEN_CLOEXEC) {
            Ok(context) => context,
            Err(Errno::NODEV) => bail!("{}: {fstype:?}: unknown to this kernel", field("type")),
            Err(errno) => return Err(errno).context("fsopen").in_field(field("type")),
        },
    };
    let explain = |errno: Errno, what: String| -> Error {
        let error = Error::new(errno);
        match context_message(&context) {
            Some(message) => error.context(format!("{what}: {message}")),
            None => error.context(what),
        }
    };
    fsconfig_set_string(&context, "source", file_system.source.as_str())
        .map_err(|errno| explain(errno, format!("{:?}", file_system.source)))
        .in_field(field("source"))?;
    for switch in &file_system.switches {
        fsconfig_set_flag(&context, *switch)
            .map_err(|errno| explain(errno, format!("{switch:?}")))
            .in_field(field("options"))?;
    }
    // One that was made just now has no mode to keep: that of a tmpfs is 1777.
    if file_system.inherits_mode && !place.is_new {
        let mode =
            statat(&place.handle, "", AtFlags::EMPTY_PATH).context("fstat")?.st_mode & 0o7777;
        fsconfig_set_string(&context, "mode", format!("{mode:o}"))
            .map_err(|errno| explain(errno, "mode".to_owned()))
            .in_field(step.field)?;
    }
    if let Some(label) = &file_system.label {
        fsconfig_set_string(&context, "context", label.as_str())
            .map_err(|errno| explain(errno, format!("{label:?}")))
            .in_field("linux.mountLabel")?;
    }
    for (key, value) in &file_system.data {
        let set = match value {
            Some(value) => fsconfig_set_string(&context, key.as_str(), value.as_str())
                .map_err(|errno| explain(errno, format!("\"{key}={value}\""))),
            None => fsconfig_set_flag(&context, key.as_str())
                .map_err(|errno| explain(errno, format!("{key:?}"))),
        };
        set.in_field(field("options"))?;
    }
    fsconfig_create(&context)
        .map_err(|errno| explain(errno, format!("mount {fstype:?}")))
        .in_field(step.field)?;
    let at_once = step.recursive.is_empty();
    let attributes = if at_once { step.attributes.set as u32 } else { 0 };
    let attributes = MountAttrFlags::from_bits_retain(attributes);
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .context("fsmount")
        .in_field(step.field)?;
    if file_system.opener == Opener::Creator {
        refuse_other_than_procfs(&mount).in_field(step.field)?;
    }
    if file_system.copies_up {
        let from = openat(&place.handle, ".", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        from.context("open")
            .and_then(|from| copy_up(&from, &mount))
            .context("tmpcopyup")
            .in_field(step.field)?;
    }
    if !at_once {
        set_attributes(&mount, step).in_field(step.field)?;
    }
    Ok(mount)
}

/// What the plan has in place of a file system that the kernel refuses, attached nowhere.
fn instead(file_system: &FileSystem, step: &MountStep) -> Option<OwnedFd> {
    let tree = match file_system.instead.as_ref()? {
        Instead::Directory(path) => clone_tree(resolve::host(path).ok()?, false).ok()?,
        Instead::Callers(place) => callers(file_system, place, step)?,
    };
    // It may be a peer of the caller's, and what covers a part of it is the container's.
    let slave = MountAttributes { propagation: libc::MS_SLAVE, ..Default::default() };
    mount_setattr(&tree, true, &slave).ok()?;
    Some(tree)
}

/// Whoever may trace processes in a joined pid namespace could have given the context of another
/// file system.
fn refuse_other_than_procfs(mount: &OwnedFd) -> Result<()> {
    if fstatfs(mount).context("fstatfs")?.f_type != PROC_MAGIC {
        bail!("what came from the joined pid namespace is no procfs");
    }
    Ok(())
}

/// The caller's own file system at `place` with what is mounted on it, if it is whole and of the
/// type.
fn callers(file_system: &FileSystem, place: &str, step: &MountStep) -> Option<OwnedFd> {
    /// The inode of the root of a proc and of a sysfs.
    const ROOT: u64 = 1;
    let magic = match file_system.fstype.as_str() {
        "proc" => PROC_MAGIC,
        _ => SYSFS_MAGIC,
    };
    let found = resolve::host(place.as_ref()).ok()?;
    let is_whole = fstatfs(&found).is_ok_and(|stat| stat.f_type == magic)
        && statat(&found, "", AtFlags::EMPTY_PATH).is_ok_and(|stat| stat.st_ino == ROOT);
    let tree = is_whole.then(|| clone_tree(&found, true))?.ok()?;
    log::warn(format!(
        "{}: no new {} may be mounted here: the container sees the caller's {place}",
        step.field, file_system.fstype
    ));
    Some(tree)
}

/// Copies what is in the directory `from` into the directory `to`, which nobody else can
/// reach yet. Whoever shares `from` may exchange what is in it at any moment: each name is
/// looked up once, as a handle, and what is copied is the file that the handle is on.
fn copy_up(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    use rustix::fs::{Dir, Gid, Uid, chmodat, chownat, mkdirat, open, readlinkat};
    let directory = OFlags::DIRECTORY | OFlags::CLOEXEC;
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match openat(from, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => continue,
            found => found?,
        };
        let stat = statat(&found, "", AtFlags::EMPTY_PATH)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                mkdirat(to, name, mode)?;
                let from = openat(&found, ".", directory, Mode::empty())?;
                let to = openat(to, name, directory, Mode::empty())?;
                // Each level holds descriptors.
                drop(found);
                copy_up(&from, &to)?;
            }
            FileType::RegularFile => {
                let source = open(
                    resolve::own_path(&found),
                    OFlags::RDONLY | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let copy = openat(to, name, flags, mode)?;
                std::io::copy(&mut fs::File::from(source), &mut fs::File::from(copy))?;
            }
            FileType::Symlink => {
                symlinkat(&readlinkat(&found, "", Vec::new())?, to, name)?;
            }
            // Sockets, FIFOs and devices belong to whoever made them.
            _ => continue,
        }
        chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            chmodat(to, name, mode, AtFlags::empty())?;
        }
    }
    Ok(())
}

/// The identity of the mount that `path` below `root` is in, None where there is
/// nothing.
pub fn mount_id(root: impl AsFd, path: &Path) -> Option<u64> {
    let handle = resolve::handle(root, path).ok()?;
    let flags = rustix::fs::StatxFlags::MNT_ID;
    Some(rustix::fs::statx(handle, "", AtFlags::EMPTY_PATH, flags).ok()?.stx_mnt_id)
}

/// Takes away what was mounted at `path` below `root` since `before` was
/// mounted there.
pub fn unmount(root: impl AsFd, path: &Path, before: u64) -> Result<()> {
    // One look-up finds the topmost mount; each unmount bares the next.
    const MOST: usize = 16;
    for _ in 0..MOST {
        let Ok(handle) = resolve::handle(&root, path) else { return Ok(()) };
        let flags = rustix::fs::StatxFlags::MNT_ID;
        let stat = rustix::fs::statx(&handle, "", AtFlags::EMPTY_PATH, flags).context("statx")?;
        let is_root = stat.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT);
        if stat.stx_mnt_id == before || !is_root {
            return Ok(());
        }
        rustix::mount::unmount(resolve::own_path(&handle), rustix::mount::UnmountFlags::DETACH)
            .context("umount")?;
    }
    Ok(())
}
