//! What strace(1) has written, counted: what commands cost by the kernel's counters.

use std::fs;

use crate::{Bed, View};

const FORKS: [&str; 4] = ["clone", "clone3", "fork", "vfork"];
const OPENED: [&str; 3] = ["open", "openat", "openat2"];

/// Whether the machine is one on which the tables of costs hold: what they depend on, beside the
/// runtime.
///
/// # Errors
/// Why not.
///
/// # Panics
/// If the kernel does not tell its release.
pub fn is_as_when_counted(bed: &Bed) -> Result<(), &'static str> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let mut numbers = release.split(['.', '-']).map(|word| word.parse().unwrap_or(0));
    let release: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let modules = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    match () {
        () if bed.view == View::Hybrid => Err("the same as with version 1 alone"),
        () if bed.view == View::V2 && !bed.has_controller("hugetlb") => {
            Err("it was counted where groups of version 2 can have a controller")
        }
        () if cfg!(not(target_arch = "x86_64")) => Err("it was counted on x86_64"),
        () if release < (6, 15) => Err("it was counted on Linux 6.18; older ones take other calls"),
        () if modules.contains("apparmor") || modules.contains("selinux") => Err(
            "it was counted without AppArmor and SELinux, which are asked in calls of their own",
        ),
        () => Ok(()),
    }
}

/// Counts a call by its name: system calls, processes made, files opened.
pub fn count(counts: &mut [u64; 3], call: &str) {
    let name = call.split('(').next().unwrap_or_default();
    counts[0] += 1;
    counts[1] += u64::from(FORKS.contains(&name));
    counts[2] += u64::from(OPENED.contains(&name));
}

/// All calls of all processes in a log of `strace -f`.
pub fn calls_of_all(log: &str) -> [u64; 3] {
    let mut counts = [0; 3];
    for line in log.lines() {
        let event = line.split_once(' ').map_or("", |(_, event)| event.trim_start());
        // The second half of a call, the end of a process, a signal.
        if !event.is_empty() && !event.starts_with(['<', '+', '-']) {
            count(&mut counts, event);
        }
    }
    counts
}
