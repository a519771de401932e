//! What a life has around it, as facts: what may be asked for here, and what is found where
//! nothing is asked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::host::Host;
use crate::{Bed, Bundle, Container, Ground, Holder, View};

/// The types of namespaces by the names that the configuration and /proc/PID/ns have for them.
pub(super) const NAMESPACES: [(&str, &str); 8] = [
    ("pid", "pid"),
    ("network", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("mount", "mnt"),
    ("user", "user"),
    ("cgroup", "cgroup"),
    ("time", "time"),
];

/// Devices that a host may have.
const DEVICES: [(&str, u64, u64); 2] = [("/dev/kmsg", 1, 11), ("/dev/fuse", 10, 229)];

/// Where a life is lived.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) is_rootless: bool,
    pub(super) view: View,
    pub(super) ground: Ground,
    /// Whether containers have a cgroup, so that they can be paused.
    pub(super) has_group: bool,
    /// The controllers that may be asked for, by the names of version 2.
    pub(super) controllers: Vec<&'static str>,
    /// The host's files that may be bound: see [`super::host`].
    pub(super) tree: PathBuf,
    /// What hooks write to.
    pub(super) log: PathBuf,
    /// The flags of the mount that they are on.
    pub(super) flags: String,
    /// The caller's namespaces, by type.
    pub(super) own: BTreeMap<&'static str, String>,
    /// Namespaces of others, by type: the path, and which one it is.
    pub(super) others: BTreeMap<&'static str, (String, String)>,
    /// The caller's limits, by the names in /proc/PID/limits.
    pub(super) limits: BTreeMap<String, String>,
    pub(super) oom_score_adj: i64,
    pub(super) nice: u64,
    /// The capabilities that can be given, as a mask: who makes a user namespace has all in it.
    pub(super) capabilities: u64,
    /// Devices of the host that a container has only if it asks for them, with their numbers.
    pub(super) devices: Vec<(&'static str, u64, u64)>,
    /// Lists of processors, the first of all that the caller may use.
    pub(super) processors: Vec<&'static str>,
    /// Whether the kernel knows of several nodes of memory.
    pub(super) has_nodes: bool,
}

/// Who holds the namespaces that lives join.
#[derive(Debug)]
pub(super) struct Others<'bed> {
    holders: Vec<(Vec<&'static str>, Holder)>,
    container: Option<Container<'bed>>,
}

impl<'bed> Others<'bed> {
    /// Whoever the bed's caller may join.
    pub(super) fn of(bed: &'bed Bed) -> Self {
        if bed.is_rootless() {
            let bundle = bed.bundle().with_namespace("cgroup", None);
            // No shell, which would become it a moment later.
            let bundle = bundle.args(["/bin/sleep", "100000"]);
            return Self { holders: Vec::new(), container: Some(bed.start(&bundle)) };
        }
        let foreign = Holder::new(&["--pid", "--net", "--ipc", "--uts", "--cgroup", "--time"]);
        let kinds = vec!["pid", "network", "ipc", "uts", "cgroup", "time"];
        let user = Holder::new(&["--user", "--map-root-user"]);
        Self { holders: vec![(kinds, foreign), (vec!["user"], user)], container: None }
    }

    fn paths(&self) -> BTreeMap<&'static str, PathBuf> {
        let file = |kind| NAMESPACES.iter().find(|(name, _)| *name == kind).map(|(_, file)| *file);
        let mut paths = BTreeMap::new();
        for (kinds, holder) in &self.holders {
            for &kind in kinds {
                paths.insert(kind, holder.path(file(kind).expect("a type")));
            }
        }
        if let Some(container) = &self.container {
            let namespaces = PathBuf::from(format!("/proc/{}/ns", container.pid()));
            for kind in ["pid", "network", "ipc", "uts", "user", "cgroup"] {
                paths.insert(kind, namespaces.join(file(kind).expect("a type")));
            }
        }
        paths
    }
}

impl Place {
    /// What a bed is, with these others in it.
    pub(super) fn of(bed: &Bed, others: &Others<'_>, host: &Host) -> Self {
        let controllers: &[&str] =
            if bed.is_rootless() { &[] } else { &["pids", "memory", "cpu", "cpuset", "devices"] };
        // Version 2 restricts devices without a controller.
        let has = |name: &&str| match *name {
            "devices" => bed.view == View::V2 || bed.has_controller(name),
            name => bed.has_controller(name),
        };
        let own = |file: &str| link(&Path::new("/proc/thread-self/ns").join(file));
        Self {
            is_rootless: bed.is_rootless(),
            view: bed.view,
            ground: bed.ground,
            has_group: !bed.is_rootless() || bed.is_delegated(),
            controllers: controllers.iter().filter(|name| has(name)).copied().collect(),
            flags: flags_of_mount(&host.tree),
            tree: host.tree.clone(),
            log: host.log.clone(),
            own: NAMESPACES.iter().map(|(kind, file)| (*kind, own(file))).collect(),
            others: others
                .paths()
                .into_iter()
                .map(|(kind, path)| (kind, (path.display().to_string(), link(&path))))
                .collect(),
            limits: limits(&read("/proc/self/limits")),
            nice: nice(&read("/proc/thread-self/stat")),
            oom_score_adj: read("/proc/self/oom_score_adj").trim().parse().expect("a number"),
            capabilities: if bed.is_rootless() {
                u64::MAX
            } else {
                permitted(&read("/proc/self/status"))
            },
            devices: DEVICES.into_iter().filter(|(path, ..)| Path::new(path).exists()).collect(),
            processors: processors(&read("/proc/self/status")),
            has_nodes: Path::new("/proc/self/numa_maps").exists(),
        }
    }

