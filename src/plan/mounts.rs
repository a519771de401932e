//! `mounts` as steps: what to mount where, with which attributes.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Result, bail};
use oci_spec::runtime::Mount;

use super::cgroup::{Group, Layout, Version};
use super::namespaces::{IdMaps, id_ranges};
use super::notify;
use super::options::{MOUNT_ATTR_RDONLY, MountOptions};
use crate::abi::MountAttributes;
use crate::error::InField as _;

/// Who asked for a mount, as errors name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// An entry of `mounts`.
    Entry(usize),
    /// One of the mounts that containerd asks its shim to make the root of.
    Rootfs(usize),
    /// A service manager that wants to know when the program is ready.
    NotifySocket,
}

impl Origin {
    /// The name of a property of the entry. What nobody has written has none.
    pub fn of(self, property: &str) -> Property<'_> {
        Property { origin: self, property }
    }
}

/// The name of a property of an entry, put into words only where an error needs it.
#[derive(Debug, Clone, Copy)]
pub struct Property<'a> {
    origin: Origin,
    property: &'a str,
}

impl fmt::Display for Property<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.origin {
            Origin::Entry(_) | Origin::Rootfs(_) => write!(f, "{}.{}", self.origin, self.property),
            Origin::NotifySocket => self.origin.fmt(f),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry(at) => write!(f, "mounts[{at}]"),
            Self::Rootfs(at) => write!(f, "rootfs[{at}]"),
            Self::NotifySocket => f.write_str(notify::VARIABLE),
        }
    }
}

/// One change of the container's tree of mounts, done in the order of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountStep {
    /// Who asked for it.
    pub field: Origin,
    /// Where in the container, an absolute path.
    pub target: PathBuf,
    /// What is mounted there.
    pub kind: MountKind,
    /// Attributes of this mount.
    pub attributes: MountAttributes,
    /// Attributes of this mount and of all below it.
    pub recursive: MountAttributes,
    /// What a bind clears that no word has named: where it is locked it stays.
    pub unnamed: u64,
    /// What its source brings along is locked, though the kernel does not know it.
    pub is_locked: bool,
    /// Propagation types in their order, and whether for the mounts below too.
    pub propagation: Vec<(u64, bool)>,
    /// Made read-only when everything is in its place: more may have to be made in it.
    pub ends_read_only: bool,
}

impl MountStep {
    /// Whether it mounts a tree of cgroups, or part of one: what is seen there depends on
    /// where the process is.
    pub fn shows_cgroups(&self) -> bool {
        match &self.kind {
            MountKind::New(new) => new.fstype == "cgroup2",
            MountKind::Bind(bind) => bind.source.starts_with("/sys/fs/cgroup"),
            MountKind::Existing | MountKind::Link(_) => false,
        }
    }

    /// Whether it is mounted over the container's root itself.
    pub fn covers_the_root(&self) -> bool {
        // It is clean, so there is one way to write it.
        self.target.as_os_str() == "/" && !matches!(self.kind, MountKind::Existing)
    }

    /// Gives a new file system an SELinux label, where its type takes one and its entry
    /// names none: those of the kernel have labels of their own.
    pub fn label(&mut self, label: &str) {
        let MountKind::New(new) = &mut self.kind else { return };
        match new.fstype.as_str() {
            "proc" | "sysfs" | "cgroup" | "cgroup2" => {}
            "mqueue" => new.root_label = Some(label.to_owned()),
            _ if new.data.iter().any(|(key, _)| key == "context") => {}
            _ => new.label = Some(label.to_owned()),
        }
    }

    /// What is mounted where, for the log. Parameters of a file system may be secrets.
    pub fn summary(&self) -> String {
        let what = match &self.kind {
            MountKind::New(new) => format!("new {}", new.fstype),
            MountKind::Bind(bind) => format!(
                "bind of {:?}, opened by {}",
                bind.source,
                if bind.opener == Opener::Creator { "the creator" } else { "init" }
            ),
            MountKind::Existing => "other attributes".to_owned(),
            MountKind::Link(text) => format!("link to {text:?}"),
        };
        format!("{}: {:?}: {what}", self.field, self.target)
    }

    /// Whether it binds a tree that is opened in another mount namespace.
    pub fn is_from_outside(&self) -> bool {
        matches!(&self.kind, MountKind::Bind(bind) if bind.opener == Opener::Creator)
    }

    /// Gives a bind these propagation types before those of its own words.
    pub fn begin_with(&mut self, types: &[(u64, bool)]) {
        if matches!(self.kind, MountKind::Bind(_)) {
            self.propagation.splice(..0, types.iter().copied());
        }
    }
}

/// What a step mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// A file system of its own (fsopen(2)).
    New(FileSystem),
    /// A tree of the host that appears here too (open_tree(2)).
    Bind(Bind),
    /// What is mounted there already changes its attributes.
    Existing,
    /// No mount: a symbolic link with this text.
    Link(PathBuf),
}

