//! Engines as a distribution sets them up, on a host with systemd: nothing but the path of the
//! runtime is theirs to be told, and they take systemd's driver for cgroups by themselves.
//!
//! The host's cgroups have no controllers that limit. What asks for limits by itself, Podman of
//! root and the CRI, is not here.

use std::path::Path;

use integration::systemd_host::{SystemdHost, on_a_systemd_host};

/// An image of one program, as a file that engines import.
const IMAGE: &str = "
    mkdir -p /run/image/bin /run/image/tmp && cp /bin/busybox /run/image/bin
    for name in sh sleep cat true echo ls sed tail; do ln -s busybox /run/image/bin/$name; done
    tar -C /run/image -cf /run/image.tar . && chmod 644 /run/image.tar";

/// Docker's daemon, with the one line about the runtime. The network would need iptables.
const DOCKER: &str = r#"
    cd /etc/systemd/system && rm -f docker.service docker.socket containerd.service
    mkdir -p /etc/docker && cat > /etc/docker/daemon.json <<END
        {"runtimes": {"ferrun": {"path": "$RUNTIME"}}, "default-runtime": "ferrun",
         "storage-driver": "vfs", "data-root": "/run/docker-data", "bridge": "none", "iptables": false}
END
    systemctl daemon-reload && systemctl start docker.service
    docker import /run/image.tar small >/dev/null"#;

/// What is typed, and what is printed then. One container, `box`, lives through most of it.
const DOCKERS: [(&str, &str); 24] = [
    (
        "docker info --format '{{.CgroupDriver}} {{.CgroupVersion}} {{.DefaultRuntime}}'",
        "systemd 2 ferrun",
    ),
    ("docker run --rm --network none small echo hello", "hello"),
    ("docker run --network none small sh -c 'exit 7'; echo $?", "7"),
    ("docker run --rm --network none small /nothing 2>/dev/null; echo $?", "127"),
    ("docker run --detach --name box --network none small sleep 1000 >/dev/null; echo $?", "0"),
    (
        "cat /proc/$(docker inspect --format '{{.State.Pid}}' box)/cgroup | tail -n 1 | sed 's/docker-[0-9a-f]*/docker-ID/'",
        "0::/system.slice/docker-ID.scope",
    ),
    ("systemctl is-active docker-$(docker inspect --format '{{.Id}}' box).scope", "active"),
    ("docker exec box cat /proc/self/cgroup | tail -n 1", "0::/"),
    ("docker exec --tty box echo tty | tr -d '\\r'", "tty"),
    (
        "docker pause box; docker inspect --format '{{.State.Status}}' box; docker unpause box",
        "box\npaused\nbox",
    ),
    ("docker top box | tail -n 1 | grep --only-matching 'sleep 1000'", "sleep 1000"),
    ("docker stats --no-stream --format '{{.Name}}' box", "box"),
    (
        "systemctl daemon-reload; docker exec box sh -c 'echo x > /dev/null && echo null works'",
        "null works",
    ),
    ("docker stop --time 1 box; docker start box; docker restart --time 1 box", "box\nbox\nbox"),
    (
        "systemctl kill --signal KILL docker-$(docker inspect --format '{{.Id}}' box).scope; docker wait box",
        "137",
    ),
    ("docker rm --force box", "box"),
    (
        "docker run --rm --network none --cgroup-parent a-b.slice --cgroupns host small cat /proc/self/cgroup | tail -n 1 | sed 's/docker-[0-9a-f]*/docker-ID/'",
        "0::/a.slice/a-b.slice/docker-ID.scope",
    ),
    (
        "docker run --rm --network none --cgroupns host small cat /proc/self/cgroup | tail -n 1 | sed 's/docker-[0-9a-f]*/docker-ID/'",
        "0::/system.slice/docker-ID.scope",
    ),
    ("docker run --rm --network none --privileged small echo privileged", "privileged"),
    (
        "docker run --rm --network none --user 1000 --read-only --tmpfs /t small sh -c 'echo x > /t/y && echo written'",
        "written",
    ),
    ("docker run --rm --network none --init small echo init", "init"),
    (
        "docker run --rm --network none --device /dev/zero:/dev/own small sh -c 'ls /dev/own; echo x > /dev/own && echo works'",
        "/dev/own\nworks",
    ),
    (
        "for i in 1 2 3 4 5 6 7 8 9 10; do docker run --rm --network none --name same small true || echo failed; done; echo done",
        "done",
    ),
    (
        "docker ps --all --quiet | xargs docker rm --force >/dev/null 2>&1; systemctl list-units --all --no-legend 'docker-*'",
        "",
    ),
];

/// Podman of an ordinary user.
const PODMAN: &str = r#"
    mkdir -p ~/.config/containers && cd ~/.config/containers
    printf '[storage]\ndriver = "vfs"\n' > storage.conf
    printf '[engine]\nruntime = "%s"\n[containers]\npids_limit = -1\n' "$RUNTIME" > containers.conf
    podman import --quiet /run/image.tar small >/dev/null"#;

