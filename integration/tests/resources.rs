//! `linux.resources` and `linux.cgroupsPath`: what is written, and that it holds.

use std::fs;
use std::path::Path;

use integration::{Bed, Bundle, View, as_root, in_views, with_controllers};
use serde_json::{Value, json};

/// What the files of a running container's cgroup say.
#[track_caller]
fn assert_files(bed: &Bed, bundle: &Bundle, files: &[(&str, &str)]) {
    let container = bed.start(&bundle.clone().sh("sleep 100"));
    for (file, expected) in files {
        let path = bed.cgroup_file(bundle, file);
        let found = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let found = found.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(&found, expected, "{file}");
    }
    container.delete();
    bed.assert_nothing_left();
}

#[test]
fn memory_limits_are_written() {
    with_controllers(&["memory"], |bed| {
        let bundle = bed.bundle().with(
            "/linux/resources/memory",
            json!({"limit": 67108864, "reservation": 33554432, "swap": 134217728}),
        );
        // The configuration counts memory and swap together, and version 2 swap alone.
        let files = bed.by_version(
            [
                ("memory.limit_in_bytes", "67108864"),
                ("memory.soft_limit_in_bytes", "33554432"),
                ("memory.memsw.limit_in_bytes", "134217728"),
            ],
            [
                ("memory.max", "67108864"),
                ("memory.low", "33554432"),
                ("memory.swap.max", "67108864"),
            ],
        );
        assert_files(bed, &bundle, &files);
        let unlimited =
            bed.bundle().with("/linux/resources/memory", json!({"limit": -1, "swap": -1}));
        let none = "9223372036854771712";
        let files = bed.by_version(
            [("memory.limit_in_bytes", none), ("memory.memsw.limit_in_bytes", none)],
            [("memory.max", "max"), ("memory.swap.max", "max")],
        );
        assert_files(bed, &unlimited, &files);
        if bed.view != View::V2 {
            let of_version_1 = json!({"swappiness": 7, "disableOOMKiller": true});
            let bundle = bed.bundle().with("/linux/resources/memory", of_version_1);
            assert_files(bed, &bundle, &[("memory.swappiness", "7")]);
        }
    });
}

#[test]
fn a_program_that_takes_more_memory_is_killed() {
    with_controllers(&["memory"], |bed| {
        let bundle = bed
            .bundle()
            .with("/linux/resources/memory", json!({"limit": 20971520, "swap": 20971520}))
            .sh("tail -c 100m /dev/zero > /dev/null; echo $?");
        assert_eq!(bed.run(&bundle).success(), "137");
    });
}

#[test]
fn a_memory_limit_too_small_to_start_is_told_as_such() {
    as_root(|bed| {
        if bed.is_peer("they tell of a broken channel") {
            return;
        }
        for limit in [4096, 40960] {
            let bundle = bed
                .bundle()
                .with("/linux/resources/memory", json!({"limit": limit, "swap": limit}));
            let output = bed.run(&bundle);
            // The larger one may be enough for init, or even for the program.
            let started = output.code == 0 || (output.code == 137 && output.stderr.is_empty());
            if started && limit > 4096 {
                continue;
            }
            assert!(output.stderr.contains("linux.resources.memory.limit"), "{output}");
        }
        bed.assert_nothing_left();
    });
}

#[test]
fn cpu_limits_are_written() {
    with_controllers(&["cpu"], |bed| {
        let bundle = bed
            .bundle()
            .with("/linux/resources/cpu", json!({"shares": 77, "quota": 50000, "period": 200000}));
        let files = bed.by_version(
            &[("cpu.shares", "77"), ("cpu.cfs_quota_us", "50000"), ("cpu.cfs_period_us", "200000")]
                [..],
            &[("cpu.weight", "14"), ("cpu.max", "50000 200000")],
        );
        assert_files(bed, &bundle, files);
        if bed.is_peer("runc 1.1 and crun 1.8 are older than these fields") {
            return;
        }
        let bundle = bed.bundle().with(
            "/linux/resources/cpu",
            json!({"quota": 50000, "period": 100000, "burst": 20000}),
        );
        let burst = bed.by_version("cpu.cfs_burst_us", "cpu.max.burst");
        assert_files(bed, &bundle, &[(burst, "20000")]);
        let bundle = bed.bundle().with("/linux/resources/cpu", json!({"idle": 1}));
        assert_files(bed, &bundle, &[("cpu.idle", "1")]);
    });
}

