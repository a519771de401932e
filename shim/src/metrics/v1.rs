//! The files of version 1, one tree for each controller.

use ferrun::plan::cgroup::Group;

use super::messages::v1::{
    BlkIoEntry, BlkIoStat, CpuStat, CpuUsage, HugetlbStat, MemoryEntry, MemoryOomControl,
    MemoryStat, Metrics, PidsStat, RdmaEntry, RdmaStat, Throttle,
};
use super::{File, Fill, USUAL, number, page_sizes, pairs, rdma};

/// How many of what cpuacct.stat counts are a second, on every machine (USER_HZ).
const TICK: u64 = 1_000_000_000 / 100;

/// A file by its controller, and what it says.
type Row = (&'static str, &'static str, Fill<Metrics>);

const FILES: &[Row] = &[
    ("pids", "pids.current", |all, text| pids(all).current = number(text)),
    ("pids", "pids.max", |all, text| pids(all).limit = number(text)),
    ("cpuacct", "cpuacct.usage", |all, text| usage(all).total = number(text)),
    ("cpuacct", "cpuacct.usage_percpu", |all, text| {
        usage(all).per_cpu = text.split_whitespace().map(number).collect();
    }),
    ("cpuacct", "cpuacct.stat", |all, text| {
        for (key, ticks) in pairs(text) {
            match key {
                "user" => usage(all).user = ticks * TICK,
                "system" => usage(all).kernel = ticks * TICK,
                _ => {}
            }
        }
    }),
    ("cpu", "cpu.stat", throttling),
    ("memory", "memory.stat", memory_stat),
    ("memory", "memory.oom_control", oom_control),
    ("memory", "memory.usage_in_bytes", |all, text| plain(all).usage = number(text)),
    ("memory", "memory.max_usage_in_bytes", |all, text| plain(all).max = number(text)),
    ("memory", "memory.failcnt", |all, text| plain(all).failcnt = number(text)),
    ("memory", "memory.limit_in_bytes", |all, text| plain(all).limit = number(text)),
    ("memory", "memory.memsw.usage_in_bytes", |all, text| swap(all).usage = number(text)),
    ("memory", "memory.memsw.max_usage_in_bytes", |all, text| swap(all).max = number(text)),
    ("memory", "memory.memsw.failcnt", |all, text| swap(all).failcnt = number(text)),
    ("memory", "memory.memsw.limit_in_bytes", |all, text| swap(all).limit = number(text)),
    ("memory", "memory.kmem.usage_in_bytes", |all, text| kernel(all).usage = number(text)),
    ("memory", "memory.kmem.max_usage_in_bytes", |all, text| kernel(all).max = number(text)),
    ("memory", "memory.kmem.failcnt", |all, text| kernel(all).failcnt = number(text)),
    ("memory", "memory.kmem.limit_in_bytes", |all, text| kernel(all).limit = number(text)),
    ("memory", "memory.kmem.tcp.usage_in_bytes", |all, text| tcp(all).usage = number(text)),
    ("memory", "memory.kmem.tcp.max_usage_in_bytes", |all, text| tcp(all).max = number(text)),
    ("memory", "memory.kmem.tcp.failcnt", |all, text| tcp(all).failcnt = number(text)),
    ("memory", "memory.kmem.tcp.limit_in_bytes", |all, text| tcp(all).limit = number(text)),
    ("blkio", "blkio.throttle.io_serviced_recursive", |all, text| {
        block(all).io_serviced_recursive = entries(text).collect();
    }),
    ("blkio", "blkio.throttle.io_service_bytes_recursive", |all, text| {
        block(all).io_service_bytes_recursive = entries(text).collect();
    }),
    ("rdma", "rdma.current", |all, text| {
        all.rdma.get_or_insert_default().current = rdma(text).map(rdma_entry).collect();
    }),
    ("rdma", "rdma.max", |all, text| {
        all.rdma.get_or_insert_with(RdmaStat::default).limit = rdma(text).map(rdma_entry).collect();
    }),
];

const HUGE_FILES: [(&str, Fill<HugetlbStat>); 3] = [
    ("usage_in_bytes", |huge, text| huge.usage = number(text)),
    ("max_usage_in_bytes", |huge, text| huge.max = number(text)),
    ("failcnt", |huge, text| huge.failcnt = number(text)),
];

/// The files of one container, with what they say.
#[derive(Debug)]
pub struct Meter {
    files: Vec<(File, Fill<Metrics>)>,
    huge: Vec<Huge>,
    devices: Vec<(u64, u64, String)>,
}

/// A size of pages.
#[derive(Debug)]
struct Huge {
    size: String,
    files: Vec<(File, Fill<HugetlbStat>)>,
}

