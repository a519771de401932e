//! `process.rlimits`, in two parts: what would be in our own way comes at the end.

use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, setrlimit};
use oci_spec::runtime::PosixRlimitType;

use crate::error::InField as _;
use crate::plan::process::Rlimit;

/// Sets all limits but those that could be in our own way: they are returned, for the end. So is
/// one on descriptors, and one on processes before a clone.
pub fn set_rlimits(limits: &[Rlimit], clones: bool) -> Result<Vec<&Rlimit>> {
    use rustix::process::Resource as Kind;
    let mut later = Vec::new();
    for limit in limits {
        let kind = match limit.kind {
            PosixRlimitType::RlimitNofile => Some(Kind::Nofile),
            PosixRlimitType::RlimitNproc if clones => Some(Kind::Nproc),
            _ => None,
        };
        let Some(kind) = kind else {
            set_rlimit(limit)?;
            continue;
        };
        // Raised at once, while there is the right to, and lowered at the end.
        if rustix::process::getrlimit(kind).maximum.is_some_and(|maximum| limit.hard > maximum) {
            set_rlimit(&Rlimit { soft: limit.hard, ..limit.clone() })?;
        }
        later.push(limit);
    }
    Ok(later)
}

/// Sets one limit.
pub fn set_rlimit(limit: &Rlimit) -> Result<()> {
    setrlimit(resource(limit.kind), limit.soft, limit.hard)
        .with_context(|| format!("setrlimit: soft {}, hard {}", limit.soft, limit.hard))
        .in_field(&limit.field)
}

fn resource(kind: PosixRlimitType) -> Resource {
    use PosixRlimitType::*;
    match kind {
        RlimitCpu => Resource::RLIMIT_CPU,
        RlimitFsize => Resource::RLIMIT_FSIZE,
        RlimitData => Resource::RLIMIT_DATA,
        RlimitStack => Resource::RLIMIT_STACK,
        RlimitCore => Resource::RLIMIT_CORE,
        RlimitRss => Resource::RLIMIT_RSS,
        RlimitNproc => Resource::RLIMIT_NPROC,
        RlimitNofile => Resource::RLIMIT_NOFILE,
        RlimitMemlock => Resource::RLIMIT_MEMLOCK,
        RlimitAs => Resource::RLIMIT_AS,
        RlimitLocks => Resource::RLIMIT_LOCKS,
        RlimitSigpending => Resource::RLIMIT_SIGPENDING,
        RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
        RlimitNice => Resource::RLIMIT_NICE,
        RlimitRtprio => Resource::RLIMIT_RTPRIO,
        RlimitRttime => Resource::RLIMIT_RTTIME,
    }
}
