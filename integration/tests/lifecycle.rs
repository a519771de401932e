//! From create to delete: states, what is allowed in which, and what is left.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Barrier;
use std::thread;

use integration::{
    Bed, Bundle, Call, Container, Output, View, as_both, as_root, eventually, everywhere,
    has_ended, in_views,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

#[test]
fn a_container_is_created_started_killed_and_deleted() {
    everywhere(|bed| {
        let container = bed.create(&bed.bundle().sh("echo up; sleep 100"));
        assert_eq!(container.status(), "created");
        assert_eq!(container.printed(), "");
        container.start();
        container.prints("up\n");
        assert_eq!(container.status(), "running");
        container.kill("KILL");
        eventually("it stops", || container.status() == "stopped");
        assert_eq!(container.state().get("pid").unwrap_or(&json!(0)), &json!(0));
        container.call("delete").success();
        bed.assert_nothing_left();
    });
}

#[test]
fn run_gives_the_programs_exit_code_and_leaves_nothing() {
    everywhere(|bed| {
        for (script, code) in [("exit 0", 0), ("exit 7", 7), ("exit 255", 255)] {
            let output = bed.run(&bed.bundle().sh(script));
            assert_eq!(output.code, code, "{output}");
        }
        bed.assert_nothing_left();
    });
}

#[test]
fn run_takes_another_command_than_the_bundles() {
    as_both(|bed| {
        if bed.is_peer("runc and crun run what the bundle says") {
            return;
        }
        let bundle = bed.bundle().args(["/bin/false"]);
        let run = |command: &[&str]| bed.run_call(&bundle).arg("--").args(command).output();
        let output = run(&["/bin/sh", "-c", "echo $0 $1; exit 7", "-all", "--keep"]);
        assert_eq!((output.code, output.stdout.trim()), (7, "-all --keep"));
        // What went wrong is told of what was asked for.
        let output = run(&["/bin/no-such-program"]);
        assert!(output.stderr.contains(r#"args[0]: exec: "/bin/no-such-program""#), "{output}");
        let without = bundle.clone().without("/process");
        let output = bed.run_call(&without).args(["--", "/bin/true"]).output();
        assert!(output.stderr.contains("process: missing, and a command was given"), "{output}");
        bed.assert_nothing_left();
    });
}

#[test]
fn a_program_killed_by_a_signal_gives_128_and_its_number() {
    as_root(|bed| {
        for (signal, code) in [("TERM", 143), ("KILL", 137), ("35", 163)] {
            // As pid 1 of its own namespace it would be deaf to its own signals.
            let bundle = bed.bundle().without_namespace("pid").sh(&format!("kill -{signal} $$"));
            let output = bed.run(&bundle);
            assert_eq!(output.code, code, "{output}");
        }
    });
}

#[test]
fn a_program_that_ends_at_once_is_not_lost() {
    as_root(|bed| {
        let bundle = bed.bundle().args(["/bin/true"]);
        for _ in 0..20 {
            bed.run(&bundle).success();
        }
    });
}

#[test]
fn run_passes_signals_on_to_the_program() {
    as_both(|bed| {
        let bundle = bed
            .bundle()
            .sh("trap 'echo got it; exit 9' USR1; echo ready; while :; do sleep 0.02; done");
        let running = bed.run_call(&bundle).spawn();
        eventually("the program is ready", || running.printed().contains("ready"));
        running.signal(nix::sys::signal::Signal::SIGUSR1);
        let output = running.wait();
        assert_eq!((output.code, output.stdout.as_str()), (9, "ready\ngot it\n"), "{output}");
    });
}

#[test]
fn run_kills_what_the_program_leaves_where_it_has_no_pid_namespace() {
    as_root(|bed| {
        if bed.is_peer("crun 1.8 waits for it") {
            return;
        }
        let bundle = bed.bundle().without_namespace("pid").sh("sleep 98 & echo left");
        assert_eq!(bed.run(&bundle).success(), "left");
        bed.assert_nothing_left();
    });
}

#[test]
fn run_reaps_orphans_where_there_is_no_pid_namespace() {
    as_root(|bed| {
        let script = "sh -c 'sh -c \"echo \\$\\$ > /tmp/orphan; sleep 0.1\" &'; \
                      while [ ! -s /tmp/orphan ]; do sleep 0.02; done; n=0; \
                      while [ -d /proc/$(cat /tmp/orphan) ]; do \
                      n=$((n + 1)); [ $n -lt 200 ] || exit 9; sleep 0.02; done; echo reaped";
        let bundle = bed.bundle().without_namespace("pid").sh(script);
        assert_eq!(bed.run(&bundle).success(), "reaped");
    });
}

#[test]
fn an_init_process_that_waits_has_one_thread() {
    everywhere(|bed| {
        if bed.is_peer("it has those of Go's run time, or is another program") {
            return;
        }
        let container = bed.create(&bed.bundle());
        let threads = fs::read_dir(format!("/proc/{}/task", container.pid())).unwrap();
        assert_eq!(threads.count(), 1);
    });
}

#[test]
fn a_state_directory_may_have_a_very_long_path() {
    as_both(|bed| {
        if bed.is_peer("they have a socket or a fifo of another kind") {
            return;
        }
        let long = bed.root().join("a".repeat(200)).join("b".repeat(200));
        let call = |verb: &str| bed.bare_call().arg("--root").arg(&long).arg(verb);
        let bundle = bed.bundle().sh("echo started");
        let id = bed.id();
        let created = call("create").arg("--bundle").arg(&bundle.save().path).arg(&id).spawn();
        let stdout = created.stdout.clone();
        created.wait().success();
        call("start").arg(&id).output().success();
        eventually("it prints", || fs::read_to_string(&stdout).unwrap() == "started\n");
        call("delete").arg("--force").arg(&id).output().success();
        fs::remove_dir_all(bed.root().join("a".repeat(200))).unwrap();
    });
}

#[test]
fn a_detached_run_returns_while_the_program_runs() {
    as_both(|bed| {
        let id = bed.id();
        let pid_file = bed.make_directory("pids", 0o755).join("pid");
        let call = bed.call().args(["run", "--detach", "--pid-file"]).arg(&pid_file);
        let bundle = bed.bundle().sh("sleep 100");
        let call = call.arg("--bundle").arg(&bundle.save().path).arg(&id);
        let container = Container::create(bed, &id, call);
        assert_eq!(container.status(), "running");
        assert_eq!(fs::read_to_string(pid_file).unwrap(), container.pid().to_string());
    });
}

#[test]
fn a_kept_container_stays_until_it_is_deleted() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 know no --keep on run") {
            return;
        }
        let id = bed.id();
        let bundle = bed.bundle();
        let call = bed.call().args(["run", "--keep", "--bundle"]).arg(&bundle.save().path);
        call.arg(&id).output().success();
        let state = bed.runtime(["state", &id]);
        assert!(state.success().contains("\"stopped\""), "{state}");
        bed.runtime(["delete", &id]).success();
    });
}

