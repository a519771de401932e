//! The runtime alone, as an engine would call it.

use engines::{Host, Unit, cpu_weight, on_a_host};
use integration::Bundle;
use serde_json::json;

use crate::{keeps_weights, whatever_systemd_does};

const MIB: u64 = 1 << 20;
const SLICE: &str = "test-limits.slice";
const SIBLING: &str = "sibling.service";
/// With a unit beside it in its slice.
const USUAL: &str = "test-limits.slice:box:c1";

/// Starts the container, and a unit beside it.
#[track_caller]
fn start<'host>(host: &'host Host<'_>, bundle: &Bundle) -> Unit<'host> {
    // Left by a test that has failed.
    host.sh(&format!("$RUNTIME delete --force c1; systemctl stop {SIBLING}"));
    let slice = format!("--slice {SLICE}");
    host.sh(&format!("systemd-run --quiet {slice} --unit {SIBLING} sleep infinity")).succeeds();
    let path = bundle.save().path.display().to_string();
    let line = format!("$RUNTIME --systemd-cgroup run --detach --bundle {path} c1");
    host.sh(&format!("{line} >/dev/null </dev/null")).succeeds();
    host.unit("box-c1.scope")
}

/// Ends both.
#[track_caller]
fn end(host: &Host<'_>) {
    host.sh(&format!("$RUNTIME delete --force c1 && systemctl stop {SIBLING} {SLICE}")).succeeds();
    host.becomes("systemctl show --property ActiveState --value box-c1.scope", "inactive");
}

fn bundle(host: &Host<'_>) -> Bundle {
    let bundle = host.bed.bundle().with("/linux/cgroupsPath", USUAL);
    bundle.with_namespace("cgroup", None).sh("sleep 1000")
}

#[test]
fn each_limit_is_in_the_unit_and_in_its_file_and_stays_there() {
    on_a_host(&[], |host| {
        let weights = keeps_weights(host);
        let resources = json!({
            "memory": {"limit": 64 * MIB, "reservation": 32 * MIB, "swap": 96 * MIB},
            "pids": {"limit": 50},
            "cpu": {"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0", "mems": "0"},
            "blockIO": {"weight": 500},
            "unified": {"memory.high": "60817408", "memory.min": "1048576"},
        });
        let unit = start(host, &bundle(host).with("/linux/resources", resources));
        whatever_systemd_does(host, SLICE, SIBLING, |when| {
            unit.has(
                when,
                &[
                    ("MemoryMax", "67108864"),
                    ("MemorySwapMax", "33554432"),
                    ("MemoryLow", "33554432"),
                    ("MemoryHigh", "60817408"),
                    ("MemoryMin", "1048576"),
                    ("TasksMax", "50"),
                    ("CPUWeight", cpu_weight("59", "20")),
                    ("CPUQuotaPerSecUSec", "500ms"),
                    ("CPUQuotaPeriodUSec", "100ms"),
                    ("AllowedCPUs", "0"),
                    ("AllowedMemoryNodes", "0"),
                    ("Delegate", "yes"),
                    ("memory.max", "67108864"),
                    ("memory.swap.max", "33554432"),
                    ("memory.low", "33554432"),
                    ("memory.high", "60817408"),
                    ("memory.min", "1048576"),
                    ("pids.max", "50"),
                    ("cpu.weight", cpu_weight("59", "20")),
                    ("cpu.max", "50000 100000"),
                    ("cpuset.cpus", "0"),
                    ("cpuset.mems", "0"),
                ],
            );
            if weights {
                unit.has(when, &[("IOWeight", "4950"), ("io.weight", "default 4950")]);
            }
        });
        end(host);
    });
}

#[test]
fn an_update_is_in_the_unit_and_in_the_files_and_stays_there() {
    on_a_host(&[], |host| {
        let weights = keeps_weights(host);
        let resources = json!({
            "memory": {"limit": 64 * MIB, "swap": 96 * MIB},
            "pids": {"limit": 50},
            "cpu": {"shares": 512, "quota": 50_000, "period": 100_000},
        });
        let unit = start(host, &bundle(host).with("/linux/resources", resources));
        host.sh("$RUNTIME update --memory 128M --memory-swap 192M --memory-reservation 16M \
             --pids-limit 60 --cpu-share 256 --cpu-quota 120000 --cpu-period 200000 \
             --cpuset-cpus 0 --blkio-weight 300 c1")
            .succeeds();
        whatever_systemd_does(host, SLICE, SIBLING, |when| {
            unit.has(
                when,
                &[
                    ("MemoryMax", "134217728"),
                    ("MemorySwapMax", "67108864"),
                    ("MemoryLow", "16777216"),
                    ("TasksMax", "60"),
                    ("CPUWeight", cpu_weight("35", "10")),
                    ("CPUQuotaPerSecUSec", "600ms"),
                    ("CPUQuotaPeriodUSec", "200ms"),
                    ("AllowedCPUs", "0"),
                    ("memory.max", "134217728"),
                    ("memory.swap.max", "67108864"),
                    ("memory.low", "16777216"),
                    ("pids.max", "60"),
                    ("cpu.weight", cpu_weight("35", "10")),
                    ("cpu.max", "120000 200000"),
                    ("cpuset.cpus", "0"),
                ],
            );
            if weights {
                unit.has(when, &[("IOWeight", "2930"), ("io.weight", "default 2930")]);
            }
        });
        // No limit at all.
        host.sh("$RUNTIME update --memory -1 --memory-swap -1 --pids-limit -1 --cpu-quota -1 c1")
            .succeeds();
        whatever_systemd_does(host, SLICE, SIBLING, |when| {
            unit.has(
                when,
                &[
                    ("MemoryMax", "infinity"),
                    ("MemorySwapMax", "infinity"),
                    ("TasksMax", "infinity"),
                    ("CPUQuotaPerSecUSec", "infinity"),
                    ("memory.max", "max"),
                    ("memory.swap.max", "max"),
                    ("pids.max", "max"),
                    ("memory.low", "16777216"),
                    ("cpu.weight", cpu_weight("35", "10")),
                ],
            );
        });
        end(host);
    });
}

