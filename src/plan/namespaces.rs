//! `linux.namespaces`, the id mappings and the time offsets: what to make new,
//! what to join, and which combinations cannot be had.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Result, bail};
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType as Kind};

/// The namespaces of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Made new with the init process, in the order of the configuration.
    pub new: Vec<Kind>,
    /// Joined by path.
    pub joined: Vec<Join>,
    /// The lines of uid_map and gid_map of a new user namespace.
    pub id_maps: Option<IdMaps>,
    /// The text of timens_offsets for a new time namespace, empty for none.
    pub time_offsets: String,
}

/// A namespace to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// Its type, which the file at `path` must have.
    pub kind: Kind,
    /// A bind-mounted namespace or a /proc/PID/ns entry.
    pub path: PathBuf,
    /// `linux.namespaces[n].path`.
    pub field: String,
}

/// The mappings of a new user namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMaps {
    /// Ranges of user ids.
    pub uids: Vec<IdRange>,
    /// Ranges of group ids.
    pub gids: Vec<IdRange>,
}

/// One line of uid_map or gid_map (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first id inside.
    pub inside: u32,
    /// The first id outside.
    pub outside: u32,
    /// How many ids.
    pub size: u32,
}

impl IdMaps {
    /// What a user id inside is outside, if it is mapped.
    pub fn user_outside(&self, inside: u32) -> Option<u32> {
        self.uids.iter().find_map(|range| range.outside_of(inside))
    }
}

impl IdRange {
    /// What an id inside is outside, if it is of this range.
    pub fn outside_of(&self, inside: u32) -> Option<u32> {
        let offset = inside.checked_sub(self.inside).filter(|offset| *offset < self.size)?;
        self.outside.checked_add(offset)
    }
}

