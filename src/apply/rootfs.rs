//! The container's root: made ready in a mount namespace of its own, filled, and
//! entered.
//!
//! Everything is done below one descriptor of the root, before the root changes,
//! so what is bound as a mask is the host's /dev/null and not the image's.

use std::ffi::{CString, OsStr};
use std::fs;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Statx, StatxFlags, Uid, chmod, chownat, makedev,
    mknodat, openat, statat, statx, symlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};
use rustix::process::{chdir, chroot, fchdir, pivot_root};

use super::mounts::{self, Done, attach, clone_for_itself, clone_tree};
use crate::abi::MountAttributes;
use crate::apply::mountinfo;
use crate::error::{InField as _, message};
use crate::log;
use crate::plan::devices::{Device, Node};
use crate::plan::mounts::Origin;
use crate::plan::options::MOUNT_ATTR_RDONLY;
use crate::plan::rootfs::{RootEntry, Rootfs};
use crate::resolve::{self, Parents, Target};
use crate::sys::mount::{change_propagation, mount_setattr};

const READ_ONLY: MountAttributes =
    MountAttributes { set: MOUNT_ATTR_RDONLY, clear: 0, propagation: 0, user_namespace: 0 };

/// Makes the root ready to be filled, and opens it.
pub fn prepare(rootfs: &Rootfs) -> Result<OwnedFd> {
    let path = &rootfs.path;
    let root = resolve::root(path).with_context(|| format!("{path:?}")).in_field("root.path")?;
    log::debug(|| format!("root.path: {path:?}: to be entered by {:?}", rootfs.entry));
    if rootfs.entry == RootEntry::Chroot {
        return Ok(root);
    }
    let propagation = &rootfs.propagation;
    change_propagation(c"/", propagation.callers).context("change the propagation of /")?;
    if propagation.is_shared() {
        make_parent_private(path)?;
    }
    // pivot_root wants a mount. As a slave it learns what the host unmounts.
    let tree = clone_tree(&root, true).in_field("root.path")?;
    if let Some(propagation) = propagation.root {
        let attributes = MountAttributes { propagation, ..Default::default() };
        mount_setattr(&tree, false, &attributes).context("mount_setattr").in_field("root.path")?;
    }
    attach(&tree, &root).in_field("root.path")?;
    Ok(tree)
}

/// Makes the mount that `path` lies in private: attached below a shared one, the
/// container's root would appear in the host too.
fn make_parent_private(path: &Path) -> Result<()> {
    let path = resolve::real_path(path).with_context(|| format!("{path:?}"))?;
    for ancestor in path.ancestors() {
        let name = CString::new(ancestor.as_os_str().as_bytes())?;
        match change_propagation(&name, libc::MS_PRIVATE) {
            Ok(()) => return Ok(()),
            Err(nix::errno::Errno::EINVAL) => {}
            Err(errno) => return Err(errno).with_context(|| format!("make {ancestor:?} private")),
        }
    }
    Ok(())
}

/// A mount that is made read-only when everything is in its place, with the entry that
/// asked for it.
pub type Writable = (Origin, OwnedFd);

/// A root with its mounts.
struct Mounted {
    /// The handle on it: another one where a mount covers it.
    root: OwnedFd,
    writable: Vec<Writable>,
    /// What was bound, by the numbers of the mounts.
    bound: Vec<u64>,
}

/// Fills the root: mounts, devices, links, the working directory. `opened` brings
/// the trees that are the creator's to open, in their order; `grouped` waits until the
/// process is in its cgroup, as often as it is called. Returns the handle on the root from here
/// on, and what is to be closed in the end.
pub fn fill(
    root: OwnedFd,
    rootfs: &Rootfs,
    opened: impl Fn() -> Result<OwnedFd>,
    grouped: impl Fn() -> Result<()>,
) -> Result<(OwnedFd, Vec<Writable>)> {
    let Mounted { root, writable, bound } = mount_all(root, rootfs, opened, grouped)?;
    furnish(root.as_fd(), rootfs, &bound)?;
    Ok((root, writable))
}

