//! `linux.personality` and `linux.memoryPolicy`: what every process of a container has.

use anyhow::{Context as _, Result, bail};
use oci_spec::runtime::{LinuxPersonalityDomain, Spec};

use super::numbers::{HIGHEST, bit_mask};
use crate::error::InField as _;

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
    let nodes = bit_mask(nodes, HIGHEST).context("invalid memory policy");
    Ok(Some((mode | flags, nodes.in_field("linux.memoryPolicy.nodes")?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Result<Policies> {
        Policies::plan(&serde_json::from_str(json).unwrap())
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
                r#""mode":"MPOL_BIND","flags":["MPOL_F_STATIC_NODES","MPOL_F_STATIC_NODES"]"#,
                (0x8002, vec![]),
            ),
            (
                r#""mode":"MPOL_BIND","flags":["MPOL_F_NUMA_BALANCING","MPOL_F_STATIC_NODES"]"#,
                (0xa002, vec![]),
            ),
        ] {
            let json = format!(r#"{{"linux":{{"memoryPolicy":{{{policy}}}}}}}"#);
            assert_eq!(plan(&json).unwrap().memory_policy, Some(expected), "{policy}");
        }
        assert_eq!(plan(r#"{"linux":{}}"#).unwrap().memory_policy, None);
    }

    #[test]
    fn a_personality_is_the_kernels_number() {
        let personality = |domain: &str| {
            let json = format!(r#"{{"linux":{{"personality":{{"domain":"{domain}"}}}}}}"#);
            plan(&json).unwrap().personality
        };
        // sys/personality.h
        assert_eq!((personality("LINUX"), personality("LINUX32")), (Some(0), Some(8)));
        assert_eq!(plan(r#"{}"#).unwrap().personality, None);
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_field() {
        for (linux, reason) in [
            (
                r#""personality":{"domain":"LINUX","flags":["X"]}"#,
                r#"linux.personality.flags: "X": unknown"#,
            ),
            (
                r#""memoryPolicy":{"mode":"MPOL_BIND","nodes":"x"}"#,
                r#"linux.memoryPolicy.nodes: invalid memory policy: "x": not a number or a range"#,
            ),
        ] {
            let error = plan(&format!(r#"{{"linux":{{{linux}}}}}"#)).unwrap_err();
            assert_eq!(format!("{error:#}"), reason);
        }
    }
}
