//! What CRIU is asked for to dump a container.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use oci_spec::runtime::{LinuxNamespaceType as Kind, Spec};

use super::{
    FREEZES_UNIFIED, Flags, Options, TELLS_STATUS, cgroups_mode, config_file, external_namespaces,
    network, refuse_mapped, refuse_unsupported,
};
use crate::plan::cgroup::{Group, Layout};
use crate::plan::mounts::Surroundings;
use crate::plan::namespaces::{Join, Namespaces, proc_name};
use crate::plan::rootfs::{Rootfs, plan_rootfs};

/// What takes the place of a masked file, as images of runc and crun name it.
pub const MASK: &str = "/dev/null";

/// What was typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Typed {
    /// What `restore` takes too.
    pub flags: Flags,
    /// `--leave-running`.
    pub leave_running: bool,
    /// `--pre-dump`.
    pub pre_dump: bool,
    /// `--parent-path`.
    pub parent: Option<PathBuf>,
    /// `--tcp-skip-in-flight`.
    pub tcp_skip_in_flight: bool,
    /// `--link-remap`.
    pub link_remap: bool,
    /// `--page-server`.
    pub page_server: Option<(String, u16)>,
    /// `--status-fd`.
    pub status: Option<i32>,
}

/// `--page-server ADDRESS:PORT`.
pub fn page_server(text: &str) -> Result<(String, u16)> {
    let Some((address, port)) = text.rsplit_once(':') else {
        bail!("--page-server: {text:?}: not ADDRESS:PORT")
    };
    let address = address.trim_start_matches('[').trim_end_matches(']');
    match port.parse() {
        Ok(port) if port != 0 && !address.is_empty() => Ok((address.to_owned(), port)),
        _ => bail!("--page-server: {text:?}: not ADDRESS:PORT"),
    }
}

/// What of a container that runs matters to a dump, by its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dumped {
    /// Its namespaces.
    pub namespaces: Namespaces,
    /// Its file system.
    pub rootfs: Rootfs,
    /// Settings of CRIU's own that it is to have.
    pub config_file: Option<PathBuf>,
}

impl Dumped {
    /// Of the configuration as it was at create. `group` is where the container is, and
    /// `by_root` whether a machine's own root has made it.
    pub fn plan(
        spec: &Spec,
        bundle: &Path,
        (layout, group): (&Layout, &Group),
        by_root: bool,
    ) -> Result<Self> {
        let namespaces = Namespaces::plan(spec.linux().as_ref())?;
        refuse_unsupported(spec, &namespaces)?;
        let around = Surroundings {
            bundle,
            root: bundle.join(spec.root().as_ref().map_or(Path::new(""), |root| root.path())),
            layout,
            group,
            cgroup_namespace: namespaces.has(Kind::Cgroup),
            user_namespace: namespaces.has(Kind::User),
            mount_namespace: true,
            creator_opens: false,
            joined_pids: namespaces.is_prepared_outside(),
            may_make_devices: by_root && !namespaces.has(Kind::User),
            no_pivot: false,
            notify: None,
        };
        let (rootfs, _) = plan_rootfs(spec, &around)?;
        refuse_mapped(&rootfs)?;
        Ok(Self { namespaces, rootfs, config_file: config_file(spec) })
    }
}

/// What is known of a container at the moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// CRIU's version.
    pub version: u32,
    /// The init process.
    pub pid: i32,
    /// Its group.
    pub group: Group,
    /// Where it is in each tree.
    pub places: Vec<(String, PathBuf)>,
    /// The descriptor of the image's directory.
    pub images: i32,
    /// The descriptor of the directory for the log.
    pub work: Option<i32>,
    /// Where what is bound from the host is.
    pub bound: Vec<PathBuf>,
    /// Where files are masked.
    pub masked: Vec<PathBuf>,
    /// The inodes of the joined namespaces.
    pub inodes: Vec<(Kind, u64)>,
    /// Whether the settings that CRIU is to have are there.
    pub has_config_file: bool,
}

