//! Limits under systemd's driver on a Debian 13, where all controllers are: each is in the unit
//! and in the group's files, whatever systemd is told in between, and it limits.

mod checkpoint;
mod docker;
mod kubelet;
mod limits;
mod podman;
mod pods;
mod restricted;

use engines::Host;

/// What systemd is told that has nothing to do with a container, and might have it write its
/// limits anew: a slice above it is named, and a unit beside it.
fn disturbances(slice: &str, sibling: &str) -> [String; 3] {
    [
        "systemctl daemon-reload".to_owned(),
        format!(
            "systemctl set-property --runtime {slice} MemoryHigh=1G TasksMax=5000 CPUWeight=90"
        ),
        format!("systemctl set-property --runtime {sibling} MemoryMax=300M CPUQuota=90%"),
    ]
}

/// Whether the weight of block I/O is to be seen.
fn keeps_weights(host: &Host<'_>) -> bool {
    !host.bed.is_peer("runc 1.1 writes io.weight to the file alone, and systemd takes it back")
}

/// `claim` holds now and after each disturbance.
#[track_caller]
fn whatever_systemd_does(host: &Host<'_>, slice: &str, sibling: &str, claim: impl Fn(&str)) {
    claim("at once");
    for line in disturbances(slice, sibling) {
        host.sh(&line).succeeds();
        claim(&format!("after {line}"));
    }
}