#[test]
fn a_cpuset_of_the_group_above_stays_and_is_taken() {
    with_controllers(&["cpuset"], |bed| {
        if bed.view == View::V2 {
            return bed
                .skip("a group of version 2 has no processors of its own unless it is given them");
        }
        let bundle = bed.bundle().with("/linux/cgroupsPath", format!("/{}", bed.name));
        let above = bed.cgroup_file(&bundle, "cpuset.cpus");
        fs::create_dir(above.parent().unwrap()).unwrap();
        fs::write(&above, "1").unwrap();
        fs::write(above.with_file_name("cpuset.mems"), "0").unwrap();
        let bundle = bundle.with("/linux/cgroupsPath", format!("/{}/inner", bed.name));
        let script = "grep Cpus_allowed_list /proc/self/status | cut -f2";
        assert_eq!(bed.run(&bundle.sh(script)).success(), "1");
        assert_eq!(fs::read_to_string(&above).unwrap().trim(), "1");
        fs::remove_dir(above.parent().unwrap()).unwrap();
    });
}

#[test]
fn cpusets_are_written_and_filled_otherwise() {
    with_controllers(&["cpuset"], |bed| {
        let bundle = bed.bundle().with("/linux/resources/cpu", json!({"cpus": "1", "mems": "0"}));
        assert_files(bed, &bundle, &[("cpuset.cpus", "1"), ("cpuset.mems", "0")]);
        let inside = |bundle: Bundle| {
            let script = "grep Cpus_allowed_list /proc/self/status | cut -f2";
            bed.run(&bundle.sh(script)).success().to_owned()
        };
        assert_eq!(inside(bundle), "1");
        let above = bed.by_version("cpuset/cpuset.cpus", "cpuset.cpus.effective");
        let all = fs::read_to_string(Path::new("/sys/fs/cgroup").join(above)).unwrap();
        assert_eq!(inside(bed.bundle()), all.trim());
        // A group of version 2 may be without, and has what the one above it has.
        if bed.view != View::V2 {
            assert_files(bed, &bed.bundle(), &[("cpuset.cpus", all.trim())]);
        }
    });
}

#[test]
fn the_number_of_processes_is_limited() {
    with_controllers(&["pids"], |bed| {
        let bundle = bed.bundle().with("/linux/resources/pids/limit", 9);
        assert_files(bed, &bundle, &[("pids.max", "9")]);
        let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 5 & done; echo never";
        let output = bed.run(&bundle.sh(script));
        assert!(output.code != 0 && output.stderr.contains("can't fork"), "{output}");
        if bed.is_peer("crun 1.8 writes -1 as it is") {
            return;
        }
        let bundle = bed.bundle().with("/linux/resources/pids/limit", -1);
        assert_files(bed, &bundle, &[("pids.max", "max")]);
        // Engines write this for no limit.
        if bed.is_peer("runc 1.1 takes an empty object for a limit of 0, which is none") {
            return;
        }
        let bundle = bed.bundle().with("/linux/resources/pids", json!({}));
        assert_files(bed, &bundle, &[("pids.max", "max")]);
        // Nothing could ever be started in it.
        let bundle = bed.bundle().with("/linux/resources/pids/limit", 0);
        assert_files(bed, &bundle, &[("pids.max", "1")]);
    });
}

#[test]
fn block_devices_are_throttled() {
    with_controllers(&["io"], |bed| {
        let Some((major, minor)) = disk() else { return bed.skip("no block device was found") };
        let device = |rate: u64| json!([{"major": major, "minor": minor, "rate": rate}]);
        let bundle = bed.bundle().with(
            "/linux/resources/blockIO",
            json!({
                "throttleReadBpsDevice": device(1 << 20),
                "throttleWriteBpsDevice": device(2 << 20),
                "throttleReadIOPSDevice": device(300),
                "throttleWriteIOPSDevice": device(400),
            }),
        );
        let line = |rate: u64| format!("{major}:{minor} {rate}");
        if bed.view == View::V2 {
            let all = format!("{major}:{minor} rbps=1048576 wbps=2097152 riops=300 wiops=400");
            assert_files(bed, &bundle, &[("io.max", &all)]);
        } else {
            assert_files(
                bed,
                &bundle,
                &[
                    ("blkio.throttle.read_bps_device", &line(1 << 20)),
                    ("blkio.throttle.write_bps_device", &line(2 << 20)),
                    ("blkio.throttle.read_iops_device", &line(300)),
                    ("blkio.throttle.write_iops_device", &line(400)),
                ],
            );
        }
        if bed.is_peer("crun 1.8 knows no weight of bfq") {
            return;
        }
        let weight = bed.bundle().with("/linux/resources/blockIO/weight", 400);
        assert_files(bed, &weight, &[bed.by_version(("blkio.bfq.weight", "400"), io_weight())]);
    });
}

/// Where version 2 has a weight of 400 of the specification's 10 to 1000: bfq, which may be
/// a module, takes it as it is.
fn io_weight() -> (&'static str, &'static str) {
    if Path::new("/sys/module/bfq").exists() {
        ("io.bfq.weight", "default 400")
    } else {
        ("io.weight", "default 3940")
    }
}