/// A tree of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// The path on the host.
    pub source: PathBuf,
    /// With the mounts below it.
    pub recursive: bool,
    /// Whose step it is to open it.
    pub opener: Opener,
    /// Other ids than the files have.
    pub ids: Option<MappedIds>,
}

/// Who opens the tree of a bind, or makes the context of a file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Opener {
    /// Init, who may do so where it has the rights of the caller.
    #[default]
    Init,
    /// The creator: in a user namespace of its own init can neither enter directories
    /// that are closed to it nor map the ids of a file system of the host. So it is with the
    /// procfs of a joined pid namespace, which it enters last.
    Creator,
}

/// The mapping of an id-mapped mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedIds {
    /// For the mounts below too.
    pub recursive: bool,
    /// The mapping; None is that of the container's user namespace.
    pub own: Option<IdMaps>,
}

/// The parameters of a new file system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileSystem {
    /// Its type, as in /proc/filesystems.
    pub fstype: String,
    /// Its device or whatever the type takes for one.
    pub source: String,
    /// Switches of the super block.
    pub switches: Vec<&'static str>,
    /// Parameters in their order; None for a word without a value.
    pub data: Vec<(String, Option<String>)>,
    /// Whose step it is to call fsopen(2).
    pub opener: Opener,
    /// A tmpfs that takes the mode of the directory that it covers.
    pub inherits_mode: bool,
    /// A tmpfs that takes a copy of what it covers.
    pub copies_up: bool,
    /// The SELinux label of all its files.
    pub label: Option<String>,
    /// The SELinux label of its root, where it takes none as a whole.
    pub root_label: Option<String>,
    /// What is shown where the kernel refuses a new one (EPERM, EBUSY).
    pub instead: Option<Instead>,
}

/// What stands in for a file system that the kernel refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instead {
    /// This directory of the host: a cgroup namespace that was joined may belong to another
    /// user namespace.
    Directory(PathBuf),
    /// The caller's own file system of the type, which has to be whole at this place, with what
    /// is mounted on it. In a container that hides a part of its own the kernel lets nobody
    /// mount a whole one (mount_too_revealing of fs/namespace.c), nor where the namespace that
    /// it would show belongs to others.
    Callers(&'static str),
}

impl Instead {
    fn of(fstype: &str) -> Option<Self> {
        match fstype {
            "proc" => Some(Self::Callers("/proc")),
            "sysfs" => Some(Self::Callers("/sys")),
            _ => None,
        }
    }
}

impl FileSystem {
    /// Whether a parameter is longer than fsconfig(2) takes it. Those of a tmpfs are not,
    /// and it may have to be filled before it has its place.
    pub fn has_long_parameter(&self) -> bool {
        const MOST: usize = 255;
        let mut values = self.data.iter().filter_map(|(_, value)| value.as_ref());
        let is_long = |text: &String| text.len() > MOST;
        self.fstype != "tmpfs" && (is_long(&self.source) || values.any(is_long))
    }
}

/// What the steps depend on besides the entry itself.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// Relative bind sources start here.
    pub bundle: &'a Path,
    /// Where the root is on the host.
    pub root: PathBuf,
    /// The host's cgroup hierarchies.
    pub layout: &'a Layout,
    /// The container's own cgroup.
    pub group: &'a Group,
    /// Whether the container has a cgroup namespace.
    pub cgroup_namespace: bool,
    /// Whether the container has a user namespace, so that mounts can take its mapping.
    pub user_namespace: bool,
    /// Whether the container has a new mount namespace.
    pub mount_namespace: bool,
    /// Whether the creator opens the sources of binds.
    pub creator_opens: bool,
    /// Whether the container's pid namespace is a joined one.
    pub joined_pids: bool,
    /// Whether device nodes can be made.
    pub may_make_devices: bool,
    /// Whether pivot_root(2) is not to be used.
    pub no_pivot: bool,
    /// The directory that the program's notifications go through.
    pub notify: Option<&'a Path>,
}

impl Surroundings<'_> {
    /// Where a path of the host is in the container. Most sources are not: with a thousand mounts
    /// to compare each with all before would be most of the work.
    fn in_container(&self, path: &Path) -> Option<PathBuf> {
        path.strip_prefix(&self.root).ok().map(|below| Path::new("/").join(below))
    }
}

/// Plans every entry of `mounts`. Also says what is passed over.
pub fn plan_mounts(
    mounts: &[Mount],
    around: &Surroundings<'_>,
) -> Result<(Vec<MountStep>, Vec<String>)> {
    let mut steps = Vec::new();
    let mut warnings = Vec::new();
    for (at, mount) in mounts.iter().enumerate() {
        let field = Origin::Entry(at);
        let options = MountOptions::parse(mount.options().as_deref().unwrap_or_default())
            .in_field(format_args!("{field}.options"))?;
        warnings
            .extend(options.warnings.iter().map(|warning| format!("{field}.options: {warning}")));
        plan_one(field, mount, options, around, &mut steps)?;
    }
    if let Some(directory) = around.notify {
        let mount = notify::mount(directory);
        let options = MountOptions::parse(mount.options().as_deref().unwrap_or_default())?;
        plan_one(Origin::NotifySocket, &mount, options, around, &mut steps)?;
    }
    Ok((steps, warnings))
}

