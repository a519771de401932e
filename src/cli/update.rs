//! The options of `update`, one for each limit.

/// The options that hold a number, and the property that each sets.
pub const NUMBERS: [(&str, &[&str]); 14] = [
    ("blkio-weight", &["blockIO", "weight"]),
    ("cpu-burst", &["cpu", "burst"]),
    ("cpu-idle", &["cpu", "idle"]),
    ("cpu-period", &["cpu", "period"]),
    ("cpu-quota", &["cpu", "quota"]),
    ("cpu-rt-period", &["cpu", "realtimePeriod"]),
    ("cpu-rt-runtime", &["cpu", "realtimeRuntime"]),
    ("cpu-share", &["cpu", "shares"]),
    ("kernel-memory", &["memory", "kernel"]),
    ("kernel-memory-tcp", &["memory", "kernelTCP"]),
    ("memory", &["memory", "limit"]),
    ("memory-reservation", &["memory", "reservation"]),
    ("memory-swap", &["memory", "swap"]),
    ("pids-limit", &["pids", "limit"]),
];
/// The options that hold a text.
pub const TEXTS: [(&str, &[&str]); 2] =
    [("cpuset-cpus", &["cpu", "cpus"]), ("cpuset-mems", &["cpu", "mems"])];

/// The options that change the class of service, and are no cgroup's.
pub const CLASS: [&str; 2] = ["l3-cache-schema", "mem-bw-schema"];

/// The names of the options, for the command line, and where their values are described.
pub fn options() -> impl Iterator<Item = (&'static str, &'static str)> {
    let of_cgroup = NUMBERS.iter().chain(&TEXTS).map(|(name, _)| (*name, "See linux.resources"));
    of_cgroup.chain(CLASS.map(|name| (name, "See linux.intelRdt")))
}
