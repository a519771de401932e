//! Pods by `crictl`, which calls containerd 1.7 and CRI-O as Kubernetes' node agent does.

use std::cell::Cell;

use engines::Answer;
use engines::debian13::{By, Machine, on_debian_13_with};
use serde_json::{Value, json};

const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.29-2";
const SERVER: &str = "registry.k8s.io/e2e-test-images/httpd:2.4.39-4";
/// Where a kubelet with systemd's driver has pods that ask for nothing.
const BEST_EFFORT: &str = "kubepods-besteffort-podtests.slice";
const BELOW: &str = "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podtests.slice";

/// What CRI-O is told.
const CRIO: &str = "
[crio.runtime]
default_runtime = 'tested'
pinns_path = '/usr/bin/pinns'
[crio.runtime.runtimes.tested]
runtime_path = '/run/unlimited'
runtime_root = '/run/tested'
monitor_path = '/usr/bin/conmon'
[crio.image]
pause_image = 'registry.k8s.io/pause:3.10'
[crio.network]
plugin_dirs = ['/usr/lib/cni']
";

/// Where it finds the images of pods.
const REGISTRY: &str = "
[[registry]]
prefix = 'registry.k8s.io'
location = '127.0.0.1:5001'
insecure = true";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engine {
    Containerd,
    CriO,
}

/// A pod at work.
struct Pod<'host> {
    machine: &'host Machine<'host>,
    engine: Engine,
    id: String,
    containers: Cell<u32>,
}

impl<'host> Pod<'host> {
    /// Makes a pod, with `more` in its configuration.
    #[track_caller]
    fn run(machine: &'host Machine<'host>, engine: Engine, mut more: Value) -> Self {
        more["metadata"] = json!({"name": "pod", "namespace": "tests", "uid": "u", "attempt": 1});
        more["log_directory"] = "/run/logs".into();
        more["linux"]["cgroup_parent"] = BEST_EFFORT.into();
        machine.write("/run/pod.json", &more.to_string());
        let id = machine.sh("crictl runp /run/pod.json").succeeds().text().to_owned();
        Self { machine, engine, id, containers: Cell::new(0) }
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

    fn unit(&self, id: &str) -> String {
        match self.engine {
            Engine::Containerd => format!("cri-containerd-{id}.scope"),
            Engine::CriO => format!("crio-{id}.scope"),
        }
    }

    /// Its group is its unit's, in the pod's slice.
    #[track_caller]
    fn claim_group(&self, id: &str) {
        let pid = self.crictl(&format!("inspect {id} | jq .info.pid")).text().to_owned();
        let group = format!("{BELOW}/{}", self.unit(id));
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

fn with_pods(engine: Engine, test: impl Fn(&Machine<'_>) + Sync) {
    let programs: &[&str] = match engine {
        Engine::Containerd => &["crictl"],
        Engine::CriO => &["crictl", "crio", "pinns"],
    };
    on_debian_13_with(programs, |debian| {
        if engine == Engine::CriO {
            debian.write("/etc/crio/crio.conf", CRIO);
            debian.write(
                "/etc/crictl.yaml",
                "runtime-endpoint: unix:///run/crio/crio.sock\ntimeout: 60\n",
            );
            debian
                .sh(&format!("cat >> /etc/containers/registries.conf <<'END'\n{REGISTRY}\nEND"))
                .succeeds();
            let wrapper = debian.host.program.with_file_name("unlimited");
            debian.sh(&format!("ln -s {} /run/unlimited", wrapper.display())).succeeds();
            debian.sh("systemd-run --quiet --unit crio crio").succeeds();
            debian.eventually("CRI-O answers", || debian.sh("crictl version").output.code == 0);
        }
        test(debian);
    });
}

fn the_life_of_a_pod(debian: &Machine<'_>, engine: Engine) {
    let ports = json!([{"container_port": 80, "host_port": 8080}]);
    let pod =
        Pod::run(debian, engine, json!({"hostname": "box", "linux": {}, "port_mappings": ports}));
    debian.sh(&format!("systemctl is-active {BEST_EFFORT}")).prints("active");
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
    debian.sh(&format!("systemctl kill --signal KILL {}", pod.unit(&again))).succeeds();
    debian.eventually("it has ended", || {
        pod.crictl(&format!("inspect {again} | jq .status.exitCode")).text() == "137"
    });
    pod.remove();
}

fn pods_with_namespaces_of_others(debian: &Machine<'_>, engine: Engine) {
    let shared = json!({"security_context": {"namespace_options": {"pid": 0}}});
    let pod = Pod::run(debian, engine, json!({"linux": shared}));
    pod.start(SERVER, &[], &shared);
    let other = pod.start(BUSYBOX, &["sh", "-c", "sleep 1000 & sleep 1000"], &shared);
    pod.crictl(&format!("exec {other} ps")).mentions("/pause").mentions("httpd");
    // The end of a container is the end of all that is in its unit.
    pod.crictl(&format!("stop --timeout 0 {other}")).succeeds();
    // CRI-O asks runc to kill, which kills the first process alone.
    if engine == Engine::Containerd || debian.by == By::Ferrun {
        debian.eventually("its processes are gone", || {
            debian.sh("pgrep --exact --full 'sleep 1000'").text().is_empty()
        });
    }
    pod.remove();

    let options = json!({"network": 2, "pid": 2, "ipc": 2});
    let host = json!({"security_context": {"namespace_options": options}});
    let pod = Pod::run(debian, engine, json!({"linux": host}));
    let one = pod.start(BUSYBOX, &["sleep", "1000"], &host);
    pod.claim_group(&one);
    for kind in ["net", "ipc", "pid"] {
        let own = debian.sh(&format!("readlink /proc/1/ns/{kind}")).text().to_owned();
        pod.crictl(&format!("exec {one} readlink /proc/self/ns/{kind}")).prints(&own);
    }
    pod.remove();
}

#[test]
fn containerd_has_pods() {
    with_pods(Engine::Containerd, |debian| the_life_of_a_pod(debian, Engine::Containerd));
}

#[test]
fn containerd_has_pods_with_namespaces_of_others() {
    with_pods(Engine::Containerd, |debian| {
        pods_with_namespaces_of_others(debian, Engine::Containerd)
    });
}

#[test]
fn crio_has_pods() {
    with_pods(Engine::CriO, |debian| the_life_of_a_pod(debian, Engine::CriO));
}

#[test]
fn crio_has_pods_with_namespaces_of_others() {
    with_pods(Engine::CriO, |debian| pods_with_namespaces_of_others(debian, Engine::CriO));
}
