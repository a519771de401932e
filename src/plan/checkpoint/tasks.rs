//! Whether what CRIU has restored is within what the configuration allows.
//!
//! CRIU restores capabilities, filters, ids and labels as the image says. So each task is
//! compared with the plan of a program that would be started instead: a program may have given
//! up rights since, and never have gained any that its limits do not let it have.

use anyhow::{Result, ensure};

use crate::plan::capabilities::CapabilitySets;
use crate::plan::namespaces::{IdMaps, IdRange};
use crate::plan::process::ProcessPlan;

/// A task by what the kernel says of it (proc_pid_status(5)).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Task {
    /// Real, effective, saved and file system user id, as the reader sees them.
    pub uids: Vec<u32>,
    /// The same of the group.
    pub gids: Vec<u32>,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Its capabilities.
    pub capabilities: CapabilitySets,
    /// no_new_privs.
    pub no_new_privileges: bool,
    /// The mode of seccomp.
    pub seccomp: u32,
    /// What a security module calls it; None where there is none.
    pub label: Option<String>,
}

/// The mode of a task that has a filter (SECCOMP_MODE_FILTER).
const FILTERED: u32 = 2;

/// CAP_SETGID and CAP_SETUID.
const SETGID: u64 = 1 << 6;
const SETUID: u64 = 1 << 7;

impl Task {
    /// Reads /proc/PID/status. None: it is not understood. The name in it is the task's, and
    /// comes first, with its line feeds written out.
    pub fn parse(status: &str, label: Option<String>) -> Option<Self> {
        let field =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let numbers = |name: &str| -> Option<Vec<u32>> {
            field(name)?.split_ascii_whitespace().map(|number| number.parse().ok()).collect()
        };
        let mask = |name: &str| u64::from_str_radix(field(name)?.trim(), 16).ok();
        let number = |name: &str| numbers(name)?.first().copied();
        Some(Self {
            uids: numbers("Uid")?,
            gids: numbers("Gid")?,
            groups: numbers("Groups")?,
            capabilities: CapabilitySets {
                effective: mask("CapEff")?,
                permitted: mask("CapPrm")?,
                inheritable: mask("CapInh")?,
                bounding: mask("CapBnd")?,
                ambient: mask("CapAmb")?,
            },
            no_new_privileges: number("NoNewPrivs")? == 1,
            seccomp: number("Seccomp")?,
            label,
        })
    }
}

/// What the tasks of a container are compared with.
#[derive(Debug)]
pub struct Limits<'a> {
    /// Its program.
    pub process: &'a ProcessPlan,
    /// The ids of its user namespace, where that is its own.
    pub id_maps: Option<&'a IdMaps>,
    /// The label that was asked for instead of the configuration's, as `--lsm-profile` has it.
    pub label: Option<&'a str>,
}

