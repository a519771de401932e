//! The container's file system as a whole: root, mounts, devices, and what is
//! hidden or read-only in it.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use oci_spec::runtime::Spec;

use super::devices::{Device, LINKS, Node, plan_devices};
use super::mounts::{
    Instead, MountKind, MountStep, Opener, Surroundings, dev_is_bound, plan_mounts,
};

/// How the file system that the init process sees is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rootfs {
    /// The absolute path of the root on the host.
    pub path: PathBuf,
    /// How it becomes the root directory.
    pub entry: RootEntry,
    /// `root.readonly`.
    pub read_only: bool,
    /// How mounts reach the container from outside, and the outside from within.
    pub propagation: Propagation,
    /// What is mounted, in order.
    pub mounts: Vec<MountStep>,
    /// The SELinux label of the file systems that are made for the container.
    pub label: Option<String>,
    /// Device nodes; empty where /dev is the host's.
    pub devices: Vec<Device>,
    /// Symbolic links and their texts.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// Paths that show nothing.
    pub masked_paths: Vec<(PathField, PathBuf)>,
    /// Paths that cannot be written.
    pub readonly_paths: Vec<(PathField, PathBuf)>,
    /// The working directory, which is made where it is missing.
    pub cwd: Option<PathBuf>,
}

/// An entry of a list of paths, as errors name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathField(&'static str, usize);

const MASKED_PATHS: &str = "linux.maskedPaths";
const READONLY_PATHS: &str = "linux.readonlyPaths";

impl fmt::Display for PathField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.0, self.1)
    }
}

impl Rootfs {
    /// The steps that take something which the creator opens, in their order.
    pub fn opened_by_creator(&self) -> impl Iterator<Item = &MountStep> {
        self.mounts.iter().filter(|step| match &step.kind {
            MountKind::Bind(bind) => bind.opener == Opener::Creator,
            MountKind::New(new) => new.opener == Opener::Creator,
            _ => false,
        })
    }

    /// Whether the group at `path` is mounted in it by that path.
    pub fn shows(&self, path: &Path) -> bool {
        self.mounts.iter().any(|step| match &step.kind {
            MountKind::Bind(bind) => bind.source == path,
            MountKind::New(new) => {
                matches!(&new.instead, Some(Instead::Directory(shown)) if shown == path)
            }
            _ => false,
        })
    }

    /// Every place at which something is mounted, in the order of mounting.
    pub fn mount_points(&self) -> impl Iterator<Item = PathBuf> {
        let mounts = self
            .mounts
            .iter()
            .filter(|step| !matches!(step.kind, MountKind::Link(_)))
            .map(|step| step.target.clone());
        let devices = self
            .devices
            .iter()
            .filter(|device| device.node == Node::Bound)
            .map(|device| device.path.clone());
        let console = PathBuf::from("/dev/console");
        let protected =
            self.readonly_paths.iter().chain(&self.masked_paths).map(|(_, path)| path.clone());
        mounts.chain(devices).chain([console]).chain(protected)
    }
}

/// `linux.rootfsPropagation` as what it does, when. Types are MS_*.
///
/// Nothing that the caller has mounted is more than the master of what the container
/// has, unless the word is `shared` or `rshared`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Propagation {
    /// What the mounts of the caller become in the new mount namespace, with MS_REC.
    pub callers: u64,
    /// What the mount of the root is while it is filled; None leaves it what it is.
    pub root: Option<u64>,
    /// What the root becomes at the end, with MS_REC for all that is mounted in it.
    pub end: Option<u64>,
}

