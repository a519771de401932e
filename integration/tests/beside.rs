//! Verbs beside each other on one container: each pair, in each state. Whoever comes too
//! late is told in the words that callers look for, and neither which file nor which
//! process was missing first; and `delete --force` always leaves nothing.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use integration::{Bed, Bundle, Call, Container, Output, Running, View, as_root, eventually};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

const VERBS: [&[&str]; 14] = [
    &["create"],
    &["start"],
    &["state"],
    &["kill"],
    &["kill", "--all"],
    &["delete"],
    &["delete", "--force"],
    &["exec"],
    &["ps"],
    &["pause"],
    &["resume"],
    &["update"],
    &["events"],
    &["list"],
];
const STATES: [&str; 5] = ["none", "created", "running", "paused", "stopped"];

/// What may be said of a container that somebody else begins, changes or ends.
const WORDS: [&str; 12] = [
    "does not exist",
    "container with given ID already exists",
    "container is still being created",
    "cannot start an already running container",
    "cannot start a container that has stopped",
    "the init process died before it could run the program",
    // By `kill --all TERM`, which is for whoever is there already.
    "the init process ended with status 143",
    "container not running",
    "container not paused",
    "cannot exec in a stopped container",
    "cannot exec in a paused container",
    "that is not stopped",
];

fn call(bed: &Bed, verb: &[&str], bundle: &Bundle, id: &str) -> Call {
    let call = bed.call().args(verb);
    match verb[0] {
        // Not by the harness, which would write config.json again beside another create.
        "create" => call.arg("--bundle").arg(&bundle.path).arg(id),
        "list" => call,
        "kill" => call.args([id, if verb.len() == 1 { "KILL" } else { "TERM" }]),
        "exec" => call.args([id, "/bin/true"]),
        "update" => call.args(["--pids-limit", "50", id]),
        "events" => call.args(["--stats", id]),
        _ => call.arg(id),
    }
}

/// A container in this state; None where there is to be none.
fn prepare<'bed>(
    bed: &'bed Bed,
    state: &str,
    bundle: &Bundle,
    id: &str,
) -> Option<Container<'bed>> {
    if state == "none" {
        return None;
    }
    let container = Container::create(bed, id, call(bed, &["create"], bundle, id));
    if state != "created" {
        container.start();
    }
    match state {
        "paused" => drop(container.call("pause").success().to_owned()),
        "stopped" => {
            container.kill("KILL");
            container.ended();
        }
        _ => {}
    }
    Some(container)
}

/// Calls both at almost the same time.
fn beside(
    bed: &Bed,
    verbs: [&[&str]; 2],
    delay: Duration,
    bundle: &Bundle,
    id: &str,
) -> [Output; 2] {
    let first = call(bed, verbs[0], bundle, id).spawn();
    sleep(delay);
    let second = call(bed, verbs[1], bundle, id).spawn();
    // What was to run inside stands still while it is paused.
    let stands_still =
        |own: &[&str], other: &[&str]| ["exec", "start"].contains(&own[0]) && other[0] == "pause";
    if stands_still(verbs[0], verbs[1]) {
        let second = second.wait();
        bed.runtime(["resume", id]);
        return [first.wait(), second];
    }
    let first = first.wait();
    if stands_still(verbs[1], verbs[0]) {
        bed.runtime(["resume", id]);
    }
    [first, second.wait()]
}

fn says_what_happened(output: &Output) -> bool {
    let said = WORDS.iter().any(|words| output.stderr.contains(words));
    match output.code {
        // 137 and 143: the program of exec was killed with the container.
        0 | 137 | 143 => output.stderr.is_empty(),
        _ => said && output.stderr.lines().count() == 1,
    }
}

/// Whether the container is still what it was before two verbs met on it.
fn is_still(bed: &Bed, state: &str, id: &str) -> bool {
    let output = bed.runtime(["state", id]);
    output.code == 0 && output.stdout.contains(&format!("\"status\": \"{state}\""))
}

/// Makes the chosen pairs meet, on a new container where the pair before has changed the last.
fn each_pair(bed: &Bed, state: &str, round: u32, is_chosen: impl Fn(usize) -> bool) {
    let bundle = bed.bundle().sh("sleep 100");
    bundle.save();
    let mut id = bed.id();
    let mut container = None;
    let verbs = VERBS.iter().flat_map(|first| VERBS.iter().map(move |other| [*first, *other]));
    for (number, pair) in verbs.enumerate() {
        let creates = pair.iter().any(|verb| verb[0] == "create");
        if (state == "none" && !creates) || !is_chosen(number) {
            continue;
        }
        if container.is_none() {
            id = bed.id();
            container = prepare(bed, state, &bundle, &id);
        }
        let delay = Duration::from_micros(u64::from(round * 7919 + number as u32 * 613) % 6000);
        for output in &beside(bed, pair, delay, &bundle, &id) {
            // `delete --force` kills whoever creates.
            let is_fine = says_what_happened(output) || (output.code == -9 && creates);
            assert!(is_fine, "{state}, {:?} beside {:?}: {output}", pair[0], pair[1]);
        }
        if container.is_some() && is_still(bed, state, &id) {
            continue;
        }
        match container.take() {
            Some(container) => container.delete(),
            None => drop(bed.runtime(["delete", "--force", &id]).success().len()),
        }
        eventually("nothing is left", || bed.is_clear());
    }
    container.into_iter().for_each(Container::delete);
    eventually("nothing is left", || bed.is_clear());
}

