//! The filter and the command of a bundle, as they are typed.

use std::fs;

use ferrun_seccomp::Arch;
use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Value, json};

use crate::image::simple;
use crate::tool::{Scratch, config, pull_badly, pull_well};

fn filter(arguments: &[&str]) -> Value {
    let scratch = Scratch::new("seccomp");
    let layout = simple().layout(&scratch.join("layout"));
    pull_well(&scratch, &layout, arguments);
    config(&scratch)["linux"]["seccomp"].clone()
}

#[test]
fn dockers_filter_is_compiled_without_a_word() {
    for arguments in [&[][..], &["--seccomp=docker"], &["--caps=minimal"]] {
        let profile: LinuxSeccomp = serde_json::from_value(filter(arguments)).unwrap();
        let filter = ferrun_seccomp::compile(&profile, Arch::native()).unwrap();
        assert_eq!(filter.warnings, Vec::<String>::new(), "{arguments:?}");
        assert!(filter.instructions.len() > 100, "{arguments:?}");
    }
    assert_eq!(filter(&["--seccomp", "none"]), Value::Null);
}

#[test]
fn a_profile_is_taken_from_a_file() {
    let scratch = Scratch::new("profile");
    let layout = simple().layout(&scratch.join("layout"));
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["chroot"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_SYS_CHROOT"]}},
        {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
    ]});
    fs::write(scratch.join("profile.json"), profile.to_string()).unwrap();
    pull_well(&scratch, &layout, &["--seccomp=profile.json"]);
    assert_eq!(
        config(&scratch)["linux"]["seccomp"],
        json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_ERRNO"}]})
    );
}

#[test]
fn a_profile_that_cannot_be_read_is_refused_before_anything_is_asked_for() {
    let scratch = Scratch::new("bad-profile");
    let write = |name: &str, text: &str| fs::write(scratch.join(name), text).unwrap();
    write("text", "docker");
    write(
        "kernel",
        r#"{"defaultAction": "x", "syscalls": [{}, {"includes": {"minKernel": "6"}}]}"#,
    );
    write("empty", "{}");
    for (file, reason) in [
        ("absent", "No such file or directory (os error 2)"),
        ("text", "expected value at line 1 column 1"),
        ("empty", "defaultAction: missing"),
        ("kernel", "syscalls[1].includes.minKernel: \"6\": not a version such as 4.8"),
    ] {
        let error = pull_badly(&scratch, "oci:absent-layout", &["--seccomp", file]);
        assert!(error.starts_with(&format!("--seccomp: \"{file}\": {reason}")), "{error}");
    }
}

#[test]
fn a_command_is_what_the_bundle_runs() {
    let scratch = Scratch::new("command");
    let layout = simple().layout(&scratch.join("layout"));
    pull_well(&scratch, &layout, &["--tty", "--", "sleep", "--tty", "1000"]);
    let config = config(&scratch);
    assert_eq!(config["process"]["args"], json!(["sleep", "--tty", "1000"]));
    assert_eq!(config["process"]["terminal"], json!(true));
}