/// The numbers of a disk of this machine.
fn disk() -> Option<(u64, u64)> {
    let entries = fs::read_dir("/sys/block").ok()?.flatten();
    let disk = entries.map(|entry| entry.path()).find(|path| path.join("device").exists())?;
    let text = fs::read_to_string(disk.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[test]
fn huge_pages_are_limited_where_their_controller_is() {
    in_views(|bed| {
        if bed.view == View::V1 || !bed.has_controller("hugetlb") {
            return bed.skip("no group of version 2 has the hugetlb controller");
        }
        if bed.is_peer("they use version 1 alone in a hybrid hierarchy") {
            return;
        }
        let bundle = bed.bundle().with(
            "/linux/resources/hugepageLimits",
            json!([{"pageSize": "2MB", "limit": 4194304}]),
        );
        assert_files(bed, &bundle, &[("hugetlb.2MB.max", "4194304")]);
        let bundle =
            bed.bundle().with("/linux/resources/unified", json!({"hugetlb.2MB.max": "8388608"}));
        assert_files(bed, &bundle, &[("hugetlb.2MB.max", "8388608")]);
    });
}

#[test]
fn files_of_version_2_are_passed_through() {
    in_views(|bed| {
        if bed.view == View::V1 {
            return bed.skip("version 2 is not there");
        }
        if bed.is_peer("they use version 1 alone in a hybrid hierarchy") {
            return;
        }
        let bundle =
            bed.bundle().with("/linux/resources/unified", json!({"cgroup.max.depth": "3"}));
        assert_files(bed, &bundle, &[("cgroup.max.depth", "3")]);
    });
}

#[test]
fn a_limit_that_cannot_be_kept_is_refused_by_name() {
    in_views(|bed| {
        if bed.is_peer("they pass some of it over") {
            return;
        }
        let refused = |pointer: &str, value: Value, field: &str| {
            let bundle = bed.bundle().with(pointer, value);
            let output = bed.run(&bundle);
            assert!(output.failure(1).contains(field), "{field} is not in {output}");
            bed.assert_nothing_left();
        };
        match bed.view {
            View::V2 => {
                for (controller, property, limit) in
                    [("memory", "limit", 67108864), ("cpu", "shares", 77), ("pids", "limit", 9)]
                {
                    if !bed.has_controller(controller) {
                        let pointer = format!("/linux/resources/{controller}/{property}");
                        let field = format!("linux.resources.{controller}.{property}");
                        refused(&pointer, json!(limit), &field);
                    }
                }
                if bed.has_controller("memory") {
                    let swappiness = "linux.resources.memory.swappiness";
                    refused("/linux/resources/memory/swappiness", json!(7), swappiness);
                    let killer = "linux.resources.memory.disableOOMKiller";
                    refused("/linux/resources/memory/disableOOMKiller", json!(true), killer);
                }
                refused(
                    "/linux/resources/unified",
                    json!({"no.such.file": "1"}),
                    "linux.resources.unified",
                );
                refused(
                    "/linux/resources/unified",
                    json!({"../cgroup.procs": "1"}),
                    "linux.resources.unified",
                );
            }
            View::V1 => refused(
                "/linux/resources/unified",
                json!({"cgroup.max.depth": "3"}),
                "linux.resources.unified",
            ),
            View::Hybrid => {}
        }
    });
}

#[test]
fn a_wrong_value_names_field_and_value() {
    with_controllers(&["cpu", "cpuset", "io", "memory"], |bed| {
        if bed.is_peer("they name neither") {
            return;
        }
        for (pointer, value, parts) in [
            ("/linux/resources/cpu/cpus", json!("9999"), ["linux.resources.cpu.cpus", "9999"]),
            ("/linux/resources/cpu/mems", json!("77"), ["linux.resources.cpu.mems", "77"]),
            ("/linux/resources/cpu/period", json!(5), ["linux.resources.cpu.period", "5"]),
            (
                "/linux/resources/memory/swappiness",
                json!(555),
                ["linux.resources.memory.swappiness", "555"],
            ),
            (
                "/linux/resources/blockIO/throttleReadBpsDevice",
                json!([{"major": 999, "minor": 999, "rate": 1}]),
                ["linux.resources.blockIO.throttleReadBpsDevice", "999:999"],
            ),
            (
                "/linux/resources/memory",
                json!({"limit": 67108864, "swap": 33554432}),
                ["linux.resources.memory.swap", "33554432"],
            ),
        ] {
            let output = bed.run(&bed.bundle().with(pointer, value));
            for part in parts {
                assert!(output.failure(1).contains(part), "{part:?} is not in {output}");
            }
            bed.assert_nothing_left();
        }
    });
}

#[test]
fn of_a_deep_cgroup_the_last_directory_is_removed_and_the_others_stay() {
    in_views(|bed| {
        let above = format!("/{}/shared", bed.name);
        let path = format!("{above}/own");
        let bundle = bed.bundle().with("/linux/cgroupsPath", path).sh("sleep 100");
        let container = bed.start(&bundle);
        let file = if bed.view == View::V2 { "cgroup.procs" } else { "pids.max" };
        let own = bed.cgroup_file(&bundle, file).with_file_name("");
        assert!(own.exists());
        container.delete();
        assert!(!own.exists());
        // Another container may just be about to be made there.
        let above = own.parent().unwrap();
        assert!(above.exists());
        let mount = above.ancestors().nth(2).unwrap();
        let mount = if bed.view == View::V2 { mount } else { mount.parent().unwrap() };
        for tree in fs::read_dir(mount).unwrap().flatten() {
            let _ = fs::remove_dir(tree.path().join(&bed.name).join("shared"));
        }
        let _ = fs::remove_dir(above);
    });
}

#[test]
fn groups_that_the_container_made_are_removed_too() {
    in_views(|bed| {
        // A container with a writable cgroup nests: nothing below may be left.
        let bundle = bed
            .bundle()
            .with_namespace("cgroup", None)
            .capable(&["CAP_SYS_ADMIN"])
            .mount("/sys/fs/cgroup", "cgroup", "cgroup", &[])
            .sh("for d in $(find /sys/fs/cgroup -maxdepth 2 -name cgroup.procs); do \
                   d=${d%/cgroup.procs}; mkdir -p $d/a/b/c && echo made; done; sleep 100");
        let container = bed.start(&bundle);
        container.prints("made");
        container.delete();
        bed.assert_nothing_left();
    });
}

#[test]
fn a_cgroup_that_is_in_use_by_another_container_is_not_taken_away() {
    as_root(|bed| {
        if bed.is_peer("they differ") {
            return;
        }
        // Engines may place containers below one another, or the same place twice.
        let outer = bed.bundle().sh("sleep 100");
        let path = outer.config["linux"]["cgroupsPath"].as_str().unwrap().to_owned();
        let inner =
            bed.bundle().with("/linux/cgroupsPath", format!("{path}/inner")).sh("sleep 100");
        let first = bed.start(&outer);
        let second = bed.start(&inner);
        second.delete();
        assert_eq!(first.status(), "running");
        assert!(bed.cgroup_file(&outer, "pids.max").exists());
        first.delete();
        bed.assert_nothing_left();
    });
}

#[test]
fn every_process_is_in_every_hierarchy_of_the_group() {
    in_views(|bed| {
        let bundle = bed.bundle().sh("sleep 100");
        let container = bed.start(&bundle);
        let init = fs::read_to_string(format!("/proc/{}/cgroup", container.pid())).unwrap();
        // It has no cgroup namespace, so that its own groups are seen by their whole paths.
        let added = container.sh("cat /proc/self/cgroup");
        let groups = format!("{init}{}", added.success());
        let path = bundle.config["linux"]["cgroupsPath"].as_str().unwrap();
        for line in groups.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, found) = (fields.next().unwrap(), fields.next().unwrap());
            let visible = match bed.view {
                View::Hybrid => true,
                View::V1 => !controllers.is_empty(),
                View::V2 => controllers.is_empty(),
            };
            if visible && !bed.is_peer("they do not join all of a hybrid hierarchy") {
                assert_eq!(found, path, "{groups}");
            }
        }
    });
}

#[test]
fn a_paused_container_is_killed_and_deleted() {
    in_views(|bed| {
        let bundle = bed.bundle().sh("sleep 100");
        let container = bed.start(&bundle);
        let group = match bed.view {
            View::V2 => bed.cgroup_file(&bundle, "cgroup.freeze"),
            _ => bed.cgroup_file(&bundle, "freezer.state"),
        };
        let frozen = if bed.view == View::V2 { "1" } else { "FROZEN" };
        fs::write(&group, frozen).unwrap();
        integration::eventually("the status", || container.status() == "paused");
        container.delete();
        bed.assert_nothing_left();
    });
}

#[test]
fn a_path_of_a_cgroup_never_climbs() {
    as_root(|bed| {
        if bed.is_peer("they clean it and go on") {
            return;
        }
        for path in ["/../x", "/a/../../x", "..", "/"] {
            let bundle = bed.bundle().with("/linux/cgroupsPath", path);
            let output = bed.run(&bundle);
            assert!(output.failure(1).contains("linux.cgroupsPath"), "{path}: {output}");
            assert!(!Path::new("/sys/fs/cgroup/x").exists());
        }
        bed.assert_nothing_left();
    });
}
