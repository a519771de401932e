//! What containerd's other clients are told, and in which order.

use integration::Running;

use crate::daemon::{Daemon, with_shims};

/// A client that hears all events.
fn listen(daemon: &Daemon<'_>) -> Running {
    let running = daemon.place.begin(&format!("exec {}", daemon.line("events")));
    // It says nothing when it listens: an event of no task shows that it does.
    let place = daemon.place;
    let mut count = 0;
    place.eventually("it listens", || {
        count += 1;
        let _ = daemon.ctr(&format!("namespaces create heard-{count}")).output;
        let _ = daemon.ctr(&format!("namespaces rm heard-{count}")).output;
        running.printed().contains("/namespaces/create")
    });
    running
}

/// The topics of tasks in their order; an exit has the ID of the process that ended.
fn topics(running: &Running) -> Vec<String> {
    let topic = |line: &str| {
        let (_, rest) = line.split_once("/tasks/")?;
        let (name, body) = rest.split_once(' ')?;
        let exit = || body.split_once("\"id\":\"")?.1.split_once('"').map(|(id, _)| id.to_owned());
        Some(if name == "exit" { format!("exit {}", exit()?) } else { name.to_owned() })
    };
    running.printed().lines().filter_map(topic).collect()
}

#[test]
fn each_event_comes_once_and_in_its_order() {
    with_shims(|daemon| {
        let events = listen(daemon);
        daemon.run("-d", "one sleep 1000").succeeds();
        daemon.ctr("task exec --exec-id beside one true").succeeds();
        daemon.ctr("task pause one").succeeds();
        daemon.ctr("task resume one").succeeds();
        daemon.exec_beside("one", "later").succeeds();
        daemon.ctr("task kill --signal KILL one").succeeds();
        daemon.becomes("one", "STOPPED");
        daemon.remove("one");
        let expected = [
            "create",
            "start",
            "exec-added",
            "exec-started",
            "exit beside",
            "paused",
            "resumed",
            "exec-added",
            "exec-started",
            "exit later",
            "exit one",
            "delete",
        ];
        daemon.place.eventually("all are told", || topics(&events).len() >= expected.len());
        let told = topics(&events);
        eprintln!("{told:?}");
        daemon.place.claim("they are these, in this order", told == expected);

        // One that ends before its start was told.
        daemon.run("--rm", "two true").succeeds();
        let more = ["create", "start", "exit two", "delete"];
        daemon
            .place
            .eventually("all are told", || topics(&events).len() >= expected.len() + more.len());
        let told = topics(&events);
        daemon.place.claim("they are these, in this order", told[expected.len()..] == more);
        events.signal(nix::sys::signal::Signal::SIGTERM);
        events.wait();
    });
}

#[test]
fn want_of_memory_is_told_before_the_end() {
    with_shims(|daemon| {
        if !daemon.place.bed.has_controller("memory") {
            return daemon.place.bed.skip("no controller limits memory here");
        }
        let events = listen(daemon);
        let eats = "one sh -c 'head -c 100m /dev/zero | tail'";
        let output = daemon.run("--rm --memory-limit 16777216", eats).output;
        daemon.place.claim("it was killed", output.code != 0);
        daemon.place.eventually("its end is told", || {
            topics(&events).iter().any(|topic| topic == "delete")
        });
        let told = topics(&events);
        eprintln!("{told:?}");
        let at = |topic: &str| told.iter().position(|told| told == topic);
        let (oom, exit) = (at("oom"), at("exit one"));
        daemon.place.claim("want of memory comes first", oom.is_some() && oom < exit);
        events.signal(nix::sys::signal::Signal::SIGTERM);
        events.wait();
    });
}
