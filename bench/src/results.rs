//! What was measured, as it is kept in docs/performance.json.

use serde::{Deserialize, Serialize};

use crate::bed::View;
use crate::engines::EngineRecord;
use crate::images::ImageRecord;
use crate::runtime::FLOOR;
use crate::sample::Summary;

/// A whole run of the program.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Results {
    /// The machine, the kernel, the programs, the load.
    pub conditions: Vec<(String, String)>,
    /// One for each runtime, setting and command.
    pub records: Vec<Record>,
    /// What was left out, and why.
    pub skipped: Vec<String>,
    /// Pulls of images.
    pub images: Vec<ImageRecord>,
    /// Commands of engines.
    #[serde(default)]
    pub engines: Vec<EngineRecord>,
    /// containerd with one shim or another.
    #[serde(default)]
    pub shims: Shims,
}

/// What the tests of engines have measured of shims.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Shims {
    /// The load of the machine when it began.
    #[serde(default)]
    pub load: String,
    /// One for each thing that was asked of containerd and each shim.
    pub records: Vec<ShimRecord>,
    /// One for each shim: fifty of it that have nothing to do.
    pub idle: Vec<Idle>,
}

/// The cost of one thing that was asked of containerd with one shim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShimRecord {
    /// What was typed, or what was asked.
    pub command: String,
    /// The shim, and what it calls.
    pub shim: String,
    /// How many runs.
    pub runs: usize,
    /// Milliseconds of processor time of the shim and the runtime, the median.
    pub cpu: f64,
    /// The same of what runs in the container's group.
    pub inside: f64,
    /// Milliseconds of wall time, the median.
    pub wall: f64,
    /// Milliseconds of wall time that 99 of 100 runs did not exceed.
    pub wall_p99: f64,
}

/// What a shim takes that has nothing to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Idle {
    /// The shim, and what it calls.
    pub shim: String,
    /// KiB of memory that are its own, the mean.
    pub memory: u64,
    /// Its threads.
    pub threads: u64,
    /// How often all fifty have woken in ten seconds.
    pub woken: u64,
}

/// The cost of one command of one runtime in one setting.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The cgroup hierarchies.
    pub view: View,
    /// What was special about the container or the machine.
    pub setting: Setting,
    /// The command.
    pub command: String,
    /// Who ran it.
    pub runtime: String,
    /// What it cost.
    pub summary: Summary,
    /// Containers a second, where many were run: the median of the rounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// System calls of all its processes, in a run of its own under strace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls: Option<u64>,
}

/// What was special about the container or the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Setting {
    /// Nothing: the bundle of `ferrun spec`.
    Default,
    /// Docker's seccomp profile.
    Seccomp,
    /// This many bind mounts.
    Binds(usize),
    /// This many other containers of the same runtime.
    Existing(usize),
    /// This many containers, one after another.
    InSequence(usize),
    /// This many containers, started at once.
    AtOnce(usize),
}

impl Results {
    /// What one command cost one runtime.
    pub fn find(
        &self,
        view: View,
        setting: Setting,
        command: &str,
        runtime: &str,
    ) -> Option<&Record> {
        self.records.iter().find(|record| {
            (record.view, record.setting) == (view, setting)
                && record.command == command
                && record.runtime == runtime
        })
    }

    /// The runtimes that were measured in a view, in the order of measuring; the floor at the end.
    pub fn runtimes(&self, view: View) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for record in self.records.iter().filter(|record| record.view == view) {
            if !names.contains(&record.runtime.as_str()) {
                names.push(&record.runtime);
            }
        }
        names.sort_by_key(|name| *name == FLOOR);
        names
    }

    /// The settings that were measured in a view, in the order of measuring.
    pub fn settings(&self, view: View) -> Vec<Setting> {
        let mut settings: Vec<Setting> = Vec::new();
        for record in self.records.iter().filter(|record| record.view == view) {
            if !settings.contains(&record.setting) {
                settings.push(record.setting);
            }
        }
        settings
    }
}
