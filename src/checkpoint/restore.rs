//! `restore`: a container of an image.
//!
//! It comes into being as with `create`: what is about to be made is written down first, so there
//! is one way to undo. In place of init's own work CRIU restores what the image holds. It starts
//! in a mount namespace of its own, in which the root of the container is laid out: whatever
//! happens, nothing of that is left.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};
use nix::unistd::Pid;
use oci_spec::runtime::LinuxNamespaceType as Kind;
use rustix::mount::{UnmountFlags, unmount};

use super::allowed::{has_settings, refuse_ordinary};
use super::dump::place_of;
use super::image::Directory;
use super::tasks;
use crate::apply::inherited::take_all_processors;
use crate::apply::namespaces::{make_new, open_joined};
use crate::apply::sysctls::Parameters;
use crate::apply::{hooks, mounts, security_module};
use crate::bundle::Bundle;
use crate::cgroups::systemd::{self, Buses};
use crate::cgroups::{self, resctrl};
use crate::create::init::{make_keyring, raise_loopback};
use crate::create::spawn::Spawned;
use crate::create::{enter_unit, intent, ready_cgroup};
use crate::criu::message::{Kind as Request, request};
use crate::criu::{self, Criu, FIRST_DESCRIPTOR, Step, Streams as CriusStreams};
use crate::destroy;
use crate::error::{InField as _, Kind as ErrorKind, OfKind as _, message};
use crate::handover::{Handover, console};
use crate::host;
use crate::log;
use crate::plan::Plan;
use crate::plan::cgroup::{CgroupPlan, Stage};
use crate::plan::checkpoint::opened_namespaces;
use crate::plan::checkpoint::restore::{Facts, Typed, check, options, settings};
use crate::plan::mounts::{MountKind, MountStep};
use crate::plan::notify;
use crate::plan::request::{self, Cgroups, Streams};
use crate::plan::rootfs::Rootfs;
use crate::processes::open_process;
use crate::resolve::{self, Target};
use crate::store::{Container, ProcessFacts, Status, Store};
use crate::sys::mount::change_propagation;
use crate::sys::process as kernel;

/// The mount that becomes the root, in the directory of the container: CRIU wants one whose
/// parent nothing is mounted over.
const ROOT: &str = "criu-root";

/// How a container is to be restored.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// The directory of the image; a relative one counts from the bundle, as with runc.
    pub image: PathBuf,
    /// The directory of the log, where that is another one; likewise.
    pub work: Option<PathBuf>,
    /// The directory of the bundle.
    pub bundle: PathBuf,
    /// What is said of cgroups.
    pub cgroups: Cgroups,
    /// Where systemd is looked for.
    pub buses: Buses,
    /// Who serves a terminal.
    pub streams: Streams,
    /// Who is told of the init process.
    pub handover: Handover,
    /// What is told to CRIU.
    pub typed: Typed,
}

/// A container that runs again, as the caller who stays has it.
#[derive(Debug)]
pub struct Restored {
    /// What is remembered of it.
    pub container: Container,
    /// Its init process, a child of this one.
    pub init: Spawned,
    /// The master side of the terminal, where the caller serves it.
    pub master: Option<OwnedFd>,
}

