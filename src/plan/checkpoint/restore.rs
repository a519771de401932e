//! What CRIU is asked for to restore a container.

use std::path::PathBuf;

use anyhow::{Result, bail};
use oci_spec::runtime::{LinuxNamespaceType as Kind, Spec};

use super::dump::MASK;
use super::{
    Flags, LSM, Options, bound_devices, cgroups_mode, config_file, external_namespaces, image,
    needs, network, refuse_mapped, refuse_unsupported, source,
};
use crate::plan::Plan;
use crate::plan::cgroup::Group;
use crate::plan::namespaces::proc_name;

/// What was typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Typed {
    /// What `checkpoint` takes too.
    pub flags: Flags,
    /// `--lsm-profile`.
    pub lsm_profile: Option<String>,
    /// `--lsm-mount-context`.
    pub lsm_mount_context: Option<String>,
}

/// `--lsm-profile TYPE:NAME`.
pub fn lsm_profile(text: String) -> Result<String> {
    match text.split_once(':') {
        Some(("apparmor" | "selinux", name)) if !name.is_empty() => Ok(text),
        _ => bail!("--lsm-profile: {text:?}: neither apparmor:NAME nor selinux:LABEL"),
    }
}

/// What is known when CRIU is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// CRIU's version.
    pub version: u32,
    /// The descriptor of the image's directory.
    pub images: i32,
    /// The descriptor of the directory for the log.
    pub work: Option<i32>,
    /// The mount that becomes the root.
    pub root: PathBuf,
    /// Where what is bound from the host is to be, links followed, and its sources.
    pub bound: Vec<(PathBuf, PathBuf)>,
    /// What stdin, stdout and stderr were, as the image tells.
    pub descriptors: Vec<String>,
    /// The number that CRIU has for the first of the joined namespaces.
    pub first_namespace: i32,
    /// The group of the container.
    pub group: Group,
    /// Where CRIU's own process is in each tree.
    pub groups: Vec<(String, PathBuf)>,
    /// Whether the settings that CRIU is to have are there.
    pub has_config_file: bool,
}

/// Refuses what cannot be restored, before anything is made.
pub fn check(spec: &Spec, plan: &Plan) -> Result<()> {
    refuse_unsupported(spec, &plan.namespaces)?;
    refuse_mapped(&plan.rootfs)?;
    if plan.process.is_none() {
        bail!("process: missing, and what is restored is compared with it");
    }
    if !plan.net_devices.is_empty() {
        let text = "linux.netDevices: cannot be given to a container that is restored";
        return Err(crate::error::Kind::Unsupported.error(text));
    }
    Ok(())
}

/// The settings of CRIU's own that it is to have.
pub fn settings(spec: &Spec) -> Option<PathBuf> {
    config_file(spec)
}

