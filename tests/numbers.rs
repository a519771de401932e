//! Each number of a configuration at the edges of the types that the kernel has, and
//! what comes of it. A number that the kernel would take for something else than it says
//! is refused; one that it refuses itself may be left to it.

use std::path::Path;

use ferrun::bundle::parse_spec;
use ferrun::error::message;
use ferrun::plan::Plan;
use ferrun::plan::cgroup::{Hierarchy, Layout, Unified};
use ferrun::plan::host::Host;
use ferrun::plan::request::Request;
use serde_json::{Value, json};

const VALUES: [i128; 7] = [-1, 0, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1];

/// What comes of the seven values, and the numbers that it holds for.
type Row = (&'static str, &'static [&'static str]);

const TABLE: &[Row] = &[
    // -1   0  2^31-1 2^31 2^32-1 2^32 2^63-1

    // An id: setresuid(2) and chown(2) take 2^32-1 for "leave what is there", setgroups(2)
    // refuses it. All others are ids.
    (
        "no ok ok ok no no no",
        &[
            "/process/user/uid",
            "/process/user/gid",
            "/process/user/additionalGids/0",
            "/linux/devices/0/uid",
            "/linux/devices/0/gid",
        ],
    ),
    // The first of 65,536 ids: a range that holds 2^32-1 wraps, and the kernel refuses it.
    (
        "no ok ok ok no no no",
        &[
            "/linux/uidMappings/0/containerID",
            "/linux/uidMappings/0/hostID",
            "/linux/gidMappings/0/containerID",
            "/linux/gidMappings/0/hostID",
            "/mounts/0/uidMappings/0/containerID",
            "/mounts/0/uidMappings/0/hostID",
            "/mounts/0/gidMappings/0/containerID",
            "/mounts/0/gidMappings/0/hostID",
        ],
    ),
    // How many ids, from 100,000 on. The kernel refuses a line with 0 as it does a range
    // past the end.
    (
        "no no ok ok no no no",
        &[
            "/linux/uidMappings/0/size",
            "/linux/gidMappings/0/size",
            "/mounts/0/uidMappings/0/size",
            "/mounts/0/gidMappings/0/size",
        ],
    ),
    // Of a device number the kernel keeps 12 bits and 20 (MKDEV): 4097:3 would be /dev/null.
    (
        "no ok no no no no no",
        &[
            "/linux/devices/0/major",
            "/linux/devices/0/minor",
            "/linux/resources/blockIO/weightDevice/0/major",
            "/linux/resources/blockIO/weightDevice/0/minor",
            "/linux/resources/blockIO/throttleReadBpsDevice/0/major",
            "/linux/resources/blockIO/throttleReadBpsDevice/0/minor",
        ],
    ),
    // In a rule -1 says "every"; so does 2^32-1 to devices.allow, which nobody means.
    (
        "ok ok no no no no no",
        &["/linux/resources/devices/1/major", "/linux/resources/devices/1/minor"],
    ),
    // umask(2) drops all but nine bits, and mknod(2) the type, which engines send along.
    ("no ok no no no no no", &["/process/user/umask"]),
    ("no ok ok ok ok no no", &["/linux/devices/0/fileMode"]),
    // sched_setattr(2) takes the nearest of -20 to 19; a priority has no sign there.
    ("ok ok no no no no no", &["/process/scheduler/nice"]),
    ("no ok ok no no no no", &["/process/scheduler/priority"]),
    // Nanoseconds; above 2^63 sched_setattr(2) refuses them.
    (
        "no ok ok ok ok ok ok",
        &["/process/scheduler/runtime", "/process/scheduler/deadline", "/process/scheduler/period"],
    ),
    // ioprio_set(2) has the class in the bits above these three.
    ("no ok no no no no no", &["/process/ioPriority/priority"]),
    // Refused when it is written, which would be in the container.
    ("ok ok no no no no no", &["/process/oomScoreAdj"]),
    // prlimit(2) takes 2^64-1 alone for "no limit". The soft one is not above the hard one.
    ("no ok ok ok ok ok ok", &["/process/rlimits/0/hard", "/process/rlimits/0/soft"]),
    // What is no size of a terminal leaves it as it comes: TIOCSWINSZ has 16 bits.
    ("no ok ok ok ok ok ok", &["/process/consoleSize/height", "/process/consoleSize/width"]),
    // Seconds; what the clock cannot count is no bound at all.
    ("no no ok ok ok ok ok", &["/hooks/poststop/0/timeout"]),
    // timens_offsets refuses what the clock cannot count.
    ("ok ok ok ok ok ok ok", &["/linux/timeOffsets/monotonic/secs"]),
    ("no ok no no no no no", &["/linux/timeOffsets/monotonic/nanosecs"]),
    // Bytes. -1 is no limit, for the kernel too; 0 is what engines write for "not set".
    (
        "ok ok ok ok ok ok ok",
        &[
            "/linux/resources/memory/limit",
            "/linux/resources/memory/reservation",
            "/linux/resources/memory/kernel",
            "/linux/resources/memory/kernelTCP",
            "/linux/resources/pids/limit",
        ],
    ),
    // Memory and swap together, beside a limit of 9,000 bytes.
    ("ok ok ok ok ok ok ok", &["/linux/resources/memory/swap"]),
    ("no ok ok ok ok ok ok", &["/linux/resources/hugepageLimits/0/limit"]),
    ("no ok no no no no no", &["/linux/resources/memory/swappiness"]),
    // cpu.shares takes the nearest of 2 to 262,144: a weight, not an amount.
    ("no ok ok ok ok ok ok", &["/linux/resources/cpu/shares"]),
    // Microseconds: the kernel refuses what it cannot hold. A negative quota is none.
    ("ok ok ok ok ok ok ok", &["/linux/resources/cpu/quota"]),
    ("ok ok ok ok ok ok ok", &["/linux/resources/cpu/realtimeRuntime"]),
    (
        "no ok ok ok ok ok ok",
        &["/linux/resources/cpu/burst", "/linux/resources/cpu/realtimePeriod"],
    ),
    ("no ok no no no no no", &["/linux/resources/cpu/period"]),
    ("no ok no no no no no", &["/linux/resources/cpu/idle"]),
    (
        "no ok no no no no no",
        &[
            "/linux/resources/blockIO/weight",
            "/linux/resources/blockIO/leafWeight",
            "/linux/resources/blockIO/weightDevice/0/weight",
            "/linux/resources/blockIO/weightDevice/0/leafWeight",
        ],
    ),
    ("no ok ok ok ok ok ok", &["/linux/resources/blockIO/throttleReadBpsDevice/0/rate"]),
    // 32 bits there as here; rdma.max refuses the upper half.
    (
        "no ok ok ok ok no no",
        &[
            "/linux/resources/network/classID",
            "/linux/resources/network/priorities/0/priority",
            "/linux/resources/rdma/mlx/hcaHandles",
            "/linux/resources/rdma/mlx/hcaObjects",
        ],
    ),
    // A filter would return the nearest errno, 4095 at the most.
    (
        "no ok no no no no no",
        &["/linux/seccomp/defaultErrnoRet", "/linux/seccomp/syscalls/0/errnoRet"],
    ),
    ("no ok no no no no no", &["/linux/seccomp/syscalls/0/args/0/index"]),
    (
        "no ok ok ok ok ok ok",
        &["/linux/seccomp/syscalls/0/args/0/value", "/linux/seccomp/syscalls/0/args/0/valueTwo"],
    ),
];

/// What version 2 has no file for.
const OF_VERSION_1: [&str; 8] = [
    "/linux/resources/memory/swappiness",
    "/linux/resources/memory/kernel",
    "/linux/resources/memory/kernelTCP",
    "/linux/resources/cpu/realtimeRuntime",
    "/linux/resources/cpu/realtimePeriod",
    "/linux/resources/blockIO/leafWeight",
    "/linux/resources/blockIO/weightDevice/0/leafWeight",
    "/linux/resources/network",
];

/// A configuration with every number that there is.
fn configuration(version_2: bool) -> Value {
    let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    let mut whole = json!({
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs"},
        "hooks": {"poststop": [{"path": "/bin/true", "timeout": 5}]},
        "mounts": [{
            "destination": "/a", "source": "/b", "options": ["bind"],
            "uidMappings": ids, "gidMappings": ids,
        }],
        "process": {
            "args": ["a"],
            "cwd": "/",
            "terminal": true,
            "consoleSize": {"height": 24, "width": 80},
            "user": {"uid": 0, "gid": 0, "umask": 18, "additionalGids": [1]},
            "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": u64::MAX}],
            "oomScoreAdj": 0,
            "scheduler": {
                "policy": "SCHED_OTHER", "nice": 0, "priority": 0,
                "runtime": 1, "deadline": 1, "period": 1,
            },
            "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
        },
    });
    whole["linux"] = json!({
        "namespaces": [{"type": "user"}, {"type": "time"}, {"type": "mount"}],
        "uidMappings": ids,
        "gidMappings": ids,
        "timeOffsets": {"monotonic": {"secs": 1, "nanosecs": 1}},
        "devices": [{
            "path": "/dev/a", "type": "c", "major": 1, "minor": 3,
            "fileMode": 420, "uid": 0, "gid": 0,
        }],
        "resources": resources(),
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 1,
            "syscalls": [{
                "names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
                "args": [{"index": 0, "value": 1, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"}],
            }],
        },
    });
    for place in OF_VERSION_1.iter().filter(|_| version_2) {
        if let Some((above, name)) = place.rsplit_once('/')
            && let Some(Value::Object(above)) = whole.pointer_mut(above)
        {
            above.remove(name);
        }
    }
    whole
}

fn resources() -> Value {
    json!({
        "devices": [
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
        ],
        "memory": {
            "limit": 9000, "reservation": 8000, "swap": -1,
            "swappiness": 1, "kernel": 1, "kernelTCP": 1,
        },
        "cpu": {
            "shares": 2, "quota": 1000, "burst": 1, "period": 1000,
            "realtimeRuntime": 1, "realtimePeriod": 1, "idle": 0,
        },
        "pids": {"limit": 1},
        "blockIO": {
            "weight": 10,
            "leafWeight": 10,
            "weightDevice": [{"major": 8, "minor": 0, "weight": 10, "leafWeight": 10}],
            "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}],
        },
        "hugepageLimits": [{"pageSize": "2MB", "limit": 1}],
        "network": {"classID": 1, "priorities": [{"name": "lo", "priority": 1}]},
        "rdma": {"mlx": {"hcaHandles": 1, "hcaObjects": 1}},
    })
}

fn host(version_2: bool) -> Host {
    let root = Path::new("/sys/fs/cgroup");
    let names = ["cpu", "memory", "pids", "hugetlb", "rdma", "io"].map(str::to_owned).to_vec();
    let cgroups = if version_2 {
        Layout::V2(Unified { controllers: names, mount: root.into() })
    } else {
        let more = ["blkio", "devices", "net_cls", "net_prio"].map(str::to_owned);
        let hierarchies = names
            .into_iter()
            .chain(more)
            .map(|name| Hierarchy { mount: root.join(&name), controllers: vec![name] });
        Layout::V1 { hierarchies: hierarchies.collect(), unified: None }
    };
    Host { cgroups, ..Host::default() }
}

/// The error, if there is one.
fn refusal(configuration: &Value, version_2: bool) -> Option<String> {
    parse_spec(&configuration.to_string())
        .and_then(|(spec, _)| {
            Plan::new(&Request::new(&spec, Path::new("/b"), "c"), &host(version_2))
        })
        .err()
        .map(|error| message(&error))
}

/// The places of all numbers below `value`.
fn places(value: &Value, at: &str) -> Vec<String> {
    match value {
        Value::Number(_) => vec![at.to_owned()],
        Value::Array(list) => list
            .iter()
            .enumerate()
            .flat_map(|(n, item)| places(item, &format!("{at}/{n}")))
            .collect(),
        Value::Object(map) => {
            map.iter().flat_map(|(key, item)| places(item, &format!("{at}/{key}"))).collect()
        }
        _ => Vec::new(),
    }
}

#[test]
fn the_table_has_every_number_once() {
    let mut listed: Vec<_> = TABLE.iter().flat_map(|(_, places)| *places).copied().collect();
    let mut found = places(&configuration(false), "");
    listed.sort_unstable();
    found.sort_unstable();
    assert_eq!(listed, found);
}

#[test]
fn a_number_is_what_the_kernel_takes_it_for_or_refused_by_its_field() {
    for version_2 in [false, true] {
        let configuration = configuration(version_2);
        assert_eq!(refusal(&configuration, version_2), None);
        let rows = TABLE.iter().flat_map(|(row, places)| places.iter().map(move |at| (row, at)));
        for (row, at) in rows {
            if configuration.pointer(at).is_none() {
                continue;
            }
            let words: Vec<&str> = row.split(' ').collect();
            assert_eq!(words.len(), VALUES.len(), "{at}");
            for (value, expected) in VALUES.iter().zip(words) {
                let mut changed = configuration.clone();
                let number = serde_json::from_str(&value.to_string()).unwrap();
                *changed.pointer_mut(at).unwrap() = number;
                let refused = refusal(&changed, version_2);
                let found = if refused.is_some() { "no" } else { "ok" };
                assert_eq!(found, expected, "{at}: {value}: {refused:?}");
                let names = at.rsplit('/').filter(|part| part.parse::<usize>().is_err()).take(2);
                let mut names = names.collect::<Vec<_>>().into_iter();
                let is_named = |text: &String| names.any(|name| text.contains(name));
                assert!(refused.as_ref().is_none_or(is_named), "{at}: {value}: {refused:?}");
            }
        }
    }
}
