//! The process that `exec --process` names, alone and beside a container's own.

#![no_main]

use ferrun::bundle::{parse_process, parse_spec};
use ferrun::plan::cgroup::Group;
use ferrun::plan::exec::{ExecPlan, ExecRequest, Inhabited, Wanted};
use ferrun::plan::request::Streams;
use ferrun_fuzz::change_json;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

const CONTAINER: &str = r#"{
    "ociVersion": "1.3.0", "root": {"path": "r"},
    "process": {"cwd": "/", "args": ["a"], "user": {"uid": 0, "gid": 0}, "selinuxLabel": "l",
                "apparmorProfile": "p", "execCPUAffinity": {"initial": "0"}},
    "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}],
              "seccomp": {"defaultAction": "SCMP_ACT_ALLOW",
                          "syscalls": [{"names": ["kill"], "action": "SCMP_ACT_ERRNO"}]}}
}"#;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok((process, _)) = parse_process(text) else { return };
    let (spec, _) = parse_spec(CONTAINER).expect("a configuration");
    let request =
        ExecRequest { process: Wanted::File(process), cgroups: &[], streams: Streams::default() };
    let container = Inhabited {
        spec: &spec,
        id: "c",
        namespaces: &[],
        shares_user_namespace: false,
        callers_keyring: false,
        group: &Group::default(),
        is_unit: false,
    };
    if let Ok(plan) = ExecPlan::new(&request, &container) {
        // Whatever it asks for, it stays as confined as its container.
        assert!(plan.process.filter.is_some());
        _ = plan.process.summary();
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    change_json(data, size, max_size, seed)
});
