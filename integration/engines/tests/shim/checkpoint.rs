//! Images of containers by containerd's client and by the CRI. They need a CRIU that works on
//! this kernel; where there is none, that is printed.

use std::path::Path;

use engines::containerd::Release;
use engines::shim::Shim;
use integration::criu;
use serde_json::json;

use crate::daemon::{Daemon, with_pods, with_shims};

/// Counts in a file.
pub const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i > /tmp/next; \
                       mv /tmp/next /tmp/count; sleep 0.1; done";

/// Runs a test where containerd finds a CRIU that works, and says so elsewhere.
pub fn with_criu(daemon: &Daemon<'_>, test: impl Fn()) {
    let Some(path) = criu::path(daemon.place.bed) else { return };
    let directory = path.split(':').next().unwrap_or_default();
    daemon.take(&Path::new(directory).join("criu"));
    test();
    // What it has found out of the kernel.
    daemon.place.sh("rm -f /run/criu.kdat").succeeds();
}

/// Waits until what `read` tells goes on from `before`. Returns what it told at first.
#[track_caller]
pub fn goes_on(daemon: &Daemon<'_>, before: u64, read: impl Fn() -> String) -> u64 {
    let mut first = None;
    daemon.place.eventually("it counts on", || {
        let Ok(now) = read().trim().parse::<u64>() else { return false };
        now > *first.get_or_insert(now) + 2
    });
    let first = first.unwrap_or_default();
    daemon.place.claim(&format!("{first} comes after {before}"), first >= before);
    first
}

#[test]
fn a_container_goes_on_from_an_image_of_ctr() {
    with_shims(|daemon| {
        with_criu(daemon, || {
            // What was restored cannot be made an image of again by `ctr`, so each is a new one.
            for at in 1..=criu::rounds(1) {
                let (old, new) = (format!("old-{at}"), format!("new-{at}"));
                let image = format!("point:{at}");
                let read = |id: &str| daemon.exec(id, "cat /tmp/count").output.stdout;
                daemon.run("-d", &format!("{old} sh -c '{COUNTER}'")).succeeds();
                let before = goes_on(daemon, 1, || read(&old));
                daemon
                    .ctr(&format!("containers checkpoint --task --image --rw {old} {image}"))
                    .succeeds();
                // It was paused meanwhile, and runs on.
                goes_on(daemon, before, || read(&old));
                daemon.remove(&old);
                daemon.ctr(&format!("containers restore --live --rw {new} {image}")).succeeds();
                goes_on(daemon, before, || read(&new));
                daemon.ctr(&format!("task kill --signal KILL {new}")).succeeds();
                daemon.becomes(&new, "STOPPED");
                daemon.remove_ended(&new, 137);
                daemon.ctr(&format!("images rm {image}")).succeeds();
            }
        })
    });
}

#[test]
fn a_container_ends_with_its_image_where_that_is_asked_for() {
    with_shims(|daemon| {
        with_criu(daemon, || {
            daemon.run("-d", &format!("old sh -c '{COUNTER}'")).succeeds();
            daemon.ctr("task checkpoint --exit old").succeeds();
            if daemon.release == Release::Debian && daemon.shim == Shim::Own {
                // That `ctr` says so to runc's shim alone, or whom it takes for that.
                goes_on(daemon, 1, || daemon.exec("old", "cat /tmp/count").output.stdout);
                return daemon.remove("old");
            }
            daemon.becomes("old", "STOPPED");
            daemon.remove_ended("old", 137);
        })
    });
}

#[test]
fn an_archive_is_made_of_a_container_of_a_pod_that_runs_on() {
    with_pods(|daemon| {
        if daemon.release == Release::Debian {
            return;
        }
        with_criu(daemon, || {
            let pod = daemon.pod("pod", &json!({}));
            let one = pod.start("one", &["sh", "-c", COUNTER], &json!({}));
            let read = |id: &str| pod.crictl(&format!("exec {id} cat /tmp/count")).output.stdout;
            goes_on(daemon, 1, || read(&one));
            let mut before = 1;
            for at in 1..=criu::rounds(1) {
                let archive = daemon.place.bed.directory.join(format!("one-{at}.tar"));
                pod.crictl(&format!("checkpoint --export={} {one}", archive.display())).succeeds();
                before = goes_on(daemon, before, || read(&one));
                let listed = daemon.place.sh(&format!("tar -tf {}", archive.display()));
                listed.mentions("checkpoint/inventory.img").mentions("checkpoint/descriptors.json");
            }
            pod.remove();
        });
    });
}
