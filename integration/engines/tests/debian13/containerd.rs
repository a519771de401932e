//! containerd 1.7 by `ctr`, and by `crictl`, which calls it as Kubernetes' node agent does.

use std::cell::Cell;

use engines::Answer;
use engines::debian13::{Machine, on_debian_13, on_debian_13_with};
use serde_json::{Value, json};

const ALPINE: &str = "127.0.0.1:5000/library/alpine:latest";
const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.29-2";
const SERVER: &str = "registry.k8s.io/e2e-test-images/httpd:2.4.39-4";
/// Where a kubelet with systemd's driver has pods that ask for nothing.
const BEST_EFFORT: &str = "kubepods-besteffort-podtests.slice";
const BELOW: &str = "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podtests.slice";

#[test]
fn containers_by_ctr() {
    on_debian_13(|debian| {
        debian.sh(&format!("ctr image pull --plain-http {ALPINE}")).succeeds();
        let program = debian.by_runtime("$RUNTIME", "runc");
        let run = |options: &str, id: &str, command: &str| {
            debian.sh(&format!(
                "ctr run --runc-binary {program} --runc-systemd-cgroup --cpu-shares 0 \
                 --cgroup system.slice:ctr:{id} {options} {ALPINE} {id} {command}"
            ))
        };
        let ctr = |line: &str| debian.sh(&format!("ctr {line}"));
        run("--rm", "one", "sed -n s/^0:://p /proc/self/cgroup")
            .prints("/system.slice/ctr-one.scope");
        run("--rm", "one", "sh -c 'echo oh >&2; exit 7'").fails(7, "oh");
        run("--rm --env WORD=given --cwd /tmp", "one", "sh -c 'echo $WORD $PWD'")
            .prints("given /tmp");
        run("--rm", "one", "no-such-program").fails(1, "executable file not found in $PATH");
        run("--rm --read-only", "one", "touch /file").fails(1, "Read-only file system");

        run("--detach", "two", "sleep 1000").succeeds();
        debian.sh("systemctl is-active ctr-two.scope").prints("active");
        ctr("task exec --exec-id e1 two sh -c 'echo inside; exit 3'").exits(3);
        ctr("task exec --exec-id e2 two echo inside").prints("inside");
        ctr("task pause two && ctr task ls").mentions("PAUSED");
        ctr("task resume two && ctr task ls").mentions("RUNNING");
        ctr("task ps two").succeeds();
        debian.sh("systemctl kill --signal KILL ctr-two.scope").succeeds();
        debian.eventually("the task has stopped", || {
            ctr("task ls").output.stdout.contains("STOPPED")
        });
        ctr("task rm two; ctr container rm two && ctr container ls -q").prints("");

        let line = format!(
            "ctr run --rm --tty --runc-binary {program} --runc-systemd-cgroup --cpu-shares 0 \
             --cgroup system.slice:ctr:four {ALPINE} four sh"
        );
        let shell = debian.on_terminal(&line).shows("# ").types("tty; echo $((40 + 2))");
        shell.shows("/dev/pts/0").shows("42").types("exit 5").ends(5);

        // With the driver as without: what this machine has no controller for is refused.
        let refused = debian.by_runtime(
            "linux.resources.cpu.shares: no cgroup tree of this machine has the cpu controller",
            "ctr-five.scope/cpu.weight: no such file or directory",
        );
        debian
            .sh(&format!(
                "ctr run --rm --runc-binary {program} --runc-systemd-cgroup \
                 --cgroup system.slice:ctr:five {ALPINE} five true"
            ))
            .fails(1, refused);
    });
}

/// A pod at work.
struct Pod<'host> {
    machine: &'host Machine<'host>,
    id: String,
    containers: Cell<u32>,
}

impl<'host> Pod<'host> {
    /// Makes a pod, with `more` in its configuration.
    #[track_caller]
    fn run(machine: &'host Machine<'host>, mut more: Value) -> Self {
        more["metadata"] = json!({"name": "pod", "namespace": "tests", "uid": "u", "attempt": 1});
        more["log_directory"] = "/run/logs".into();
        more["linux"]["cgroup_parent"] = BEST_EFFORT.into();
        machine.write("/run/pod.json", &more.to_string());
        let id = machine.sh("crictl runp /run/pod.json").succeeds().text().to_owned();
        Self { machine, id, containers: Cell::new(0) }
    }

    /// Starts a container, with `more` in its configuration. Returns its ID.
    #[track_caller]
    fn start(&self, image: &str, command: &[&str], more: &Value) -> String {
        self.containers.set(self.containers.get() + 1);
        let name = format!("container-{}", self.containers.get());
        let config = json!({
            "metadata": {"name": name},
            "image": {"image": image},
            "command": command,
            "log_path": format!("{name}.log"),
            "linux": more,
        });
        self.machine.write("/run/container.json", &config.to_string());
        let line = format!("create --with-pull {} /run/container.json /run/pod.json", self.id);
        let id = self.crictl(&line).succeeds().text().to_owned();
        self.crictl(&format!("start {id}")).prints(&id);
        id
    }

