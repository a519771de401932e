//! The creator's side of `create` and `run`: from a plan to a container that
//! waits for its program.
//!
//! What is about to be made is written down first. So there is one way to undo,
//! whether this process fails or is killed: `destroy` removes whatever the record
//! names.

pub mod init;
mod procfs;
pub mod spawn;

use std::collections::BTreeMap;
use std::fs;
use std::mem::take;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use oci_spec::runtime::LinuxNamespaceType as Kind;

use self::spawn::{KilledAtBirth, Spawned};
use crate::apply::inherited::OomScoreAdj;
use crate::apply::net_devices::{Destination, FoundDevice};
use crate::apply::security_module::{self, LabelWriter};
use crate::apply::stdio::give_pipes;
use crate::apply::sysctls::Parameters;
use crate::apply::{hooks, mounts, namespaces, net_devices, process, rootfs};
use crate::bundle::Bundle;
use crate::cgroups::systemd::{self, Buses, Starting};
use crate::cgroups::{self, Entering, resctrl};
use crate::channel::gate::{self, Verdict};
use crate::channel::{self, CreatorEnd, FromInit, ToInit};
use crate::destroy;
use crate::error::{self, InField as _, OfKind as _, message};
use crate::handover::seccomp_agent;
use crate::handover::{Handover, console};
use crate::host;
use crate::log;
use crate::plan::cgroup::{CgroupPlan, Group, Stage};
use crate::plan::host::Host;
use crate::plan::intel_rdt::ClassGroup;
use crate::plan::mounts::{MappedIds, MountKind};
use crate::plan::namespaces::Namespaces;
use crate::plan::request::{Cgroups, Request, Streams};
use crate::plan::rootfs::Rootfs;
use crate::plan::{Plan, notify};
use crate::resolve;
use crate::store::Identity;
use crate::store::{Container, ProcessFacts, ProcessId, Record, RecordedMount, Status, Store};
use crate::sys::process::{self as kernel, OneThread};
use crate::time;

/// How a container is to be created.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// The directory of the bundle.
    pub bundle: PathBuf,
    /// Another file than config.json in it.
    pub config: Option<PathBuf>,
    /// The program and its arguments, where they are to be others than the bundle's.
    pub args: Vec<String>,
    /// What is said of cgroups.
    pub cgroups: Cgroups,
    /// Where systemd is looked for.
    pub buses: Buses,
    /// What the program's descriptors are to be.
    pub streams: Streams,
    /// Whether the program stays in the caller's session keyring.
    pub keeps_keyring: bool,
    /// Whether pivot_root(2) is not to be used.
    pub no_pivot: bool,
    /// Whether a service manager wants to know when the program is ready.
    pub notifies: bool,
    /// Who is told of the init process.
    pub handover: Handover,
    /// Whether the caller stays to run the program.
    pub stays: bool,
    /// That there is no thread which a copy of this process would lack.
    pub alone: OneThread,
}

/// A container that waits for its program, as the caller who stays has it.
#[derive(Debug)]
pub struct CreatedContainer {
    /// What is remembered of it.
    pub container: Container,
    /// Its init process.
    pub init: Spawned,
    /// The way to init.
    pub channel: CreatorEnd,
    /// The page for the result of execve(2); None where `start` brings it.
    pub verdict: Option<Verdict>,
    /// The master side of the terminal, where the caller serves it.
    pub master: Option<OwnedFd>,
    /// Whether a filter may forbid init to become the program.
    pub is_filtered: bool,
}

