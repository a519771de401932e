//! The files of version 2, all in one directory.

use std::path::Path;

use super::messages::v2::{
    CpuStat, HugeTlbStat, IoEntry, IoStat, MemoryEvents, MemoryStat, Metrics, PidsStat, PsiData,
    PsiStats, RdmaEntry, RdmaStat,
};
use super::{File, Fill, USUAL, number, page_sizes, pairs, rdma};

const FILES: &[(&str, Fill<Metrics>)] = &[
    ("pids.current", |all, text| pids(all).current = limit(text)),
    ("pids.max", |all, text| pids(all).limit = limit(text)),
    ("cpu.stat", cpu_stat),
    ("cpu.pressure", |all, text| cpu(all).psi = Some(pressure(text))),
    ("memory.stat", memory_stat),
    ("memory.current", |all, text| memory(all).usage = limit(text)),
    ("memory.max", |all, text| memory(all).usage_limit = limit(text)),
    ("memory.peak", |all, text| memory(all).max_usage = limit(text)),
    ("memory.swap.current", |all, text| memory(all).swap_usage = limit(text)),
    ("memory.swap.max", |all, text| memory(all).swap_limit = limit(text)),
    ("memory.swap.peak", |all, text| memory(all).swap_max_usage = limit(text)),
    ("memory.pressure", |all, text| memory(all).psi = Some(pressure(text))),
    ("memory.events", memory_events),
    ("io.stat", |all, text| io(all).usage = entries(text).collect()),
    ("io.pressure", |all, text| io(all).psi = Some(pressure(text))),
    ("rdma.current", |all, text| rdma_of(all).current = rdma(text).map(rdma_entry).collect()),
    ("rdma.max", |all, text| rdma_of(all).limit = rdma(text).map(rdma_entry).collect()),
];

const HUGE_FILES: [(&str, Fill<HugeTlbStat>); 3] = [
    ("max", |huge, text| huge.max = limit(text)),
    ("current", |huge, text| huge.current = limit(text)),
    ("events", |huge, text| {
        huge.failcnt = pairs(text).find(|(key, _)| *key == "max").map_or(0, |(_, count)| count);
    }),
];

/// The files of one container, with what they say.
#[derive(Debug)]
pub struct Meter {
    files: Vec<(File, Fill<Metrics>)>,
    huge: Vec<Huge>,
}

/// A size of pages.
#[derive(Debug)]
struct Huge {
    size: String,
    files: Vec<(File, Fill<HugeTlbStat>)>,
}

impl Meter {
    pub fn new(directory: &Path) -> Self {
        let files = FILES.iter();
        let files = files.filter_map(|(name, fill)| Some((File::find(directory, *name)?, *fill)));
        let huge = page_sizes().into_iter().map(|size| {
            let files = HUGE_FILES.iter().filter_map(|(name, fill)| {
                Some((File::find(directory, format!("hugetlb.{size}.{name}"))?, *fill))
            });
            Huge { files: files.collect(), size }
        });
        Self { files: files.collect(), huge: huge.collect() }
    }

    pub fn read(&mut self) -> Metrics {
        let mut buffer = vec![0; USUAL];
        let mut all = Metrics::default();
        // All parts but the events are there, whatever the kernel counts.
        pids(&mut all);
        cpu(&mut all);
        memory(&mut all);
        io(&mut all);
        rdma_of(&mut all);
        for (file, fill) in &self.files {
            if let Some(text) = file.read(&mut buffer) {
                fill(&mut all, text);
            }
        }
        for huge in &self.huge {
            let mut found = HugeTlbStat { pagesize: huge.size.clone(), ..HugeTlbStat::default() };
            for (file, fill) in &huge.files {
                if let Some(text) = file.read(&mut buffer) {
                    fill(&mut found, text);
                }
            }
            all.hugetlb.push(found);
        }
        all
    }
}

/// A number, of which `max` is the greatest.
fn limit(text: &str) -> u64 {
    if text.trim_end() == "max" { u64::MAX } else { number(text) }
}

fn pids(all: &mut Metrics) -> &mut PidsStat {
    all.pids.get_or_insert_with(PidsStat::default)
}

fn cpu(all: &mut Metrics) -> &mut CpuStat {
    all.cpu.get_or_insert_with(CpuStat::default)
}

fn memory(all: &mut Metrics) -> &mut MemoryStat {
    all.memory.get_or_insert_with(MemoryStat::default)
}

fn io(all: &mut Metrics) -> &mut IoStat {
    all.io.get_or_insert_with(IoStat::default)
}

fn rdma_of(all: &mut Metrics) -> &mut RdmaStat {
    all.rdma.get_or_insert_with(RdmaStat::default)
}

fn rdma_entry((device, hca_handles, hca_objects): (String, u32, u32)) -> RdmaEntry {
    RdmaEntry { device, hca_handles, hca_objects }
}

fn cpu_stat(all: &mut Metrics, text: &str) {
    let cpu = cpu(all);
    for (key, value) in pairs(text) {
        let field = match key {
            "usage_usec" => &mut cpu.usage_usec,
            "user_usec" => &mut cpu.user_usec,
            "system_usec" => &mut cpu.system_usec,
            "nr_periods" => &mut cpu.nr_periods,
            "nr_throttled" => &mut cpu.nr_throttled,
            "throttled_usec" => &mut cpu.throttled_usec,
            "nr_bursts" => &mut cpu.nr_bursts,
            "burst_usec" => &mut cpu.burst_usec,
            _ => continue,
        };
        *field = value;
    }
}

