//! `checkpoint`: an image of a container that runs.
//!
//! Whatever fails, the container runs on as before: CRIU takes back what it has done, and where
//! it was killed over it, its group is let go.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{AtFlags, FileType, OFlags, fcntl_getfl, readlink, statat};

use super::allowed::{has_settings, refuse_ordinary};
use super::image::Directory;

use crate::cgroups;
use crate::criu::message::{Features, Kind, request};
use crate::criu::{self, Criu, Step, Streams};
use crate::destroy;
use crate::error::{InField as _, Kind as ErrorKind, message};
use crate::host;
use crate::log;
use crate::plan::checkpoint::dump::{Dumped, Facts, Typed, options};
use crate::plan::checkpoint::{external_places, opened_namespaces};
use crate::plan::notify;
use crate::resolve;
use crate::store::{Container, Operation, Status};
use crate::sys;

/// How a container is to be dumped.
#[derive(Debug, Clone)]
pub struct CheckpointOptions {
    /// The directory of the image.
    pub image: PathBuf,
    /// The directory of the log, where that is another one.
    pub work: Option<PathBuf>,
    /// What is told to CRIU.
    pub typed: Typed,
}

/// Writes an image of a container, which is deleted then unless it is to run on.
pub fn checkpoint(container: &Container, asked: &CheckpointOptions) -> Result<()> {
    let host = host::caller();
    refuse_ordinary(&host)?;
    let typed = &asked.typed;
    // Two at once would be in each other's way.
    let _lock = container.lock()?;
    let status = container.check(Operation::Checkpoint)?;
    let spec = container.config()?;
    let record = &container.record;
    let layout = cgroups::layout()?;
    let dumped = Dumped::plan(&spec, &record.bundle, (&layout, &record.group), true)?;
    check_status_descriptor(typed)?;
    let image = Directory::make(&asked.image).context("--image-path")?;
    if let Some(parent) = &typed.parent {
        Directory::open(&image.path.join(parent)).context("--parent-path")?;
    }
    let work = asked.work.as_deref().map(Directory::make).transpose().context("--work-path")?;
    let facts = facts(container, &dumped, (&image, work.as_ref()))?;
    check_features(typed)?;
    let options = options(&dumped, typed, facts)?;
    log::debug(|| format!("criu: dump: {options:?}"));
    if !typed.pre_dump {
        image.write_descriptors(&stdio(container)?)?;
    }
    let kind = if typed.pre_dump { Kind::PreDump } else { Kind::Dump };
    let dump = || -> Result<()> {
        let mut criu = Criu::start(Streams::None, Vec::new())?;
        criu.send(&request(kind, &options))?;
        let answer = criu.answer(|step| reached(&step, typed))?;
        if !answer.success {
            let work = work.as_ref().unwrap_or(&image);
            let place = (work.as_fd(), work.path.as_path());
            return Err(criu::failure("dump the container", &answer, &options, place));
        }
        criu.end(typed.pre_dump)
    };
    if let Err(error) = dump() {
        go_on(container, status);
        return Err(error);
    }
    if typed.leave_running || typed.pre_dump {
        return Ok(());
    }
    destroy::destroy(container)
}

/// Lets a container run that ran before.
fn go_on(container: &Container, before: Status) {
    let thaw = || -> Result<()> {
        let group = &container.record.group;
        if before != Status::Paused && cgroups::is_frozen(group)? {
            cgroups::thaw(group)?;
        }
        Ok(())
    };
    if let Err(error) = thaw() {
        log::warn(format!("the container may stand still: {}", message(&error)));
    }
}

/// Says that the pages can be asked for from now on.
fn reached(step: &Step, typed: &Typed) -> Result<()> {
    match typed.status.filter(|_| step.name == "status-ready") {
        Some(number) => {
            let told = rustix::io::write(sys::borrow_descriptor(number), &[0]);
            told.map(drop).with_context(|| format!("--status-fd {number}"))
        }
        None => Ok(()),
    }
}