impl Propagation {
    fn plan(word: &str) -> Result<Self> {
        use libc::{MS_PRIVATE, MS_REC, MS_SHARED, MS_SLAVE, MS_UNBINDABLE};
        let private = Some(MS_PRIVATE);
        let (callers, root, end) = match word {
            "" | "slave" | "rslave" => (MS_SLAVE | MS_REC, None, None),
            "private" => (MS_SLAVE | MS_REC, private, None),
            "rprivate" => (MS_PRIVATE | MS_REC, None, None),
            // It cannot be moved or bound where it is shared or unbindable already.
            "shared" => (MS_SHARED, private, Some(MS_SHARED)),
            "rshared" => (MS_SHARED | MS_REC, private, Some(MS_SHARED | MS_REC)),
            "unbindable" => (MS_SLAVE | MS_REC, private, Some(MS_UNBINDABLE)),
            "runbindable" => (MS_PRIVATE | MS_REC, None, Some(MS_UNBINDABLE | MS_REC)),
            _ => bail!("linux.rootfsPropagation: {word:?}: unknown"),
        };
        Ok(Self { callers, root, end })
    }

    /// Whether mounts of the container may reach the caller.
    pub fn is_shared(self) -> bool {
        self.callers & libc::MS_SHARED != 0
    }

    /// What a bind becomes before its own words where its tree does not come from the
    /// container's new mount namespace: what it would have become there. `apart` is
    /// whether it could not have been the peer of anything of the caller's there.
    fn of_trees_from_outside(self, apart: bool) -> Vec<(u64, bool)> {
        let slave = apart.then_some((libc::MS_SLAVE, true));
        let recursive = self.callers & libc::MS_REC != 0;
        let same = recursive.then_some((self.callers & !libc::MS_REC, true));
        let mut types: Vec<_> = slave.into_iter().chain(same).collect();
        types.dedup();
        types
    }
}

/// How the root becomes the root directory of the init process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootEntry {
    /// pivot_root(2) in a mount namespace of its own.
    Pivot,
    /// Moved over the root of a mount namespace of its own, where that is an initramfs,
    /// which pivot_root(2) refuses.
    Move,
    /// chroot(2) in a mount namespace that others use too: the mounts are undone
    /// one by one.
    Chroot,
}

/// Plans the file system. Also says what is passed over.
pub fn plan_rootfs(spec: &Spec, around: &Surroundings<'_>) -> Result<(Rootfs, Vec<String>)> {
    let Some(root) = spec.root() else { bail!("root.path: missing") };
    let (mut mounts, warnings) = plan_mounts(spec.mounts().as_deref().unwrap_or_default(), around)?;
    let linux = spec.linux().as_ref();
    let label = linux.and_then(|linux| linux.mount_label().clone());
    let label = label.filter(|label| !label.is_empty());
    if let Some(label) = &label {
        mounts.iter_mut().for_each(|mount| mount.label(label));
    }
    let devices = linux.and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    let (devices, links) = if dev_is_bound(&mounts) {
        (Vec::new(), Vec::new())
    } else {
        let links = LINKS.iter().map(|(path, text)| (path.into(), text.into())).collect();
        (plan_devices(devices, around.may_make_devices)?, links)
    };
    let entry = match (around.mount_namespace, around.no_pivot) {
        (true, false) => RootEntry::Pivot,
        (true, true) => RootEntry::Move,
        (false, _) => RootEntry::Chroot,
    };
    let read_only = root.readonly().unwrap_or(false);
    if read_only && entry == RootEntry::Chroot {
        bail!("root.readonly: true: needs the container to have a mount namespace");
    }
    let given = linux.and_then(|linux| linux.rootfs_propagation().as_deref());
    let propagation = Propagation::plan(given.unwrap_or_default())?;
    let apart = around.user_namespace || entry == RootEntry::Chroot;
    let types = propagation.of_trees_from_outside(apart);
    for step in &mut mounts {
        if step.is_from_outside() || entry == RootEntry::Chroot {
            step.begin_with(&types);
        }
        // As of a tree that init opens: the creator has the rights that it lacks.
        step.is_locked = step.is_from_outside() && around.user_namespace;
    }
    let rootfs = Rootfs {
        path: around.bundle.join(root.path()),
        entry,
        read_only,
        propagation,
        mounts,
        label,
        devices,
        links,
        masked_paths: paths(MASKED_PATHS, linux.and_then(|linux| linux.masked_paths().as_deref()))?,
        readonly_paths: paths(
            READONLY_PATHS,
            linux.and_then(|linux| linux.readonly_paths().as_deref()),
        )?,
        cwd: spec
            .process()
            .as_ref()
            .map(|process| process.cwd().clone())
            .filter(|cwd| cwd != Path::new("/") && !cwd.as_os_str().is_empty()),
    };
    Ok((rootfs, warnings))
}

