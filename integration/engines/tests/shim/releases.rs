//! The releases of containerd between Debian's and today's that ask for a shim in a way of their
//! own: 2.0 to 2.2 give the options and read a text, 2.3 gives and reads messages.

use engines::containerd::Release;
use engines::shim::Shim;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::daemon::{Daemon, with_daemon};

const RELEASES: [&str; 4] = ["2.0.11", "2.1.9", "2.2.7", "2.3.7"];

#[test]
#[ignore = "takes releases that are built for it: make test-shim-releases"]
fn containers_and_pods_live_and_outlive_containerd() {
    for release in RELEASES.map(Release::Between) {
        for shim in Shim::tested() {
            with_daemon(release, shim, true, &|daemon| {
                containers(daemon);
                pods(daemon);
            });
        }
    }
}

fn containers(daemon: &Daemon<'_>) {
    daemon.run("--rm", "one sh -c 'echo out; exit 7'").fails(7, "");
    daemon.run("--rm", "one echo hello").prints("hello");
    daemon.run("--rm", "one no-such-program").fails(1, "executable file not found in $PATH");
    daemon.run("-d", "one sh -c 'trap \"exit 9\" TERM; while :; do sleep 0.1; done'").succeeds();
    daemon.exec("one", "sh -c 'echo inside; exit 3'").exits(3);
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        daemon.restart(signal, || ());
        daemon.becomes("one", "RUNNING");
    }
    daemon.exec("one", "echo inside").prints("inside");
    daemon.ctr("task kill --signal TERM one").succeeds();
    daemon.becomes("one", "STOPPED");
    daemon.remove_ended("one", 9);
}

fn pods(daemon: &Daemon<'_>) {
    let pod = daemon.pod("pod", &json!({}));
    let [one, two] = ["one", "two"].map(|name| pod.start(name, &["sleep", "1000"], &json!({})));
    pod.crictl(&format!("exec {one} sh -c 'exit 3'")).fails(1, "exit code 3");
    pod.crictl(&format!("exec --sync {two} echo inside")).prints("inside");
    daemon.place.claim("one shim for both", daemon.shims().len() == 1);
    daemon.restart(Signal::SIGKILL, || ());
    pod.crictl(&format!("exec --sync {two} echo inside")).prints("inside");
    pod.crictl(&format!("stop --timeout 0 {one}")).succeeds();
    daemon.place.claim("it has ended", pod.inspect(&one, "/status/state") == "CONTAINER_EXITED");
    pod.remove();
}