#[test]
fn each_operation_is_allowed_in_its_states_alone() {
    as_root(|bed| {
        if bed.is_peer("crun's words are its own") {
            return;
        }
        let container =
            bed.create(&bed.bundle().sh("trap 'exit 0' TERM; while :; do sleep 0.02; done"));
        let refused = |verb: &[&str], code: i32, words: &str| {
            let output = bed.runtime(verb);
            assert!(output.failure(code).contains(words), "{words:?} is not in {output}");
        };
        let id = container.id.as_str();
        container.start();
        refused(&["start", id], 1, "");
        refused(&["delete", id], 1, "not stopped");
        container.exec(&["/bin/true"]).success();
        container.call("pause").success();
        if !bed.is_peer("runc says no more than that it is not running") {
            refused(&["pause", id], 1, "container not running: it is paused already");
        }
        container.call("resume").success();
        container.kill("TERM");
        eventually("it stops", || container.status() == "stopped");
        refused(&["start", id], 1, "stopped");
        // The words that containerd, Podman and CRI-O look for.
        refused(&["kill", id, "TERM"], 1, "container not running");
        bed.runtime(["kill", "--all", id, "TERM"]).success();
        if !bed.is_peer("a failing exec is 1 with crun") {
            refused(&["exec", id, "/bin/true"], 255, "stopped");
        }
        container.call("delete").success();
        for verb in ["state", "kill", "start", "delete"] {
            refused(&[verb, id], 1, "does not exist");
        }
        bed.runtime(["delete", "--force", id]).success();
        bed.assert_nothing_left();
    });
}

#[test]
fn a_created_container_can_be_deleted_at_once() {
    everywhere(|bed| {
        let container = bed.create(&bed.bundle());
        container.call("delete").success();
        bed.assert_nothing_left();
    });
}

