//! A process that `exec` adds to a container: decided from what was typed, and from the
//! configuration and the record of the container.
//!
//! It gets every restriction that the container's own program has, unless it is told
//! otherwise: filter, capabilities, limits, groups, cgroup.

use anyhow::{Context as _, Result, bail};
use oci_spec::runtime::{
    Capabilities, Capability, LinuxCapabilities, LinuxNamespaceType as Kind, Process, Spec,
};

use super::cgroup::Group;
use super::namespaces::Namespaces;
use super::numbers::parse_id;
use super::policies::Policies;
use super::process::{Field, ProcessPlan};
use super::request::Streams;

/// A process to add.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    /// What to run.
    pub process: Wanted<'a>,
    /// Cgroups below the container's, as [`Group::below`] reads them (`--cgroup`).
    pub cgroups: &'a [String],
    /// What its descriptors are to be.
    pub streams: Streams,
}

/// What to run.
#[derive(Debug)]
pub enum Wanted<'a> {
    /// The process that a file holds (`--process`).
    File(Box<Process>),
    /// The container's own, with what was typed of it.
    Typed(&'a Typed),
}

/// A process by the command line.
#[derive(Debug, Clone, Default)]
pub struct Typed {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Another working directory than the container's.
    pub cwd: Option<String>,
    /// Variables besides the container's.
    pub env: Vec<String>,
    /// A terminal.
    pub tty: bool,
    /// `UID[:GID]`.
    pub user: Option<String>,
    /// Groups besides the container's.
    pub additional_gids: Vec<u32>,
    /// Capabilities besides the container's.
    pub capabilities: Vec<String>,
    /// Set no_new_privs.
    pub no_new_privileges: bool,
    /// Another AppArmor profile than the container's.
    pub apparmor: Option<String>,
    /// Another SELinux label than the container's.
    pub label: Option<String>,
}

/// The container that the process is added to, as far as that depends on it.
#[derive(Debug, Clone, Copy)]
pub struct Inhabited<'a> {
    /// What its config.json said when it was created.
    pub spec: &'a Spec,
    /// Its ID.
    pub id: &'a str,
    /// The namespaces that were not its creator's.
    pub namespaces: &'a [Kind],
    /// Whether its user namespace is that of the caller now.
    pub shares_user_namespace: bool,
    /// Whether it has no session keyring of its own.
    pub callers_keyring: bool,
    /// Its cgroup.
    pub group: &'a Group,
    /// Whether that is a unit of systemd's.
    pub is_unit: bool,
}

/// A process to add, as a program of kernel calls to make.
#[derive(Debug, Clone)]
pub struct ExecPlan {
    /// What it is and runs with.
    pub process: ProcessPlan,
    /// What every process of the container has besides.
    pub policies: Policies,
    /// The namespaces of the container's init that it joins.
    pub namespaces: Vec<Kind>,
    /// Whether it enters the root of init, which was entered by chroot: the container's mount
    /// namespace was not made for it.
    pub enters_root: bool,
    /// The ID of the container whose session keyring it gets.
    pub keyring: Option<String>,
    /// The group that it is put into.
    pub place: CgroupPlace,
}

/// The cgroup of a process that is added, and what takes its place where the kernel refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupPlace {
    /// The group.
    pub group: Group,
    /// Whether it was typed: then it is this one or none.
    pub is_typed: bool,
    /// Where the group may not be entered (EACCES, EPERM): systemd is asked to put it there.
    /// So it is for an ordinary user in a session of his own, since what is above both is
    /// root's.
    pub else_by_systemd: bool,
    /// Where the group takes no processes (EBUSY), because the container has made groups of
    /// its own below: the one that its init is in now.
    pub else_beside_init: bool,
}

impl ExecRequest<'_> {
    /// Whether the process is to have a terminal.
    pub fn has_terminal(&self) -> bool {
        match &self.process {
            Wanted::File(process) => process.terminal().unwrap_or(false),
            Wanted::Typed(typed) => typed.tty,
        }
    }
}