/// Creates the container `id`. Where that fails nothing is left of it.
pub fn create(store: &Store, id: &str, options: &CreateOptions) -> Result<CreatedContainer> {
    crate::store::check_id(id)?;
    let mut bundle = Bundle::load(&options.bundle, options.config.as_deref());
    if !options.args.is_empty() {
        bundle = bundle.and_then(|bundle| bundle.with_args(&options.args));
    }
    let bundle = bundle.of_kind(error::Kind::Configuration)?;
    log::debug(|| format!("bundle {:?}: {} bytes of config.json", bundle.path, bundle.text.len()));
    let directory = store.directory(id)?;
    let wants_terminal =
        bundle.spec.process().as_ref().is_some_and(|process| process.terminal() == Some(true));
    let request = Request {
        cgroups: options.cgroups,
        streams: host::with_size_of_terminal(&options.streams, wants_terminal),
        keeps_keyring: options.keeps_keyring,
        no_pivot: options.no_pivot,
        notify: options.notifies.then(|| directory.join(notify::DIRECTORY)),
        ..Request::new(&bundle.spec, &bundle.path, id)
    };
    let host = host::gather(options.cgroups, &options.buses)?;
    log::debug(|| host.summary());
    let plan = Plan::new(&request, &host).of_kind(error::Kind::Configuration)?;
    log::debug(|| plan.summary());
    security_module::refuse_missing(plan.process.as_ref(), plan.rootfs.label.as_deref())?;
    bundle.warnings.iter().chain(&plan.warnings).for_each(log::warn);
    let console = console::connect(plan.process.as_ref())?;

    let (making, made) = spawn::born_alive(|entering| {
        let intel_rdt = plan.intel_rdt.as_ref().map(resctrl::settle).transpose()?;
        let groups = intel_rdt.as_ref().map(|settled| settled.group.clone());
        let record = intent(&bundle, &plan, groups, id, &host)?;
        let container = Container { directory: store.reserve(id)?, record };
        log::debug(|| format!("container {id:?}: remembered in {:?}", container.directory));
        let cgroup = cgroups::CreatedGroups::default();
        let (plan, host) = (&plan, &host);
        let mut making = Making {
            plan,
            host,
            options,
            intel_rdt,
            container,
            cgroup,
            entering,
            is_asked_for: false,
            moved: None,
        };
        match making.make(&bundle, console.as_ref()) {
            Ok(made) => Ok((making, made)),
            Err(error) => {
                log::debug(|| format!("{}: what was made is undone", message(&error)));
                // `delete --force` need not wait for a create that has made nothing yet.
                let made = &making.container;
                let is_deleted = !made.directory.exists() || made.is_replaced();
                if !making.is_asked_for {
                    making.container.record.unit = None;
                }
                if entering == Entering::AtBirth && error.is::<KilledAtBirth>() {
                    // It is made again: no container has stopped.
                    making.container.record.poststop.clear();
                }
                destroy::undo_create(making.container, making.cgroup);
                let gone = || format!("container {id:?} does not exist: it was deleted meanwhile");
                if is_deleted { Err(error).with_context(gone) } else { Err(error) }
            }
        }
    })?;
    let (init, channel, verdict, master) = made;
    let is_filtered = plan.process.as_ref().is_some_and(|process| process.filter.is_some());
    Ok(CreatedContainer {
        container: making.container,
        init,
        channel,
        verdict,
        master,
        is_filtered,
    })
}

/// What will be remembered, before anything of it exists.
pub fn intent(
    bundle: &Bundle,
    plan: &Plan,
    groups: Option<ClassGroup>,
    id: &str,
    host: &Host,
) -> Result<Record> {
    let namespaces = &plan.namespaces;
    let joined = namespaces.joined.iter().map(|join| join.kind);
    Ok(Record {
        version: crate::store::VERSION,
        id: id.to_owned(),
        bundle: bundle.path.clone(),
        rootfs: plan.rootfs.path.clone(),
        created: time::now_rfc3339(9),
        owner: host.uid,
        boot: crate::processes::boot_id().unwrap_or_default().to_owned(),
        creator: Some(own_id()?),
        init: None,
        stdio: stdio(plan),
        restored: false,
        has_process: plan.process.is_some(),
        namespaces: namespaces.new.iter().copied().chain(joined).collect(),
        own_pids: namespaces.is_new(Kind::Pid),
        group: if plan.unit.is_some() { Group::default() } else { plan.cgroup.group.clone() },
        unit: plan.unit.as_ref().map(|plan| plan.unit.clone()),
        intel_rdt: groups,
        callers_keyring: !plan.new_keyring,
        mounts: mounts_to_undo(plan)?,
        annotations: bundle
            .spec
            .annotations()
            .iter()
            .flatten()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect::<BTreeMap<_, _>>(),
        poststart: plan.hooks.poststart.clone(),
        poststop: plan.hooks.poststop.clone(),
    })
}