/// Restores the container `id`. Where that fails nothing is left of it.
pub fn restore(store: &Store, id: &str, asked: &RestoreOptions) -> Result<Restored> {
    crate::store::check_id(id)?;
    let host = host::gather(asked.cgroups, &asked.buses)?;
    refuse_ordinary(&host)?;
    let bundle = Bundle::load(&asked.bundle, None).of_kind(ErrorKind::Configuration)?;
    let wants_terminal =
        bundle.spec.process().as_ref().is_some_and(|process| process.terminal() == Some(true));
    let request = request::Request {
        cgroups: asked.cgroups,
        streams: host::with_size_of_terminal(&asked.streams, wants_terminal),
        ..request::Request::new(&bundle.spec, &bundle.path, id)
    };
    let plan = Plan::new(&request, &host).of_kind(ErrorKind::Configuration)?;
    log::debug(|| plan.summary());
    check(&bundle.spec, &plan)?;
    security_module::refuse_missing(plan.process.as_ref(), plan.rootfs.label.as_deref())?;
    bundle.warnings.iter().chain(&plan.warnings).for_each(log::warn);
    let image = Directory::open(&bundle.path.join(&asked.image)).context("--image-path")?;
    image.check().context("--image-path")?;
    let descriptors = image.descriptors().context("--image-path")?;
    let work = asked.work.as_ref().map(|work| Directory::make(&bundle.path.join(work)));
    let work = work.transpose().context("--work-path")?;
    let has_config_file = has_settings(settings(&bundle.spec).as_deref())?;
    let console = console::connect(plan.process.as_ref())?;
    let version = criu::version()?;
    let intel_rdt = plan.intel_rdt.as_ref().map(resctrl::settle).transpose()?;
    let groups = intel_rdt.as_ref().map(|settled| settled.group.clone());
    let record = intent(&bundle, &plan, groups, id, &host)?;
    let container = Container { directory: store.reserve(id)?, record };
    let facts = Facts {
        version,
        descriptors,
        has_config_file,
        first_namespace: FIRST_DESCRIPTOR,
        ..Facts::default()
    };
    let mut making = Making {
        plan: &plan,
        bundle: &bundle,
        asked,
        container,
        cgroup: cgroups::CreatedGroups::default(),
        moved: None,
        is_asked_for: false,
        console: console.as_ref(),
        init: None,
        master: None,
    };
    match making.make(intel_rdt, facts, (&image, work.as_ref())) {
        Ok(init) => Ok(Restored { container: making.container, init, master: making.master }),
        Err(error) => {
            log::debug(|| format!("{}: what was made is undone", message(&error)));
            if !making.is_asked_for {
                making.container.record.unit = None;
            }
            destroy::undo_create(making.container, making.cgroup);
            Err(error)
        }
    }
}

/// CRIU where the root is laid out.
struct Started {
    criu: Criu,
    /// Where binds are to be, with their sources.
    bound: Vec<(PathBuf, PathBuf)>,
    /// The directories, as CRIU sees them.
    image: Directory,
    work: Option<Directory>,
}

/// A container while it is restored.
struct Making<'a> {
    plan: &'a Plan,
    bundle: &'a Bundle,
    asked: &'a RestoreOptions,
    container: Container,
    /// What of its cgroup was not there before.
    cgroup: cgroups::CreatedGroups,
    /// Where systemd has put it.
    moved: Option<CgroupPlan>,
    /// Whether systemd was asked for it.
    is_asked_for: bool,
    /// The socket for the terminal.
    console: Option<&'a OwnedFd>,
    /// The process that CRIU has made.
    init: Option<Spawned>,
    master: Option<OwnedFd>,
}

