//! The seccomp filter of a bundle, from a profile as Docker and Podman write them.
//!
//! Such a profile is `linux.seccomp` of the runtime-spec, but for rules that hold for
//! some architectures, capabilities or kernels alone, and for `archMap`, which names the
//! smaller architectures that a machine runs as well. Both are settled here. All else is
//! handed on as it stands: whether it is right is for the runtime to say.

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::json::nullable;

/// Docker's default profile; README.md beside it says where it is from.
const DOCKER: &str = include_str!("../profiles/docker.json");

/// GOARCH, and what profiles call that architecture in rules and in `archMap`.
const ARCHITECTURES: [(&str, &str, &str); 8] = [
    ("386", "x86", "SCMP_ARCH_X86"),
    ("amd64", "amd64", "SCMP_ARCH_X86_64"),
    ("arm", "arm", "SCMP_ARCH_ARM"),
    ("arm64", "arm64", "SCMP_ARCH_AARCH64"),
    ("loong64", "loongarch64", "SCMP_ARCH_LOONGARCH64"),
    ("ppc64le", "ppc64le", "SCMP_ARCH_PPC64LE"),
    ("riscv64", "riscv64", "SCMP_ARCH_RISCV64"),
    ("s390x", "s390x", "SCMP_ARCH_S390X"),
];

/// Where the filter comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Docker's default profile.
    Docker,
    /// There is none.
    None,
    /// A profile in this file.
    File(PathBuf),
}

impl FromStr for Choice {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "docker" => Self::Docker,
            "none" => Self::None,
            file => Self::File(file.into()),
        })
    }
}

/// What the machine is on which the filter is to be loaded.
#[derive(Debug, Clone, Copy)]
pub struct Machine<'a> {
    /// Its architecture, as Go names it.
    pub architecture: &'a str,
    /// Its kernel.
    pub kernel: Kernel,
}

