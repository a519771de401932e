//! Docker as Debian sets it up, which takes systemd's driver by itself.

use engines::{Host, Unit, cpu_weight, on_a_host};

use crate::{keeps_weights, whatever_systemd_does};

const CONFIG: &str = r#"{"runtimes": {"$NAME": {"path": "$RUNTIME"}}, "default-runtime": "$NAME""#;
const SIBLING: &str = "containerd.service";
const RUN: &str = "docker run --network none";

/// Runs a test with a daemon that has `more` in its configuration and an image `small`.
#[track_caller]
pub fn with_docker(more: &str, test: impl Fn(&Host<'_>)) {
    on_a_host(&["docker", "dockerd"], |host| {
        host.write("/etc/docker/daemon.json", &format!("{CONFIG}{more}}}"));
        host.sh("systemctl restart docker.service").succeeds();
        host.sh(
            "docker image inspect small >/dev/null 2>&1 || docker import /var/tmp/image.tar small",
        )
        .succeeds();
        let clear = "docker ps --all --quiet | xargs --no-run-if-empty docker rm --force";
        // Left by a test that has failed.
        host.sh(clear).succeeds();
        test(host);
        host.sh(clear).succeeds();
        host.becomes("systemctl list-units --all --no-legend 'docker-*.scope'", "");
        host.sh("systemctl stop docker.socket docker.service").succeeds();
    });
}

#[track_caller]
fn inspect(host: &Host<'_>, container: &str, field: &str) -> String {
    host.ask(&format!("docker inspect --format '{{{{{field}}}}}' {container}")).trim().to_owned()
}

#[track_caller]
fn becomes(host: &Host<'_>, container: &str, field: &str, value: &str) {
    host.becomes(&format!("docker inspect --format '{{{{{field}}}}}' {container}"), value);
}

#[track_caller]
fn unit<'host>(host: &'host Host<'_>, container: &str) -> Unit<'host> {
    host.unit_of(&inspect(host, container, ".State.Pid"))
}

#[test]
fn limits_of_a_container_and_their_update() {
    with_docker("", |host| {
        host.sh("docker info --format '{{.CgroupDriver}} {{.CgroupVersion}}'").prints("systemd 2");
        host.sh(&format!(
            "{RUN} --detach --name box --memory 64m --memory-swap 96m --memory-reservation 32m \
             --cpus 0.5 --cpu-shares 512 --cpuset-cpus 0 --pids-limit 50 --blkio-weight 300 \
             small sleep 1000"
        ))
        .succeeds();
        let (box_, weights) = (unit(host, "box"), keeps_weights(host));
        assert_eq!(box_.name, format!("docker-{}.scope", inspect(host, "box", ".Id")));
        whatever_systemd_does(host, "system.slice", SIBLING, |when| {
            box_.has(
                when,
                &[
                    ("Slice", "system.slice"),
                    ("MemoryMax", "67108864"),
                    ("MemorySwapMax", "33554432"),
                    ("MemoryLow", "33554432"),
                    ("TasksMax", "50"),
                    ("CPUWeight", cpu_weight("59", "20")),
                    ("CPUQuotaPerSecUSec", "500ms"),
                    ("AllowedCPUs", "0"),
                    ("memory.max", "67108864"),
                    ("memory.swap.max", "33554432"),
                    ("memory.low", "33554432"),
                    ("pids.max", "50"),
                    ("cpu.weight", cpu_weight("59", "20")),
                    ("cpu.max", "50000 100000"),
                    ("cpuset.cpus", "0"),
                ],
            );
            if weights {
                box_.has(when, &[("io.weight", "default 2930")]);
            }
        });
        host.sh("docker update --memory 128m --memory-swap 192m --cpus 0.75 --pids-limit 60 box")
            .succeeds();
        whatever_systemd_does(host, "system.slice", SIBLING, |when| {
            box_.has(
                when,
                &[
                    ("MemoryMax", "134217728"),
                    ("MemorySwapMax", "67108864"),
                    ("TasksMax", "60"),
                    ("CPUQuotaPerSecUSec", "750ms"),
                    ("memory.max", "134217728"),
                    ("memory.swap.max", "67108864"),
                    ("pids.max", "60"),
                    ("cpu.max", "75000 100000"),
                    ("memory.low", "33554432"),
                    ("cpu.weight", cpu_weight("59", "20")),
                ],
            );
        });
        host.sh("docker stats --no-stream --format '{{.Name}} {{.MemUsage}} {{.PIDs}}' box")
            .mentions("box ")
            .mentions("/ 128MiB 1");
        host.sh("docker exec box sh -c 'echo x > /dev/null && echo null works'")
            .prints("null works");
        host.sh("docker pause box && docker unpause box").succeeds();
        host.sh("docker restart --time 1 box").succeeds();
        unit(host, "box").has("after a restart", &[("MemoryMax", "134217728"), ("pids.max", "60")]);
    });
}

#[test]
fn limits_limit() {
    with_docker("", |host| {
        let eat = "small sh -c 'x=x; while :; do x=$x$x; done'";
        host.sh(&format!("{RUN} --name eater --memory 16m --memory-swap 16m {eat}")).exits(137);
        if !host.bed.is_peer("with runc 1.1 Docker does not learn of it here") {
            becomes(host, "eater", ".State.OOMKilled", "true");
        }
        let many = "small sh -c 'for i in $(seq 20); do sleep 1 & done; wait'";
        host.sh(&format!("{RUN} --rm --pids-limit 10 {many}")).fails(2, "fork");
        host.sh(&format!("{RUN} --rm small cat /dev/mem")).fails(1, "No such file");
        host.sh(&format!(
            "{RUN} --rm --device /dev/kmsg small sh -c 'echo x >/dev/kmsg && echo well'"
        ))
        .prints("well");
    });
}

#[test]
fn slices_of_the_users_own() {
    with_docker("", |host| {
        host.sh("systemctl set-property --runtime a-b.slice MemoryMax=200M").succeeds();
        host.sh(&format!(
            "{RUN} --detach --name box --cgroup-parent a-b.slice --memory 64m small sleep 1000"
        ))
        .succeeds();
        let box_ = unit(host, "box");
        let group = format!("/a.slice/a-b.slice/docker-{}.scope", inspect(host, "box", ".Id"));
        assert_eq!(box_.group(), group);
        whatever_systemd_does(host, "a.slice", SIBLING, |when| {
            box_.has(
                when,
                &[("Slice", "a-b.slice"), ("MemoryMax", "67108864"), ("memory.max", "67108864")],
            );
            host.unit("a-b.slice").has(when, &[("memory.max", "209715200")]);
        });
        host.sh(&format!("{RUN} --rm --cgroup-parent /a/b small true")).fails(125, "slice");
    });
}

#[test]
fn restart_policies() {
    with_docker("", |host| {
        host.sh(&format!(
            "{RUN} --detach --name failing --restart on-failure:2 small sh -c 'exit 3'"
        ))
        .succeeds();
        becomes(host, "failing", ".RestartCount", "2");
        becomes(host, "failing", ".State.Status", "exited");
        host.sh(&format!(
            "{RUN} --detach --name box --restart always --memory 64m small sleep 1000"
        ))
        .succeeds();
        let first = inspect(host, "box", ".State.Pid");
        // By its unit, as an administrator may.
        let id = inspect(host, "box", ".Id");
        host.sh(&format!("systemctl kill --signal KILL docker-{id}.scope")).succeeds();
        becomes(host, "box", ".RestartCount", "1");
        becomes(host, "box", ".State.Running", "true");
        assert_ne!(inspect(host, "box", ".State.Pid"), first);
        unit(host, "box")
            .has("restarted", &[("MemoryMax", "67108864"), ("memory.max", "67108864")]);
        host.sh("systemctl restart docker.service").succeeds();
        becomes(host, "box", ".State.Running", "true");
        unit(host, "box").has("with a new daemon", &[("memory.max", "67108864")]);
    });
}

#[test]
fn a_container_lives_on_while_the_daemon_is_started_anew() {
    with_docker(r#", "live-restore": true"#, |host| {
        host.sh(&format!(
            "{RUN} --detach --name box --memory 64m --pids-limit 50 small sleep 1000"
        ))
        .succeeds();
        let pid = inspect(host, "box", ".State.Pid");
        host.sh("systemctl restart docker.service").succeeds();
        assert_eq!(inspect(host, "box", ".State.Pid"), pid);
        unit(host, "box").has(
            "lives on",
            &[("MemoryMax", "67108864"), ("memory.max", "67108864"), ("pids.max", "50")],
        );
        host.sh("docker exec box cat /proc/self/cgroup").prints("0::/");
        host.sh("docker update --memory 96m --memory-swap 96m box").succeeds();
        unit(host, "box")
            .has("updated", &[("MemoryMax", "100663296"), ("memory.max", "100663296")]);
        host.sh("docker stop --time 1 box").succeeds();
        becomes(host, "box", ".State.ExitCode", "137");
    });
}