/// The mapping of an id-mapped mount (config.md#linux-mount-options, idmap).
fn plan_ids(
    field: Origin,
    mount: &Mount,
    options: &MountOptions,
    around: &Surroundings<'_>,
) -> Result<Option<MappedIds>> {
    let uids = id_ranges(mount.uid_mappings(), field.of("uidMappings"))?;
    let gids = id_ranges(mount.gid_mappings(), field.of("gidMappings"))?;
    match (uids.is_empty(), gids.is_empty()) {
        (false, true) => bail!("{field}.gidMappings: missing beside uidMappings"),
        (true, false) => bail!("{field}.uidMappings: missing beside gidMappings"),
        // Engines give mappings without the word.
        (false, false) => Ok(Some(MappedIds {
            recursive: options.id_mapped.unwrap_or(false),
            own: Some(IdMaps { uids, gids }),
        })),
        (true, true) => match options.id_mapped {
            None => Ok(None),
            Some(_) if !around.user_namespace => bail!(
                "{field}.options: \"idmap\": neither uidMappings nor a user namespace to take them from"
            ),
            Some(recursive) => Ok(Some(MappedIds { recursive, own: None })),
        },
    }
}

fn plan_one(
    field: Origin,
    mount: &Mount,
    options: MountOptions,
    around: &Surroundings<'_>,
    steps: &mut Vec<MountStep>,
) -> Result<()> {
    let destination = mount.destination();
    if destination.as_os_str().is_empty() {
        bail!("{field}.destination: empty");
    }
    let target = clean(destination);
    let fstype = mount.typ().as_deref().unwrap_or_default();
    // A mount is a bind by its options alone, whatever its type says; `type: bind`
    // without the word is what people write, and runc takes it for one.
    let bind = options.bind.or((fstype == "bind").then_some(true));
    let ids = plan_ids(field, mount, &options, around)?;
    if ids.is_some() && bind.is_none() {
        bail!("{field}.uidMappings: only a bind mount can be id-mapped");
    }
    if options.remount {
        let kind = MountKind::Existing;
        steps.push(step(field, target, kind, &options));
        return Ok(());
    }
    if let Some(recursive) = bind {
        let Some(source) = mount.source().as_ref().filter(|path| !path.as_os_str().is_empty())
        else {
            bail!("{field}.source: missing on a bind mount");
        };
        let source = around.bundle.join(source);
        // What an earlier entry has mounted is there for init alone.
        let is_made = around
            .in_container(&source)
            .is_some_and(|inside| steps.iter().any(|step| inside.starts_with(&step.target)));
        if is_made && ids.is_some() {
            // The creator, who maps them, would find what lies below it.
            bail!("{field}.source: the ids of what an earlier entry mounts cannot be mapped");
        }
        let creator_opens = around.creator_opens || ids.is_some();
        let opener = if creator_opens && !is_made { Opener::Creator } else { Opener::Init };
        let bind = Bind { source, recursive, opener, ids };
        steps.push(step(field, target, MountKind::Bind(bind), &options));
        return Ok(());
    }
    match fstype {
        "" => bail!("{field}.type: missing"),
        "cgroup" | "cgroup2" => {
            plan_cgroup_mount(field, target, &options, around, steps);
            Ok(())
        }
        _ => {
            let mut new = file_system(fstype, mount.source().as_deref(), &options);
            if fstype == "proc" && around.joined_pids {
                new.opener = Opener::Creator;
            }
            let kind = MountKind::New(new);
            steps.push(step(field, target, kind, &options));
            Ok(())
        }
    }
}

fn step(field: Origin, target: PathBuf, kind: MountKind, options: &MountOptions) -> MountStep {
    let mut step = MountStep {
        field,
        target,
        kind,
        attributes: options.attributes,
        recursive: options.recursive,
        unnamed: 0,
        is_locked: false,
        propagation: options.propagation.clone(),
        ends_read_only: false,
    };
    if matches!(step.kind, MountKind::Bind(_) | MountKind::Existing) {
        step.attributes = options.of_bind();
        let named = options.attributes.clear | options.taken_back.unwrap_or_default();
        step.unnamed = step.attributes.clear & !named;
    }
    if matches!(&step.kind, MountKind::New(new) if new.fstype == "tmpfs") {
        for attributes in [&mut step.attributes, &mut step.recursive] {
            step.ends_read_only |= attributes.set & MOUNT_ATTR_RDONLY != 0;
            attributes.set &= !MOUNT_ATTR_RDONLY;
        }
    }
    step
}

/// A path of the configuration from the root, without `.` and `..`: what is compared with
/// it is then what is used. A relative one counts from "/" (config.md#mounts).
pub fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => _ = clean.pop(),
            _ => {}
        }
    }
    clean
}

