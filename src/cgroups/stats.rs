//! What a group uses, in the shape that `runc events` has and callers parse.
//!
//! The files of both versions are read into the same structure. What a version or
//! this machine does not count is zero, or missing where runc leaves it out.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::{checked, resctrl, try_read};
use crate::plan::cgroup::{Directory, Group, Version};

/// Everything that is counted.
#[derive(Debug, Default, Serialize)]
pub struct Stats {
    cpu: Cpu,
    cpuset: BTreeMap<&'static str, serde_json::Value>,
    memory: Memory,
    pids: Pids,
    blkio: Blkio,
    hugetlb: BTreeMap<String, Counter>,
    /// Read elsewhere: it is no matter of cgroups.
    pub intel_rdt: resctrl::Stats,
    network_interfaces: Option<()>,
}

#[derive(Debug, Default, Serialize)]
struct Cpu {
    usage: CpuUsage,
    throttling: Throttling,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

/// Nanoseconds.
#[derive(Debug, Default, Serialize)]
struct CpuUsage {
    total: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu_kernel: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu_user: Vec<u64>,
    kernel: u64,
    user: u64,
}

#[derive(Debug, Default, Serialize)]
struct Throttling {
    #[serde(skip_serializing_if = "is_zero")]
    periods: u64,
    #[serde(rename = "throttledPeriods", skip_serializing_if = "is_zero")]
    throttled_periods: u64,
    /// Nanoseconds.
    #[serde(rename = "throttledTime", skip_serializing_if = "is_zero")]
    throttled_time: u64,
}

/// Bytes.
#[derive(Debug, Default, Serialize)]
struct Memory {
    #[serde(skip_serializing_if = "is_zero")]
    cache: u64,
    usage: Counter,
    swap: Counter,
    kernel: Counter,
    #[serde(rename = "kernelTCP")]
    kernel_tcp: Counter,
    raw: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

/// A counter with its bound.
#[derive(Debug, Default, Serialize)]
struct Counter {
    limit: u64,
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max: u64,
    failcnt: u64,
}

#[derive(Debug, Default, Serialize)]
struct Pids {
    #[serde(skip_serializing_if = "is_zero")]
    current: u64,
    /// 0: none.
    #[serde(skip_serializing_if = "is_zero")]
    limit: u64,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Blkio {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_service_bytes_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_serviced_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct BlkioEntry {
    major: u64,
    minor: u64,
    op: String,
    value: u64,
}

/// Pressure: how long some or all processes waited (Documentation/accounting/psi.rst).
#[derive(Debug, Default, Serialize)]
struct Psi {
    some: Pressure,
    full: Pressure,
}

/// Shares of time in percent, and microseconds.
#[derive(Debug, Default, Serialize)]
struct Pressure {
    avg10: f64,
    avg60: f64,
    avg300: f64,
    total: u64,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// Reads what the group uses now.
pub fn stats(group: &Group) -> Result<Stats> {
    // Version 2 has none of these, and callers of runc find a zero.
    let cpuset = CPUSET_NUMBERS.map(|name| (name, 0.into())).into();
    let mut stats = Stats { cpuset, ..Stats::default() };
    for directory in &group.directories {
        let files = Files(checked(directory)?);
        match directory.version {
            Version::V1 => read_v1(&mut stats, directory, files),
            Version::V2 => read_v2(&mut stats, files),
        }
    }
    Ok(stats)
}

/// The files of one directory; one that is not there counts nothing.
#[derive(Clone, Copy)]
struct Files<'a>(&'a Path);

impl Files<'_> {
    fn text(self, name: &str) -> Option<String> {
        try_read(&self.0.join(name)).ok()
    }

    /// A number; `max` is the greatest.
    fn number(self, name: &str) -> u64 {
        self.text(name).map_or(0, |text| number(text.trim()))
    }

    /// Lines of a key and a number.
    fn table(self, name: &str) -> BTreeMap<String, u64> {
        let text = self.text(name).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(key, value)| (key.to_owned(), number(value.trim())))
            .collect()
    }

    fn counter(self, prefix: &str) -> Counter {
        Counter {
            limit: self.number(&format!("{prefix}.limit_in_bytes")),
            usage: self.number(&format!("{prefix}.usage_in_bytes")),
            max: self.number(&format!("{prefix}.max_usage_in_bytes")),
            failcnt: self.number(&format!("{prefix}.failcnt")),
        }
    }

