//! Where a container's control groups are and what is written into them.
//!
//! Pure: `cgroups` gathers the [`Layout`] before and carries the plan out after.
//! One table (`settings`) knows which file of which version a field of
//! `linux.resources` goes to.

use std::path::{Component, Path, PathBuf};

use anyhow::{Result, bail, ensure};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxResources};
use serde::{Deserialize, Serialize};

use crate::error::InField;

pub mod devices;
pub mod program;
pub mod settings;
pub mod unit;

use devices::DeviceList;
pub use settings::{Setting, Stage, Write};
use unit::Property;

/// How the machine's control groups are mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    /// Not at all.
    None,
    /// One tree for everything.
    V2(Unified),
    /// A tree for each controller, or for each set of them.
    V1 {
        /// The trees, named ones such as `name=systemd` too.
        hierarchies: Vec<Hierarchy>,
        /// The tree of version 2 that is mounted beside them on a hybrid machine.
        unified: Option<Unified>,
    },
}

/// One tree of version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    /// As /proc/self/cgroup names them: `cpu`, `cpuacct`, `name=systemd`.
    pub controllers: Vec<String>,
    /// Where the tree is mounted.
    pub mount: PathBuf,
}

/// The tree of version 2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unified {
    /// What cgroup.controllers of its root lists.
    pub controllers: Vec<String>,
    /// Where the tree is mounted.
    pub mount: PathBuf,
}

/// What the caller may do to the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupAccess {
    /// Everything.
    Root,
    /// Nothing, because the caller wants no cgroup.
    Unwanted,
    /// Nothing but what was delegated.
    Rootless {
        /// The caller's own group in the tree of version 2, if the caller may
        /// make groups in it.
        own: Option<String>,
    },
}

/// The version of cgroup a directory belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    /// One tree for each set of controllers.
    V1,
    /// One tree for all.
    V2,
}

/// The container's directory in one tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Whose files it holds.
    pub version: Version,
    /// Version 1: the controllers of this tree. Version 2: those its root has.
    pub controllers: Vec<String>,
    /// Where the tree is mounted.
    pub mount: PathBuf,
    /// The directory itself, absolute, below `mount`.
    pub path: PathBuf,
}

impl Directory {
    /// Whether it is the directory of version 1 that `controller` names, with or
    /// without `name=`.
    fn is_of(&self, controller: &str) -> bool {
        let plain = |name: &str| name.strip_prefix("name=").unwrap_or(name) == controller;
        self.version == Version::V1
            && self.controllers.iter().any(|name| name == controller || plain(name))
    }

    /// Goes down to `path`, which may not climb.
    fn enter(&mut self, path: &str) -> Result<()> {
        for component in Path::new(path).components() {
            match component {
                Component::Normal(name) => self.path.push(name),
                Component::RootDir | Component::CurDir => {}
                // The words that callers look for.
                _ => bail!("{path:?}: bad sub cgroup path: it may not climb"),
            }
        }
        Ok(())
    }
}

/// A container's group: one directory in each tree, or none at all. All that has
/// to be remembered to find it again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// At most one of them is of version 2.
    pub directories: Vec<Directory>,
}

impl Group {
    /// The directory whose files control `controller`, by its name in version 2:
    /// `io` is `blkio` in version 1.
    pub fn directory_of(&self, controller: &str) -> Option<&Directory> {
        self.directories.iter().find(|directory| {
            let name = match directory.version {
                Version::V1 if controller == "io" => "blkio",
                _ => controller,
            };
            directory.controllers.iter().any(|held| held == name)
        })
    }

    /// Its directories, for the log.
    pub fn paths(&self) -> String {
        let paths: Vec<_> = self.directories.iter().map(|found| found.path.display()).collect();
        format!("cgroup {paths:?}")
    }

    /// The directory in the tree of version 2.
    pub fn unified(&self) -> Option<&Directory> {
        self.directories.iter().find(|directory| directory.version == Version::V2)
    }

