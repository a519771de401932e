//! The intent is on disk before anything is made: wherever `create` is killed,
//! `delete --force` finds and removes everything.

use std::path::Path;

use integration::{Bed, Bundle, Container, Running, as_both, as_root, eventually};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::json;

/// How a traced call went on.
enum Reached {
    /// It was stopped at the system call that was asked for, and killed there.
    Stop,
    /// It ended before.
    End,
}

/// Lets a traced call run to the `number`th stop at a system call, of which each
/// has two: before and after it. Then kills it.
fn kill_at(running: &Running, number: u32) -> Reached {
    let pid = running.pid();
    // At its execve(2).
    assert!(matches!(waitpid(pid, Some(WaitPidFlag::__WALL)), Ok(WaitStatus::Stopped(..))));
    ptrace::setoptions(pid, Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL)
        .expect("PTRACE_SETOPTIONS");
    let mut passed = 0;
    let mut signal = None;
    while passed < number {
        ptrace::syscall(pid, signal.take()).expect("PTRACE_SYSCALL");
        match waitpid(pid, Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::PtraceSyscall(_)) => passed += 1,
            Ok(WaitStatus::Stopped(_, Signal::SIGTRAP)) => {}
            Ok(WaitStatus::Stopped(_, other)) => signal = Some(other),
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => return Reached::End,
            other => panic!("{other:?}"),
        }
    }
    kill(pid, Signal::SIGKILL).expect("kill");
    let ended = waitpid(pid, Some(WaitPidFlag::__WALL));
    assert!(matches!(ended, Ok(WaitStatus::Signaled(..))), "{ended:?}");
    Reached::Stop
}

/// A bundle that makes something of each kind.
fn bundle(bed: &Bed) -> Bundle {
    let may_have_class = !bed.is_rootless() && Path::new("/sys/fs/resctrl/tasks").exists();
    let bundle = bed.bundle();
    let bundle = match may_have_class {
        true => bundle.with("/linux/intelRdt", json!({"enableMonitoring": true})),
        false => bundle,
    };
    bundle
        .with_namespace("cgroup", None)
        .with("/linux/resources/devices", json!([{"allow": false, "access": "rwm"}]))
        .with("/hooks/createRuntime", json!([{"path": "/bin/true"}]))
        .mount("/data", "tmpfs", "tmpfs", &[])
        .sh("sleep 100")
}

/// Kills `create` at each of its system calls, in steps of `step`.
#[track_caller]
fn kill_everywhere(bed: &Bed, bundle: &Bundle, step: u32) {
    let id = bed.id();
    let mut number = 1;
    let mut killed = 0;
    loop {
        let call = bed.create_call(bundle, &id).option("--pid-file", bed.directory.join("pid"));
        let running = call.traced().spawn();
        let reached = kill_at(&running, number);
        drop(running);
        let output = bed.runtime(["delete", "--force", &id]);
        assert_eq!(output.code, 0, "killed at stop {number}: {output}");
        let clean = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // A child whose parent died at the clone sees to its own end.
            settle(bed);
        }));
        assert!(clean.is_ok(), "killed at stop {number}");
        if killed % 8 == 0 {
            // The ID is free again, and its cgroup can be made.
            Container::create(bed, &id, bed.create_call(bundle, &id)).delete();
        }
        match reached {
            Reached::End => break,
            Reached::Stop => killed += 1,
        }
        number += step;
    }
    Container::create(bed, &id, bed.create_call(bundle, &id)).delete();
    bed.assert_nothing_left();
    eprintln!("{killed} rounds, {number} stops");
    assert!(killed > 20, "the runtime was hardly traced: {killed} rounds");
}