const PODMANS: [(&str, &str); 10] = [
    ("podman info --format '{{.Host.CgroupManager}} {{.Host.CgroupsVersion}}'", "systemd v2"),
    ("podman run --rm --network none small echo hello", "hello"),
    ("podman run --detach --name box --network none small sleep 1000 >/dev/null; echo $?", "0"),
    (
        "cat /proc/$(podman inspect --format '{{.State.Pid}}' box)/cgroup | tail -n 1 | sed 's/libpod-[0-9a-f]*/libpod-ID/; s/[0-9][0-9]*/N/g'",
        "N::/user.slice/user-N.slice/user@N.service/user.slice/libpod-ID.scope",
    ),
    ("podman exec box cat /proc/self/cgroup | tail -n 1", "0::/"),
    (
        "podman pause box >/dev/null; podman inspect --format '{{.State.Status}}' box; podman unpause box >/dev/null",
        "paused",
    ),
    ("podman stop --time 1 box; podman start box; podman rm --force --time 0 box", "box\nbox\nbox"),
    ("podman run --rm --network none --userns keep-id small echo keep-id", "keep-id"),
    (
        "podman run --rm --network none --cgroupns host small cat /proc/self/cgroup | tail -n 1 | sed 's/libpod-[0-9a-f]*/libpod-ID/; s/[0-9][0-9]*/N/g'",
        "N::/user.slice/user-N.slice/user@N.service/user.slice/libpod-ID.scope",
    ),
    ("systemctl --user list-units --all --no-legend 'libpod-*'", ""),
];

/// What docker-compose brings up.
const PROJECT: &str = "mkdir /run/project && cat > /run/project/docker-compose.yml <<END
version: '3'
services:
  one: {image: small, command: sleep 1000, network_mode: none, stop_grace_period: 1s}
  two: {image: small, command: sleep 1000, network_mode: none, stop_grace_period: 1s, depends_on: [one]}
END";

const COMPOSES: [(&str, &str); 5] = [
    (
        "docker-compose up -d 2>/dev/null; docker-compose ps --services --filter status=running",
        "one\ntwo",
    ),
    ("systemctl list-units --no-legend 'docker-*.scope' | wc -l", "2"),
    ("docker-compose exec -T one sh -c 'echo inside'", "inside"),
    ("docker-compose restart -t 1 two 2>/dev/null; docker-compose exec -T two echo again", "again"),
    ("docker-compose down 2>/dev/null; docker ps --all --quiet", ""),
];

/// The image for containerd.
const IMPORT: &str = "docker save small > /run/small.tar &&
    ctr --address /run/containerd/containerd.sock image import --snapshotter native /run/small.tar";

/// containerd's client: what is behind `ctr run`, and what comes of it.
const CTRS: [(&str, &str); 3] = [
    ("--rm IMAGE c1 sed -n s/^0:://p /proc/self/cgroup", "/system.slice/ctr-c1.scope"),
    ("--rm IMAGE c1 sh -c 'exit 7'; echo $?", "7"),
    (
        "--detach IMAGE c1 sleep 1000; systemctl is-active ctr-c1.scope; \
         ctr task exec --exec-id e c1 sh -c 'echo inside; sleep 0.5'; ctr task kill --signal KILL c1; \
         while systemctl is-active --quiet ctr-c1.scope; do sleep 0.1; done; \
         ctr task rm c1 2>/dev/null; ctr container rm c1; ctr container ls -q",
        "active\ninside",
    ),
];

fn on_a_host_with(program: &str, test: impl Fn(&SystemdHost<'_>) + Sync) {
    on_a_systemd_host(|host| {
        if !Path::new(program).exists() {
            return host.bed().skip(&format!("there is no {program}"));
        }
        host.sh(IMAGE).success();
        test(host);
    });
}

#[test]
fn docker_by_default() {
    on_a_host_with("/usr/sbin/dockerd", |host| {
        host.sh(DOCKER).success();
        for (typed, printed) in DOCKERS {
            let output = host.sh(typed);
            assert_eq!(output.stdout.trim(), printed, "{typed}: {output}");
        }
        host.systemctl(&["stop", "docker.service", "docker.socket", "containerd.service"])
            .success();
    });
}

#[test]
fn compose_and_containerd() {
    on_a_host_with("/usr/bin/docker-compose", |host| {
        host.sh(DOCKER).success();
        host.sh(PROJECT).success();
        for (typed, printed) in COMPOSES {
            let output = host.sh(&format!("cd /run/project && {typed}"));
            assert_eq!(output.stdout.trim(), printed, "{typed}: {output}");
        }
        host.sh(IMPORT).success();
        let run = "ctr run --snapshotter native --runc-binary $RUNTIME --runc-systemd-cgroup \
            --cgroup system.slice:ctr:c1 --cpu-shares 0";
        for (typed, printed) in CTRS {
            let typed = typed.replace("IMAGE", "docker.io/library/small:latest");
            let output = host.sh(&format!("{run} {typed}"));
            assert_eq!(output.stdout.trim(), printed, "{typed}: {output}");
        }
        host.systemctl(&["stop", "docker.service", "docker.socket", "containerd.service"])
            .success();
        host.assert_nothing_left();
    });
}

#[test]
fn podman_of_an_ordinary_user_by_default() {
    on_a_host_with("/usr/bin/podman", |host| {
        let ranges = "for file in subuid subgid; do echo tester:100000:65536 >> /etc/$file; done";
        host.sh(&format!("mount --make-rshared / && {ranges}")).success();
        let user = host.user();
        user.sh(PODMAN).success();
        for (typed, printed) in PODMANS {
            let output = user.sh(typed);
            assert_eq!(output.stdout.trim(), printed, "{typed}: {output}");
        }
    });
}
