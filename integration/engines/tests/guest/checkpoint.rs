//! Checkpoints on a kernel that Debian 13's CRIU knows whole: by the runtime itself, with a
//! connection over the container's loopback and a terminal, across runtimes both ways, and by
//! Docker, Podman and containerd. Each goes on where it was, again and again.

use engines::{Host, on_a_host};
use integration::criu;

use crate::docker::with_docker;
use crate::pods::with_containerd;

/// How often each is dumped and restored.
const OFTEN: u32 = 20;

/// Counts in a file.
const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i > /tmp/next; \
                       busybox mv /tmp/next /tmp/count; sleep 0.1; done";

#[track_caller]
fn number(host: &Host<'_>, line: &str) -> u64 {
    let answer = host.sh(line);
    answer.text().trim().parse().unwrap_or(0)
}

/// Waits until what `read` prints goes on, and by how much it was at first.
#[track_caller]
fn goes_on(host: &Host<'_>, read: &str) -> u64 {
    let mut first = 0;
    host.eventually("it counts on", || {
        let now = number(host, read);
        if first == 0 {
            first = now;
        }
        now > first + 2
    });
    first
}

/// A container that goes on from where it was dumped, after each of the rounds.
#[track_caller]
fn rounds(host: &Host<'_>, read: &str, round: impl Fn(u32)) {
    let mut before = goes_on(host, read);
    for at in 1..=criu::rounds(OFTEN) {
        round(at);
        let now = goes_on(host, read);
        assert!(now >= before, "round {at}: {now} after {before}");
        before = now;
    }
}

/// A bundle in /var/tmp/NAME with this program.
#[track_caller]
fn bundle(host: &Host<'_>, name: &str, script: &str, terminal: bool) -> String {
    let path = format!("/var/tmp/{name}");
    host.sh(&format!(
        "rm -rf {path}; mkdir -p {path}/rootfs && tar -C {path}/rootfs -xf /var/tmp/image.tar && \
         mkdir -p {path}/rootfs/tmp && cd {path} && $RUNTIME spec && jq \
         '.process.terminal = {terminal} | .root.readonly = false | .process.args = \
         [\"sh\", \"-c\", $script]' --arg script '{script}' config.json > new && \
         mv new config.json"
    ))
    .succeeds();
    path
}

const QUIET: &str = "</dev/null >/dev/null 2>&1";

#[test]
fn a_program_goes_on() {
    on_a_host(&["criu", "jq"], |host| {
        for driver in ["", "--systemd-cgroup"] {
            let path = bundle(host, "counting", COUNTER, false);
            let id = host.bed.id();
            let runtime = format!("cd {path} && $RUNTIME {driver}");
            host.sh(&format!("{runtime} run --detach {id} {QUIET}")).succeeds();
            rounds(host, &format!("cat {path}/rootfs/tmp/count"), |at| {
                let image = format!("/var/tmp/image-{at}");
                host.sh(&format!("{runtime} checkpoint --image-path {image} {id}")).succeeds();
                let id = if at % 2 == 0 { id.clone() } else { format!("{id}-other") };
                host.sh(&format!(
                    "{runtime} restore --detach --image-path {image} {id} </dev/null"
                ))
                .succeeds();
                if at % 2 == 1 {
                    // Back to the name that the next round asks for.
                    host.sh(&format!(
                        "rm -rf {image} && {runtime} checkpoint --image-path {image} {id}"
                    ))
                    .succeeds();
                    let id = id.trim_end_matches("-other");
                    host.sh(&format!(
                        "{runtime} restore --detach --image-path {image} {id} </dev/null"
                    ))
                    .succeeds();
                }
                host.sh(&format!("rm -rf {image}")).succeeds();
            });
            host.sh(&format!("$RUNTIME delete --force {id}")).succeeds();
        }
    });
}

#[test]
fn a_connection_over_the_own_loopback_goes_on() {
    on_a_host(&["criu", "jq"], |host| {
        if host.bed.is_peer("runc restores no loopback") {
            return;
        }
        let script = "(while :; do sleep 1; done) | busybox nc -l -p 7000 > /tmp/got & \
             until cat /proc/net/tcp /proc/net/tcp6 | grep -q :1B58; do sleep 0.1; done; \
             (i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done) | busybox nc 127.0.0.1 7000";
        let path = bundle(host, "connected", script, false);
        let id = host.bed.id();
        host.sh(&format!("cd {path} && $RUNTIME run --detach {id} {QUIET}")).succeeds();
        rounds(host, &format!("tail -n 1 {path}/rootfs/tmp/got"), |_| {
            host.sh(&format!(
                "cd {path} && rm -rf image && \
                 $RUNTIME checkpoint --tcp-established --image-path image {id} && \
                 $RUNTIME restore --tcp-established --detach --image-path image {id} </dev/null"
            ))
            .succeeds();
        });
        let got = host.ask(&format!("cat {path}/rootfs/tmp/got"));
        let numbers: Vec<u64> = got.lines().filter_map(|line| line.parse().ok()).collect();
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "each once");
        host.sh(&format!("$RUNTIME delete --force {id}")).succeeds();
    });
}