#[test]
fn pairs_of_verbs_do_not_stumble_over_each_other() {
    as_root(|bed| {
        if bed.is_peer("runc and crun say which file was missing") {
            return;
        }
        for (at, state) in STATES.iter().enumerate() {
            each_pair(bed, state, 0, |number| (number + at) % 5 == 0);
        }
    });
}

/// Each pair, in one state: one test for each, so that they are done side by side.
fn each_pair_a_hundred_times(state: &str) {
    as_root(|bed| {
        if bed.is_peer("runc and crun say which file was missing") {
            return;
        }
        for round in 0..100 {
            each_pair(bed, state, round, |_| true);
        }
    });
}

#[test]
#[ignore = "takes a minute"]
fn each_pair_a_hundred_times_on_no_container() {
    each_pair_a_hundred_times("none");
}

#[test]
#[ignore = "takes minutes"]
fn each_pair_a_hundred_times_on_a_created_container() {
    each_pair_a_hundred_times("created");
}

#[test]
#[ignore = "takes minutes"]
fn each_pair_a_hundred_times_on_a_running_container() {
    each_pair_a_hundred_times("running");
}

#[test]
#[ignore = "takes minutes"]
fn each_pair_a_hundred_times_on_a_paused_container() {
    each_pair_a_hundred_times("paused");
}

#[test]
#[ignore = "takes minutes"]
fn each_pair_a_hundred_times_on_a_stopped_container() {
    each_pair_a_hundred_times("stopped");
}

#[test]
fn a_container_that_is_begun_or_removed_does_not_exist() {
    as_root(|bed| {
        if bed.is_peer("crun 1.8 says which file was missing") {
            return;
        }
        let bundle = bed.bundle().sh("sleep 100");
        for round in 0..60 {
            let id = bed.id();
            let creating = bed.create_call(&bundle, &id).spawn();
            sleep(Duration::from_micros(round * 200 % 5000));
            let while_created = bed.runtime(["state", &id]);
            creating.wait().success();
            let deleting = bed.call().args(["delete", "--force", &id]).spawn();
            sleep(Duration::from_micros(round * 130 % 5000));
            let while_deleted = bed.runtime(["state", &id]);
            deleting.wait().success();
            for output in [while_created, while_deleted] {
                assert!(output.code == 0 || output.stderr.contains("does not exist"), "{output}");
            }
        }
        eventually("nothing is left", || bed.is_clear());
        // As a create has it before its first word is written down.
        let (id, root) = (bed.id(), bed.root());
        fs::create_dir_all(root.join(&id)).unwrap();
        let output = bed.runtime(["state", &id]);
        assert!(output.failure(1).contains("does not exist"), "{output}");
        fs::remove_dir(root.join(&id)).unwrap();
    });
}

/// Makes a traced call stop at its system calls.
fn begin(running: &Running) {
    let pid = running.pid();
    // At its execve(2).
    assert!(matches!(waitpid(pid, Some(WaitPidFlag::__WALL)), Ok(WaitStatus::Stopped(..))));
    ptrace::setoptions(pid, Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL)
        .expect("PTRACE_SETOPTIONS");
}

/// Lets it run to its next stop. Says whether it came so far.
fn step(running: &Running) -> bool {
    let pid = running.pid();
    let mut signal = None;
    loop {
        ptrace::syscall(pid, signal.take()).expect("PTRACE_SYSCALL");
        match waitpid(pid, Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::PtraceSyscall(_)) => return true,
            Ok(WaitStatus::Stopped(_, Signal::SIGTRAP)) => {}
            Ok(WaitStatus::Stopped(_, other)) => signal = Some(other),
            Ok(WaitStatus::Exited(..)) => return false,
            other => panic!("{other:?}"),
        }
    }
}

/// Lets a traced call run to the `number`th stop. Says whether it came so far.
fn run_to(running: &Running, number: u32) -> bool {
    begin(running);
    (0..number).all(|_| step(running))
}

