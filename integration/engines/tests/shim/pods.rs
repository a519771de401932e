//! Pods, as Kubernetes' node agent asks for them.

use std::fs;
use std::time::Duration;

use engines::containerd::Release;
use engines::pod::merge;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::daemon::with_pods;

const HOST_NETWORK: &str =
    r#"{"linux": {"security_context": {"namespace_options": {"network": 2}}}}"#;

#[test]
fn the_life_of_a_pod_of_three_is_that_of_one_shim() {
    with_pods(|daemon| {
        let pod = daemon.pod("pod", &json!({"hostname": "box"}));
        let limits = json!({"linux": {"resources": {
            "memory_limit_in_bytes": 67_108_864, "cpu_shares": 512,
        }}});
        let speaks = ["sh", "-c", "echo started; sleep 1000"];
        let ids = ["one", "two", "three"].map(|name| pod.start(name, &speaks, &limits));
        daemon.place.claim("one shim", daemon.shims().len() == 1);
        let [one, two, three] = &ids;
        for id in &ids {
            pod.crictl(&format!("exec {id} hostname")).prints("box");
            pod.crictl(&format!("logs {id}")).prints("started");
        }
        pod.crictl(&format!("exec {one} sh -c 'exit 3'")).fails(1, "exit code 3");
        pod.crictl(&format!("exec --sync {one} no-such-program"))
            .fails(1, "executable file not found in $PATH");
        pod.crictl(&format!("exec --sync --timeout 1 {one} sleep 100")).fails(1, "");
        pod.crictl(&format!("stats --output json {one}")).mentions("usageBytes");
        pod.crictl(&format!("statsp --output json {}", pod.id)).mentions("usage");

        pod.crictl(&format!("update --memory 33554432 {one}")).succeeds();
        let pid = pod.inspect(one, "/info/pid");
        let group = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let controller = daemon.place.bed.by_version(":memory:", "::");
        let path = group.lines().find_map(|line| line.split_once(controller)).unwrap().1;
        let file = daemon.place.bed.by_version(
            format!("memory{path}/memory.limit_in_bytes"),
            format!("{path}/memory.max"),
        );
        let limit = fs::read_to_string(format!("/sys/fs/cgroup/{file}")).unwrap();
        daemon.place.claim("the limit is the new one", limit.trim() == "33554432");

        pod.crictl(&format!("stop --timeout 1 {one}")).succeeds();
        daemon.place.claim("it has ended", pod.inspect(one, "/status/state") == "CONTAINER_EXITED");
        pod.crictl(&format!("rm {one}")).succeeds();
        pod.crictl(&format!("exec {two} hostname")).prints("box");
        pod.crictl(&format!("rm --force {three}")).succeeds();
        pod.remove();
        daemon.place.eventually("no shim is left", || daemon.shims().is_empty());
    });
}

#[test]
fn containers_in_one_pid_namespace_end_each_with_all_their_own() {
    with_pods(|daemon| {
        let shared = json!({"linux": {"security_context": {"namespace_options": {"pid": 0}}}});
        let pod = daemon.pod("shared", &shared);
        let one = pod.start("one", &["sleep", "1001"], &shared);
        let two = pod.start("two", &["sh", "-c", "sleep 1002 & sleep 1002"], &shared);
        pod.crictl(&format!("exec {one} ps")).mentions("/pause").mentions("sleep 1002");
        pod.crictl(&format!("stop --timeout 0 {two}")).succeeds();
        pod.crictl(&format!("exec {one} ps")).lacks("sleep 1002").mentions("sleep 1001");
        pod.remove();
    });
}

#[test]
fn a_pod_outlives_containerd() {
    with_pods(|daemon| {
        let host: serde_json::Value = serde_json::from_str(HOST_NETWORK).unwrap();
        let pod = daemon.pod("lasting", &host);
        let mut speaks = json!({});
        merge(&mut speaks, &host);
        let script = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done";
        let one = pod.start("one", &["sh", "-c", script], &speaks);
        let short = pod.start("short", &["sh", "-c", "sleep 4; exit 6"], &speaks);
        daemon.restart(Signal::SIGKILL, || std::thread::sleep(Duration::from_secs(5)));
        daemon.place.eventually("pods are known again", || {
            pod.crictl(&format!("ps --quiet --no-trunc --id {one}")).output.stdout.trim() == one
        });
        pod.crictl(&format!("exec --sync {one} echo inside")).prints("inside");
        let state = || pod.inspect(&short, "/status/state") == "CONTAINER_EXITED";
        daemon.place.eventually("what ended meanwhile has ended", state);
        let code = pod.inspect(&short, "/status/exitCode");
        // containerd has what it finds ended deleted, and knows no code then.
        let known = code == 6 || code == 255;
        daemon.place.claim(&format!("with its code, not {code}"), known);
        let lines = || pod.crictl(&format!("logs {one}")).output.stdout.lines().count();
        let before = lines();
        daemon.place.eventually("it is heard on", || lines() > before + 5);
        let late = pod.start("late", &["sleep", "1000"], &host);
        pod.crictl(&format!("exec --sync {late} echo inside")).prints("inside");
        daemon.place.claim("one shim", daemon.shims().len() == 1);
        pod.remove();
    });
}

#[test]
fn a_pod_whose_shim_was_killed_is_gone_and_can_be_removed() {
    with_pods(|daemon| {
        let host: serde_json::Value = serde_json::from_str(HOST_NETWORK).unwrap();
        let pod = daemon.pod("struck", &host);
        let ids = ["one", "two"].map(|name| pod.start(name, &["sleep", "1000"], &host));
        for (shim, _) in daemon.shims() {
            kill(Pid::from_raw(shim), Signal::SIGKILL).expect("kill");
        }
        for id in &ids {
            let ended = || pod.inspect(id, "/status/state") == "CONTAINER_EXITED";
            daemon.place.eventually("it is told as ended", ended);
        }
        pod.remove();
    });
}

#[test]
fn containers_of_a_pod_are_in_its_user_namespace() {
    with_pods(|daemon| {
        if daemon.release == Release::Debian {
            return daemon.place.bed.skip("containerd 1.6 has no pods with user namespaces");
        }
        let range = json!([{"container_id": 0, "host_id": 200_000, "length": 65_536}]);
        let options = json!({"userns_options": {"mode": 0, "uids": range, "gids": range}});
        let more = json!({"linux": {"security_context": {"namespace_options": options}}});
        let pod = daemon.pod("mapped", &more);
        for name in ["first", "second"] {
            let id = pod.start(name, &["sleep", "1000"], &more);
            pod.crictl(&format!("exec {id} cat /proc/self/uid_map")).mentions("200000      65536");
            pod.crictl(&format!("exec {id} sh -c 'touch /file && stat -c %u /file /bin'"))
                .prints("0\n0");
            let pid = pod.inspect(&id, "/info/pid");
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            daemon.place.claim("its root is nobody", status.contains("Uid:\t200000\t200000"));
        }
        pod.remove();
    });
}