    /// The groups below this one that `requests` name, each `[CONTROLLER[,...]:]PATH`
    /// as for `exec --cgroup`. Without controllers it is the one request, and for all
    /// trees; a tree that is not named keeps its directory.
    pub fn below(&self, requests: &[String]) -> Result<Self> {
        let mut group = self.clone();
        let mut named: Vec<&str> = Vec::new();
        for request in requests {
            let Some((controllers, path)) = request.split_once(':') else {
                ensure!(requests.len() == 1, "{request:?}: names no controller");
                for directory in &mut group.directories {
                    directory.enter(request)?;
                }
                break;
            };
            for controller in controllers.split(',') {
                ensure!(!named.contains(&controller), "{request:?}: {controller} is given twice");
                named.push(controller);
                let tree = group.directories.iter_mut().find(|tree| tree.is_of(controller));
                let Some(directory) = tree else {
                    bail!("{request:?}: the container has no cgroup of {controller:?} alone")
                };
                // Mounted together, they can only move together.
                if !directory
                    .controllers
                    .iter()
                    .any(|other| other != controller && named.contains(&other.as_str()))
                {
                    directory.enter(path)?;
                }
            }
        }
        Ok(group)
    }

    /// The freezer, of whichever version.
    pub fn freezer(&self) -> Option<&Directory> {
        self.directory_of("freezer").or_else(|| self.unified())
    }
}

/// How access to devices is restricted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicePlan {
    /// The directory it is done in.
    pub directory: PathBuf,
    /// Whether by the files of version 1 or by a program.
    pub version: Version,
    /// What is allowed.
    pub list: DeviceList,
}

/// What `create` makes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupPlan {
    /// Where.
    pub group: Group,
    /// What is written there, in this order.
    pub settings: Vec<Setting>,
    /// None where there is nothing that could restrict devices.
    pub devices: Option<DevicePlan>,
    /// To be logged: what is left out and why.
    pub warnings: Vec<String>,
}

impl CgroupPlan {
    /// Plans the group of the container `id`, which names the group where
    /// `cgroups_path` is empty. Paths, relative ones too, count from the mount
    /// point of each tree.
    ///
    /// Errors name `linux.cgroupsPath` or the field of `linux.resources`.
    pub fn new(
        cgroups_path: Option<&Path>,
        resources: Option<&LinuxResources>,
        id: &str,
        layout: &Layout,
        access: &CgroupAccess,
    ) -> Result<Self> {
        let name = group_name(cgroups_path, id).in_field("linux.cgroupsPath")?;
        let mut plan = Self::default();
        match place(&name, layout, access) {
            Ok(group) => plan.group = group,
            Err(reason) => plan.warnings.push(format!("the container gets no cgroup: {reason}")),
        }
        if let Some(resources) = resources {
            plan.settings = plan.group.settings(resources)?;
        }
        let rules = resources.and_then(|resources| resources.devices().as_deref());
        plan.devices = match access {
            CgroupAccess::Root => plan.group.devices(rules.unwrap_or_default())?,
            // Neither lists nor programs are theirs to set, and a user
            // namespace makes no device nodes.
            CgroupAccess::Rootless { .. } | CgroupAccess::Unwanted => None,
        };
        if *access == CgroupAccess::Root
            && plan.devices.is_none()
            && rules.is_some_and(|r| !r.is_empty())
        {
            bail!(
                "linux.resources.devices: this machine has no cgroup that could restrict devices"
            );
        }
        Ok(plan)
    }

