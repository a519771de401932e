//! What a process can only inherit: its parent takes it on for the time of the clone. And the
//! processors, which it takes on itself once it is in the container's cgroup.

use std::fs;
use std::io::Write as _;

use anyhow::{Context as _, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::error::{InField as _, words};
use crate::log;
use crate::plan::process::{ProcessPlan, Processors};
use crate::sys::process as kernel;

/// The oom_score_adj that a process is to inherit, taken on by its parent for the
/// time of the clone: inside, in a user namespace or behind a /proc that the
/// container has made, it could not be written. Dropping it sets it back, by a descriptor
/// from before: an ordinary user's process that has hidden itself may not open the file.
#[derive(Debug, Default)]
pub struct OomScoreAdj {
    before: Option<(fs::File, String)>,
}

impl OomScoreAdj {
    const FILE: &str = "/proc/self/oom_score_adj";

    /// Takes the value of the plan on, if it has one.
    pub fn take(plan: Option<&ProcessPlan>) -> Result<Self> {
        let Some((plan, score)) = plan.and_then(|plan| Some((plan, plan.oom_score_adj?))) else {
            return Ok(Self::default());
        };
        let set = || -> Result<Self> {
            let before = fs::read_to_string(Self::FILE)?;
            if before.trim() == score.to_string() {
                return Ok(Self::default());
            }
            let mut file = fs::File::options().write(true).open(Self::FILE)?;
            file.write_all(score.to_string().as_bytes())?;
            Ok(Self { before: Some((file, before)) })
        };
        set()
            .with_context(|| format!("{score}: write oom_score_adj"))
            .in_field(plan.field.of("oomScoreAdj"))
    }
}

impl Drop for OomScoreAdj {
    fn drop(&mut self) {
        if let Some((file, before)) = &mut self.before
            && let Err(error) = file.write_all(before.trim().as_bytes())
        {
            log::warn(format!("set the own oom_score_adj back: {}", words(error)));
        }
    }
}

/// The processors that a process is to inherit, taken on by its parent for the time of
/// the clone. Dropping it sets those before back.
#[derive(Debug, Default)]
pub struct InitialAffinity {
    before: Option<CpuSet>,
}

impl InitialAffinity {
    /// Takes those of the plan on, if it has any.
    pub fn take(plan: &ProcessPlan) -> Result<Self> {
        let Some(mask) = &plan.exec_affinity.initial else { return Ok(Self::default()) };
        let before = sched_getaffinity(None).context("sched_getaffinity")?;
        set_affinity(plan, mask, "initial")?;
        Ok(Self { before: Some(before) })
    }
}

impl Drop for InitialAffinity {
    fn drop(&mut self) {
        if let Some(before) = &self.before
            && let Err(error) = sched_setaffinity(None, before)
        {
            log::warn(format!("set the own processors back: {}", words(error)));
        }
    }
}

/// Takes on the processors that a process of `exec` is to have in the container's cgroup.
pub fn set_final_affinity(plan: &ProcessPlan) -> Result<()> {
    match &plan.exec_affinity.last {
        Processors::These(mask) => return set_affinity(plan, mask, "final"),
        Processors::All => take_all_processors(),
        Processors::Kept => {}
    }
    Ok(())
}

/// Takes on all processors that the cgroup has. To join a cpuset gave them before Linux 6.2;
/// since then those stay that somebody has asked for, and a service with `CPUAffinity=` has
/// asked for its own.
pub fn take_all_processors() {
    if let Err(error) = kernel::take_all_processors() {
        log::debug(|| format!("sched_setaffinity: {error}: the processors are the caller's"));
    }
}

fn set_affinity(plan: &ProcessPlan, mask: &[u64], property: &str) -> Result<()> {
    let mut set = CpuSet::new();
    for (word, bits) in mask.iter().enumerate() {
        for bit in (0..64).filter(|bit| bits & 1 << bit != 0) {
            set.set(word * 64 + bit);
        }
    }
    sched_setaffinity(None, &set)
        .context("sched_setaffinity")
        .in_field(plan.field.of(&format!("execCPUAffinity.{property}")))
}