    /// The configuration that lives start from.
    pub(super) fn base(&self) -> Bundle {
        let caller = if self.is_rootless { crate::Caller::user() } else { crate::Caller::Root };
        Bundle { path: PathBuf::new(), config: crate::config(caller, "") }
    }

    /// A file of the host's tree.
    pub(super) fn source(&self, name: &str) -> String {
        self.tree.join(name).display().to_string()
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn link(path: &Path) -> String {
    let found = std::fs::read_link(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    found.display().to_string()
}

/// The soft and the hard limit of each name in /proc/PID/limits.
fn limits(text: &str) -> BTreeMap<String, String> {
    let limit = |line: &str| {
        let (name, values) = line.split_at_checked(26)?;
        let values: Vec<_> = values.split_whitespace().take(2).collect();
        Some((name.trim().to_owned(), values.join(" ")))
    };
    text.lines().skip(1).filter_map(limit).collect()
}

/// How nice a process is, by its /proc/PID/stat: the field 19. Who is less so than others has
/// no place in these tests.
fn nice(stat: &str) -> u64 {
    let behind_name = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(16));
    behind_name.and_then(|field| field.parse().ok()).expect("a number that is not below 0")
}

/// Lists of the processors that a process may use, by its /proc/PID/status.
fn processors(status: &str) -> Vec<&'static str> {
    let all = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let all = all.unwrap_or_default().trim().to_owned().leak();
    if all.starts_with("0-") { vec![all, "0", "1", "0-1"] } else { vec![all] }
}

/// The permitted capabilities of a process, by its /proc/PID/status.
fn permitted(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapPrm:")).unwrap_or_default();
    u64::from_str_radix(mask.trim(), 16).expect("a mask")
}

/// The flags of the mount that a path is on, as mountinfo has them.
fn flags_of_mount(path: &Path) -> String {
    let table = read("/proc/thread-self/mountinfo");
    let mounts = table.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(4);
        Some((words.next()?, words.next()?))
    });
    let around = mounts.filter(|(point, _)| path.starts_with(point));
    // The last of the longest is on top.
    let (_, flags) = around.max_by_key(|(point, _)| point.len()).expect("the root");
    flags.to_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A machine with all that can be asked for.
    pub(in super::super) fn place(is_rootless: bool) -> Place {
        let name = |kind: &str, number| format!("{kind}:[{number}]");
        Place {
            is_rootless,
            view: View::Hybrid,
            ground: Ground::Private,
            has_group: !is_rootless,
            controllers: if is_rootless {
                vec![]
            } else {
                vec!["pids", "memory", "cpu", "cpuset", "devices"]
            },
            tree: "/host".into(),
            log: "/log".into(),
            flags: "rw,relatime".into(),
            own: NAMESPACES.iter().map(|(kind, file)| (*kind, name(file, 1))).collect(),
            others: NAMESPACES
                .iter()
                .map(|(kind, file)| (*kind, (format!("/proc/7/ns/{file}"), name(file, 2))))
                .collect(),
            limits: BTreeMap::new(),
            oom_score_adj: 0,
            nice: 0,
            capabilities: u64::MAX,
            devices: DEVICES.to_vec(),
            processors: vec!["0-1", "0", "1"],
            has_nodes: true,
        }
    }

    #[test]
    fn a_name_may_look_like_the_rest() {
        let stat = "7 (a) 1 2) S 1 7 7 0 -1 4194560 109 0 0 0 0 0 0 0 20 5 1 0 8954";
        assert_eq!(nice(stat), 5);
    }

    #[test]
    fn limits_are_read_by_their_names() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max cpu time              unlimited            unlimited            seconds   \n\
                    Max open files            1024                 4096                 files     \n\
                    Max nice priority         0                    0                    \n";
        let found = limits(text);
        assert_eq!(found["Max cpu time"], "unlimited unlimited");
        assert_eq!(found["Max open files"], "1024 4096");
        assert_eq!(found["Max nice priority"], "0 0");
    }
}