impl Meter {
    pub fn new(group: &Group) -> Self {
        let directory = |controller: &str| {
            let mut all = group.directories.iter();
            all.find(|directory| directory.controllers.iter().any(|name| name == controller))
        };
        let files = FILES.iter().filter_map(|(controller, name, fill)| {
            Some((File::find(&directory(controller)?.path, *name)?, *fill))
        });
        let huge = directory("hugetlb").into_iter().flat_map(|directory| {
            page_sizes().into_iter().map(|size| {
                let files = HUGE_FILES.iter().filter_map(|(name, fill)| {
                    let name = format!("hugetlb.{size}.{name}");
                    Some((File::find(&directory.path, name)?, *fill))
                });
                Huge { files: files.collect(), size }
            })
        });
        Self { files: files.collect(), huge: huge.collect(), devices: Vec::new() }
    }

    pub fn read(&mut self) -> Metrics {
        let mut buffer = vec![0; USUAL];
        let mut all = Metrics::default();
        usage(&mut all);
        cpu(&mut all).throttling.get_or_insert_with(Throttle::default);
        for (file, fill) in &self.files {
            if let Some(text) = file.read(&mut buffer) {
                fill(&mut all, text);
            }
        }
        for huge in &self.huge {
            let mut found = HugetlbStat { pagesize: huge.size.clone(), ..HugetlbStat::default() };
            for (file, fill) in &huge.files {
                if let Some(text) = file.read(&mut buffer) {
                    fill(&mut found, text);
                }
            }
            all.hugetlb.push(found);
        }
        self.name_devices(&mut all);
        all
    }

    /// Block devices have their names, which are looked up where one is new.
    fn name_devices(&mut self, all: &mut Metrics) {
        let Some(block) = &mut all.blkio else { return };
        let lists = [&mut block.io_service_bytes_recursive, &mut block.io_serviced_recursive];
        for entry in lists.into_iter().flatten() {
            let known = |(major, minor, _): &(u64, u64, String)| {
                (*major, *minor) == (entry.major, entry.minor)
            };
            if !self.devices.iter().any(known) {
                let text = std::fs::read_to_string("/proc/partitions").unwrap_or_default();
                self.devices = devices(&text);
            }
            match self.devices.iter().find(|device| known(device)) {
                Some((_, _, name)) => entry.device.clone_from(name),
                None => self.devices.push((entry.major, entry.minor, String::new())),
            }
        }
    }
}

/// Lines such as ` 254        0  104857600 vda`, below a head.
fn devices(text: &str) -> Vec<(u64, u64, String)> {
    let device = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some((major, minor, format!("/dev/{}", words.nth(1)?)))
    };
    text.lines().filter_map(device).collect()
}

fn pids(all: &mut Metrics) -> &mut PidsStat {
    all.pids.get_or_insert_with(PidsStat::default)
}

fn cpu(all: &mut Metrics) -> &mut CpuStat {
    all.cpu.get_or_insert_with(CpuStat::default)
}

fn usage(all: &mut Metrics) -> &mut CpuUsage {
    cpu(all).usage.get_or_insert_with(CpuUsage::default)
}

fn memory(all: &mut Metrics) -> &mut MemoryStat {
    all.memory.get_or_insert_with(MemoryStat::default)
}

fn plain(all: &mut Metrics) -> &mut MemoryEntry {
    memory(all).usage.get_or_insert_with(MemoryEntry::default)
}

fn swap(all: &mut Metrics) -> &mut MemoryEntry {
    memory(all).swap.get_or_insert_with(MemoryEntry::default)
}

fn kernel(all: &mut Metrics) -> &mut MemoryEntry {
    memory(all).kernel.get_or_insert_with(MemoryEntry::default)
}

fn tcp(all: &mut Metrics) -> &mut MemoryEntry {
    memory(all).kernel_tcp.get_or_insert_with(MemoryEntry::default)
}

fn block(all: &mut Metrics) -> &mut BlkIoStat {
    all.blkio.get_or_insert_with(BlkIoStat::default)
}

fn rdma_entry((device, hca_handles, hca_objects): (String, u32, u32)) -> RdmaEntry {
    RdmaEntry { device, hca_handles, hca_objects }
}

fn throttling(all: &mut Metrics, text: &str) {
    let throttle = cpu(all).throttling.get_or_insert_with(Throttle::default);
    for (key, value) in pairs(text) {
        match key {
            "nr_periods" => throttle.periods = value,
            "nr_throttled" => throttle.throttled_periods = value,
            "throttled_time" => throttle.throttled_time = value,
            _ => {}
        }
    }
}

fn oom_control(all: &mut Metrics, text: &str) {
    let control = all.memory_oom_control.get_or_insert_with(MemoryOomControl::default);
    for (key, value) in pairs(text) {
        match key {
            "oom_kill_disable" => control.oom_kill_disable = value,
            "under_oom" => control.under_oom = value,
            "oom_kill" => control.oom_kill = value,
            _ => {}
        }
    }
}