impl ExecPlan {
    /// Decides everything about a process to add.
    pub fn new(request: &ExecRequest<'_>, container: &Inhabited<'_>) -> Result<Self> {
        let Inhabited { spec, group, .. } = *container;
        let own = spec.process().as_ref();
        let mut process = choose(&request.process, own)?;
        keep_confined(&mut process, own);
        let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        let mut process = ProcessPlan::plan(&process, seccomp, Field::OWN, &request.streams)?;
        let namespaces = Namespaces::plan(spec.linux().as_ref())?;
        process.pipes_owner = namespaces.user_outside(process.user.uid);
        // A user namespace that is the caller's own cannot be joined again.
        let is_joined = |kind: &Kind| *kind != Kind::User || !container.shares_user_namespace;
        let is_typed = !request.cgroups.is_empty();
        Ok(Self {
            process,
            policies: Policies::plan(spec)?,
            namespaces: container.namespaces.iter().copied().filter(is_joined).collect(),
            enters_root: !namespaces.is_new(Kind::Mount),
            keyring: (!container.callers_keyring).then(|| container.id.to_owned()),
            place: CgroupPlace {
                group: group.below(request.cgroups).context("--cgroup")?,
                is_typed,
                else_by_systemd: container.is_unit && !is_typed,
                else_beside_init: !is_typed,
            },
        })
    }
}

/// The process that was asked for.
fn choose(wanted: &Wanted<'_>, own: Option<&Process>) -> Result<Process> {
    match wanted {
        Wanted::File(process) => {
            let mut process = Process::clone(process);
            if process.exec_cpu_affinity().is_none() {
                process.set_exec_cpu_affinity(own.and_then(|own| own.exec_cpu_affinity().clone()));
            }
            Ok(process)
        }
        Wanted::Typed(typed) => {
            let Some(own) = own else {
                bail!("process: missing: the container has none to take the rest from")
            };
            typed.over(own)
        }
    }
}

impl Typed {
    /// The container's own process with what was typed.
    fn over(&self, own: &Process) -> Result<Process> {
        let mut process = own.clone();
        process.set_args(Some(self.args.clone()));
        process.set_terminal(Some(self.tty));
        if let Some(cwd) = &self.cwd {
            process.set_cwd(cwd.into());
        }
        process.env_mut().get_or_insert_default().extend(self.env.iter().cloned());
        if let Some(user) = &self.user {
            let (uid, gid) = parse_user(user).with_context(|| format!("--user: {user:?}"))?;
            process.user_mut().set_uid(uid);
            if let Some(gid) = gid {
                process.user_mut().set_gid(gid);
            }
        }
        if !self.additional_gids.is_empty() {
            let mut groups = process.user().additional_gids().clone().unwrap_or_default();
            groups.extend(&self.additional_gids);
            process.user_mut().set_additional_gids(Some(groups));
        }
        if self.no_new_privileges {
            process.set_no_new_privileges(Some(true));
        }
        if self.apparmor.is_some() {
            process.set_apparmor_profile(self.apparmor.clone());
        }
        if self.label.is_some() {
            process.set_selinux_label(self.label.clone());
        }
        add_capabilities(&mut process, &self.capabilities)?;
        Ok(process)
    }
}

/// Gives the process the label and the profile of the container where it names none of its
/// own: without, it would have those of the runtime.
fn keep_confined(process: &mut Process, container: Option<&Process>) {
    let Some(container) = container else { return };
    let is_missing = |text: &Option<String>| text.as_ref().is_none_or(String::is_empty);
    if is_missing(process.selinux_label()) {
        process.set_selinux_label(container.selinux_label().clone());
    }
    if is_missing(process.apparmor_profile()) {
        process.set_apparmor_profile(container.apparmor_profile().clone());
    }
}

/// `UID[:GID]`.
fn parse_user(text: &str) -> Result<(u32, Option<u32>)> {
    match text.split_once(':') {
        Some((uid, gid)) => Ok((parse_id(uid)?, Some(parse_id(gid)?))),
        None => Ok((parse_id(text)?, None)),
    }
}

/// As runc: into the sets that the program itself has. What it starts inherits what the
/// container says and no more, so one is ambient only where it is inheritable already.
fn add_capabilities(process: &mut Process, names: &[String]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let mut added = Vec::new();
    for name in names {
        let capability: Capability = serde_json::from_value(name.as_str().into())
            .ok()
            .with_context(|| format!("--cap: {name:?}: not the name of a capability"))?;
        added.push(capability);
    }
    let mut sets = process.capabilities().clone().unwrap_or_else(empty_capabilities);
    let with = |set: &Option<Capabilities>| {
        let mut set = set.clone().unwrap_or_default();
        set.extend(added.iter().copied());
        Some(set)
    };
    sets.set_bounding(with(sets.bounding()));
    sets.set_effective(with(sets.effective()));
    sets.set_permitted(with(sets.permitted()));
    let inheritable = sets.inheritable().clone().unwrap_or_default();
    let mut ambient = sets.ambient().clone().unwrap_or_default();
    ambient.extend(added.iter().filter(|capability| inheritable.contains(capability)));
    sets.set_ambient(Some(ambient));
    process.set_capabilities(Some(sets));
    Ok(())
}