    fn pressure(self, name: &str) -> Option<Psi> {
        let text = self.text(name)?;
        let line = |kind: &str| {
            text.lines().find_map(|line| line.strip_prefix(kind)).map(pressure).unwrap_or_default()
        };
        Some(Psi { some: line("some "), full: line("full ") })
    }

    /// The huge page sizes of which there are files, such as `2MB`.
    fn page_sizes(self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names
            .filter_map(|name| {
                let size = name.strip_prefix("hugetlb.")?;
                let size = size
                    .strip_suffix(".current")
                    .or_else(|| size.strip_suffix(".usage_in_bytes"))?;
                (!size.contains('.')).then(|| size.to_owned())
            })
            .collect()
    }
}

fn number(text: &str) -> u64 {
    if text == "max" { u64::MAX } else { text.parse().unwrap_or(0) }
}

fn pressure(line: &str) -> Pressure {
    let mut pressure = Pressure::default();
    for (key, value) in line.split(' ').filter_map(|word| word.split_once('=')) {
        match key {
            "avg10" => pressure.avg10 = value.parse().unwrap_or(0.0),
            "avg60" => pressure.avg60 = value.parse().unwrap_or(0.0),
            "avg300" => pressure.avg300 = value.parse().unwrap_or(0.0),
            "total" => pressure.total = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    pressure
}

/// The files of a cpuset of version 1 that hold one number.
const CPUSET_NUMBERS: [&str; 9] = [
    "cpu_exclusive",
    "mem_exclusive",
    "mem_hardwall",
    "memory_migrate",
    "memory_pressure",
    "memory_spread_page",
    "memory_spread_slab",
    "sched_load_balance",
    "sched_relax_domain_level",
];

fn read_v1(stats: &mut Stats, directory: &Directory, files: Files<'_>) {
    for controller in &directory.controllers {
        match controller.as_str() {
            "cpuacct" => {
                stats.cpu.usage.total = files.number("cpuacct.usage");
                let numbers = |name: &str| {
                    let text = files.text(name).unwrap_or_default();
                    text.split_whitespace().map(number).collect()
                };
                stats.cpu.usage.percpu = numbers("cpuacct.usage_percpu");
                stats.cpu.usage.percpu_kernel = numbers("cpuacct.usage_percpu_sys");
                stats.cpu.usage.percpu_user = numbers("cpuacct.usage_percpu_user");
                stats.cpu.usage.kernel = files.number("cpuacct.usage_sys");
                stats.cpu.usage.user = files.number("cpuacct.usage_user");
            }
            "cpu" => {
                let table = files.table("cpu.stat");
                stats.cpu.throttling = throttling(&table, "throttled_time", 1);
            }
            "cpuset" => {
                stats.cpuset.insert("cpus", list(&files.text("cpuset.cpus").unwrap_or_default()));
                stats.cpuset.insert("mems", list(&files.text("cpuset.mems").unwrap_or_default()));
                for name in CPUSET_NUMBERS {
                    // One of them, the level, may be -1: what is asked for is the kernel's choice.
                    let text = files.text(&format!("cpuset.{name}")).unwrap_or_default();
                    let number: i64 = text.trim().parse().unwrap_or_default();
                    stats.cpuset.insert(name, number.into());
                }
            }
            "memory" => {
                stats.memory.raw = files.table("memory.stat");
                stats.memory.cache = stats.memory.raw.get("cache").copied().unwrap_or(0);
                stats.memory.usage = files.counter("memory");
                stats.memory.swap = files.counter("memory.memsw");
                stats.memory.kernel = files.counter("memory.kmem");
                stats.memory.kernel_tcp = files.counter("memory.kmem.tcp");
            }
            "pids" => stats.pids = pids(files),
            "blkio" => {
                let entries = |name: &str| blkio_v1(&files.text(name).unwrap_or_default());
                stats.blkio.io_service_bytes_recursive =
                    entries("blkio.throttle.io_service_bytes_recursive");
                stats.blkio.io_serviced_recursive = entries("blkio.throttle.io_serviced_recursive");
            }
            "hugetlb" => {
                for size in files.page_sizes() {
                    let counter = files.counter(&format!("hugetlb.{size}"));
                    stats.hugetlb.insert(size, counter);
                }
            }
            _ => {}
        }
    }
}

fn read_v2(stats: &mut Stats, files: Files<'_>) {
    for size in files.page_sizes() {
        let events = files.table(&format!("hugetlb.{size}.events"));
        let counter = Counter {
            limit: files.number(&format!("hugetlb.{size}.max")),
            usage: files.number(&format!("hugetlb.{size}.current")),
            max: 0,
            failcnt: events.get("max").copied().unwrap_or(0),
        };
        stats.hugetlb.insert(size, counter);
    }
    // On a hybrid machine the rest is counted in the trees of version 1.
    let of = |table: &BTreeMap<String, u64>, key: &str| table.get(key).copied().unwrap_or(0);
    if stats.cpu.usage.total == 0 {
        const NANOSECONDS: u64 = 1000;
        let table = files.table("cpu.stat");
        stats.cpu.usage.total = of(&table, "usage_usec") * NANOSECONDS;
        stats.cpu.usage.kernel = of(&table, "system_usec") * NANOSECONDS;
        stats.cpu.usage.user = of(&table, "user_usec") * NANOSECONDS;
        stats.cpu.throttling = throttling(&table, "throttled_usec", NANOSECONDS);
        stats.cpu.psi = files.pressure("cpu.pressure");
    }
    if files.text("memory.current").is_some() {
        let memory = &mut stats.memory;
        memory.raw = files.table("memory.stat");
        memory.cache = of(&memory.raw, "file");
        memory.usage = Counter {
            limit: files.number("memory.max"),
            usage: files.number("memory.current"),
            max: files.number("memory.peak"),
            failcnt: of(&files.table("memory.events"), "max"),
        };
        // As runc and version 1 tell it: memory and swap together.
        let swap = files.number("memory.swap.max");
        memory.swap = Counter {
            limit: if swap == u64::MAX { swap } else { swap.saturating_add(memory.usage.limit) },
            usage: files.number("memory.swap.current").saturating_add(memory.usage.usage),
            ..Counter::default()
        };
        memory.psi = files.pressure("memory.pressure");
    }
    if files.text("pids.current").is_some() {
        stats.pids = pids(files);
    }
    if let Some(text) = files.text("io.stat") {
        let (bytes, operations) = blkio_v2(&text);
        stats.blkio.io_service_bytes_recursive = bytes;
        stats.blkio.io_serviced_recursive = operations;
        stats.blkio.psi = files.pressure("io.pressure");
    }
}

fn throttling(table: &BTreeMap<String, u64>, time: &str, nanoseconds: u64) -> Throttling {
    let of = |key: &str| table.get(key).copied().unwrap_or(0);
    Throttling {
        periods: of("nr_periods"),
        throttled_periods: of("nr_throttled"),
        throttled_time: of(time) * nanoseconds,
    }
}

fn pids(files: Files<'_>) -> Pids {
    let limit = files.number("pids.max");
    Pids { current: files.number("pids.current"), limit: if limit == u64::MAX { 0 } else { limit } }
}

/// A list such as `0-2,5` as numbers.
fn list(text: &str) -> serde_json::Value {
    let ranges = text.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
    });
    ranges.flatten().collect::<Vec<u16>>().into()
}

/// Lines such as `254:0 Read 4096`; the last one, the sum, has two words.
fn blkio_v1(text: &str) -> Vec<BlkioEntry> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (device, op, value) = (words.next()?, words.next()?, words.next()?);
            let (major, minor) = device.split_once(':')?;
            Some(BlkioEntry {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
                op: op.to_owned(),
                value: value.parse().ok()?,
            })
        })
        .collect()
}

