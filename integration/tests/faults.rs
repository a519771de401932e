//! What goes wrong around a container, from few descriptors to another one's record:
//! no crash, no hang, and `delete --force` always leaves nothing.

use std::fs;
use std::path::PathBuf;

use integration::{Bed, Container, Output, as_both, as_root, in_views, runtime};
use serde_json::{Value, json};

/// A call of the runtime from within a shell script that ends in `exec "$@"`.
#[track_caller]
fn call_by(bed: &Bed, script: &str, arguments: &[&str]) -> Output {
    let call = bed.program("/bin/sh".as_ref()).args(["-c", script, "sh"]);
    call.arg(&runtime().program).arg("--root").arg(bed.root()).args(arguments).output()
}

/// Where the runtime remembers a container.
fn record(bed: &Bed, container: &Container) -> PathBuf {
    bed.root().join(&container.id).join("state.json")
}

/// Changes what is remembered of a container.
fn change(bed: &Bed, container: &Container, change: impl FnOnce(&mut Value)) {
    let path = record(bed, container);
    let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(&path, value.to_string()).unwrap();
}

#[test]
fn with_few_descriptors_all_goes_well_or_ends_in_one_line() {
    as_root(|bed| {
        if bed.is_peer("runc and crun need more than these") {
            return;
        }
        for (few, is_enough) in [(4, false), (8, false), (12, false), (16, false), (24, true)] {
            let script = format!("ulimit -n {few}; exec \"$@\"");
            let bundle = bed.bundle().sh("echo ran").save().clone();
            let path = bundle.path.to_str().unwrap();
            let output = call_by(bed, &script, &["run", "--bundle", path, &bed.id()]);
            if output.code == 0 {
                assert_eq!(output.stdout, "ran\n", "{few}");
            } else {
                assert!(!is_enough, "{few}: {output}");
                assert_eq!((output.code, output.stderr.lines().count()), (1, 1), "{few}: {output}");
                assert!(output.stderr.starts_with("ferrun: error: "), "{few}: {output}");
            }
            let container = bed.start(&bed.bundle().sh("sleep 100"));
            for verb in ["state", "exec", "kill"] {
                let more: &[&str] = match verb {
                    "exec" => &["/bin/true"],
                    "kill" => &["0"],
                    _ => &[],
                };
                let output = call_by(bed, &script, &[&[verb, &container.id], more].concat());
                assert!([0, 1, 255].contains(&output.code), "{few} {verb}: {output}");
                assert_eq!(output.code == 0, output.stderr.is_empty(), "{few} {verb}: {output}");
            }
            let output = call_by(bed, &script, &["delete", "--force", &container.id]);
            assert!(output.code == 0 || few < 8, "{few} delete: {output}");
            container.delete();
            bed.assert_nothing_left();
        }
    });
}

#[test]
fn nothing_of_the_environment_is_needed() {
    as_both(|bed| {
        let bundle = bed.bundle().sh("echo $PATH").save().clone();
        let path = bundle.path.to_str().unwrap();
        let program = runtime().for_others(&bed.directory);
        let call = bed.program("/usr/bin/env".as_ref()).arg("-i").arg(program).arg("--root");
        let output = call.arg(bed.root()).args(["run", "--bundle", path, &bed.id()]).output();
        assert_eq!(output.success(), "/bin");
        bed.assert_nothing_left();
    });
}

#[test]
fn a_small_stack_is_enough() {
    as_root(|bed| {
        if bed.is_peer("Go needs more of it") {
            return;
        }
        // A build for debugging needs more than 192 kB, one for release less than 128.
        for kilobytes in [256, 512] {
            let script = format!("ulimit -s {kilobytes}; exec \"$@\"");
            let bundle = bed.bundle().sh("ulimit -s").save().clone();
            let path = bundle.path.to_str().unwrap();
            let output = call_by(bed, &script, &["run", "--bundle", path, &bed.id()]);
            assert_eq!(output.success(), kilobytes.to_string());
            let container = bed.start(&bed.bundle().sh("sleep 100"));
            call_by(bed, &script, &["exec", &container.id, "/bin/true"]).success();
            call_by(bed, &script, &["list"]).success();
        }
    });
}

#[test]
fn no_verb_needs_stdio() {
    as_root(|bed| {
        if bed.is_peer("crun 1.8 fails at create") {
            return;
        }
        let bundle = bed.bundle().sh("sleep 100");
        let id = bed.id();
        let container = Container::create(bed, &id, bed.create_call(&bundle, &id).without_stdio());
        for arguments in [
            &["start", &id][..],
            &["exec", &id, "/bin/true"],
            &["exec", "--detach", &id, "/bin/true"],
            &["state", &id],
            &["list"],
            &["kill", &id, "KILL"],
        ] {
            // Who prints may fail for it, but not with a crash.
            let output = bed.call().args(arguments).without_stdio().output();
            let prints = ["state", "list"].contains(&arguments[0]);
            assert!(output.code == 0 || prints && output.code == 1, "{arguments:?}: {output}");
        }
        container.ended();
        bed.call().args(["delete", &id]).without_stdio().output().success();
        bed.assert_nothing_left();
    });
}