#[test]
fn a_running_container_is_deleted_by_force_with_all_its_processes() {
    everywhere(|bed| {
        if bed.view == View::V2 && bed.is_peer("runc 1.1 may leave a cgroup of version 2 behind") {
            return;
        }
        let mut bundle = bed.bundle().sh("sleep 97 & sleep 96 & echo up; wait");
        if !bed.is_rootless() {
            // Then nothing but the cgroup tells which processes are its own.
            bundle = bundle.without_namespace("pid");
        }
        let container = bed.start(&bundle);
        container.prints("up");
        container.call("delete").failure(1);
        container.delete();
        bed.assert_nothing_left();
    });
}

#[test]
fn kill_takes_names_and_numbers() {
    as_root(|bed| {
        if bed.is_peer("crun 1.8 takes an unknown name for no signal, and says nothing") {
            return;
        }
        for signal in ["TERM", "SIGTERM", "15", "term"] {
            if signal == "term" && bed.is_peer("crun takes upper case only") {
                continue;
            }
            let script = "trap 'echo got it; exit' TERM; echo up; while :; do sleep 0.02; done";
            let container = bed.start(&bed.bundle().sh(script));
            container.prints("up");
            container.kill(signal);
            assert_eq!(container.ended(), "up\ngot it\n", "{signal}");
        }
        let container = bed.create(&bed.bundle());
        for wrong in ["SIGBOGUS", "65", "-1"] {
            if wrong == "65" && bed.is_peer("runc passes any number on") {
                continue;
            }
            bed.runtime(["kill", &container.id, wrong]).failure(1);
        }
    });
}

#[test]
fn kill_all_reaches_every_process() {
    in_views(|bed| {
        let script = "trap 'echo one' TERM; sh -c \"trap 'echo two; exit' TERM; echo up; \
                      while :; do sleep 0.02; done\" & while :; do sleep 0.02; done";
        let container = bed.start(&bed.bundle().sh(script));
        container.prints("up");
        bed.runtime(["kill", "--all", &container.id, "TERM"]).success();
        container.prints("one");
        container.prints("two");
    });
}

#[test]
fn an_id_is_used_once() {
    as_root(|bed| {
        let container = bed.create(&bed.bundle());
        let output = bed.create_call(&bed.bundle(), &container.id).output();
        assert!(output.failure(1).contains("already exists"), "{output}");
        assert_eq!(container.status(), "created", "the first one is untouched");
    });
}

#[test]
fn of_many_creates_of_one_id_at_once_one_wins() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 have no lock here") {
            return;
        }
        let rounds = 50;
        let bundles: Vec<_> = (0..8).map(|_| bed.bundle()).collect();
        for round in 0..rounds {
            let id = bed.id();
            let outputs =
                at_once(bundles.iter().map(|bundle| bed.create_call(bundle, &id)).collect());
            let won = outputs.iter().filter(|output| output.code == 0).count();
            assert_eq!(won, 1, "round {round}: {outputs:#?}");
            for lost in outputs.iter().filter(|output| output.code != 0) {
                assert!(lost.failure(1).contains("exists"), "{lost}");
            }
            bed.runtime(["start", &id]).success();
            bed.runtime(["delete", "--force", &id]).success();
        }
        bed.assert_nothing_left();
        eprintln!("{rounds} rounds of 8 creates");
    });
}

/// Makes calls from as many threads, which begin together.
fn at_once(calls: Vec<Call>) -> Vec<Output> {
    let together = Barrier::new(calls.len());
    thread::scope(|scope| {
        let spawn = |call: Call| {
            scope.spawn(|| {
                together.wait();
                call.output()
            })
        };
        let threads: Vec<_> = calls.into_iter().map(spawn).collect();
        threads.into_iter().map(|thread| thread.join().expect("an end in time")).collect()
    })
}

/// Has a created container started, killed, shown and deleted all at the same time.
fn all_at_once(rounds: u32) {
    in_views(|bed| {
        if bed.is_peer("they leave things behind") {
            return;
        }
        let bundle = bed.bundle().sh("sleep 100");
        let mut outcomes: BTreeMap<Vec<i32>, u32> = BTreeMap::new();
        for round in 0..rounds {
            let container = bed.create(&bundle);
            let verbs: [&[&str]; 5] =
                [&["start"], &["kill"], &["state"], &["delete"], &["delete", "--force"]];
            let call = |verb: &&[&str]| bed.call().args(*verb).arg(&container.id);
            let outputs = at_once(verbs.iter().map(call).collect());
            for output in &outputs {
                assert!([0, 1].contains(&output.code), "round {round}: {output}");
            }
            container.delete();
            eventually(&format!("nothing is left of round {round}"), || bed.is_clear());
            *outcomes.entry(outputs.iter().map(|output| output.code).collect()).or_default() += 1;
        }
        eprintln!("{:?}: how often which exit codes came: {outcomes:?}", bed.view);
        assert!(outcomes.len() > 1, "always the same is first: {outcomes:?}");
    });
}