fn file_system(fstype: &str, source: Option<&Path>, options: &MountOptions) -> FileSystem {
    let source = source.filter(|source| !source.as_os_str().is_empty());
    let source = source.map_or_else(|| fstype.into(), Path::to_string_lossy).into_owned();
    let data: Vec<(String, Option<String>)> = options
        .data
        .iter()
        .flat_map(|word| outside_of_quotes(word))
        .filter(|word| !word.is_empty())
        .map(|word| match word.split_once('=') {
            // They are there for mount(2), and no part of the label.
            Some((key, value)) if key.ends_with("context") => {
                (key.to_owned(), Some(value.replace('"', "")))
            }
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (word.to_owned(), None),
        })
        .collect();
    let tmpfs = fstype == "tmpfs";
    let copies_up = tmpfs && options.copy_up;
    let mut switches = options.superblock.clone();
    if tmpfs {
        // The attribute of the mount suffices, and can be given when it is filled.
        switches.retain(|switch| *switch != "ro");
    }
    FileSystem {
        fstype: fstype.to_owned(),
        source,
        inherits_mode: tmpfs && !data.iter().any(|(key, _)| key == "mode"),
        switches,
        data,
        opener: Opener::Init,
        copies_up,
        label: None,
        root_label: None,
        instead: Instead::of(fstype),
    }
}

/// The parts between commas. An SELinux label has commas of its own, in quotes (mount(8)).
fn outside_of_quotes(word: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    word.split(move |letter| {
        quoted ^= letter == '"';
        letter == ',' && !quoted
    })
}

/// `type: cgroup` shows the container its own group, on every version in the
/// shape that programs expect there.
fn plan_cgroup_mount(
    field: Origin,
    target: PathBuf,
    options: &MountOptions,
    around: &Surroundings<'_>,
    steps: &mut Vec<MountStep>,
) {
    if !matches!(around.layout, Layout::V1 { .. }) {
        let own = match (around.group.unified(), around.layout) {
            (Some(group), _) => Some(&group.path),
            // Who is in no namespace of his own may not mount the tree anew.
            (None, Layout::V2(unified)) if around.user_namespace => Some(&unified.mount),
            _ => None,
        };
        let kind = match own {
            Some(path) if !around.cgroup_namespace => MountKind::Bind(own_group(path, around)),
            own => MountKind::New(FileSystem {
                instead: own.cloned().map(Instead::Directory),
                ..file_system("cgroup2", Some(Path::new("cgroup")), options)
            }),
        };
        steps.push(step(field, target, kind, options));
        return;
    }
    // v1: a directory for each hierarchy, in a tmpfs.
    let mut above = options.clone();
    above.superblock.clear();
    above.data = vec!["mode=755".to_owned()];
    let tmpfs = MountKind::New(file_system("tmpfs", Some(Path::new("cgroup")), &above));
    steps.push(step(field, target.clone(), tmpfs, &above));
    for group in around.group.directories.iter().filter(|group| group.version == Version::V1) {
        let Some(name) = group.mount.file_name() else { continue };
        let kind = if around.cgroup_namespace {
            let mut own = options.clone();
            own.data = match group.controllers.as_slice() {
                [named] if named.starts_with("name=") => vec!["none".into(), named.clone()],
                controllers => controllers.to_vec(),
            };
            own.superblock.clear();
            MountKind::New(FileSystem {
                instead: Some(Instead::Directory(group.path.clone())),
                ..file_system("cgroup", Some(Path::new("cgroup")), &own)
            })
        } else {
            MountKind::Bind(own_group(&group.path, around))
        };
        steps.push(step(field, target.join(name), kind, options));
        for controller in &group.controllers {
            if name != controller.as_str() && !controller.starts_with("name=") {
                let link = MountKind::Link(name.into());
                steps.push(step(field, target.join(controller), link, &MountOptions::default()));
            }
        }
    }
}

/// The container's own cgroup, as a tree of the host.
fn own_group(path: &Path, around: &Surroundings<'_>) -> Bind {
    let opener = if around.creator_opens { Opener::Creator } else { Opener::Init };
    Bind { source: path.to_owned(), recursive: false, opener, ids: None }
}

/// Whether `/dev` is the host's, so that nothing may be made in it.
pub fn dev_is_bound(steps: &[MountStep]) -> bool {
    steps
        .iter()
        .any(|step| matches!(step.kind, MountKind::Bind(_)) && step.target == Path::new("/dev"))
}

#[cfg(test)]
mod tests {
    use super::super::cgroup::{Directory, Unified};
    use super::super::options::MOUNT_ATTR_NOSUID;
    use super::*;

    fn v2() -> (Layout, Group) {
        let unified = Unified { controllers: vec![], mount: "/sys/fs/cgroup".into() };
        (Layout::V2(unified), group(&[(Version::V2, &[], "/sys/fs/cgroup")]))
    }

