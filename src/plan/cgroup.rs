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

use devices::DeviceList;
pub use settings::{Setting, Stage, Write};

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
pub enum Access {
    /// Everything.
    Root,
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

    /// The directory in the tree of version 2.
    pub fn unified(&self) -> Option<&Directory> {
        self.directories.iter().find(|directory| directory.version == Version::V2)
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
        access: &Access,
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
            Access::Root => plan.group.devices(rules.unwrap_or_default())?,
            // Neither lists nor programs are theirs to set, and a user
            // namespace makes no device nodes.
            Access::Rootless { .. } => None,
        };
        if *access == Access::Root && plan.devices.is_none() && rules.is_some_and(|r| !r.is_empty())
        {
            bail!("linux.resources.devices: this machine has no cgroup that could restrict devices");
        }
        Ok(plan)
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
        Ok(Some(DevicePlan {
            directory: directory.path.clone(),
            version: directory.version,
            list,
        }))
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
fn place(name: &Path, layout: &Layout, access: &Access) -> std::result::Result<Group, String> {
    let below = |unified: &Unified, parent: &Path| Directory {
        version: Version::V2,
        controllers: unified.controllers.clone(),
        mount: unified.mount.clone(),
        path: unified.mount.join(parent).join(name),
    };
    let directories = match (layout, access) {
        (Layout::None, _) => return Err("no cgroup tree is mounted".into()),
        (Layout::V2(unified), Access::Root) => vec![below(unified, Path::new(""))],
        (Layout::V2(unified), Access::Rootless { own: Some(own) }) => {
            let own = Path::new(own.trim_start_matches('/'));
            // An engine that knows its own group may have named it.
            let parent = if name.starts_with(own) { Path::new("") } else { own };
            vec![below(unified, parent)]
        }
        (_, Access::Rootless { .. }) => {
            return Err("none was delegated to the calling user".into());
        }
        (Layout::V1 { hierarchies, unified }, Access::Root) => {
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