#[test]
fn start_kill_state_and_delete_may_come_at_once() {
    all_at_once(25);
}

#[test]
#[ignore = "takes a minute"]
fn start_kill_state_and_delete_may_come_at_once_very_often() {
    all_at_once(1000);
}

#[test]
fn what_is_written_to_config_json_after_create_has_no_effect() {
    as_root(|bed| {
        let bundle = bed.bundle().sh("echo first");
        let container = bed.create(&bundle);
        bundle.clone().sh("echo second").save();
        container.start();
        assert_eq!(container.ended(), "first\n");
    });
}

#[test]
fn a_bundle_that_vanishes_after_create_can_be_deleted() {
    as_root(|bed| {
        let bundle = bed.bundle();
        let container = bed.create(&bundle);
        fs::remove_dir_all(&bundle.path).unwrap();
        assert_eq!(container.status(), "created");
        container.call("delete").success();
        bed.assert_nothing_left();
    });
}

#[test]
fn a_config_without_a_process_can_be_created_but_not_started() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 refuses to create it, crun 1.8 crashes at start") {
            return;
        }
        let bundle = bed.bundle().without("/process");
        let container = bed.create(&bundle);
        assert_eq!(container.status(), "created");
        let output = container.call("start");
        assert!(output.failure(1).contains("process"), "{output}");
        let output = bed.run(&bundle);
        assert!(output.failure(1).contains("process"), "{output}");
        drop(container);
        bed.assert_nothing_left();
    });
}

#[test]
fn odd_callers_are_served_too() {
    as_root(|bed| {
        if bed.is_peer("crun 1.8 hangs where its caller ignores SIGCHLD") {
            return;
        }
        let bundle = bed.bundle().sh("umask; trap; ls /proc/self/fd | wc -l");
        let usual = bed.run(&bundle).success().to_owned();
        assert_eq!(bed.run_call(&bundle).umask(0o777).output().success(), usual, "umask");
        assert_eq!(bed.run_call(&bundle).ignoring_children().output().success(), usual);
        bed.run_call(&bed.bundle()).without_stdio().output().success();
        let gone = bed.make_directory("gone", 0o755);
        let call = bed.run_call(&bundle).current_dir(&gone);
        assert_eq!(call.output().success(), usual);
        bed.assert_nothing_left();
    });
}

/// The file that freezes a bundle's group, and what is written to it.
fn freezer(bed: &Bed, bundle: &Bundle) -> (PathBuf, &'static str, &'static str) {
    match bed.view {
        View::V2 => (bed.cgroup_file(bundle, "cgroup.freeze"), "1", "0"),
        _ => (bed.cgroup_file(bundle, "freezer.state"), "FROZEN", "THAWED"),
    }
}

#[test]
fn a_new_group_below_a_frozen_one_is_refused_and_not_left() {
    in_views(|bed| {
        if bed.is_peer("they wait for ever, or leave it") {
            return;
        }
        let above = bed.bundle();
        let (file, frozen, thawed) = freezer(bed, &above);
        let group = file.parent().unwrap();
        fs::create_dir_all(group).unwrap();
        fs::write(&file, frozen).unwrap();
        let path = above.config["linux"]["cgroupsPath"].as_str().unwrap();
        let output = bed.run(&bed.bundle().with("/linux/cgroupsPath", format!("{path}/below")));
        assert!(output.failure(1).contains("container's cgroup unexpectedly frozen"), "{output}");
        assert!(!group.join("below").exists(), "it was made for the container");
        fs::write(&file, thawed).unwrap();
        fs::remove_dir(group).unwrap();
    });
}