/// What init will have as stdin, stdout and stderr: what this process has, but for a terminal.
/// Names of files are bytes; what is no text is found by nobody, and stands for itself here.
fn stdio(plan: &Plan) -> Vec<String> {
    if plan.process.as_ref().is_some_and(|process| process.terminal.is_some()) {
        return Vec::new();
    }
    let link = |number: u32| {
        let link = rustix::fs::readlink(format!("/proc/self/fd/{number}"), Vec::new());
        link.map(|link| link.to_string_lossy().into_owned()).unwrap_or_default()
    };
    (0..3).map(link).collect()
}

/// Gives a group that is there to whom it is to belong, and limits that stand in nobody's way.
pub fn ready_cgroup(plan: &Plan, group: &CgroupPlan) -> Result<()> {
    if let Some(uid) = plan.cgroup_owner {
        cgroups::delegate(&group.group, uid).in_field("linux.cgroupsPath")?;
    }
    cgroups::apply_settings(&group.settings, Some(Stage::Early))?.iter().for_each(log::warn);
    if let Some(devices) = &group.devices {
        cgroups::apply_devices(devices).in_field("linux.resources.devices")?;
    }
    Ok(())
}

/// Waits until the new process is in its unit, and puts that on disk. Returns the group that it
/// is in then.
pub fn enter_unit(
    container: &mut Container,
    plan: &Plan,
    starting: Starting,
) -> Result<CgroupPlan> {
    let planned = plan.cgroup.group.unified().context("no cgroup v2")?;
    let (unit, place) = starting.wait(planned).in_field("linux.cgroupsPath")?;
    let group = Group { directories: vec![place.clone()] };
    container.record.group = group.clone();
    container.record.unit = Some(unit);
    container.save()?;
    if place != *planned && plan.rootfs.shows(&planned.path) {
        bail!(
            "linux.cgroupsPath: systemd has put the container into {:?}, not {:?}: it needs a cgroup namespace",
            place.path,
            planned.path
        );
    }
    cgroups::mark(&group, &container.directory)?;
    let moved = plan.cgroup.clone().moved_to(&place);
    cgroups::hand_down(&moved)?;
    ready_cgroup(plan, &moved)?;
    Ok(moved)
}

fn own_id() -> Result<ProcessId> {
    ProcessFacts::read(std::process::id() as i32)?.context("/proc: this process is not there")?.id()
}

/// Without a mount namespace of its own a container leaves its mounts behind. What
/// lies at their places now tells them apart from others' later.
fn mounts_to_undo(plan: &Plan) -> Result<Vec<RecordedMount>> {
    let Rootfs { path, .. } = &plan.rootfs;
    if plan.namespaces.has(Kind::Mount) {
        return Ok(Vec::new());
    }
    let root = resolve::root(path).with_context(|| format!("{path:?}")).in_field("root.path")?;
    let before = |target: PathBuf| {
        let before = mounts::mount_id(&root, &target).unwrap_or(0);
        RecordedMount { target, before }
    };
    Ok(plan.rootfs.mount_points().map(before).collect())
}

/// A container while it is made.
struct Making<'a> {
    plan: &'a Plan,
    host: &'a Host,
    options: &'a CreateOptions,
    /// Until they are made.
    intel_rdt: Option<resctrl::Settled>,
    container: Container,
    /// What of its cgroup was not there before.
    cgroup: cgroups::CreatedGroups,
    /// How its processes come into it.
    entering: Entering,
    /// Whether systemd was asked for it.
    is_asked_for: bool,
    /// Where systemd has put it.
    moved: Option<CgroupPlan>,
}

/// What init may still say before it is ready, each once: in a joined pid namespace somebody
/// else may make it speak.
#[derive(Debug, Default)]
struct Due {
    terminal: bool,
    hooks: bool,
    listener: bool,
}

type Made = (Spawned, CreatorEnd, Option<Verdict>, Option<OwnedFd>);

