//! Records that this version of the runtime has not written: an older one's, a newer
//! one's, runc's, crun's, and what accidents leave. Whoever is recorded there is ended
//! only where that is proven, and never forgotten while he lives.
//!
//! | what is found | here |
//! |---|---|
//! | an older version's record | `an_older_record_is_read` |
//! | a newer version's, runc's, crun's; init in its group | `other_records_are_named_and_ended_by_force` |
//! | runc's own and crun's own, where they are installed | `containers_that_runc_and_crun_made_are_ended_by_force` |
//! | cut short, empty, lost; the group bears the mark | `a_broken_record_is_ended_by_its_mark` |
//! | the same; the group bears none | `what_is_not_proven_stays_on_record_and_lives` |
//! | the same; the group is another container's | `a_group_of_another_container_survives` |
//! | init by pid and start time, in another group than recorded | `what_is_not_proven_stays_on_record_and_lives` |
//! | init has ended, others are in the group | `what_is_not_proven_stays_on_record_and_lives` |
//! | another boot's | `a_newer_record_of_another_boot_means_nobody` |
//! | the root of a tree, the caller's own group | `no_record_makes_the_runtime_kill_the_root_or_itself` |
//! | our own record, and a mark that somebody inside may have written | `a_mark_that_a_container_may_have_written_is_not_believed` |
//! | our own record, but the group is another container's by now | `a_group_that_another_container_has_taken_is_its_own` |

use std::fs;
use std::path::{Path, PathBuf};

use integration::{
    Bed, Bundle, Container, Kind, View, as_both, as_root, eventually, everywhere, has_ended,
    in_views, runtime,
};
use serde_json::{Value, json};

/// As each program wrote them.
const VERSION_1: &str = include_str!("../../src/store/record/fixtures/version-1.json");
const NEWER: &str = include_str!("../../src/store/record/fixtures/newer.json");
const RUNC: &str = include_str!("../../src/store/record/fixtures/runc-1.1.5.json");
const CRUN: &str = include_str!("../../src/store/record/fixtures/crun-1.8.1.json");

/// The attribute of a group that bears the directory of its container.
const MARK: &str = "trusted.ferrun.container";
/// The same where its maker is not root.
const OWN_MARK: &str = "user.ferrun.container";

/// The file of the record of a container.
fn record(bed: &Bed, id: &str) -> PathBuf {
    bed.root().join(id).join("state.json")
}

fn own_record(bed: &Bed, id: &str) -> Value {
    serde_json::from_slice(&fs::read(record(bed, id)).unwrap()).unwrap()
}

/// A fixture with what is this very container's.
fn filled(fixture: &str, own: &Value) -> Value {
    let mut value: Value = serde_json::from_str(fixture).unwrap();
    let fields = ["id", "bundle", "rootfs", "boot", "init", "group", "annotations"];
    for field in fields.into_iter().filter(|field| own.get(field).is_some()) {
        value[field] = own[field].clone();
    }
    value
}

fn directories(own: &Value) -> Vec<(String, PathBuf)> {
    let directories = own["group"]["directories"].as_array().unwrap();
    let of = |found: &Value| {
        let controller = match found["version"].as_str() {
            Some("V2") => "",
            _ => found["controllers"][0].as_str().unwrap(),
        };
        (controller.to_owned(), PathBuf::from(found["path"].as_str().unwrap()))
    };
    directories.iter().map(of).collect()
}

fn of_runc(own: &Value) -> Value {
    let mut value: Value = serde_json::from_str(RUNC).unwrap();
    value["id"] = own["id"].clone();
    value["init_process_pid"] = own["init"]["pid"].clone();
    value["init_process_start"] = own["init"]["started"].clone();
    value["cgroup_paths"] = json!({});
    for (controller, path) in directories(own) {
        value["cgroup_paths"][controller] = json!(path);
    }
    value
}

fn of_crun(own: &Value, bundle: &Bundle) -> Value {
    let mut value: Value = serde_json::from_str(CRUN).unwrap();
    value["pid"] = own["init"]["pid"].clone();
    value["process-start-time"] = own["init"]["started"].clone();
    value["cgroup-path"] = bundle.config["linux"]["cgroupsPath"].clone();
    value
}

