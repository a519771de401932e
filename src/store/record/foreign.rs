//! What others have written where our record would be: a newer ferrun, runc, crun, or
//! nobody who can be told. From it comes what ends the container, and nothing else.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;

use super::{CONFIG, Record, RecordedMount, VERSION};
use crate::error::InField as _;
use crate::plan::cgroup::{CgroupAccess, CgroupPlan, Directory, Group, Layout, Version};
use crate::plan::hooks::Hook;
use crate::plan::intel_rdt;
use crate::processes::ProcessId;

/// The record of another program.
#[derive(Debug)]
pub struct Foreign {
    /// Whose it is.
    pub maker: Maker,
    /// What of it is known. The group is told by [`Foreign::group`].
    pub record: Record,
    groups: Groups,
}

/// Who has written a record.
#[derive(Debug)]
pub enum Maker {
    /// A ferrun whose records have this version.
    Newer(u64),
    /// runc.
    Runc,
    /// crun.
    Crun,
    /// A ferrun, but not to its end, for this reason.
    CutShort(String),
    /// Nobody who can be told, for this reason.
    Unknown(String),
}

impl Maker {
    /// Whether the record is a ferrun's.
    pub fn is_ferrun(&self) -> bool {
        matches!(self, Self::Newer(_) | Self::CutShort(_))
    }

    /// Whether the record is a ferrun's, but not whole.
    pub fn is_cut_short(&self) -> bool {
        matches!(self, Self::CutShort(_))
    }
}

impl fmt::Display for Maker {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newer(version) => write!(
                out,
                "was created by a newer ferrun: its record has version {version}, this one knows {VERSION}"
            ),
            Self::Runc => write!(out, "was created by runc"),
            Self::Crun => write!(out, "was created by crun"),
            Self::CutShort(reason) => write!(out, "has a record that is cut short: {reason}"),
            Self::Unknown(reason) => write!(out, "has a record that is not ferrun's: {reason}"),
        }
    }
}

/// How a record tells where the cgroup is.
#[derive(Debug)]
enum Groups {
    /// As ours do.
    Known(Group),
    /// runc: the directory in the tree of each controller; version 2 has no name.
    ByController(BTreeMap<String, PathBuf>),
    /// crun: the path below each mount point.
    ByPath(PathBuf),
    /// Not at all: what config.json's copy asks for may be it.
    OfConfig,
}

/// What every version of ferrun's record has kept, and newer ones keep.
#[derive(Deserialize)]
struct Core {
    id: String,
    #[serde(default)]
    bundle: PathBuf,
    #[serde(default)]
    rootfs: PathBuf,
    boot: String,
    creator: Option<ProcessId>,
    init: Option<ProcessId>,
    group: Group,
    #[serde(default)]
    intel_rdt: Option<intel_rdt::ClassGroup>,
    #[serde(default)]
    mounts: Vec<RecordedMount>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    poststop: Vec<Hook>,
}

/// Of libcontainer's state.json.
#[derive(Deserialize)]
struct Runc {
    id: String,
    init_process_pid: i32,
    init_process_start: u64,
    #[serde(default)]
    cgroup_paths: Option<BTreeMap<String, PathBuf>>,
}

/// Of crun's status.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Crun {
    pid: i32,
    process_start_time: u64,
    #[serde(default)]
    cgroup_path: Option<PathBuf>,
}

/// What a text is that is no record of this version or an older one.
pub fn parse(text: &[u8], error: Option<serde_json::Error>) -> Foreign {
    let reason = error.map_or_else(|| "no version".to_owned(), |error| error.to_string());
    let Ok(value) = serde_json::from_slice::<Value>(text) else {
        return unknown(match is_begun_as_ours(text) {
            true => Maker::CutShort(reason),
            false => Maker::Unknown(reason),
        });
    };
    match value.get("version").and_then(Value::as_u64) {
        Some(version) if version > u64::from(VERSION) => newer(version, value),
        _ => runc(value).unwrap_or_else(|| unknown(Maker::Unknown(reason))),
    }
}

/// Ours begin with their version, and what is not whole may end anywhere.
fn is_begun_as_ours(text: &[u8]) -> bool {
    const BEGIN: &[u8] = b"{\"version\":";
    text.starts_with(BEGIN) || BEGIN.starts_with(text)
}

fn newer(version: u64, value: Value) -> Foreign {
    let maker = Maker::Newer(version);
    let Ok(core) = serde_json::from_value::<Core>(value) else {
        return unknown(maker);
    };
    let record = Record {
        id: core.id,
        bundle: core.bundle,
        rootfs: core.rootfs,
        boot: core.boot,
        creator: core.creator,
        init: core.init,
        intel_rdt: core.intel_rdt,
        mounts: core.mounts,
        annotations: core.annotations,
        poststop: core.poststop,
        ..Record::default()
    };
    Foreign { maker, record, groups: Groups::Known(core.group) }
}

