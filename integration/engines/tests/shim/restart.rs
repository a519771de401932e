//! containerd ends and comes back, at any moment.

use std::time::Duration;

use nix::sys::signal::Signal::{SIGKILL, SIGTERM};
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::daemon::with_shims;

#[test]
fn containers_run_on_and_are_found_again() {
    with_shims(|daemon| {
        daemon.run("-d", "one sh -c 'while :; do echo tick; sleep 0.1; done'").succeeds();
        daemon.run("-d", "two sleep 1000").succeeds();
        for signal in [SIGKILL, SIGTERM] {
            daemon.restart(signal, || std::thread::sleep(Duration::from_millis(500)));
            for id in ["one", "two"] {
                daemon.becomes(id, "RUNNING");
            }
            daemon.exec("two", "echo inside").prints("inside");
            // What writes has met no broken pipe.
            let attached = daemon
                .place
                .begin(&format!("exec timeout -s KILL 5 {}", daemon.line("task attach one")));
            daemon.place.eventually("it is heard", || attached.printed().contains("tick"));
            attached.wait();
        }
        daemon.place.claim("each has its shim", daemon.shims().len() == 2);
        daemon.remove("one");
        daemon.remove("two");
    });
}

#[test]
fn what_ends_meanwhile_keeps_its_code_or_is_gone() {
    with_shims(|daemon| {
        daemon.run("-d --null-io", "one sh -c 'sleep 2; exit 9'").succeeds();
        daemon.restart(SIGKILL, || std::thread::sleep(Duration::from_secs(3)));
        // containerd has what it finds ended deleted, unless the shim tells it not to.
        daemon.place.eventually("it has ended", || daemon.status("one") != "RUNNING");
        if daemon.status("one") == "STOPPED" {
            return daemon.remove_ended("one", 9);
        }
        daemon.place.claim("it is gone", daemon.status("one").is_empty());
        daemon.ctr("container rm one").succeeds();
    });
}

#[test]
fn calls_that_were_cut_off_leave_a_container_that_can_be_removed() {
    with_shims(|daemon| {
        for (at, line) in [
            daemon.run_line("-d", "cut0 sleep 1000"),
            daemon.run_line("--rm", "cut1 sleep 1000"),
            daemon.run_line("-d", "cut2 sleep 1000"),
            daemon.run_line("-d", "cut3 sleep 1000"),
        ]
        .iter()
        .enumerate()
        {
            // At some moment of create and start.
            let running = daemon.place.begin(&daemon.line(line));
            std::thread::sleep(Duration::from_millis(40 * at as u64 + 20));
            daemon.restart(SIGKILL, || ());
            running.signal(SIGKILL);
            running.wait();
            let id = format!("cut{at}");
            let _ = daemon.ctr(&format!("task rm --force {id}")).output;
            daemon.becomes(&id, "");
            let _ = daemon.ctr(&format!("container rm {id}")).output;
            if daemon.shim.is_ours() {
                daemon.place.eventually("no shim is left", || daemon.shims().is_empty());
            }
            // containerd's stays where containerd ends before it knows of it.
            for (pid, _) in daemon.shims() {
                let _ = kill(Pid::from_raw(pid), SIGKILL);
            }
        }
        daemon.run("--rm", "after echo well").prints("well");
        let _ = daemon.ctr("snapshots rm cut0 cut1 cut2 cut3").output;
    });
}

#[test]
fn any_call_to_a_container_that_runs_may_be_cut_off() {
    with_shims(|daemon| {
        // `ctr` leaves the fifos of what it did not see the end of.
        let fifos = daemon.place.bed.directory.join("fifos");
        let exec = format!("exec --fifo-dir {} --exec-id x ID sleep 0.1", fifos.display());
        let calls = [exec.as_str(), "pause ID", "metrics ID", "ps ID"];
        let ends = ["kill --signal KILL ID", "rm --force ID"];
        for (at, call) in calls.into_iter().chain(ends).enumerate() {
            let id = format!("any{at}");
            daemon.run("-d --null-io", &format!("{id} sleep 1000")).succeeds();
            let line = daemon.line(&format!("task {}", call.replace("ID", &id)));
            let running = daemon.place.begin(&line);
            // `ctr` takes some time to begin.
            std::thread::sleep(Duration::from_millis(10 * at as u64 + 20));
            daemon.restart(SIGKILL, || ());
            running.signal(SIGKILL);
            running.wait();
            // It was done or not, and nothing in between.
            if at < calls.len() {
                let resumed = || {
                    let _ = daemon.ctr(&format!("task resume {id}")).output;
                    daemon.status(&id) == "RUNNING"
                };
                daemon.place.eventually("it runs", resumed);
                daemon.exec(&id, "echo inside").prints("inside");
            }
            let _ = daemon.ctr(&format!("task rm --force {id}")).output;
            daemon.becomes(&id, "");
            let _ = daemon.ctr(&format!("container rm {id}")).output;
            daemon.place.eventually("no shim is left", || daemon.shims().is_empty());
            let _ = daemon.ctr(&format!("snapshots rm {id}")).output;
        }
    });
}
