//! What `update --resources` reads, laid over what a container has.

#![no_main]

use std::path::Path;

use ferrun::commands::update::parse_resources;
use ferrun::plan::cgroup::{CgroupAccess, CgroupPlan};
use ferrun::update::lay_over;
use ferrun_fuzz::{change_json, hosts};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use oci_spec::runtime::LinuxResources;
use serde_json::json;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(request) = parse_resources(text) else { return };
    let mut merged = json!({"memory": {"limit": 9, "swap": 9}, "cpu": {"quota": 5, "period": 9}});
    lay_over(&mut merged, request);
    let Ok(resources) = serde_json::from_value::<LinuxResources>(merged) else { return };
    for host in hosts() {
        let path = Some(Path::new("/c"));
        let plan = CgroupPlan::new(path, None, "c", &host.cgroups, &CgroupAccess::Root);
        let group = plan.expect("a group").group;
        let Ok(settings) = group.settings(&resources) else { continue };
        for setting in settings {
            let is_own = group.directories.iter().any(|own| own.path == setting.directory);
            assert!(is_own, "{setting:?}");
            assert!(setting.writes.iter().all(|write| !write.file.contains('/')), "{setting:?}");
        }
        _ = group.devices(resources.devices().as_deref().unwrap_or_default());
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    change_json(data, size, max_size, seed)
});
