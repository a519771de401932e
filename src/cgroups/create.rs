//! Making a group: its directories, what has to be in them before anything can
//! join, and the controllers of version 2 on the way to it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Error, Result, bail, ensure};
use rustix::fs::{Mode, OFlags, open};

use super::{checked, life, mark, read, try_read, try_write, write};
use crate::error::{InField, message, words};
use crate::log;
use crate::plan::cgroup::{CgroupPlan, Directory, Group, Version};

/// What `create` has made, parents first. Dropping it keeps all of it.
#[derive(Debug, Default)]
#[must_use = "a failure later on has to undo it"]
pub struct CreatedGroups {
    directories: Vec<PathBuf>,
}

impl CreatedGroups {
    /// Those directories of `group` that were not there before.
    pub fn part_of(&self, group: &Group) -> Result<Group> {
        mark::filter(group, |directory| Ok(self.has(directory)))
    }

    fn has(&self, directory: &Directory) -> bool {
        let path = directory.path.as_os_str();
        self.directories.iter().any(|new| new.as_os_str() == path)
    }

    /// Removes what was made. Parents that others use by now stay.
    pub fn undo(self) -> Result<()> {
        for directory in self.directories.into_iter().rev() {
            match fs::remove_dir(&directory) {
                Err(error) if !matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOENT)) => {
                    return Err(error).with_context(|| format!("rmdir {directory:?}"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Makes the directories of `plan`, readies them to be joined, and marks them as those of
/// the container with the directory `container`. On failure nothing of it is left.
///
/// A group that exists is taken as it is, unless it is frozen or holds
/// processes: then the error names `linux.cgroupsPath`.
pub fn create(plan: &CgroupPlan, container: &Path) -> Result<CreatedGroups> {
    let mut created = CreatedGroups::default();
    let made = make(plan, &mut created)
        .and_then(|()| mark::put(&plan.group, &created.part_of(&plan.group)?, container));
    match made {
        Ok(()) => Ok(created),
        Err(error) => match created.undo() {
            Ok(()) => Err(error),
            Err(undo) => Err(error.context(format!("not undone: {}", message(&undo)))),
        },
    }
}

fn make(plan: &CgroupPlan, created: &mut CreatedGroups) -> Result<()> {
    for directory in &plan.group.directories {
        let path = checked(directory)?;
        if !make_directory(path, &directory.mount, created).in_field("linux.cgroupsPath")? {
            refuse_occupied(path).in_field("linux.cgroupsPath")?;
        }
        match directory.version {
            Version::V1 if directory.controllers.iter().any(|name| name == "cpuset") => {
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    fill_cpuset(path, &directory.mount, file)?;
                }
            }
            Version::V1 => {}
            Version::V2 => enable_controllers(plan, directory, plan.group.directories.len() == 1)?,
        }
    }
    refuse_frozen(&plan.group, created).in_field("linux.cgroupsPath")
}

/// Hands down to a group that systemd has made what is to be written there: of some controllers
/// it does not know.
pub fn hand_down(plan: &CgroupPlan) -> Result<()> {
    let v2 = plan.group.directories.iter().filter(|directory| directory.version == Version::V2);
    v2.into_iter().try_for_each(|directory| enable_controllers(plan, directory, false))
}

/// Makes `path` and what is missing between it and `mount`. Says whether `path`
/// is new.
fn make_directory(path: &Path, mount: &Path, created: &mut CreatedGroups) -> Result<bool> {
    let mut made = rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)).map_err(io::Error::from);
    if let (Err(error), Some(parent)) = (&made, path.parent())
        && error.kind() == io::ErrorKind::NotFound
        && parent != mount
    {
        make_directory(parent, mount, created)?;
        made = fs::create_dir(path);
    }
    match made {
        Ok(()) => {
            log::debug(|| format!("cgroup {path:?}: made"));
            created.directories.push(path.to_owned());
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            log::debug(|| format!("cgroup {path:?}: was there before"));
            Ok(false)
        }
        Err(error) => Err(error).with_context(|| format!("mkdir {path:?}")),
    }
}

fn refuse_occupied(path: &Path) -> Result<()> {
    let processes = read(&path.join("cgroup.procs"))?;
    match processes.lines().next() {
        None => Ok(()),
        // The words that callers look for, here and below. Who is in another pid namespace has
        // no number here.
        Some("0") => {
            bail!(
                "{path:?}: container's cgroup is not empty: somebody of another pid namespace is in it"
            )
        }
        Some(first) => bail!("{path:?}: container's cgroup is not empty: process {first} is in it"),
    }
}

/// A group is frozen if one above it is; what joins it would wait for ever.
fn refuse_frozen(group: &Group, created: &CreatedGroups) -> Result<()> {
    let Some(directory) = group.freezer() else { return Ok(()) };
    // A new one has not been told to freeze, and without a process it is what those above are.
    let is_frozen = match created.has(directory) {
        true => life::stands_still(directory)?,
        false => life::is_frozen(group)?,
    };
    ensure!(!is_frozen, "{:?}: container's cgroup unexpectedly frozen", directory.path);
    Ok(())
}

/// A cpuset of version 1 starts empty, and an empty one cannot be joined: it
/// gets what its parent has. Returns what it has then.
fn fill_cpuset(path: &Path, mount: &Path, file: &str) -> Result<String> {
    let target = path.join(file);
    let own = read(&target)?;
    let parent = match path.parent() {
        Some(parent) if own.trim().is_empty() && path != mount => parent,
        _ => return Ok(own),
    };
    let inherited = fill_cpuset(parent, mount, file)?;
    write(&target, inherited.trim())?;
    Ok(inherited)
}

/// Hands the controllers down to the group: `all` that there are, where the whole tree is of
/// version 2, so that usage can be read; beside version 1 those that are written to. One that cannot be handed down is an error only if something
/// is to be written.
fn enable_controllers(plan: &CgroupPlan, directory: &Directory, all: bool) -> Result<()> {
    let settings = || plan.settings.iter().filter(|setting| setting.version == Version::V2);
    let needed = || settings().filter(|setting| setting.controller != "cgroup");
    let wanted: Vec<&str> = directory
        .controllers
        .iter()
        .map(String::as_str)
        .filter(|name| all || needed().any(|setting| setting.controller == *name))
        .collect();
    let missing = |file: &Path| -> Result<Vec<&str>> {
        let text = read(file)?;
        let present: Vec<_> = text.split_whitespace().collect();
        Ok(wanted.iter().copied().filter(|name| !present.contains(name)).collect())
    };
    let own = directory.path.join("cgroup.controllers");
    if wanted.is_empty() || missing(&own)?.is_empty() {
        return Ok(());
    }
    let mut refusals = Vec::new();
    let above = directory.path.ancestors().skip(1);
    let mut above: Vec<_> = above.take_while(|path| path.starts_with(&directory.mount)).collect();
    above.reverse();
    for parent in above {
        let control = parent.join("cgroup.subtree_control");
        let names = missing(&control)?;
        let all: Vec<_> = names.iter().map(|name| format!("+{name}")).collect();
        // One that is refused takes the others with it, so they are tried one by one then.
        if !all.is_empty()
            && let Err(error) = try_write(&control, &all.join(" "))
        {
            log::debug(|| format!("{control:?}: {all:?}: {}: one by one", words(error)));
            // Above a group with processes only what has to be: it would become a threaded
            // one, below which no process can be (cgroup-v2.rst, "Threads").
            let is_populated = !read(&parent.join("cgroup.procs"))?.trim().is_empty();
            let is_needed = |name: &str| needed().any(|setting| setting.controller == name);
            for name in names.into_iter().filter(|name| !is_populated || is_needed(name)) {
                let refusal = write(&control, &format!("+{name}"));
                if let Err(error) = &refusal {
                    log::debug(|| format!("{}: goes on without {name} there", message(error)));
                }
                refusals.extend(refusal.err().map(|refusal| (name, refusal)));
            }
        }
    }
    let missing = missing(&own)?;
    let Some(setting) = needed().find(|setting| missing.contains(&setting.controller.as_str()))
    else {
        return Ok(());
    };
    // The first refusal is the cause of those further down.
    let cause = refusals.into_iter().find(|(name, _)| *name == setting.controller);
    let cause = cause.map_or_else(|| Error::msg("not handed down"), |(_, refusal)| refusal);
    Err(cause.context(format!("{:?} lacks {}", directory.path, setting.controller)))
        .in_field(&setting.field)
}

/// The group's directory of version 2 for `CLONE_INTO_CGROUP`, on a hybrid
/// machine too, where the other trees are left to [`TasksFiles`].
pub fn directory_fd(group: &Group) -> Result<Option<OwnedFd>> {
    let Some(directory) = group.unified() else { return Ok(None) };
    let path = checked(directory)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = open(path, flags, Mode::empty()).with_context(|| format!("open {path:?}"))?;
    Ok(Some(fd))
}

/// Puts a process that waits for it into each tree of the group.
pub fn put_into(group: &Group, pid: u32) -> Result<()> {
    let mut directories = group.directories.iter();
    directories.try_for_each(|found| write(&checked(found)?.join("cgroup.procs"), &pid.to_string()))
}

/// How a new process comes into its cgroup of version 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entering {
    /// By the clone, which makes nobody else wait.
    AtBirth,
    /// By itself. The kernel holds up all forks of the machine meanwhile.
    ByItself,
}

/// The files by which a process moves itself into its groups: those of version 1, and that of
/// version 2 where it is not born there.
///
/// Moving another process, or one's own with all its threads, makes the kernel
/// wait for a grace period, several milliseconds. A thread that writes 0 to
/// `tasks` moves itself alone and waits for nothing (kernel/cgroup/cgroup.c,
/// cgroup_procs_write_start), and a process with one thread has moved with it.
/// The kernel asks what the opener may do, so a child that has given up its
/// rights can still use what its parent has opened.
#[derive(Debug)]
pub struct TasksFiles {
    files: Vec<TasksFile>,
}

/// A file to which a thread writes 0 to move itself.
#[derive(Debug)]
struct TasksFile {
    path: PathBuf,
    file: OwnedFd,
    explain: fn(io::Error) -> Error,
}

impl TasksFiles {
    /// Opens the group's files, close-on-exec.
    pub fn open(group: &Group, entering: Entering) -> Result<Self> {
        let mut opened = Self { files: Vec::new() };
        for directory in &group.directories {
            let file = match directory.version {
                Version::V1 => "tasks",
                Version::V2 if entering == Entering::ByItself => "cgroup.procs",
                Version::V2 => continue,
            };
            opened.add(checked(directory)?.join(file), Error::new)?;
        }
        Ok(opened)
    }