fn runc(value: Value) -> Option<Foreign> {
    let runc: Runc = serde_json::from_value(value).ok()?;
    let init = ProcessId { pid: runc.init_process_pid, started: runc.init_process_start };
    let record = Record { id: runc.id, init: Some(init), ..Record::default() };
    let groups = Groups::ByController(runc.cgroup_paths.unwrap_or_default());
    Some(Foreign { maker: Maker::Runc, record, groups })
}

/// What a directory without a record of ours holds: crun's, or the copy of config.json
/// beside a record that was lost.
pub fn of_another_file(directory: &Path) -> Option<Foreign> {
    let (status, config) = (directory.join("status"), directory.join(CONFIG));
    if status.exists() {
        return Some(crun(&fs::read(status).unwrap_or_default()));
    }
    let maker = Maker::CutShort("there is nothing in it".to_owned());
    config.exists().then(|| unknown(maker))
}

fn crun(status: &[u8]) -> Foreign {
    match serde_json::from_slice::<Crun>(status) {
        Ok(crun) => {
            let init = ProcessId { pid: crun.pid, started: crun.process_start_time };
            let record = Record { init: Some(init), ..Record::default() };
            let groups = Groups::ByPath(crun.cgroup_path.unwrap_or_default());
            Foreign { maker: Maker::Crun, record, groups }
        }
        Err(error) => unknown(Maker::Unknown(error.to_string())),
    }
}

fn unknown(maker: Maker) -> Foreign {
    Foreign { maker, record: Record::default(), groups: Groups::OfConfig }
}

impl Foreign {
    /// Whether the group is only what the configuration asks for, which may be another
    /// container's.
    pub fn guesses_group(&self) -> bool {
        matches!(self.groups, Groups::OfConfig)
    }

    /// Where the container's cgroup is on a machine with these trees.
    pub fn group(
        &self,
        config: Option<&str>,
        layout: &Layout,
        access: &CgroupAccess,
    ) -> Result<Group> {
        match &self.groups {
            Groups::Known(group) => Ok(group.clone()),
            Groups::ByController(paths) => {
                let directories =
                    paths.iter().map(|(name, path)| of_controller(name, path, layout));
                Ok(Group { directories: directories.collect::<Result<_>>()? })
            }
            Groups::ByPath(path) if path.as_os_str().is_empty() => Ok(Group::default()),
            Groups::ByPath(path) => {
                // Below the mount point, whoever the caller is.
                Ok(CgroupPlan::new(Some(path), None, "", layout, &CgroupAccess::Root)?.group)
            }
            Groups::OfConfig => match config {
                Some(config) => of_config(config, &self.record.id, layout, access),
                None => Ok(Group::default()),
            },
        }
    }
}

fn of_controller(name: &str, path: &Path, layout: &Layout) -> Result<Directory> {
    let unified = match layout {
        Layout::None => None,
        Layout::V2(unified) => Some(unified),
        Layout::V1 { unified, .. } => unified.as_ref(),
    };
    let hierarchies = match layout {
        Layout::V1 { hierarchies, .. } => hierarchies.as_slice(),
        _ => &[],
    };
    let (version, controllers, mount) = match name.is_empty() {
        true => unified.map(|tree| (Version::V2, &tree.controllers, &tree.mount)),
        false => hierarchies
            .iter()
            .find(|tree| tree.controllers.iter().any(|found| found == name))
            .map(|tree| (Version::V1, &tree.controllers, &tree.mount)),
    }
    .with_context(|| format!("{path:?}: the cgroup tree of {name:?} is not mounted"))?;
    let (controllers, mount) = (controllers.clone(), mount.clone());
    Ok(Directory { version, controllers, mount, path: path.to_owned() })
}