    fn v1() -> (Layout, Group) {
        let group = group(&[
            (Version::V1, &["cpu", "cpuacct"], "/sys/fs/cgroup/cpu,cpuacct"),
            (Version::V1, &["name=systemd"], "/sys/fs/cgroup/systemd"),
        ]);
        (Layout::V1 { hierarchies: vec![], unified: None }, group)
    }

    fn group(directories: &[(Version, &[&str], &str)]) -> Group {
        let directory = |(version, controllers, mount): &(Version, &[&str], &str)| Directory {
            version: *version,
            controllers: controllers.iter().map(|name| (*name).to_owned()).collect(),
            mount: mount.into(),
            path: Path::new(mount).join("c"),
        };
        Group { directories: directories.iter().map(directory).collect() }
    }

    fn bind(source: &str, recursive: bool) -> MountKind {
        let opener = Opener::Init;
        MountKind::Bind(Bind { source: source.into(), recursive, opener, ids: None })
    }

    fn plan_in(
        json: &str,
        (layout, group): &(Layout, Group),
        cgroup_namespace: bool,
    ) -> Result<Vec<MountStep>> {
        let mounts: Vec<Mount> = serde_json::from_str(json).unwrap();
        let around = Surroundings { cgroup_namespace, ..around(layout, group) };
        plan_mounts(&mounts, &around).map(|(steps, _)| steps)
    }

    fn around<'a>(layout: &'a Layout, group: &'a Group) -> Surroundings<'a> {
        let bundle = Path::new("/bundle");
        Surroundings {
            bundle,
            root: bundle.join("rootfs"),
            layout,
            group,
            cgroup_namespace: false,
            user_namespace: false,
            creator_opens: false,
            joined_pids: false,
            mount_namespace: true,
            may_make_devices: true,
            no_pivot: false,
            notify: None,
        }
    }

    fn plan(json: &str) -> Result<Vec<MountStep>> {
        plan_in(json, &v2(), false)
    }

