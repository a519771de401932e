//! Checkpoints on a kernel that Debian 13's CRIU knows whole: by the runtime itself, with a
//! connection over the container's loopback and a terminal, across runtimes both ways, by Docker,
//! Podman and containerd, and from pod to pod by the CRI. Each goes on where it was, again and again.
//! How often each did is printed, of Debian's runtimes too, which fail here and there: that is what
//! one wants to know.

use std::cell::{Cell, RefCell};
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use engines::{Host, on_a_host};
use integration::terminal::{ConsoleSocket, Terminal};
use integration::{Kind, criu, runtime};
use serde_json::json;

use crate::docker::with_docker;
use crate::pods::{Pod, crictl_asks, import_images, make_images, with_containerd};

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

/// Waits until what is read goes on, and says where it was at first.
#[track_caller]
fn goes_on(host: &Host<'_>, mut now: impl FnMut() -> u64) -> u64 {
    let mut first = 0;
    host.eventually("it counts on", || {
        let now = now();
        if first == 0 {
            first = now;
        }
        now > first + 2
    });
    first
}

/// Does something again and again. Whether all went well: a peer that fails does it no more, and
/// ferrun fails the test.
fn again(what: &str, mut round: impl FnMut(u32)) -> bool {
    let (often, done) = (criu::rounds(OFTEN), Cell::new(0));
    let all = catch_unwind(AssertUnwindSafe(|| {
        for at in 1..=often {
            round(at);
            done.set(at);
        }
    }));
    let mut figure =
        format!("{what}: {} of {often} by {}", done.get(), runtime().program.display());
    if let Err(panic) = &all {
        let said = panic.downcast_ref::<String>().map_or("", String::as_str);
        figure.push_str(&format!(": {}", said.trim().replace('\n', " | ")));
    }
    // Past the harness, which keeps what a good test prints to itself.
    let _ = writeln!(std::io::stderr(), "{figure}");
    match all {
        Err(panic) if runtime().kind == Kind::Ferrun => resume_unwind(panic),
        all => all.is_ok(),
    }
}

/// A container that goes on from where it was dumped, after each of the rounds.
fn rounds(
    host: &Host<'_>,
    what: &str,
    mut now: impl FnMut() -> u64,
    mut round: impl FnMut(u32),
) -> bool {
    let mut before = goes_on(host, &mut now);
    again(what, |at| {
        round(at);
        let now = goes_on(host, &mut now);
        assert!(now >= before, "round {at}: {now} after {before}");
        before = now;
    })
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

/// Where the last containerd is whose CRI makes containers of archives.
const RESTORING: &str = "/opt/containerd";

/// What it is told.
const CONTAINERD: &str = r#"
version = 3
root = "/var/lib/restoring"
state = "/run/restoring"
[grpc]
address = "/run/restoring/containerd.sock"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "docker.io/library/pause:latest"
[plugins."io.containerd.cri.v1.runtime"]
enable_experimental_restore_via_create = true
[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "$NAME"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.$NAME]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.$NAME.options]
BinaryName = "$RUNTIME"
SystemdCgroup = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.shim]
runtime_type = "io.containerd.ferrun.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.shim.options]
SystemdCgroup = true
"#;

/// What CRI-O is told.
const CRIO: &str = r#"
[crio.runtime]
default_runtime = "$NAME"
enable_criu_support = true
pinns_path = "/usr/local/bin/pinns"
[crio.runtime.runtimes.$NAME]
runtime_path = "$RUNTIME"
runtime_root = "/run/of-crio"
monitor_path = "/usr/bin/conmon"
[crio.image]
pause_image = "docker.io/library/pause:latest"
pause_command = ""
"#;

const QUIET: &str = "</dev/null >/dev/null 2>&1";