fn memory_stat(all: &mut Metrics, text: &str) {
    let memory = memory(all);
    // Those that the kernel has no files for are there, and 0.
    memory.usage.get_or_insert_with(MemoryEntry::default);
    memory.swap.get_or_insert_with(MemoryEntry::default);
    memory.kernel.get_or_insert_with(MemoryEntry::default);
    memory.kernel_tcp.get_or_insert_with(MemoryEntry::default);
    for (key, value) in pairs(text) {
        let field = match key {
            "cache" => &mut memory.cache,
            "rss" => &mut memory.rss,
            "rss_huge" => &mut memory.rss_huge,
            "mapped_file" => &mut memory.mapped_file,
            "dirty" => &mut memory.dirty,
            "writeback" => &mut memory.writeback,
            "pgpgin" => &mut memory.pg_pg_in,
            "pgpgout" => &mut memory.pg_pg_out,
            "pgfault" => &mut memory.pg_fault,
            "pgmajfault" => &mut memory.pg_maj_fault,
            "inactive_anon" => &mut memory.inactive_anon,
            "active_anon" => &mut memory.active_anon,
            "inactive_file" => &mut memory.inactive_file,
            "active_file" => &mut memory.active_file,
            "unevictable" => &mut memory.unevictable,
            "hierarchical_memory_limit" => &mut memory.hierarchical_memory_limit,
            "hierarchical_memsw_limit" => &mut memory.hierarchical_swap_limit,
            "total_cache" => &mut memory.total_cache,
            "total_rss" => &mut memory.total_rss,
            "total_rss_huge" => &mut memory.total_rss_huge,
            "total_mapped_file" => &mut memory.total_mapped_file,
            "total_dirty" => &mut memory.total_dirty,
            "total_writeback" => &mut memory.total_writeback,
            "total_pgpgin" => &mut memory.total_pg_pg_in,
            "total_pgpgout" => &mut memory.total_pg_pg_out,
            "total_pgfault" => &mut memory.total_pg_fault,
            "total_pgmajfault" => &mut memory.total_pg_maj_fault,
            "total_inactive_anon" => &mut memory.total_inactive_anon,
            "total_active_anon" => &mut memory.total_active_anon,
            "total_inactive_file" => &mut memory.total_inactive_file,
            "total_active_file" => &mut memory.total_active_file,
            "total_unevictable" => &mut memory.total_unevictable,
            _ => continue,
        };
        *field = value;
    }
}

/// Lines such as `254:0 Read 4096`; the sum below them has no device.
fn entries(text: &str) -> impl Iterator<Item = BlkIoEntry> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        let (op, value) = (words.next()?.to_owned(), number(words.next()?));
        let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
        Some(BlkIoEntry { op, device: String::new(), major, minor, value })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(rows: &[(&str, &str)]) -> Metrics {
        let mut all = Metrics::default();
        for (name, text) in rows {
            let (_, _, fill) = FILES.iter().find(|(_, file, _)| file == name).unwrap();
            fill(&mut all, text);
        }
        all
    }

    #[test]
    fn each_file_has_its_field() {
        let all = filled(&[
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            ("cpuacct.stat", "user 2\nsystem 1\n"),
            ("cpuacct.usage_percpu", "5 6 \n"),
            ("cpu.stat", "nr_periods 1\nnr_throttled 2\nthrottled_time 3\n"),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 1\noom_kill 7\n"),
            ("memory.kmem.tcp.limit_in_bytes", "9\n"),
        ]);
        assert_eq!(all.pids.unwrap(), PidsStat { current: 3, limit: 0 });
        let cpu = all.cpu.unwrap();
        let usage = cpu.usage.unwrap();
        assert_eq!((usage.user, usage.kernel), (20_000_000, 10_000_000));
        assert_eq!(usage.per_cpu, [5, 6]);
        let throttle = Throttle { periods: 1, throttled_periods: 2, throttled_time: 3 };
        assert_eq!(cpu.throttling, Some(throttle));
        assert_eq!(all.memory_oom_control.unwrap().oom_kill, 7);
        assert_eq!(all.memory.unwrap().kernel_tcp.unwrap().limit, 9);
    }

    #[test]
    fn memory_has_all_its_entries_whatever_files_there_are() {
        let memory = filled(&[("memory.stat", "cache 1\ntotal_pgmajfault 2\nnew_word 3\n")]).memory;
        let memory = memory.unwrap();
        assert_eq!((memory.cache, memory.total_pg_maj_fault), (1, 2));
        assert_eq!(memory.kernel, Some(MemoryEntry::default()));
    }

    #[test]
    fn block_devices_have_names_and_their_sum_is_left_out() {
        let found: Vec<_> = entries("254:0 Read 4096\n254:0 Write 5\nTotal 4101\n").collect();
        assert_eq!(found.len(), 2);
        assert_eq!((found[1].major, found[1].op.as_str(), found[1].value), (254, "Write", 5));
        let table = "major minor  #blocks  name\n\n 254        0  104857600 vda\n";
        assert_eq!(devices(table), [(254, 0, "/dev/vda".to_owned())]);
    }
}