#[test]
fn what_is_opened_does_not_take_the_place_of_a_closed_stdout() {
    as_root(|bed| {
        if bed.is_peer("Go's own matter") {
            return;
        }
        let container = bed.create(&bed.bundle());
        let log = bed.directory.join("log");
        let arguments = ["--log", log.to_str().unwrap(), "state", &container.id];
        call_by(bed, "exec \"$@\" >&-", &arguments);
        assert_eq!(fs::read_to_string(&log).unwrap(), "");
    });
}

#[test]
fn no_verb_needs_a_working_directory() {
    as_root(|bed| {
        let gone = "mkdir \"$0\" 2>/dev/null; cd gone && rmdir ../gone && exec \"$@\"";
        let place = bed.make_directory("place", 0o755);
        let container = bed.create(&bed.bundle().sh("sleep 100"));
        let id = container.id.as_str();
        for arguments in [
            &["start", id][..],
            &["state", id],
            &["exec", id, "/bin/true"],
            &["list"],
            &["kill", id, "KILL"],
            &["delete", "--force", id],
        ] {
            fs::create_dir(place.join("gone")).unwrap();
            let call = bed.program("/bin/sh".as_ref()).current_dir(&place);
            let call = call.args(["-c", gone, "gone"]).arg(&runtime().program).arg("--root");
            call.arg(bed.root()).args(arguments).output().success();
            assert!(!place.join("gone").exists());
        }
        bed.assert_nothing_left();
    });
}

#[test]
fn a_root_that_vanishes_before_start_is_an_error() {
    as_root(|bed| {
        if bed.is_peer("runc and crun do not hear of a failing execve") {
            return;
        }
        let bundle = bed.bundle().args(["/bin/true"]);
        let container = bed.create(&bundle);
        fs::remove_dir_all(bundle.rootfs()).unwrap();
        let output = container.call("start");
        assert_ne!(output.code, 0, "{output}");
        assert!(
            output.stderr.contains("/bin/true") || output.stderr.contains("No such file"),
            "{output}"
        );
        container.delete();
        bed.assert_nothing_left();
    });
}

#[test]
fn a_bundle_that_changes_after_create_changes_nothing() {
    as_root(|bed| {
        if bed.is_peer("runc reads the bundle's config.json again") {
            return;
        }
        let bundle = bed.bundle().with("/process/env", json!(["PATH=/bin", "WHO=first"]));
        let bundle = bundle.sh("echo $WHO; sleep 100");
        let container = bed.create(&bundle);
        let poststop = bed.directory.join("poststop");
        bundle
            .clone()
            .with("/process/env", json!(["PATH=/bin", "WHO=second"]))
            .with("/process/user/uid", 7)
            .with("/hooks/poststop", json!([{"path": "/bin/touch", "args": ["touch", poststop]}]))
            .without_namespace("pid")
            .save();
        container.start();
        container.prints("first");
        assert_eq!(container.sh("echo $WHO $(id -u)").success(), "first 0");
        bundle.save_text("no JSON");
        assert_eq!(container.sh("echo $WHO").success(), "first");
        container.delete();
        assert!(!poststop.exists());
        bed.assert_nothing_left();
    });
}

#[test]
fn delete_by_force_removes_a_container_in_every_state() {
    in_views(|bed| {
        for state in ["created", "running", "paused", "stopped"] {
            let container = bed.create(&bed.bundle().sh("sleep 100"));
            if state != "created" {
                container.start();
            }
            match state {
                "paused" => drop(container.call("pause").success().len()),
                "stopped" => {
                    container.kill("KILL");
                    container.ended();
                }
                _ => {}
            }
            assert_eq!(container.status(), state);
            container.delete();
            bed.assert_nothing_left();
        }
        let output = bed.runtime(["delete", "--force", &bed.id()]);
        assert_eq!(output.success(), "", "what was never there is gone");
    });
}