/// Exchanges what is remembered of a container for another program's files.
fn exchange(bed: &Bed, id: &str, maker: &str, bundle: &Bundle) {
    let own = own_record(bed, id);
    let directory = bed.root().join(id);
    let text = |value: Value| value.to_string();
    let files = match maker {
        "newer" => vec![("state.json", text(filled(NEWER, &own)))],
        "runc" => vec![("state.json", text(of_runc(&own)))],
        "crun" => vec![("status", text(of_crun(&own, bundle)))],
        "cut short" => {
            let whole = fs::read_to_string(record(bed, id)).unwrap();
            vec![
                ("state.json", whole[..whole.len() / 2].to_owned()),
                ("config.json", config(bundle)),
            ]
        }
        "empty" => vec![("state.json", String::new()), ("config.json", config(bundle))],
        "lost" => vec![("config.json", config(bundle))],
        _ => panic!("{maker}"),
    };
    fs::remove_dir_all(&directory).unwrap();
    fs::create_dir(&directory).unwrap();
    for (name, text) in files {
        fs::write(directory.join(name), text).unwrap();
    }
}

fn config(bundle: &Bundle) -> String {
    bundle.config.to_string()
}

/// What an error has to say of whose the record is.
fn words(maker: &str) -> &str {
    match maker {
        "newer" => "a newer ferrun: its record has version 99",
        "runc" => "was created by runc",
        "crun" => "was created by crun",
        _ => "is cut short",
    }
}

/// All verbs but `delete --force` refuse, by name, and change nothing.
#[track_caller]
fn assert_refused(bed: &Bed, id: &str, maker: &str) {
    for arguments in [
        &["state", id][..],
        &["start", id],
        &["kill", id, "KILL"],
        &["kill", "--all", id, "KILL"],
        &["delete", id],
        &["ps", id],
        &["pause", id],
        &["resume", id],
        &["events", "--stats", id],
        &["update", "--pids-limit", "7", id],
        &["exec", id, "/bin/true"],
    ] {
        let output = bed.runtime(arguments);
        let code = if arguments[0] == "exec" { 255 } else { 1 };
        let error = output.failure(code);
        assert!(error.contains(words(maker)) && error.contains(id), "{maker}: {output}");
        assert_eq!(error.lines().count(), 1, "{output}");
    }
    let listed = bed.runtime(["list", "--quiet"]);
    assert_eq!(listed.success(), "", "{maker}");
    assert!(listed.stderr.contains(words(maker)), "{maker}: {listed}");
}

/// Takes the marks of a container's groups away, as older versions had none.
fn unmark(own: &Value) {
    // It is at one of them, and at those that were there before.
    directories(own).iter().for_each(|(_, path)| {
        let _ = rustix::fs::removexattr(path, MARK);
    });
}

#[test]
fn an_older_record_is_read() {
    in_views(|bed| {
        if bed.is_peer("they have other records") {
            return;
        }
        for end in ["kill", "force"] {
            let bundle = bed.bundle().sh("sleep 100");
            let container = bed.start(&bundle);
            let own = own_record(bed, &container.id);
            fs::write(record(bed, &container.id), filled(VERSION_1, &own).to_string()).unwrap();
            unmark(&own);
            assert_eq!(container.status(), "running");
            assert_eq!(container.state()["annotations"], json!({"org.example.note": "kept"}));
            assert_eq!(container.sh("echo inside").success(), "inside");
            container.call("pause").success();
            assert_eq!(container.status(), "paused");
            container.call("resume").success();
            let pid = container.pid();
            bed.runtime(["delete", &container.id]).failure(1);
            if end == "kill" {
                container.kill("KILL");
                container.ended();
            }
            container.delete();
            assert!(has_ended(pid));
            bed.assert_nothing_left();
        }
    });
}

#[test]
fn other_records_are_named_and_ended_by_force() {
    in_views(|bed| {
        if bed.is_peer("they have other records") {
            return;
        }
        for maker in ["newer", "runc", "crun"] {
            for pids in ["own", "shared"] {
                let bundle = bed.bundle().sh("sleep 100 & sleep 100 & wait");
                let bundle = match pids {
                    "shared" => bundle.without_namespace("pid"),
                    _ => bundle,
                };
                let container = bed.start(&bundle);
                let own = own_record(bed, &container.id);
                let pid = container.pid();
                exchange(bed, &container.id, maker, &bundle);
                unmark(&own);
                assert_refused(bed, &container.id, maker);
                assert!(!has_ended(pid), "{maker}");
                container.delete();
                assert!(has_ended(pid), "{maker}");
                bed.assert_nothing_left();
            }
        }
    });
}