impl Making<'_> {
    /// From the intent on disk to a created container. The order is not free: beside each step
    /// stands why it is here.
    fn make(&mut self, bundle: &Bundle, console: Option<&OwnedFd>) -> Result<Made> {
        // First: whatever happens from here on, `delete --force` knows what to look for.
        self.container.save_first()?;
        // Where the record is lost, the copy still tells which group it was.
        self.container.keep_config(&bundle.text)?;
        // Before init mounts it.
        if let Some(path) = &self.plan.notify {
            fs::create_dir(path).with_context(|| format!("mkdir {path:?}"))?;
        }
        // Before the clone, which begins in it. A unit of systemd's needs a process first.
        if self.plan.unit.is_none() {
            self.cgroup = cgroups::create(&self.plan.cgroup, &self.container.directory)?;
            ready_cgroup(self.plan, &self.plan.cgroup)?;
        }
        // Also before the clone; this lets go of the lock that others wait for.
        let groups = &mut self.container.record.intel_rdt;
        if let (Some(settled), Some(groups)) = (self.intel_rdt.take(), groups) {
            settled.make(groups)?;
        }
        // While they are still the caller's: init sets them up once they have been moved.
        let devices = net_devices::find(&self.plan.net_devices)?;
        let (mut init, channel, verdict) = self.spawn(&devices)?;
        let master = match self.prepare(&mut init, &channel, &devices, console) {
            Ok(master) => master,
            Err(error) => {
                let error = init.explain(error);
                if init.has_ended().unwrap_or_default() {
                    init.reap();
                }
                if init.is_between {
                    // Nothing but this process knows of it.
                    init.abandon(channel);
                }
                return Err(error);
            }
        };
        // Limits that could stand in the way of init itself, and it must have outlived them.
        let group = self.moved.as_ref().unwrap_or(&self.plan.cgroup);
        cgroups::apply_settings(&group.settings, Some(Stage::Last))?.iter().for_each(log::warn);
        self.refuse_dead(&init)?;
        // For whoever reads the record it is created from here on. A class of service with a name
        // has been its own so far, for a failure to take back; now it stays.
        self.container.record.creator = None;
        let groups = &mut self.container.record.intel_rdt;
        if let (Some(plan), Some(group)) = (&self.plan.intel_rdt, groups) {
            group.owned &= !plan.outlives_container();
        }
        self.container.save()?;
        // Last: who is told may start it at once.
        self.options.handover.tell_of(init.pid.as_raw(), &init.pidfd)?;
        log::debug(|| format!("container {:?}: created", self.container.record.id));
        Ok((init, channel, verdict, master))
    }

    /// Sees the container through until its init process is ready. Returns the terminal, where
    /// the caller serves it.
    fn prepare(
        &mut self,
        init: &mut Spawned,
        channel: &CreatorEnd,
        devices: &[FoundDevice],
        console: Option<&OwnedFd>,
    ) -> Result<Option<OwnedFd>> {
        // Before init is told that it is placed, upon which it no longer ends with this process.
        if !init.is_between {
            self.remember(init)?;
        }
        // systemd works on it while the new process makes its mounts.
        let unit = self.plan.unit.as_ref();
        let ask =
            |unit| systemd::ask_for(unit, self.container.unit_mark(), init.pid.as_raw() as u32);
        let starting = unit.map(ask).transpose();
        let starting = starting.in_field("linux.cgroupsPath")?;
        self.is_asked_for = starting.is_some();
        // Init waits for its ids before it does anything in a new user namespace.
        self.place(init, channel, devices)?;
        // Its cgroup namespace has its root where it is then, and a tree may show that.
        if let Some(starting) = starting {
            let moved = enter_unit(&mut self.container, self.plan, starting);
            self.moved = Some(moved.map_err(|error| Self::reason(channel, init, error))?);
            let _ = channel.send(&ToInit::Grouped);
        }
        // They take the maps of its ids.
        self.open_trees(init, channel)?;
        self.converse(channel, init, console)
    }

    /// What went wrong where systemd was to get a process that is ending meanwhile: what that
    /// has said.
    fn reason(channel: &CreatorEnd, init: &Spawned, error: anyhow::Error) -> anyhow::Error {
        let facts = ProcessFacts::read(init.pid.as_raw());
        if !facts.is_ok_and(|facts| facts.is_some_and(|facts| facts.is_exiting)) {
            return error;
        }
        while let Ok(Some((said, _))) = init.hear(channel, || Ok(false)) {
            if let FromInit::Failed(failure) = said {
                return failure.into_error();
            }
        }
        error
    }

    /// Puts the init process on disk.
    fn remember(&mut self, init: &Spawned) -> Result<()> {
        let facts = ProcessFacts::read(init.pid.as_raw())?.context("the init process is gone")?;
        self.container.record.init = Some(facts.id()?);
        self.container.save()
    }

    fn spawn(&self, devices: &[FoundDevice]) -> Result<(Spawned, CreatorEnd, Option<Verdict>)> {
        let (creator, end) = channel::pair()?;
        let cgroup = self.cgroup()?;
        let creator_root = rootfs::root_mount()?;
        kernel::ignored_signals();
        // A caller who stays shares a page with init; else `start` will bring one.
        let verdict = self.options.stays.then(Verdict::new).transpose()?;
        let start = match &verdict {
            Some(verdict) => init::StartedBy::Creator(verdict),
            None => init::StartedBy::Gate(gate::make(self.container.open_directory()?)?),
        };
        let labels = LabelWriter::open(self.plan.process.as_ref())?;
        let around = init::Given {
            start,
            identity: self.identity(),
            creator_root,
            labels: labels.as_ref(),
            net_devices: devices,
            parameters: Parameters::find(&self.plan.sysctls),
        };
        let plan = self.plan;
        plan.process.iter().filter_map(|process| process.pipes_owner).for_each(give_pipes);
        let _inherited = OomScoreAdj::take(plan.process.as_ref())?;
        // Others in the caller's pid namespace see it: it is hidden from its first moment.
        if !plan.hides_itself {
            kernel::hide().context("prctl")?;
        }
        let alone = self.options.alone;
        let namespaces = &plan.namespaces;
        let init =
            spawn::container(alone, namespaces, &cgroup, &creator, end, |alone, end, left| {
                init::container(alone, plan, around, left, end)
            })?;
        log::debug(|| init.summary("init"));
        Ok((init, creator, verdict))
    }

    /// Gives the process its ids, its offsets and its network interfaces, and says so.
    fn place(&self, init: &Spawned, channel: &CreatorEnd, devices: &[FoundDevice]) -> Result<()> {
        let Namespaces { id_maps, time_offsets, .. } = &self.plan.namespaces;
        if self.plan.namespaces.announces() {
            match init.hear(channel, || Ok(false))? {
                Some((FromInit::Unshared, _)) => {}
                Some((FromInit::Failed(failure), _)) => return Err(failure.into_error()),
                Some((other, _)) => bail!("{other:?} out of turn from the init process"),
                None => return Err(self.cause_of_death(init)),
            }
        }
        if let Some(maps) = id_maps {
            namespaces::write_id_maps(init.pid, maps, self.host.uid, self.host.gid)?;
        }
        if self.plan.namespaces.gets_offsets() {
            namespaces::write_time_offsets(init.pid, time_offsets)?;
        }
        if !devices.is_empty() {
            let joined = &self.plan.namespaces.joined;
            let destination = match joined.iter().find(|join| join.kind == Kind::Network) {
                Some(join) => Destination::Namespace(namespaces::open_joined(join)?),
                None => Destination::Process(init.pid),
            };
            net_devices::move_to(&destination, devices)?;
        }
        log::debug(|| format!("init {}: has its ids, and is on record", init.pid));
        // Where init has died over something, it has said so, and that is read next.
        let _ = channel.send(&ToInit::Placed);
        Ok(())
    }

    /// Opens what init cannot, and hands it over in the order of the mounts.
    fn open_trees(&self, init: &Spawned, channel: &CreatorEnd) -> Result<()> {
        for step in self.plan.rootfs.opened_by_creator() {
            let tree = match &step.kind {
                MountKind::Bind(bind) => {
                    let tree = mounts::open_source(step, bind)?;
                    if let Some(ids) = &bind.ids {
                        self.map_ids(&tree, ids, init).in_field(step.field)?;
                    }
                    tree
                }
                _ => self.open_procfs().in_field(step.field)?,
            };
            if channel.send_with(&ToInit::Tree, &tree).is_err() {
                // Init has died over something, and that is read next.
                break;
            }
        }
        Ok(())
    }

    /// The procfs of the pid namespace that is joined.
    fn open_procfs(&self) -> Result<OwnedFd> {
        let joined = self.plan.namespaces.joined.iter();
        let joined = joined.filter(|join| matches!(join.kind, Kind::Pid | Kind::User));
        let opened = joined.map(namespaces::open_joined).collect::<Result<Vec<_>>>()?;
        procfs::context_in(self.options.alone, opened, &self.cgroup()?)
    }

    /// The container's cgroup, to be entered.
    fn cgroup(&self) -> Result<spawn::Groups> {
        let record = &self.container.record;
        if self.plan.unit.is_some() {
            return spawn::Groups::open_later(record.intel_rdt.as_ref());
        }
        spawn::Groups::open(&self.plan.cgroup.group, record.intel_rdt.as_ref(), self.entering)
    }

    fn map_ids(&self, tree: &OwnedFd, ids: &MappedIds, init: &Spawned) -> Result<()> {
        let user_namespace = match &ids.own {
            Some(maps) => namespaces::user_namespace(maps, self.host.uid, self.host.gid)?,
            None => namespaces::user_namespace_of(init.pid)?,
        };
        mounts::map_ids(tree, ids.recursive, user_namespace)
    }

    /// Answers init until it is ready. Returns the terminal, where the caller serves it.
    fn converse(
        &mut self,
        channel: &CreatorEnd,
        init: &mut Spawned,
        console: Option<&OwnedFd>,
    ) -> Result<Option<OwnedFd>> {
        let mut due = self.due();
        let mut terminal = None;
        loop {
            match init.hear(channel, || Ok(false))? {
                Some((FromInit::Spawned, Some(pidfd))) => {
                    init.is_succeeded_by(pidfd)?;
                    due = Due::default();
                    self.remember(init)?;
                    log::debug(|| init.summary("init"));
                    if let Some(process) = &self.plan.process
                        && process.gets_scheduler_by_creator()
                    {
                        process::set_scheduler(process, init.pid.as_raw())?;
                    }
                    // Where it has died over something, it has said so, and that is read next.
                    let _ = channel.send(&ToInit::Known);
                }
                Some((FromInit::Listener, Some(listener))) if take(&mut due.listener) => {
                    let (pid, status) = (init.pid.as_raw(), Status::Creating);
                    seccomp_agent::hand_over(&self.container, pid, status, &listener)?;
                    channel.send(&ToInit::ListenerTaken).map_err(|_| self.cause_of_death(init))?;
                }
                Some((FromInit::Ready, _)) if !init.is_between => {
                    log::debug(|| format!("init {}: ready, with the program's rights", init.pid));
                    return Ok(terminal);
                }
                Some((FromInit::RootfsReady, _)) if take(&mut due.hooks) => {
                    self.run_creators_hooks(init)?;
                    channel.send(&ToInit::HooksDone).map_err(|_| self.cause_of_death(init))?;
                }
                Some((FromInit::Console, Some(master))) if take(&mut due.terminal) => {
                    terminal = console::deliver(console, master)?;
                }
                Some((FromInit::Failed(failure), _)) => return Err(failure.into_error()),
                Some((other, _)) => bail!("{other:?} out of turn from the init process"),
                None => return Err(self.cause_of_death(init)),
            }
        }
    }

    fn due(&self) -> Due {
        let process = self.plan.process.as_ref();
        let hooks = &self.plan.hooks;
        Due {
            terminal: process.is_some_and(|process| process.terminal.is_some()),
            hooks: !(hooks.prestart.is_empty() && hooks.create_runtime.is_empty()),
            listener: process
                .and_then(|process| process.filter.as_ref())
                .is_some_and(|f| f.notifies),
        }
    }

    fn run_creators_hooks(&self, init: &Spawned) -> Result<()> {
        let state = self.identity().for_hooks(Status::Created, init.pid.as_raw());
        let bundle = &self.container.record.bundle;
        hooks::run(&self.plan.hooks.prestart, &state, bundle)?;
        hooks::run(&self.plan.hooks.create_runtime, &state, bundle)
    }

    fn identity(&self) -> Identity<'_> {
        self.container.record.identity()
    }

    /// A small memory limit kills init after it was ready.
    fn refuse_dead(&self, init: &Spawned) -> Result<()> {
        if init.has_ended()? {
            return Err(self.cause_of_death(init));
        }
        Ok(())
    }

    /// Why the init process is gone without a word.
    fn cause_of_death(&self, init: &Spawned) -> anyhow::Error {
        if let Some(reason) = cgroups::want_of_memory(&self.container.record.group) {
            return reason;
        }
        // It is looked at once more before it is reaped.
        let id = Id::PIDFd(init.pidfd.as_fd());
        match waitid(id, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                anyhow::anyhow!("the init process was killed by {signal}")
            }
            Ok(WaitStatus::Exited(_, code)) => {
                anyhow::anyhow!("the init process ended with status {code}")
            }
            _ => anyhow::anyhow!("the init process is gone"),
        }
    }
}