fn mount_all(
    mut root: OwnedFd,
    rootfs: &Rootfs,
    opened: impl Fn() -> Result<OwnedFd>,
    grouped: impl Fn() -> Result<()>,
) -> Result<Mounted> {
    let (mut writable, mut bound) = (Vec::new(), Vec::new());
    for step in &rootfs.mounts {
        if step.shows_cgroups() {
            grouped()?;
        }
        match mounts::apply(root.as_fd(), step, &opened)? {
            Done::Writable(mount) => writable.push((step.field, mount)),
            // Of the root itself all is the container's.
            Done::Bound(mount) if !step.covers_the_root() => bound.push(mount),
            Done::Bound(_) | Done::Other => {}
        }
        // The handle is of what lies below now.
        if step.covers_the_root() {
            let path = &rootfs.path;
            let found = resolve::root(path).with_context(|| format!("{path:?}: open it again"));
            root = found.in_field(step.field)?;
        }
    }
    Ok(Mounted { root, writable, bound })
}

/// Makes what the container finds beside its mounts: devices and links, unless /dev is a bind
/// itself, and the working directory.
fn furnish(root: BorrowedFd<'_>, rootfs: &Rootfs, bound: &[u64]) -> Result<()> {
    let mut parents = Parents::new(root);
    // The image may have a link at /dev that leads into a directory of the host.
    let has_own_dev = match rootfs.links.first() {
        Some((path, _)) => !bound.contains(&mount_of(parents.of(path)?.0)?),
        None => false,
    };
    log::debug(|| format!("devices and links of /dev: made: {has_own_dev}"));
    if has_own_dev {
        fill_dev(root, rootfs, &mut parents)?;
    }
    if let Some(cwd) = &rootfs.cwd
        && let Err(error) = resolve::make(root, cwd, Target::Directory)
    {
        // In a root that cannot be written the program says itself that it is missing.
        log::debug(|| format!("process.cwd: not made: {}", message(&error)));
    }
    Ok(())
}

/// Makes the devices, and the links beside them.
fn fill_dev(root: BorrowedFd<'_>, rootfs: &Rootfs, parents: &mut Parents<'_>) -> Result<()> {
    // Modes of devices are given as they are, whatever the caller masks.
    let umask = rustix::process::umask(Mode::empty());
    let made = rootfs.devices.iter().try_for_each(|device| {
        make_device(root, parents, device)
            .with_context(|| format!("{:?}", device.path))
            .in_field(&device.field)
    });
    rustix::process::umask(umask);
    made?;
    rootfs.links.iter().try_for_each(|(path, text)| {
        link(root, parents, path, text).with_context(|| format!("link {path:?}"))
    })
}

fn make_device(root: BorrowedFd<'_>, parents: &mut Parents<'_>, device: &Device) -> Result<()> {
    let (parent, name) = parents.of(&device.path)?;
    let Node::Made { kind, major, minor, mode, uid, gid } = device.node else {
        if FoundNode::look(parent, name)?.is_some_and(|found| !found.is_images(root)) {
            return Ok(());
        }
        let source = resolve::host(&device.path).context("on the host")?;
        let place = resolve::make(root, &device.path, Target::File)?;
        return attach(clone_for_itself(&source, false)?, place);
    };
    let number = makedev(major, minor);
    let (file_type, bits) = (FileType::from_raw_mode(kind), Mode::from_raw_mode(mode));
    let is_new = match mknodat(parent, name, file_type, bits, number) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(errno) => return Err(errno).context("mknod"),
    };
    if is_new && (uid, gid) == (0, 0) {
        return Ok(());
    }
    // From here on by handle: whoever shares the directory may exchange what the name is of.
    let Some(found) = FoundNode::look(parent, name)? else { bail!("somebody has removed it") };
    if !is_new && !found.is_images(root) {
        log::debug(|| format!("{}: {:?}: a mount's, left as it is", device.field, device.path));
        return Ok(());
    }
    let same_number = kind == libc::S_IFIFO || found.number() == number;
    if found.kind() != file_type || !same_number {
        bail!("exists and is another file");
    }
    if found.mode() != mode {
        chmod(resolve::own_path(&found.handle), bits).context("chmod")?;
    }
    if (uid, gid) != (0, 0) {
        let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        chownat(&found.handle, "", owner.0, owner.1, AtFlags::EMPTY_PATH).context("chown")?;
    }
    Ok(())
}

/// What lies at a path that the runtime would make, as a handle.
struct FoundNode {
    handle: OwnedFd,
    stat: Statx,
}

impl FoundNode {
    fn look(parent: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Self>> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = match openat(parent, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            found => found.context("open")?,
        };
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
        let stat = statx(&handle, "", AtFlags::EMPTY_PATH, wanted).context("statx")?;
        Ok(Some(Self { handle, stat }))
    }