impl Namespaces {
    /// Plans the namespaces of a container.
    pub fn plan(linux: Option<&Linux>) -> Result<Self> {
        let mut planned = Self::default();
        let Some(linux) = linux else { return Ok(planned) };
        for (at, namespace) in linux.namespaces().iter().flatten().enumerate() {
            let kind = namespace.typ();
            let field = format!("linux.namespaces[{at}]");
            if planned.has(kind) {
                bail!("{field}: \"{}\" is given twice", name(kind));
            }
            match namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
                None => planned.new.push(kind),
                Some(path) if !path.is_absolute() => bail!("{field}.path: {path:?}: not absolute"),
                Some(path) => planned.joined.push(Join {
                    kind,
                    path: path.clone(),
                    field: format!("{field}.path"),
                }),
            }
        }
        planned.plan_id_maps(linux)?;
        planned.plan_time_offsets(linux)?;
        planned.refuse_combinations()?;
        Ok(planned)
    }

    fn plan_id_maps(&mut self, linux: &Linux) -> Result<()> {
        let uids = id_ranges(linux.uid_mappings(), "linux.uidMappings")?;
        let gids = id_ranges(linux.gid_mappings(), "linux.gidMappings")?;
        if self.is_new(Kind::User) {
            for (ranges, field) in [(&uids, "linux.uidMappings"), (&gids, "linux.gidMappings")] {
                if ranges.is_empty() {
                    bail!("{field}: missing, and a new user namespace needs them");
                }
            }
            self.id_maps = Some(IdMaps { uids, gids });
        } else if !(self.has(Kind::User) || uids.is_empty() && gids.is_empty()) {
            bail!("linux.uidMappings: given without a user namespace in linux.namespaces");
        }
        Ok(())
    }

    fn plan_time_offsets(&mut self, linux: &Linux) -> Result<()> {
        let Some(offsets) = linux.time_offsets() else { return Ok(()) };
        if offsets.is_empty() {
            return Ok(());
        }
        if !self.is_new(Kind::Time) {
            bail!("linux.timeOffsets: given without a new time namespace in linux.namespaces");
        }
        let mut clocks: Vec<_> = offsets.iter().collect();
        clocks.sort_by_key(|(clock, _)| clock.as_str());
        for (clock, offset) in clocks {
            if !matches!(clock.as_str(), "monotonic" | "boottime") {
                bail!("linux.timeOffsets: {clock:?}: neither monotonic nor boottime");
            }
            let nanoseconds = offset.nanosecs().unwrap_or(0);
            if nanoseconds >= 1_000_000_000 {
                bail!("linux.timeOffsets.{clock}.nanosecs: {nanoseconds}: a second or more");
            }
            let seconds = offset.secs().unwrap_or(0);
            self.time_offsets.push_str(&format!("{clock} {seconds} {nanoseconds}\n"));
        }
        Ok(())
    }

    fn refuse_combinations(&self) -> Result<()> {
        if self.is_new(Kind::User)
            && let Some(join) = self.joined.iter().find(|join| join.kind == Kind::Mount)
        {
            bail!(
                "{}: a mount namespace that a new user namespace does not own cannot be joined",
                join.field
            );
        }
        Ok(())
    }

    /// What a user id inside of a new user namespace is outside, if it is mapped.
    pub fn user_outside(&self, inside: u32) -> Option<u32> {
        self.id_maps.as_ref()?.user_outside(inside)
    }

    /// Whether a namespace of this type is made or joined; else the caller's is kept.
    pub fn has(&self, kind: Kind) -> bool {
        self.is_new(kind) || self.is_joined(kind)
    }

    /// Whether a namespace of this type is joined.
    pub fn is_joined(&self, kind: Kind) -> bool {
        self.joined.iter().any(|join| join.kind == kind)
    }

    /// Whether the container is prepared by a process outside of its pid namespace, which
    /// then makes init. Others live in a joined one: they would see init at work, with the
    /// host's files and the caller's rights.
    pub fn is_prepared_outside(&self) -> bool {
        self.is_joined(Kind::Pid)
    }

    /// Whether the creator writes the time offsets into a namespace that another process has
    /// made. Else he makes it himself, for his children, but for one of a joined user namespace.
    pub fn gets_offsets(&self) -> bool {
        !self.time_offsets.is_empty()
            && !self.is_joined(Kind::User)
            && (self.is_new(Kind::User) || self.is_prepared_outside())
    }

    /// The time offsets that are written by whoever joins the user namespace: an ordinary user
    /// can make a time namespace only inside of it.
    pub fn own_offsets(&self) -> Option<&str> {
        let own = !self.time_offsets.is_empty() && self.is_joined(Kind::User);
        own.then_some(&self.time_offsets)
    }

    /// Whether the creator must be told that the namespaces are there which he writes to: they
    /// are not made by his own clone.
    pub fn announces(&self) -> bool {
        self.gets_offsets() || (self.is_prepared_outside() && self.id_maps.is_some())
    }

    /// Whether a namespace of this type is made.
    pub fn is_new(&self, kind: Kind) -> bool {
        self.new.contains(&kind)
    }
}

/// The CLONE_NEW* flag of a type.
pub fn clone_flag(kind: Kind) -> u64 {
    kind as u64
}

/// The spec's name of a type.
pub fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Mount => "mount",
        Kind::Cgroup => "cgroup",
        Kind::Uts => "uts",
        Kind::Ipc => "ipc",
        Kind::User => "user",
        Kind::Pid => "pid",
        Kind::Network => "network",
        Kind::Time => "time",
    }
}

/// The name of a type below /proc/PID/ns (namespaces(7)).
pub fn proc_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Mount => "mnt",
        Kind::Network => "net",
        other => name(other),
    }
}