    /// Whether there is nothing to enter.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Adds another file of this kind, and what may be known of its errors.
    pub fn add(&mut self, path: PathBuf, explain: fn(io::Error) -> Error) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = open(&path, flags, Mode::empty()).with_context(|| format!("open {path:?}"))?;
        self.files.push(TasksFile { path, file, explain });
        Ok(())
    }

    /// Moves the calling thread, which has to be its process's only one.
    pub fn enter(&self) -> Result<()> {
        for TasksFile { path, file, explain } in &self.files {
            rustix::io::write(file, b"0").map_err(|errno| {
                explain(errno.into()).context(format!("write \"0\" to {path:?}"))
            })?;
        }
        log::debug(|| format!("entered {} groups by their files tasks", self.files.len()));
        Ok(())
    }
}

/// Gives the group's directory of version 2 to `uid`, with the files that the
/// kernel lists as safe to give away (config-linux.md, "Cgroup ownership"). To
/// be called only where the container has a cgroup namespace of its own and may
/// write to its tree. Version 1 knows no delegation, so nothing is done there.
pub fn delegate(group: &Group, uid: u32) -> Result<()> {
    let [directory] = group.directories.as_slice() else { return Ok(()) };
    if directory.version == Version::V1 {
        return Ok(());
    }
    let path = checked(directory)?;
    let give = |target: &Path| match chown(target, Some(uid), None) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("chown {target:?} to {uid}"))
        }
        _ => Ok(()),
    };
    let files = try_read(Path::new("/sys/kernel/cgroup/delegate"))
        .unwrap_or_else(|_| "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n".to_owned());
    give(path)?;
    log::debug(|| format!("cgroup {path:?}: given to user {uid}"));
    // The kernel's names hold no slash; join would follow one.
    files.lines().filter(|name| !name.contains('/')).try_for_each(|name| give(&path.join(name)))
}
