//! Checkpoint and restore: what CRIU is asked for, as data.
//!
//! `dump` and `restore` fill in the [`Options`] of a request, `image` says what may stand in an
//! image besides what CRIU itself reads, and `tasks` whether what CRIU has restored is within
//! what the configuration allows.

pub mod dump;
pub mod image;
pub mod restore;
pub mod tasks;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use oci_spec::runtime::{LinuxNamespaceType as Kind, LinuxSeccomp, LinuxSeccompAction, Spec};

use super::cgroup::Group;
use super::mounts::{MountKind, MountStep};
use super::namespaces::{Join, Namespaces, clone_flag};
use super::rootfs::Rootfs;
use crate::error::{InField as _, Kind as ErrorKind};

/// The oldest CRIU that tells its version in this way: 3.0.
pub const OLDEST: u32 = 3_00_00;

/// What only newer ones have.
const EXTERNAL_NETWORK: u32 = 3_11_00;
const FREEZES_UNIFIED: u32 = 3_14_00;
const EXTERNAL_PIDS: u32 = 3_15_00;
const TELLS_STATUS: u32 = 3_15_00;
const LSM: u32 = 3_16_00;

/// The annotation that names another file of settings for CRIU.
const CONFIG_FILE: &str = "org.criu.config";
/// The one that CRIU reads for runc's containers, if it is there.
const DEFAULT_CONFIG_FILE: &str = "/etc/criu/runc.conf";

/// The log of CRIU is as long as runc's, which engines quote.
pub const LOG_LEVEL: u32 = 4;

/// What both ways have in common of what was typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--tcp-established`.
    pub tcp_established: bool,
    /// `--ext-unix-sk`.
    pub ext_unix_sk: bool,
    /// `--shell-job`.
    pub shell_job: bool,
    /// `--file-locks`.
    pub file_locks: bool,
    /// `--auto-dedup`.
    pub auto_dedup: bool,
    /// `--lazy-pages`.
    pub lazy_pages: bool,
    /// `--manage-cgroups-mode`.
    pub cgroups_mode: Option<CgroupsMode>,
}

/// How CRIU is to treat the files of cgroups, by its number (criu_cg_mode).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupsMode {
    /// Not at all.
    Ignore = 0,
    /// Files of groups that it makes.
    Soft = 3,
    /// Of all groups.
    Full = 4,
    /// Of all groups, which must not be there.
    Strict = 5,
}

impl CgroupsMode {
    /// As `--manage-cgroups-mode` spells it.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "ignore" => Self::Ignore,
            "soft" => Self::Soft,
            "full" => Self::Full,
            "strict" => Self::Strict,
            _ => bail!("--manage-cgroups-mode: {text:?}: neither soft, full, strict nor ignore"),
        })
    }
}

/// What CRIU is to do with groups: what was typed, or nothing where the container is in no group of
/// its own in one of the trees. There CRIU would take those of its neighbours for the container's.
/// A new cgroup namespace it makes only where it restores groups.
fn cgroups_mode(
    typed: &Flags,
    namespaces: &Namespaces,
    group: &Group,
    places: &[(String, PathBuf)],
) -> Option<CgroupsMode> {
    let is_own = |(controllers, _): &(String, PathBuf)| match controllers.as_str() {
        "" => group.unified().is_some(),
        names => names.split(',').any(|name| group.directory_of(name).is_some()),
    };
    let shares = || !namespaces.is_new(Kind::Cgroup) && !places.iter().all(is_own);
    typed.cgroups_mode.or_else(|| shares().then_some(CgroupsMode::Ignore))
}

/// `--empty-ns`: the only type that can be left out is the one that always is.
pub fn check_empty_namespace(name: &str) -> Result<()> {
    match name {
        "network" => Ok(()),
        _ => bail!("--empty-ns: {name:?}: only network can be left out of an image"),
    }
}

