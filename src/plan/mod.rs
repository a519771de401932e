//! What a container needs, decided before anything is touched.
//!
//! Everything here is pure: a configuration and the facts about the host go in,
//! data comes out. No kernel call is made, so every wrong configuration ends
//! with nothing to undo, and each decision has a test that needs no root.

#![deny(clippy::disallowed_methods)]

pub mod capabilities;
pub mod cgroup;
pub mod checkpoint;
pub mod devices;
pub mod exec;
pub mod hooks;
pub mod host;
pub mod intel_rdt;
pub mod last_calls;
pub mod mounts;
pub mod namespaces;
pub mod net_devices;
pub mod notify;
pub mod numbers;
pub mod options;
pub mod policies;
pub mod process;
pub mod request;
pub mod rootfs;
pub mod sysctls;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use oci_spec::runtime::LinuxNamespaceType as Kind;

use self::cgroup::unit::{self, Unit, UnitPlan};
use self::cgroup::{CgroupAccess, CgroupPlan};
use self::hooks::Hooks;
use self::host::Host;
use self::intel_rdt::IntelRdt;
use self::mounts::{MountKind, Surroundings};
use self::namespaces::Namespaces;
use self::net_devices::{NetDevice, plan_net_devices};
use self::policies::Policies;
use self::process::{Field, ProcessPlan};
use self::request::{CgroupMaker, Console, Request};
use self::rootfs::{Rootfs, plan_rootfs};
use self::sysctls::{Sysctl, plan_sysctls};
use crate::error::InField as _;

/// A container, as a program of kernel calls to make.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its namespaces.
    pub namespaces: Namespaces,
    /// Its cgroup and limits.
    pub cgroup: CgroupPlan,
    /// The unit of systemd's that is its cgroup, where systemd makes that.
    pub unit: Option<UnitPlan>,
    /// The host's id of the user that its cgroup is given to, if it is
    /// (config-linux.md#cgroup-ownership).
    pub cgroup_owner: Option<u32>,
    /// Its class of service and MON group.
    pub intel_rdt: Option<IntelRdt>,
    /// Its file system.
    pub rootfs: Rootfs,
    /// The host's network interfaces that become its own.
    pub net_devices: Vec<NetDevice>,
    /// Its host name, in a uts namespace of its own.
    pub hostname: Option<String>,
    /// Its domain name, likewise.
    pub domainname: Option<String>,
    /// Kernel parameters.
    pub sysctls: Vec<Sysctl>,
    /// Programs to call on the way.
    pub hooks: Hooks,
    /// Its program; without one a container can be created, not started.
    pub process: Option<ProcessPlan>,
    /// What every process of the container has besides.
    pub policies: Policies,
    /// Whether the program gets a session keyring of its own.
    pub new_keyring: bool,
    /// Whether init hides itself once its ids are in force, and is not hidden from its first
    /// moment: the kernel lets root alone, by the caller's user namespace, write the id maps of
    /// a hidden process. Until then it is the user's own, and only his own processes have
    /// rights over it.
    pub hides_itself: bool,
    /// The directory that the program's notifications go through, to be made before its mount.
    pub notify: Option<PathBuf>,
    /// What is passed over, for the log.
    pub warnings: Vec<String>,
}

impl Plan {
    /// The decisions for the log; what each mount and the program get is told when it is done.
    pub fn summary(&self) -> String {
        let Self { namespaces, cgroup, rootfs, hooks, .. } = self;
        let new: Vec<_> = namespaces.new.iter().map(|kind| namespaces::name(*kind)).collect();
        let joined = namespaces.joined.iter();
        let joined: Vec<_> =
            joined.map(|join| format!("{} {:?}", namespaces::name(join.kind), join.path)).collect();
        format!(
            "plan: new namespaces {new:?}, joined {joined:?}; {}, {} settings; {} mounts, \
             {} devices, {} masked and {} read-only paths; hooks: {}",
            cgroup.group.paths(),
            cgroup.settings.len(),
            rootfs.mounts.len(),
            rootfs.devices.len(),
            rootfs.masked_paths.len(),
            rootfs.readonly_paths.len(),
            hooks.summary(),
        )
    }