    /// Whether it is a file of the image. All else was put there by a mount: it may be the
    /// host's, and it is what the configuration wants there.
    fn is_images(&self, root: BorrowedFd<'_>) -> bool {
        mount_of(root).is_ok_and(|image| image == self.stat.stx_mnt_id)
    }

    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.stx_mode.into())
    }

    fn mode(&self) -> u32 {
        u32::from(self.stat.stx_mode) & 0o7777
    }

    fn number(&self) -> u64 {
        makedev(self.stat.stx_rdev_major, self.stat.stx_rdev_minor)
    }
}

fn link(root: BorrowedFd<'_>, parents: &mut Parents<'_>, path: &Path, text: &Path) -> Result<()> {
    let (parent, name) = parents.of(path)?;
    match symlinkat(text, parent, name) {
        Err(Errno::EXIST) if name == "ptmx" => {
            if FoundNode::look(parent, name)?.is_some_and(|found| !found.is_images(root)) {
                return Ok(());
            }
            // An image's own node would lead to the terminals of the host.
            unlinkat(parent, name, AtFlags::empty()).context("unlink")?;
            symlinkat(text, parent, name).context("symlink")
        }
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno).context("symlink"),
    }
}

/// Hides what the configuration wants hidden, and makes read-only what it wants so.
pub fn protect(root: BorrowedFd<'_>, rootfs: &Rootfs, writable: &[Writable]) -> Result<()> {
    for (field, mount) in writable {
        mount_setattr(mount, false, &READ_ONLY).context("mount_setattr").in_field(field)?;
        log::debug(|| format!("{field}: made read-only, now that all is in it"));
    }
    for (field, path) in &rootfs.readonly_paths {
        make_readonly(root, path).with_context(|| format!("{path:?}")).in_field(field)?;
    }
    let label = rootfs.label.as_deref();
    let mut covers = Covers { label, ..Covers::default() };
    for (field, path) in &rootfs.masked_paths {
        mask(root, path, &mut covers).with_context(|| format!("{path:?}")).in_field(field)?;
    }
    if rootfs.read_only {
        mount_setattr(root, false, &READ_ONLY)
            .context("mount_setattr")
            .in_field("root.readonly")?;
    }
    Ok(())
}

fn make_readonly(root: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let Some(target) = existing(root, path)? else { return Ok(()) };
    log::debug(|| format!("linux.readonlyPaths: {path:?}: made read-only"));
    let tree = clone_tree(&target, true)?;
    mount_setattr(&tree, true, &READ_ONLY).context("mount_setattr")?;
    attach(tree, target)
}

/// What masked paths are covered with, made for the first one that needs it.
#[derive(Debug, Default)]
struct Covers<'a> {
    /// The SELinux label of the empty file system.
    label: Option<&'a str>,
    /// The host's /dev/null, for files.
    null: Option<OwnedFd>,
    /// An empty file system, which all directories share.
    empty: Option<OwnedFd>,
}

fn mask(root: BorrowedFd<'_>, path: &Path, covers: &mut Covers<'_>) -> Result<()> {
    let Some(target) = existing(root, path)? else { return Ok(()) };
    log::debug(|| format!("linux.maskedPaths: {path:?}: covered"));
    let stat = statat(&target, "", AtFlags::EMPTY_PATH).context("fstat")?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        let null = match covers.null.take() {
            Some(null) => null,
            None => null_device()?,
        };
        return attach(clone_for_itself(covers.null.insert(null), false)?, target);
    }
    match &covers.empty {
        Some(mounted) => attach(clone_for_itself(mounted, false)?, target),
        None => {
            let mount = empty_file_system(covers.label)?;
            attach(&mount, target)?;
            covers.empty = Some(mount);
            Ok(())
        }
    }
}

