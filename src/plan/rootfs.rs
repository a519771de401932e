//! The container's file system as a whole: root, mounts, devices, and what is
//! hidden or closed in it.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use oci_spec::runtime::Spec;

use super::devices::{Device, LINKS, Node, plan_devices};
use super::mounts::{MountKind, MountStep, Opener, Surroundings, dev_is_bound, plan_mounts};

/// How the file system that the init process sees is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rootfs {
    /// The absolute path of the root on the host.
    pub path: PathBuf,
    /// How it becomes the root directory.
    pub entry: Entry,
    /// `root.readonly`.
    pub read_only: bool,
    /// The propagation of the whole tree while it is made, MS_* with MS_REC.
    pub propagation: u64,
    /// The propagation that the root gets at the end, if the configuration gives one.
    pub final_propagation: Option<u64>,
    /// What is mounted, in order.
    pub mounts: Vec<MountStep>,
    /// The SELinux label of the file systems that are made for the container.
    pub label: Option<String>,
    /// Device nodes; empty where /dev is the host's.
    pub devices: Vec<Device>,
    /// Symbolic links and their texts.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// Paths that show nothing.
    pub masked: Vec<(String, PathBuf)>,
    /// Paths that cannot be written.
    pub closed: Vec<(String, PathBuf)>,
    /// The working directory, which is made where it is missing.
    pub cwd: Option<PathBuf>,
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
        let protected = self.closed.iter().chain(&self.masked).map(|(_, path)| path.clone());
        mounts.chain(devices).chain([console]).chain(protected)
    }
}

/// How the root becomes the root directory of the init process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
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
pub fn plan_rootfs(
    spec: &Spec,
    mount_namespace: bool,
    may_make_devices: bool,
    around: &Surroundings<'_>,
) -> Result<(Rootfs, Vec<String>)> {
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
        (plan_devices(devices, may_make_devices)?, links)
    };
    let entry = if mount_namespace { Entry::Pivot } else { Entry::Chroot };
    let given = linux.and_then(|linux| linux.rootfs_propagation().as_deref());
    let final_propagation = propagation(given.unwrap_or_default())?;
    let paths = |field: &str, paths: Option<&Vec<String>>| {
        paths
            .into_iter()
            .flatten()
            .enumerate()
            .map(|(at, path)| {
                let field = format!("linux.{field}[{at}]");
                if !path.starts_with('/') {
                    bail!("{field}: {path:?}: not absolute");
                }
                Ok((field, PathBuf::from(path)))
            })
            .collect::<Result<Vec<_>>>()
    };
    let rootfs = Rootfs {
        path: around.bundle.join(root.path()),
        entry,
        read_only: root.readonly().unwrap_or(false),
        propagation: final_propagation.unwrap_or(libc::MS_SLAVE) | libc::MS_REC,
        final_propagation,
        mounts,
        label,
        devices,
        links,
        masked: paths("maskedPaths", linux.and_then(|linux| linux.masked_paths().as_ref()))?,
        closed: paths("readonlyPaths", linux.and_then(|linux| linux.readonly_paths().as_ref()))?,
        cwd: spec
            .process()
            .as_ref()
            .map(|process| process.cwd().clone())
            .filter(|cwd| cwd != Path::new("/") && !cwd.as_os_str().is_empty()),
    };
    Ok((rootfs, warnings))
}

/// The MS_* flags of a propagation word of `linux.rootfsPropagation`.
fn propagation(word: &str) -> Result<Option<u64>> {
    let (recursive, kind) = match word.strip_prefix('r') {
        Some(kind) => (libc::MS_REC, kind),
        None => (0, word),
    };
    let kind = match kind {
        "" if recursive == 0 => return Ok(None),
        "shared" => libc::MS_SHARED,
        "slave" => libc::MS_SLAVE,
        "private" => libc::MS_PRIVATE,
        "unbindable" => libc::MS_UNBINDABLE,
        _ => bail!("linux.rootfsPropagation: {word:?}: unknown"),
    };
    Ok(Some(kind | recursive))
}

#[cfg(test)]
mod tests {
    use super::super::cgroup::{Group, Layout};
    use super::*;

    fn plan(json: &str) -> Result<Rootfs> {
        let spec = serde_json::from_str(json).unwrap();
        let around = Surroundings {
            bundle: Path::new("/b"),
            layout: &Layout::None,
            group: &Group::default(),
            cgroup_namespace: false,
            user_namespace: false,
            creator_opens: false,
            joined_pids: false,
        };
        plan_rootfs(&spec, true, true, &around).map(|(rootfs, _)| rootfs)
    }

    #[test]
    fn the_root_is_taken_from_the_bundle() {
        let planned = plan(r#"{"root":{"path":"rootfs","readonly":true}}"#).unwrap();
        assert_eq!(planned.path, Path::new("/b/rootfs"));
        assert!(planned.read_only);
        assert_eq!(planned.propagation, libc::MS_SLAVE | libc::MS_REC);
        assert_eq!(planned.final_propagation, None);
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
        let planned = plan(
            r#"{"root":{"path":"r"},"mounts":[{"destination":"/dev","source":"/dev","options":["rbind"]}]}"#,
        )
        .unwrap();
        assert!(planned.devices.is_empty() && planned.links.is_empty());
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
}