#[test]
fn a_record_cut_short_anywhere_blocks_neither_list_nor_delete() {
    as_root(|bed| {
        if bed.is_peer("they have other records") {
            return;
        }
        let good = bed.create(&bed.bundle());
        let broken = bed.create(&bed.bundle());
        let path = record(bed, &broken);
        let text = fs::read(&path).unwrap();
        let step = text.len() / 20;
        for length in (0..text.len()).step_by(step.max(1)) {
            fs::write(&path, &text[..length]).unwrap();
            let listed = bed.runtime(["list", "--quiet"]);
            assert!(listed.success().contains(&good.id), "{length}: {listed}");
            let output = bed.runtime(["state", &broken.id]);
            assert_eq!(output.failure(1).lines().count(), 1, "{length}: {output}");
        }
        for other in [json!(0), json!(99), json!(u64::MAX), json!("1"), json!(null)] {
            fs::write(&path, &text).unwrap();
            change(bed, &broken, |value| value["version"] = other.clone());
            bed.runtime(["list"]).success();
            for verb in ["state", "start", "delete"] {
                let output = bed.runtime([verb, &broken.id]);
                assert_eq!(output.failure(1).lines().count(), 1, "{verb} {other}: {output}");
            }
        }
        fs::write(&path, &text).unwrap();
        broken.delete();
        let id = bed.id();
        let directory = bed.root().join(&id);
        fs::create_dir(&directory).unwrap();
        // Begun, and nothing was made yet.
        for wrong in ["", "{", "{\"version\":2,\"id"] {
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("state.json"), wrong).unwrap();
            bed.runtime(["delete", "--force", &id]).success();
            assert!(!directory.exists(), "{wrong:?}");
        }
        // Nobody knows what it stands for.
        fs::create_dir(&directory).unwrap();
        for wrong in ["null", "[]", "{\"version\":99}", "{\"id\":\"x\"}", "{\"id\":"] {
            fs::write(directory.join("state.json"), wrong).unwrap();
            let output = bed.runtime(["delete", "--force", &id]);
            assert!(output.failure(1).contains("by hand"), "{wrong:?}: {output}");
            assert_eq!(fs::read_to_string(directory.join("state.json")).unwrap(), wrong);
        }
        fs::remove_dir_all(&directory).unwrap();
        good.delete();
        bed.assert_nothing_left();
    });
}

#[test]
fn a_hundred_containers_are_listed() {
    as_root(|bed| {
        if bed.is_peer("they have other records") {
            return;
        }
        let container = bed.create(&bed.bundle());
        let own = fs::read(record(bed, &container)).unwrap();
        let mut ids = vec![container.id.clone()];
        for number in 0..99 {
            // Its process is that of the first one, which is created.
            let id = format!("{}-copy-{number}", bed.name);
            let mut value: Value = serde_json::from_slice(&own).unwrap();
            value["id"] = json!(id);
            let directory = bed.root().join(&id);
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("state.json"), value.to_string()).unwrap();
            ids.push(id);
        }
        ids.sort();
        let listed = bed.runtime(["list", "--quiet"]);
        assert_eq!(listed.success().lines().collect::<Vec<_>>(), ids);
        let listed = bed.runtime(["list", "--format", "json"]);
        let listed: Value = serde_json::from_str(listed.success()).unwrap();
        let listed = listed.as_array().unwrap();
        assert_eq!(listed.len(), 100);
        assert!(listed.iter().all(|entry| entry["status"] == "created"), "{listed:?}");
        for id in ids.iter().filter(|id| **id != container.id) {
            fs::remove_dir_all(bed.root().join(id)).unwrap();
        }
        container.delete();
        bed.assert_nothing_left();
    });
}

#[test]
fn a_process_that_started_at_another_time_is_another_one() {
    as_root(|bed| {
        if bed.is_peer("they have other records") {
            return;
        }
        let container = bed.start(&bed.bundle().sh("sleep 100"));
        let pid = container.pid();
        let text = fs::read(record(bed, &container)).unwrap();
        change(bed, &container, |value| {
            value["init"]["started"] = json!(value["init"]["started"].as_u64().unwrap() + 1);
        });
        assert_nobody_is_meant(bed, &container, pid);
        fs::write(record(bed, &container), text).unwrap();
        assert_eq!(container.status(), "running");
    });
}

#[test]
fn a_record_of_another_boot_names_no_process() {
    as_root(|bed| {
        if bed.is_peer("they have other records") {
            return;
        }
        let container = bed.start(&bed.bundle().sh("sleep 100"));
        let pid = container.pid();
        let text = fs::read(record(bed, &container)).unwrap();
        change(bed, &container, |value| value["boot"] = json!("another"));
        assert_nobody_is_meant(bed, &container, pid);
        fs::write(record(bed, &container), text).unwrap();
        assert_eq!(container.status(), "running");
    });
}

/// The record's pid is neither shown nor signalled nor entered.
#[track_caller]
fn assert_nobody_is_meant(bed: &Bed, container: &Container, pid: i32) {
    assert_eq!(container.status(), "stopped");
    assert_eq!(container.state()["pid"], 0);
    let listed = bed.runtime(["list"]);
    assert!(!listed.success().contains(&format!(" {pid} ")), "{listed}");
    for signal in ["0", "TERM", "KILL"] {
        bed.runtime(["kill", &container.id, signal]).failure(1);
    }
    assert_ne!(container.exec(&["/bin/true"]).code, 0);
    bed.runtime(["start", &container.id]).failure(1);
    let process = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(process, None).expect("the process lives");
}
