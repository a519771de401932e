//! The options of `update`, one for each limit.

use super::definition::{Definition, Takes, flag};

/// An option: its name, the property that it sets, and its help.
type Limit = (&'static str, &'static [&'static str], &'static str);

/// The options that hold a number.
pub const NUMBERS: [Limit; 14] = [
    ("blkio-weight", &["blockIO", "weight"], "Weight of block I/O, 10 to 1000"),
    (
        "cpu-burst",
        &["cpu", "burst"],
        "CPU time that may be saved up and used beyond the quota, in microseconds",
    ),
    ("cpu-idle", &["cpu", "idle"], "1: run only while no other cgroup wants the CPU; 0: as usual"),
    ("cpu-period", &["cpu", "period"], "Period of the CPU quota, in microseconds"),
    ("cpu-quota", &["cpu", "quota"], "CPU time per period, in microseconds; -1: no limit"),
    ("cpu-rt-period", &["cpu", "realtimePeriod"], "Real-time period, in microseconds (cgroup v1)"),
    (
        "cpu-rt-runtime",
        &["cpu", "realtimeRuntime"],
        "Real-time CPU time per period, in microseconds (cgroup v1)",
    ),
    ("cpu-share", &["cpu", "shares"], "Relative weight for CPU time, 2 to 262144"),
    ("kernel-memory", &["memory", "kernel"], "Kernel memory limit, in bytes (obsolete)"),
    ("kernel-memory-tcp", &["memory", "kernelTCP"], "TCP buffer limit, in bytes (cgroup v1)"),
    (
        "memory",
        &["memory", "limit"],
        "Memory limit, in bytes or with a suffix k, m, g or t, as in 1.5g; -1: no limit",
    ),
    (
        "memory-reservation",
        &["memory", "reservation"],
        "Memory that is kept for the container under pressure, as for --memory",
    ),
    (
        "memory-swap",
        &["memory", "swap"],
        "Limit for memory and swap together, as for --memory; -1: no limit",
    ),
    ("pids-limit", &["pids", "limit"], "Most processes and threads; -1: no limit"),
];
/// The options that hold a text.
pub const TEXTS: [Limit; 2] = [
    ("cpuset-cpus", &["cpu", "cpus"], "CPUs to run on, as in 0-3,7"),
    ("cpuset-mems", &["cpu", "mems"], "Memory nodes to use, as in 0,1"),
];

/// The options that change the class of service, and are no cgroup's.
pub const CLASS: [&str; 2] = ["l3-cache-schema", "mem-bw-schema"];
const CLASS_HELP: [&str; 2] = [
    "L3 cache of the class of service, as in L3:0=ff;1=f0 (Intel RDT)",
    "Memory bandwidth of the class of service, as in MB:0=50;1=70 (Intel RDT)",
];

/// The options, for the command line.
pub const OPTIONS: [Definition; NUMBERS.len() + TEXTS.len() + CLASS.len()] = {
    let mut options = [limit("", ""); NUMBERS.len() + TEXTS.len() + CLASS.len()];
    let mut next = 0;
    while next < options.len() {
        let text = next.saturating_sub(NUMBERS.len());
        let class = text.saturating_sub(TEXTS.len());
        options[next] = if next < NUMBERS.len() {
            limit(NUMBERS[next].0, NUMBERS[next].2)
        } else if text < TEXTS.len() {
            limit(TEXTS[text].0, TEXTS[text].2)
        } else {
            limit(CLASS[class], CLASS_HELP[class])
        };
        next += 1;
    }
    options
};

const fn limit(name: &'static str, help: &'static str) -> Definition {
    flag(name, help).takes(Takes::Limit)
}
