//! The shim itself ends: containerd has all that is left ended by `delete`.

use engines::containerd::Release;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::{Daemon, with_shims};

/// Kills all shims. Their containers' processes are orphans then.
fn kill_shims(daemon: &Daemon<'_>) {
    let shims = daemon.shims();
    assert!(!shims.is_empty(), "there is a shim");
    for (pid, _) in shims {
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill");
    }
}

#[test]
fn nothing_is_left_of_a_container_whose_shim_was_killed() {
    with_shims(|daemon| {
        daemon.run("-d --null-io", "one sh -c 'sleep 1000 & sleep 1000'").succeeds();
        daemon.exec_beside("one", "beside").succeeds();
        kill_shims(daemon);
        daemon.becomes("one", "");
        let group = daemon.place.cgroup("memory", "one");
        daemon.place.eventually("its cgroup has gone", || !group.exists());
        daemon.ctr("container rm one").succeeds();
        daemon.run("--rm", "one echo again").prints("again");
    });
}

#[test]
fn the_code_of_what_had_ended_before_is_kept() {
    with_shims(|daemon| {
        let events = daemon.place.begin(&format!("exec {}", daemon.line("events")));
        daemon.run("-d --null-io", "one sh -c 'exit 5'").succeeds();
        daemon.becomes("one", "STOPPED");
        kill_shims(daemon);
        daemon.becomes("one", "");
        daemon.ctr("container rm one").succeeds();
        let deleted = || events.printed().lines().any(|line| line.contains("/tasks/delete"));
        daemon.place.eventually("its end is told", deleted);
        let told = events.printed();
        let line = told.lines().find(|line| line.contains("/tasks/delete")).unwrap_or_default();
        // containerd's shim writes it down since 2.4.
        if daemon.shim.is_ours() || daemon.release == Release::Current {
            daemon.place.claim("with its code", line.contains("\"exit_status\":5"));
        }
        events.signal(Signal::SIGTERM);
        events.wait();
    });
}

#[test]
fn a_shim_that_is_killed_while_containerd_is_away_is_cleared_up_when_it_is_back() {
    with_shims(|daemon| {
        daemon.run("-d --null-io", "one sleep 1000").succeeds();
        daemon.restart(Signal::SIGKILL, || kill_shims(daemon));
        daemon.becomes("one", "");
        daemon.ctr("container rm one").succeeds();
    });
}
