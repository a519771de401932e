//! Kubernetes' agent of a node with systemd's driver, alone: its pods are files in a directory,
//! so that no API server is needed, which a processor of software would take long to start.

use engines::{Host, cpu_weight};
use serde_json::{Value, json};

use crate::pods::with_containerd;
use crate::whatever_systemd_does;

/// Of the node. Kubernetes takes none of the loopback for one.
const ADDRESS: &str = "10.99.0.1";
const MANIFESTS: &str = "/etc/kubernetes/manifests";

/// Runs a test with an agent that is ready.
#[track_caller]
fn with_a_node(test: impl Fn(&Host<'_>)) {
    with_containerd(&["kubelet"], |host| {
        let config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "cgroupDriver": "systemd",
            "staticPodPath": MANIFESTS,
            "fileCheckFrequency": "2s",
            "resolvConf": "",
            "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
            "authorization": {"mode": "AlwaysAllow"},
        });
        host.write("/etc/kubernetes/kubelet.json", &config.to_string());
        host.sh("systemctl stop kubelet.service; systemctl reset-failed kubelet.service");
        let link = format!(
            "ip link show node || {{ ip link add node type bridge && \
                    ip address add {ADDRESS}/24 dev node && ip link set node up; }}"
        );
        host.sh(&link).succeeds();
        host.sh(&format!(
            "rm -rf {MANIFESTS} && mkdir -p {MANIFESTS} && systemd-run --quiet --unit kubelet kubelet \
             --config /etc/kubernetes/kubelet.json --hostname-override node --node-ip {ADDRESS}"
        ))
        .succeeds();
        host.becomes("busybox wget -qO- http://127.0.0.1:10248/healthz", "ok");
        test(host);
        host.sh(&format!("rm -f {MANIFESTS}/*")).succeeds();
        host.becomes("crictl pods --quiet", "");
        host.sh("systemctl stop kubelet.service").succeeds();
    });
}

/// Writes a pod of one container.
fn write_pod(host: &Host<'_>, name: &str, script: &str, resources: &Value) {
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "hostNetwork": true,
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": name,
                "image": "docker.io/library/small:latest",
                "imagePullPolicy": "Never",
                "command": ["sh", "-c", script],
                "resources": resources,
            }],
        },
    });
    host.write(&format!("{MANIFESTS}/{name}.json"), &pod.to_string());
}

/// The id of a pod's running container.
#[track_caller]
fn container(host: &Host<'_>, name: &str) -> String {
    let line = format!("crictl ps --quiet --no-trunc --name {name}");
    host.eventually(&format!("{name} runs"), || !host.ask(&line).trim().is_empty());
    host.ask(&line).trim().to_owned()
}

#[test]
fn pods_of_each_class_are_in_slices_with_their_limits() {
    with_a_node(|host| {
        let limits = json!({"memory": "64Mi", "cpu": "500m"});
        let classes = [
            ("sure", json!({"limits": limits}), "/kubepods.slice/kubepods-pod"),
            (
                "elastic",
                json!({"requests": {"memory": "32Mi", "cpu": "100m"}, "limits": {"memory": "64Mi"}}),
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod",
            ),
            (
                "modest",
                json!({}),
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod",
            ),
        ];
        for (name, resources, _) in &classes {
            write_pod(host, name, "sleep 1000", resources);
        }
        let units = classes.map(|(name, _, above)| {
            let unit = host.unit(&format!("cri-containerd-{}.scope", container(host, name)));
            assert!(unit.group().starts_with(above), "{name}: {}", unit.group());
            unit
        });
        let slice = |at: usize| {
            let group = units[at].group();
            host.unit(group.rsplit('/').nth(1).expect("a slice"))
        };
        whatever_systemd_does(host, "kubepods.slice", "docker.socket", |when| {
            units[0].has(
                when,
                &[
                    ("MemoryMax", "67108864"),
                    ("CPUQuotaPerSecUSec", "500ms"),
                    ("CPUWeight", cpu_weight("59", "20")),
                    ("memory.max", "67108864"),
                    ("cpu.max", "50000 100000"),
                ],
            );
            slice(0).has(when, &[("memory.max", "67108864"), ("cpu.max", "50000 100000")]);
            units[1].has(when, &[("MemoryMax", "67108864"), ("memory.max", "67108864")]);
            slice(1).has(when, &[("memory.max", "67108864"), ("cpu.max", "max 100000")]);
            units[2].has(when, &[("MemoryMax", "infinity"), ("memory.max", "max")]);
        });
        // What has ended is started anew, in a unit of its own.
        let name = units[0].name.clone();
        host.sh(&format!("systemctl kill --signal KILL {name}")).succeeds();
        host.eventually("another container of the pod runs", || {
            let found = host.ask("crictl ps --quiet --no-trunc --name sure");
            !found.trim().is_empty() && !name.contains(found.trim())
        });
        let unit = host.unit(&format!("cri-containerd-{}.scope", container(host, "sure")));
        unit.has("started anew", &[("MemoryMax", "67108864"), ("memory.max", "67108864")]);
        // With the pod its slice goes.
        let slice = slice(1).name;
        host.sh(&format!("rm {MANIFESTS}/elastic.json")).succeeds();
        host.becomes(&format!("systemctl show --property ActiveState --value {slice}"), "inactive");
    });
}

#[test]
fn who_takes_too_much_is_told_of() {
    with_a_node(|host| {
        let limits = json!({"limits": {"memory": "16Mi"}});
        write_pod(host, "hungry", "x=x; while :; do x=$x$x; done", &limits);
        let line = "for id in $(crictl ps --all --quiet --name hungry); do \
                    crictl inspect $id | jq --raw-output .status.reason; done | head -n 1";
        host.becomes(line, "OOMKilled");
    });
}