/// What is asked of CRIU (criu_opts of rpc.proto), as far as anything is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The descriptor of the image's directory, as the asking process has it.
    pub images: i32,
    /// The same of the directory for logs.
    pub work: Option<i32>,
    /// The first process of those to dump.
    pub pid: Option<i32>,
    /// The name of the log.
    pub log_file: &'static str,
    /// What was typed.
    pub flags: Flags,
    /// Whether they run on after the dump.
    pub leave_running: bool,
    /// Whether connections that are being made are left out.
    pub tcp_skip_in_flight: bool,
    /// Whether files without a name get one.
    pub link_remap: bool,
    /// Whether a device is found by its number where its name is gone.
    pub evasive_devices: bool,
    /// The server that gets the pages.
    pub page_server: Option<(String, u16)>,
    /// The root of the container on the host.
    pub root: PathBuf,
    /// The image before, from the image's directory.
    pub parent: Option<PathBuf>,
    /// Whether it is remembered which pages have changed.
    pub track_memory: bool,
    /// Mounts that belong to the host: at dump their places and their names in the image, at
    /// restore their names and their sources.
    pub external_mounts: Vec<(PathBuf, PathBuf)>,
    /// Where groups are, by controllers.
    pub cgroup_roots: Vec<(String, PathBuf)>,
    /// Whether the restored process becomes a child of the asking process.
    pub restores_sibling: bool,
    /// Descriptors of CRIU that take the place of what the image calls so.
    pub inherited: Vec<(String, i32)>,
    /// What is the host's, by CRIU's names.
    pub external: Vec<String>,
    /// Namespaces that are entered, by CRIU's names and their files.
    pub joined: Vec<(&'static str, PathBuf)>,
    /// Namespaces of which nothing is dumped or restored, by their flags.
    pub empty_namespaces: u64,
    /// The group by which all is made to stand still.
    pub freeze_cgroup: Option<PathBuf>,
    /// The descriptor that is told when pages can be asked for; CRIU's own since 3.15.
    pub status: Option<i32>,
    /// Settings of CRIU's own.
    pub config_file: Option<PathBuf>,
    /// `--lsm-profile`.
    pub lsm_profile: Option<String>,
    /// `--lsm-mount-context`.
    pub lsm_mount_context: Option<String>,
}

/// Refuses what CRIU cannot dump or restore, by its field.
pub fn refuse_unsupported(spec: &Spec, namespaces: &Namespaces) -> Result<()> {
    let unsupported = |field: &str, reason: &str| -> Result<()> {
        Err(ErrorKind::Unsupported.error(reason)).in_field(field)
    };
    if !namespaces.is_new(Kind::Mount) {
        return unsupported(
            "linux.namespaces",
            "mount: only a container with a new mount namespace can be checkpointed or restored",
        );
    }
    let joins = |kind| namespaces.joined.iter().find(|join| join.kind == kind);
    if let Some(join) = joins(Kind::User).or(joins(Kind::Cgroup)) {
        let name = super::namespaces::name(join.kind);
        return unsupported(&join.field, &format!("CRIU cannot restore into a {name} namespace"));
    }
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    if seccomp.is_some_and(notifies) {
        return unsupported("linux.seccomp", "CRIU cannot restore the listener of SCMP_ACT_NOTIFY");
    }
    Ok(())
}

fn notifies(profile: &LinuxSeccomp) -> bool {
    let notify = LinuxSeccompAction::ScmpActNotify;
    profile.default_action() == notify
        || profile.syscalls().iter().flatten().any(|rule| rule.action() == notify)
}

/// The file of settings that CRIU is to read, if it is there: what an annotation names, where it
/// names anything, or the one of the machine.
pub fn config_file(spec: &Spec) -> Option<PathBuf> {
    match spec.annotations().as_ref().and_then(|annotations| annotations.get(CONFIG_FILE)) {
        Some(path) if path.is_empty() => None,
        Some(path) => Some(path.into()),
        None => Some(DEFAULT_CONFIG_FILE.into()),
    }
}

/// Refuses what this CRIU is too old for.
fn needs(version: u32, at_least: u32, what: &str) -> Result<()> {
    if version < at_least {
        let (major, minor) = (at_least / 10_000, at_least / 100 % 100);
        let text = format!("{what}: needs CRIU {major}.{minor}, and this one is {}", name(version));
        return Err(ErrorKind::Unsupported.error(text));
    }
    Ok(())
}

/// A version as it is written.
pub fn name(version: u32) -> String {
    let (major, minor, sublevel) = (version / 10_000, version / 100 % 100, version % 100);
    match sublevel {
        0 => format!("{major}.{minor}"),
        _ => format!("{major}.{minor}.{sublevel}"),
    }
}

