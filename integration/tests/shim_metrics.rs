//! What a container uses, as the shim tells containerd.

use std::fs;
use std::path::Path;

use ferrun::plan::cgroup::Group;
use ferrun::store::Store;
use integration::{Bed, Container, View, in_views};
use prost::Message;
use serde_json::json;
use shim::metrics::Meter;
use shim::metrics::messages::{v1, v2};

fn group(bed: &Bed, container: &Container<'_>) -> Group {
    let store = Store::below(&bed.root()).expect("a place for containers");
    store.load(&container.id).expect("a record").record.group
}

fn file(group: &Group, controller: &str, name: &str) -> Option<u64> {
    let path = group.directory_of(controller)?.path.join(name);
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// The current and the greatest number of processes, nanoseconds of a processor, bytes of memory.
#[derive(Debug, Default)]
struct Told {
    processes: Option<(u64, u64)>,
    processor: u64,
    memory: Option<(u64, u64)>,
    counted: u64,
}

/// What a version's message says.
fn told(view: View, meter: &mut Meter) -> Told {
    let any = meter.read().expect("a group");
    if view == View::V2 {
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        let all = v2::Metrics::decode(&*any.value).expect("metrics");
        let memory = all.memory.expect("memory");
        return Told {
            processes: all.pids.map(|pids| (pids.current, pids.limit)),
            processor: all.cpu.expect("a processor").usage_usec * 1000,
            memory: Some((memory.usage, memory.usage_limit)),
            counted: memory.anon + memory.file,
        };
    }
    assert_eq!(any.type_url, "io.containerd.cgroups.v1.Metrics");
    let all = v1::Metrics::decode(&*any.value).expect("metrics");
    let counted = all.memory.as_ref().map_or(0, |memory| memory.total_rss + memory.total_cache);
    let usage = all.memory.and_then(|memory| memory.usage);
    Told {
        processes: all.pids.map(|pids| (pids.current, pids.limit)),
        processor: all.cpu.expect("a processor").usage.expect("its use").total,
        memory: usage.map(|usage| (usage.usage, usage.limit)),
        counted,
    }
}

#[test]
fn what_is_told_is_what_the_files_say_and_nothing_once_the_group_has_gone() {
    in_views(|bed| {
        if bed.is_peer("a library of ferrun's") {
            return;
        }
        let mut bundle =
            bed.bundle().sh("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 100");
        if bed.has_controller("memory") {
            bundle = bundle.with("/linux/resources/memory", json!({"limit": 67_108_864}));
        }
        if bed.has_controller("pids") {
            bundle = bundle.with("/linux/resources/pids", json!({"limit": 33}));
        }
        let container = bed.start(&bundle);
        let group = group(bed, &container);
        let before = open_files();
        let mut meter = Meter::new(&group);
        assert!(open_files() > before + 3, "they are open");
        let first = told(bed.view, &mut meter);
        integration::eventually("it has used a processor", || {
            told(bed.view, &mut meter).processor > first.processor.max(1_000_000)
        });
        if bed.has_controller("memory") {
            // The kernel adds its counters up every two seconds.
            integration::eventually("its memory is counted", || {
                told(bed.view, &mut meter).counted > 0
            });
        }
        let told_now = told(bed.view, &mut meter);
        if bed.has_controller("pids") {
            let processes = told_now.processes.expect("processes");
            assert!(processes.0 >= 1 && processes.1 == 33, "{processes:?}");
        }
        if bed.has_controller("memory") {
            let (usage, limit) = told_now.memory.expect("memory");
            assert_eq!(limit, 67_108_864);
            assert!(usage > 0 && usage < limit, "{told_now:?}");
            let name = bed.by_version("memory.limit_in_bytes", "memory.max");
            assert_eq!(file(&group, "memory", name), Some(limit));
        }
        // Of a group that was there no number is left over, and no descriptor.
        bed.runtime(["delete", "--force", &container.id]).success();
        let gone = told(bed.view, &mut meter);
        assert_eq!((gone.processor, gone.counted), (0, 0), "{gone:?}");
        drop(meter);
        assert_eq!(open_files(), before);
        assert!(!Path::new(&group.directories[0].path).exists());
    });
}
