//! config.json through the parser and the plan, for each kind of machine.

#![no_main]

use std::path::Path;

use ferrun::bundle::{parse_spec, parse_stored};
use ferrun::error::message;
use ferrun::plan::Plan;
use ferrun::plan::host::Host;
use ferrun::plan::request::{CgroupMaker, Request};
use ferrun_fuzz::{change_json, hosts};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let spec = match parse_spec(text) {
        Ok((spec, _)) => spec,
        Err(error) => return assert_is_one_line(&message(&error)),
    };
    // What has been created must be readable for what comes after.
    assert!(parse_stored(text).is_ok());
    for host in hosts() {
        plan(&spec, &host);
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    change_json(data, size, max_size, seed)
});

fn plan(spec: &oci_spec::runtime::Spec, host: &Host) {
    let mut request = Request::new(spec, Path::new("/bundle"), "c");
    if host.systemd.is_some() {
        request.cgroups.maker = CgroupMaker::Systemd;
    }
    let plan = match Plan::new(&request, host) {
        Ok(plan) => plan,
        Err(error) => return assert_is_one_line(&message(&error)),
    };
    assert_is_one_line(&ferrun::error::one_line(&plan.summary()));
    for step in &plan.rootfs.mounts {
        let is_clean = |part| !matches!(part, std::path::Component::ParentDir);
        assert!(step.target.components().all(is_clean), "{:?}", step.target);
    }
}

fn assert_is_one_line(text: &str) {
    assert!(!text.is_empty() && !text.contains(char::is_control), "{text:?}");
}