/// The joined namespaces of a kind that CRIU takes as the host's, with the names by which an
/// image knows them; runc's and crun's images have the same.
fn external_namespaces(
    namespaces: &Namespaces,
    version: u32,
) -> Result<Vec<(&Join, &'static str)>> {
    let mut external = Vec::new();
    for join in &namespaces.joined {
        let (key, at_least) = match join.kind {
            Kind::Network => ("extRootNetNS", EXTERNAL_NETWORK),
            Kind::Pid => ("extRootPidNS", EXTERNAL_PIDS),
            _ => continue,
        };
        needs(version, at_least, &join.field)?;
        external.push((join, key));
    }
    Ok(external)
}

/// The places of what the container has of the host: each bind, and each device that is bound
/// because it cannot be made.
pub fn external_places(rootfs: &Rootfs) -> impl Iterator<Item = &Path> {
    let binds = rootfs.mounts.iter().filter(|step| source(step).is_some());
    binds.map(|step| step.target.as_path()).chain(bound_devices(rootfs))
}

fn source(step: &MountStep) -> Option<&Path> {
    match &step.kind {
        MountKind::Bind(bind) => Some(&bind.source),
        _ => None,
    }
}

fn bound_devices(rootfs: &Rootfs) -> impl Iterator<Item = &Path> {
    let bound = |device: &&super::devices::Device| device.node == super::devices::Node::Bound;
    rootfs.devices.iter().filter(bound).map(|device| device.path.as_path())
}

/// Refuses mounts whose ids are mapped: CRIU knows nothing of that, and would restore them with
/// the ids of the host.
pub fn refuse_mapped(rootfs: &Rootfs) -> Result<()> {
    let is_mapped =
        |step: &&MountStep| matches!(&step.kind, MountKind::Bind(bind) if bind.ids.is_some());
    match rootfs.mounts.iter().find(is_mapped) {
        Some(step) => {
            Err(ErrorKind::Unsupported.error("CRIU cannot restore a mount with mapped ids"))
                .in_field(step.field)
        }
        None => Ok(()),
    }
}

/// The joined namespaces that CRIU takes as the host's.
pub fn opened_namespaces(namespaces: &Namespaces) -> impl Iterator<Item = &Join> {
    let is_external = |join: &&Join| matches!(join.kind, Kind::Network | Kind::Pid);
    namespaces.joined.iter().filter(is_external)
}

