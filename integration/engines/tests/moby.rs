//! What today's Docker asks of a runtime and Debian's does not. Its tests are those of
//! Debian's otherwise, run with the programs of `$ENGINES`.

use std::fs;

use engines::docker::{Docker, PROGRAMS};
use engines::{in_place, is_current, runtime_name};
use integration::{Kind, runtime};
use serde_json::{Value, json};

/// Runs a test with a daemon of these lines in its configuration.
fn with_docker(more: Value, test: impl Fn(&Docker<'_>) + Sync) {
    in_place(&PROGRAMS, |place| {
        if !is_current() {
            return place.bed.skip("the engines are Debian's (make test-engines-current)");
        }
        let docker = Docker::start(place, &more);
        let before = place.inventory();
        test(&docker);
        docker.clear();
        place.claim_nothing_since(&before);
    });
}

#[test]
fn the_daemon_and_its_containerd_are_the_current_ones() {
    with_docker(json!({}), |docker| {
        let api = docker.sh("docker version --format '{{.Server.APIVersion}}'");
        let minor: u32 = api.text().split('.').nth(1).unwrap_or_default().parse().unwrap();
        docker.place.claim("Docker 29 has version 1.52 of its interface, or more", minor >= 52);
        let containerd = "/var/run/docker/containerd/containerd.sock";
        docker.sh(&format!("ctr --address {containerd} version")).mentions("2.4.2");
        docker.sh("docker info --format '{{.DefaultRuntime}}'").prints(runtime_name());
    });
}

#[test]
fn a_container_has_a_time_namespace_of_its_own() {
    with_docker(json!({}), |docker| {
        if docker.place.bed.is_peer("runc 1.1 knows no time namespace") {
            return;
        }
        let own = fs::read_link("/proc/self/ns/time").unwrap();
        let inside = docker.sh("docker run --rm alpine readlink /proc/1/ns/time");
        docker.place.claim("it is not the host's", inside.text() != own.to_str().unwrap());
        docker.sh("docker run -d --name one alpine sleep 1000").succeeds();
        let first = docker.sh("docker exec one readlink /proc/1/ns/time").text().to_owned();
        docker.sh("docker exec one readlink /proc/self/ns/time").prints(&first);
        docker.sh("docker exec one cat /proc/1/timens_offsets").mentions("monotonic");
    });
}

#[test]
fn the_runtime_is_named_as_a_shims_option() {
    let name = runtime_name();
    let shim = json!({
        "runtimeType": "io.containerd.runc.v2",
        "options": {"BinaryName": runtime().program},
    });
    with_docker(json!({"runtimes": {name: shim}}), |docker| {
        docker.sh("docker run --rm alpine echo hello").prints("hello");
        docker.sh("docker run -d --name one alpine sleep 1000").succeeds();
        docker.sh("docker exec one sh -c 'exit 5'").exits(5);
        docker.sh("docker pause one").prints("one");
        docker.sh("docker unpause one").prints("one");
        docker.sh("docker run --rm alpine no-such-program").exits(127);
        docker.sh("docker stop -t 0 one").prints("one");
        docker.becomes("one", ".State.ExitCode", "137");
    });
}

#[test]
fn images_are_kept_by_docker_or_by_containerd() {
    for snapshotter in [false, true] {
        let has_time = runtime().kind == Kind::Ferrun;
        let features = json!({"containerd-snapshotter": snapshotter, "time-namespaces": has_time});
        with_docker(json!({"features": features}), |docker| {
            let driver = if snapshotter { "overlayfs" } else { "overlay2" };
            docker.sh("docker info --format '{{.Driver}}'").prints(driver);
            docker.sh("docker run --name one alpine touch /file").succeeds();
            docker.sh("docker diff one").mentions("A /file");
            docker.sh("docker start --attach one").succeeds();
        });
    }
}