    /// Plans the group at `path`, below the root of the tree of version 2, which is a unit of
    /// systemd's. Also the properties of that: it is to keep the limits.
    ///
    /// Errors name the field of `linux.resources`.
    pub fn in_unit(
        path: &Path,
        resources: Option<&LinuxResources>,
        layout: &Layout,
        is_root: bool,
        majors: &[(devices::Kind, u32, String)],
    ) -> Result<(Self, Vec<Property>)> {
        let Layout::V2(unified) = layout else {
            bail!("--systemd-cgroup: this machine has no cgroup v2 alone")
        };
        let group = Group {
            directories: vec![Directory {
                version: Version::V2,
                controllers: unified.controllers.clone(),
                mount: unified.mount.clone(),
                path: unified.mount.join(path.strip_prefix("/").unwrap_or(path)),
            }],
        };
        let mut settings = resources.map(|r| group.settings(r)).transpose()?.unwrap_or_default();
        let mut properties = unit::limits(&mut settings)?;
        let rules = resources.and_then(|resources| resources.devices().as_deref());
        let devices = if is_root { group.devices(rules.unwrap_or_default())? } else { None };
        if let Some(devices) = &devices {
            properties.extend(unit::device_properties(&devices.list, majors));
        }
        Ok((Self { group, settings, devices, warnings: Vec::new() }, properties))
    }

    /// The same plan for a group at another place of its tree.
    pub fn moved_to(mut self, directory: &Directory) -> Self {
        for setting in &mut self.settings {
            setting.directory.clone_from(&directory.path);
        }
        if let Some(devices) = &mut self.devices {
            devices.directory.clone_from(&directory.path);
        }
        self.group = Group { directories: vec![directory.clone()] };
        self
    }

    /// All directories, one for each tree.
    pub fn directories(&self) -> impl Iterator<Item = &Path> {
        self.group.directories.iter().map(|directory| directory.path.as_path())
    }
}

impl Group {
    /// What to write for `resources`, whether the group is new or not. Devices
    /// are not part of it.
    ///
    /// Errors name the field of `linux.resources`.
    pub fn settings(&self, resources: &LinuxResources) -> Result<Vec<Setting>> {
        settings::plan(resources, self)
    }

    /// How to restrict the group to the devices of `rules` and the defaults.
    ///
    /// Errors name `linux.resources.devices[i]`.
    pub fn devices(&self, rules: &[LinuxDeviceCgroup]) -> Result<Option<DevicePlan>> {
        let Some(directory) = self.directory_of("devices").or_else(|| self.unified()) else {
            return Ok(None);
        };
        let list = DeviceList::new(rules, directory.version == Version::V1)?;
        Ok(Some(DevicePlan { directory: directory.path.clone(), version: directory.version, list }))
    }
}

/// The group's path below the mount point, without a leading slash.
fn group_name(cgroups_path: Option<&Path>, id: &str) -> Result<PathBuf> {
    let path = match cgroups_path {
        Some(path) if !path.as_os_str().is_empty() => path,
        _ => Path::new(id),
    };
    // The kernel refuses a line feed in a name as well: /proc/PID/cgroup is made of lines.
    let text = path.as_os_str().as_encoded_bytes();
    ensure!(!text.iter().any(|&c| c == 0 || c == b'\n'), "{path:?} holds a NUL or a line feed");
    let mut name = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => name.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                bail!("{path:?} leads out of its parent by \"..\"")
            }
        }
    }
    ensure!(!name.as_os_str().is_empty(), "{path:?} is the root of the tree");
    Ok(name)
}