/// A profile as it stands in its file.
#[derive(Debug, Clone, Deserialize)]
pub struct Profile {
    #[serde(default, rename = "archMap", deserialize_with = "nullable")]
    families: Vec<Family>,
    #[serde(default, deserialize_with = "nullable")]
    syscalls: Vec<Rule>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// An architecture, and those whose programs its kernels run as well.
#[derive(Debug, Clone, Deserialize)]
struct Family {
    architecture: String,
    #[serde(default, rename = "subArchitectures", deserialize_with = "nullable")]
    smaller: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Rule {
    #[serde(default, deserialize_with = "nullable")]
    includes: Condition,
    #[serde(default, deserialize_with = "nullable")]
    excludes: Condition,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// When a rule holds. One that has more to say than this cannot be settled.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    #[serde(default, deserialize_with = "nullable")]
    caps: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    arches: Vec<String>,
    #[serde(default, rename = "minKernel")]
    kernel: Option<Kernel>,
}

/// A kernel, by the first two numbers of its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Kernel(pub u64, pub u64);

impl TryFrom<String> for Kernel {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let numbers = text.split_once('.').map(|(first, second)| (first.parse(), second.parse()));
        match numbers {
            Some((Ok(first), Ok(second))) => Ok(Self(first, second)),
            _ => Err(format!("{text:?}: not a version such as 4.8")),
        }
    }
}

impl Kernel {
    /// That of a release such as 6.1.0-9-amd64.
    pub fn of_release(release: &str) -> Option<Self> {
        let mut numbers = release.split(|character: char| !character.is_ascii_digit());
        Some(Self(numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }
}

impl Profile {
    /// Docker's default profile.
    pub fn docker() -> Result<Self> {
        Self::parse(DOCKER).context("Docker's profile")
    }

    /// Reads the text of a profile.
    pub fn parse(text: &str) -> Result<Self> {
        let deserializer = &mut serde_json::Deserializer::from_str(text);
        let profile: Self = serde_path_to_error::deserialize(deserializer)?;
        ensure!(profile.rest.contains_key("defaultAction"), "defaultAction: missing");
        let both = !profile.families.is_empty() && profile.rest.contains_key("architectures");
        ensure!(!both, "archMap, architectures: only one of them can be given");
        Ok(profile)
    }

    /// `linux.seccomp` for a process with these capabilities in its bounding set.
    pub fn filter(&self, capabilities: &[&str], machine: Machine<'_>) -> Value {
        let mut filter = self.rest.clone();
        // What it is without being said, and younger than the rest of our configuration.
        if filter.get("defaultErrnoRet") == Some(&Value::from(1)) {
            filter.remove("defaultErrnoRet");
        }
        let names = ARCHITECTURES.iter().find(|(name, ..)| *name == machine.architecture);
        let (rules_name, token) =
            names.map_or((machine.architecture, ""), |names| (names.1, names.2));
        if let Some(family) = self.families.iter().find(|family| family.architecture == token) {
            let all = std::iter::once(&family.architecture).chain(&family.smaller).cloned();
            filter.insert("architectures".to_owned(), all.collect());
        }
        let machine = Machine { architecture: rules_name, ..machine };
        let rules = self.syscalls.iter().filter(|rule| rule.holds(capabilities, machine));
        filter.insert("syscalls".to_owned(), rules.map(Rule::settled).collect());
        filter.into()
    }
}

impl Rule {
    /// What is included needs all capabilities and one of the architectures; any one of
    /// what is excluded is enough.
    fn holds(&self, capabilities: &[&str], machine: Machine<'_>) -> bool {
        let has = |capability: &String| capabilities.contains(&capability.as_str());
        let is = |architecture: &String| architecture == machine.architecture;
        let is_since = |least: Kernel| machine.kernel >= least;
        let (wanted, unwanted) = (&self.includes, &self.excludes);
        let is_wanted = wanted.caps.iter().all(has)
            && (wanted.arches.is_empty() || wanted.arches.iter().any(is))
            && wanted.kernel.is_none_or(is_since);
        let is_unwanted = unwanted.caps.iter().any(has)
            || unwanted.arches.iter().any(is)
            || unwanted.kernel.is_some_and(is_since);
        is_wanted && !is_unwanted
    }

    /// The rule as the runtime-spec has it.
    fn settled(&self) -> Value {
        let mut rule = self.rest.clone();
        // Once there was one name.
        if let Some(name) = rule.remove("name") {
            rule.entry("names").or_insert_with(|| vec![name].into());
        }
        rule.remove("comment");
        rule.retain(|_, value| !value.is_null());
        rule.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const MACHINE: Machine<'_> = Machine { architecture: "amd64", kernel: Kernel(6, 1) };

    fn filter(profile: Value, capabilities: &[&str], machine: Machine<'_>) -> Value {
        Profile::parse(&profile.to_string()).unwrap().filter(capabilities, machine)
    }

    /// The names that a filter of one rule each lets through.
    fn names(filter: &Value) -> Vec<&str> {
        let rules = filter["syscalls"].as_array().unwrap().iter();
        rules.map(|rule| rule["names"][0].as_str().unwrap()).collect()
    }

    #[test]
    fn rules_hold_by_capability_architecture_and_kernel() {
        let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["always"], "action": "SCMP_ACT_ALLOW", "includes": {}, "excludes": null},
            {"names": ["both"], "includes": {"caps": ["CAP_A", "CAP_B"]}},
            {"names": ["neither"], "excludes": {"caps": ["CAP_A", "CAP_B"]}},
            {"names": ["arm"], "includes": {"arches": ["arm", "arm64"]}},
            {"names": ["not-arm"], "excludes": {"arches": ["arm64"]}},
            {"names": ["since-6.1"], "includes": {"minKernel": "6.1"}},
            {"names": ["before-6.1"], "excludes": {"minKernel": "6.1"}},
            {"names": ["since-6.12"], "includes": {"minKernel": "6.12"}},
        ]});
        for (capabilities, architecture, kernel, expected) in [
            (&[][..], "amd64", Kernel(6, 1), vec!["always", "neither", "not-arm", "since-6.1"]),
            (&["CAP_A"], "amd64", Kernel(5, 99), vec!["always", "not-arm", "before-6.1"]),
            (
                &["CAP_B", "CAP_A"],
                "arm64",
                Kernel(6, 12),
                vec!["always", "both", "arm", "since-6.1", "since-6.12"],
            ),
        ] {
            let filter = filter(profile.clone(), capabilities, Machine { architecture, kernel });
            assert_eq!(names(&filter), expected, "{capabilities:?} {architecture} {kernel:?}");
        }
    }

