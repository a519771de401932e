//! Classes of service and MON groups in resctrl, the kernel's file system for Intel
//! RDT and AMD QoS (its resctrl.rst).
//!
//! Nothing here is called for a container without `linux.intelRdt`. Whoever looks at a
//! class in order to change something holds a lock on the file system, as resctrl.rst
//! asks of all who use it: a class is made and filled before another runtime compares it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Error, Result, bail, ensure};
use rustix::fs::{FlockOperation, FsWord, Mode, OFlags, flock, mkdir, open, rmdir, statfs};
use serde::Serialize;

use super::{mount_of, try_read, try_write};
use crate::error::InField as _;
use crate::plan::intel_rdt::{ClassGroup, FoundClass, IntelRdt, Lines, check_class};
use crate::processes::ProcessFacts;

/// Where it is mounted by convention.
const CONVENTION: &str = "/sys/fs/resctrl";
/// RDTGROUP_SUPER_MAGIC of linux/magic.h.
const MAGIC: FsWord = 0x0765_5821;

/// resctrl, where it is mounted.
#[derive(Debug)]
struct Resctrl {
    mount: PathBuf,
}

/// What is to be made for a container, settled. Others wait as long as this is there.
#[derive(Debug)]
pub struct Settled {
    /// The groups.
    pub group: ClassGroup,
    resctrl: Resctrl,
    lines: Vec<Lines>,
    _lock: OwnedFd,
}

/// Looks at what is there, and settles what is to be made.
pub fn settle(plan: &IntelRdt) -> Result<Settled> {
    let resctrl = Resctrl::find().in_field("linux.intelRdt")?;
    let lock = resctrl.lock().in_field("linux.intelRdt")?;
    let found = resctrl.look_at(&plan.class, plan.monitoring.as_deref());
    let (group, lines) = plan.settle(&found)?;
    Ok(Settled { group, resctrl, lines, _lock: lock })
}

/// Settles what `update` does: it writes to the class of the container `id`, which it
/// makes where there is none.
pub fn settle_update(recorded: Option<&ClassGroup>, id: &str, lines: Lines) -> Result<Settled> {
    let resctrl = Resctrl::find().in_field(&lines.field)?;
    for resource in lines.resources()? {
        if !resctrl.mount.join("info").join(resource).is_dir() {
            bail!("{}: resctrl has no {resource} here", lines.field);
        }
    }
    let lock = resctrl.lock().in_field(&lines.field)?;
    let (class, is_there) = match recorded {
        Some(group) => (group.class.clone(), true),
        None => (id.to_owned(), resctrl.look_at(id, None).exists),
    };
    let group = ClassGroup { class, owned: !is_there, monitoring: None };
    resctrl.class(&group).in_field(&lines.field)?;
    Ok(Settled { group, resctrl, lines: vec![lines], _lock: lock })
}

impl Settled {
    /// Makes the groups. Where that fails, `group` has left what was made: the rest may be
    /// there, and is somebody else's.
    pub fn make(self, group: &mut ClassGroup) -> Result<()> {
        let Self { group: wanted, resctrl, lines, .. } = self;
        let class = resctrl.class(&wanted).in_field("linux.intelRdt")?;
        *group = ClassGroup { owned: false, monitoring: None, ..wanted.clone() };
        if wanted.owned {
            resctrl.make_directory(&class).in_field("linux.intelRdt")?;
            group.owned = true;
        }
        lines.iter().try_for_each(|lines| resctrl.write(&class, lines))?;
        if let Some(name) = wanted.monitoring {
            resctrl
                .make_directory(&monitoring(&class, &name))
                .in_field("linux.intelRdt.enableMonitoring")?;
            group.monitoring = Some(name);
        }
        Ok(())
    }
}

/// Moves the threads of processes into the class. What they start meanwhile is where they
/// were, and found in the next round.
pub fn move_all(group: &ClassGroup, processes: impl Fn() -> Result<Vec<u32>>) -> Result<()> {
    const ROUNDS: usize = 100;
    let tasks = Resctrl::find()?.class(group)?.join("tasks");
    for _ in 0..ROUNDS {
        let inside = try_read(&tasks).with_context(|| format!("read {tasks:?}"))?;
        let inside: BTreeSet<&str> = inside.lines().collect();
        let mut outside = Vec::new();
        for process in processes()? {
            outside.extend(threads(process)?);
        }
        outside.retain(|thread| !inside.contains(thread.as_str()));
        if outside.is_empty() {
            return Ok(());
        }
        for thread in outside {
            match try_write(&tasks, &thread) {
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                written => told(written, || format!("write {thread:?} to {tasks:?}"))?,
            }
        }
    }
    bail!("its processes come faster than they can be put into {tasks:?}")
}