/// Waits until nothing is left, for as long as a killed process may need.
#[track_caller]
fn settle(bed: &Bed) {
    for _ in 0..100 {
        if bed.is_clear() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    bed.assert_nothing_left();
}

#[test]
fn create_can_be_killed_at_each_system_call() {
    as_root(|bed| {
        if bed.is_peer("they leave things behind") {
            return;
        }
        kill_everywhere(bed, &bundle(bed), 1);
    });
}

#[test]
fn create_by_an_ordinary_user_can_be_killed_at_any_time() {
    integration::as_user(|bed| {
        if bed.is_peer("they leave things behind") {
            return;
        }
        kill_everywhere(bed, &bundle(bed).without("/linux/resources"), 3);
    });
}

#[test]
fn create_without_a_mount_namespace_can_be_killed_at_any_time() {
    as_root(|bed| {
        if bed.is_peer("they leave things behind") {
            return;
        }
        kill_everywhere(bed, &bundle(bed).without_namespace("mount").without_namespace("pid"), 5);
    });
}

#[test]
fn a_create_that_is_still_at_work_is_stopped_by_delete() {
    as_root(|bed| {
        if bed.is_peer("they cannot") {
            return;
        }
        let bundle = bed
            .bundle()
            .with("/hooks/createRuntime", json!([{"path": "/bin/sleep", "args": ["sleep", "91"]}]));
        let id = bed.id();
        let running = bed.create_call(&bundle, &id).spawn();
        eventually("create is at its hook", || {
            bed.runtime(["state", &id]).stdout.contains("creating") && children(running.pid()) >= 2
        });
        assert_eq!(bed.runtime(["delete", &id]).code, 1, "without force it is not touched");
        bed.runtime(["delete", "--force", &id]).success();
        assert!(running.wait().code != 0);
        eventually("the hook ends with its create", || bed.is_clear());
    });
}

/// The number of children of a process.
fn children(pid: Pid) -> usize {
    let path = format!("/proc/{pid}/task/{pid}/children");
    std::fs::read_to_string(path).unwrap_or_default().split_whitespace().count()
}

#[test]
fn a_killed_foreground_run_can_be_deleted() {
    as_both(|bed| {
        if bed.is_rootless() && bed.is_peer("crun 1.8 may leave the process without a cgroup") {
            return;
        }
        let bundle = bed.bundle().sh("echo up; sleep 100");
        let running = bed.run_call(&bundle).spawn();
        eventually("the program runs", || running.printed().contains("up"));
        running.signal(Signal::SIGKILL);
        running.wait();
        let id = bed.runtime(["list", "--quiet"]).success().to_owned();
        bed.runtime(["delete", "--force", &id]).success();
        bed.assert_nothing_left();
    });
}

#[test]
fn a_killed_start_can_be_tried_again_or_deleted() {
    as_root(|bed| {
        if bed.is_peer("they differ") {
            return;
        }
        let mut number = 1;
        loop {
            let container = bed.create(&bed.bundle().sh("sleep 100"));
            let call = bed.call().args(["start", &container.id]).traced();
            let running = call.spawn();
            let reached = kill_at(&running, number);
            drop(running);
            let status = container.status();
            match status.as_str() {
                "created" => {
                    let again = container.call("start");
                    assert!(
                        again.code == 0 || container.status() != "created",
                        "{number}: {again}"
                    );
                }
                "running" | "stopped" => {}
                other => panic!("killed at stop {number}: {other}"),
            }
            container.delete();
            settle(bed);
            if matches!(reached, Reached::End) {
                break;
            }
            number += 5;
        }
        eprintln!("{number} stops");
    });
}

#[test]
fn a_killed_delete_can_be_tried_again() {
    as_root(|bed| {
        if bed.is_peer("they leave things behind") {
            return;
        }
        let bundle = bundle(bed);
        let mut number = 1;
        loop {
            let container = bed.start(&bundle);
            let running = bed.call().args(["delete", "--force", &container.id]).traced().spawn();
            let reached = kill_at(&running, number);
            drop(running);
            container.delete();
            settle(bed);
            if matches!(reached, Reached::End) {
                break;
            }
            number += 3;
        }
        eprintln!("{number} stops");
    });
}

#[test]
fn a_broken_record_blocks_neither_list_nor_delete() {
    as_root(|bed| {
        if bed.is_peer("they have other records") {
            return;
        }
        let good = bed.create(&bed.bundle());
        let broken = bed.create(&bed.bundle());
        let record = bed.root().join(&broken.id).join("state.json");
        let text = std::fs::read_to_string(&record).unwrap();
        for wrong in [&text[..text.len() / 2], "", "{}", "null", "{\"version\": 99}"] {
            std::fs::write(&record, wrong).unwrap();
            let output = bed.runtime(["list", "--quiet"]);
            assert!(output.success().contains(&good.id), "{wrong:?}: {output}");
            assert_eq!(bed.runtime(["state", &broken.id]).code, 1);
        }
        // Whole again it can be removed with all that it names.
        std::fs::write(&record, &text).unwrap();
        broken.delete();
        let id = bed.id();
        std::fs::create_dir(bed.root().join(&id)).unwrap();
        std::fs::write(bed.root().join(&id).join("state.json"), "{").unwrap();
        bed.runtime(["delete", "--force", &id]).success();
        assert!(!bed.root().join(&id).exists());
    });
}

#[test]
fn a_recorded_pid_that_is_another_process_now_is_neither_shown_nor_killed() {
    as_root(|bed| {
        if bed.is_peer("they have other records") {
            return;
        }
        let container = bed.start(&bed.bundle().sh("sleep 100"));
        let record = bed.root().join(&container.id).join("state.json");
        // Start times are told apart by clock ticks, of a hundredth of a second.
        std::thread::sleep(std::time::Duration::from_millis(50));
        let mut bystander = std::process::Command::new("/bin/sleep").arg("50").spawn().unwrap();
        let pid = container.pid();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        container.ended();
        let text = std::fs::read_to_string(&record).unwrap();
        let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
        value["init"]["pid"] = json!(bystander.id());
        std::fs::write(&record, value.to_string()).unwrap();
        assert_eq!(container.status(), "stopped");
        let listed = bed.runtime(["list"]);
        let line = listed.success().lines().find(|line| line.starts_with(&container.id)).unwrap();
        assert_eq!(line.split_whitespace().nth(1), Some("0"), "{listed}");
        assert!(!bed.runtime(["ps", &container.id]).stdout.contains("sleep"));
        container.exec(&["/bin/true"]).failure(255);
        for options in [&["KILL"][..], &["--all", "KILL"]] {
            bed.call().args(["kill", &container.id]).args(options).output();
        }
        bed.runtime(["kill", &container.id, "KILL"]).failure(1);
        container.delete();
        assert!(matches!(bystander.try_wait(), Ok(None)), "the bystander lives");
        bystander.kill().unwrap();
        bystander.wait().unwrap();
    });
}