/// Reads the list of mappings that `field` names.
pub fn id_ranges(
    mappings: &Option<Vec<LinuxIdMapping>>,
    field: impl fmt::Display,
) -> Result<Vec<IdRange>> {
    let mut ranges: Vec<IdRange> = Vec::new();
    for (at, mapping) in mappings.iter().flatten().enumerate() {
        let range = IdRange {
            inside: mapping.container_id(),
            outside: mapping.host_id(),
            size: mapping.size(),
        };
        if range.size == 0 {
            bail!("{field}[{at}].size: 0");
        }
        for (first, what) in [(range.inside, "containerID"), (range.outside, "hostID")] {
            if first.checked_add(range.size).is_none() {
                bail!("{field}[{at}].{what}: {first} and {} ids: past the last id", range.size);
            }
        }
        let overlaps = |a: u32, b: u32, other: &IdRange| a < b + other.size && b < a + range.size;
        if let Some(other) = ranges.iter().position(|other| {
            overlaps(range.inside, other.inside, other)
                || overlaps(range.outside, other.outside, other)
        }) {
            bail!("{field}[{at}]: overlaps [{other}]");
        }
        ranges.push(range);
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Result<Namespaces> {
        Namespaces::plan(Some(&serde_json::from_str(json).unwrap()))
    }

    #[test]
    fn new_and_joined_namespaces_are_told_apart() {
        let planned = plan(
            r#"{"namespaces":[{"type":"pid"},{"type":"network","path":"/run/netns/a"},{"type":"ipc","path":""}]}"#,
        )
        .unwrap();
        assert_eq!(planned.new, [Kind::Pid, Kind::Ipc]);
        assert_eq!(
            planned.joined,
            [Join {
                kind: Kind::Network,
                path: "/run/netns/a".into(),
                field: "linux.namespaces[1].path".into()
            }]
        );
        assert!(planned.has(Kind::Network) && !planned.has(Kind::Mount));
    }

    #[test]
    fn what_cannot_be_had_is_refused_by_its_field() {
        for (json, reason) in [
            (
                r#"{"namespaces":[{"type":"pid"},{"type":"pid"}]}"#,
                r#"linux.namespaces[1]: "pid" is given twice"#,
            ),
            (
                r#"{"namespaces":[{"type":"pid","path":"ns"}]}"#,
                r#"linux.namespaces[0].path: "ns": not absolute"#,
            ),
            (
                r#"{"namespaces":[{"type":"user"}]}"#,
                "linux.uidMappings: missing, and a new user namespace needs them",
            ),
            (
                r#"{"namespaces":[{"type":"user"}],"uidMappings":[{"containerID":0,"hostID":0,"size":1}]}"#,
                "linux.gidMappings: missing, and a new user namespace needs them",
            ),
            (
                r#"{"uidMappings":[{"containerID":0,"hostID":0,"size":1}]}"#,
                "linux.uidMappings: given without a user namespace in linux.namespaces",
            ),
            (
                r#"{"namespaces":[{"type":"user"}],"uidMappings":[{"containerID":4294967295,"hostID":0,"size":2}]}"#,
                "linux.uidMappings[0].containerID: 4294967295 and 2 ids: past the last id",
            ),
            (
                r#"{"namespaces":[{"type":"user"}],"uidMappings":[{"containerID":0,"hostID":0,"size":5},{"containerID":4,"hostID":9,"size":1}]}"#,
                "linux.uidMappings[1]: overlaps [0]",
            ),
            (
                r#"{"timeOffsets":{"monotonic":{"secs":1}}}"#,
                "linux.timeOffsets: given without a new time namespace in linux.namespaces",
            ),
            (
                r#"{"namespaces":[{"type":"time"}],"timeOffsets":{"realtime":{"secs":1}}}"#,
                r#"linux.timeOffsets: "realtime": neither monotonic nor boottime"#,
            ),
            (
                r#"{"namespaces":[{"type":"user"},{"type":"mount","path":"/m"}],"uidMappings":[{"containerID":0,"hostID":0,"size":1}],"gidMappings":[{"containerID":0,"hostID":0,"size":1}]}"#,
                "linux.namespaces[1].path: a mount namespace that a new user namespace does not own cannot be joined",
            ),
        ] {
            assert_eq!(format!("{:#}", plan(json).unwrap_err()), reason, "{json}");
        }
    }

    #[test]
    fn an_id_inside_is_one_outside_if_a_range_has_it() {
        let range = IdRange { inside: 10, outside: 1000, size: 3 };
        for (inside, outside) in
            [(9, None), (10, Some(1000)), (12, Some(1002)), (13, None), (u32::MAX, None)]
        {
            assert_eq!(range.outside_of(inside), outside, "{inside}");
        }
        let last = IdRange { inside: 0, outside: u32::MAX - 1, size: 1 };
        assert_eq!(last.outside_of(0), Some(u32::MAX - 1));
    }

    #[test]
    fn ranges_may_touch_but_not_overlap_on_either_side() {
        let plan = |ranges: &[(u32, u32, u32)]| {
            let ranges: Vec<_> = ranges
                .iter()
                .map(|(inside, outside, size)| {
                    serde_json::json!({"containerID": inside, "hostID": outside, "size": size})
                })
                .collect();
            let mappings = serde_json::from_value(ranges.into()).unwrap();
            id_ranges(&mappings, "m").map(|ranges| ranges.len()).map_err(|e| e.to_string())
        };
        let second_overlaps = Err("m[1]: overlaps [0]".to_owned());
        assert_eq!(plan(&[(0, 100, 10), (10, 110, 10), (20, 90, 10)]), Ok(3));
        for other in [(9, 200, 1), (9, 200, 5), (0, 200, 1), (20, 109, 1), (20, 91, 10)] {
            assert_eq!(plan(&[(0, 100, 10), other]), second_overlaps, "{other:?}");
        }
        assert_eq!(plan(&[(0, 0, u32::MAX)]), Ok(1));
        assert!(plan(&[(1, 0, u32::MAX)]).is_err());
    }

    #[test]
    fn each_type_has_its_flag_and_its_two_names() {
        // linux/sched.h
        for (kind, flag, of_spec, of_proc) in [
            (Kind::Time, 0x0000_0080, "time", "time"),
            (Kind::Mount, 0x0002_0000, "mount", "mnt"),
            (Kind::Cgroup, 0x0200_0000, "cgroup", "cgroup"),
            (Kind::Uts, 0x0400_0000, "uts", "uts"),
            (Kind::Ipc, 0x0800_0000, "ipc", "ipc"),
            (Kind::User, 0x1000_0000, "user", "user"),
            (Kind::Pid, 0x2000_0000, "pid", "pid"),
            (Kind::Network, 0x4000_0000, "network", "net"),
        ] {
            assert_eq!((clone_flag(kind), name(kind), proc_name(kind)), (flag, of_spec, of_proc));
        }
    }

    #[test]
    fn time_offsets_are_one_line_a_clock() {
        let planned = plan(
            r#"{"namespaces":[{"type":"time"}],"timeOffsets":{"monotonic":{"secs":7,"nanosecs":5},"boottime":{"secs":-1}}}"#,
        )
        .unwrap();
        assert_eq!(planned.time_offsets, "boottime -1 0\nmonotonic 7 5\n");
    }

    #[test]
    fn time_offsets_are_written_by_whoever_may_and_can() {
        const MAPS: &str = r#","uidMappings":[{"containerID":0,"hostID":1,"size":1}],
            "gidMappings":[{"containerID":0,"hostID":1,"size":1}]"#;
        const OFFSETS: &str = r#","timeOffsets":{"boottime":{"secs":1}}"#;
        let new = |kind: &str| format!(r#",{{"type":"{kind}"}}"#);
        let joined = |kind: &str| format!(r#",{{"type":"{kind}","path":"/p"}}"#);
        for (others, maps, creator, own, announces) in [
            (String::new(), "", false, false, false),
            (joined("pid"), "", true, false, true),
            (new("user"), MAPS, true, false, true),
            (joined("user"), "", false, true, false),
            (joined("user") + &joined("pid"), "", false, true, false),
        ] {
            let of = |offsets: &str| {
                let namespaces = format!(r#""namespaces":[{{"type":"time"}}{others}]"#);
                let planned = plan(&format!("{{{namespaces}{maps}{offsets}}}")).unwrap();
                (planned.gets_offsets(), planned.own_offsets().is_some(), planned.announces())
            };
            assert_eq!(of(OFFSETS), (creator, own, announces), "{others}");
            assert_eq!(of(""), (false, false, false), "{others}");
        }
    }
}