fn check_status_descriptor(typed: &Typed) -> Result<()> {
    let Some(number) = typed.status else { return Ok(()) };
    let name = || format!("--status-fd: {number}");
    ensure!(number > 2, "{}: not a descriptor of its own", name());
    let flags = fcntl_getfl(sys::borrow_descriptor(number)).with_context(name)?;
    let can_write = flags.intersects(OFlags::WRONLY | OFlags::RDWR);
    ensure!(can_write, "{}: cannot be written to", name());
    Ok(())
}

/// Refuses what this CRIU or this kernel does not have.
fn check_features(typed: &Typed) -> Result<()> {
    let asked = Features {
        memory_tracking: typed.pre_dump || typed.parent.is_some(),
        lazy_pages: typed.flags.lazy_pages,
    };
    if asked == Features::default() {
        return Ok(());
    }
    let has = criu::features(asked)?;
    let tracking = if typed.pre_dump { "--pre-dump" } else { "--parent-path" };
    for (option, is_asked, is_there, what) in [
        (tracking, asked.memory_tracking, has.memory_tracking, "know which pages have changed"),
        ("--lazy-pages", asked.lazy_pages, has.lazy_pages, "bring pages when they are touched"),
    ] {
        if is_asked && !is_there {
            let text = format!("{option}: this kernel, or this CRIU, cannot {what}");
            return Err(ErrorKind::Unsupported.error(text));
        }
    }
    Ok(())
}

fn facts(
    container: &Container,
    dumped: &Dumped,
    (image, work): (&Directory, Option<&Directory>),
) -> Result<Facts> {
    let init = container.running_init()?;
    let pid = init.context("the init process is gone")?.pid;
    let root = resolve::root(Path::new(&format!("/proc/{pid}/root"))).context("its root")?;
    let mut bound: Vec<_> = external_places(&dumped.rootfs)
        .map(|place| place_of(&root, place).unwrap_or_else(|| place.to_owned()))
        .collect();
    if container.directory.join(notify::DIRECTORY).exists() {
        bound.extend(place_of(&root, Path::new(notify::INSIDE)));
    }
    let masked = dumped.rootfs.masked_paths.iter();
    let masked = masked.filter_map(|(_, path)| {
        let found = resolve::handle(&root, path).ok()?;
        let stat = statat(&found, "", AtFlags::EMPTY_PATH).ok()?;
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_directory { None } else { place_of(&root, path) }
    });
    let inodes = opened_namespaces(&dumped.namespaces)
        .map(|join| {
            let stat = fs::metadata(&join.path).with_context(|| format!("{:?}", join.path));
            Ok((join.kind, stat.in_field(&join.field)?.ino()))
        })
        .collect::<Result<_>>()?;
    Ok(Facts {
        version: criu::version()?,
        pid,
        group: container.record.group.clone(),
        places: cgroups::places_of(pid.unsigned_abs())?,
        images: image.number(),
        work: work.map(Directory::number),
        masked: masked.collect(),
        bound,
        inodes,
        has_config_file: has_settings(dumped.config_file.as_deref())?,
    })
}

/// Where a path inside leads, as the table of mounts names it. None: it is not there.
pub fn place_of(root: &OwnedFd, path: &Path) -> Option<PathBuf> {
    let found = resolve::handle(root, path).ok()?;
    let link = |descriptor: &OwnedFd| {
        let link =
            readlink(format!("/proc/self/fd/{}", descriptor.as_raw_fd()), Vec::new()).ok()?;
        use std::os::unix::ffi::OsStringExt as _;
        Some(PathBuf::from(std::ffi::OsString::from_vec(link.into_bytes())))
    };
    let (found, root) = (link(&found)?, link(root)?);
    Some(Path::new("/").join(found.strip_prefix(root).ok()?))
}

/// What the first three descriptors were at the start. One with a terminal, or of an older
/// record, has what it has now.
fn stdio(container: &Container) -> Result<Vec<String>> {
    if !container.record.stdio.is_empty() {
        return Ok(container.record.stdio.clone());
    }
    let pid = container.running_init()?.context("the init process is gone")?.pid;
    let link = |number| {
        let link = readlink(format!("/proc/{pid}/fd/{number}"), Vec::new());
        link.map_or_else(|_| "/dev/null".into(), |link| link.to_string_lossy().into_owned())
    };
    Ok((0..3).map(link).collect())
}