    /// Decides everything about a container to create.
    pub fn new(request: &Request<'_>, host: &Host) -> Result<Self> {
        let Request { spec, bundle, id, .. } = *request;
        let linux = spec.linux().as_ref();
        let namespaces = Namespaces::plan(linux)?;
        if host.uid != 0 && !namespaces.has(Kind::User) {
            bail!(
                "linux.namespaces: user: missing, and an ordinary user needs a user namespace \
                 (`ferrun spec --rootless` writes a configuration with one)"
            );
        }
        let access = request.cgroups.access(host);
        let (cgroup, unit) = plan_cgroup(request, host, &access)?;
        let around = Surroundings {
            bundle,
            root: bundle.join(spec.root().as_ref().map_or(Path::new(""), |root| root.path())),
            layout: &host.cgroups,
            group: &cgroup.group,
            cgroup_namespace: namespaces.has(Kind::Cgroup),
            user_namespace: namespaces.has(Kind::User),
            mount_namespace: namespaces.is_new(Kind::Mount),
            creator_opens: namespaces.has(Kind::User)
                && namespaces.is_new(Kind::Mount)
                && host.uid == 0,
            joined_pids: namespaces.is_prepared_outside(),
            may_make_devices: !host.in_user_namespace && !namespaces.has(Kind::User),
            no_pivot: request.no_pivot,
            notify: request.notify.as_deref(),
        };
        let (rootfs, mut warnings) = plan_rootfs(spec, &around)?;
        warnings.extend(cgroup.warnings.iter().cloned());
        let (intel_rdt, more) = IntelRdt::plan(linux, id)?;
        warnings.extend(more);
        for (field, value) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
            if let Some(value) = value.as_ref().filter(|value| !value.is_empty())
                && !namespaces.has(Kind::Uts)
            {
                bail!("{field}: {value:?}: unable to set it without a private UTS namespace");
            }
        }
        let hooks = Hooks::plan(spec.hooks().as_ref())?;
        let (process, warning) = plan_process(request, &namespaces, &hooks)?;
        warnings.extend(warning);
        let may_delegate = access == CgroupAccess::Root && namespaces.is_new(Kind::Cgroup);
        let cgroup_owner = process
            .as_ref()
            .filter(|_| may_delegate && may_write_cgroups(&rootfs))
            .and_then(|process| owner_outside(&namespaces, process.user.uid));
        let not_empty = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        Ok(Self {
            sysctls: plan_sysctls(linux, &namespaces)?,
            net_devices: plan_net_devices(linux, &namespaces, host.uid == 0)?,
            hides_itself: namespaces.id_maps.is_some() && host.uid != 0,
            namespaces,
            cgroup,
            unit,
            cgroup_owner,
            intel_rdt,
            rootfs,
            hostname: not_empty(spec.hostname()),
            domainname: not_empty(spec.domainname()),
            hooks,
            process,
            policies: Policies::plan(spec)?,
            new_keyring: !request.keeps_keyring,
            notify: request.notify.clone(),
            warnings,
        })
    }
}

/// The container's cgroup, and the unit that it is where systemd makes it.
fn plan_cgroup(
    request: &Request<'_>,
    host: &Host,
    access: &CgroupAccess,
) -> Result<(CgroupPlan, Option<UnitPlan>)> {
    let Request { spec, id, .. } = *request;
    let linux = spec.linux().as_ref();
    let path = linux.and_then(|linux| linux.cgroups_path().as_deref());
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    let layout = &host.cgroups;
    if request.cgroups.maker != CgroupMaker::Systemd {
        return Ok((CgroupPlan::new(path, resources, id, layout, access)?, None));
    }
    let systemd = host.systemd.as_ref().context("systemd cannot be asked for a cgroup")?;
    let unit = Unit::new(path, id, systemd).in_field("linux.cgroupsPath")?;
    let below = unit.path()?;
    let place = systemd.group.join(below.strip_prefix("/").unwrap_or(&below));
    let is_root = *access == CgroupAccess::Root;
    let (cgroup, limits) =
        CgroupPlan::in_unit(&place, resources, layout, is_root, &systemd.majors)?;
    let mut properties = unit::own_properties(id, &unit);
    properties.extend(limits);
    for (name, value) in unit::of_annotations(spec.annotations().iter().flatten())? {
        properties.retain(|(other, _)| *other != name);
        properties.push((name, value));
    }
    Ok((cgroup, Some(UnitPlan { unit, properties })))
}

