//! What a container needs, decided before anything is touched.
//!
//! Everything here is pure: a configuration and the facts about the host go in,
//! data comes out. No kernel call is made, so every wrong configuration ends
//! with nothing to undo, and each decision has a test that needs no root.

#![deny(clippy::disallowed_methods)]

pub mod cgroup;
pub mod devices;
pub mod hooks;
pub mod intel_rdt;
pub mod last_calls;
pub mod mounts;
pub mod namespaces;
pub mod net_devices;
pub mod numbers;
pub mod options;
pub mod process;
pub mod rootfs;
pub mod sysctls;

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use oci_spec::runtime::{LinuxNamespaceType as Kind, LinuxPersonalityDomain, Spec};

use self::cgroup::unit::{self, Unit, UnitPlan};
use self::cgroup::{Access, CgroupPlan};
use self::hooks::Hooks;
use self::intel_rdt::IntelRdt;
use self::mounts::{MountKind, Surroundings};
use self::namespaces::Namespaces;
use self::net_devices::{NetDevice, plan_net_devices};
use self::process::{Field, ProcessPlan};
use self::rootfs::{Rootfs, plan_rootfs};
use self::sysctls::{Sysctl, plan_sysctls};
use crate::error::InField as _;
use crate::host::Host;

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
    /// What is passed over, for the log.
    pub warnings: Vec<String>,
}

/// What every process of a container has, those that `exec` adds too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policies {
    /// The execution domain (personality(2)).
    pub personality: Option<u64>,
    /// The NUMA policy: mode with its flags, and the mask of nodes.
    pub memory_policy: Option<(u32, Vec<u64>)>,
}

impl Policies {
    /// Plans those of a configuration.
    pub fn plan(spec: &Spec) -> Result<Self> {
        Ok(Self { personality: personality(spec)?, memory_policy: memory_policy(spec)? })
    }
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
            rootfs.masked.len(),
            rootfs.closed.len(),
            hooks.summary(),
        )
    }

    /// Plans the container `id` from its configuration.
    pub fn new(spec: &Spec, bundle: &Path, id: &str, host: &Host) -> Result<Self> {
        let linux = spec.linux().as_ref();
        let namespaces = Namespaces::plan(linux)?;
        if host.uid != 0 && !namespaces.has(Kind::User) {
            bail!("linux.namespaces: user: missing, and an ordinary user needs a user namespace");
        }
        let (cgroup, unit) = plan_cgroup(spec, id, host)?;
        let around = Surroundings {
            bundle,
            root: bundle.join(spec.root().as_ref().map_or(Path::new(""), |root| root.path())),
            layout: &host.cgroups,
            group: &cgroup.group,
            cgroup_namespace: namespaces.has(Kind::Cgroup),
            user_namespace: namespaces.has(Kind::User),
            creator_opens: namespaces.has(Kind::User)
                && namespaces.is_new(Kind::Mount)
                && host.uid == 0,
            joined_pids: namespaces.is_prepared_outside(),
        };
        let may_make_devices = !host.in_user_namespace && !namespaces.has(Kind::User);
        let (rootfs, mut warnings) =
            plan_rootfs(spec, namespaces.is_new(Kind::Mount), may_make_devices, &around)?;
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
        let (process, warning) = plan_process(spec, &namespaces, &hooks)?;
        warnings.extend(warning);
        let cgroup_owner = cgroup_owner(&namespaces, &rootfs, process.as_ref(), host);
        let not_empty = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        Ok(Self {
            sysctls: plan_sysctls(linux, &namespaces)?,
            net_devices: plan_net_devices(linux, &namespaces, host.uid == 0)?,
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
            warnings,
        })
    }
}