impl Making<'_> {
    fn make(
        &mut self,
        intel_rdt: Option<resctrl::Settled>,
        mut facts: Facts,
        (image, work): (&Directory, Option<&Directory>),
    ) -> Result<Spawned> {
        // First: whatever happens from here on, `delete --force` knows what to look for.
        self.container.save_first()?;
        self.container.keep_config(&self.bundle.text)?;
        // The image may have a mount of it, on which nobody listens any more.
        let notify = self.container.directory.join(notify::DIRECTORY);
        fs::create_dir(&notify).with_context(|| format!("mkdir {notify:?}"))?;
        if self.plan.unit.is_none() {
            self.cgroup = cgroups::create(&self.plan.cgroup, &self.container.directory)?;
            ready_cgroup(self.plan, &self.plan.cgroup)?;
        }
        if let (Some(settled), Some(groups)) = (intel_rdt, &mut self.container.record.intel_rdt) {
            settled.make(groups)?;
        }
        let namespaces = opened_namespaces(&self.plan.namespaces);
        let namespaces = namespaces.map(|join| Ok(open_joined(join)?.namespace));
        let namespaces = namespaces.collect::<Result<Vec<_>>>()?;
        let Started { mut criu, bound, image, work } = self.start(namespaces, (image, work))?;
        // What CRIU makes is born where CRIU is.
        self.enter_groups(criu.pid())?;
        facts.images = image.number();
        facts.work = work.as_ref().map(Directory::number);
        facts.bound = bound;
        facts.bound.push((notify::INSIDE.into(), notify));
        facts.root = self.container.directory.join(ROOT);
        facts.group = self.cgroup_plan().group.clone();
        facts.groups = cgroups::places_of(criu.pid())?;
        let options = options(self.plan, &self.bundle.spec, &self.asked.typed, facts)?;
        log::debug(|| format!("criu: restore: {options:?}"));
        criu.send(&request(Request::Restore, &options))?;
        let answer = criu.answer(|step| self.reached(step))?;
        if !answer.success {
            let work = work.as_ref().unwrap_or(&image);
            let place = (work.as_fd(), work.path.as_path());
            return Err(criu::failure("restore the container", &answer, &options, place));
        }
        criu.end(false)?;
        let init = self.init.take().context("criu has restored no process")?;
        if answer.pid != Some(init.pid.as_raw()) {
            bail!("criu has restored process {:?}, and spoke of {}", answer.pid, init.pid);
        }
        // For whoever reads the record it runs from here on.
        self.container.record.creator = None;
        if let (Some(plan), Some(group)) =
            (&self.plan.intel_rdt, &mut self.container.record.intel_rdt)
        {
            group.owned &= !plan.outlives_container();
        }
        self.container.save()?;
        self.asked.handover.tell_of(init.pid.as_raw(), &init.pidfd)?;
        Ok(init)
    }

    /// Starts CRIU where the root is laid out. A thread of its own goes there, and ends: this one
    /// stays where the caller is.
    fn start(
        &self,
        namespaces: Vec<OwnedFd>,
        (image, work): (&Directory, Option<&Directory>),
    ) -> Result<Started> {
        let (plan, id) = (self.plan, self.container.record.id.as_str());
        let root = self.container.directory.join(ROOT);
        fs::create_dir(&root).with_context(|| format!("mkdir {root:?}"))?;
        in_a_thread(move || {
            make_new(&[Kind::Mount])?;
            change_propagation(c"/", libc::MS_SLAVE | libc::MS_REC)
                .context("change the propagation of /")?;
            let bound = lay_out(&plan.rootfs, &root)?;
            // What is restored inherits these of CRIU, and no image tells of them.
            if plan.new_keyring {
                make_keyring(id);
            }
            if let Some((class, priority)) = plan.process.as_ref().and_then(|own| own.io_priority) {
                kernel::set_io_priority(class, priority).context("ioprio_set")?;
            }
            take_all_processors();
            // CRIU mounts in there.
            let (image, work) = (image.again()?, work.map(Directory::again).transpose()?);
            Ok(Started {
                criu: Criu::start(CriusStreams::Callers, namespaces)?,
                bound,
                image,
                work,
            })
        })
    }

    /// Puts CRIU into the groups of the container.
    fn enter_groups(&mut self, pid: u32) -> Result<()> {
        if let Some(unit) = &self.plan.unit {
            let starting = systemd::ask_for(unit, self.container.unit_mark(), pid);
            let starting = starting.in_field("linux.cgroupsPath")?;
            self.is_asked_for = true;
            self.moved = Some(enter_unit(&mut self.container, self.plan, starting)?);
        } else {
            cgroups::put_into(&self.plan.cgroup.group, pid).in_field("linux.cgroupsPath")?;
        }
        let Some(groups) = &self.container.record.intel_rdt else { return Ok(()) };
        for file in resctrl::tasks(groups)? {
            cgroups::try_write(&file, &pid.to_string())
                .with_context(|| format!("write {pid} to {file:?}"))
                .in_field("linux.intelRdt")?;
        }
        Ok(())
    }

    /// Its groups, where they are by now.
    fn cgroup_plan(&self) -> &CgroupPlan {
        self.moved.as_ref().unwrap_or(&self.plan.cgroup)
    }

    /// Answers CRIU's steps.
    fn reached(&mut self, step: Step) -> Result<()> {
        match (step.name.as_str(), step.pid) {
            ("setup-namespaces", Some(pid)) => {
                self.remember(pid)?;
                self.set_up_network(pid)?;
                let state = self.container.record.identity().for_hooks(Status::Created, pid);
                let bundle = &self.container.record.bundle;
                hooks::run(&self.plan.hooks.prestart, &state, bundle)?;
                hooks::run(&self.plan.hooks.create_runtime, &state, bundle)
            }
            ("orphan-pts-master", _) => {
                let master = step.descriptor.context("criu sends no terminal")?;
                self.master = console::deliver(self.console, master)?;
                Ok(())
            }
            ("post-restore", Some(pid)) => self.remember(pid),
            // Everything is as the image says, and nothing has run yet.
            ("pre-resume", _) => self.check_tasks(),
            _ => Ok(()),
        }
    }

    /// Puts the init process on disk.
    fn remember(&mut self, pid: i32) -> Result<()> {
        let facts = ProcessFacts::read(pid)?.context("the init process is gone")?;
        let id = facts.id()?;
        let record = &mut self.container.record;
        record.init = Some(id);
        record.restored = true;
        // CRIU gives it clocks of its own, which go on from where they were.
        let inode = |process: &str| {
            rustix::fs::stat(format!("/proc/{process}/ns/time")).map(|found| found.st_ino).ok()
        };
        let has_own_time = inode(&pid.to_string()) != inode("self");
        if has_own_time && !record.namespaces.contains(&Kind::Time) {
            record.namespaces.push(Kind::Time);
        }
        let pidfd = open_process(id)?.context("the init process is gone")?;
        self.init =
            Some(Spawned { pid: Pid::from_raw(pid), pidfd, is_between: false, is_seen: false });
        self.container.save()
    }

    /// The network namespace is a new one, of which the image holds nothing.
    fn set_up_network(&self, pid: i32) -> Result<()> {
        if !self.plan.namespaces.is_new(Kind::Network) {
            return Ok(());
        }
        // The others are in the image.
        let of_network = self.plan.sysctls.iter().filter(|sysctl| sysctl.path.starts_with("net/"));
        let sysctls: Vec<_> = of_network.cloned().collect();
        let parameters = Parameters::find(&sysctls);
        let path = format!("/proc/{pid}/ns/net");
        let namespace = fs::File::open(&path).context(path)?;
        in_a_thread(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).context("setns")?;
            raise_loopback()?;
            parameters.write(&sysctls)
        })
    }

    /// Refuses an image that would give a process more than the configuration allows. Whatever
    /// the answer, CRIU would let them run now: so they are killed before it gets any.
    fn check_tasks(&mut self) -> Result<()> {
        let Some(init) = &self.init else { bail!("criu has told of no process") };
        let init = init.pid.as_raw();
        let cgroup = self.cgroup_plan();
        let check = || -> Result<()> {
            let label = self.asked.typed.lsm_profile.as_deref();
            tasks::check(init, self.plan, &cgroup.group, label)?;
            cgroups::apply_settings(&cgroup.settings, Some(Stage::Last))?
                .iter()
                .for_each(log::warn);
            Ok(())
        };
        check().inspect_err(|_| tasks::kill(init))
    }
}

