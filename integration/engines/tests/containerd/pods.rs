//! Pods by `crictl`, which calls containerd as Kubernetes' node agent does.

use std::fs;

use engines::containerd::{Containerd, Release};
use engines::pod::{Pod, merge};
use serde_json::json;

use crate::daemon::with_pods;

const SERVER: &str = "registry.k8s.io/e2e-test-images/httpd:2.4.39-4";

fn with_both(test: impl Fn(&Containerd<'_>) + Sync) {
    for release in [Release::Debian, Release::Current] {
        with_pods(release, |daemon| test(daemon));
    }
}

#[test]
fn the_life_of_a_pod_and_its_containers() {
    with_both(|daemon| {
        let pod = Pod::run(daemon, "pod", &json!({"hostname": "box"}));
        let limits = json!({"linux": {"resources": {
            "memory_limit_in_bytes": 67_108_864, "cpu_shares": 512,
        }}});
        let one = pod.start("one", &["sh", "-c", "echo started; sleep 1000"], &limits);
        pod.crictl(&format!("ps --quiet --no-trunc --id {one}")).prints(&one);
        pod.crictl(&format!("exec {one} hostname")).prints("box");
        pod.crictl(&format!("exec {one} sh -c 'exit 3'")).fails(1, "exit code 3");
        pod.crictl(&format!("exec --sync {one} no-such-program"))
            .fails(1, "executable file not found in $PATH");
        pod.crictl(&format!("logs {one}")).prints("started");
        pod.crictl(&format!("stats --output json {one}")).mentions("usageBytes");

        pod.crictl(&format!("update --memory 33554432 {one}")).succeeds();
        let limit = pod.inspect(&one, "/info/pid");
        let group = fs::read_to_string(format!("/proc/{limit}/cgroup")).unwrap();
        let bed = daemon.place.bed;
        let controller = bed.by_version(":memory:", "::");
        let path = group.lines().find_map(|line| line.split_once(controller)).unwrap().1;
        let file = bed.by_version(
            format!("memory{path}/memory.limit_in_bytes"),
            format!("{path}/memory.max"),
        );
        let limit = fs::read_to_string(format!("/sys/fs/cgroup/{file}")).unwrap();
        daemon.place.claim("the limit is the new one", limit.trim() == "33554432");

        pod.crictl(&format!("stop --timeout 1 {one}")).succeeds();
        let state = pod.inspect(&one, "/status/state");
        daemon.place.claim("it has ended", state == "CONTAINER_EXITED");
        let code = pod.inspect(&one, "/status/exitCode");
        // No first process: that one, which the signal would not end, is the pod's.
        daemon.place.claim("the signal ended it", code == 143);
        pod.crictl(&format!("rm {one}")).succeeds();
        pod.remove();
    });
}

#[test]
fn containers_of_a_pod_share_what_it_has() {
    with_both(|daemon| {
        // One pid namespace for all: the end of a container is the end of its cgroup.
        let shared = json!({"linux": {"security_context": {"namespace_options": {"pid": 0}}}});
        let more = json!({"port_mappings": [{"container_port": 80, "host_port": 8080}]});
        let pod = Pod::run(daemon, "shared", &{
            let mut config = more;
            merge(&mut config, &shared);
            config
        });
        let mut server = shared.clone();
        merge(&mut server, &json!({"image": {"image": SERVER}}));
        let server = pod.start("server", &[], &server);
        let other = pod.start("other", &["sh", "-c", "sleep 1000 & sleep 1000"], &shared);
        daemon.place.eventually("the published port answers", || {
            daemon.place.get("127.0.0.1:8080", "/").is_some_and(|page| page.contains("Welcome"))
        });
        let page = daemon.place.get(&format!("{}:80", pod.address()), "/");
        daemon.place.claim("the pod's own address answers", page.is_some());
        pod.crictl(&format!("exec {other} wget -qO- http://127.0.0.1/")).mentions("Welcome");
        pod.crictl(&format!("exec {other} ps")).mentions("/pause").mentions("httpd");
        pod.crictl(&format!("stop --timeout 0 {other}")).succeeds();
        pod.crictl(&format!("exec {server} ps")).lacks("sleep 1000");
        pod.remove();
    });
}

#[test]
fn a_privileged_pod_has_the_namespaces_of_the_host() {
    with_both(|daemon| {
        let options = json!({"network": 2, "pid": 2, "ipc": 2});
        let context = json!({"privileged": true, "namespace_options": options});
        let pod = Pod::run(daemon, "host", &json!({"linux": {"security_context": context}}));
        let one = pod.start(
            "privileged",
            &["sleep", "1000"],
            &json!({"linux": {"security_context": context}}),
        );
        for kind in ["net", "ipc", "pid"] {
            let own = fs::read_link(format!("/proc/thread-self/ns/{kind}")).unwrap();
            let line = format!("exec {one} readlink /proc/self/ns/{kind}");
            pod.crictl(&line).prints(own.to_str().unwrap());
        }
        pod.crictl(&format!("exec {one} mount -t tmpfs none /mnt")).succeeds();
        pod.remove();
    });
}

#[test]
fn every_container_of_a_pod_is_in_the_pods_user_namespace() {
    with_pods(Release::Current, |daemon| {
        if daemon.place.bed.is_peer("runc 1.1 does not map the ids of mounts, and containerd asks")
        {
            return;
        }
        let range = json!([{"container_id": 0, "host_id": 200_000, "length": 65_536}]);
        let options = json!({"userns_options": {"mode": 0, "uids": range, "gids": range}});
        let more = json!({"linux": {"security_context": {"namespace_options": options}}});
        let pod = Pod::run(daemon, "mapped", &more);
        let ids = ["first", "second"].map(|name| pod.start(name, &["sleep", "1000"], &more));
        let namespaces = ids.each_ref().map(|id| {
            pod.crictl(&format!("exec {id} cat /proc/self/uid_map")).mentions("200000      65536");
            pod.crictl(&format!("exec {id} sh -c 'touch /file && stat -c %u /file'")).prints("0");
            let pid = pod.inspect(id, "/info/pid");
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            daemon.place.claim("its root is nobody", status.contains("Uid:\t200000\t200000"));
            fs::read_link(format!("/proc/{pid}/ns/user")).unwrap()
        });
        daemon.place.claim("both are in one", namespaces[0] == namespaces[1]);
        let own = fs::read_link("/proc/self/ns/user").unwrap();
        daemon.place.claim("it is not the host's", namespaces[0] != own);
        pod.remove();
    });
}