#[test]
fn images_of_other_runtimes_are_restored_and_ours_by_them() {
    on_a_host(&["criu", "jq", "runc", "crun"], |host| {
        if host.bed.is_peer("it is ferrun that is compared") {
            return;
        }
        // One that makes no processes, which is the easiest to dump.
        let alone = "busybox mkfifo /tmp/none; i=0; while :; do i=$((i+1)); echo $i > /tmp/count; \
                     read -t 0.2 none <> /tmp/none; done";
        for other in ["crun", "runc"] {
            let path = bundle(host, "crossed", alone, false);
            if other == "crun" {
                // It knows what is masked by another name than images of others have.
                let without =
                    "jq 'del(.linux.maskedPaths)' config.json > new && mv new config.json";
                host.sh(&format!("cd {path} && {without}")).succeeds();
            }
            let id = host.bed.id();
            host.sh(&format!("cd {path} && {other} run --detach {id} {QUIET}")).succeeds();
            rounds(host, &format!("cat {path}/rootfs/tmp/count"), |_| {
                for (from, to) in [(other, "$RUNTIME"), ("$RUNTIME", other)] {
                    host.sh(&format!(
                        "cd {path} && rm -rf image work && mkdir work && \
                         {{ {from} checkpoint --work-path $PWD/work --image-path $PWD/image {id} || \
                         {{ tail -n 50 work/dump.log >&2; exit 1; }}; }} && \
                         chmod 700 image && \
                         {to} restore --detach --work-path $PWD/work --image-path $PWD/image {id} </dev/null"
                    ))
                    .succeeds();
                }
            });
            host.sh(&format!("{other} delete --force {id}")).succeeds();
        }
    });
}

#[test]
fn a_container_of_docker_goes_on() {
    with_docker(", \"experimental\": true", |host| {
        host.sh(&format!("docker run --detach --network none --name box small sh -c '{COUNTER}'"))
            .succeeds();
        rounds(host, "docker exec box cat /tmp/count", |at| {
            host.sh(&format!("docker checkpoint create box point-{at}")).succeeds();
            host.becomes("docker inspect --format '{{.State.Status}}' box", "exited");
            // What it has given containerd of the image before is there until that collects it.
            host.sh(&format!(
                "for at in $(seq 60); do docker start --checkpoint point-{at} box 2> /tmp/said && exit; \
                 grep -q 'already exists' /tmp/said || break; sleep 1; done; cat /tmp/said >&2; exit 1"
            ))
            .succeeds();
        });
        host.sh("docker checkpoint create --leave-running box last").succeeds();
        goes_on(host, "docker exec box cat /tmp/count");
    });
}

#[test]
fn a_container_of_podman_goes_on() {
    on_a_host(&["podman", "criu"], |host| {
        let podman = "podman --runtime $RUNTIME";
        host.sh("podman image exists small || podman import --quiet /var/tmp/image.tar small")
            .succeeds();
        host.sh("podman rm --all --force").succeeds();
        host.sh(&format!(
            "{podman} run --detach --network none --name box small sh -c '{COUNTER}'"
        ))
        .succeeds();
        rounds(host, &format!("{podman} exec box cat /tmp/count"), |_| {
            host.sh(&format!("{podman} container checkpoint box")).succeeds();
            host.sh(&format!("{podman} container restore box")).succeeds();
        });
        rounds(host, &format!("{podman} exec box cat /tmp/count"), |at| {
            let file = "/var/tmp/exported.tar.zst";
            host.sh(&format!("rm -f {file}; {podman} container checkpoint --export {file} box"))
                .succeeds();
            host.sh(&format!("{podman} rm --force box")).succeeds();
            host.sh(&format!("{podman} container restore --import {file} --name box-{at}"))
                .succeeds();
            host.sh(&format!("{podman} rename box-{at} box")).succeeds();
        });
        host.sh("podman rm --all --force --time 0").succeeds();
    });
}

#[test]
fn a_container_of_containerd_goes_on() {
    with_containerd(&["ctr"], |host| {
        let ctr = "ctr --namespace k8s.io";
        let gone = |name: &str| {
            host.sh(&format!(
                "{ctr} tasks kill --signal KILL {name}; sleep 1; {ctr} tasks delete --force {name}; \
                 {ctr} containers delete {name}"
            ))
        };
        let read = |name: &str| {
            format!("{ctr} tasks exec --exec-id exec-$(date +%N) {name} cat /tmp/count")
        };
        // What was restored cannot be made an image of again by `ctr`, so each is a new one.
        for at in 1..=criu::rounds(OFTEN) {
            let (old, new) = (format!("old-{at}"), format!("new-{at}"));
            let image = format!("docker.io/library/point:{at}");
            host.sh(&format!(
                "{ctr} run --detach --runtime io.containerd.runc.v2 --runc-binary $RUNTIME \
                 docker.io/library/small:latest {old} sh -c '{COUNTER}'"
            ))
            .succeeds();
            let before = goes_on(host, &read(&old));
            host.sh(&format!("{ctr} containers checkpoint --task --image --rw {old} {image}"))
                .succeeds();
            gone(&old);
            host.sh(&format!("{ctr} containers restore --live --rw {new} {image}")).succeeds();
            let now = goes_on(host, &read(&new));
            assert!(now >= before, "round {at}: {now} after {before}");
            gone(&new);
        }
    });
}