fn empty_capabilities() -> LinuxCapabilities {
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(None)
        .set_effective(None)
        .set_inheritable(None)
        .set_permitted(None)
        .set_ambient(None);
    sets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_a_label_or_profile_has_those_of_the_container() {
        let process = |label: Option<&str>, profile: Option<&str>| {
            let mut process = Process::default();
            process.set_selinux_label(label.map(str::to_owned));
            process.set_apparmor_profile(profile.map(str::to_owned));
            process
        };
        let kept = |mut own: Process, container: Option<&Process>| {
            keep_confined(&mut own, container);
            (own.selinux_label().clone(), own.apparmor_profile().clone())
        };
        let texts = |label: &str, profile: &str| (Some(label.to_owned()), Some(profile.to_owned()));
        let container = process(Some("l"), Some("p"));
        assert_eq!(kept(process(None, None), Some(&container)), texts("l", "p"));
        assert_eq!(kept(process(Some(""), Some("")), Some(&container)), texts("l", "p"));
        assert_eq!(kept(process(Some("own"), None), Some(&container)), texts("own", "p"));
        assert_eq!(kept(process(None, Some("own")), Some(&container)), texts("l", "own"));
        assert_eq!(kept(process(Some("own"), None), None), (Some("own".to_owned()), None));
    }

    #[test]
    fn users_are_numbers_and_nothing_else() {
        assert_eq!(parse_user("0").unwrap(), (0, None));
        assert_eq!(parse_user("1000:5").unwrap(), (1000, Some(5)));
        for wrong in ["", "root", "-1", "+1", " 1", "1:", ":1", "4294967296", "4294967295", "1:2:3"]
        {
            assert!(parse_user(wrong).is_err(), "{wrong}");
        }
    }

    fn spec(linux: &str) -> Spec {
        let json = format!(
            r#"{{"root":{{"path":"r"}},"linux":{{{linux}}},"process":{{"args":["own"],"cwd":"/c",
            "env":["A=1","B=1"],"noNewPrivileges":true,"execCPUAffinity":{{"final":"0"}},
            "user":{{"uid":5,"gid":6,"additionalGids":[7]}},
            "capabilities":{{"bounding":["CAP_KILL"],"inheritable":["CAP_CHOWN"]}}}}}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    fn inhabited<'a>(spec: &'a Spec, group: &'a Group) -> Inhabited<'a> {
        Inhabited {
            spec,
            id: "c",
            namespaces: &[Kind::Pid, Kind::User],
            shares_user_namespace: false,
            callers_keyring: false,
            group,
            is_unit: false,
        }
    }

    fn request<'a>(process: Wanted<'a>, cgroups: &'a [String]) -> ExecRequest<'a> {
        ExecRequest { process, cgroups, streams: Streams::default() }
    }

    #[test]
    fn what_is_typed_is_laid_over_the_containers_own_process() {
        let (spec, group) = (spec(""), Group::default());
        let typed = Typed {
            args: vec!["new".into()],
            env: vec!["B=2".into()],
            user: Some("8".into()),
            additional_gids: vec![9],
            capabilities: vec!["CAP_CHOWN".into()],
            ..Typed::default()
        };
        let plan = ExecPlan::new(&request(Wanted::Typed(&typed), &[]), &inhabited(&spec, &group));
        let process = plan.unwrap().process;
        assert_eq!(process.args, [c"new".to_owned()]);
        assert_eq!(process.env, [c"A=1".to_owned(), c"B=2".to_owned()]);
        assert_eq!((process.user.uid, process.user.gid), (8, 6));
        assert_eq!(process.user.groups, [7, 9]);
        assert_eq!((process.cwd.to_str(), process.no_new_privileges), (Some("/c"), true));
        assert_eq!((process.capabilities.bounding, process.capabilities.ambient), (0x21, 1));
    }

    #[test]
    fn a_capability_is_added_to_what_is_there_and_to_nothing_else() {
        let mut bare = spec("");
        let mut own = bare.process().clone().unwrap();
        own.set_capabilities(None);
        bare.set_process(Some(own));
        let typed = Typed {
            args: vec!["a".into()],
            capabilities: vec!["CAP_CHOWN".into()],
            ..Typed::default()
        };
        let group = Group::default();
        let plan = ExecPlan::new(&request(Wanted::Typed(&typed), &[]), &inhabited(&bare, &group));
        let found = plan.unwrap().process.capabilities;
        assert_eq!((found.bounding, found.effective, found.permitted), (1, 1, 1));
        assert_eq!((found.inheritable, found.ambient), (0, 0));
        let wrong = Typed { capabilities: vec!["CAP_BOGUS".into()], ..typed };
        let error = ExecPlan::new(&request(Wanted::Typed(&wrong), &[]), &inhabited(&bare, &group));
        assert_eq!(
            error.unwrap_err().to_string(),
            "--cap: \"CAP_BOGUS\": not the name of a capability"
        );
    }

    #[test]
    fn a_terminal_is_asked_for_by_the_file_or_by_hand() {
        let of_file = |terminal: &str| {
            let file =
                format!(r#"{{"args":["a"],"cwd":"/","user":{{"uid":0,"gid":0}}{terminal}}}"#);
            let wanted = Wanted::File(serde_json::from_str(&file).unwrap());
            request(wanted, &[]).has_terminal()
        };
        let by_hand = |tty| {
            let typed = Typed { tty, ..Typed::default() };
            request(Wanted::Typed(&typed), &[]).has_terminal()
        };
        assert!(of_file(r#","terminal":true"#) && by_hand(true));
        assert!(!of_file(r#","terminal":false"#) && !of_file("") && !by_hand(false));
    }

    #[test]
    fn a_file_is_taken_as_it_is_but_for_the_processors_of_the_container() {
        let (spec, group) = (spec(""), Group::default());
        let file = r#"{"args":["of"],"cwd":"/","user":{"uid":0,"gid":0}}"#;
        let wanted = Wanted::File(serde_json::from_str(file).unwrap());
        let plan = ExecPlan::new(&request(wanted, &[]), &inhabited(&spec, &group)).unwrap();
        assert_eq!(
            plan.process.exec_affinity.last,
            crate::plan::process::Processors::These(vec![1])
        );
        assert!(plan.process.env.is_empty() && !plan.process.no_new_privileges);
    }

    #[test]
    fn what_is_joined_is_what_the_caller_is_not_in() {
        let (spec, group) = (spec(r#""namespaces":[{"type":"mount"}]"#), Group::default());
        let typed = Typed { args: vec!["a".into()], ..Typed::default() };
        let plan = |shares_user_namespace, callers_keyring| {
            let inhabited =
                Inhabited { shares_user_namespace, callers_keyring, ..inhabited(&spec, &group) };
            ExecPlan::new(&request(Wanted::Typed(&typed), &[]), &inhabited).unwrap()
        };
        assert_eq!(plan(false, false).namespaces, [Kind::Pid, Kind::User]);
        assert_eq!(plan(true, false).namespaces, [Kind::Pid]);
        assert_eq!(plan(false, false).keyring.as_deref(), Some("c"));
        assert_eq!(plan(false, true).keyring, None);
        assert!(!plan(false, false).enters_root);
        let bare = self::spec("");
        let inhabited = inhabited(&bare, &group);
        let plan = ExecPlan::new(&request(Wanted::Typed(&typed), &[]), &inhabited).unwrap();
        assert!(plan.enters_root);
    }

    #[test]
    fn a_group_that_was_typed_has_nothing_in_its_place() {
        let (spec, group) = (spec(""), Group::default());
        let typed = Typed { args: vec!["a".into()], ..Typed::default() };
        for (cgroups, is_unit, expected) in [
            (vec![], false, (false, false, true)),
            (vec![], true, (false, true, true)),
            (vec!["below".to_owned()], true, (true, false, false)),
        ] {
            let inhabited = Inhabited { is_unit, ..inhabited(&spec, &group) };
            let place = ExecPlan::new(&request(Wanted::Typed(&typed), &cgroups), &inhabited);
            let CgroupPlace { is_typed, else_by_systemd, else_beside_init, .. } =
                place.unwrap().place;
            assert_eq!((is_typed, else_by_systemd, else_beside_init), expected, "{cgroups:?}");
        }
    }
}