/// A handle on a path that need not be there.
fn existing(root: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>> {
    match resolve::handle(root, path) {
        Ok(handle) => Ok(Some(handle)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// The host's /dev/null, checked on the handle that is used.
pub fn null_device() -> Result<OwnedFd> {
    let null = resolve::host(Path::new("/dev/null")).context("/dev/null")?;
    let stat = statat(&null, "", AtFlags::EMPTY_PATH).context("fstat")?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFCHR || stat.st_rdev != makedev(1, 3) {
        bail!("/dev/null: is another file");
    }
    Ok(null)
}

fn empty_file_system(label: Option<&str>) -> Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).context("fsopen \"tmpfs\"")?;
    if let Some(label) = label {
        fsconfig_set_string(&context, "context", label)
            .with_context(|| format!("linux.mountLabel: {label:?}"))?;
    }
    fsconfig_create(&context).context("mount \"tmpfs\"")?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).context("fsmount")
}

/// Makes `root` the root directory. `creator_root` is the mount that is the creator's
/// root ([`root_mount`]): where it is this process's too, nothing may be taken away.
pub fn enter(root: BorrowedFd<'_>, rootfs: &Rootfs, creator_root: u64) -> Result<()> {
    fchdir(root).context("fchdir").in_field("root.path")?;
    match rootfs.entry {
        RootEntry::Pivot => {
            refuse_creators(creator_root)?;
            let shared = rootfs.propagation.is_shared();
            let old = shared.then(|| resolve::root("/".as_ref())).transpose().context("/")?;
            // The old root ends up on top of the new one, and goes from there.
            pivot_root(".", ".").context("pivot_root").in_field("root.path")?;
            if let Some(old) = old {
                // Its unmounting must not reach the mounts that it shares. "." is the new
                // root for all calls but umount, which alone looks for what is on top.
                fchdir(old).context("fchdir")?;
                change_propagation(c".", libc::MS_SLAVE | libc::MS_REC)
                    .context("change the propagation of the old root")?;
            }
            unmount(".", UnmountFlags::DETACH).context("umount the old root")?;
        }
        RootEntry::Move => {
            refuse_creators(creator_root)?;
            cover_callers_kernel_file_systems(root).in_field("root.path")?;
            // Where it is shared, the host's root would be covered too.
            change_propagation(c"/", libc::MS_PRIVATE).context("change the propagation of /")?;
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(root, "", CWD, "/", flags).context("move_mount").in_field("root.path")?;
            chroot(".").context("chroot").in_field("root.path")?;
        }
        RootEntry::Chroot => chroot(".").context("chroot").in_field("root.path")?,
    }
    chdir("/").context("chdir /")?;
    log::debug(|| format!("root.path: {:?}: entered", rootfs.path));
    if let Some(propagation) = rootfs.propagation.end.filter(|_| rootfs.entry != RootEntry::Chroot)
    {
        change_propagation(c"/", propagation)
            .context("mount")
            .in_field("linux.rootfsPropagation")?;
    }
    Ok(())
}

/// Covers each procfs and sysfs of the caller. pivot_root(2) takes them out of the mount
/// namespace; behind a root that was moved they stay, and while one is there whole the
/// kernel lets a user namespace below this one mount another, without any mask
/// (mount_too_revealing of fs/namespace.c).
fn cover_callers_kernel_file_systems(root: BorrowedFd<'_>) -> Result<()> {
    const TABLE: &str = "/proc/self/mountinfo";
    let table = fs::read(TABLE).context(TABLE)?;
    let table = mountinfo::parse(&table).context(TABLE)?;
    let own = mount_of(root)?;
    let outside = |mount: &&mountinfo::Mount<'_>| {
        matches!(mount.fstype, b"proc" | b"sysfs") && !mountinfo::is_below(&table, mount, own)
    };
    for mount in table.iter().filter(outside) {
        let is_cover =
            |other: &mountinfo::Mount<'_>| other.parent == mount.id && other.point == mount.point;
        if table.iter().any(is_cover) {
            continue;
        }
        let found = resolve::host(&mount.point).with_context(|| format!("{:?}", mount.point))?;
        if mount_of(found.as_fd())? != mount.id {
            bail!(
                "--no-pivot: {:?} of the host is behind another mount, and would stay",
                mount.point
            );
        }
        // The cover must not reach the host.
        let private = MountAttributes { propagation: libc::MS_PRIVATE, ..Default::default() };
        mount_setattr(&found, false, &private).context("mount_setattr")?;
        // Each its own: before Linux 6.15 what is not attached yet cannot be cloned.
        attach(empty_file_system(None)?, found)
            .with_context(|| format!("cover {:?} of the host", mount.point))?;
    }
    Ok(())
}

/// In the creator's mount namespace this would take the root of the machine away.
fn refuse_creators(creator_root: u64) -> Result<()> {
    if root_mount()? == creator_root {
        bail!("refusing to change the root in the mount namespace of the caller");
    }
    Ok(())
}

/// The identity of the mount that "/" is in. No two mounts of the machine have the
/// same, so it tells mount namespaces apart: each has its own.
pub fn root_mount() -> Result<u64> {
    let stat = statx(CWD, "/", AtFlags::empty(), StatxFlags::MNT_ID).context("statx /")?;
    Ok(stat.stx_mnt_id)
}

/// The identity of the mount that a handle is in.
fn mount_of(handle: BorrowedFd<'_>) -> Result<u64> {
    let stat = statx(handle, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).context("statx")?;
    Ok(stat.stx_mnt_id)
}