/// The request.
pub fn options(dumped: &Dumped, typed: &Typed, facts: Facts) -> Result<Options> {
    let mut external = Vec::new();
    for (join, key) in external_namespaces(&dumped.namespaces, facts.version)? {
        external.push(format!("{}[{}]:{key}", proc_name(join.kind), inode_of(join, &facts)?));
    }
    let same = |place: &PathBuf| (place.clone(), place.clone());
    let masked = facts.masked.iter().map(|place| (place.clone(), PathBuf::from(MASK)));
    let mounts = facts.bound.iter().map(same).chain(masked);
    let unified = || facts.group.unified().filter(|_| facts.version >= FREEZES_UNIFIED);
    let cgroups_mode = cgroups_mode(&typed.flags, &dumped.namespaces, &facts.group, &facts.places);
    let freezer = facts.group.directory_of("freezer").or_else(unified);
    Ok(Options {
        images: facts.images,
        work: facts.work,
        pid: Some(facts.pid),
        log_file: "dump.log",
        flags: Flags { cgroups_mode, ..typed.flags.clone() },
        leave_running: typed.leave_running,
        tcp_skip_in_flight: typed.tcp_skip_in_flight,
        link_remap: typed.link_remap,
        page_server: typed.page_server.clone(),
        root: dumped.rootfs.path.clone(),
        track_memory: typed.parent.is_some(),
        parent: typed.parent.clone(),
        // All of it is known only where everything stands still.
        external_mounts: if typed.pre_dump { Vec::new() } else { mounts.collect() },
        external,
        empty_namespaces: network(),
        freeze_cgroup: freezer.map(|directory| directory.path.clone()),
        // Since then CRIU says so by itself.
        status: typed.status.filter(|_| facts.version < TELLS_STATUS),
        config_file: dumped.config_file.clone().filter(|_| facts.has_config_file),
        ..Options::default()
    })
}

