//! What is begun is written down first: whichever process of a call is killed or told
//! to end, at whichever system call, `delete --force` removes everything and the ID is
//! free. Whether a process heeds SIGTERM there is its own affair.
//!
//! By default every 10th stop is tried, and of `create`, which has by far the most and whose
//! own calls `killed.rs` tries one by one, every 41st. All of them take many minutes:
//! `cargo test -p integration --test killed_anywhere -- --ignored`.

use integration::blow::{Blow, Ended, Victim, hit, strike};
use integration::{Bed, Bundle, Container, Holder, View, as_root, eventually, in_views};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::json;

/// Starts a created container whose init process, which is no child of `start`, is hit.
#[track_caller]
fn hit_init(container: &Container<'_>, blow: Blow) -> Ended {
    let init = Pid::from_raw(container.pid());
    let start = || container.call("start").code;
    let (ended, code) = strike(init, Victim::Caller, blow, start);
    Ended { code, ..ended }
}

/// A bundle that makes something of each kind.
fn bundle(bed: &Bed) -> Bundle {
    bed.bundle()
        .with_namespace("cgroup", None)
        .with("/linux/resources/devices", json!([{"allow": false, "access": "rwm"}]))
        .with("/hooks/createRuntime", json!([{"path": "/bin/true"}]))
        .with("/hooks/poststart", json!([{"path": "/bin/true"}]))
        .mount("/data", "tmpfs", "tmpfs", &[])
        .sh("sleep 100")
}

/// Goes through a call, once with SIGKILL and once with SIGTERM at each `step`th stop.
/// `once` makes the call with the ID and says how it ended; a call that fails by itself
/// has undone everything.
#[track_caller]
fn go_through(bed: &Bed, what: &str, step: u32, undoes: bool, once: impl Fn(&str, Blow) -> Ended) {
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        go_through_with(signal, bed, what, step, undoes, &once);
    }
}

#[track_caller]
fn go_through_with(
    signal: Signal,
    bed: &Bed,
    what: &str,
    step: u32,
    undoes: bool,
    once: impl Fn(&str, Blow) -> Ended,
) {
    let id = bed.id();
    let bundle = bundle(bed);
    let (mut hits, mut ends) = (0, 0);
    for number in (1..).step_by(step as usize) {
        let ended = once(&id, Blow { signal, number });
        let when = format!("{what}, {:?}, {signal} at stop {number}: {ended:?}", bed.view);
        if undoes && ended.code > 0 {
            bed.assert_settles(&format!("{when}, before delete"));
        }
        let output = bed.runtime(["delete", "--force", &id]);
        assert_eq!(output.code, 0, "{when}: {output}");
        bed.assert_settles(&when);
        if !ended.reached {
            break;
        }
        if hits % 8 == 0 {
            let again = Container::create(bed, &id, bed.create_call(&bundle, &id));
            again.start();
            again.delete();
        }
        hits += 1;
        ends += u32::from(ended.code != 0);
    }
    let view = bed.view;
    eprintln!("{what}, {view:?}: {signal} at {hits} stops, one in {step}, ended {ends} calls");
    assert!(hits * step > 20, "hardly traced: {hits} stops");
    // An init process is deaf to SIGTERM, as pid 1 of its namespace.
    assert!(ends > 0 || what == "start, init", "{what}, {view:?}: {signal} ended nothing");
}

/// Runs the test with version 1 alone and with version 2 alone.
#[track_caller]
fn in_both_versions(test: impl Fn(&Bed) + Sync) {
    in_views(|bed| match bed.view {
        View::Hybrid => {}
        _ if bed.is_peer("they leave things behind") => {}
        _ => test(bed),
    });
}

fn create(step: u32) {
    in_both_versions(|bed| {
        for victim in [Victim::Caller, Victim::Child] {
            let bundle = bundle(bed);
            let undoes = victim == Victim::Child;
            go_through(bed, &format!("create, {victim:?}"), step, undoes, |id, blow| {
                hit(bed.create_call(&bundle, id), victim, blow)
            });
        }
    });
}

/// A process in between prepares the container, and another one opens its procfs.
fn create_joined(step: u32) {
    in_both_versions(|bed| {
        let holder = Holder::new(&["--pid"]);
        let joined = || bundle(bed).with_namespace("pid", Some(&holder.path("pid")));
        for victim in [Victim::Caller, Victim::Child] {
            let undoes = victim == Victim::Child;
            let what = format!("create in a joined pid namespace, {victim:?}");
            go_through(bed, &what, step, undoes, |id, blow| {
                hit(bed.create_call(&joined(), id), victim, blow)
            });
        }
    });
}

fn run_detached(step: u32) {
    in_both_versions(|bed| {
        for victim in [Victim::Caller, Victim::Child] {
            let bundle = bundle(bed);
            let undoes = victim == Victim::Child;
            go_through(bed, &format!("run --detach, {victim:?}"), step, undoes, |id, blow| {
                let call = bed.call().args(["run", "--detach", "--bundle"]);
                hit(call.arg(&bundle.save().path).arg(id), victim, blow)
            });
        }
    });
}

fn run(step: u32) {
    in_both_versions(|bed| {
        for victim in [Victim::Caller, Victim::Child] {
            let bundle = bundle(bed).args(["/bin/true"]);
            let undoes = victim == Victim::Child;
            go_through(bed, &format!("run, {victim:?}"), step, undoes, |id, blow| {
                let call = bed.call().args(["run", "--bundle"]);
                hit(call.arg(&bundle.save().path).arg(id), victim, blow)
            });
        }
    });
}