/// The files through which a process joins the groups, in this order.
pub fn tasks(group: &ClassGroup) -> Result<Vec<PathBuf>> {
    let class = Resctrl::find().and_then(|resctrl| resctrl.class(group));
    let class = class.in_field("linux.intelRdt")?;
    let monitoring = group.monitoring.as_ref().map(|name| monitoring(&class, name).join("tasks"));
    Ok([class.join("tasks")].into_iter().chain(monitoring).collect())
}

/// Removes the groups that were made for the container `id`. What it has in them goes
/// to the groups above.
pub fn remove(group: &ClassGroup, id: &str) -> Result<()> {
    // With the file system all its groups go.
    let Ok(resctrl) = Resctrl::find() else { return Ok(()) };
    let _lock = resctrl.lock()?;
    let class = resctrl.class(group)?;
    if let Some(name) = &group.monitoring {
        remove_directory(&monitoring(&class, name))?;
    }
    // One with a name of its own goes only with a create that has failed, and others may
    // be in it by now: the kernel would not mind.
    if group.owned && (group.class == id || !is_in_use(&class)) {
        remove_directory(&class)?;
    }
    Ok(())
}

impl Resctrl {
    fn find() -> Result<Self> {
        let convention = Path::new(CONVENTION);
        if is_resctrl(convention) {
            return Ok(Self { mount: convention.to_owned() });
        }
        match mount_of("resctrl")? {
            Some(mount) if is_resctrl(&mount) => Ok(Self { mount }),
            _ => bail!("no resctrl file system is mounted"),
        }
    }

    /// Keeps others out until the descriptor is closed.
    fn lock(&self) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(&self.mount, flags, Mode::empty())
            .with_context(|| format!("open {:?}", self.mount))?;
        rustix::io::retry_on_intr(|| flock(&root, FlockOperation::LockExclusive))
            .context("flock")?;
        Ok(root)
    }

    /// What there is of a class, and whether it has a MON group of this name.
    fn look_at(&self, class: &str, name: Option<&str>) -> FoundClass {
        let directory = self.mount.join(class);
        let step = try_read(&self.mount.join("info/MB/bandwidth_gran")).ok();
        // A class of a kernel that only counts has none.
        let schemata = try_read(&directory.join("schemata"));
        FoundClass {
            exists: directory.is_dir(),
            schemata: schemata.unwrap_or_default(),
            bandwidth_step: step.and_then(|step| step.trim().parse().ok()),
            has_monitoring: name.is_some_and(|name| monitoring(&directory, name).exists()),
        }
    }

    /// The directory of the class, which no record can lead elsewhere.
    fn class(&self, group: &ClassGroup) -> Result<PathBuf> {
        if !group.class.is_empty() {
            check_class(&group.class)?;
        }
        ensure!(!(group.owned && group.class.is_empty()), "the root of resctrl is nobody's");
        if let Some(name) = &group.monitoring {
            check_class(name)?;
        }
        Ok(self.mount.join(&group.class))
    }

    fn make_directory(&self, path: &Path) -> Result<()> {
        let made = mkdir(path, Mode::from_raw_mode(0o755)).map_err(io::Error::from);
        told(made, || format!("mkdir {path:?}"))
    }

    fn write(&self, class: &Path, lines: &Lines) -> Result<()> {
        let file = class.join("schemata");
        let written = try_write(&file, &format!("{}\n", lines.text));
        told(written, || format!("write {:?} to {file:?}", lines.text)).in_field(&lines.field)
    }
}

/// Adds the kernel's own word on what it has just refused, which says more than errno.
pub fn explain(error: io::Error) -> Error {
    let read = |resctrl: Resctrl| try_read(&resctrl.mount.join("info/last_cmd_status"));
    let reason = Resctrl::find().ok().and_then(|resctrl| read(resctrl).ok());
    match reason.as_deref().map(str::trim) {
        None | Some("" | "ok") => error.into(),
        Some(reason) => Error::new(error).context(reason.to_owned()),
    }
}

fn told(done: io::Result<()>, what: impl FnOnce() -> String) -> Result<()> {
    done.map_err(|error| explain(error).context(what()))
}

fn is_resctrl(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.f_type == MAGIC)
}

fn monitoring(class: &Path, name: &str) -> PathBuf {
    class.join("mon_groups").join(name)
}

fn remove_directory(path: &Path) -> Result<()> {
    match rmdir(path) {
        Err(rustix::io::Errno::NOENT) => Ok(()),
        removed => removed.with_context(|| format!("rmdir {path:?}")),
    }
}

/// Whether a class has tasks that live. It lists the dead too, until they are reaped.
fn is_in_use(class: &Path) -> bool {
    let tasks = match try_read(&class.join("tasks")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return false,
        tasks => tasks,
    };
    // Of whom nothing is known may live.
    let has_ended = |task: &str| {
        let facts = task.parse().map(ProcessFacts::read);
        matches!(facts, Ok(Ok(found)) if found.is_none_or(|facts| facts.leader_has_ended))
    };
    !tasks.is_ok_and(|tasks| tasks.lines().all(has_ended))
}