/// systemd keeps whole percents, and writes them at its next occasion.
#[test]
fn a_quota_is_the_same_for_systemd_and_the_kernel() {
    on_a_host(&[], |host| {
        if host.bed.is_peer("runc 1.1 writes what was asked for, until systemd rounds it") {
            return;
        }
        let cpu = json!({"cpu": {"quota": 12_345, "period": 100_000}});
        let unit = start(host, &bundle(host).with("/linux/resources", cpu));
        whatever_systemd_does(host, SLICE, SIBLING, |when| {
            unit.has(when, &[("CPUQuotaPerSecUSec", "130ms"), ("cpu.max", "13000 100000")]);
        });
        end(host);
    });
}

#[test]
fn what_an_administrator_sets_holds_until_an_update() {
    on_a_host(&[], |host| {
        let resources = json!({"memory": {"limit": 64 * MIB}, "pids": {"limit": 50}});
        let unit = start(host, &bundle(host).with("/linux/resources", resources));
        host.sh("systemctl set-property --runtime box-c1.scope MemoryMax=80M TasksMax=40")
            .succeeds();
        let own = [("MemoryMax", "83886080"), ("memory.max", "83886080"), ("pids.max", "40")];
        unit.has("after set-property", &own);
        host.sh("systemctl daemon-reload").succeeds();
        unit.has("after a reload", &own);
        host.sh("$RUNTIME update --memory 96M c1").succeeds();
        host.sh("systemctl daemon-reload").succeeds();
        let updated = [("MemoryMax", "100663296"), ("memory.max", "100663296")];
        unit.has("after an update", &updated);
        // It sets all that the container is to have; runc 1.1 only what it names.
        let tasks = host.own_or("50", "40");
        unit.has("what the update does not name", &[("TasksMax", tasks), ("pids.max", tasks)]);
        end(host);
    });
}

#[test]
fn limits_limit() {
    on_a_host(&[], |host| {
        let resources = json!({
            "memory": {"limit": 32 * MIB, "swap": 32 * MIB},
            "pids": {"limit": 10},
            "devices": [
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "rw"},
            ],
        });
        let node = |path: &str, major: u32, minor: u32| json!({"path": path, "type": "c", "major": major, "minor": minor, "fileMode": 0o666});
        let nodes = json!([node("/dev/given", 1, 11), node("/dev/denied", 10, 229)]);
        let bundle = bundle(host).with("/linux/resources", resources).with("/linux/devices", nodes);
        let unit = start(host, &bundle);
        whatever_systemd_does(host, SLICE, SIBLING, |_| {
            host.sh(
                "$RUNTIME exec c1 /bin/sh -c ': > /dev/given && echo x > /dev/null && echo well'",
            )
            .prints("well");
            host.sh("$RUNTIME exec c1 /bin/sh -c ': < /dev/denied'")
                .fails(1, "Operation not permitted");
        });
        host.sh("$RUNTIME exec c1 /bin/sh -c 'x=x; while :; do x=$x$x; done'").exits(137);
        let events = unit.file("memory.events");
        assert!(!events.contains("\noom_kill 0\n"), "{events}");
        host.sh("$RUNTIME state c1 | jq --raw-output .status").prints("running");
        let update = json!({"devices": [
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        ]});
        let file = host.bed.write("update.json", &update.to_string());
        if !host.bed.is_peer("runc 1.1 and crun 1.21 keep the rules of an update from the unit") {
            host.sh(&format!("$RUNTIME update --resources {} c1", file.display())).succeeds();
            whatever_systemd_does(host, SLICE, SIBLING, |_| {
                host.sh(
                    "$RUNTIME exec c1 /bin/sh -c ': < /dev/denied' 2>&1 | grep -c 'not permitted'",
                )
                .fails(1, "0");
            });
        }
        // Last: nobody reaps those that it lets in.
        host.sh("$RUNTIME exec c1 /bin/sh -c 'for i in $(seq 20); do sleep 1 & done; wait'")
            .fails(2, "fork");
        end(host);
    });
}

/// The kernel kills the group as a whole, or one process of it, as the configuration says.
#[test]
fn who_is_out_of_memory_dies_as_the_configuration_says() {
    on_a_host(&[], |host| {
        for (group, policy, left) in [("0", "continue", "running"), ("1", "kill", "stopped")] {
            let resources = json!({
                "memory": {"limit": 32 * MIB, "swap": 32 * MIB},
                "unified": {"memory.oom.group": group},
            });
            let unit = start(host, &bundle(host).with("/linux/resources", resources));
            unit.has("at once", &[("memory.oom.group", group)]);
            if !host.bed.is_peer("runc 1.1 does not tell systemd, which takes it back") {
                host.sh("systemctl daemon-reload").succeeds();
                unit.has("after a reload", &[("OOMPolicy", policy), ("memory.oom.group", group)]);
                host.sh("$RUNTIME exec c1 /bin/sh -c 'x=x; while :; do x=$x$x; done'").exits(137);
                host.becomes("$RUNTIME state c1 | jq --raw-output .status", left);
            }
            end(host);
        }
    });
}
