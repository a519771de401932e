//! What is null is not given, whatever it is and whichever of the two readings of a
//! configuration it meets; and an empty text is none where the specification requires one
//! or an engine writes it for nothing.

use std::path::Path;

use ferrun::bundle::parse_spec;
use ferrun::error::message;
use ferrun::plan::Plan;
use ferrun::plan::cgroup::{Hierarchy, Layout};
use ferrun::plan::host::Host;
use ferrun::plan::request::Request;
use serde_json::{Value, json};

/// The specification's name for it is read only when the first reading has failed.
const FLAGS: [&str; 2] = ["SCHED_RESET_ON_FORK", "SCHED_FLAG_RESET_ON_FORK"];

fn host() -> Host {
    let controllers = [
        "cpu", "cpuset", "memory", "pids", "hugetlb", "rdma", "blkio", "devices", "net_cls",
        "net_prio",
    ];
    let hierarchies = controllers.iter().map(|name| Hierarchy {
        mount: Path::new("/sys/fs/cgroup").join(name),
        controllers: vec![(*name).to_owned()],
    });
    let cgroups = Layout::V1 { hierarchies: hierarchies.collect(), unified: None };
    Host { cgroups, ..Host::default() }
}

/// A configuration with almost every property.
fn configuration(flag: &str) -> Value {
    let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    json!({
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "h",
        "domainname": "d",
        "annotations": {"a": "b"},
        "hooks": {
            "prestart": [{"path": "/bin/true", "args": ["true"], "env": ["A=b"], "timeout": 5}],
            "poststop": [{"path": "/bin/true"}],
        },
        "mounts": [
            {
                "destination": "/a", "type": "bind", "source": "/b", "options": ["bind"],
                "uidMappings": ids, "gidMappings": ids,
            },
            {"destination": "/t", "type": "tmpfs", "source": "t", "options": ["ro"]},
        ],
        "process": process(flag),
        "linux": linux(&ids),
    })
}

fn process(flag: &str) -> Value {
    let kill = json!(["CAP_KILL"]);
    json!({
        "args": ["a"],
        "cwd": "/",
        "env": ["A=b"],
        "terminal": true,
        "noNewPrivileges": true,
        "consoleSize": {"height": 24, "width": 80},
        "user": {"uid": 0, "gid": 0, "umask": 18, "additionalGids": [1]},
        "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 1}],
        "oomScoreAdj": 0,
        "apparmorProfile": "p",
        "selinuxLabel": "l",
        "capabilities": {
            "bounding": kill, "effective": kill, "permitted": kill, "inheritable": kill,
            "ambient": kill,
        },
        "scheduler": {
            "policy": "SCHED_OTHER", "nice": 0, "priority": 0, "flags": [flag], "runtime": 1,
            "deadline": 1, "period": 1,
        },
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
        "execCPUAffinity": {"initial": "0", "final": "1"},
    })
}

fn linux(ids: &Value) -> Value {
    json!({
        "namespaces": [
            {"type": "user"}, {"type": "time"}, {"type": "mount"}, {"type": "uts"},
            {"type": "ipc"}, {"type": "pid"}, {"type": "network", "path": "/n"},
        ],
        "uidMappings": ids,
        "gidMappings": ids,
        "timeOffsets": {"monotonic": {"secs": 1, "nanosecs": 1}},
        "devices": [{
            "path": "/dev/a", "type": "c", "major": 1, "minor": 3, "fileMode": 420, "uid": 0,
            "gid": 0,
        }],
        "netDevices": {"e": {"name": "eth0"}},
        "cgroupsPath": "/c",
        "sysctl": {"kernel.msgmax": "1"},
        "rootfsPropagation": "rslave",
        "maskedPaths": ["/m"],
        "readonlyPaths": ["/r"],
        "mountLabel": "l",
        "personality": {"domain": "LINUX", "flags": []},
        "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]},
        "resources": {
            "devices": [{"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}],
            "memory": {"limit": 9000, "reservation": 8000, "swap": -1, "swappiness": 1},
            "cpu": {"shares": 2, "quota": 1000, "period": 1000, "cpus": "0", "mems": "0"},
            "pids": {"limit": 1},
            "blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 10}]},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 1}],
            "network": {"classID": 1, "priorities": [{"name": "lo", "priority": 1}]},
            "rdma": {"mlx": {"hcaHandles": 1, "hcaObjects": 1}},
        },
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 1,
            "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [{
                "names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
                "args": [{"index": 0, "value": 1, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"}],
            }],
        },
    })
}

/// The plan in words, or why there is none.
fn outcome(configuration: &Value) -> Result<String, String> {
    let (spec, warnings) =
        parse_spec(&configuration.to_string()).map_err(|error| message(&error))?;
    let plan = Plan::new(&Request::new(&spec, Path::new("/b"), "c"), &host())
        .map_err(|error| message(&error))?;
    Ok(format!("{plan:?} {warnings:?}"))
}

/// The places of all properties below `value`.
fn properties(value: &Value, at: &str) -> Vec<String> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| {
                let at = format!("{at}/{key}");
                let below = properties(value, &at);
                std::iter::once(at).chain(below)
            })
            .collect(),
        Value::Array(list) => {
            let items = list.iter().enumerate();
            items.flat_map(|(number, item)| properties(item, &format!("{at}/{number}"))).collect()
        }
        _ => Vec::new(),
    }
}

#[test]
fn what_is_null_is_not_given() {
    for flag in FLAGS {
        let whole = configuration(flag);
        assert!(outcome(&whole).is_ok(), "{:?}", outcome(&whole));
        let places = properties(&whole, "");
        assert!(places.len() > 150, "{}", places.len());
        for place in places {
            let (above, name) = place.rsplit_once('/').unwrap();
            let (mut absent, mut null) = (whole.clone(), whole.clone());
            absent.pointer_mut(above).unwrap().as_object_mut().unwrap().remove(name);
            *null.pointer_mut(&place).unwrap() = Value::Null;
            match (outcome(&absent), outcome(&null)) {
                // A version that is null is one of no form.
                (Err(_), Err(_)) => {}
                (absent, null) => assert!(absent == null, "{place}"),
            }
        }
    }
}

#[test]
fn an_empty_text_is_none() {
    for flag in FLAGS {
        for place in [
            "/root/path",
            "/hostname",
            "/domainname",
            "/mounts/1/source",
            "/mounts/1/type",
            "/process/apparmorProfile",
            "/process/selinuxLabel",
            "/process/execCPUAffinity/initial",
            "/process/execCPUAffinity/final",
            "/linux/namespaces/6/path",
            "/linux/cgroupsPath",
            "/linux/netDevices/e/name",
            "/linux/rootfsPropagation",
            "/linux/mountLabel",
            "/linux/resources/cpu/cpus",
            "/linux/resources/cpu/mems",
            "/linux/resources/devices/0/access",
            "/linux/resources/devices/0/type",
        ] {
            let (above, name) = place.rsplit_once('/').unwrap();
            let (mut absent, mut empty) = (configuration(flag), configuration(flag));
            absent.pointer_mut(above).unwrap().as_object_mut().unwrap().remove(name).unwrap();
            *empty.pointer_mut(place).unwrap() = json!("");
            assert!(outcome(&absent) == outcome(&empty), "{place}");
        }
    }
}