    #[test]
    fn a_bind_is_one_step_with_its_source_from_the_bundle() {
        let steps =
            plan(r#"[{"destination":"data","source":"src","options":["rbind","ro","rslave"]}]"#)
                .unwrap();
        assert_eq!(
            steps,
            [MountStep {
                field: Origin::Entry(0),
                target: "/data".into(),
                kind: bind("/bundle/src", true),
                attributes: MountAttributes { set: 1, ..Default::default() },
                recursive: MountAttributes::default(),
                unnamed: 0,
                is_locked: false,
                propagation: vec![(libc::MS_SLAVE, true)],
                ends_read_only: false,
            }]
        );
    }

    #[test]
    fn mappings_make_a_bind_a_step_of_the_creator() {
        let json = r#"[{"destination":"/a","source":"/b","options":["rbind","ridmap"],
            "uidMappings":[{"containerID":0,"hostID":5,"size":9}],
            "gidMappings":[{"containerID":0,"hostID":7,"size":9}]}]"#;
        let steps = plan(json).unwrap();
        let MountKind::Bind(bind) = &steps[0].kind else { panic!() };
        assert_eq!(bind.opener, Opener::Creator);
        let ids = bind.ids.as_ref().unwrap();
        assert!(ids.recursive);
        assert_eq!(ids.own.as_ref().unwrap().gids[0].outside, 7);
    }

    #[test]
    fn a_source_that_an_earlier_entry_mounts_is_opened_by_init() {
        let json = r#"[{"destination":"/a","type":"tmpfs"},
            {"destination":"/b","source":"/bundle/rootfs/a/b","options":["bind"]},
            {"destination":"/c","source":"/bundle/rootfs/ab","options":["bind"]}]"#;
        let mounts: Vec<Mount> = serde_json::from_str(json).unwrap();
        let (layout, group) = v2();
        let around =
            Surroundings { user_namespace: true, creator_opens: true, ..around(&layout, &group) };
        let (steps, _) = plan_mounts(&mounts, &around).unwrap();
        let is_from_outside = steps.iter().map(MountStep::is_from_outside);
        assert_eq!(is_from_outside.collect::<Vec<_>>(), [false, false, true]);
        let json = json.replace(r#""bind"]"#, r#""bind","idmap"]"#);
        let mounts: Vec<Mount> = serde_json::from_str(&json).unwrap();
        let error = plan_mounts(&mounts, &around).unwrap_err();
        let reason = "mounts[1].source: the ids of what an earlier entry mounts cannot be mapped";
        assert_eq!(error.to_string(), reason);
    }

    #[test]
    fn the_log_says_what_is_mounted_and_no_parameter_of_it() {
        let json = r#"[{"destination":"/t","type":"tmpfs","options":["secret=x"]},
            {"destination":"/b","source":"/h","options":["bind"]},
            {"destination":"/m","source":"/h","options":["bind"],
            "uidMappings":[{"containerID":0,"hostID":5,"size":9}],
            "gidMappings":[{"containerID":0,"hostID":7,"size":9}]},
            {"destination":"/t","options":["remount","ro"]}]"#;
        let mut steps = plan(json).unwrap();
        steps[3].field = Origin::Rootfs(0);
        steps.push(MountStep { kind: MountKind::Link("x".into()), ..steps[0].clone() });
        let summaries: Vec<_> = steps.iter().map(MountStep::summary).collect();
        let expected = [
            r#"mounts[0]: "/t": new tmpfs"#,
            r#"mounts[1]: "/b": bind of "/h", opened by init"#,
            r#"mounts[2]: "/m": bind of "/h", opened by the creator"#,
            r#"rootfs[0]: "/t": other attributes"#,
            r#"mounts[0]: "/t": link to "x""#,
        ];
        assert_eq!(summaries, expected);
    }

    #[test]
    fn cgroups_are_shown_by_the_one_tree_and_by_what_is_bound_of_the_hosts() {
        let shows = |json: &str| plan(json).unwrap()[0].shows_cgroups();
        assert!(shows(r#"[{"destination":"/c","type":"cgroup2"}]"#));
        assert!(shows(r#"[{"destination":"/c","source":"/sys/fs/cgroup/a","options":["bind"]}]"#));
        assert!(!shows(r#"[{"destination":"/c","type":"tmpfs"}]"#));
        assert!(!shows(r#"[{"destination":"/c","source":"/sys/fs","options":["bind"]}]"#));
        assert!(!shows(r#"[{"destination":"/c","options":["remount"]}]"#));
    }

    #[test]
    fn a_procfs_of_a_joined_pid_namespace_is_made_by_the_creator() {
        let json = r#"[{"destination":"/proc","type":"proc"},{"destination":"/t","type":"tmpfs"}]"#;
        let mounts: Vec<Mount> = serde_json::from_str(json).unwrap();
        let (layout, group) = v2();
        let openers = |joined_pids| {
            let around = Surroundings { joined_pids, ..around(&layout, &group) };
            let (steps, _) = plan_mounts(&mounts, &around).unwrap();
            let opener = |step: &MountStep| match &step.kind {
                MountKind::New(new) => new.opener,
                other => panic!("{other:?}"),
            };
            steps.iter().map(opener).collect::<Vec<_>>()
        };
        assert_eq!(openers(true), [Opener::Creator, Opener::Init]);
        assert_eq!(openers(false), [Opener::Init, Opener::Init]);
    }

    #[test]
    fn the_word_alone_takes_the_mapping_of_the_user_namespace() {
        let (layout, group) = v2();
        let around = Surroundings { user_namespace: true, ..around(&layout, &group) };
        for (word, recursive) in [("idmap", false), ("ridmap", true)] {
            let json =
                format!(r#"[{{"destination":"/a","source":"/b","options":["bind","{word}"]}}]"#);
            let mounts: Vec<Mount> = serde_json::from_str(&json).unwrap();
            let (steps, _) = plan_mounts(&mounts, &around).unwrap();
            let MountKind::Bind(bind) = &steps[0].kind else { panic!() };
            assert_eq!(bind.ids, Some(MappedIds { recursive, own: None }), "{word}");
        }
    }

    #[test]
    fn words_of_the_file_system_become_its_parameters() {
        let steps = plan(
            r#"[{"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","strictatime","mode=755","size=65536k"]}]"#,
        )
        .unwrap();
        let MountKind::New(tmpfs) = &steps[0].kind else { panic!() };
        assert_eq!(
            tmpfs.data,
            [("mode".into(), Some("755".into())), ("size".into(), Some("65536k".into()))]
        );
        assert!(!tmpfs.inherits_mode && !tmpfs.copies_up);
        assert_eq!(steps[0].attributes.set, 0x22);
    }

    #[test]
    fn a_label_in_quotes_keeps_its_commas_and_loses_the_quotes() {
        for (options, label) in [
            (r#""context=\"u:r:t:s0:c1,c2\",size=1m""#, "u:r:t:s0:c1,c2"),
            (r#""context=u:r:t:s0,size=1m""#, "u:r:t:s0"),
        ] {
            let json = format!(r#"[{{"destination":"/t","type":"tmpfs","options":[{options}]}}]"#);
            let steps = plan(&json).unwrap();
            let MountKind::New(tmpfs) = &steps[0].kind else { panic!() };
            let expected = [("context", label), ("size", "1m")];
            assert_eq!(tmpfs.data, expected.map(|(key, value)| (key.into(), Some(value.into()))));
        }
        // What the quotes of another parameter mean is up to its file system.
        let json = r#"[{"destination":"/t","type":"x","options":["a=\"b\""]}]"#;
        let MountKind::New(new) = &plan(json).unwrap()[0].kind else { panic!() };
        assert_eq!(new.data, [("a".into(), Some(r#""b""#.into()))]);
    }

    #[test]
    fn a_tmpfs_without_a_mode_takes_that_of_the_directory() {
        let steps = plan(r#"[{"destination":"/tmp","type":"tmpfs","options":["tmpcopyup","ro"]}]"#)
            .unwrap();
        let MountKind::New(tmpfs) = &steps[0].kind else { panic!() };
        assert!(tmpfs.inherits_mode && tmpfs.copies_up && tmpfs.switches.is_empty());
        assert_eq!(tmpfs.source, "tmpfs");
        for (option, inherits) in [("size=1m", true), ("mode=700", false)] {
            let json = format!(r#"[{{"destination":"/t","type":"tmpfs","options":["{option}"]}}]"#);
            let MountKind::New(tmpfs) = &plan(&json).unwrap()[0].kind else { panic!() };
            assert_eq!(tmpfs.inherits_mode, inherits, "{option}");
        }
    }

    #[test]
    fn a_tmpfs_is_read_only_when_all_is_in_its_place() {
        for word in ["ro", "rro"] {
            let steps = plan(&format!(
                r#"[{{"destination":"/t","type":"tmpfs","options":["{word}","nodev"]}},
                    {{"destination":"/b","source":"/b","options":["bind","{word}"]}}]"#
            ))
            .unwrap();
            assert!(steps[0].ends_read_only && !steps[1].ends_read_only, "{word}");
            assert_eq!((steps[0].attributes.set, steps[0].recursive.set), (4, 0), "{word}");
            let MountKind::New(tmpfs) = &steps[0].kind else { panic!() };
            assert!(tmpfs.switches.is_empty(), "{word}");
        }
    }

    #[test]
    fn a_destination_is_what_it_is_compared_as() {
        for (given, target) in [("a/./b/", "/a/b"), ("/x/../dev", "/dev"), ("/../..//y/.", "/y")] {
            assert_eq!(clean(Path::new(given)), Path::new(target), "{given}");
        }
    }

    #[test]
    fn the_cgroup_mount_shows_the_own_group_on_v2() {
        let json = r#"[{"destination":"/sys/fs/cgroup","type":"cgroup","options":["ro"]}]"#;
        let steps = plan(json).unwrap();
        assert_eq!(steps[0].kind, bind("/sys/fs/cgroup/c", false));
        let steps = plan_in(json, &v2(), true).unwrap();
        let MountKind::New(new) = &steps[0].kind else { panic!() };
        assert_eq!(new.fstype, "cgroup2");
        // A namespace that was joined may refuse it.
        assert_eq!(new.instead, Some(Instead::Directory("/sys/fs/cgroup/c".into())));
    }

    #[test]
    fn of_a_refused_procfs_or_sysfs_the_callers_is_shown_and_of_no_other() {
        for (fstype, instead) in [
            ("proc", Some(Instead::Callers("/proc"))),
            ("sysfs", Some(Instead::Callers("/sys"))),
            ("tmpfs", None),
        ] {
            let json = format!(r#"[{{"destination":"/x","type":"{fstype}"}}]"#);
            let MountKind::New(new) = &plan(&json).unwrap()[0].kind else { panic!() };
            assert_eq!(new.instead, instead, "{fstype}");
        }
    }

    #[test]
    fn who_has_neither_group_nor_namespace_sees_the_callers_tree() {
        let json = r#"[{"destination":"/sys/fs/cgroup","type":"cgroup"}]"#;
        let mounts: Vec<Mount> = serde_json::from_str(json).unwrap();
        let (layout, group) = (v2().0, Group::default());
        let planned = |user_namespace| {
            let around = Surroundings { user_namespace, ..around(&layout, &group) };
            plan_mounts(&mounts, &around).unwrap().0.remove(0).kind
        };
        assert_eq!(planned(true), bind("/sys/fs/cgroup", false));
        assert!(matches!(planned(false), MountKind::New(_)));
    }

    #[test]
    fn the_cgroup_mount_is_a_read_only_tmpfs_of_hierarchies_on_v1() {
        let json =
            r#"[{"destination":"/sys/fs/cgroup","type":"cgroup","options":["ro","nosuid"]}]"#;
        let steps = plan_in(json, &v1(), false).unwrap();
        let shape: Vec<(&str, &str, u64)> = steps
            .iter()
            .map(|step| {
                let kind = match &step.kind {
                    MountKind::New(new) => new.fstype.as_str(),
                    MountKind::Bind(bind) => bind.source.to_str().unwrap(),
                    MountKind::Link(text) => text.to_str().unwrap(),
                    MountKind::Existing => "existing",
                };
                (step.target.to_str().unwrap(), kind, step.attributes.set)
            })
            .collect();
        assert_eq!(
            shape,
            [
                ("/sys/fs/cgroup", "tmpfs", 2),
                ("/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct/c", 3),
                ("/sys/fs/cgroup/cpu", "cpu,cpuacct", 0),
                ("/sys/fs/cgroup/cpuacct", "cpu,cpuacct", 0),
                ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/systemd/c", 3),
            ]
        );
        assert!(steps[0].ends_read_only);
        let steps = plan_in(json, &v1(), true).unwrap();
        let MountKind::New(new) = &steps[4].kind else { panic!() };
        assert_eq!(new.data, [("none".into(), None), ("name".into(), Some("systemd".into()))]);
        // A namespace that was joined may refuse it.
        let own = Instead::Directory("/sys/fs/cgroup/systemd/c".into());
        assert_eq!(new.instead, Some(own));
        let pids = group(&[(Version::V1, &["pids"], "/sys/fs/cgroup/pids")]);
        let steps = plan_in(json, &(v1().0, pids), true).unwrap();
        let MountKind::New(new) = &steps[1].kind else { panic!() };
        assert_eq!(new.data, [("pids".into(), None)]);
    }

    #[test]
    fn wrong_mounts_are_refused_by_their_field() {
        for (json, reason) in [
            (r#"[{"destination":""}]"#, "mounts[0].destination: empty"),
            (r#"[{"destination":"/a"}]"#, "mounts[0].type: missing"),
            (
                r#"[{"destination":"/a","options":["bind"]}]"#,
                "mounts[0].source: missing on a bind mount",
            ),
            (
                r#"[{"destination":"/a","source":"/b","options":["bind","bogus"]}]"#,
                r#"mounts[0].options: "bogus": unknown on a bind mount"#,
            ),
            (
                r#"[{"destination":"/a","source":"/b","options":["bind"],"uidMappings":[{"containerID":0,"hostID":0,"size":1}]}]"#,
                "mounts[0].gidMappings: missing beside uidMappings",
            ),
            (
                r#"[{"destination":"/a","source":"/b","options":["bind","idmap"]}]"#,
                r#"mounts[0].options: "idmap": neither uidMappings nor a user namespace to take them from"#,
            ),
            (
                r#"[{"destination":"/a","type":"tmpfs","uidMappings":[{"containerID":0,"hostID":5,"size":1}],"gidMappings":[{"containerID":0,"hostID":5,"size":1}]}]"#,
                "mounts[0].uidMappings: only a bind mount can be id-mapped",
            ),
        ] {
            assert_eq!(format!("{:#}", plan(json).unwrap_err()), reason, "{json}");
        }
    }

    #[test]
    fn what_is_mounted_over_the_root_covers_it_and_a_remount_does_not() {
        let covers = |json: &str| plan(json).unwrap()[0].covers_the_root();
        assert!(covers(r#"[{"destination":"/","type":"tmpfs"}]"#));
        assert!(covers(r#"[{"destination":"/a/..","source":"/x","options":["bind"]}]"#));
        assert!(!covers(r#"[{"destination":"/a","type":"tmpfs"}]"#));
        assert!(!covers(r#"[{"destination":"/","options":["remount","ro"]}]"#));
    }

    #[test]
    fn a_parameter_is_long_where_fsconfig_does_not_take_it() {
        let is_long = |fstype: &str, source: usize, option: usize| {
            let (source, option) = ("s".repeat(source), "o".repeat(option));
            let json = format!(
                r#"[{{"destination":"/a","type":"{fstype}","source":"{source}","options":["x={option}","y"]}}]"#
            );
            match &plan(&json).unwrap()[0].kind {
                MountKind::New(new) => new.has_long_parameter(),
                other => panic!("{other:?}"),
            }
        };
        assert!(is_long("overlay", 1, 256) && is_long("overlay", 256, 1));
        assert!(!is_long("overlay", 255, 255) && !is_long("tmpfs", 256, 256));
        assert!(!is_long("overlay", 1, 1));
    }

    #[test]
    fn a_read_only_tmpfs_is_closed_when_it_is_filled_and_keeps_what_else_it_was_given() {
        let step = |options: &str| {
            let json = format!(r#"[{{"destination":"/a","type":"tmpfs","options":[{options}]}}]"#);
            let step = plan(&json).unwrap().remove(0);
            (step.ends_read_only, step.attributes.set, step.recursive.set)
        };
        let nosuid = MOUNT_ATTR_NOSUID;
        assert_eq!(step(r#""nosuid""#), (false, nosuid, 0));
        assert_eq!(step(r#""ro","nosuid""#), (true, nosuid, 0));
        assert_eq!(step(r#""rro","rnosuid""#), (true, 0, nosuid));
    }

    #[test]
    fn a_bind_takes_back_what_its_words_name_and_may_keep_the_rest_locked() {
        let step = |words: &str| {
            let json = format!(r#"[{{"destination":"/a","source":"/x","options":[{words}]}}]"#);
            let step = plan(&json).unwrap().remove(0);
            (step.attributes.clear, step.unnamed)
        };
        assert_eq!(step(r#""bind""#), (0, 0));
        assert_eq!(step(r#""bind","rw""#), (0xf, 0xe));
        assert_eq!(step(r#""bind","exec","suid""#), (0xf, 0x5));
        assert_eq!(step(r#""bind","rw","noatime""#), (0x7f, 0xe));
    }
}