fn network() -> u64 {
    clone_flag(Kind::Network)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::cgroup::{Directory, Version};

    fn spec(json: &str) -> Spec {
        serde_json::from_str(json).unwrap()
    }

    fn refused(json: &str) -> String {
        let spec = spec(json);
        let namespaces = Namespaces::plan(spec.linux().as_ref()).unwrap();
        refuse_unsupported(&spec, &namespaces)
            .map_or_else(|e| crate::error::message(&e), |()| "".into())
    }

    #[test]
    fn what_criu_cannot_do_is_refused_by_its_field() {
        let mount = r#"{"type":"mount"}"#;
        for (linux, reason) in [
            (format!(r#"{{"namespaces":[{mount}]}}"#), ""),
            (
                r#"{"namespaces":[{"type":"pid"}]}"#.into(),
                "linux.namespaces: mount: only a container with a new mount namespace can be \
                 checkpointed or restored",
            ),
            (
                format!(r#"{{"namespaces":[{mount},{{"type":"user","path":"/u"}}]}}"#),
                "linux.namespaces[1].path: CRIU cannot restore into a user namespace",
            ),
            (
                format!(r#"{{"namespaces":[{mount},{{"type":"cgroup","path":"/u"}}]}}"#),
                "linux.namespaces[1].path: CRIU cannot restore into a cgroup namespace",
            ),
            (
                format!(
                    r#"{{"namespaces":[{mount}],"seccomp":{{"defaultAction":"SCMP_ACT_ALLOW",
                    "syscalls":[{{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}}]}}}}"#
                ),
                "linux.seccomp: CRIU cannot restore the listener of SCMP_ACT_NOTIFY",
            ),
            (
                format!(
                    r#"{{"namespaces":[{mount}],"seccomp":{{"defaultAction":"SCMP_ACT_NOTIFY",
                    "syscalls":[{{"names":["mkdir"],"action":"SCMP_ACT_ALLOW"}}]}}}}"#
                ),
                "linux.seccomp: CRIU cannot restore the listener of SCMP_ACT_NOTIFY",
            ),
            (
                format!(
                    r#"{{"namespaces":[{mount}],"seccomp":{{"defaultAction":"SCMP_ACT_ALLOW",
                    "syscalls":[{{"names":["mkdir"],"action":"SCMP_ACT_ERRNO"}}]}}}}"#
                ),
                "",
            ),
        ] {
            let json = format!(r#"{{"ociVersion":"1.0.0","root":{{"path":"r"}},"linux":{linux}}}"#);
            assert_eq!(refused(&json), reason);
        }
    }

    #[test]
    fn an_annotation_names_another_file_of_settings_or_none() {
        let file = |annotations: &str| {
            config_file(&spec(&format!(
                r#"{{"ociVersion":"1.0.0","root":{{"path":"r"}},"annotations":{annotations}}}"#
            )))
        };
        assert_eq!(file("{}"), Some("/etc/criu/runc.conf".into()));
        assert_eq!(file(r#"{"org.criu.config":"/x"}"#), Some("/x".into()));
        assert_eq!(file(r#"{"org.criu.config":""}"#), None);
    }

    #[test]
    fn versions_are_written_as_criu_writes_them() {
        assert_eq!([name(3_17_01), name(4_00_00)], ["3.17.1", "4.0"]);
        let error = needs(3_10_00, EXTERNAL_NETWORK, "x").unwrap_err();
        assert_eq!(crate::error::message(&error), "x: needs CRIU 3.11, and this one is 3.10");
        assert!(needs(3_11_00, EXTERNAL_NETWORK, "x").is_ok());
    }

    #[test]
    fn groups_are_left_alone_where_the_container_shares_one() {
        let directory = |version, controllers: &[&str]| Directory {
            version,
            controllers: controllers.iter().map(ToString::to_string).collect(),
            mount: "/m".into(),
            path: "/m/c".into(),
        };
        let one = directory(Version::V2, &["memory", "pids"]);
        let cpu = directory(Version::V1, &["cpu", "cpuacct"]);
        let blkio = directory(Version::V1, &["blkio"]);
        let named = directory(Version::V1, &["name=systemd"]);
        const TREES: [&str; 4] = ["name=systemd", "cpu,cpuacct", "blkio", ""];
        let ignore = Some(CgroupsMode::Ignore);
        for (directories, trees, expected) in [
            (vec![one.clone()], &[""][..], None),
            (vec![], &[""], ignore),
            (vec![], &[], None),
            (vec![one.clone(), cpu.clone(), blkio.clone(), named.clone()], &TREES, None),
            (vec![cpu.clone(), blkio.clone(), named.clone()], &TREES, ignore),
            (vec![one.clone(), cpu, blkio], &TREES, ignore),
            (vec![one], &TREES, ignore),
        ] {
            let group = Group { directories };
            let places: Vec<_> =
                trees.iter().map(|tree| (tree.to_string(), PathBuf::from("/c"))).collect();
            let mode = |typed, new| {
                let flags = Flags { cgroups_mode: typed, ..Flags::default() };
                let namespaces = Namespaces { new, ..Namespaces::default() };
                cgroups_mode(&flags, &namespaces, &group, &places)
            };
            assert_eq!(mode(None, vec![Kind::Mount]), expected, "{group:?}");
            assert_eq!(mode(None, vec![Kind::Cgroup]), None);
            let full = Some(CgroupsMode::Full);
            assert_eq!(mode(full, vec![]), full);
        }
    }

    #[test]
    fn modes_and_namespaces_that_are_none_are_refused() {
        let modes = ["ignore", "soft", "full", "strict"].map(|text| CgroupsMode::parse(text).ok());
        let numbers = modes.map(|mode| mode.map(|mode| mode as u32));
        assert_eq!(numbers, [Some(0), Some(3), Some(4), Some(5)], "as CRIU counts them");
        assert!(CgroupsMode::parse("").is_err() && CgroupsMode::parse("none").is_err());
        assert!(check_empty_namespace("network").is_ok() && check_empty_namespace("pid").is_err());
    }
}
