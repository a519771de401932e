//! Which devices a container may open or make: `linux.resources.devices` and
//! the runtime's own defaults, reduced to the shortest list with the same
//! meaning, and then written out for cgroup v1.
//!
//! The list means: nothing is allowed at first, and for each kind of access the
//! last rule that matches decides. cgroup v1 cannot express every such list; one
//! that it cannot is refused here, never weakened.

use std::fmt;

use anyhow::{Result, bail, ensure};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use serde::{Deserialize, Serialize};

use crate::error::InField;
use crate::plan::numbers;

/// The kind of a device node. The numbers are `BPF_DEVCG_DEV_*` of linux/bpf.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A block device.
    Block = 1,
    /// A character device.
    Char = 2,
}

/// Kinds of access as a set of bits, `BPF_DEVCG_ACC_*` of linux/bpf.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceAccess(pub u32);

impl DeviceAccess {
    /// To make a node.
    pub const MKNOD: Self = Self(1);
    /// To open for reading.
    pub const READ: Self = Self(2);
    /// To open for writing.
    pub const WRITE: Self = Self(4);
    /// All three.
    pub const ALL: Self = Self(7);
}

/// One rule. No number means every number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Whether what matches is allowed or denied.
    pub allow: bool,
    /// The kind of node.
    pub kind: Kind,
    /// The major number.
    pub major: Option<u32>,
    /// The minor number.
    pub minor: Option<u32>,
    /// What the rule is about; never empty.
    pub access: DeviceAccess,
}

/// `c 1:3 rwm`, as devices.allow and devices.deny of cgroup v1 take it.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        f.write_str(if self.kind == Kind::Char { "c " } else { "b " })?;
        write!(f, "{}:{} {}", number(self.major), number(self.minor), self.access)
    }
}

/// `rwm`, or what of it is set.
impl fmt::Display for DeviceAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in [(Self::READ, "r"), (Self::WRITE, "w"), (Self::MKNOD, "m")] {
            if self.0 & bit.0 != 0 {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

impl Rule {
    fn same_nodes(&self, other: &Self) -> bool {
        (self.kind, self.major, self.minor) == (other.kind, other.major, other.minor)
    }

    /// Whether some access to some node is matched by both.
    fn overlaps(&self, other: &Self) -> bool {
        let meet = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        self.kind == other.kind
            && self.access.0 & other.access.0 != 0
            && meet(self.major, other.major)
            && meet(self.minor, other.minor)
    }

    /// Whether every access to every node that `other` matches is matched by `self`.
    fn covers(&self, other: &Self) -> bool {
        let holds = |a: Option<u32>, b: Option<u32>| a.is_none() || a == b;
        self.kind == other.kind
            && other.access.0 & !self.access.0 == 0
            && holds(self.major, other.major)
            && holds(self.minor, other.minor)
    }
}

/// What decides about devices: `default_allow`, unless a rule matches; of those
/// that match the last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceList {
    /// What holds where no rule matches.
    pub default_allow: bool,
    /// In order. None of them repeats what holds without it.
    pub rules: Vec<Rule>,
}

/// What every container may do besides what its configuration allows: make any
/// node, and use the default devices (config-linux.md, "Default Devices"), its
/// terminals and their multiplexer. /dev/console is one of those terminals. What makes
/// tunnels, /dev/net/tun, is among them because VPNs in containers count on it, as under
/// runc: an interface belongs to the container's own network.
const DEFAULTS: [Rule; 11] = {
    const fn node(major: u32, minor: Option<u32>) -> Rule {
        Rule { allow: true, kind: Kind::Char, major: Some(major), minor, access: DeviceAccess::ALL }
    }
    const fn mknod(kind: Kind) -> Rule {
        Rule { allow: true, kind, major: None, minor: None, access: DeviceAccess::MKNOD }
    }
    [
        mknod(Kind::Char),
        mknod(Kind::Block),
        node(1, Some(3)),    // null
        node(1, Some(5)),    // zero
        node(1, Some(7)),    // full
        node(1, Some(8)),    // random
        node(1, Some(9)),    // urandom
        node(5, Some(0)),    // tty
        node(5, Some(2)),    // ptmx
        node(136, None),     // pts
        node(10, Some(200)), // tun
    ]
};

impl DeviceList {
    /// The configuration's rules behind a denial of everything, and the
    /// defaults behind both, unless the configuration ends by allowing all.
    ///
    /// Errors name `linux.resources.devices[i]`.
    pub fn new(rules: &[LinuxDeviceCgroup], for_v1: bool) -> Result<Self> {
        let mut list = Self { default_allow: false, rules: Vec::new() };
        for (index, rule) in rules.iter().enumerate() {
            list.append(rule, for_v1, &format!("linux.resources.devices[{index}]"))?;
        }
        if !list.default_allow {
            for rule in DEFAULTS {
                if !list.holds(&rule) {
                    list.rules.push(rule);
                }
            }
        }
        Ok(list)
    }