fn inode_of(join: &Join, facts: &Facts) -> Result<u64> {
    match facts.inodes.iter().find(|(kind, _)| *kind == join.kind) {
        Some((_, inode)) => Ok(*inode),
        None => bail!("{}: {:?}: is not known", join.field, join.path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::message;
    use crate::plan::cgroup::{Directory, Version};
    use crate::plan::checkpoint::external_places;

    fn dumped(linux: &str) -> Dumped {
        let json = format!(
            r#"{{"ociVersion":"1.0.0","root":{{"path":"r"}},"mounts":[
            {{"destination":"/proc","type":"proc","source":"proc"}},
            {{"destination":"data/../etc/hosts","type":"bind","source":"/h","options":["rbind"]}}],
            "linux":{linux}}}"#
        );
        let spec: Spec = serde_json::from_str(&json).unwrap();
        let around = (&Layout::None, &Group::default());
        Dumped::plan(&spec, Path::new("/b"), around, true).unwrap()
    }

    const OWN: &str = r#"{"namespaces":[{"type":"mount"},{"type":"network"}]}"#;
    const JOINED: &str = r#"{"namespaces":[{"type":"mount"},{"type":"network","path":"/n"},
        {"type":"ipc","path":"/i"},{"type":"pid","path":"/p"}]}"#;

    fn facts() -> Facts {
        Facts {
            version: 4_01_01,
            pid: 7,
            images: 5,
            bound: vec!["/etc/hosts".into()],
            masked: vec!["/proc/keys".into()],
            inodes: vec![(Kind::Network, 40), (Kind::Pid, 41)],
            ..Facts::default()
        }
    }

    #[test]
    fn binds_and_masked_files_are_the_hosts() {
        let dumped = dumped(OWN);
        assert_eq!(external_places(&dumped.rootfs).collect::<Vec<_>>(), [Path::new("/etc/hosts")]);
        let asked = options(&dumped, &Typed::default(), facts()).unwrap();
        let expected = [("/etc/hosts", "/etc/hosts"), ("/proc/keys", "/dev/null")];
        let expected = expected.map(|(place, name)| (place.into(), name.into()));
        assert_eq!(asked.external_mounts, expected);
        assert_eq!((asked.external.len(), asked.empty_namespaces), (0, 0x4000_0000));
        assert_eq!((asked.pid, asked.root, asked.config_file), (Some(7), "/b/r".into(), None));
    }

    #[test]
    fn what_was_typed_and_what_is_known_is_all_that_is_asked_for() {
        let typed = Typed {
            flags: Flags { shell_job: true, ..Flags::default() },
            leave_running: true,
            tcp_skip_in_flight: true,
            link_remap: true,
            page_server: Some(("a".into(), 7)),
            ..Typed::default()
        };
        let facts = Facts {
            work: Some(6),
            has_config_file: true,
            bound: vec![],
            masked: vec![],
            ..facts()
        };
        let expected = Options {
            images: 5,
            work: Some(6),
            pid: Some(7),
            log_file: "dump.log",
            flags: typed.flags.clone(),
            leave_running: true,
            tcp_skip_in_flight: true,
            link_remap: true,
            page_server: Some(("a".into(), 7)),
            root: "/b/r".into(),
            empty_namespaces: 0x4000_0000,
            config_file: Some("/etc/criu/runc.conf".into()),
            ..Options::default()
        };
        assert_eq!(options(&dumped(OWN), &typed, facts).unwrap(), expected);
    }

    #[test]
    fn devices_are_the_hosts_where_they_could_not_be_made() {
        const MAPPED: &str = r#"{"namespaces":[{"type":"mount"},{"type":"user"}],
            "uidMappings":[{"containerID":0,"hostID":1000,"size":1}],
            "gidMappings":[{"containerID":0,"hostID":1000,"size":1}]}"#;
        for (linux, by_root, is_hosts) in
            [(OWN, true, false), (OWN, false, true), (MAPPED, true, true), (MAPPED, false, true)]
        {
            let spec: Spec = serde_json::from_str(&format!(
                r#"{{"ociVersion":"1.0.0","root":{{"path":"r"}},"linux":{linux}}}"#
            ))
            .unwrap();
            let around = (&Layout::None, &Group::default());
            let dumped = Dumped::plan(&spec, Path::new("/b"), around, by_root).unwrap();
            let mut places = external_places(&dumped.rootfs);
            let null = Path::new("/dev/null");
            assert_eq!(places.any(|place| place == null), is_hosts, "{linux} {by_root}");
        }
    }

    #[test]
    fn a_dump_in_advance_asks_for_no_mounts_and_one_after_another_for_changes() {
        let typed = Typed { pre_dump: true, parent: Some("../a".into()), ..Typed::default() };
        let asked = options(&dumped(OWN), &typed, facts()).unwrap();
        assert_eq!(asked.external_mounts, []);
        assert!(asked.track_memory && asked.parent == Some("../a".into()));
    }

    #[test]
    fn joined_networks_and_pids_are_the_hosts_where_criu_knows_that() {
        let asked = options(&dumped(JOINED), &Typed::default(), facts()).unwrap();
        assert_eq!(asked.external, ["net[40]:extRootNetNS", "pid[41]:extRootPidNS"]);
        let unknown = Facts { inodes: vec![(Kind::Pid, 41)], ..facts() };
        let error = options(&dumped(JOINED), &Typed::default(), unknown).unwrap_err();
        assert_eq!(message(&error), r#"linux.namespaces[1].path: "/n": is not known"#);
        let old = Facts { version: 3_14_00, ..facts() };
        let error = options(&dumped(JOINED), &Typed::default(), old).unwrap_err();
        let expected = "linux.namespaces[3].path: needs CRIU 3.15, and this one is 3.14";
        assert_eq!(message(&error), expected);
    }

    #[test]
    fn the_freezer_is_that_of_version_1_or_the_one_tree_where_criu_knows_it() {
        let directory = |version, name: &str, path: &str| Directory {
            version,
            controllers: vec![name.into()],
            mount: "/m".into(),
            path: path.into(),
        };
        let unified = directory(Version::V2, "memory", "/m/2");
        let freezer = directory(Version::V1, "freezer", "/m/1");
        for (directories, version, expected) in [
            (vec![unified.clone(), freezer], 3_00_00, Some("/m/1")),
            (vec![unified.clone()], 3_14_00, Some("/m/2")),
            (vec![unified], 3_13_00, None),
            (vec![], 4_00_00, None),
        ] {
            let facts = Facts { version, group: Group { directories }, ..facts() };
            let asked = options(&dumped(OWN), &Typed::default(), facts).unwrap();
            assert_eq!(asked.freeze_cgroup, expected.map(PathBuf::from));
        }
    }

    #[test]
    fn who_is_told_of_the_pages_is_criu_alone_where_that_is_old() {
        let typed = Typed { status: Some(9), ..Typed::default() };
        let status =
            |version| options(&dumped(OWN), &typed, Facts { version, ..facts() }).unwrap().status;
        assert_eq!((status(3_14_00), status(3_15_00)), (Some(9), None));
    }

    #[test]
    fn a_page_server_has_an_address_and_a_port() {
        assert_eq!(page_server("::1:80").unwrap(), ("::1".into(), 80));
        assert_eq!(page_server("[::1]:80").unwrap(), ("::1".into(), 80));
        assert_eq!(page_server("10.0.0.1:7").unwrap(), ("10.0.0.1".into(), 7));
        for wrong in ["", "7", ":7", "a:", "a:0", "a:65536", "a:b"] {
            assert!(page_server(wrong).is_err(), "{wrong}");
        }
    }
}