/// The container's cgroup, and the unit that it is where systemd makes it.
fn plan_cgroup(spec: &Spec, id: &str, host: &Host) -> Result<(CgroupPlan, Option<UnitPlan>)> {
    let linux = spec.linux().as_ref();
    let path = linux.and_then(|linux| linux.cgroups_path().as_deref());
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    let (layout, access) = (&host.cgroups, &host.cgroup_access);
    let Some(systemd) = &host.systemd else {
        return Ok((CgroupPlan::new(path, resources, id, layout, access)?, None));
    };
    let unit = Unit::new(path, id, systemd).in_field("linux.cgroupsPath")?;
    let below = unit.path()?;
    let place = systemd.group.join(below.strip_prefix("/").unwrap_or(&below));
    let is_root = *access == Access::Root;
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
    spec: &Spec,
    namespaces: &Namespaces,
    hooks: &Hooks,
) -> Result<(Option<ProcessPlan>, Option<String>)> {
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let Some(process) = spec.process() else { return Ok((None, None)) };
    let mut process = ProcessPlan::plan(process, seccomp, Field::CONFIG)?;
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

/// The user of the program gets the group where it has a cgroup namespace of its own
/// and the tree is mounted for it to write.
fn cgroup_owner(
    namespaces: &Namespaces,
    rootfs: &Rootfs,
    process: Option<&ProcessPlan>,
    host: &Host,
) -> Option<u32> {
    let may_write = rootfs.mounts.iter().any(|step| {
        step.target == Path::new("/sys/fs/cgroup")
            && step.attributes.set & options::MOUNT_ATTR_RDONLY == 0
            && matches!(&step.kind, MountKind::New(new) if new.fstype == "cgroup2")
    });
    if host.cgroup_access != Access::Root || !namespaces.is_new(Kind::Cgroup) || !may_write {
        return None;
    }
    let uid = process?.user.uid;
    match &namespaces.id_maps {
        Some(maps) => maps.user_outside(uid),
        None if namespaces.has(Kind::User) => None,
        None => (uid != 0).then_some(uid),
    }
}

fn personality(spec: &Spec) -> Result<Option<u64>> {
    let Some(given) = spec.linux().as_ref().and_then(|linux| linux.personality().as_ref()) else {
        return Ok(None);
    };
    if let Some(flag) = given.flags().iter().flatten().next() {
        bail!("linux.personality.flags: {flag:?}: unknown");
    }
    Ok(Some(match given.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    }))
}

fn memory_policy(spec: &Spec) -> Result<Option<(u32, Vec<u64>)>> {
    use oci_spec::runtime::MemoryPolicyFlagType::*;
    use oci_spec::runtime::MemoryPolicyModeType::*;
    let Some(given) = spec.linux().as_ref().and_then(|linux| linux.memory_policy().as_ref()) else {
        return Ok(None);
    };
    // linux/mempolicy.h
    let mode = match given.mode() {
        MpolDefault => 0,
        MpolPreferred => 1,
        MpolBind => 2,
        MpolInterleave => 3,
        MpolLocal => 4,
        MpolPreferredMany => 5,
        MpolWeightedInterleave => 6,
    };
    let flags = given.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                MpolFStaticNodes => 1 << 15,
                MpolFRelativeNodes => 1 << 14,
                MpolFNumaBalancing => 1 << 13,
            }
    });
    let nodes = given.nodes().as_deref().unwrap_or_default();
    let nodes = bit_mask(nodes).context("invalid memory policy");
    Ok(Some((mode | flags, nodes.in_field("linux.memoryPolicy.nodes")?)))
}