fn of_config(config: &str, id: &str, layout: &Layout, access: &CgroupAccess) -> Result<Group> {
    let config: Value = serde_json::from_str(config).in_field(CONFIG)?;
    let path = config.pointer("/linux/cgroupsPath").and_then(Value::as_str).map(Path::new);
    Ok(CgroupPlan::new(path, None, id, layout, access)?.group)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::cgroup::{Hierarchy, Unified};

    fn hybrid() -> Layout {
        let tree = |names: &[&str], mount: &str| Hierarchy {
            controllers: names.iter().map(|name| (*name).to_owned()).collect(),
            mount: mount.into(),
        };
        Layout::V1 {
            hierarchies: vec![
                tree(&["cpu", "cpuacct"], "/c/cpu"),
                tree(&["name=systemd"], "/c/systemd"),
            ],
            unified: Some(Unified { controllers: Vec::new(), mount: "/c/unified".into() }),
        }
    }

    fn paths(foreign: &Foreign, config: Option<&str>) -> Result<Vec<(Version, PathBuf)>> {
        let group = foreign.group(config, &hybrid(), &CgroupAccess::Root)?;
        Ok(group.directories.into_iter().map(|found| (found.version, found.path)).collect())
    }

    #[test]
    fn runc_names_the_directory_of_each_controller() {
        let text = br#"{"id":"x","init_process_pid":5,"init_process_start":7,"cgroup_paths":
            {"":"/c/unified/x","cpu":"/c/cpu/x","name=systemd":"/c/systemd/x"}}"#;
        let expected = [
            (Version::V2, "/c/unified/x".into()),
            (Version::V1, "/c/cpu/x".into()),
            (Version::V1, "/c/systemd/x".into()),
        ];
        assert_eq!(paths(&parse(text, None), None).unwrap(), expected);
        let text = br#"{"id":"x","init_process_pid":5,"init_process_start":7,"cgroup_paths":
            {"memory":"/c/memory/x"}}"#;
        let error = paths(&parse(text, None), None).unwrap_err().to_string();
        assert_eq!(error, r#""/c/memory/x": the cgroup tree of "memory" is not mounted"#);
    }

    #[test]
    fn a_copy_of_config_json_names_the_group_that_create_would_make() {
        let foreign = parse(b"{\"version\":2,\"id\":", None);
        let config = r#"{"linux":{"cgroupsPath":"/a/b"}}"#;
        let expected = [
            (Version::V1, "/c/cpu/a/b".into()),
            (Version::V1, "/c/systemd/a/b".into()),
            (Version::V2, "/c/unified/a/b".into()),
        ];
        assert_eq!(paths(&foreign, Some(config)).unwrap(), expected);
        assert!(foreign.guesses_group());
        for wrong in
            [r#"{"linux":{"cgroupsPath":"/a/../.."}}"#, r#"{"linux":{"cgroupsPath":"/"}}"#, "{"]
        {
            assert!(paths(&foreign, Some(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_newer_record_keeps_its_meaning() {
        let process = |pid| ProcessId { pid, started: 9 };
        let record = Record {
            id: "a".into(),
            bundle: "/b".into(),
            rootfs: "/r".into(),
            boot: "now".into(),
            creator: Some(process(5)),
            init: Some(process(6)),
            intel_rdt: Some(intel_rdt::ClassGroup {
                class: "c".into(),
                owned: true,
                monitoring: None,
            }),
            mounts: vec![RecordedMount { target: "/t".into(), before: 1 }],
            annotations: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
            poststop: vec![Hook {
                field: "hooks.poststop[0]".into(),
                path: "/h".into(),
                args: vec![],
                env: None,
                timeout: None,
            }],
            ..Record::default()
        };
        let mut text = serde_json::to_value(&record).unwrap();
        text["version"] = 3.into();
        text["group"] = serde_json::json!({"directories": [
            {"version": "V2", "controllers": [], "mount": "/c", "path": "/c/a"}]});
        let foreign = parse(text.to_string().as_bytes(), None);
        assert_eq!(foreign.record, record);
        assert!(foreign.maker.is_ferrun() && !foreign.guesses_group());
        assert_eq!(paths(&foreign, None).unwrap(), [(Version::V2, "/c/a".into())]);
    }

    #[test]
    fn who_has_made_a_container_is_said_in_words() {
        let of = |text: &str| parse(text.as_bytes(), None);
        let runc = r#"{"id":"x","init_process_pid":5,"init_process_start":7}"#;
        for (foreign, is_ferrun, begin) in [
            (
                of(r#"{"version":3}"#),
                true,
                "was created by a newer ferrun: its record has version 3",
            ),
            (of(r#"{"version":2}"#), false, "has a record that is not ferrun's: "),
            (of(runc), false, "was created by runc"),
            (crun(br#"{"pid":5,"process-start-time":7}"#), false, "was created by crun"),
            (of(r#"{"version":2"#), true, "has a record that is cut short: "),
            (of("x"), false, "has a record that is not ferrun's: "),
        ] {
            let words = foreign.maker.to_string();
            assert!(words.starts_with(begin), "{words}");
            assert_eq!(foreign.maker.is_ferrun(), is_ferrun, "{words}");
            assert_eq!(foreign.maker.is_cut_short(), begin.contains("cut short"), "{words}");
        }
        assert_eq!(of(runc).record.id, "x");
    }

    #[test]
    fn crun_names_the_path_below_each_mount_point_or_none() {
        let of =
            |path: &str| crun(format!(r#"{{"pid":5,"process-start-time":7{path}}}"#).as_bytes());
        let expected = [
            (Version::V1, "/c/cpu/x".into()),
            (Version::V1, "/c/systemd/x".into()),
            (Version::V2, "/c/unified/x".into()),
        ];
        assert_eq!(paths(&of(r#","cgroup-path":"/x""#), None).unwrap(), expected);
        assert!(paths(&of(r#","cgroup-path":"""#), None).unwrap().is_empty());
        assert!(paths(&of(""), None).unwrap().is_empty());
        assert!(paths(&unknown(Maker::Crun), None).unwrap().is_empty(), "nothing tells");
    }
}
