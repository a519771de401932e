//! Carrying the plan out.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Error, Result, bail};
use ferrun::apply::mounts;
use ferrun::apply::namespaces::user_namespace;
use ferrun::error::InField as _;
use ferrun::plan::mounts::{MountKind, MountStep};
use ferrun::plan::namespaces::IdMaps;
use ferrun::resolve;
use ferrun::sys::loop_device::{
    LO_FLAGS_AUTOCLEAR, LO_FLAGS_DIRECT_IO, LO_FLAGS_READ_ONLY, configure_loop_device,
    free_loop_device,
};
use nix::errno::Errno;

use super::plan::{Disk, Kernel, Planned, Tree, plan};
use super::{apart, unmount_all};
use crate::messages::Mount;

/// Where programs that mount are looked for.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// How often another loop device is tried: of those that are free somebody else may take one.
const ATTEMPTS: usize = 100;

/// Mounts the root of a container on the directory `rootfs`, which is made where it is missing.
/// Where that fails nothing stays mounted.
///
/// # Errors
/// What is refused, by its field, as in `rootfs[0].options`.
pub fn mount_all(rootfs: &Path, mounts: &[Mount]) -> Result<()> {
    if mounts.is_empty() {
        return Ok(());
    }
    let planned = plan(mounts, kernel())?;
    match std::fs::DirBuilder::new().mode(0o711).create(rootfs) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("mkdir {rootfs:?}"));
        }
        _ => {}
    }
    let done = planned.into_iter().try_for_each(|one| mount_one(rootfs, one));
    done.map_err(|error| match unmount_all(rootfs) {
        Ok(()) => error,
        Err(left) => error.context(format!("what is mounted stays: {left:#}")),
    })
}

fn kernel() -> Kernel {
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy();
    let mut numbers = release.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Kernel { adds_layers: version >= (6, 7) }
}

fn mount_one(rootfs: &Path, planned: Planned) -> Result<()> {
    let Planned { mut step, mut tree, disk } = planned;
    let field = step.field;
    // Held until the mount is there: the device ends with the last who has it.
    let _device = match disk {
        None => None,
        Some(disk) => {
            let source = source(&mut step, &mut tree)?;
            let (device, path) = open_disk(source, disk).in_field(field.of("source"))?;
            *source = path;
            Some(device)
        }
    };
    // What is attached to a shared mount is shared: it gets its own types when it has its place.
    let types = std::mem::take(&mut step.propagation);
    mount_tree(rootfs, &step, tree)?;
    if types.is_empty() {
        return Ok(());
    }
    let step = MountStep {
        kind: MountKind::Existing,
        attributes: Default::default(),
        recursive: Default::default(),
        propagation: types,
        ..step
    };
    mounts::apply(root(rootfs)?, &step, &no_tree).map(drop)
}

/// A handle on the root, to be had anew for each mount: an earlier one may cover it.
fn root(rootfs: &Path) -> Result<OwnedFd> {
    resolve::root(rootfs).with_context(|| format!("{rootfs:?}"))
}

fn no_tree() -> Result<OwnedFd> {
    bail!("no tree was made")
}

fn mount_tree(rootfs: &Path, step: &MountStep, tree: Tree) -> Result<()> {
    let field = step.field;
    let root = root(rootfs)?;
    match (tree, &step.kind) {
        (Tree::Mapped(ids), MountKind::Bind(bind)) => {
            let users = users(&ids).in_field(field.of("options"))?;
            let mapped = || {
                let tree = mounts::open_source(step, bind)?;
                mounts::map_ids(&tree, bind.recursive, &users).in_field(field)?;
                Ok(tree)
            };
            mounts::apply(&root, step, &mapped).map(drop)
        }
        (Tree::Apart(asked), _) => {
            let users = asked.ids.as_ref().map(users).transpose();
            let users = users.in_field(field.of("options"))?;
            let made = || apart::make(rootfs, &asked, users.as_ref()).in_field(field);
            mounts::apply(&root, step, &made).map(drop)
        }
        (Tree::Helper { program, fstype, options }, MountKind::Bind(bind)) => {
            let target = inside(&root, step).in_field(field.of("target"))?;
            help(program, &fstype, &options, &bind.source, &target).in_field(field.of("type"))
        }
        _ => mounts::apply(&root, step, &no_tree).map(drop),
    }
}

/// The source of what is mounted new.
fn source<'a>(step: &'a mut MountStep, tree: &'a mut Tree) -> Result<&'a mut String> {
    match (&mut step.kind, tree) {
        (_, Tree::Apart(apart)) => Ok(&mut apart.file_system.source),
        (MountKind::New(file_system), _) => Ok(&mut file_system.source),
        _ => bail!("{}: nothing new is mounted", step.field),
    }
}

fn users(ids: &IdMaps) -> Result<OwnedFd> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    user_namespace(ids, uid.as_raw(), gid.as_raw()).context("a user namespace with these ids")
}

/// A free loop device with a file behind it, and its path.
fn open_disk(file: &str, disk: Disk) -> Result<(OwnedFd, String)> {
    let open = |path: &str, writable: bool| {
        let file = OpenOptions::new().read(true).write(writable).open(path);
        file.with_context(|| format!("{path:?}"))
    };
    let behind = open(file, !disk.read_only)?;
    let control = open("/dev/loop-control", true)?;
    let mut flags = LO_FLAGS_AUTOCLEAR;
    flags |= if disk.read_only { LO_FLAGS_READ_ONLY } else { 0 };
    flags |= if disk.direct { LO_FLAGS_DIRECT_IO } else { 0 };
    for _ in 0..ATTEMPTS {
        let number = free_loop_device(&control).context("a free loop device")?;
        let path = format!("/dev/loop{number}");
        let device = open(&path, !disk.read_only)?;
        match configure_loop_device(&device, &behind, flags, file.as_bytes()) {
            Err(Errno::EBUSY) => {}
            Err(errno) => return Err(Error::new(errno).context(format!("configure {path}"))),
            Ok(()) => return Ok((device.into(), path)),
        }
    }
    bail!("others take each loop device that is free")
}

/// The path of a target, which the program that mounts there looks up once more.
fn inside(root: &OwnedFd, step: &MountStep) -> Result<PathBuf> {
    let target = resolve::handle(root, &step.target)
        .map_err(|errno| resolve::explain(root, &step.target, errno))?;
    std::fs::read_link(resolve::own_path(&target)).context("readlink")
}

fn help(
    program: &str,
    fstype: &str,
    options: &[String],
    source: &Path,
    target: &Path,
) -> Result<()> {
    let mut command = Command::new(program);
    command.args([source, target]);
    command.args(options.iter().flat_map(|word| ["-o", word])).args(["-t", fstype]);
    command.env_clear().env("PATH", PATH).current_dir("/").stdin(Stdio::null());
    let output = command.output().with_context(|| program.to_owned())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program}: {}: {}", output.status, said.trim());
    }
    Ok(())
}