/// The program, and when its filter is loaded. Also says what is passed over.
fn plan_process(
    request: &Request<'_>,
    namespaces: &Namespaces,
    hooks: &Hooks,
) -> Result<(Option<ProcessPlan>, Option<String>)> {
    let Request { spec, streams, .. } = request;
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let Some(process) = spec.process() else {
        if matches!(streams.console, Console::Socket(_)) {
            bail!("--console-socket: given, but process.terminal is not true");
        }
        return Ok((None, None));
    };
    let mut process = ProcessPlan::plan(process, seccomp, Field::CONFIG, streams)?;
    if request.notify.is_some() {
        process.set_variable(notify::VARIABLE, &notify::value())?;
    }
    process.pipes_owner = namespaces.user_outside(process.user.uid);
    // To call a hook and wait for it takes far more than `last_calls` knows of.
    process.filter_comes_first &= hooks.start_container.is_empty();
    if !process.filter.as_ref().is_some_and(|filter| filter.notifies) {
        return Ok((Some(process), None));
    }
    if !hooks.start_container.is_empty() {
        // They run under the program's filter, and would need a listener each.
        bail!("hooks.startContainer: not supported together with SCMP_ACT_NOTIFY");
    }
    let reason = match (namespaces.is_prepared_outside(), process.filter_comes_first) {
        (true, _) => "a pid namespace is joined",
        (false, false) => "the filter does not let all of the runtime's last calls through",
        (false, true) => return Ok((Some(process), None)),
    };
    let warning = format!("linux.seccomp: the agent gets the listener at start: {reason}");
    Ok((Some(process), Some(warning)))
}

/// Whether the tree of cgroups is mounted for the container to write.
fn may_write_cgroups(rootfs: &Rootfs) -> bool {
    rootfs.mounts.iter().any(|step| {
        step.target == Path::new("/sys/fs/cgroup")
            && step.attributes.set & options::MOUNT_ATTR_RDONLY == 0
            && matches!(&step.kind, MountKind::New(new) if new.fstype == "cgroup2")
    })
}