#[test]
fn containers_that_runc_and_crun_made_are_ended_by_force() {
    in_views(|bed| {
        if bed.is_peer("they have other records") {
            return;
        }
        for maker in ["runc", "crun"] {
            let program = ["/usr/sbin/runc", "/usr/bin/runc", "/usr/bin/crun"].map(Path::new);
            let program = program.into_iter().find(|path| path.ends_with(maker) && path.exists());
            let Some(program) = program.filter(|_| maker == "runc" || bed.view == View::V1) else {
                bed.skip(&format!("no {maker} that can be used here"));
                continue;
            };
            let bundle = bed.bundle().sh("sleep 100");
            let id = bed.id();
            let call = bed.program(program).arg("--root").arg(bed.root());
            let call = call.args(["run", "--detach", "--bundle"]).arg(&bundle.save().path);
            call.arg(&id).output().success();
            let pids: Vec<u32> = pids_of(&bed.cgroup_file(&bundle, "pids.max"));
            assert_eq!(pids.len(), 1, "{maker}");
            assert_refused(bed, &id, maker);
            bed.runtime(["delete", "--force", &id]).success();
            assert!(has_ended(pids[0] as i32), "{maker}");
            bed.assert_nothing_left();
        }
    });
}

/// The processes of the group that this file is of.
fn pids_of(file: &Path) -> Vec<u32> {
    let text = fs::read_to_string(file.with_file_name("cgroup.procs")).unwrap();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

#[test]
fn a_broken_record_is_ended_by_its_mark() {
    in_views(|bed| {
        if bed.is_peer("they have other records") {
            return;
        }
        for maker in ["cut short", "empty", "lost"] {
            for program in ["running", "stopped"] {
                let bundle = bed.bundle().sh("sleep 100");
                let container = bed.start(&bundle);
                let pid = container.pid();
                if program == "stopped" {
                    container.kill("KILL");
                    container.ended();
                }
                exchange(bed, &container.id, maker, &bundle);
                assert_refused(bed, &container.id, maker);
                container.delete();
                assert!(has_ended(pid), "{maker}");
                bed.assert_nothing_left();
            }
        }
    });
}

#[test]
fn what_is_not_proven_stays_on_record_and_lives() {
    in_views(|bed| {
        if bed.is_peer("they have other records") {
            return;
        }
        for maker in [
            "cut short",
            "empty",
            "lost",
            "moved newer",
            "moved runc",
            "moved crun",
            "newer",
            "runc",
            "crun",
        ] {
            // A first process that ends without the others, where its death has to be seen.
            let bundle = bed.bundle().without_namespace("pid").sh("sleep 100 & wait");
            let container = bed.start(&bundle);
            let own = own_record(bed, &container.id);
            let file = bed.cgroup_file(&bundle, "pids.max");
            eventually("both processes run", || pids_of(&file).len() == 2);
            let pid = container.pid();
            let (name, is_moved) = match maker.strip_prefix("moved ") {
                Some(name) => (name, true),
                None => (maker, false),
            };
            exchange(bed, &container.id, name, &bundle);
            unmark(&own);
            let is_broken = words(name) == "is cut short";
            if is_moved {
                // Somebody else's pid and start time could look the same.
                for tree in own["group"]["directories"].as_array().unwrap() {
                    let root = Path::new(tree["mount"].as_str().unwrap());
                    fs::write(root.join("cgroup.procs"), pid.to_string()).unwrap();
                }
            } else if !is_broken {
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL)
                    .unwrap();
                eventually("init ends", || has_ended(pid));
            }
            let others: Vec<u32> = pids_of(&file);
            let output = bed.runtime(["delete", "--force", &container.id]);
            // By its boot a newer record's init is known wherever it is.
            let is_known = maker == "moved newer";
            let error = output.failure(1);
            assert!(error.contains(words(name)), "{maker}: {output}");
            assert_eq!(
                error.lines().filter(|line| !line.contains("warning")).count(),
                1,
                "{output}"
            );
            assert!(bed.root().join(&container.id).exists(), "{maker}");
            assert_eq!(has_ended(pid), is_known || (!is_moved && !is_broken), "{maker}");
            assert_eq!(pids_of(&file), others, "{maker}");
            if is_moved && !is_known {
                assert!(error.contains(&pid.to_string()), "{output}");
            } else {
                assert!(others.iter().all(|pid| error.contains(&pid.to_string())), "{output}");
                assert!(
                    error.contains(
                        file.parent()
                            .unwrap()
                            .parent()
                            .unwrap()
                            .file_name()
                            .unwrap()
                            .to_str()
                            .unwrap()
                    ),
                    "{output}"
                );
            }
            // Somebody sees to it, and then it can go.
            for pid in others.into_iter().map(|pid| pid as i32).chain([pid]) {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::SIGKILL,
                );
                eventually("it ends", || has_ended(pid));
            }
            eventually("the group is empty", || pids_of(&file).is_empty());
            container.delete();
            bed.assert_nothing_left();
        }
    });
}