/// Does something in a thread, which may go elsewhere for it and ends there.
fn in_a_thread<T: Send>(act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, act);
        let done = thread.context("clone: a thread")?.join();
        done.unwrap_or_else(|_| bail!("a thread of the runtime has ended without a word"))
    })
}

/// Makes the places of mounts that are not there, and mounts the root. Returns where binds are
/// to be, links followed, with their sources.
fn lay_out(rootfs: &Rootfs, root: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let path = &rootfs.path;
    let own = resolve::root(path).with_context(|| format!("{path:?}")).in_field("root.path")?;
    let mount = || -> Result<OwnedFd> {
        let tree = mounts::clone_tree(&own, true)?;
        let place = resolve::root(root).with_context(|| format!("{root:?}"))?;
        mounts::attach(&tree, place)?;
        Ok(tree)
    };
    let tree = mount().in_field("root.path")?;
    let mut bound = Vec::new();
    let mut covered: Vec<&Path> = Vec::new();
    for step in &rootfs.mounts {
        // What lies in a file system of the container's own is in the image.
        let is_covered = covered.iter().any(|place| step.target.starts_with(place));
        match &step.kind {
            MountKind::Bind(bind) if !is_covered => {
                bound.extend(lay(&tree, step)?.map(|place| (place, bind.source.clone())));
            }
            MountKind::New(_) if !is_covered => {
                resolve::make(&tree, &step.target, Target::Directory)
                    .in_field(step.field.of("destination"))?;
                covered.push(&step.target);
            }
            _ => {}
        }
    }
    if let Some(cwd) = &rootfs.cwd {
        // Or it is in the image.
        let _ = resolve::make(&tree, cwd, Target::Directory);
    }
    drop(tree);
    // What was bound only so that places in it could be made goes again.
    unmount(root, UnmountFlags::DETACH).context("umount the root")?;
    mount().in_field("root.path")?;
    Ok(bound)
}

/// Binds the source of a step, for what comes to lie in it. Returns where that is.
fn lay(root: &OwnedFd, step: &MountStep) -> Result<Option<PathBuf>> {
    let MountKind::Bind(bind) = &step.kind else { return Ok(None) };
    mounts::apply(root, step, &|| mounts::open_source(step, bind))?;
    Ok(place_of(root, &step.target))
}
