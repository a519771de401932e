//! What real engines hand to a runtime is parsed and planned, all but the one file
//! that must be refused. Each is planned for a machine of the kind that it was
//! written on.

use std::fs;
use std::path::Path;

use ferrun::bundle::{parse_process, parse_spec};
use ferrun::error::message;
use ferrun::plan::Plan;
use ferrun::plan::cgroup::{Hierarchy, Layout, Unified};
use ferrun::plan::host::Host;
use ferrun::plan::process::{Field, ProcessPlan};
use ferrun::plan::request::{Request, Streams};

/// A hostname without a namespace for it.
const REFUSED: &str = "containerd-2.4-cri-sandbox-hostname-without-uts.json";

fn host(name: &str) -> Host {
    let cgroups = if name.contains("v2") {
        let controllers = ["cpu", "cpuset", "io", "memory", "pids", "hugetlb"].map(str::to_owned);
        Layout::V2(Unified { controllers: controllers.to_vec(), mount: "/sys/fs/cgroup".into() })
    } else {
        let controllers = [
            "blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "pids",
        ];
        let hierarchy = |name: &&str| Hierarchy {
            controllers: vec![(*name).to_owned()],
            mount: Path::new("/sys/fs/cgroup").join(name),
        };
        Layout::V1 { hierarchies: controllers.iter().map(hierarchy).collect(), unified: None }
    };
    let mut host = Host { cgroups, ..Host::default() };
    if name.contains("rootless") {
        // The engine has made a user namespace, in which its user is root, and on v2 systemd
        // has delegated a group.
        host.in_user_namespace = true;
        host.own_group = name.contains("v2").then(|| "/user.slice/engine.scope".to_owned());
    }
    host
}

/// The error, if there is one.
fn plan(name: &str, text: &str) -> Option<String> {
    let planned = if name.contains("exec-process") {
        parse_process(text)
            .and_then(|(process, _)| {
                ProcessPlan::plan(&process, None, Field::OWN, &Streams::default())
            })
            .map(drop)
    } else {
        parse_spec(text)
            .and_then(|(spec, _)| {
                Plan::new(&Request::new(&spec, Path::new("/bundle"), "c"), &host(name))
            })
            .map(drop)
    };
    planned.err().map(|error| message(&error))
}

#[test]
fn what_engines_hand_over_can_be_planned() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/data");
    let mut count = 0;
    for entry in fs::read_dir(data).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !name.ends_with(".json") || name.contains("update-resources") {
            continue;
        }
        let error = plan(name, &fs::read_to_string(&path).unwrap());
        if name == REFUSED {
            let error = error.expect("a refusal");
            assert!(error.starts_with("hostname:"), "{name}: {error}");
        } else {
            assert_eq!(error, None, "{name}");
        }
        count += 1;
    }
    assert!(count > 90, "{count} files");
}