fn memory_events(all: &mut Metrics, text: &str) {
    let events = all.memory_events.get_or_insert_with(MemoryEvents::default);
    for (key, value) in pairs(text) {
        let field = match key {
            "low" => &mut events.low,
            "high" => &mut events.high,
            "max" => &mut events.max,
            "oom" => &mut events.oom,
            "oom_kill" => &mut events.oom_kill,
            "oom_group_kill" => &mut events.oom_group_kill,
            _ => continue,
        };
        *field = value;
    }
}

fn memory_stat(all: &mut Metrics, text: &str) {
    let memory = memory(all);
    for (key, value) in pairs(text) {
        let field = match key {
            "anon" => &mut memory.anon,
            "file" => &mut memory.file,
            "kernel_stack" => &mut memory.kernel_stack,
            "slab" => &mut memory.slab,
            "sock" => &mut memory.sock,
            "shmem" => &mut memory.shmem,
            "file_mapped" => &mut memory.file_mapped,
            "file_dirty" => &mut memory.file_dirty,
            "file_writeback" => &mut memory.file_writeback,
            "anon_thp" => &mut memory.anon_thp,
            "inactive_anon" => &mut memory.inactive_anon,
            "active_anon" => &mut memory.active_anon,
            "inactive_file" => &mut memory.inactive_file,
            "active_file" => &mut memory.active_file,
            "unevictable" => &mut memory.unevictable,
            "slab_reclaimable" => &mut memory.slab_reclaimable,
            "slab_unreclaimable" => &mut memory.slab_unreclaimable,
            "pgfault" => &mut memory.pgfault,
            "pgmajfault" => &mut memory.pgmajfault,
            "workingset_refault" => &mut memory.workingset_refault,
            "workingset_activate" => &mut memory.workingset_activate,
            "workingset_nodereclaim" => &mut memory.workingset_nodereclaim,
            "pgrefill" => &mut memory.pgrefill,
            "pgscan" => &mut memory.pgscan,
            "pgsteal" => &mut memory.pgsteal,
            "pgactivate" => &mut memory.pgactivate,
            "pgdeactivate" => &mut memory.pgdeactivate,
            "pglazyfree" => &mut memory.pglazyfree,
            "pglazyfreed" => &mut memory.pglazyfreed,
            "thp_fault_alloc" => &mut memory.thp_fault_alloc,
            "thp_collapse_alloc" => &mut memory.thp_collapse_alloc,
            _ => continue,
        };
        *field = value;
    }
}

/// Lines such as `254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn entries(text: &str) -> impl Iterator<Item = IoEntry> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
        let mut entry = IoEntry { major, minor, ..IoEntry::default() };
        let mut counts = words.filter_map(|word| word.split_once('=')).peekable();
        // A device that has done nothing has a line with its number alone.
        counts.peek()?;
        for (key, value) in counts {
            let field = match key {
                "rbytes" => &mut entry.rbytes,
                "wbytes" => &mut entry.wbytes,
                "rios" => &mut entry.rios,
                "wios" => &mut entry.wios,
                _ => continue,
            };
            *field = number(value);
        }
        Some(entry)
    })
}

/// Lines such as `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`.
fn pressure(text: &str) -> PsiStats {
    let line = |kind: &str| {
        let words = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
        let mut data = PsiData::default();
        for (key, value) in words.split(' ').filter_map(|word| word.split_once('=')) {
            match key {
                "avg10" => data.avg10 = value.parse().unwrap_or(0.0),
                "avg60" => data.avg60 = value.parse().unwrap_or(0.0),
                "avg300" => data.avg300 = value.parse().unwrap_or(0.0),
                "total" => data.total = number(value),
                _ => {}
            }
        }
        Some(data)
    };
    PsiStats { some: line("some"), full: line("full") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(rows: &[(&str, &str)]) -> Metrics {
        let mut all = Metrics::default();
        for (name, text) in rows {
            let (_, fill) = FILES.iter().find(|(file, _)| file == name).unwrap();
            fill(&mut all, text);
        }
        all
    }

    #[test]
    fn each_file_has_its_field() {
        let all = filled(&[
            ("pids.max", "max\n"),
            ("cpu.stat", "usage_usec 7\nnr_bursts 1\nnew_word 2\n"),
            ("memory.stat", "anon 1\nthp_collapse_alloc 2\n"),
            ("memory.max", "max\n"),
            ("memory.swap.peak", "4\n"),
            ("memory.events", "low 0\noom_kill 3\noom_group_kill 5\n"),
        ]);
        assert_eq!(all.pids.unwrap().limit, u64::MAX);
        let cpu = all.cpu.unwrap();
        assert_eq!((cpu.usage_usec, cpu.nr_bursts), (7, 1));
        let memory = all.memory.unwrap();
        assert_eq!((memory.anon, memory.thp_collapse_alloc), (1, 2));
        assert_eq!((memory.usage_limit, memory.swap_max_usage), (u64::MAX, 4));
        let events = all.memory_events.unwrap();
        assert_eq!((events.oom_kill, events.oom_group_kill), (3, 5));
    }

    #[test]
    fn devices_and_pressure_are_read() {
        let text = "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n7:0 \n";
        let found: Vec<_> = entries(text).collect();
        let expected = IoEntry { major: 254, minor: 0, rbytes: 1, wbytes: 2, rios: 3, wios: 4 };
        assert_eq!(found, [expected]);
        let found = pressure("some avg10=1.50 avg60=0.00 avg300=0.25 total=77\n");
        let some = found.some.unwrap();
        assert_eq!((some.avg10, some.avg300, some.total), (1.5, 0.25, 77));
        assert_eq!(found.full, None);
    }
}
