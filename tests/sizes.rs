//! Each list of a configuration may be long: to plan twice as much takes about twice as long. What
//! was compared with all before it took a quarter of a minute here.

use std::path::Path;
use std::time::{Duration, Instant};

use ferrun::bundle::parse_spec;
use ferrun::error::message;
use ferrun::plan::Plan;
use ferrun::plan::cgroup::{Layout, Unified};
use ferrun::plan::host::Host;
use ferrun::plan::request::Request;
use serde_json::{Map, Value, json};

const MANY: usize = 20_000;
/// Far more than any takes, also without optimisation and on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

fn configuration() -> Value {
    json!({
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs"},
        "process": {
            "args": ["a"], "cwd": "/", "env": [], "user": {"uid": 0, "gid": 0, "additionalGids": []},
            "capabilities": {"bounding": [], "effective": []},
        },
        "mounts": [],
        "hooks": {"poststop": []},
        "annotations": {},
        "linux": {
            "namespaces": [{"type": "mount"}, {"type": "network"}, {"type": "ipc"}],
            "resources": {"devices": [], "unified": {}, "blockIO": {"throttleReadBpsDevice": []}},
            "devices": [], "maskedPaths": [], "readonlyPaths": [], "sysctl": {}, "netDevices": {},
            "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []},
        },
    })
}

fn list(item: impl Fn(usize) -> Value) -> Value {
    (0..MANY).map(item).collect()
}

fn map(entry: impl Fn(usize) -> (String, Value)) -> Value {
    Value::Object((0..MANY).map(entry).collect::<Map<_, _>>())
}

#[test]
fn no_list_is_too_long_to_be_planned() {
    let controllers = ["io", "pids"].map(str::to_owned).to_vec();
    let cgroups = Layout::V2(Unified { controllers, mount: "/sys/fs/cgroup".into() });
    let host = Host { cgroups, ..Host::default() };
    let bind = |source: &str| {
        let source = source.to_owned();
        list(
            move |at| json!({"destination": format!("/d/{at}"), "source": source, "options": ["bind"]}),
        )
    };
    let node =
        |at: usize| json!({"path": format!("/dev/x{at}"), "type": "c", "major": 1, "minor": at});
    let rule =
        |at: usize| json!({"allow": true, "type": "c", "major": 1, "minor": at, "access": "rwm"});
    let rows = [
        ("/mounts", bind("/s")),
        ("/process/env", list(|at| json!(format!("N{at}=v")))),
        ("/process/user/additionalGids", list(|at| json!(at))),
        ("/process/args", list(|at| json!(format!("{at}")))),
        ("/process/capabilities/bounding", list(|_| json!("CAP_KILL"))),
        ("/hooks/poststop", list(|_| json!({"path": "/bin/true"}))),
        ("/annotations", map(|at| (format!("a{at}"), json!("v")))),
        ("/linux/maskedPaths", list(|at| json!(format!("/p/{at}")))),
        ("/linux/readonlyPaths", list(|at| json!(format!("/p/{at}")))),
        ("/linux/devices", list(node)),
        // Each is weighed against those before it, and the kernel takes fewer.
        ("/linux/resources/devices", (0..MANY / 10).map(rule).collect()),
        (
            "/linux/resources/blockIO/throttleReadBpsDevice",
            list(|at| json!({"major": 1, "minor": at, "rate": 1})),
        ),
        ("/linux/resources/unified", map(|at| (format!("pids.x{at}"), json!("1")))),
        ("/linux/sysctl", map(|at| (format!("net.x{at}"), json!("1")))),
        ("/linux/netDevices", map(|at| (format!("n{at}"), json!({})))),
        (
            "/linux/seccomp/syscalls",
            list(|_| json!({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"})),
        ),
    ];
    let mut slow = Vec::new();
    for (place, value) in rows {
        let mut config = configuration();
        *config.pointer_mut(place).expect("a place") = value;
        let text = config.to_string();
        let start = Instant::now();
        let (spec, _) =
            parse_spec(&text).unwrap_or_else(|error| panic!("{place}: {}", message(&error)));
        let planned = Plan::new(&Request::new(&spec, Path::new("/bundle"), "c"), &host);
        let taken = start.elapsed();
        assert!(planned.is_ok(), "{place}: {:?}", planned.err().map(|error| message(&error)));
        if taken > PATIENCE {
            slow.push(format!("{place}: {taken:?}"));
        }
    }
    assert!(slow.is_empty(), "{MANY} entries take too long: {slow:#?}");
}