/// Lines such as `254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`, as the
/// entries of version 1: bytes and operations.
fn blkio_v2(text: &str) -> (Vec<BlkioEntry>, Vec<BlkioEntry>) {
    let (mut bytes, mut operations) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let Some((device, counts)) = line.split_once(' ') else { continue };
        let Some((major, minor)) = device.split_once(':') else { continue };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        for (key, value) in counts.split(' ').filter_map(|count| count.split_once('=')) {
            let (list, op) = match key {
                "rbytes" => (&mut bytes, "Read"),
                "wbytes" => (&mut bytes, "Write"),
                "rios" => (&mut operations, "Read"),
                "wios" => (&mut operations, "Write"),
                _ => continue,
            };
            list.push(BlkioEntry { major, minor, op: op.to_owned(), value: number(value) });
        }
    }
    (bytes, operations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_devices_are_read_from_both_versions() {
        let entry = |op: &str, value| BlkioEntry { major: 254, minor: 0, op: op.into(), value };
        assert_eq!(
            blkio_v1("254:0 Read 4096\n254:0 Write 5\nTotal 4101\n"),
            [entry("Read", 4096), entry("Write", 5)]
        );
        let (bytes, operations) =
            blkio_v2("254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n");
        assert_eq!(bytes, [entry("Read", 1), entry("Write", 2)]);
        assert_eq!(operations, [entry("Read", 3), entry("Write", 4)]);
    }

    #[test]
    fn lists_and_pressure_are_numbers() {
        assert_eq!(list("0-2,5\n"), serde_json::json!([0, 1, 2, 5]));
        assert_eq!(list("\n"), serde_json::json!([]));
        let read = pressure("avg10=1.50 avg60=0.00 avg300=0.25 total=77");
        assert_eq!((read.avg10, read.avg300, read.total), (1.5, 0.25, 77));
        assert_eq!((number("max"), number("x")), (u64::MAX, 0));
    }

    /// What is counted in a directory with these files, as JSON.
    fn counted(
        version: Version,
        controllers: &[&str],
        files: &[(&str, &str)],
    ) -> serde_json::Value {
        let name = format!("ferrun-stats-{}-{version:?}-{}", std::process::id(), files.len());
        let mount = std::env::temp_dir().join(name);
        let path = mount.join("box");
        std::fs::create_dir_all(&path).unwrap();
        for (file, text) in files {
            std::fs::write(path.join(file), text).unwrap();
        }
        let controllers = controllers.iter().map(|name| (*name).to_owned()).collect();
        let directory = Directory { version, controllers, mount: mount.clone(), path };
        let stats = stats(&Group { directories: vec![directory] }).unwrap();
        std::fs::remove_dir_all(mount).unwrap();
        serde_json::to_value(stats).unwrap()
    }

    fn cpuset() -> serde_json::Value {
        CPUSET_NUMBERS.iter().map(|name| ((*name).to_owned(), serde_json::json!(0))).collect()
    }

    #[test]
    fn of_version_1_each_tree_counts_what_its_controllers_are_for() {
        let counted = counted(
            Version::V1,
            &["cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "hugetlb", "freezer"],
            &[
                ("cpu.stat", "nr_periods 5\nnr_throttled 3\nthrottled_time 7000\n"),
                ("cpuacct.usage", "700\n"),
                ("cpuacct.usage_percpu", "300 400 \n"),
                ("cpuacct.usage_percpu_sys", "100 150\n"),
                ("cpuacct.usage_percpu_user", "200 250\n"),
                ("cpuacct.usage_sys", "250\n"),
                ("cpuacct.usage_user", "450\n"),
                ("cpuset.cpus", "0-1\n"),
                ("cpuset.mems", "0\n"),
                ("cpuset.sched_relax_domain_level", "-1\n"),
                ("memory.stat", "cache 9\nrss 8\n"),
                ("memory.limit_in_bytes", "20\n"),
                ("memory.usage_in_bytes", "10\n"),
                ("memory.max_usage_in_bytes", "15\n"),
                ("memory.failcnt", "2\n"),
                ("memory.memsw.limit_in_bytes", "21\n"),
                ("memory.kmem.limit_in_bytes", "22\n"),
                ("memory.kmem.tcp.limit_in_bytes", "23\n"),
                ("pids.current", "4\n"),
                ("pids.max", "6\n"),
                ("blkio.throttle.io_service_bytes_recursive", "8:0 Read 1\nTotal 1\n"),
                ("blkio.throttle.io_serviced_recursive", "8:0 Write 2\nTotal 2\n"),
                ("hugetlb.2MB.usage_in_bytes", "3\n"),
                ("hugetlb.2MB.limit_in_bytes", "4\n"),
                ("hugetlb.2MB.rsvd.usage_in_bytes", "5\n"),
            ],
        );
        let expected = serde_json::json!({
            "usage": {"total": 700, "percpu": [300, 400], "percpu_kernel": [100, 150],
                "percpu_user": [200, 250], "kernel": 250, "user": 450},
            "throttling": {"periods": 5, "throttledPeriods": 3, "throttledTime": 7000},
        });
        assert_eq!(counted["cpu"], expected);
        let mut expected = cpuset();
        expected["cpus"] = serde_json::json!([0, 1]);
        expected["mems"] = serde_json::json!([0]);
        expected["sched_relax_domain_level"] = (-1).into();
        assert_eq!(counted["cpuset"], expected);
        let expected = serde_json::json!({
            "cache": 9,
            "usage": {"limit": 20, "usage": 10, "max": 15, "failcnt": 2},
            "swap": {"limit": 21, "failcnt": 0},
            "kernel": {"limit": 22, "failcnt": 0},
            "kernelTCP": {"limit": 23, "failcnt": 0},
            "raw": {"cache": 9, "rss": 8},
        });
        assert_eq!(counted["memory"], expected);
        assert_eq!(counted["pids"], serde_json::json!({"current": 4, "limit": 6}));
        let expected = serde_json::json!({
            "ioServiceBytesRecursive": [{"major": 8, "minor": 0, "op": "Read", "value": 1}],
            "ioServicedRecursive": [{"major": 8, "minor": 0, "op": "Write", "value": 2}],
        });
        assert_eq!(counted["blkio"], expected);
        let expected = serde_json::json!({"2MB": {"limit": 4, "usage": 3, "failcnt": 0}});
        assert_eq!(counted["hugetlb"], expected);
    }

    #[test]
    fn of_version_2_the_one_tree_counts_in_the_words_of_version_1() {
        let counted = counted(
            Version::V2,
            &["cpu", "memory", "pids", "io", "hugetlb"],
            &[
                (
                    "cpu.stat",
                    "usage_usec 7\nuser_usec 4\nsystem_usec 3\nnr_periods 5\nnr_throttled 2\n\
                     throttled_usec 9\n",
                ),
                ("cpu.pressure", "some avg10=1.50 avg60=2.50 avg300=3.50 total=7\n"),
                ("memory.stat", "anon 8\nfile 9\n"),
                ("memory.max", "20\n"),
                ("memory.current", "10\n"),
                ("memory.peak", "15\n"),
                ("memory.events", "low 0\nmax 2\n"),
                ("memory.swap.max", "5\n"),
                ("memory.swap.current", "1\n"),
                ("memory.pressure", "full avg10=0.50 avg60=0.00 avg300=0.00 total=1\n"),
                ("pids.current", "4\n"),
                ("pids.max", "max\n"),
                ("io.stat", "8:0 rbytes=1 wbytes=0 rios=2 wios=0 dbytes=0 dios=0\n"),
                ("io.pressure", ""),
                ("hugetlb.2MB.current", "3\n"),
                ("hugetlb.2MB.max", "4\n"),
                ("hugetlb.2MB.events", "max 6\n"),
                ("hugetlb.2MB.rsvd.current", "5\n"),
            ],
        );
        let none = serde_json::json!({"avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total": 0});
        let expected = serde_json::json!({
            "usage": {"total": 7000, "kernel": 3000, "user": 4000},
            "throttling": {"periods": 5, "throttledPeriods": 2, "throttledTime": 9000},
            "psi": {"full": none,
                "some": {"avg10": 1.5, "avg60": 2.5, "avg300": 3.5, "total": 7}},
        });
        assert_eq!(counted["cpu"], expected);
        assert_eq!(counted["cpuset"], cpuset());
        let expected = serde_json::json!({
            "cache": 9,
            "usage": {"limit": 20, "usage": 10, "max": 15, "failcnt": 2},
            "swap": {"limit": 25, "usage": 11, "failcnt": 0},
            "kernel": {"limit": 0, "failcnt": 0},
            "kernelTCP": {"limit": 0, "failcnt": 0},
            "raw": {"anon": 8, "file": 9},
            "psi": {"some": none,
                "full": {"avg10": 0.5, "avg60": 0.0, "avg300": 0.0, "total": 1}},
        });
        assert_eq!(counted["memory"], expected);
        assert_eq!(counted["pids"], serde_json::json!({"current": 4}), "no limit is none");
        let entry = |value| {
            let (read, write) = (("Read", value), ("Write", 0));
            [read, write].map(
                |(op, value)| serde_json::json!({"major": 8, "minor": 0, "op": op, "value": value}),
            )
        };
        let expected = serde_json::json!({
            "ioServiceBytesRecursive": entry(1),
            "ioServicedRecursive": entry(2),
            "psi": {"some": none, "full": none},
        });
        assert_eq!(counted["blkio"], expected);
        let expected = serde_json::json!({"2MB": {"limit": 4, "usage": 3, "failcnt": 6}});
        assert_eq!(counted["hugetlb"], expected);
    }

    #[test]
    fn swap_without_a_limit_has_none_together_with_memory_either() {
        let files = [("memory.current", "1"), ("memory.max", "5"), ("memory.swap.max", "max")];
        let counted = counted(Version::V2, &["memory"], &files);
        assert_eq!(counted["memory"]["swap"]["limit"], u64::MAX);
        assert_eq!(counted["memory"]["swap"]["usage"], 1);
    }
}