#[test]
fn a_program_goes_on() {
    on_a_host(&["criu", "jq"], |host| {
        for driver in ["", "--systemd-cgroup"] {
            let path = bundle(host, "counting", COUNTER, false);
            let id = host.bed.id();
            let runtime = format!("cd {path} && $RUNTIME {driver}");
            host.sh(&format!("{runtime} run --detach {id} {QUIET}")).succeeds();
            let now = || number(host, &format!("cat {path}/rootfs/tmp/count"));
            rounds(host, &format!("a program {driver}"), now, |at| {
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
        let script = "(while :; do sleep 1; done) | busybox nc -l -p 7000 > /tmp/got & \
             until cat /proc/net/tcp /proc/net/tcp6 | grep -q :1B58; do sleep 0.1; done; \
             (i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done) | busybox nc 127.0.0.1 7000";
        let path = bundle(host, "connected", script, false);
        let id = host.bed.id();
        host.sh(&format!("cd {path} && $RUNTIME run --detach {id} {QUIET}")).succeeds();
        let now = || number(host, &format!("tail -n 1 {path}/rootfs/tmp/got"));
        let went_on = rounds(host, "a connection", now, |_| {
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
        if went_on {
            host.sh(&format!("$RUNTIME delete --force {id}")).succeeds();
        }
    });
}

#[test]
fn a_terminal_goes_on() {
    on_a_host(&["criu", "jq"], |host| {
        let script = "i=0; while read line; do i=$((i+1)); echo line $i.; done";
        let path = bundle(host, "typed", script, true);
        let id = host.bed.id();
        let (terminal, typed) = (RefCell::new(None::<Terminal>), Cell::new(0));
        let serve = |verb: &str| {
            let socket = ConsoleSocket::listen(host.bed);
            host.sh(&format!(
                "cd {path} && $RUNTIME {verb} --console-socket {} {id} </dev/null",
                socket.path.display()
            ))
            .succeeds();
            // Until now the one before was there: without it the program would have ended.
            terminal.replace(Some(socket.terminal().0));
        };
        let now = || {
            typed.set(typed.get() + 1);
            let mut terminal = terminal.borrow_mut();
            let terminal = terminal.as_mut().expect("a terminal");
            terminal.send("x\n");
            terminal.expect(&format!("line {}.", typed.get()));
            typed.get()
        };
        serve("run --detach");
        let went_on = rounds(host, "a terminal", now, |_| {
            host.sh(&format!(
                "cd {path} && rm -rf image && $RUNTIME checkpoint --image-path image {id}"
            ))
            .succeeds();
            serve("restore --detach --image-path image");
        });
        if went_on {
            host.sh(&format!("$RUNTIME delete --force {id}")).succeeds();
        }
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
            // runc leaves what it restores in the group that the image names, and stops the one of
            // its configuration when it dumps that: where they are two, CRIU has tasks that run
            // (`Unseizable non-zombie`). And crun knows what is masked by another name than images
            // of others have.
            let masked = if other == "crun" { " | del(.linux.maskedPaths)" } else { "" };
            host.sh(&format!(
                "cd {path} && jq '.linux.cgroupsPath = \"/crossed\"{masked}' config.json > new && \
                 mv new config.json"
            ))
            .succeeds();
            let id = host.bed.id();
            host.sh(&format!("cd {path} && {other} run --detach {id} {QUIET}")).succeeds();
            let now = || number(host, &format!("cat {path}/rootfs/tmp/count"));
            rounds(host, &format!("across {other}"), now, |_| {
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
        let now = || number(host, "docker exec box cat /tmp/count");
        let went_on = rounds(host, "a container of Docker", now, |at| {
            host.sh(&format!("docker checkpoint create box point-{at}")).succeeds();
            host.becomes("docker inspect --format '{{.State.Status}}' box", "exited");
            // What it has given containerd of the image before is there until that collects it.
            host.sh(&format!(
                "for at in $(seq 60); do docker start --checkpoint point-{at} box 2> /tmp/said && exit; \
                 grep -q 'already exists' /tmp/said || break; sleep 1; done; cat /tmp/said >&2; exit 1"
            ))
            .succeeds();
        });
        if went_on {
            host.sh("docker checkpoint create --leave-running box last").succeeds();
            goes_on(host, now);
        }
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
        let now = || number(host, &format!("{podman} exec box cat /tmp/count"));
        let went_on = rounds(host, "a container of Podman", now, |_| {
            host.sh(&format!("{podman} container checkpoint box")).succeeds();
            host.sh(&format!("{podman} container restore box")).succeeds();
        });
        if !went_on {
            host.sh(&format!(
                "podman rm --all --force --time 0; {podman} run --detach --network none --name box \
                 small sh -c '{COUNTER}'"
            ))
            .succeeds();
        }
        rounds(host, "a container of Podman under another name", now, |at| {
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
            number(
                host,
                &format!("{ctr} tasks exec --exec-id exec-$(date +%N) {name} cat /tmp/count"),
            )
        };
        // What was restored cannot be made an image of again by `ctr`, so each is a new one.
        again("a container of containerd", |at| {
            let (old, new) = (format!("old-{at}"), format!("new-{at}"));
            let image = format!("docker.io/library/point:{at}");
            host.sh(&format!(
                "{ctr} run --detach --runtime io.containerd.runc.v2 --runc-binary $RUNTIME \
                 docker.io/library/small:latest {old} sh -c '{COUNTER}'"
            ))
            .succeeds();
            let before = goes_on(host, || read(&old));
            host.sh(&format!("{ctr} containers checkpoint --task --image --rw {old} {image}"))
                .succeeds();
            gone(&old);
            host.sh(&format!("{ctr} containers restore --live --rw {new} {image}")).succeeds();
            let now = goes_on(host, || read(&new));
            assert!(now >= before, "round {at}: {now} after {before}");
            gone(&new);
        });
    });
}

/// A container goes from pod to pod by an archive. `words` are for `crictl runp`.
fn goes_from_pod_to_pod(host: &Host<'_>, what: &str, words: &str) {
    let script = format!("echo began >> /tmp/began; {COUNTER}");
    let start = |image: &str| {
        let slice = "kubepods-besteffort-podmoved.slice";
        // Pids of its own for each container, as the node agent asks for.
        let namespaces = json!({"network": 2, "pid": 1});
        let pod = Pod::run_by(host, words, "moved", slice, namespaces);
        pod.start_from(image, "box", &script, &json!({}))
    };
    let held = RefCell::new(start("docker.io/library/small:latest"));
    let read = |name: &str| format!("crictl exec {} cat /tmp/{name}", held.borrow());
    // A shell that is the first of its pids does not end at a word.
    let end = || {
        host.sh("crictl ps --quiet | xargs -r crictl stop --timeout 0 && crictl rmp --all --force")
    };
    let now = || number(host, &read("count"));
    rounds(host, what, now, |at| {
        let archive = format!("/var/tmp/moved-{at}.tar");
        let id = held.borrow().clone();
        host.sh(&format!("crictl checkpoint --export={archive} {id}")).succeeds();
        end().succeeds();
        held.replace(start(&archive));
        host.sh(&read("began")).prints("began");
        host.sh(&format!("rm {archive}")).succeeds();
    });
    end();
}

#[test]
fn a_container_of_a_pod_of_containerd_goes_on_in_another_pod() {
    on_a_host(&["criu", "crictl", "podman", "/opt/containerd/containerd"], |host| {
        host.write("/etc/restoring.toml", CONTAINERD);
        crictl_asks(host, "/run/restoring/containerd.sock");
        host.sh(&format!(
            "systemd-run --quiet --collect --unit restoring --property KillMode=process \
             --setenv PATH={RESTORING}:$PATH {RESTORING}/containerd --config /etc/restoring.toml"
        ))
        .succeeds();
        host.eventually("it answers", || host.sh("crictl version").output.code == 0);
        let address = "--address /run/restoring/containerd.sock";
        import_images(host, &format!("{RESTORING}/ctr {address}"));
        goes_from_pod_to_pod(host, "a container of a pod of containerd", "");
        if !host.bed.is_peer("our shim has ferrun inside") {
            goes_from_pod_to_pod(host, "the same by our shim", "--runtime shim");
        }
        host.sh("systemctl stop restoring.service").succeeds();
    });
}

#[test]
fn a_container_of_a_pod_of_crio_goes_on_in_another_pod() {
    on_a_host(&["criu", "crictl", "podman", "crio", "pinns", "conmon"], |host| {
        host.write("/etc/crio/crio.conf", CRIO);
        crictl_asks(host, "/run/crio/crio.sock");
        make_images(host);
        host.sh("systemd-run --quiet --collect --unit crio crio").succeeds();
        host.eventually("it answers", || host.sh("crictl version").output.code == 0);
        goes_from_pod_to_pod(host, "a container of a pod of CRI-O", "");
        host.sh("systemctl stop crio.service").succeeds();
    });
}