impl Limits<'_> {
    /// Refuses a task that has more than it could have come to have.
    pub fn check(&self, task: &Task) -> Result<()> {
        self.check_capabilities(&task.capabilities)?;
        let process = self.process;
        ensure!(
            task.no_new_privileges || !process.no_new_privileges,
            "process.noNewPrivileges: is not set"
        );
        ensure!(
            process.filter.is_none() || task.seccomp == FILTERED,
            "linux.seccomp: has no filter"
        );
        self.check_ids(task)?;
        self.check_label(task.label.as_deref())
    }

    fn check_capabilities(&self, sets: &CapabilitySets) -> Result<()> {
        let planned = &self.process.capabilities;
        let allowed = planned.bounding | planned.permitted | planned.inheritable;
        for (name, set) in [
            ("effective", sets.effective),
            ("permitted", sets.permitted),
            ("inheritable", sets.inheritable),
            ("bounding", sets.bounding),
            ("ambient", sets.ambient),
        ] {
            let more = set & !allowed;
            ensure!(more == 0, "process.capabilities.{name}: has more, {more:#x}");
        }
        Ok(())
    }

    /// Other ids than the program began with take a right that it has, or one that a program
    /// with a set-user-id bit may give it, which is within its bounding set.
    fn check_ids(&self, task: &Task) -> Result<()> {
        let planned = &self.process.capabilities;
        let within_reach = match self.process.no_new_privileges {
            true => planned.permitted,
            false => planned.permitted | planned.bounding,
        };
        let user = &self.process.user;
        let outside = |ranges: Option<&Vec<IdRange>>, id| match ranges {
            Some(ranges) => ranges.iter().find_map(|range| range.outside_of(id)),
            None => Some(id),
        };
        let (uids, gids) =
            (self.id_maps.map(|maps| &maps.uids), self.id_maps.map(|maps| &maps.gids));
        if within_reach & SETUID == 0 {
            let own = outside(uids, user.uid);
            let other = task.uids.iter().find(|uid| Some(**uid) != own);
            ensure!(other.is_none(), "process.user.uid: is {other:?}");
        }
        if within_reach & SETGID == 0 {
            let own = std::iter::once(&user.gid).chain(&user.groups);
            let own: Vec<_> = own.map(|gid| outside(gids, *gid)).collect();
            let all = task.gids.iter().chain(&task.groups);
            let other = all.into_iter().find(|gid| !own.contains(&Some(**gid)));
            ensure!(other.is_none(), "process.user.gid: is of {other:?}");
        }
        Ok(())
    }

    fn check_label(&self, label: Option<&str>) -> Result<()> {
        let label = label.unwrap_or_default();
        let asked = |module: &str| self.label?.strip_prefix(module)?.strip_prefix(':');
        let process = self.process;
        if let Some(profile) = asked("apparmor").or(process.apparmor_profile.as_deref()) {
            // Of a profile in another mode than enforcing: "NAME (complain)".
            let name = label.rsplit_once(" (").map_or(label, |(name, _)| name);
            let is_below = name.strip_prefix(profile).is_some_and(|rest| rest.starts_with("//"));
            ensure!(
                name == profile || is_below || profile == "unconfined",
                "process.apparmorProfile: {profile:?}: runs under {label:?} (--lsm-profile names another)"
            );
        }
        if let Some(planned) = asked("selinux").or(process.selinux_label.as_deref()) {
            ensure!(
                label == planned,
                "process.selinuxLabel: {planned:?}: runs as {label:?} (--lsm-profile names another)"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::message;
    use crate::plan::process::Field;
    use crate::plan::request::Streams;

    const STATUS: &str = "Name:\tx\\nUid:\t9\nUmask:\t0022\nUid:\t7\t7\t7\t7\nGid:\t8\t8\t8\t8\n\
        Groups:\t8 20 \nNoNewPrivs:\t1\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000400\n\
        CapEff:\t0000000000000400\nCapBnd:\t0000000000000400\nCapAmb:\t0000000000000000\n\
        Seccomp:\t2\nSeccomp_filters:\t1\n";

    fn process(more: &str) -> ProcessPlan {
        let json = format!(
            r#"{{"args":["a"],"cwd":"/","user":{{"uid":7,"gid":8,"additionalGids":[20]}},
            "capabilities":{{"bounding":["CAP_NET_BIND_SERVICE"],
            "permitted":["CAP_NET_BIND_SERVICE"],"effective":["CAP_NET_BIND_SERVICE"]}}{more}}}"#
        );
        let process = serde_json::from_str(&json).unwrap();
        let filter = serde_json::from_str(r#"{"defaultAction":"SCMP_ACT_ERRNO"}"#).unwrap();
        ProcessPlan::plan(&process, Some(&filter), Field::CONFIG, &Streams::default()).unwrap()
    }

    fn refused(process: &ProcessPlan, task: &Task) -> String {
        let limits = Limits { process, id_maps: None, label: None };
        limits.check(task).map_or_else(|error| message(&error), |()| String::new())
    }

    #[test]
    fn a_task_is_what_the_kernel_says_of_it_whatever_its_name_is() {
        let task = Task::parse(STATUS, None).unwrap();
        assert_eq!((task.uids, task.gids), (vec![7; 4], vec![8; 4]));
        assert_eq!((task.groups, task.seccomp, task.no_new_privileges), (vec![8, 20], 2, true));
        assert_eq!((task.capabilities.bounding, task.capabilities.ambient), (0x400, 0));
        for line in STATUS.lines().filter(|line| !line.starts_with(['U', 'N', 'S'])) {
            assert_eq!(Task::parse(&STATUS.replace(line, "x"), None), None, "{line}");
        }
    }

    #[test]
    fn who_has_more_than_the_program_could_have_is_refused() {
        let nnp = process(r#","noNewPrivileges":true"#);
        let task = Task::parse(STATUS, None).unwrap();
        assert_eq!(refused(&nnp, &task), "");
        let sets = task.capabilities;
        type Sets = CapabilitySets;
        for (wider, reason) in [
            (Sets { effective: 0x401, ..sets }, "process.capabilities.effective: has more, 0x1"),
            (Sets { permitted: 0x402, ..sets }, "process.capabilities.permitted: has more, 0x2"),
            (Sets { inheritable: 1, ..sets }, "process.capabilities.inheritable: has more, 0x1"),
            (Sets { bounding: !0, ..sets }, "process.capabilities.bounding: has more"),
            (Sets { ambient: 1, ..sets }, "process.capabilities.ambient: has more, 0x1"),
        ] {
            let task = Task { capabilities: wider, ..task.clone() };
            assert!(refused(&nnp, &task).starts_with(reason), "{}", refused(&nnp, &task));
        }
        let free = Task { no_new_privileges: false, ..task.clone() };
        assert_eq!(refused(&nnp, &free), "process.noNewPrivileges: is not set");
        assert_eq!(refused(&process(""), &free), "");
        for seccomp in [0, 1] {
            let task = Task { seccomp, ..task.clone() };
            assert_eq!(refused(&nnp, &task), "linux.seccomp: has no filter");
        }
        // What is in one of the planned sets alone may be had.
        for one in [
            Sets { bounding: 0x400, ..Sets::default() },
            Sets { permitted: 0x400, ..Sets::default() },
            Sets { inheritable: 0x400, ..Sets::default() },
            Sets { permitted: 0x400, inheritable: 0x400, ..Sets::default() },
        ] {
            let process = ProcessPlan { capabilities: one, ..nnp.clone() };
            assert_eq!(refused(&process, &task), "");
        }
        // It may have given up all of it.
        let less = Task { capabilities: Sets::default(), groups: vec![], ..task };
        assert_eq!(refused(&nnp, &less), "");
    }

    #[test]
    fn other_ids_take_a_right_that_is_within_reach() {
        let task = Task::parse(STATUS, None).unwrap();
        let root = Task { uids: vec![7, 0, 7, 7], ..task.clone() };
        let wheel = Task { groups: vec![0], ..task.clone() };
        let group = Task { gids: vec![8, 8, 8, 9], ..task };
        let bare = process("");
        assert_eq!(refused(&bare, &root), "process.user.uid: is Some(0)");
        assert_eq!(refused(&bare, &wheel), "process.user.gid: is of Some(0)");
        assert_eq!(refused(&bare, &group), "process.user.gid: is of Some(9)");
        let mut able = bare;
        able.capabilities.bounding |= SETUID | SETGID;
        for task in [&root, &wheel, &group] {
            assert_eq!(refused(&able, task), "");
        }
        able.capabilities.permitted |= SETUID | SETGID;
        assert_eq!(refused(&able, &root), "");
        able.capabilities.permitted = 0;
        able.no_new_privileges = true;
        assert_ne!(refused(&able, &Task { no_new_privileges: true, ..root }), "");
    }

    #[test]
    fn ids_are_compared_as_the_host_sees_them() {
        let range = |inside, outside| vec![IdRange { inside, outside, size: 10 }];
        let maps = IdMaps { uids: range(0, 100), gids: range(0, 200) };
        let mut process = process("");
        process.user.groups.clear();
        let limits = Limits { process: &process, id_maps: Some(&maps), label: None };
        let task = Task::parse(STATUS, None).unwrap();
        let inside = Task { uids: vec![107; 4], gids: vec![208; 4], groups: vec![], ..task };
        assert!(limits.check(&inside).is_ok());
        assert!(limits.check(&Task { uids: vec![7; 4], ..inside.clone() }).is_err());
        assert!(limits.check(&Task { gids: vec![8; 4], ..inside }).is_err());
    }

    #[test]
    fn a_label_is_the_configurations_or_the_one_that_was_asked_for() {
        let mut process = process("");
        process.apparmor_profile = Some("p".into());
        let task = Task::parse(STATUS, None).unwrap();
        for (asked, label, is_good) in [
            (None, Some("p (enforce)"), true),
            (None, Some("p"), true),
            (None, Some("p//sub (enforce)"), true),
            (None, Some("pq (enforce)"), false),
            (None, Some("unconfined"), false),
            (None, None, false),
            (Some("apparmor:other"), Some("other (enforce)"), true),
            (Some("apparmor:other"), Some("p (enforce)"), false),
            (Some("selinux:p"), Some("unconfined"), false),
        ] {
            let limits = Limits { process: &process, id_maps: None, label: asked };
            let task = Task { label: label.map(str::to_owned), ..task.clone() };
            assert_eq!(limits.check(&task).is_ok(), is_good, "{asked:?} {label:?}");
        }
        process.apparmor_profile = None;
        process.selinux_label = Some("u:r:t:s0:c1".into());
        let labelled = |label: &str| Task { label: Some(label.to_owned()), ..task.clone() };
        assert_eq!(refused(&process, &labelled("u:r:t:s0:c1")), "");
        assert_ne!(refused(&process, &labelled("u:r:t:s0:c2")), "");
        let asked = Some("selinux:u:r:t:s0:c2");
        let limits = Limits { process: &process, id_maps: None, label: asked };
        assert!(limits.check(&labelled("u:r:t:s0:c2")).is_ok());
        assert!(limits.check(&labelled("u:r:t:s0:c1")).is_err());
    }
}