    #[test]
    fn a_profile_becomes_what_the_runtime_spec_has() {
        let profile = json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "archMap": [
                {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
                {"architecture": "SCMP_ARCH_RISCV64", "subArchitectures": null},
            ],
            "syscalls": [{"name": "clone", "action": "SCMP_ACT_ALLOW", "args": null, "comment": "x", "errnoRet": 38}],
        });
        let settled = json!({
            "defaultAction": "SCMP_ACT_ERRNO", "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "architectures": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
            "syscalls": [{"names": ["clone"], "action": "SCMP_ACT_ALLOW", "errnoRet": 38}],
        });
        let on = |architecture| Machine { architecture, ..MACHINE };
        assert_eq!(filter(profile.clone(), &[], on("arm64")), settled);
        let riscv = filter(profile.clone(), &[], on("riscv64"));
        assert_eq!(riscv["architectures"], json!(["SCMP_ARCH_RISCV64"]));
        assert_eq!(filter(profile, &[], on("amd64")).get("architectures"), None);
        // What is settled already stays as it is.
        assert_eq!(filter(settled.clone(), &[], on("arm64")), settled);
    }

    #[test]
    fn what_cannot_be_settled_is_refused_by_its_place() {
        let rule = |condition: Value| json!({"defaultAction": "x", "syscalls": [condition]});
        for (profile, reason) in [
            (json!({}), "defaultAction: missing"),
            (
                json!({"defaultAction": "x", "architectures": [], "archMap": [{"architecture": "x"}]}),
                "archMap, architectures: only one of them can be given",
            ),
            (
                rule(json!({"includes": {"minKernel": "6"}})),
                "syscalls[0].includes.minKernel: \"6\": not a version such as 4.8",
            ),
            (rule(json!({"excludes": {"maxKernel": "6.1"}})), "unknown field `maxKernel`"),
        ] {
            let error = format!("{:#}", Profile::parse(&profile.to_string()).unwrap_err());
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn dockers_profile_gives_each_capability_its_calls() {
        let docker = Profile::docker().unwrap();
        let calls = |capabilities: &[&str]| {
            let filter = docker.filter(capabilities, MACHINE);
            serde_json::from_value::<oci_spec::runtime::LinuxSeccomp>(filter.clone()).unwrap();
            filter
        };
        let without = calls(&[]);
        assert_eq!(
            without["architectures"],
            json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"])
        );
        for (capability, call) in
            [("CAP_SYS_CHROOT", "chroot"), ("CAP_SYS_ADMIN", "mount"), ("CAP_BPF", "bpf")]
        {
            assert!(!without.to_string().contains(&format!("\"{call}\"")), "{call}");
            assert!(calls(&[capability]).to_string().contains(&format!("\"{call}\"")), "{call}");
        }
        // It cannot look at the flags of clone3, which is said not to exist.
        let clone3 = json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38});
        assert!(without["syscalls"].as_array().unwrap().contains(&clone3));
    }

    #[test]
    fn a_kernel_is_known_by_its_first_two_numbers() {
        for (release, version) in [
            ("6.1.0-9-amd64", Some(Kernel(6, 1))),
            ("6.12", Some(Kernel(6, 12))),
            ("7.0-rc1", Some(Kernel(7, 0))),
            ("", None),
            ("six", None),
        ] {
            assert_eq!(Kernel::of_release(release), version, "{release}");
        }
    }
}
