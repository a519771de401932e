//! What is given twice, not at all, or in another spelling, where callers rely on what Go
//! programs make of it.
//!
//! | | comes to | test |
//! |---|---|---|
//! | a variable twice: config.json, process file, `exec --env`, hooks | the last one, alone | `a_variable_*` |
//! | a variable without `=`, or without a name | refused by its place | `what_is_no_variable_is_refused_by_its_place` |
//! | `user`, or a part of it, missing in a process file | 0 | `a_process_file_need_not_name_its_user` |
//! | the same in config.json | refused: the specification requires it | the same |
//! | `access` of a device rule with other letters than r, w and m | those are passed over | `letters_beside_those_of_access_are_passed_over` |
//! | a group twice | there once | `a_group_is_there_once` |
//! | a masked or read-only path twice | covered once | `mounts::a_path_that_is_listed_twice_is_covered_once` |
//! | a limit, a namespace, a property of an object twice | refused by its place: one of them is not meant | `errors::*`, `src/bundle/mod.rs` |
//! | a property in another spelling | one that nobody knows, and passed over as the specification wants it | |
//! | null, and an empty text | not given | `tests/absent.rs` |
//! | 0 and an empty text for `update`, null in its object | not given | `update::zero_and_nothing_leave_what_is_there` |
//! | an option twice, a switch with a value | the last one | `output::options_are_written_as_go_programs_take_them` |
//! | a destination that is not cleaned | cleaned before it is compared with anything | `untouched::nothing_is_made_in_a_dev_of_the_host_however_it_is_spelt` |
//! | a cgroup path, a sysctl that climbs | refused | `errors::each_wrong_configuration_is_refused_in_one_line_with_field_and_value` |
//! | a signal by number, with and without SIG, in small letters | the signal | `src/commands/kill.rs` |
//! | all of it in manifests, configurations of images and credentials | | image-tool's own tests |

use std::fs;

use integration::{as_both, as_root};
use serde_json::json;

#[test]
fn a_variable_is_there_once_with_its_last_value() {
    as_both(|bed| {
        if bed.is_peer("crun 1.8 passes both on") {
            return;
        }
        let twice = json!(["PATH=/bin", "MODE=config", "B=1", "MODE=last"]);
        let show = ["/bin/sh", "-c", "env | grep MODE="];
        let bundle = bed.bundle().with("/process/env", twice.clone());
        assert_eq!(bed.run(&bundle.clone().args(["/bin/env"])).stdout.matches("MODE=").count(), 1);
        assert_eq!(bed.run(&bundle.clone().args(show)).success(), "MODE=last");
        let container = bed.start(&bundle.sh("sleep 100"));
        assert_eq!(container.exec(&show).success(), "MODE=last");
        let output = container.exec_call(&["--env", "MODE=a", "--env", "MODE=b"], &show).output();
        assert_eq!(output.success(), "MODE=b");
        let process = json!({"args": show, "cwd": "/", "env": twice, "user": {"uid": 0, "gid": 0}});
        let file = bed.write("process.json", &process.to_string());
        let output = container.exec_call(&["--process", file.to_str().unwrap()], &[]).output();
        assert_eq!(output.success(), "MODE=last");
    });
}

#[test]
fn a_variable_of_a_hook_is_there_once_with_its_last_value() {
    as_root(|bed| {
        if bed.is_peer("crun 1.8 passes both on") {
            return;
        }
        for kind in ["createRuntime", "createContainer", "startContainer"] {
            let found = bed.write(&format!("found-{kind}"), "");
            let bundle = bed.bundle().mount("/found", "bind", found.to_str().unwrap(), &["bind"]);
            let place = if kind == "startContainer" { "/found" } else { found.to_str().unwrap() };
            // No shell, which would pass on what it makes of it.
            let args = ["dd", "if=/proc/self/environ", &format!("of={place}")];
            let hook = json!({"path": "/bin/busybox", "args": args,
                "env": ["MODE=first", "B=1", "MODE=last"]});
            bed.run(&bundle.with(&format!("/hooks/{kind}"), json!([hook]))).success();
            let mut variables: Vec<_> = fs::read_to_string(&found)
                .unwrap()
                .split_terminator('\0')
                .map(str::to_owned)
                .collect();
            variables.sort();
            assert_eq!(variables, ["B=1", "MODE=last"], "{kind}");
        }
    });
}

#[test]
fn what_is_no_variable_is_refused_by_its_place() {
    as_root(|bed| {
        if bed.is_peer("runc names no place, crun 1.8 passes them on") {
            return;
        }
        let container = bed.start(&bed.bundle().sh("sleep 100"));
        for (entry, reason) in [("ODD", "\"ODD\": missing '='"), ("=x", "a value without a name")] {
            let output = bed.run(&bed.bundle().with("/process/env/-", entry));
            let expected = |place: &str| format!("{place}: {reason}");
            let line = output.failure(1);
            assert!(line.starts_with("ferrun: error: process.env["), "{output}");
            assert!(line.ends_with(&expected("]")), "{output}");
            let output = container.exec_call(&["--env", entry], &["/bin/true"]).output();
            assert!(output.failure(255).ends_with(&expected("]")), "{output}");
            let process = json!({"args": ["/bin/true"], "cwd": "/", "env": [entry]});
            let file = bed.write("process.json", &process.to_string());
            let output = container.exec_call(&["--process", file.to_str().unwrap()], &[]).output();
            assert!(output.failure(255).ends_with(&expected("env[0]")), "{output}");
        }
    });
}

#[test]
fn a_process_file_need_not_name_its_user() {
    as_both(|bed| {
        let mut bundle = bed.bundle().sh("sleep 100");
        if !bed.is_rootless() {
            bundle = bundle.with("/process/user", json!({"uid": 11, "gid": 12}));
        }
        let container = bed.start(&bundle);
        for user in [None, Some(json!({})), Some(json!({"uid": 0})), Some(json!({"gid": 0}))] {
            let args = ["/bin/sh", "-c", "id -u; id -g"];
            let mut process = json!({"args": args, "cwd": "/", "env": ["PATH=/bin"]});
            if let Some(user) = &user {
                process["user"] = user.clone();
            }
            let file = bed.write("process.json", &process.to_string());
            let output = container.exec_call(&["--process", file.to_str().unwrap()], &[]).output();
            assert_eq!(output.success(), "0\n0", "{user:?}");
        }
    });
}

#[test]
fn letters_beside_those_of_access_are_passed_over() {
    as_root(|bed| {
        if bed.is_peer("crun 1.8 takes them for nothing at all, runc 1.1 with v1 for an error") {
            return;
        }
        let rule = json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rxw"});
        let deny = json!({"allow": false, "access": "rwm"});
        let bundle = bed.bundle().with("/linux/resources/devices", json!([deny, rule]));
        bed.run(&bundle).success();
        let rule = json!({"allow": true, "type": "c", "access": "x"});
        let bundle = bed.bundle().with("/linux/resources/devices", json!([rule]));
        assert!(bed.run(&bundle).failure(1).contains("linux.resources.devices[0]"));
    });
}

/// Docker gives a group twice where it is the user's own too.
#[test]
fn a_group_is_there_once() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 hand them on") {
            return;
        }
        let user = json!({"uid": 1000, "gid": 7, "additionalGids": [7, 5, 7, 5, 0]});
        let bundle = bed.bundle().with("/process/user", user);
        let output = bed.run(&bundle.args(["/bin/grep", "Groups:", "/proc/self/status"]));
        assert_eq!(output.success().replace('\t', " "), "Groups: 0 5 7");
    });
}
