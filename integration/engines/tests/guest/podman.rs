//! Podman as Debian sets it up, as root and as an ordinary user.

use engines::{Host, Unit, cpu_weight, on_a_host};

use crate::{keeps_weights, whatever_systemd_does};

pub const CONFIG: &str = "[engine]\nruntime = \"$NAME\"\nruntime_supports_json = [\"$NAME\"]\n\
                      [engine.runtimes]\n$NAME = [\"$RUNTIME\"]\n";
const SIBLING: &str = "dbus.service";
const RUN: &str = "podman run --network none";
const LIMITS: &str = "--memory 64m --memory-swap 96m --cpus 0.5 --pids-limit 50";

#[track_caller]
fn with_podman(test: impl Fn(&Host<'_>)) {
    on_a_host(&["podman", "conmon"], |host| {
        host.write("/etc/containers/containers.conf", CONFIG);
        let import =
            "podman image exists localhost/small || podman import --quiet /var/tmp/image.tar small";
        host.sh(import).succeeds();
        // Left by a test that has failed.
        clear(host);
        test(host);
        clear(host);
    });
}

/// Removes all containers, of which nothing is left.
#[track_caller]
fn clear(host: &Host<'_>) {
    host.sh("podman pod rm --force --all --time 0; podman rm --force --all --time 0").succeeds();
    host.becomes(
        &format!("{} list-units --all --no-legend 'libpod-*.scope'", host.systemctl()),
        "",
    );
}

#[track_caller]
fn unit<'host>(host: &'host Host<'_>, container: &str) -> Unit<'host> {
    let pid = host.ask(&format!("podman inspect --format '{{{{.State.Pid}}}}' {container}"));
    host.unit_of(pid.trim())
}

const RUN_WITH: [(&str, &str); 9] = [
    ("MemoryMax", "67108864"),
    ("MemorySwapMax", "33554432"),
    ("TasksMax", "50"),
    ("CPUQuotaPerSecUSec", "500ms"),
    ("Delegate", "yes"),
    ("memory.max", "67108864"),
    ("memory.swap.max", "33554432"),
    ("pids.max", "50"),
    ("cpu.max", "50000 100000"),
];

const UPDATED_TO: [(&str, &str); 8] = [
    ("MemoryMax", "134217728"),
    ("MemorySwapMax", "67108864"),
    ("TasksMax", "60"),
    ("CPUQuotaPerSecUSec", "750ms"),
    ("memory.max", "134217728"),
    ("memory.swap.max", "67108864"),
    ("pids.max", "60"),
    ("cpu.max", "75000 100000"),
];

const UPDATE: &str =
    "podman update --memory 128m --memory-swap 192m --cpus 0.75 --pids-limit 60 box";

#[test]
fn limits_of_a_container_and_their_update() {
    with_podman(|host| {
        host.sh("podman info --format '{{.Host.CgroupManager}} {{.Host.CgroupsVersion}}'")
            .prints("systemd v2");
        let more = "--memory-reservation 32m --cpu-shares 512 --cpuset-cpus 0 --blkio-weight 300";
        host.sh(&format!("{RUN} --detach --name box {LIMITS} {more} small sleep 1000")).succeeds();
        let (unit, weights) = (unit(host, "box"), keeps_weights(host));
        whatever_systemd_does(host, "machine.slice", SIBLING, |when| {
            unit.has(when, &RUN_WITH);
            unit.has(
                when,
                &[
                    ("Slice", "machine.slice"),
                    ("MemoryLow", "33554432"),
                    ("CPUWeight", cpu_weight("59", "20")),
                    ("AllowedCPUs", "0"),
                    ("memory.low", "33554432"),
                    ("cpu.weight", cpu_weight("59", "20")),
                    ("cpuset.cpus", "0"),
                ],
            );
            if weights {
                unit.has(when, &[("io.weight", "default 2930")]);
            }
        });
        host.sh(UPDATE).succeeds();
        whatever_systemd_does(host, "machine.slice", SIBLING, |when| unit.has(when, &UPDATED_TO));
        host.sh("podman stats --no-stream --format '{{.Name}} {{.MemUsage}} {{.PIDs}}' box")
            .mentions("box ")
            .mentions("/ 134.2MB 1");
        host.sh("podman pause box && podman unpause box").succeeds();
        host.sh("podman exec box cat /proc/self/cgroup").prints("0::/");
        let eat = "small sh -c 'x=x; while :; do x=$x$x; done'";
        host.sh(&format!("{RUN} --name eater --memory 16m --memory-swap 16m {eat}")).exits(137);
        // conmon reads why when it is told of an event, and now and then the group, which systemd
        // takes away with its last process, is gone by then.
        let why = "podman inspect --format '{{.State.OOMKilled}}' eater";
        let again = format!("{RUN} --name eater --memory 16m --memory-swap 16m {eat}");
        host.becomes(
            &format!(
                "{why} | grep true || {{ podman rm eater; {again}; {why}; }} 2>&1 | tail -n 1"
            ),
            "true",
        );
    });
}

#[test]
fn pods_and_slices() {
    with_podman(|host| {
        let create = "podman pod create --network none --share ipc";
        host.sh(&format!("{create} --name pod --memory 128m --cpus 0.75")).succeeds();
        host.sh("podman run --detach --name box --pod pod --memory 64m small sleep 1000")
            .succeeds();
        let slice = host.ask("podman pod inspect --format '{{.CgroupPath}}' pod");
        let name = slice.trim().rsplit('/').next().unwrap_or_default().to_owned();
        let (slice, unit) = (host.unit(&name), unit(host, "box"));
        whatever_systemd_does(host, "machine.slice", SIBLING, |when| {
            slice.has(when, &[("memory.max", "134217728"), ("cpu.max", "75000 100000")]);
            unit.has(
                when,
                &[("Slice", &name), ("MemoryMax", "67108864"), ("memory.max", "67108864")],
            );
        });
        host.sh("podman pod pause pod && podman pod unpause pod").succeeds();
        host.sh("podman pod stop --time 0 pod && podman pod start pod").succeeds();
        host.sh("podman exec box echo hello").prints("hello");
        host.sh("podman pod rm --force --time 0 pod").succeeds();

        host.sh(&format!(
            "{RUN} --detach --name box --cgroup-parent a-b.slice --memory 64m small sleep 1000"
        ))
        .succeeds();
        let unit = self::unit(host, "box");
        assert!(unit.group().starts_with("/a.slice/a-b.slice/libpod-"), "{}", unit.group());
        whatever_systemd_does(host, "a-b.slice", SIBLING, |when| {
            unit.has(
                when,
                &[("Slice", "a-b.slice"), ("MemoryMax", "67108864"), ("memory.max", "67108864")],
            );
        });
    });
}

/// The machine's own files with a layer above are those of the container.
#[test]
fn a_systemd_in_a_container() {
    with_podman(|host| {
        host.sh("mkdir -p /var/tmp/files && mount --bind / /var/tmp/files").succeeds();
        host.sh(&format!(
            "{RUN} --detach --name inner --systemd always --memory 512m --pids-limit 500 \
             --rootfs /var/tmp/files:O /sbin/init --unit=basic.target"
        ))
        .succeeds();
        host.becomes("podman exec inner systemctl is-active basic.target", "active");
        let unit = unit_above(host, "inner");
        whatever_systemd_does(host, "machine.slice", SIBLING, |when| {
            unit.has(
                when,
                &[("MemoryMax", "536870912"), ("memory.max", "536870912"), ("pids.max", "500")],
            );
        });
        // Its own limits, below.
        let run =
            "podman exec inner systemd-run --quiet --unit sleeper -p MemoryMax=50M sleep 1000";
        host.sh(run).succeeds();
        host.sh("podman exec inner cat /sys/fs/cgroup/system.slice/sleeper.service/memory.max")
            .prints("52428800");
        host.sh("podman stop --time 30 inner").succeeds();
        host.sh("podman inspect --format '{{.State.ExitCode}}' inner").prints("0");
        host.sh("podman rm inner && umount /var/tmp/files").succeeds();
    });
}

/// The unit of a container whose first process makes groups of its own.
#[track_caller]
fn unit_above<'host>(host: &'host Host<'_>, container: &str) -> Unit<'host> {
    let id = host.ask(&format!("podman inspect --format '{{{{.Id}}}}' {container}"));
    host.unit(&format!("libpod-{}.scope", id.trim()))
}

/// Podman asks for no unit there, and the runtime makes its group below that of the service.
#[test]
fn a_service_that_is_a_container() {
    with_podman(|host| {
        let container = "[Container]\nImage=localhost/small\nExec=sleep 1000\nNetwork=none\n\
                         PodmanArgs=--memory 64m\n[Service]\nRestart=always\nMemoryMax=128M\n";
        host.write("/etc/containers/systemd/box.container", container);
        host.sh("systemctl daemon-reload && systemctl start box.service").succeeds();
        host.sh("systemctl is-active box.service").prints("active");
        let pid = "podman inspect --format '{{.State.Pid}}' systemd-box";
        let group = format!("sed -n s/^0:://p /proc/$({pid})/cgroup");
        host.sh(&group).mentions("/system.slice/box.service/");
        whatever_systemd_does(host, "system.slice", SIBLING, |when| {
            host.unit("box.service")
                .has(when, &[("MemoryMax", "134217728"), ("memory.max", "134217728")]);
            host.sh(&format!("cat /sys/fs/cgroup$({group})/memory.max")).prints("67108864");
        });
        let first = host.ask(pid);
        host.sh(&format!("kill -KILL {first}")).succeeds();
        host.eventually("the service starts it anew", || {
            let output = host.sh(pid).output;
            output.code == 0 && !["", "0", first.trim()].contains(&output.stdout.trim())
        });
        host.sh("systemctl stop box.service").succeeds();
        host.sh("podman ps --all --quiet").prints("");
        host.sh("rm /etc/containers/systemd/box.container && systemctl daemon-reload").succeeds();
    });
}

/// With the controllers that Debian's systemd hands down to users.
#[test]
fn an_ordinary_user() {
    with_podman(|root| {
        let host = &root.as_user();
        let import =
            "podman image exists localhost/small || podman import --quiet /var/tmp/image.tar small";
        host.sh(import).succeeds();
        host.sh("podman info --format '{{.Host.CgroupManager}} {{.Host.CgroupsVersion}}'")
            .prints("systemd v2");
        host.sh(&format!("{RUN} --detach --name box {LIMITS} --cpu-shares 512 small sleep 1000"))
            .succeeds();
        let unit = unit(host, "box");
        let weight = cpu_weight("59", "20");
        let disturb = |claim: &dyn Fn(&str)| {
            claim("at once");
            for line in [
                "systemctl --user daemon-reload",
                "systemctl --user set-property --runtime user.slice MemoryHigh=1G",
                "systemctl --user set-property --runtime callers.service MemoryMax=1G",
            ] {
                host.sh(line).succeeds();
                claim(&format!("after {line}"));
            }
            root.sh("systemctl daemon-reload").succeeds();
            claim("after a reload of root's");
        };
        disturb(&|when| {
            unit.has(when, &RUN_WITH);
            unit.has(
                when,
                &[("Slice", "user.slice"), ("CPUWeight", weight), ("cpu.weight", weight)],
            );
        });
        host.sh(UPDATE).succeeds();
        disturb(&|when| unit.has(when, &UPDATED_TO));
        host.sh("podman stats --no-stream --format '{{.Name}} {{.MemUsage}} {{.PIDs}}' box")
            .mentions("box ")
            .mentions("/ 134.2MB 1");
        let eat = "small sh -c 'x=x; while :; do x=$x$x; done'";
        host.sh(&format!("{RUN} --name eater --memory 16m --memory-swap 16m {eat}")).exits(137);
        host.becomes("podman inspect --format '{{.State.OOMKilled}}' eater", "true");
        let many = "small sh -c 'for i in $(seq 20); do sleep 1 & done; wait'";
        host.sh(&format!("{RUN} --rm --pids-limit 10 {many}")).fails(2, "fork");
        // One that the user is not given.
        if !host.bed.is_peer("runc 1.1 names the file that is not there, and so it is 127") {
            host.sh(&format!("{RUN} --rm --cpuset-cpus 0 small true")).fails(126, "cpuset");
        }
        clear(host);
    });
}