fn start(step: u32) {
    in_both_versions(|bed| {
        let bundle = bundle(bed).args(["/bin/true"]);
        let created = |id: &str| Container::create(bed, id, bed.create_call(&bundle, id));
        go_through(bed, "start, Caller", step, false, |id, blow| {
            let container = created(id);
            let ended = hit(bed.call().args(["start", id]), Victim::Caller, blow);
            std::mem::forget(container);
            ended
        });
        // At the first stops init is dead before start has begun, and stays to be seen.
        go_through(bed, "start, init", step, false, |id, blow| {
            let container = created(id);
            let ended = hit_init(&container, blow);
            std::mem::forget(container);
            ended
        });
    });
}

fn exec(step: u32) {
    in_both_versions(|bed| {
        for victim in [Victim::Caller, Victim::Child] {
            let bundle = bundle(bed);
            go_through(bed, &format!("exec, {victim:?}"), step, false, |id, blow| {
                let container = Container::create(bed, id, bed.create_call(&bundle, id));
                container.start();
                let ended = hit(container.exec_call(&[], &["/bin/true"]), victim, blow);
                assert_eq!(container.status(), "running", "{victim:?}, {blow:?}");
                if blow.number % 4 == 1 {
                    assert_eq!(container.sh("echo inside").success(), "inside");
                }
                std::mem::forget(container);
                ended
            });
        }
    });
}

/// One of the processes that exec makes is killed at each of their stops.
#[test]
fn an_exec_that_fails_has_not_run_its_program() {
    as_root(|bed| {
        if bed.is_peer("their helpers are other ones") {
            return;
        }
        let bundle = bundle(bed);
        let container = bed.start(&bundle);
        let place = bundle.rootfs().join("tmp/ran");
        let processes =
            || bed.runtime(["ps", "--format", "json", &container.id]).success().to_owned();
        let before = processes();
        let mut failed = 0;
        for number in 0.. {
            let blow = Blow { signal: Signal::SIGKILL, number };
            let call = container.exec_call(&[], &["/bin/touch", "/tmp/ran"]);
            let ended = hit(call, Victim::Child, blow);
            assert!(number > 0 || ended.code == 255, "{ended:?}");
            if ended.code == 255 {
                failed += 1;
                // Neither has it, nor will it: nothing is left of the call.
                eventually("the processes of exec are gone", || processes() == before);
                assert!(!place.exists(), "{blow:?}");
            }
            if !ended.reached {
                assert_eq!((ended.code, place.exists()), (0, true), "{blow:?}");
                break;
            }
            let _ = std::fs::remove_file(&place);
        }
        assert!(failed > 100, "hardly traced: {failed} failed");
    });
}

fn delete(step: u32) {
    in_both_versions(|bed| {
        let bundle = bundle(bed);
        go_through(bed, "delete --force, Caller", step, false, |id, blow| {
            let container = Container::create(bed, id, bed.create_call(&bundle, id));
            container.start();
            let call = bed.call().args(["delete", "--force", id]);
            let ended = hit(call, Victim::Caller, blow);
            std::mem::forget(container);
            ended
        });
    });
}

fn pause_resume_and_kill(step: u32) {
    in_both_versions(|bed| {
        let bundle = bundle(bed);
        for verb in ["pause", "resume", "kill"] {
            go_through(bed, &format!("{verb}, Caller"), step, false, |id, blow| {
                let container = Container::create(bed, id, bed.create_call(&bundle, id));
                container.start();
                if verb == "resume" {
                    container.call("pause").success();
                }
                let ended = hit(bed.call().args([verb, id]), Victim::Caller, blow);
                std::mem::forget(container);
                ended
            });
        }
    });
}

const SOME: u32 = 10;
/// Odd, so that both entries and exits of calls are among them.
const FEW: u32 = 41;
const ALL: u32 = 1;

#[test]
fn create_can_be_killed_at_some_stops() {
    create(FEW);
}

#[test]
fn create_in_a_joined_pid_namespace_can_be_killed_at_some_stops() {
    create_joined(FEW);
}

#[test]
fn run_detached_can_be_killed_at_some_stops() {
    run_detached(SOME);
}

#[test]
fn run_can_be_killed_at_some_stops() {
    run(SOME);
}

#[test]
fn start_can_be_killed_at_some_stops() {
    start(SOME);
}

#[test]
fn exec_can_be_killed_at_some_stops() {
    exec(SOME);
}

#[test]
fn delete_can_be_killed_at_some_stops() {
    delete(SOME);
}

#[test]
fn pause_resume_and_kill_can_be_killed_at_some_stops() {
    pause_resume_and_kill(SOME);
}

#[test]
#[ignore = "takes minutes"]
fn create_can_be_killed_at_every_stop() {
    create(ALL);
}

#[test]
#[ignore = "takes minutes"]
fn create_in_a_joined_pid_namespace_can_be_killed_at_every_stop() {
    create_joined(ALL);
}

#[test]
#[ignore = "takes minutes"]
fn run_detached_can_be_killed_at_every_stop() {
    run_detached(ALL);
}

#[test]
#[ignore = "takes minutes"]
fn run_can_be_killed_at_every_stop() {
    run(ALL);
}

#[test]
#[ignore = "takes minutes"]
fn start_can_be_killed_at_every_stop() {
    start(ALL);
}

#[test]
#[ignore = "takes minutes"]
fn exec_can_be_killed_at_every_stop() {
    exec(ALL);
}

#[test]
#[ignore = "takes minutes"]
fn delete_can_be_killed_at_every_stop() {
    delete(ALL);
}

#[test]
#[ignore = "takes minutes"]
fn pause_resume_and_kill_can_be_killed_at_every_stop() {
    pause_resume_and_kill(ALL);
}