/// A list of numbers such as `0-3,7` as a bit mask, lowest first.
pub(crate) fn bit_mask(list: &str) -> Result<Vec<u64>> {
    const HIGHEST: usize = 1023;
    let mut mask: Vec<u64> = Vec::new();
    for range in list.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) else {
            bail!("{range:?}: not a number or a range");
        };
        if first > last || last > HIGHEST {
            bail!("{range:?}: not a range up to {HIGHEST}");
        }
        for number in first..=last {
            if mask.len() <= number / 64 {
                mask.resize(number / 64 + 1, 0);
            }
            if let Some(word) = mask.get_mut(number / 64) {
                *word |= 1 << (number % 64);
            }
        }
    }
    Ok(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Result<Plan> {
        Plan::new(&serde_json::from_str(json).unwrap(), Path::new("/b"), "c", &Host::default())
    }

    #[test]
    fn a_config_without_a_process_can_be_planned() {
        assert!(plan(r#"{"root":{"path":"r"}}"#).unwrap().process.is_none());
    }

    #[test]
    fn lists_of_numbers_become_masks() {
        assert!(bit_mask("").unwrap().is_empty());
        assert_eq!(bit_mask("0-2,5").unwrap(), [0b10_0111_u64]);
        assert_eq!(bit_mask("64").unwrap(), [0_u64, 1]);
        assert_eq!(bit_mask("63").unwrap(), [1_u64 << 63]);
        assert_eq!(bit_mask(" 3 , 1-1,").unwrap(), [0b1010_u64]);
        assert_eq!(bit_mask("1023").unwrap().len(), 16);
        for wrong in ["a", "3-1", "-1", "1024", "0-1024"] {
            assert!(bit_mask(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_memory_policy_is_the_kernels_mode_flags_and_nodes() {
        // linux/mempolicy.h
        for (policy, expected) in [
            (r#""mode":"MPOL_DEFAULT""#, (0, vec![])),
            (r#""mode":"MPOL_PREFERRED","nodes":"1""#, (1, vec![2])),
            (r#""mode":"MPOL_BIND","nodes":"0-1""#, (2, vec![3])),
            (r#""mode":"MPOL_INTERLEAVE","nodes":"64""#, (3, vec![0, 1])),
            (r#""mode":"MPOL_LOCAL""#, (4, vec![])),
            (r#""mode":"MPOL_PREFERRED_MANY""#, (5, vec![])),
            (r#""mode":"MPOL_WEIGHTED_INTERLEAVE""#, (6, vec![])),
            (r#""mode":"MPOL_BIND","flags":["MPOL_F_STATIC_NODES"]"#, (0x8002, vec![])),
            (r#""mode":"MPOL_BIND","flags":["MPOL_F_RELATIVE_NODES"]"#, (0x4002, vec![])),
            (
                r#""mode":"MPOL_BIND","flags":["MPOL_F_NUMA_BALANCING","MPOL_F_STATIC_NODES"]"#,
                (0xa002, vec![]),
            ),
        ] {
            let json =
                format!(r#"{{"root":{{"path":"r"}},"linux":{{"memoryPolicy":{{{policy}}}}}}}"#);
            assert_eq!(plan(&json).unwrap().policies.memory_policy, Some(expected), "{policy}");
        }
        assert_eq!(
            plan(r#"{"root":{"path":"r"},"linux":{}}"#).unwrap().policies.memory_policy,
            None
        );
    }

    #[test]
    fn a_personality_is_the_kernels_number() {
        let personality = |domain: &str| {
            let json = format!(
                r#"{{"root":{{"path":"r"}},"linux":{{"personality":{{"domain":"{domain}"}}}}}}"#
            );
            plan(&json).unwrap().policies.personality
        };
        // sys/personality.h
        assert_eq!((personality("LINUX"), personality("LINUX32")), (Some(0), Some(8)));
        assert_eq!(plan(r#"{"root":{"path":"r"}}"#).unwrap().policies.personality, None);
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_field() {
        for (linux, reason) in [
            (
                r#""intelRdt":{"closID":"a/b"}"#,
                r#"linux.intelRdt.closID: "a/b": not the name of a class"#,
            ),
            (
                r#""personality":{"domain":"LINUX","flags":["X"]}"#,
                r#"linux.personality.flags: "X": unknown"#,
            ),
            (
                r#""memoryPolicy":{"mode":"MPOL_BIND","nodes":"x"}"#,
                r#"linux.memoryPolicy.nodes: invalid memory policy: "x": not a number or a range"#,
            ),
        ] {
            let json = format!(r#"{{"root":{{"path":"r"}},"linux":{{{linux}}}}}"#);
            assert_eq!(format!("{:#}", plan(&json).unwrap_err()), reason);
        }
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
            Plan::new(&spec, Path::new("/b"), "c", &host).unwrap().cgroup_owner
        };
        assert_eq!(owner("", r#",{"type":"cgroup"}"#), Some(100_002));
        assert_eq!(owner("", r#",{"type":"cgroup","path":"/c"}"#), None, "a joined one");
        assert_eq!(owner(r#""ro""#, r#",{"type":"cgroup"}"#), None);
        assert_eq!(owner("", ""), None);
    }

    #[test]
    fn an_ordinary_user_needs_a_user_namespace() {
        let spec = serde_json::from_str(r#"{"root":{"path":"r"}}"#).unwrap();
        let host = Host { uid: 1000, ..Host::default() };
        let error = Plan::new(&spec, Path::new("/b"), "c", &host).unwrap_err();
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
}