    fn append(&mut self, rule: &LinuxDeviceCgroup, for_v1: bool, field: &str) -> Result<()> {
        let allow = rule.allow();
        let (major, minor) = (
            number(rule.major(), numbers::major).in_field(format_args!("{field}.major"))?,
            number(rule.minor(), numbers::minor).in_field(format_args!("{field}.minor"))?,
        );
        let access = access(rule.access().as_deref()).in_field(format_args!("{field}.access"))?;
        let kinds: &[Kind] = match rule.typ().unwrap_or_default() {
            LinuxDeviceType::A => &[Kind::Char, Kind::Block],
            LinuxDeviceType::C => &[Kind::Char],
            LinuxDeviceType::B => &[Kind::Block],
            other => bail!("{field}.type: {:?} is none of a, b and c", other.as_str()),
        };
        if kinds.len() == 2 && major.is_none() && minor.is_none() && access == DeviceAccess::ALL {
            // All that came before is void.
            *self = Self { default_allow: allow, rules: Vec::new() };
            return Ok(());
        }
        for &kind in kinds {
            let rule = Rule { allow, kind, major, minor, access };
            if self.holds(&rule) {
                continue;
            }
            if for_v1 {
                self.check_v1(&rule).in_field(field)?;
            }
            self.rules.push(rule);
        }
        Ok(())
    }

    /// Whether all that `rule` says holds without it.
    fn holds(&self, rule: &Rule) -> bool {
        for earlier in self.rules.iter().rev().filter(|earlier| earlier.overlaps(rule)) {
            if earlier.allow != rule.allow {
                return false;
            }
            if earlier.covers(rule) {
                return true;
            }
        }
        rule.allow == self.default_allow
    }

    /// cgroup v1 holds a default and exceptions to it. A rule that agrees with
    /// the default can only take back an exception for the very same numbers
    /// (security/device_cgroup.c, dev_exception_rm); for any other it is
    /// accepted and has no effect.
    fn check_v1(&self, rule: &Rule) -> Result<()> {
        if rule.allow != self.default_allow {
            return Ok(());
        }
        for earlier in self.rules.iter().filter(|earlier| earlier.allow != rule.allow) {
            ensure!(
                !earlier.overlaps(rule) || earlier.same_nodes(rule),
                "cgroup v1 cannot {} {rule} after it was told to {} {earlier}",
                verb(rule.allow),
                verb(earlier.allow),
            );
        }
        Ok(())
    }

