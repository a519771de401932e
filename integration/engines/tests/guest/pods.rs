//! Pods by the CRI of containerd with systemd's driver, in slices as the kubelet makes them: by
//! runc's shim, which calls the runtime, and by ours.

use engines::{Host, cpu_weight, on_a_host};
use serde_json::{Value, json};

use crate::whatever_systemd_does;

const CONFIG: &str = r#"
version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "docker.io/library/pause:latest"
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "$NAME"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.$NAME]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.$NAME.options]
BinaryName = "$RUNTIME"
SystemdCgroup = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.shim]
runtime_type = "io.containerd.ferrun.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.shim.options]
SystemdCgroup = true
"#;
/// The first letter so that who looks for it does not find himself.
const SHIM: &str = "[c]ontainerd-shim-ferrun-v2";
const SLICE: &str = "kubepods-burstable-podone.slice";

/// Starts containerd with its CRI and two images.
#[track_caller]
pub fn with_containerd(programs: &[&str], test: impl Fn(&Host<'_>)) {
    on_a_host(&[&["containerd", "crictl", "podman"], programs].concat(), |host| {
        host.write("/etc/containerd/config.toml", CONFIG);
        crictl_asks(host, "/run/containerd/containerd.sock");
        host.sh("systemctl restart containerd.service").succeeds();
        import_images(host, "ctr");
        // Left by a test that has failed.
        host.sh("crictl rmp --all --force").succeeds();
        test(host);
        host.sh("crictl rmp --all --force").succeeds();
        host.becomes("systemctl list-units --all --no-legend 'cri-containerd-*.scope'", "");
    });
}

/// Tells `crictl` which engine to ask.
pub fn crictl_asks(host: &Host<'_>, socket: &str) {
    let text = format!("runtime-endpoint: unix://{socket}\ntimeout: 120\n");
    host.write("/etc/crictl.yaml", &text);
}

/// Gives a containerd, by its `ctr`, the images of pods.
#[track_caller]
pub fn import_images(host: &Host<'_>, ctr: &str) {
    make_images(host);
    for name in ["pause", "small"] {
        let image = format!("docker.io/library/{name}:latest");
        host.sh(&format!(
            "crictl inspecti {image} >/dev/null 2>&1 || {{ rm -f /var/tmp/{name}.tar; \
             podman save --quiet --output /var/tmp/{name}.tar {image} && \
             {ctr} --namespace k8s.io images import /var/tmp/{name}.tar; }}"
        ))
        .succeeds();
    }
}

/// Makes the images of pods, in Podman's storage.
#[track_caller]
pub fn make_images(host: &Host<'_>) {
    for (name, command) in [("pause", "/bin/sleep infinity"), ("small", "sh")] {
        let image = format!("docker.io/library/{name}:latest");
        let words = json!(command.split(' ').collect::<Vec<_>>());
        host.sh(&format!(
            "podman image exists {image} || \
             podman import --quiet --change 'CMD {words}' /var/tmp/image.tar {image}"
        ))
        .succeeds();
    }
}

/// A file with an object.
#[track_caller]
fn file(host: &Host<'_>, name: &str, object: &Value) -> String {
    host.bed.write(name, &object.to_string()).display().to_string()
}

/// Who has the pod's containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    RuncsShim,
    Ours,
}

impl By {
    /// Both, or where the runtime is another one's runc's alone.
    fn tested(host: &Host<'_>) -> &'static [Self] {
        match host.bed.is_peer("our shim has ferrun inside") {
            true => &[Self::RuncsShim],
            false => &[Self::RuncsShim, Self::Ours],
        }
    }

    /// For `crictl runp`.
    fn words(self) -> &'static str {
        self.bring("", "--runtime shim")
    }

    fn bring<T>(self, runcs: T, ours: T) -> T {
        match self {
            Self::RuncsShim => runcs,
            Self::Ours => ours,
        }
    }
}

/// A pod with the network of the host, which needs no plugin.
pub struct Pod<'host> {
    host: &'host Host<'host>,
    id: String,
    config: String,
    namespaces: Value,
}

impl<'host> Pod<'host> {
    #[track_caller]
    fn run(host: &'host Host<'_>, by: By, name: &str, slice: &str) -> Self {
        let pod = Self::run_by(host, by.words(), name, slice, json!({"network": 2}));
        let serves = format!("pgrep --full --count '{SHIM}.*{}'", pod.id);
        host.sh(&format!("{serves} || true")).prints(by.bring("0", "1"));
        pod
    }

    /// Makes a pod whose containers have these options of namespaces, with words for `crictl runp`.
    #[track_caller]
    pub fn run_by(
        host: &'host Host<'_>,
        words: &str,
        name: &str,
        slice: &str,
        namespaces: Value,
    ) -> Self {
        let config = json!({
            "metadata": {"name": name, "uid": name, "namespace": "default", "attempt": 0},
            "log_directory": "/var/tmp/logs",
            "linux": {
                "cgroup_parent": slice,
                "security_context": {"namespace_options": namespaces},
            },
        });
        let config = file(host, "pod.json", &config);
        let id = host.ask(&format!("crictl runp {words} {config}")).trim().to_owned();
        Self { host, id, config, namespaces }
    }

    /// Starts a container.
    #[track_caller]
    fn start(&self, name: &str, script: &str, resources: &Value) -> String {
        self.start_from("docker.io/library/small:latest", name, script, resources)
    }