#[test]
fn a_group_of_another_container_survives() {
    in_views(|bed| {
        if bed.is_peer("they have other records") {
            return;
        }
        let bundle = bed.bundle().sh("sleep 100");
        let other = bed.start(&bundle);
        let own = own_record(bed, &other.id);
        for marked in [true, false] {
            if !marked {
                unmark(&own);
            }
            for maker in ["cut short", "empty", "lost", "runc", "crun", "newer"] {
                let id = bed.id();
                let directory = bed.root().join(&id);
                fs::create_dir(&directory).unwrap();
                // Its init has ended.
                let mut value = own.clone();
                value["id"] = json!(id);
                value["init"]["started"] = json!(value["init"]["started"].as_u64().unwrap() - 1);
                fs::write(directory.join("state.json"), value.to_string()).unwrap();
                exchange(bed, &id, maker, &bundle);
                let output = bed.runtime(["delete", "--force", &id]);
                let error = output.failure(1);
                assert!(error.contains(&other.pid().to_string()), "{maker}: {output}");
                assert_eq!(other.status(), "running", "{maker}");
                assert!(directory.exists(), "{maker}");
                fs::remove_dir_all(directory).unwrap();
            }
        }
        // Nothing is known of a group that was never made.
        let id = bed.id();
        let directory = bed.root().join(&id);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("config.json"), config(&bed.bundle())).unwrap();
        fs::write(directory.join("state.json"), "{\"version\":2,").unwrap();
        assert!(bed.runtime(["delete", "--force", &id]).failure(1).contains("by hand"));
        fs::remove_dir_all(directory).unwrap();
        other.delete();
        bed.assert_nothing_left();
    });
}

#[test]
fn a_newer_record_of_another_boot_means_nobody() {
    as_root(|bed| {
        if bed.is_peer("they have other records") {
            return;
        }
        let bundle = bed.bundle().sh("sleep 100");
        let container = bed.start(&bundle);
        let own = own_record(bed, &container.id);
        let id = bed.id();
        let directory = bed.root().join(&id);
        fs::create_dir(&directory).unwrap();
        let mut value = filled(NEWER, &own);
        value["boot"] = json!("another");
        value["creator"] = own["init"].clone();
        value["group"] = json!({"directories": []});
        fs::write(directory.join("state.json"), value.to_string()).unwrap();
        bed.runtime(["delete", "--force", &id]).success();
        assert!(!directory.exists());
        assert_eq!(container.status(), "running");
    });
}

#[test]
fn no_record_makes_the_runtime_kill_the_root_or_itself() {
    in_views(|bed| {
        if bed.is_peer("they have other records") {
            return;
        }
        let bundle = bed.bundle().without_namespace("pid").sh("sleep 100");
        let container = bed.start(&bundle);
        let own = own_record(bed, &container.id);
        let pid = container.pid();
        let directory = bed.root().join(&container.id);
        let text = fs::read(record(bed, &container.id)).unwrap();
        // The root of each tree holds the init, the caller, and everybody.
        let mut of_root = of_runc(&own);
        for tree in own["group"]["directories"].as_array().unwrap() {
            let name =
                if tree["version"] == "V2" { "" } else { tree["controllers"][0].as_str().unwrap() };
            for climbing in ["", "/", "/.", "/../.."] {
                let mount = tree["mount"].as_str().unwrap();
                of_root["cgroup_paths"] = json!({name: format!("{mount}{climbing}")});
                fs::write(record(bed, &container.id), of_root.to_string()).unwrap();
                bed.runtime(["delete", "--force", &container.id]).failure(1);
                assert!(!has_ended(pid) && directory.exists(), "{name:?} {climbing:?}");
            }
        }
        fs::write(record(bed, &container.id), &text).unwrap();
        // Its own group, and one above it, from within.
        let (_, path) = directories(&own).pop().unwrap();
        let inner = path.join("inner");
        fs::create_dir(&inner).unwrap();
        for place in [&path, &inner] {
            for verb in [&["kill", "--all"][..], &["delete", "--force"]] {
                let call = bed.call().args(verb).arg(&container.id).in_cgroup(place);
                let output = call.output();
                assert!(output.failure(1).contains("the calling process"), "{output}");
                assert!(directory.exists());
            }
        }
        fs::remove_dir(&inner).unwrap();
        fs::write(record(bed, &container.id), text).unwrap();
        container.delete();
        bed.assert_nothing_left();
    });
}