/// Whoever starts it cannot tell that from a filter's work, but for there being no filter.
#[test]
fn an_init_that_is_killed_at_its_last_call_has_died() {
    as_root(|bed| {
        if bed.is_peer("runc and crun do not notice") {
            return;
        }
        let bundle = bed.bundle().sh("sleep 100");
        bundle.save();
        let id = bed.id();
        let container = prepare(bed, "created", &bundle, &id).expect("a container");
        let init = Pid::from_raw(container.pid());
        ptrace::attach(init).expect("PTRACE_ATTACH");
        let stopped = || waitpid(init, Some(WaitPidFlag::__WALL)).expect("it stops");
        stopped();
        let start = call(bed, &["start"], &bundle, &id).spawn();
        let at_execve = format!("{} ", libc::SYS_execve);
        while !fs::read_to_string(format!("/proc/{init}/syscall")).unwrap().starts_with(&at_execve)
        {
            ptrace::syscall(init, None).expect("PTRACE_SYSCALL");
            stopped();
        }
        kill(init, Signal::SIGKILL).expect("kill");
        let output = start.wait();
        let words = "ferrun: error: the init process died before it could run the program";
        assert_eq!(output.failure(1), words, "{output}");
        container.delete();
    });
}

/// On version 1 nobody who is frozen dies, and whoever pauses the container may be later than
/// the delete that has thawed it.
#[test]
fn what_is_frozen_while_it_is_deleted_ends() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 wait for it for ever") {
            return;
        }
        let bundle = bed.bundle().sh("sleep 100");
        bundle.save();
        for state in ["created", "running", "running"] {
            let id = bed.id();
            let container = prepare(bed, state, &bundle, &id).expect("a container");
            let file = match bed.view {
                View::V2 => bed.cgroup_file(&bundle, "cgroup.freeze"),
                _ => bed.cgroup_file(&bundle, "freezer.state"),
            };
            let frozen = if bed.view == View::V2 { "1" } else { "FROZEN" };
            let deleting = bed.call().args(["delete", "--force", &id]).spawn();
            let end = Instant::now() + Duration::from_secs(1);
            while Instant::now() < end && fs::write(&file, frozen).is_ok() {}
            assert_eq!(deleting.wait().success(), "", "{state}");
            container.delete();
            bed.assert_nothing_left();
        }
    });
}

/// Until it is written down there is nothing to kill, and the create goes on.
#[test]
fn the_id_of_a_create_that_was_deleted_may_be_taken_again() {
    as_root(|bed| {
        if bed.is_peer("runc and crun say which file was missing") {
            return;
        }
        let bundle = bed.bundle().sh("sleep 100");
        bundle.save();
        let create = |id: &str| call(bed, &["create"], &bundle, id).traced().spawn();
        let id = bed.id();
        let running = create(&id);
        let mut first = 0;
        begin(&running);
        while !bed.root().join(&id).exists() {
            assert!(step(&running), "it ended after {first} stops");
            first += 1;
        }
        drop(running);
        bed.runtime(["delete", "--force", &id]).success();
        let mut killed = 0;
        for number in first.. {
            let id = bed.id();
            let running = create(&id);
            assert!(run_to(&running, number), "{number}");
            bed.runtime(["delete", "--force", &id]).success();
            let other = prepare(bed, "created", &bundle, &id).expect("a container");
            // Nobody, where it was killed.
            let _ = ptrace::detach(running.pid(), None);
            let output = running.wait();
            killed += u32::from(output.code == -9);
            let is_fine = output.code != 0 && says_what_happened(&output);
            assert!(is_fine || output.code == -9, "at stop {number}: {output}");
            assert_eq!(other.status(), "created", "at stop {number}: {output}");
            other.delete();
            eventually("nothing is left", || bed.is_clear());
            if killed > 2 {
                break;
            }
            assert!(number < first + 100, "no create was killed");
        }
    });
}

#[test]
fn a_container_may_be_deleted_at_each_call_of_a_verb() {
    as_root(|bed| {
        if bed.is_peer("runc and crun say which file was missing") {
            return;
        }
        let bundle = bed.bundle().sh("sleep 100");
        bundle.save();
        for (state, verb) in [
            ("created", &["start"][..]),
            ("running", &["state"]),
            ("running", &["kill"]),
            ("running", &["kill", "--all"]),
            ("running", &["exec"]),
            ("running", &["ps"]),
            ("running", &["pause"]),
            ("paused", &["resume"]),
            ("running", &["update"]),
            ("running", &["events"]),
            ("stopped", &["delete"]),
            ("running", &["delete", "--force"]),
        ] {
            let mut number = 9;
            loop {
                let id = bed.id();
                let container = prepare(bed, state, &bundle, &id).expect("a container");
                let running = call(bed, verb, &bundle, &id).traced().spawn();
                let is_under_way = run_to(&running, number);
                if !is_under_way {
                    container.delete();
                    break;
                }
                let go_on = || ptrace::detach(running.pid(), None).expect("PTRACE_DETACH");
                // Init does not end before its parent has reaped what exec has added.
                if verb[0] == "exec" {
                    go_on();
                    container.delete();
                } else {
                    container.delete();
                    go_on();
                }
                let output = running.wait();
                assert!(says_what_happened(&output), "{verb:?} at stop {number}: {output}");
                eventually("nothing is left", || bed.is_clear());
                number += 5;
            }
            assert!(number > 30, "{verb:?} was hardly traced: {number} stops");
            eventually("nothing is left", || bed.is_clear());
        }
    });
}