/// The paths of a field, each once.
fn paths(field: &'static str, given: Option<&[String]>) -> Result<Vec<(PathField, PathBuf)>> {
    let (mut paths, mut seen) = (Vec::new(), BTreeSet::new());
    for (at, path) in given.unwrap_or_default().iter().enumerate() {
        let field = PathField(field, at);
        if !path.starts_with('/') {
            bail!("{field}: {path:?}: not absolute");
        }
        // Spelt alike: to cover a place twice does no harm.
        if seen.insert(path.trim_end_matches('/')) {
            paths.push((field, PathBuf::from(path)));
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::super::cgroup::{Directory, Group, Layout, Unified, Version};
    use super::*;

    fn group(version: Version, controllers: &[&str], mount: &str) -> Group {
        let controllers = controllers.iter().map(|name| (*name).to_owned()).collect();
        let path = Path::new(mount).join("c");
        Group { directories: vec![Directory { version, controllers, mount: mount.into(), path }] }
    }

    fn around() -> Surroundings<'static> {
        static NO_GROUP: Group = Group { directories: Vec::new() };
        Surroundings {
            bundle: Path::new("/b"),
            root: "/b/r".into(),
            layout: &Layout::None,
            group: &NO_GROUP,
            cgroup_namespace: false,
            user_namespace: false,
            creator_opens: false,
            mount_namespace: true,
            joined_pids: false,
            may_make_devices: true,
            no_pivot: false,
            notify: None,
        }
    }

    fn plan(json: &str) -> Result<Rootfs> {
        let spec = serde_json::from_str(json).unwrap();
        plan_rootfs(&spec, &around()).map(|(rootfs, _)| rootfs)
    }

    #[test]
    fn the_root_is_taken_from_the_bundle() {
        let planned = plan(r#"{"root":{"path":"rootfs","readonly":true}}"#).unwrap();
        assert_eq!(planned.path, Path::new("/b/rootfs"));
        assert!(planned.read_only);
        let callers = libc::MS_SLAVE | libc::MS_REC;
        assert_eq!(planned.propagation, Propagation { callers, root: None, end: None });
        assert_eq!(planned.devices.len(), 6);
    }

    #[test]
    fn new_file_systems_take_the_label_unless_they_have_their_own() {
        let planned = plan(
            r#"{"root":{"path":"r"},"mounts":[
                {"destination":"/proc","type":"proc"},{"destination":"/tmp","type":"tmpfs"},
                {"destination":"/dev/mqueue","type":"mqueue"},
                {"destination":"/run","type":"tmpfs","options":["context=u:r:own:s0"]},
                {"destination":"/data","source":"/d","options":["bind"]}],
                "linux":{"mountLabel":"u:r:t:s0"}}"#,
        )
        .unwrap();
        let labels = |step: &MountStep| match &step.kind {
            crate::plan::mounts::MountKind::New(new) => (new.label.clone(), new.root_label.clone()),
            _ => (None, None),
        };
        let label = || Some("u:r:t:s0".to_owned());
        let found: Vec<_> = planned.mounts.iter().map(labels).collect();
        let none = (None, None);
        assert_eq!(found, [none.clone(), (label(), None), (None, label()), none.clone(), none]);
        assert_eq!(planned.label, label());
    }

    #[test]
    fn nothing_is_made_in_a_dev_of_the_host() {
        for name in ["/dev", "dev/", "//dev/.", "/x/../dev", "/../dev"] {
            let planned = plan(&format!(
                r#"{{"root":{{"path":"r"}},"mounts":[
                    {{"destination":"{name}","source":"/dev","options":["rbind"]}}]}}"#
            ))
            .unwrap();
            assert!(planned.devices.is_empty() && planned.links.is_empty(), "{name}");
        }
    }

    #[test]
    fn a_word_of_propagation_is_for_the_root_and_recursive_only_where_it_says_so() {
        let planned = |word| Propagation::plan(word).unwrap();
        assert_eq!(planned("slave"), planned(""));
        assert_eq!(planned("rslave"), planned(""));
        for word in ["private", "unbindable"] {
            assert_eq!(planned(word).callers, libc::MS_SLAVE | libc::MS_REC, "{word}");
            assert_eq!(planned(word).root, Some(libc::MS_PRIVATE), "{word}");
        }
        for word in ["rprivate", "runbindable"] {
            assert_eq!(planned(word).callers, libc::MS_PRIVATE | libc::MS_REC, "{word}");
        }
        for (word, end) in [
            ("private", None),
            ("rprivate", None),
            ("unbindable", Some(libc::MS_UNBINDABLE)),
            ("runbindable", Some(libc::MS_UNBINDABLE | libc::MS_REC)),
            ("shared", Some(libc::MS_SHARED)),
            ("rshared", Some(libc::MS_SHARED | libc::MS_REC)),
        ] {
            assert_eq!(planned(word).end, end, "{word}");
        }
        // What is shared cannot be moved: the root is private until the end.
        for (word, callers) in
            [("shared", libc::MS_SHARED), ("rshared", libc::MS_SHARED | libc::MS_REC)]
        {
            assert_eq!(planned(word).callers, callers, "{word}");
            assert_eq!(planned(word).root, Some(libc::MS_PRIVATE), "{word}");
        }
    }

    #[test]
    fn a_bind_that_the_creator_opens_becomes_what_it_would_be_in_the_new_namespace() {
        use libc::{MS_PRIVATE, MS_SHARED, MS_SLAVE};
        let planned = |word: &str, mapped: bool, user_namespace| {
            let ids = r#","uidMappings":[{"containerID":0,"hostID":5,"size":9}],
                "gidMappings":[{"containerID":0,"hostID":7,"size":9}]"#;
            let json = format!(
                r#"{{"root":{{"path":"r"}},"linux":{{"rootfsPropagation":"{word}"}},"mounts":[
                    {{"destination":"/t","type":"tmpfs"}},
                    {{"destination":"/d","source":"/d","options":["rbind","rshared"]{}}}]}}"#,
                if mapped { ids } else { "" }
            );
            let spec = serde_json::from_str(&json).unwrap();
            let creator_opens = user_namespace;
            let around = Surroundings { user_namespace, creator_opens, ..around() };
            let (rootfs, _) = plan_rootfs(&spec, &around).unwrap();
            assert!(rootfs.mounts[0].propagation.is_empty());
            rootfs.mounts[1].propagation.clone()
        };
        let own = (MS_SHARED, true);
        assert_eq!(planned("", false, false), [own]);
        assert_eq!(planned("", true, false), [(MS_SLAVE, true), own]);
        assert_eq!(planned("", false, true), [(MS_SLAVE, true), own]);
        assert_eq!(planned("rprivate", true, false), [(MS_PRIVATE, true), own]);
        assert_eq!(planned("rprivate", false, true), [(MS_SLAVE, true), (MS_PRIVATE, true), own]);
        assert_eq!(planned("shared", true, false), [own]);
        assert_eq!(planned("shared", false, true), [(MS_SLAVE, true), own]);
    }

    #[test]
    fn the_root_is_pivoted_to_unless_it_is_forbidden_or_cannot_be() {
        let spec = serde_json::from_str(r#"{"root":{"path":"r"}}"#).unwrap();
        for (mount_namespace, no_pivot, entry) in [
            (true, false, RootEntry::Pivot),
            (true, true, RootEntry::Move),
            (false, false, RootEntry::Chroot),
            (false, true, RootEntry::Chroot),
        ] {
            let around = Surroundings { mount_namespace, no_pivot, ..around() };
            assert_eq!(plan_rootfs(&spec, &around).unwrap().0.entry, entry);
        }
    }

    #[test]
    fn a_path_that_is_listed_twice_is_covered_once() {
        let planned =
            plan(r#"{"root":{"path":"r"},"linux":{"maskedPaths":["/a","/b","/a/"]}}"#).unwrap();
        assert_eq!(planned.masked_paths.len(), 2);
    }

    #[test]
    fn a_root_that_is_the_hosts_mount_cannot_be_read_only() {
        let spec = serde_json::from_str(r#"{"root":{"path":"r","readonly":true}}"#).unwrap();
        let around = Surroundings { mount_namespace: false, ..around() };
        let error = plan_rootfs(&spec, &around).unwrap_err().to_string();
        assert_eq!(error, "root.readonly: true: needs the container to have a mount namespace");
    }

    #[test]
    fn wrong_paths_and_words_are_refused_by_their_field() {
        for (json, reason) in [
            (
                r#"{"root":{"path":"r"},"linux":{"maskedPaths":["/a","b"]}}"#,
                r#"linux.maskedPaths[1]: "b": not absolute"#,
            ),
            (
                r#"{"root":{"path":"r"},"linux":{"readonlyPaths":["b"]}}"#,
                r#"linux.readonlyPaths[0]: "b": not absolute"#,
            ),
            (
                r#"{"root":{"path":"r"},"linux":{"rootfsPropagation":"odd"}}"#,
                r#"linux.rootfsPropagation: "odd": unknown"#,
            ),
        ] {
            assert_eq!(plan(json).unwrap_err().to_string(), reason);
        }
    }

    #[test]
    fn a_group_is_shown_where_its_own_path_is_bound() {
        let rootfs = plan(
            r#"{"root":{"path":"r"},"mounts":[{"destination":"/t","type":"tmpfs"},
                {"destination":"/a","source":"/cgroup/c","options":["bind"]}]}"#,
        )
        .unwrap();
        assert!(rootfs.shows(Path::new("/cgroup/c")));
        assert!(!rootfs.shows(Path::new("/cgroup")) && !rootfs.shows(Path::new("/a")));
    }

    #[test]
    fn a_group_is_shown_where_it_may_have_to_stand_in_for_the_tree() {
        let unified = Unified { controllers: vec![], mount: "/m".into() };
        let (layout, group) = (Layout::V2(unified), group(Version::V2, &[], "/m"));
        let spec = r#"{"root":{"path":"r"},"mounts":[{"destination":"/c","type":"cgroup"}]}"#;
        let around =
            Surroundings { layout: &layout, group: &group, cgroup_namespace: true, ..around() };
        let (rootfs, _) = plan_rootfs(&serde_json::from_str(spec).unwrap(), &around).unwrap();
        assert!(matches!(rootfs.mounts[0].kind, MountKind::New(_)));
        assert!(rootfs.shows(Path::new("/m/c")) && !rootfs.shows(Path::new("/m")));
    }

    #[test]
    fn every_place_that_is_covered_is_known_in_the_order_of_mounting() {
        let layout = Layout::V1 { hierarchies: vec![], unified: None };
        let group = group(Version::V1, &["cpu", "cpuacct"], "/m/cpu,cpuacct");
        let spec = r#"{"root":{"path":"r"},"mounts":[
            {"destination":"/t","type":"tmpfs"},{"destination":"/c","type":"cgroup"}],
            "linux":{"maskedPaths":["/masked"],"readonlyPaths":["/ro"],
                "devices":[{"path":"/dev/pipe","type":"p"}]}}"#;
        let around =
            Surroundings { layout: &layout, group: &group, may_make_devices: false, ..around() };
        let (rootfs, _) = plan_rootfs(&serde_json::from_str(spec).unwrap(), &around).unwrap();
        // Links are none, nor are devices that are made.
        let places = [
            "/t",
            "/c",
            "/c/cpu,cpuacct",
            "/dev/null",
            "/dev/zero",
            "/dev/full",
            "/dev/random",
            "/dev/urandom",
            "/dev/tty",
            "/dev/console",
            "/ro",
            "/masked",
        ];
        assert_eq!(rootfs.mount_points().collect::<Vec<_>>(), places.map(PathBuf::from));
    }

    #[test]
    fn what_the_creator_opens_are_trees_and_what_is_new_for_others() {
        let spec = r#"{"root":{"path":"r"},"mounts":[{"destination":"/t","type":"tmpfs"},
            {"destination":"/proc","type":"proc"},
            {"destination":"/d","source":"/d","options":["bind"]},
            {"destination":"/e","source":"/b/r/t","options":["bind"]},
            {"destination":"/t","options":["remount"]}]}"#;
        let spec = serde_json::from_str(spec).unwrap();
        let opened = |creator_opens, joined_pids| {
            let around = Surroundings { creator_opens, joined_pids, ..around() };
            let (rootfs, _) = plan_rootfs(&spec, &around).unwrap();
            let targets = rootfs.opened_by_creator().map(|step| step.target.display().to_string());
            targets.collect::<Vec<_>>()
        };
        assert_eq!(opened(true, true), ["/proc", "/d"]);
        assert_eq!(opened(true, false), ["/d"]);
        assert_eq!(opened(false, true), ["/proc"]);
        assert!(opened(false, false).is_empty());
    }

    #[test]
    fn a_bind_of_the_creators_is_locked_where_the_container_has_other_rights() {
        let spec = r#"{"root":{"path":"r"},
            "mounts":[{"destination":"/d","source":"/d","options":["bind"]}]}"#;
        let spec = serde_json::from_str(spec).unwrap();
        let is_locked = |creator_opens, user_namespace| {
            let around = Surroundings { creator_opens, user_namespace, ..around() };
            plan_rootfs(&spec, &around).unwrap().0.mounts[0].is_locked
        };
        assert!(is_locked(true, true));
        assert!(!is_locked(true, false) && !is_locked(false, true));
    }

    #[test]
    fn among_the_mounts_of_the_caller_a_bind_is_no_peer_of_its_source() {
        let spec = r#"{"root":{"path":"r"},
            "mounts":[{"destination":"/d","source":"/d","options":["bind","rshared"]}]}"#;
        let spec = serde_json::from_str(spec).unwrap();
        let types = |mount_namespace| {
            let around = Surroundings { mount_namespace, ..around() };
            plan_rootfs(&spec, &around).unwrap().0.mounts[0].propagation.clone()
        };
        let own = (libc::MS_SHARED, true);
        assert_eq!(types(false), [(libc::MS_SLAVE, true), own]);
        assert_eq!(types(true), [own]);
    }

    #[test]
    fn mounts_reach_the_caller_by_the_two_words_alone_that_say_so() {
        for (word, expected) in [
            ("", false),
            ("slave", false),
            ("rslave", false),
            ("private", false),
            ("rprivate", false),
            ("unbindable", false),
            ("runbindable", false),
            ("shared", true),
            ("rshared", true),
        ] {
            assert_eq!(Propagation::plan(word).unwrap().is_shared(), expected, "{word}");
        }
    }

    #[test]
    fn a_working_directory_is_one_besides_the_root() {
        let cwd = |cwd: &str| {
            let process = format!(r#"{{"cwd":"{cwd}","args":["a"],"user":{{"uid":0,"gid":0}}}}"#);
            plan(&format!(r#"{{"root":{{"path":"r"}},"process":{process}}}"#)).unwrap().cwd
        };
        assert_eq!(cwd("/w"), Some("/w".into()));
        assert_eq!([cwd("/"), cwd("")], [None, None]);
    }
}
