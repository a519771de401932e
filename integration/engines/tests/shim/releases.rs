//! The releases of containerd between Debian's and today's that ask for a shim in a way of their
//! own: 2.0 to 2.2 give the options and read a text, 2.3 gives and reads messages.

use engines::containerd::Release;
use engines::pod::Pod;
use engines::shim::Shim;
use integration::criu;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::checkpoint::{COUNTER, goes_on, with_criu};
use crate::daemon::{Daemon, with_daemon};

const RELEASES: [&str; 4] = ["2.0.11", "2.1.9", "2.2.7", "2.3.7"];
/// Those whose CRI makes a container of an archive. None before 2.1 or after 2.3 does, and 2.1 asks
/// for its image at the registry where it once was, whatever registry it is told of.
const RESTORING: [&str; 2] = ["2.2.7", "2.3.7"];

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

#[test]
#[ignore = "takes releases that are built for it: make test-shim-releases"]
fn a_container_of_a_pod_goes_on_in_another_pod() {
    for release in RESTORING.map(Release::Between) {
        for shim in Shim::tested() {
            // Where the shim is told of by its path, releases before 2.3 forget that when they
            // restore, and start another one.
            if shim != Shim::ByPath || release == Release::Between("2.3.7") {
                with_daemon(release, shim, true, &|daemon| with_criu(daemon, || is_moved(daemon)));
            }
        }
    }
}

/// From pod to pod, by an archive.
fn is_moved(daemon: &Daemon<'_>) {
    let program = format!("echo began >> /tmp/began; {COUNTER}");
    let program = ["sh", "-c", &program];
    let read = |pod: &Pod<'_>, id: &str, file: &str| {
        pod.crictl(&format!("exec {id} cat /tmp/{file}")).output.stdout
    };
    // As the node agent asks for it. In the pod's the stand-in for its first process, which has
    // threads, may have the number that is restored.
    let own_pids = json!({"linux": {"security_context": {"namespace_options": {"pid": 1}}}});
    let mut pod = daemon.pod("pod", &json!({}));
    let mut one = pod.start("one", &program, &own_pids);
    let mut before = goes_on(daemon, 1, || read(&pod, &one, "count"));
    for at in 1..=criu::rounds(2) {
        let archive = daemon.place.bed.directory.join(format!("one-{at}.tar"));
        pod.crictl(&format!("checkpoint --export={} {one}", archive.display())).succeeds();
        pod.remove();
        pod = daemon.pod(&format!("pod-{at}"), &json!({}));
        one = pod.restore(&archive, "one", &program, &own_pids);
        before = goes_on(daemon, before, || read(&pod, &one, "count"));
        daemon.place.claim("one shim for all of the pod", daemon.shims().len() == 1);
        daemon.place.claim("it began once", read(&pod, &one, "began") == "began\n");
    }
    pod.crictl(&format!("exec {one} sh -c 'exit 3'")).fails(1, "exit code 3");
    pod.crictl(&format!("stop --timeout 0 {one}")).succeeds();
    daemon.place.claim("it has ended", pod.inspect(&one, "/status/state") == "CONTAINER_EXITED");
    pod.remove();
}