#[test]
fn a_create_that_fails_leaves_a_group_that_was_there_before() {
    in_views(|bed| {
        if bed.is_peer("they remove it") {
            return;
        }
        let bundle = bed.bundle();
        let (file, frozen, thawed) = freezer(bed, &bundle);
        let group = file.parent().unwrap();
        fs::create_dir_all(group).unwrap();
        fs::write(&file, frozen).unwrap();
        for _ in 0..2 {
            let output = bed.run(&bundle);
            assert!(
                output.failure(1).contains("container's cgroup unexpectedly frozen"),
                "{output}"
            );
            assert!(group.exists(), "it was there before");
        }
        assert_eq!(fs::read_to_string(&file).unwrap().trim(), frozen);
        fs::write(&file, thawed).unwrap();
        // Before and after the init process is made.
        for wrong in [
            bundle.clone().with("/linux/resources/unified", json!({"no.such": "1"})),
            bundle.clone().mount("/data", "nothing", "nothing", &[]),
            bundle.clone().with("/hooks/createRuntime", json!([{"path": "/bin/false"}])),
        ] {
            bed.run(&wrong).failure(1);
            assert!(group.exists(), "it was there before");
        }
        bed.run(&bundle).success();
        assert!(!group.exists(), "it is removed with the container that took it");
        bed.assert_nothing_left();
    });
}

#[test]
fn kill_ends_what_outlives_init_without_a_pid_namespace() {
    in_views(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 say that it does not run") {
            return;
        }
        let bundle = bed.bundle().without_namespace("pid").sh("sleep 100 & echo $!; wait");
        let container = bed.start(&bundle);
        container.prints("\n");
        let left: i32 = container.printed().trim().parse().unwrap();
        let init = Pid::from_raw(container.pid());
        kill(init, Signal::SIGKILL).unwrap();
        container.ended();
        bed.runtime(["kill", &container.id, "TERM"]).failure(1);
        assert!(!has_ended(left));
        container.kill("KILL");
        assert!(has_ended(left));
        let output = bed.runtime(["kill", &container.id, "KILL"]);
        assert!(output.failure(1).contains("container not running"), "{output}");
        container.delete();
        bed.assert_nothing_left();
    });
}

#[test]
fn kill_ends_all_where_there_is_no_pid_namespace() {
    in_views(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 kill init alone") {
            return;
        }
        let bundle = bed.bundle().without_namespace("pid").sh("sleep 100 & echo $!; wait");
        let container = bed.start(&bundle);
        container.prints("\n");
        let other: i32 = container.printed().trim().parse().unwrap();
        container.kill("TERM");
        container.ended();
        assert!(!has_ended(other), "any other signal is for init");
        container.delete();
        let container = bed.start(&bundle);
        container.prints("\n");
        let other: i32 = container.printed().trim().parse().unwrap();
        container.kill("KILL");
        eventually("the other one ends too", || has_ended(other));
        container.delete();
    });
}

#[test]
fn nothing_left_to_signal_is_no_error_with_all() {
    as_root(|bed| {
        if bed.is_peer("crun 1.8 refuses") {
            return;
        }
        let container = bed.start(&bed.bundle().sh("sleep 100"));
        bed.runtime(["kill", "--all", &container.id, "0"]).success();
        assert_eq!(container.status(), "running");
        container.kill("KILL");
        container.ended();
        for signal in ["0", "TERM", "KILL"] {
            bed.runtime(["kill", "--all", &container.id, signal]).success();
        }
    });
}

#[test]
fn who_is_in_a_frozen_group_below_is_ended() {
    in_views(|bed| {
        if bed.is_peer("runc and crun wait for it for ever") {
            return;
        }
        for (verb, pids) in
            [("kill", "own"), ("kill", "shared"), ("delete", "own"), ("delete", "shared")]
        {
            let bundle = bed.bundle().sh("sleep 100 & wait");
            let bundle = match pids {
                "shared" => bundle.without_namespace("pid"),
                _ => bundle,
            };
            for moved in ["init", "child"] {
                let container = bed.start(&bundle);
                let (file, frozen, _) = freezer(bed, &bundle);
                let group = file.parent().unwrap();
                let procs = || fs::read_to_string(group.join("cgroup.procs")).unwrap();
                eventually("both processes run", || procs().lines().count() == 2);
                let init = container.pid();
                let pids: Vec<i32> = procs().lines().map(|pid| pid.parse().unwrap()).collect();
                let inner = group.join("inner");
                fs::create_dir(&inner).unwrap();
                let member = pids.iter().find(|pid| (**pid == init) == (moved == "init")).unwrap();
                fs::write(inner.join("cgroup.procs"), member.to_string()).unwrap();
                fs::write(inner.join(file.file_name().unwrap()), frozen).unwrap();
                if verb == "kill" {
                    container.kill("KILL");
                    eventually("all end", || pids.iter().all(|pid| has_ended(*pid)));
                }
                container.delete();
                assert!(pids.iter().all(|pid| has_ended(*pid)), "{verb} {moved}");
                bed.assert_nothing_left();
            }
        }
    });
}