/// The request.
pub fn options(plan: &Plan, spec: &Spec, typed: &Typed, facts: Facts) -> Result<Options> {
    for (option, name) in
        [(&typed.lsm_profile, "--lsm-profile"), (&typed.lsm_mount_context, "--lsm-mount-context")]
    {
        if option.is_some() {
            needs(facts.version, LSM, name)?;
        }
    }
    let namespaces = &plan.namespaces;
    let external = external_namespaces(namespaces, facts.version)?;
    let keys = external.into_iter().map(|(_, key)| key.to_owned());
    let joined = namespaces.joined.iter();
    let joined = joined.filter(|join| !matches!(join.kind, Kind::Network | Kind::Pid));
    let by_name = plan
        .rootfs
        .mounts
        .iter()
        .filter_map(|step| Some((step.target.clone(), source(step)?.to_owned())));
    let devices = bound_devices(&plan.rootfs).map(|path| (path.to_owned(), path.to_owned()));
    let masked = plan.rootfs.masked_paths.iter();
    let masked = masked.map(|(_, path)| (path.clone(), PathBuf::from(MASK)));
    let cgroups_mode = cgroups_mode(&typed.flags, namespaces, &facts.group, &facts.groups);
    let mask = (!plan.rootfs.masked_paths.is_empty()).then(|| (MASK.into(), MASK.into()));
    Ok(Options {
        images: facts.images,
        work: facts.work,
        log_file: "restore.log",
        flags: Flags { cgroups_mode, ..typed.flags.clone() },
        evasive_devices: true,
        root: facts.root,
        // runc's images have the places, ours and crun's may have the names. What is masked has
        // one name for all in runc's images and ours, and its own in crun's.
        external_mounts: facts
            .bound
            .into_iter()
            .chain(by_name)
            .chain(devices)
            .chain(mask)
            .chain(masked)
            .collect(),
        cgroup_roots: facts.groups,
        restores_sibling: true,
        inherited: keys
            .zip(facts.first_namespace..)
            .chain(image::pipes(&facts.descriptors))
            .collect(),
        joined: joined.map(|join| (proc_name(join.kind), join.path.clone())).collect(),
        empty_namespaces: network(),
        config_file: config_file(spec).filter(|_| facts.has_config_file),
        lsm_profile: typed.lsm_profile.clone(),
        lsm_mount_context: typed.lsm_mount_context.clone(),
        ..Options::default()
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::error::message;
    use crate::plan::checkpoint::{CgroupsMode, opened_namespaces};
    use crate::plan::host::Host;
    use crate::plan::request::Request;

    fn spec(linux: &str) -> Spec {
        let json = format!(
            r#"{{"ociVersion":"1.0.0","root":{{"path":"r"}},
            "process":{{"args":["a"],"cwd":"/","user":{{"uid":0,"gid":0}}}},"mounts":[
            {{"destination":"/proc","type":"proc","source":"proc"}},
            {{"destination":"/var/run/x","type":"bind","source":"x","options":["rbind"]}}],
            "linux":{linux}}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    fn plan(spec: &Spec) -> Plan {
        Plan::new(&Request::new(spec, Path::new("/b"), "c"), &Host::default()).unwrap()
    }

    fn facts() -> Facts {
        Facts {
            version: 4_01_01,
            images: 5,
            root: "/s/criu-root".into(),
            bound: vec![("/run/x".into(), "/b/x".into())],
            descriptors: vec!["pipe:[1]".into(), "/x/pipe:[2]".into(), "pipe:[3]".into()],
            first_namespace: 4,
            ..Facts::default()
        }
    }

    #[test]
    fn a_bind_is_found_by_its_place_and_by_its_name() {
        let spec = spec(r#"{"namespaces":[{"type":"mount"}],"maskedPaths":["/proc/keys"]}"#);
        let asked = options(&plan(&spec), &spec, &Typed::default(), facts()).unwrap();
        let expected = [
            ("/run/x", "/b/x"),
            ("/var/run/x", "/b/x"),
            ("/dev/null", "/dev/null"),
            ("/proc/keys", "/dev/null"),
        ];
        let expected = expected.map(|(name, source)| (name.into(), source.into()));
        assert_eq!(asked.external_mounts, expected);
        let pipes = [("pipe:[1]".to_owned(), 0), ("pipe:[3]".to_owned(), 2)];
        assert_eq!(asked.inherited, pipes);
        assert!(asked.restores_sibling && asked.evasive_devices);
        assert_eq!((asked.root, asked.pid), ("/s/criu-root".into(), None));
    }

    #[test]
    fn joined_namespaces_are_descriptors_or_files() {
        let spec = spec(
            r#"{"namespaces":[{"type":"mount"},{"type":"ipc","path":"/i"},
            {"type":"pid","path":"/p"},{"type":"network","path":"/n"},{"type":"uts","path":"/u"}]}"#,
        );
        let plan = plan(&spec);
        let asked = options(&plan, &spec, &Typed::default(), facts()).unwrap();
        let expected = [("extRootPidNS", 4), ("extRootNetNS", 5), ("pipe:[1]", 0), ("pipe:[3]", 2)];
        assert_eq!(asked.inherited, expected.map(|(key, at)| (key.to_owned(), at)));
        assert_eq!(asked.joined, [("ipc", PathBuf::from("/i")), ("uts", "/u".into())]);
        let opened: Vec<_> = opened_namespaces(&plan.namespaces).map(|join| join.kind).collect();
        assert_eq!(opened, [Kind::Pid, Kind::Network]);
    }

    #[test]
    fn what_was_typed_and_what_is_known_is_all_that_is_asked_for() {
        let spec = spec(r#"{"namespaces":[{"type":"mount"}]}"#);
        let typed = Typed {
            flags: Flags { shell_job: true, ..Flags::default() },
            lsm_profile: Some("selinux:a".into()),
            lsm_mount_context: Some("c".into()),
        };
        let facts = Facts {
            work: Some(6),
            bound: vec![],
            descriptors: vec![],
            groups: vec![("memory".into(), "/g".into())],
            has_config_file: true,
            ..facts()
        };
        let expected = Options {
            images: 5,
            work: Some(6),
            log_file: "restore.log",
            flags: Flags { cgroups_mode: Some(CgroupsMode::Ignore), ..typed.flags.clone() },
            evasive_devices: true,
            root: "/s/criu-root".into(),
            external_mounts: vec![("/var/run/x".into(), "/b/x".into())],
            cgroup_roots: facts.groups.clone(),
            restores_sibling: true,
            empty_namespaces: 0x4000_0000,
            config_file: Some("/etc/criu/runc.conf".into()),
            lsm_profile: typed.lsm_profile.clone(),
            lsm_mount_context: typed.lsm_mount_context.clone(),
            ..Options::default()
        };
        assert_eq!(options(&plan(&spec), &spec, &typed, facts).unwrap(), expected);
        assert_eq!(settings(&spec), expected.config_file);
    }

    #[test]
    fn devices_that_could_not_be_made_are_the_hosts() {
        let spec = spec(r#"{"namespaces":[{"type":"mount"}]}"#);
        let host = Host { in_user_namespace: true, ..Host::default() };
        let plan = Plan::new(&Request::new(&spec, Path::new("/b"), "c"), &host).unwrap();
        let asked = options(&plan, &spec, &Typed::default(), facts()).unwrap();
        assert!(asked.external_mounts.contains(&("/dev/null".into(), "/dev/null".into())));
        assert!(!asked.external_mounts.contains(&("/dev/tty0".into(), "/dev/tty0".into())));
    }

    #[test]
    fn what_cannot_be_restored_is_refused_before_anything_is_made() {
        let refused = |text: &str| {
            let spec: Spec = serde_json::from_str(text).unwrap();
            check(&spec, &plan(&spec)).map_or_else(|error| message(&error), |()| String::new())
        };
        const PROCESS: &str =
            r#""process":{"args":["a"],"cwd":"/","user":{"uid":0,"gid":0}},"root":{"path":"r"}"#;
        for (text, reason) in [
            (format!(r#"{{{PROCESS},"linux":{{"namespaces":[{{"type":"mount"}}]}}}}"#), ""),
            (
                r#"{"root":{"path":"r"},"linux":{"namespaces":[{"type":"mount"}]}}"#.to_owned(),
                "process: missing, and what is restored is compared with it",
            ),
            (
                format!(
                    r#"{{{PROCESS},"linux":{{"netDevices":{{"eth0":{{}}}},
                    "namespaces":[{{"type":"mount"}},{{"type":"network"}}]}}}}"#
                ),
                "linux.netDevices: cannot be given to a container that is restored",
            ),
            (
                format!(
                    r#"{{{PROCESS},"linux":{{"namespaces":[{{"type":"mount"}}]}},
                    "mounts":[{{"destination":"/m","type":"bind","source":"/x",
                        "uidMappings":[{{"containerID":0,"hostID":1000,"size":1}}],
                        "gidMappings":[{{"containerID":0,"hostID":1000,"size":1}}]}}]}}"#
                ),
                "mounts[0]: CRIU cannot restore a mount with mapped ids",
            ),
        ] {
            assert_eq!(refused(&text), reason);
        }
    }

    #[test]
    fn labels_take_a_criu_that_restores_them() {
        let spec = spec(r#"{"namespaces":[{"type":"mount"}]}"#);
        for wrong in ["", "p", "apparmor:", "tomoyo:p"] {
            assert!(lsm_profile(wrong.into()).is_err(), "{wrong}");
        }
        let typed = lsm_profile("apparmor:p".into()).ok();
        let typed = Typed { lsm_profile: typed, ..Typed::default() };
        let old = Facts { version: 3_15_00, ..facts() };
        let error = options(&plan(&spec), &spec, &typed, old).unwrap_err();
        assert_eq!(message(&error), "--lsm-profile: needs CRIU 3.16, and this one is 3.15");
        let asked = options(&plan(&spec), &spec, &typed, facts()).unwrap();
        assert_eq!(asked.lsm_profile.as_deref(), Some("apparmor:p"));
    }
}