    #[track_caller]
    fn crictl(&self, line: &str) -> Answer<'host> {
        self.machine.sh(&format!("crictl {line}"))
    }

    /// Its group is its unit's, in the pod's slice.
    #[track_caller]
    fn claim_group(&self, id: &str) {
        let pid = self.crictl(&format!("inspect {id} | jq .info.pid")).text().to_owned();
        let group = format!("{BELOW}/cri-containerd-{id}.scope");
        self.machine.sh(&format!("sed -n s/^0:://p /proc/{pid}/cgroup")).prints(&group);
    }

    #[track_caller]
    fn remove(self) {
        self.crictl(&format!("stopp {}", self.id)).succeeds();
        self.crictl(&format!("rmp {}", self.id)).succeeds();
        self.crictl("pods --quiet").prints("");
        self.machine.sh(&format!("find /sys/fs/cgroup{BELOW} -mindepth 1 -type d")).prints("");
    }
}

#[test]
fn the_life_of_a_pod() {
    on_debian_13_with("crictl", |debian| {
        let ports = json!([{"container_port": 80, "host_port": 8080}]);
        let pod = Pod::run(debian, json!({"hostname": "box", "linux": {}, "port_mappings": ports}));
        debian
            .sh(&format!("systemctl is-active cri-containerd-{}.scope {BEST_EFFORT}", pod.id))
            .prints("active\nactive");
        let one = pod.start(BUSYBOX, &["sh", "-c", "echo started; sleep 1000"], &json!({}));
        pod.claim_group(&one);
        pod.crictl(&format!("exec {one} cat /proc/self/cgroup")).mentions("0::/\n");
        pod.crictl(&format!("exec {one} hostname")).prints("box");
        pod.crictl(&format!("exec {one} sh -c 'exit 3'")).fails(1, "exit code 3");
        pod.crictl(&format!("exec --sync {one} no-such-program"))
            .fails(1, "executable file not found in $PATH");
        pod.crictl(&format!("logs {one}")).prints("started");
        let server = pod.start(SERVER, &[], &json!({}));
        pod.claim_group(&server);
        pod.crictl(&format!("exec {one} wget -qO- http://127.0.0.1/")).mentions("Welcome");
        debian.sh("systemctl daemon-reload").succeeds();
        pod.crictl(&format!("exec {one} sh -c 'echo x > /dev/null && echo works'")).prints("works");

        pod.crictl(&format!("stop --timeout 1 {one}")).succeeds();
        pod.crictl(&format!("inspect {one} | jq -r .status.state")).prints("CONTAINER_EXITED");
        pod.crictl(&format!("rm {one}")).succeeds();
        let again = pod.start(BUSYBOX, &["sleep", "1000"], &json!({}));
        debian.sh(&format!("systemctl kill --signal KILL cri-containerd-{again}.scope")).succeeds();
        debian.eventually("it has ended", || {
            pod.crictl(&format!("inspect {again} | jq .status.exitCode")).text() == "137"
        });
        pod.remove();
    });
}

#[test]
fn pods_with_namespaces_of_others() {
    on_debian_13_with("crictl", |debian| {
        let shared = json!({"security_context": {"namespace_options": {"pid": 0}}});
        let pod = Pod::run(debian, json!({"linux": shared}));
        pod.start(SERVER, &[], &shared);
        let other = pod.start(BUSYBOX, &["sh", "-c", "sleep 1000 & sleep 1000"], &shared);
        pod.crictl(&format!("exec {other} ps")).mentions("/pause").mentions("httpd");
        // The end of a container is the end of all that is in its unit.
        pod.crictl(&format!("stop --timeout 0 {other}")).succeeds();
        debian.eventually("its processes are gone", || {
            debian.sh("pgrep --exact --full 'sleep 1000'").text().is_empty()
        });
        pod.remove();

        let options = json!({"network": 2, "pid": 2, "ipc": 2});
        let host = json!({"security_context": {"namespace_options": options}});
        let pod = Pod::run(debian, json!({"linux": host}));
        let one = pod.start(BUSYBOX, &["sleep", "1000"], &host);
        pod.claim_group(&one);
        for kind in ["net", "ipc", "pid"] {
            let own = debian.sh(&format!("readlink /proc/1/ns/{kind}")).text().to_owned();
            pod.crictl(&format!("exec {one} readlink /proc/self/ns/{kind}")).prints(&own);
        }
        pod.remove();
    });
}