/// The threads of a process by number; none of one that has ended.
fn threads(process: u32) -> Result<Vec<String>> {
    let directory = format!("/proc/{process}/task");
    let names = fs::read_dir(&directory).and_then(|entries| {
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    });
    match names {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {
            Ok(Vec::new())
        }
        names => names.context(directory),
    }
}

/// What `events` says, in the shape that `runc events` has.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    #[serde(skip_serializing_if = "Option::is_none")]
    l3_cache_info: Option<CacheInfo>,
    #[serde(skip_serializing_if = "String::is_empty")]
    l3_cache_schema_root: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    l3_cache_schema: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mem_bw_info: Option<BandwidthInfo>,
    #[serde(skip_serializing_if = "String::is_empty")]
    mem_bw_schema_root: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    mem_bw_schema: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    schemata: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mbm_stats: Option<Vec<Bandwidth>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmt_stats: Option<Vec<Occupancy>>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct CacheInfo {
    cbm_mask: String,
    min_cbm_bits: u64,
    num_closids: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct BandwidthInfo {
    bandwidth_gran: u64,
    delay_linear: u64,
    min_bandwidth: u64,
    num_closids: u64,
}

/// Bytes that one domain has moved.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Bandwidth {
    mbm_total_bytes: u64,
    mbm_local_bytes: u64,
}

/// Bytes that are in one domain's cache.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Occupancy {
    llc_occupancy: u64,
}

/// What the container's class has, and what its MON group counts, or its class where it
/// has none of its own. What this machine does not have is left out.
pub fn stats(group: &ClassGroup) -> Result<Stats> {
    let resctrl = Resctrl::find().in_field("linux.intelRdt")?;
    let class = resctrl.class(group).in_field("linux.intelRdt")?;
    let info = resctrl.mount.join("info");
    let text = |path: PathBuf| try_read(&path).unwrap_or_default().trim().to_owned();
    // A counter may be `Unavailable` for a while.
    let number = |path: PathBuf| text(path).parse::<u64>().unwrap_or(0);
    let lines = |class: &Path| -> Vec<String> {
        text(class.join("schemata")).lines().map(|line| line.trim().to_owned()).collect()
    };
    let line = |lines: &[String], name: &str| {
        lines.iter().find(|line| line.starts_with(name)).cloned().unwrap_or_default()
    };
    let (of_root, own) = (lines(&resctrl.mount), lines(&class));
    let mut stats = Stats::default();
    let cache = info.join("L3");
    if cache.is_dir() {
        stats.l3_cache_info = Some(CacheInfo {
            cbm_mask: text(cache.join("cbm_mask")),
            min_cbm_bits: number(cache.join("min_cbm_bits")),
            num_closids: number(cache.join("num_closids")),
        });
        stats.l3_cache_schema_root = line(&of_root, "L3:");
        stats.l3_cache_schema = line(&own, "L3:");
    }
    let bandwidth = info.join("MB");
    if bandwidth.is_dir() {
        stats.mem_bw_info = Some(BandwidthInfo {
            bandwidth_gran: number(bandwidth.join("bandwidth_gran")),
            delay_linear: number(bandwidth.join("delay_linear")),
            min_bandwidth: number(bandwidth.join("min_bandwidth")),
            num_closids: number(bandwidth.join("num_closids")),
        });
        stats.mem_bw_schema_root = line(&of_root, "MB:");
        stats.mem_bw_schema = line(&own, "MB:");
    }
    stats.schemata = own;
    let counted = match &group.monitoring {
        Some(name) => monitoring(&class, name),
        None => class,
    };
    let domains = domains(&counted.join("mon_data"));
    let features = text(info.join("L3_MON/mon_features"));
    let has = |name: &str| features.lines().any(|feature| feature == name);
    if has("mbm_total_bytes") || has("mbm_local_bytes") {
        let of = |domain: &PathBuf| Bandwidth {
            mbm_total_bytes: number(domain.join("mbm_total_bytes")),
            mbm_local_bytes: number(domain.join("mbm_local_bytes")),
        };
        stats.mbm_stats = Some(domains.iter().map(of).collect());
    }
    if has("llc_occupancy") {
        let of =
            |domain: &PathBuf| Occupancy { llc_occupancy: number(domain.join("llc_occupancy")) };
        stats.cmt_stats = Some(domains.iter().map(of).collect());
    }
    Ok(stats)
}

/// The directories of the domains, in order.
fn domains(mon_data: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(mon_data).into_iter().flatten().flatten();
    let mut domains: Vec<_> = entries.map(|entry| entry.path()).collect();
    domains.sort();
    domains
}