    /// Starts a container of an image, or of an archive that `crictl checkpoint` has made of one
    /// with the same script.
    #[track_caller]
    pub fn start_from(&self, image: &str, name: &str, script: &str, resources: &Value) -> String {
        let config = json!({
            "metadata": {"name": name},
            "image": {"image": image},
            "command": ["sh", "-c", script],
            "log_path": format!("{name}.log"),
            // CRI-O mounts it by itself, and wants to be told of it by who restores.
            "mounts": [{"container_path": "/etc/hosts", "host_path": "/etc/hosts"}],
            "linux": {
                "resources": resources,
                "security_context": {"namespace_options": self.namespaces},
            },
        });
        let config = file(self.host, &format!("{name}.json"), &config);
        let line = format!("crictl create {} {config} {}", self.id, self.config);
        let id = self.host.ask(&line).trim().to_owned();
        self.host.sh(&format!("crictl start {id}")).succeeds();
        id
    }
}

#[test]
fn limits_of_a_pod_its_containers_and_their_update() {
    with_containerd(&[], |host| {
        host.sh("crictl info").mentions("\"SystemdCgroup\": true");
        for by in By::tested(host) {
            have_and_update_limits(host, *by);
        }
    });
}

fn have_and_update_limits(host: &Host<'_>, by: By) {
    // As the kubelet does it: a slice of the pod with a limit of its own.
    host.sh(&format!("systemctl set-property --runtime {SLICE} MemoryMax=300M TasksMax=200"))
        .succeeds();
    let parent = format!("/kubepods.slice/kubepods-burstable.slice/{SLICE}");
    let pod = Pod::run(host, by, "one", &parent);
    let limits = json!({
        "memory_limit_in_bytes": 67_108_864, "cpu_shares": 512,
        "cpu_quota": 50_000, "cpu_period": 100_000, "cpuset_cpus": "0",
        "oom_score_adj": 500, "unified": {"memory.high": "60817408"},
    });
    let id = pod.start("box", "sleep 1000", &limits);
    let unit = host.unit(&format!("cri-containerd-{id}.scope"));
    assert_eq!(
        unit.group(),
        format!(
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podone.slice/{}",
            unit.name
        )
    );
    let pause = host.unit(&format!("cri-containerd-{}.scope", pod.id));
    whatever_systemd_does(host, "kubepods.slice", "docker.socket", |when| {
        unit.has(
            when,
            &[
                ("Slice", SLICE),
                ("MemoryMax", "67108864"),
                ("MemoryHigh", "60817408"),
                ("CPUWeight", cpu_weight("59", "20")),
                ("CPUQuotaPerSecUSec", "500ms"),
                ("AllowedCPUs", "0"),
                ("memory.max", "67108864"),
                ("memory.high", "60817408"),
                ("cpu.weight", cpu_weight("59", "20")),
                ("cpu.max", "50000 100000"),
                ("cpuset.cpus", "0"),
            ],
        );
        pause.has(when, &[("Slice", SLICE)]);
        host.unit(SLICE).has(when, &[("memory.max", "314572800"), ("pids.max", "200")]);
    });
    host.sh(&format!(
            "crictl update --memory 134217728 --cpu-quota 75000 --cpu-period 100000 --cpu-share 256 {id}"
        ))
        .succeeds();
    whatever_systemd_does(host, "kubepods.slice", "docker.socket", |when| {
        unit.has(
            when,
            &[
                ("MemoryMax", "134217728"),
                ("CPUWeight", cpu_weight("35", "10")),
                ("CPUQuotaPerSecUSec", "750ms"),
                ("memory.max", "134217728"),
                ("cpu.weight", cpu_weight("35", "10")),
                ("cpu.max", "75000 100000"),
            ],
        );
    });
    host.sh(&format!("crictl exec {id} cat /proc/self/cgroup")).prints("0::/");
    host.sh(&format!("crictl stats --output json {id}")).mentions("usageBytes");
    host.sh(&format!("crictl stop --timeout 1 {id} && crictl rm {id}")).succeeds();
    host.becomes(
        &format!("systemctl show --property ActiveState --value {}", unit.name),
        "inactive",
    );
    host.sh(&format!("crictl rmp --force {}", pod.id)).succeeds();
}

#[test]
fn limits_limit() {
    with_containerd(&[], |host| {
        for by in By::tested(host) {
            are_limited(host, *by);
        }
    });
}

fn are_limited(host: &Host<'_>, by: By) {
    let pod = Pod::run(
        host,
        by,
        "two",
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podtwo.slice",
    );
    let limits = json!({"memory_limit_in_bytes": 16_777_216});
    // Why it has ended runc's shim reads when it is told of an event, and now and then the group,
    // which systemd takes away with its last process, is gone by then.
    let is_told_why = (0..by.bring(5, 1)).any(|attempt| {
        let id = pod.start(&format!("eater{attempt}"), "x=x; while :; do x=$x$x; done", &limits);
        host.becomes(&format!("crictl inspect {id} | jq .status.exitCode"), "137");
        host.ask(&format!("crictl inspect {id} | jq --raw-output .status.reason")).trim()
            == "OOMKilled"
    });
    assert!(is_told_why, "it is not told that memory was short");
    // The limit of the pod is that of all its containers.
    host.sh("systemctl set-property --runtime kubepods-besteffort-podtwo.slice TasksMax=10")
        .succeeds();
    let many = pod.start("many", "for i in $(seq 20); do sleep 1 & done; wait", &json!({}));
    let status = format!("crictl inspect {many} | jq .status.exitCode");
    host.becomes(&status, "2");
    host.sh(&format!("crictl logs {many} 2>&1")).mentions("fork");
    host.sh(&format!("crictl rmp --force {}", pod.id)).succeeds();
}