/// The group's directories, or why it has none.
fn place(
    name: &Path,
    layout: &Layout,
    access: &CgroupAccess,
) -> std::result::Result<Group, String> {
    let below = |unified: &Unified, parent: &Path| Directory {
        version: Version::V2,
        controllers: unified.controllers.clone(),
        mount: unified.mount.clone(),
        path: unified.mount.join(parent).join(name),
    };
    let directories = match (layout, access) {
        (_, CgroupAccess::Unwanted) => Vec::new(),
        (Layout::None, _) => return Err("no cgroup tree is mounted".into()),
        (Layout::V2(unified), CgroupAccess::Root) => vec![below(unified, Path::new(""))],
        (Layout::V2(unified), CgroupAccess::Rootless { own: Some(own) }) => {
            let own = Path::new(own.trim_start_matches('/'));
            // An engine that knows its own group may have named it.
            let parent = if name.starts_with(own) { Path::new("") } else { own };
            vec![below(unified, parent)]
        }
        (_, CgroupAccess::Rootless { .. }) => {
            return Err("none was delegated to the calling user".into());
        }
        (Layout::V1 { hierarchies, unified }, CgroupAccess::Root) => {
            let v1 = hierarchies.iter().map(|hierarchy| Directory {
                version: Version::V1,
                controllers: hierarchy.controllers.clone(),
                mount: hierarchy.mount.clone(),
                path: hierarchy.mount.join(name),
            });
            v1.chain(unified.iter().map(|unified| below(unified, Path::new("")))).collect()
        }
    };
    Ok(Group { directories })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v1(names: &[&str]) -> Vec<Hierarchy> {
        let hierarchy = |name: &&str| Hierarchy {
            controllers: name.split(',').map(str::to_owned).collect(),
            mount: Path::new("/c").join(name.strip_prefix("name=").unwrap_or(name)),
        };
        names.iter().map(hierarchy).collect()
    }

    fn unified(mount: &str, names: &[&str]) -> Unified {
        Unified {
            controllers: names.iter().map(ToString::to_string).collect(),
            mount: mount.into(),
        }
    }

    fn hybrid() -> Layout {
        let hierarchies = v1(&["name=systemd", "devices", "freezer", "cpu,cpuacct"]);
        Layout::V1 { hierarchies, unified: Some(unified("/c/unified", &["hugetlb"])) }
    }

    fn v2() -> Layout {
        Layout::V2(unified("/c", &["cpu", "memory"]))
    }

    fn directories(path: &str, layout: &Layout, access: &CgroupAccess) -> Vec<String> {
        let plan = CgroupPlan::new(Some(path.as_ref()), None, "box", layout, access).unwrap();
        plan.directories().map(|path| path.to_str().unwrap().to_owned()).collect()
    }

    fn error(path: &str, resources: &str, layout: &Layout, access: &CgroupAccess) -> String {
        let resources: LinuxResources = serde_json::from_str(resources).unwrap();
        let plan = CgroupPlan::new(Some(path.as_ref()), Some(&resources), "box", layout, access);
        format!("{:#}", plan.unwrap_err())
    }

    #[test]
    fn a_group_below_is_named_for_all_trees_or_for_some() {
        let tree = |version, controllers: &[&str]| Directory {
            version,
            controllers: controllers.iter().map(|&name| name.to_owned()).collect(),
            mount: "/m".into(),
            path: "/m/box".into(),
        };
        let group = Group {
            directories: vec![
                tree(Version::V1, &["cpu", "cpuacct"]),
                tree(Version::V1, &["name=systemd"]),
                tree(Version::V2, &[]),
            ],
        };
        let below = |requests: &[&str]| -> Result<Vec<String>, String> {
            let requests: Vec<String> = requests.iter().map(|&text| text.to_owned()).collect();
            let group = group.below(&requests).map_err(|error| error.to_string())?;
            Ok(group.directories.iter().map(|tree| tree.path.display().to_string()).collect())
        };
        for (requests, paths) in [
            (&[][..], ["/m/box", "/m/box", "/m/box"]),
            (&["/a"], ["/m/box/a", "/m/box/a", "/m/box/a"]),
            (&["cpu:a/b"], ["/m/box/a/b", "/m/box", "/m/box"]),
            (&["cpu,cpuacct:a", "systemd:c"], ["/m/box/a", "/m/box/c", "/m/box"]),
        ] {
            assert_eq!(below(requests), Ok(paths.map(str::to_owned).to_vec()), "{requests:?}");
        }
        for (requests, error) in [
            (&["../a"][..], r#""../a": bad sub cgroup path: it may not climb"#),
            (&["a", "b"], r#""a": names no controller"#),
            (&["memory:a"], r#""memory:a": the container has no cgroup of "memory" alone"#),
            (&["cpu:a", "cpu:b"], r#""cpu:b": cpu is given twice"#),
        ] {
            assert_eq!(below(requests), Err(error.to_owned()), "{requests:?}");
        }
    }

    #[test]
    fn paths_count_from_the_mount_point_whether_absolute_or_not() {
        for (path, below) in [
            ("/docker/1f", "docker/1f"),
            ("docker/1f", "docker/1f"),
            ("", "box"),
            ("//a/./b//", "a/b"),
            ("my.slice:docker:1f", "my.slice:docker:1f"),
            ("...", "..."),
        ] {
            assert_eq!(
                directories(path, &v2(), &CgroupAccess::Root),
                [format!("/c/{below}")],
                "{path}"
            );
        }
    }

    #[test]
    fn a_path_that_climbs_or_names_the_root_is_refused() {
        for (path, reason) in [
            ("/a/../../b", r#""/a/../../b" leads out of its parent by "..""#),
            ("..", r#"".." leads out of its parent by "..""#),
            ("/", r#""/" is the root of the tree"#),
            ("./", r#""./" is the root of the tree"#),
            ("/a\nb", r#""/a\nb" holds a NUL or a line feed"#),
        ] {
            assert_eq!(
                error(path, "{}", &v2(), &CgroupAccess::Root),
                format!("linux.cgroupsPath: {reason}")
            );
        }
    }

    #[test]
    fn a_hybrid_machine_gets_a_directory_in_every_tree() {
        assert_eq!(
            directories("/x", &hybrid(), &CgroupAccess::Root),
            ["/c/systemd/x", "/c/devices/x", "/c/freezer/x", "/c/cpu,cpuacct/x", "/c/unified/x"]
        );
    }

    #[test]
    fn a_controller_is_used_where_it_is() {
        let resources = r#"{"cpu":{"shares":5},"hugepageLimits":[{"pageSize":"2MB","limit":1}]}"#;
        let resources: LinuxResources = serde_json::from_str(resources).unwrap();
        let plan =
            CgroupPlan::new(None, Some(&resources), "box", &hybrid(), &CgroupAccess::Root).unwrap();
        let files: Vec<_> = plan
            .settings
            .iter()
            .map(|setting| setting.directory.join(&setting.writes[0].file))
            .collect();
        assert_eq!(
            files,
            [
                "cpu,cpuacct/box/cpu.shares",
                "unified/box/hugetlb.2MB.max",
                "unified/box/hugetlb.2MB.rsvd.max"
            ]
            .map(|file| Path::new("/c").join(file))
        );
        let devices = plan.devices.unwrap();
        assert_eq!((devices.version, devices.directory), (Version::V1, "/c/devices/box".into()));
        assert_eq!(plan.group.freezer().unwrap().path, Path::new("/c/freezer/box"));
    }

    #[test]
    fn devices_are_restricted_by_a_program_where_no_tree_of_v1_does_it() {
        let without =
            Layout::V1 { hierarchies: v1(&["cpu"]), unified: Some(unified("/c/unified", &[])) };
        for (layout, directory) in [(v2(), "/c/box"), (without, "/c/unified/box")] {
            let plan = CgroupPlan::new(None, None, "box", &layout, &CgroupAccess::Root).unwrap();
            let devices = plan.devices.unwrap();
            assert_eq!((devices.version, devices.directory), (Version::V2, directory.into()));
            assert!(!devices.list.default_allow);
        }
    }

    #[test]
    fn a_rootless_container_is_placed_below_its_callers_group() {
        let own = CgroupAccess::Rootless { own: Some("/user.slice/me".into()) };
        assert_eq!(directories("/x", &v2(), &own), ["/c/user.slice/me/x"]);
        assert_eq!(directories("/user.slice/me/x", &v2(), &own), ["/c/user.slice/me/x"]);
        let plan = CgroupPlan::new(None, None, "box", &v2(), &own).unwrap();
        assert_eq!((plan.devices, plan.warnings), (None, vec![]));
    }

    #[test]
    fn a_rootless_container_without_delegation_has_no_group_and_no_limits() {
        let none = CgroupAccess::Rootless { own: None };
        for (layout, access) in [
            (v2(), none.clone()),
            (hybrid(), none.clone()),
            (hybrid(), CgroupAccess::Rootless { own: Some("/me".into()) }),
        ] {
            let devices = r#"{"devices":[{"allow":false,"access":"rwm"}],"cpu":{"shares":0}}"#;
            let devices: LinuxResources = serde_json::from_str(devices).unwrap();
            let plan = CgroupPlan::new(None, Some(&devices), "box", &layout, &access).unwrap();
            assert_eq!(plan.directories().count(), 0);
            assert_eq!(
                plan.warnings,
                ["the container gets no cgroup: none was delegated to the calling user"]
            );
            assert_eq!(
                error("", r#"{"pids":{"limit":5}}"#, &layout, &access),
                "linux.resources.pids.limit: the container has no cgroup to set it in"
            );
        }
    }

    #[test]
    fn root_does_not_run_unrestricted_because_no_tree_is_mounted() {
        assert_eq!(
            error("", r#"{"devices":[{"allow":false}]}"#, &Layout::None, &CgroupAccess::Root),
            "linux.resources.devices: this machine has no cgroup that could restrict devices"
        );
        let plan = CgroupPlan::new(None, None, "box", &Layout::None, &CgroupAccess::Root).unwrap();
        assert_eq!(plan.warnings, ["the container gets no cgroup: no cgroup tree is mounted"]);
    }

    #[test]
    fn what_is_planned_for_one_group_can_be_done_in_another() {
        let resources = r#"{"pids":{"limit":5}}"#;
        let resources: LinuxResources = serde_json::from_str(resources).unwrap();
        let layout = Layout::V2(unified("/c", &["pids"]));
        let plan =
            CgroupPlan::new(None, Some(&resources), "box", &layout, &CgroupAccess::Root).unwrap();
        let mut other = plan.group.directories[0].clone();
        other.path = "/c/other".into();
        let moved = plan.moved_to(&other);
        assert_eq!(moved.directories().collect::<Vec<_>>(), [Path::new("/c/other")]);
        assert_eq!(moved.settings[0].directory, Path::new("/c/other"));
        assert_eq!(moved.devices.unwrap().directory, Path::new("/c/other"));
    }

    #[test]
    fn a_list_of_devices_is_held_to_what_its_version_can_say() {
        let rules = r#"[{"allow":true,"type":"c","major":10},
            {"allow":false,"type":"c","major":10,"minor":229}]"#;
        let rules: Vec<LinuxDeviceCgroup> = serde_json::from_str(rules).unwrap();
        let planned = |layout: &Layout| {
            let plan = CgroupPlan::new(None, None, "box", layout, &CgroupAccess::Root).unwrap();
            plan.group.devices(&rules).map(Option::unwrap)
        };
        assert_eq!(planned(&v2()).unwrap().version, Version::V2);
        assert!(planned(&hybrid()).is_err());
    }

    #[test]
    fn a_plan_survives_being_written_down() {
        let resources = r#"{"pids":{},"memory":{"limit":5,"checkBeforeUpdate":true}}"#;
        let resources: LinuxResources = serde_json::from_str(resources).unwrap();
        let layout = Layout::V2(unified("/c", &["pids", "memory"]));
        let plan =
            CgroupPlan::new(None, Some(&resources), "box", &layout, &CgroupAccess::Root).unwrap();
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<CgroupPlan>(&text).unwrap(), plan);
    }
}