/// Whom the group is given to that the user `uid` of the container may write: nobody where
/// that is root already, or where nobody can tell.
fn owner_outside(namespaces: &Namespaces, uid: u32) -> Option<u32> {
    match namespaces.id_maps {
        Some(_) => namespaces.user_outside(uid),
        None if namespaces.has(Kind::User) => None,
        None => (uid != 0).then_some(uid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Result<Plan> {
        let spec = serde_json::from_str(json).unwrap();
        Plan::new(&Request::new(&spec, Path::new("/b"), "c"), &Host::default())
    }

    #[test]
    fn a_config_without_a_process_can_be_planned() {
        assert!(plan(r#"{"root":{"path":"r"}}"#).unwrap().process.is_none());
    }

    #[test]
    fn a_class_of_service_is_planned_too() {
        let json = r#"{"root":{"path":"r"},"linux":{"intelRdt":{"closID":"a/b"}}}"#;
        let reason = r#"linux.intelRdt.closID: "a/b": not the name of a class"#;
        assert_eq!(format!("{:#}", plan(json).unwrap_err()), reason);
    }

    #[test]
    fn a_cgroup_is_given_to_the_user_who_may_write_to_it() {
        let owner = |mount_options: &str, namespaces: &str| {
            let json = format!(
                r#"{{"root":{{"path":"r"}},"process":{{"args":["a"],"cwd":"/","user":{{"uid":7,"gid":0}}}},
                "mounts":[{{"destination":"/sys/fs/cgroup","type":"cgroup","options":[{mount_options}]}}],
                "linux":{{"namespaces":[{{"type":"user"}}{namespaces}],
                "uidMappings":[{{"containerID":5,"hostID":100000,"size":10}}],
                "gidMappings":[{{"containerID":0,"hostID":100000,"size":10}}]}}}}"#
            );
            let cgroups = cgroup::Layout::V2(cgroup::Unified {
                controllers: vec![],
                mount: "/sys/fs/cgroup".into(),
            });
            let host = Host { cgroups, ..Host::default() };
            let spec = serde_json::from_str(&json).unwrap();
            Plan::new(&Request::new(&spec, Path::new("/b"), "c"), &host).unwrap().cgroup_owner
        };
        assert_eq!(owner("", r#",{"type":"cgroup"}"#), Some(100_002));
        assert_eq!(owner("", r#",{"type":"cgroup","path":"/c"}"#), None, "a joined one");
        assert_eq!(owner(r#""ro""#, r#",{"type":"cgroup"}"#), None);
        assert_eq!(owner("", ""), None);
    }

    #[test]
    fn a_cgroup_that_systemd_makes_is_a_unit_with_the_limits() {
        let spec = serde_json::from_str(
            r#"{"root":{"path":"r"},
                "annotations":{"org.systemd.property.Description":"'mine'"},
                "linux":{"cgroupsPath":"a.slice:p:c","resources":{
                    "memory":{"limit":4096},"devices":[{"allow":false,"access":"rwm"}]}}}"#,
        )
        .unwrap();
        let mut request = Request::new(&spec, Path::new("/b"), "c");
        request.cgroups.maker = CgroupMaker::Systemd;
        let names = vec!["memory".to_owned()];
        let unified = cgroup::Unified { controllers: names, mount: "/sys/fs/cgroup".into() };
        let systemd = unit::Systemd {
            manager: unit::Manager::System,
            places: vec![],
            group: "/above".into(),
            majors: vec![],
        };
        let host = Host {
            cgroups: cgroup::Layout::V2(unified),
            systemd: Some(systemd),
            ..Host::default()
        };
        let plan = Plan::new(&request, &host).unwrap();
        let place = Path::new("/sys/fs/cgroup/above/a.slice/p-c.scope");
        assert_eq!(plan.cgroup.directories().collect::<Vec<_>>(), [place]);
        assert_eq!(plan.cgroup.devices.map(|devices| devices.directory), Some(place.to_owned()));
        assert_eq!(plan.cgroup.settings.len(), 1);
        let properties = plan.unit.unwrap().properties;
        let values = |wanted: &str| -> Vec<String> {
            let found = properties.iter().filter(|(name, _)| name == wanted);
            found.map(|(_, value)| format!("{value:?}")).collect()
        };
        assert_eq!(values("MemoryMax"), ["U64(4096)"]);
        assert_eq!(values("Description"), [r#"Text("mine")"#], "the annotation's alone");
        assert_eq!(values("DeviceAllow").len(), 1);
        // What an ordinary user's systemd makes has no program for devices.
        request.cgroups.rootless = Some(true);
        assert!(Plan::new(&request, &host).unwrap().cgroup.devices.is_none());
        let refused = |host: Host| Plan::new(&request, &host).unwrap_err().to_string();
        let version_1 = cgroup::Layout::V1 { hierarchies: vec![], unified: None };
        assert_eq!(
            refused(Host { cgroups: version_1, ..host.clone() }),
            "--systemd-cgroup: this machine has no cgroup v2 alone"
        );
        assert_eq!(refused(Host { systemd: None, ..host }), "systemd cannot be asked for a cgroup");
    }

    #[test]
    fn the_log_says_what_was_decided() {
        let json = r#"{"root":{"path":"r"},"hooks":{"poststop":[{"path":"/bin/true"}]},
            "mounts":[{"destination":"/t","type":"tmpfs"}],
            "linux":{"namespaces":[{"type":"mount"},{"type":"network","path":"/n"}],
                "maskedPaths":["/m"],"readonlyPaths":["/r","/s"]}}"#;
        let summary = plan(json).unwrap().summary();
        let expected = "plan: new namespaces [\"mount\"], joined [\"network \\\"/n\\\"\"]; cgroup [], \
            0 settings; 1 mounts, 6 devices, 1 masked and 2 read-only paths; \
            hooks: hooks.poststop[0] \"/bin/true\"";
        assert_eq!(summary, expected);
        let bare = plan(r#"{"root":{"path":"r"}}"#).unwrap().summary();
        assert!(bare.ends_with("; hooks: none"), "{bare}");
    }

    fn owner(namespaces: &str, uid: u32) -> Option<u32> {
        let namespaces = serde_json::from_str(&format!(r#"{{"namespaces":[{namespaces}]}}"#));
        owner_outside(&Namespaces::plan(Some(&namespaces.unwrap())).unwrap(), uid)
    }

    #[test]
    fn a_cgroup_is_roots_already_and_nobodys_where_ids_are_not_known() {
        assert_eq!((owner("", 7), owner("", 0)), (Some(7), None));
        let joined = r#"{"type":"user","path":"/u"}"#;
        assert_eq!((owner(joined, 7), owner(joined, 0)), (None, None));
    }

    fn filtered(action: &str, more: &str) -> Result<Plan> {
        plan(&format!(
            r#"{{"root":{{"path":"r"}},"process":{{"args":["a"],"cwd":"/","user":{{"uid":0,"gid":0}}}},
            "linux":{{{more}"seccomp":{{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/l",
                "syscalls":[{{"names":["{action}"],"action":"SCMP_ACT_NOTIFY"}}]}}}}}}"#
        ))
    }

    #[test]
    fn the_listener_comes_at_start_where_the_filter_may_not_be_loaded_before() {
        let warnings = |call, more| filtered(call, more).unwrap().warnings;
        let warning = "linux.seccomp: the agent gets the listener at start: ";
        assert!(!warnings("mkdir", "").iter().any(|text| text.starts_with(warning)));
        let reason = "the filter does not let all of the runtime's last calls through";
        assert!(warnings("execve", "").contains(&format!("{warning}{reason}")));
        let pid = r#""namespaces":[{"type":"pid","path":"/p"}],"#;
        assert!(warnings("mkdir", pid).contains(&format!("{warning}a pid namespace is joined")));
    }

    #[test]
    fn hooks_in_the_container_run_before_its_filter_and_none_may_notify_of_them() {
        const HOOK: &str = r#""hooks":{"startContainer":[{"path":"/h"}]},"#;
        let planned = |hooks: &str, action: &str| {
            plan(&format!(
                r#"{{{hooks}"root":{{"path":"r"}},"process":{{"args":["a"],"cwd":"/","user":{{"uid":0,"gid":0}}}},
                "linux":{{"seccomp":{{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/l",
                "syscalls":[{{"names":["mkdir"],"action":"{action}"}}]}}}}}}"#
            ))
        };
        let comes_first =
            |hooks| planned(hooks, "SCMP_ACT_ERRNO").unwrap().process.unwrap().filter_comes_first;
        assert!(comes_first("") && !comes_first(HOOK));
        let refused = planned(HOOK, "SCMP_ACT_NOTIFY").unwrap_err().to_string();
        assert_eq!(refused, "hooks.startContainer: not supported together with SCMP_ACT_NOTIFY");
    }

    #[test]
    fn an_ordinary_user_needs_a_user_namespace() {
        let spec = serde_json::from_str(r#"{"root":{"path":"r"}}"#).unwrap();
        let host = Host { uid: 1000, ..Host::default() };
        let error = Plan::new(&Request::new(&spec, Path::new("/b"), "c"), &host).unwrap_err();
        assert!(error.to_string().starts_with("linux.namespaces: user: missing"), "{error}");
    }

    #[test]
    fn a_hostname_needs_a_namespace_of_its_own() {
        let error = plan(r#"{"root":{"path":"r"},"hostname":"h"}"#).unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"hostname: "h": unable to set it without a private UTS namespace"#
        );
    }

    #[test]
    fn a_service_manager_adds_a_mount_and_a_variable_that_are_no_entries_of_the_configuration() {
        let json = r#"{"root":{"path":"r"},"mounts":[{"destination":"/t","type":"tmpfs"}],
            "process":{"args":["a"],"cwd":"/","user":{"uid":0,"gid":0},
                "env":["NOTIFY_SOCKET=/of/the/image"]}}"#;
        let spec = serde_json::from_str(json).unwrap();
        let notify = Some(PathBuf::from("/run/c/notify"));
        let request =
            Request { notify: notify.clone(), ..Request::new(&spec, Path::new("/b"), "c") };
        let plan = Plan::new(&request, &Host::default()).unwrap();
        let step = plan.rootfs.mounts.last().unwrap();
        assert_eq!(step.target, Path::new("/run/notify"));
        assert_eq!(step.field.of("destination").to_string(), "NOTIFY_SOCKET");
        let process = plan.process.unwrap();
        assert_eq!(process.variable("NOTIFY_SOCKET"), Some(&b"/run/notify/notify.sock"[..]));
        assert_eq!((process.env.len(), plan.notify), (1, notify));
        let plan = Plan::new(&Request::new(&spec, Path::new("/b"), "c"), &Host::default()).unwrap();
        assert_eq!((plan.rootfs.mounts.len(), plan.notify), (1, None));
    }
}