#[test]
fn a_group_that_another_container_has_taken_is_its_own() {
    in_views(|bed| {
        if bed.is_peer("runc and crun end the other one too") {
            return;
        }
        for pids in ["own", "shared"] {
            let bundle = bed.bundle().sh("sleep 100");
            let bundle = match pids {
                "shared" => bundle.without_namespace("pid"),
                _ => bundle,
            };
            let first = bed.start(&bundle);
            // Not by cgroup.kill: some kernels also kill who is put into the group later.
            first.kill(if pids == "own" { "KILL" } else { "TERM" });
            first.ended();
            let second = bed.start(&bundle);
            bed.runtime(["kill", &first.id, "KILL"]).failure(1);
            bed.runtime(["kill", "--all", &first.id, "KILL"]).success();
            assert_eq!(bed.runtime(["ps", "--format", "json", &first.id]).success(), "[]");
            assert_eq!(second.status(), "running");
            bed.runtime(["delete", &first.id]).success();
            assert!(!bed.root().join(&first.id).exists());
            assert_eq!(second.status(), "running");
            second.delete();
            first.delete();
            bed.assert_nothing_left();
        }
    });
}

#[test]
fn a_record_cut_short_of_a_container_without_a_cgroup_is_kept() {
    as_both(|bed| {
        if bed.is_peer("they have other records") {
            return;
        }
        assert_eq!(runtime().kind, Kind::Ferrun);
        let bundle = bed.bundle().sh("sleep 100");
        let id = bed.id();
        let call = bed.call().args(["--cgroup-manager", "disabled", "create", "--bundle"]);
        let container = Container::create(bed, &id, call.arg(&bundle.save().path).arg(&id));
        container.start();
        let pid = container.pid();
        let whole = fs::read(record(bed, &id)).unwrap();
        fs::write(record(bed, &id), &whole[..whole.len() / 2]).unwrap();
        let output = bed.runtime(["delete", "--force", &id]);
        assert!(output.failure(1).contains("by hand"), "{output}");
        assert!(!has_ended(pid) && record(bed, &id).exists());
        fs::write(record(bed, &id), whole).unwrap();
        container.delete();
        assert!(has_ended(pid));
    });
}

/// Whoever a group was given to can write its mark, where its maker is not root.
#[test]
fn a_mark_that_a_container_may_have_written_is_not_believed() {
    everywhere(|bed| {
        if bed.view != View::V2 || bed.user().is_none() {
            return;
        }
        if bed.is_peer("they have no marks") {
            return;
        }
        bed.delegate();
        let bundle = bed.bundle().sh("sleep 100");
        let container = bed.start(&bundle);
        let group = bed.cgroup_file(&bundle, "pids.max").with_file_name("");
        let mark = rustix::fs::getxattr(&group, OWN_MARK, &mut [0; 4096][..]).unwrap();
        assert!(mark > 0);
        let left = bed.program("/bin/sleep".as_ref()).arg("50").spawn();
        let pid = left.pid().as_raw();
        fs::write(group.join("cgroup.procs"), pid.to_string()).unwrap();
        container.kill("KILL");
        container.ended();
        let own = bed.root().join(&container.id);
        let set = |mark: &[u8]| {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(&group, OWN_MARK, mark, flags).unwrap();
        };
        set(b"/run/ferrun/\xff");
        let output = bed.runtime(["delete", &container.id]);
        assert!(output.failure(1).contains(r"/run/ferrun/\xff"), "{output}");
        assert!(own.exists() && !has_ended(pid));
        set(own.as_os_str().as_encoded_bytes());
        container.delete();
        assert!(has_ended(pid));
    });
}

/// Who restores a container has to give its programs the same again, and nobody else remembers.
#[test]
fn what_stdio_was_at_the_start_is_on_record() {
    as_root(|bed| {
        if bed.is_peer("their records are their own") {
            return;
        }
        let container = bed.start(&bed.bundle().sh("sleep 100"));
        let pid = container.pid();
        let link = |number: u32| fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap();
        let links: Vec<_> =
            (0..3).map(|number| link(number).to_str().unwrap().to_owned()).collect();
        let text = fs::read_to_string(record(bed, &container.id)).unwrap();
        let written: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(written["stdio"], json!(links));
    });
}