    /// What to write for cgroup v1, in order: file and value.
    pub fn v1_writes(&self) -> impl Iterator<Item = (&'static str, String)> + '_ {
        let file = |allow| if allow { "devices.allow" } else { "devices.deny" };
        let reset = (file(self.default_allow), "a".to_owned());
        let rules = self.rules.iter().map(move |rule| (file(rule.allow), rule.to_string()));
        std::iter::once(reset).chain(rules)
    }
}

fn verb(allow: bool) -> &'static str {
    if allow { "allow" } else { "deny" }
}

/// Engines write -1 as well as nothing for "every number".
fn number(value: Option<i64>, check: fn(i64) -> Result<u32>) -> Result<Option<u32>> {
    value.filter(|value| *value != -1).map(check).transpose()
}

/// No access means all of it, as with the other properties of a rule. Other letters are
/// passed over, as by other runtimes, unless there is nothing but them.
fn access(letters: Option<&str>) -> Result<DeviceAccess> {
    let letters = letters.unwrap_or_default();
    let bit = |letter: char| match letter {
        'r' => DeviceAccess::READ.0,
        'w' => DeviceAccess::WRITE.0,
        'm' => DeviceAccess::MKNOD.0,
        _ => 0,
    };
    let access = DeviceAccess(letters.chars().map(bit).fold(0, |a, b| a | b));
    ensure!(access.0 != 0 || letters.is_empty(), "{letters:?} holds none of r, w and m");
    Ok(if access.0 == 0 { DeviceAccess::ALL } else { access })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(json: &str, for_v1: bool) -> Result<DeviceList> {
        DeviceList::new(&serde_json::from_str::<Vec<_>>(json).unwrap(), for_v1)
    }

    fn v1(json: &str) -> Vec<String> {
        let writes = list(json, true).unwrap();
        writes.v1_writes().map(|(file, value)| format!("{file} {value}")).collect()
    }

    const DEFAULT_LINES: [&str; 11] = [
        "devices.allow c *:* m",
        "devices.allow b *:* m",
        "devices.allow c 1:3 rwm",
        "devices.allow c 1:5 rwm",
        "devices.allow c 1:7 rwm",
        "devices.allow c 1:8 rwm",
        "devices.allow c 1:9 rwm",
        "devices.allow c 5:0 rwm",
        "devices.allow c 5:2 rwm",
        "devices.allow c 136:* rwm",
        "devices.allow c 10:200 rwm",
    ];

    #[test]
    fn everything_is_denied_even_where_the_configuration_says_nothing() {
        for json in ["[]", r#"[{"allow":false}]"#, r#"[{"allow":false,"access":"rwm"}]"#] {
            let writes = v1(json);
            assert_eq!(writes[0], "devices.deny a", "{json}");
            assert_eq!(writes[1..], DEFAULT_LINES, "{json}");
        }
    }

    #[test]
    fn rules_of_the_configuration_come_first_and_in_their_order() {
        let writes = v1(r#"[{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"},
            {"allow":true,"type":"b","major":8,"minor":20,"access":"rw"},
            {"allow":true,"type":"b","major":10,"minor":200,"access":"r"}]"#);
        assert_eq!(
            writes[..4],
            [
                "devices.deny a",
                "devices.allow c 10:229 rw",
                "devices.allow b 8:20 rw",
                "devices.allow b 10:200 r"
            ]
        );
        assert_eq!(writes[4..], DEFAULT_LINES);
    }

    #[test]
    fn dockers_list_loses_what_a_later_reset_makes_void_and_what_is_said_twice() {
        let half = r#"{"allow":false,"access":"rwm"},
            {"allow":true,"type":"c","major":1,"minor":5,"access":"rwm"},
            {"allow":true,"type":"c","major":5,"minor":1,"access":"rwm"},
            {"allow":false,"type":"c","major":10,"minor":229,"access":"rwm"}"#;
        let writes = v1(&format!(
            r#"[{half},{half},{{"allow":true,"type":"c","major":1,"minor":5,"access":"rwm"}}]"#
        ));
        let zero = "devices.allow c 1:5 rwm";
        assert_eq!(writes[..3], ["devices.deny a", zero, "devices.allow c 5:1 rwm"]);
        assert_eq!(
            writes[3..],
            DEFAULT_LINES.into_iter().filter(|line| *line != zero).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_list_that_ends_by_allowing_all_stays_open_but_for_later_denials() {
        assert_eq!(
            v1(r#"[{"allow":false},{"allow":true,"type":"c","major":1,"minor":5},{"allow":true}]"#),
            ["devices.allow a"]
        );
        assert_eq!(
            v1(r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"b","major":8}]"#),
            ["devices.allow a", "devices.deny b 8:* rwm"]
        );
    }

    #[test]
    fn a_rule_for_all_kinds_with_part_of_the_access_does_not_allow_the_rest() {
        let writes = v1(r#"[{"allow":true,"access":"r"}]"#);
        assert_eq!(
            writes[..3],
            ["devices.deny a", "devices.allow c *:* r", "devices.allow b *:* r"]
        );
    }

    #[test]
    fn minus_one_means_every_number() {
        let writes = v1(r#"[{"allow":true,"type":"c","major":-1,"minor":-1,"access":"r"}]"#);
        assert_eq!(writes[1], "devices.allow c *:* r");
    }

    #[test]
    fn v1_takes_back_the_very_same_numbers() {
        let writes = v1(r#"[{"allow":true,"type":"c","major":10,"minor":229,"access":"rwm"},
            {"allow":false,"type":"c","major":10,"minor":229,"access":"w"},
            {"allow":false,"type":"c","major":10,"minor":229,"access":"w"}]"#);
        assert_eq!(writes[1..3], ["devices.allow c 10:229 rwm", "devices.deny c 10:229 w"]);
    }

    #[test]
    fn rules_about_other_nodes_or_another_access_are_none_of_each_others_business() {
        let allowed = r#"{"allow":true,"type":"c","major":10,"minor":229,"access":"r"}"#;
        for other in [
            r#"{"allow":false,"type":"c","major":11,"minor":229,"access":"r"}"#,
            r#"{"allow":false,"type":"c","major":10,"minor":230,"access":"r"}"#,
            r#"{"allow":false,"type":"c","major":10,"access":"w"}"#,
            r#"{"allow":false,"type":"b","major":10,"access":"r"}"#,
        ] {
            // What is denied already needs no rule.
            assert_eq!(v1(&format!("[{allowed},{other}]")), v1(&format!("[{allowed}]")));
        }
    }

    #[test]
    fn what_v1_would_silently_not_do_is_refused_there_and_kept_on_v2() {
        for (json, error) in [
            (
                r#"[{"allow":true,"type":"c","major":10,"access":"rwm"},
                    {"allow":false,"type":"c","major":10,"minor":229,"access":"w"}]"#,
                "linux.resources.devices[1]: cgroup v1 cannot deny c 10:229 w after it was told to allow c 10:* rwm",
            ),
            (
                r#"[{"allow":true},{"allow":false,"type":"c","major":10},
                    {"allow":true,"type":"c","major":10,"minor":229}]"#,
                "linux.resources.devices[2]: cgroup v1 cannot allow c 10:229 rwm after it was told to deny c 10:* rwm",
            ),
        ] {
            assert_eq!(format!("{:#}", list(json, true).unwrap_err()), error);
            assert_eq!(list(json, false).unwrap().rules[1].minor, Some(229));
        }
    }

    #[test]
    fn letters_beside_the_three_say_nothing() {
        let of = |letters: &str| {
            list(&format!(r#"[{{"allow":true,"access":"{letters}"}}]"#), false).unwrap()
        };
        assert_eq!(of("xrRw"), of("rw"));
        assert_eq!(of("rwr"), of("rw"));
    }

    #[test]
    fn wrong_rules_are_named() {
        for (json, error) in [
            (
                r#"[{"allow":true,"access":"x"}]"#,
                r#"linux.resources.devices[0].access: "x" holds none of r, w and m"#,
            ),
            (
                r#"[{"allow":true},{"allow":true,"type":"p","access":"r"}]"#,
                r#"linux.resources.devices[1].type: "p" is none of a, b and c"#,
            ),
            (
                r#"[{"allow":true,"type":"c","major":-2}]"#,
                "linux.resources.devices[0].major: -2: not a device number",
            ),
            (
                r#"[{"allow":true,"type":"c","minor":4294967296}]"#,
                "linux.resources.devices[0].minor: 4294967296: not a device number",
            ),
        ] {
            assert_eq!(format!("{:#}", list(json, false).unwrap_err()), error);
        }
    }
}
