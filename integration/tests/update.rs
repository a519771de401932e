//! `update`: what it changes in the cgroup of a running container, and what it
//! leaves alone.

use std::fs;
use std::path::Path;

use integration::{Bed, Bundle, Container, Output, View, as_root, in_views, with_controllers};
use serde_json::{Value, json};

/// Runs the test where the controllers of `limited` are.
fn with_limits(test: impl Fn(&Bed) + Sync) {
    with_controllers(&["cpu", "cpuset", "memory", "pids"], test);
}

/// A bundle with limits of its own, whose program waits.
fn limited(bed: &Bed) -> Bundle {
    bed.bundle()
        .with("/linux/resources/memory", json!({"limit": 67108864, "swap": 134217728}))
        .with("/linux/resources/cpu", json!({"shares": 77, "quota": 50000, "period": 100000}))
        .with("/linux/resources/pids/limit", 50)
        .sh("sleep 100")
}

/// Calls `update` with these flags.
fn update(bed: &Bed, container: &Container<'_>, flags: &[&str]) -> Output {
    bed.call().arg("update").args(flags).arg(&container.id).output()
}

fn update_from(bed: &Bed, container: &Container<'_>, resources: &str) -> Output {
    let path = bed.write("resources.json", resources);
    update(bed, container, &["--resources", path.to_str().unwrap()])
}

/// What a file of the bundle's cgroup says, its words with one space between them.
#[track_caller]
fn file(bed: &Bed, bundle: &Bundle, name: &str) -> String {
    let path = bed.cgroup_file(bundle, name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn assert_file(bed: &Bed, bundle: &Bundle, name: &str, expected: &str) {
    assert_eq!(file(bed, bundle, name), expected, "{name}");
}

#[track_caller]
fn assert_files(bed: &Bed, bundle: &Bundle, files: &[(&str, &str)]) {
    files.iter().for_each(|(name, expected)| assert_file(bed, bundle, name, expected));
}

/// A limit of memory, and of memory and swap together. Version 2 has one of swap alone.
#[track_caller]
fn assert_memory(bed: &Bed, bundle: &Bundle, memory: u64, swap: u64) {
    let [memory, swap, alone] = [memory, swap, swap - memory].map(|bytes| bytes.to_string());
    let files = bed.by_version(
        [("memory.limit_in_bytes", &*memory), ("memory.memsw.limit_in_bytes", &*swap)],
        [("memory.max", &*memory), ("memory.swap.max", &*alone)],
    );
    assert_files(bed, bundle, &files);
}

/// Shares of processors, which are a weight in version 2.
#[track_caller]
fn assert_shares(bed: &Bed, bundle: &Bundle, shares: &str, weight: &str) {
    let (name, expected) = bed.by_version(("cpu.shares", shares), ("cpu.weight", weight));
    assert_file(bed, bundle, name, expected);
}

/// Time of processors in a period, both in microseconds.
#[track_caller]
fn assert_quota(bed: &Bed, bundle: &Bundle, quota: &str, period: &str) {
    let both = format!("{quota} {period}");
    let files = bed.by_version(
        vec![("cpu.cfs_quota_us", quota), ("cpu.cfs_period_us", period)],
        vec![("cpu.max", &*both)],
    );
    assert_files(bed, bundle, &files);
}

/// The rules that say what a container may do with /dev/kmsg.
fn kmsg(access: &str) -> Value {
    json!([{"allow": false, "access": "rwm"},
           {"allow": true, "type": "c", "major": 1, "minor": 11, "access": access}])
}

/// A container with limits that may read /dev/kmsg, and has a node of it.
fn reading_kmsg(bed: &Bed) -> Container<'_> {
    let bundle = limited(bed)
        .with("/linux/resources/devices", kmsg("r"))
        .capable(&["CAP_MKNOD", "CAP_SYSLOG"])
        .sh("mknod /tmp/kmsg c 1 11 && echo made; sleep 100");
    let container = bed.start(&bundle);
    container.prints("made");
    container
}

/// What a container may do with /dev/kmsg and with what every container has.
#[track_caller]
fn opened(container: &Container<'_>) -> String {
    let script = "(: < /tmp/kmsg) 2>/dev/null && echo read; (: > /tmp/kmsg) 2>/dev/null && echo written; \
                  (: > /dev/null) && echo null";
    container.sh(script).success().replace('\n', " ")
}

#[test]
fn each_flag_changes_its_file() {
    with_limits(|bed| {
        if bed.is_peer("crun 1.8 takes numbers without a suffix alone") {
            return;
        }
        let bundle = limited(bed);
        let container = bed.start(&bundle);
        let mut rows = vec![
            ("--memory", "50331648", ["memory.limit_in_bytes", "memory.max"], ["50331648"; 2]),
            ("--memory", "48m", ["memory.limit_in_bytes", "memory.max"], ["50331648"; 2]),
            (
                "--memory-reservation",
                "33554432",
                ["memory.soft_limit_in_bytes", "memory.low"],
                ["33554432"; 2],
            ),
            (
                "--memory-swap",
                "100663296",
                ["memory.memsw.limit_in_bytes", "memory.swap.max"],
                ["100663296", "50331648"],
            ),
            ("--cpu-share", "512", ["cpu.shares", "cpu.weight"], ["512", "59"]),
            ("--cpu-quota", "60000", ["cpu.cfs_quota_us", "cpu.max"], ["60000", "60000 100000"]),
            (
                "--cpu-period",
                "120000",
                ["cpu.cfs_period_us", "cpu.max"],
                ["120000", "60000 120000"],
            ),
            ("--cpuset-cpus", "0", ["cpuset.cpus"; 2], ["0"; 2]),
            ("--cpuset-mems", "0", ["cpuset.mems"; 2], ["0"; 2]),
            ("--pids-limit", "33", ["pids.max"; 2], ["33"; 2]),
            ("--pids-limit", "-1", ["pids.max"; 2], ["max"; 2]),
        ];
        if bed.has_controller("io") && !bed.is_peer("runc 1.1 writes another file of a weight") {
            let [name, expected] = io_weight();
            rows.push(("--blkio-weight", "300", ["blkio.bfq.weight", name], ["300", expected]));
        }
        if !bed.is_peer("runc 1.1 is older than these flags") {
            rows.extend([
                ("--cpu-burst", "10000", ["cpu.cfs_burst_us", "cpu.max.burst"], ["10000"; 2]),
                ("--cpu-idle", "1", ["cpu.idle"; 2], ["1"; 2]),
                // An idle group takes no shares, so what it has of them is not written again.
                ("--pids-limit", "34", ["pids.max"; 2], ["34"; 2]),
            ]);
        }
        for (flag, value, [one, two], [of_one, of_two]) in rows {
            update(bed, &container, &[flag, value]).success();
            let (name, expected) = bed.by_version((one, of_one), (two, of_two));
            assert_eq!(file(bed, &bundle, name), expected, "{flag} {value}");
        }
        // What none of them named is as it was.
        assert_eq!(container.status(), "running");
    });
}

/// Where version 2 has a weight of 300 of the specification's 10 to 1000: bfq, which may be
/// a module, takes it as it is.
fn io_weight() -> [&'static str; 2] {
    if Path::new("/sys/module/bfq").exists() {
        ["io.bfq.weight", "default 300"]
    } else {
        ["io.weight", "default 2930"]
    }
}

#[test]
fn real_time_is_shared_out_from_what_the_group_above_has() {
    with_limits(|bed| {
        if bed.view == View::V2 {
            return bed.skip("version 2 has no limits of real-time tasks");
        }
        let bundle = bed.bundle().sh("sleep 100");
        let container = bed.start(&bundle);
        let above = bed.cgroup_file(&bundle, "cpu.rt_runtime_us");
        if !above.exists() {
            return bed.skip("this kernel has no groups of real-time tasks");
        }
        // A group gets no more than the one above it has, and a new one has none.
        let above = above.parent().unwrap().parent().unwrap().join("cpu.rt_runtime_us");
        if let Err(error) = fs::write(&above, "20000") {
            return bed.skip(&format!("{above:?}: {error}"));
        }
        update(bed, &container, &["--cpu-rt-period", "500000"]).success();
        assert_file(bed, &bundle, "cpu.rt_period_us", "500000");
        update(bed, &container, &["--cpu-rt-runtime", "5000"]).success();
        assert_file(bed, &bundle, "cpu.rt_runtime_us", "5000");
        assert_file(bed, &bundle, "cpu.rt_period_us", "500000");
    });
}

#[test]
fn several_flags_are_one_change() {
    with_limits(|bed| {
        let bundle = limited(bed);
        let container = bed.start(&bundle);
        let flags = [
            "--memory",
            "50331648",
            "--memory-swap",
            "60817408",
            "--cpu-share",
            "99",
            "--cpu-period",
            "200000",
            "--cpu-quota",
            "20000",
            "--pids-limit",
            "7",
        ];
        update(bed, &container, &flags).success();
        assert_memory(bed, &bundle, 50331648, 60817408);
        assert_shares(bed, &bundle, "99", "17");
        assert_quota(bed, &bundle, "20000", "200000");
        assert_file(bed, &bundle, "pids.max", "7");
    });
}

#[test]
fn options_may_follow_the_id() {
    with_limits(|bed| {
        if bed.is_peer("they take options before the ID alone") {
            return;
        }
        let bundle = limited(bed);
        let container = bed.start(&bundle);
        bed.runtime(["update", &container.id, "--pids-limit=21", "--cpu-share", "33"]).success();
        assert_file(bed, &bundle, "pids.max", "21");
        assert_shares(bed, &bundle, "33", "8");
    });
}

#[test]
fn memory_is_raised_and_cut_with_its_swap() {
    with_limits(|bed| {
        let bundle = limited(bed);
        let container = bed.start(&bundle);
        // The kernel never lets memory be above memory and swap, so the order of the
        // two writes differs between the two ways.
        for (memory, swap) in [(268435456, 536870912), (16777216, 33554432), (134217728, 134217728)]
        {
            let flags = ["--memory", &memory.to_string(), "--memory-swap", &swap.to_string()];
            update(bed, &container, &flags).success();
            assert_memory(bed, &bundle, memory, swap);
        }
        update(bed, &container, &["--memory", "-1", "--memory-swap", "-1"]).success();
        let none = "9223372036854771712";
        let files = bed.by_version(
            [("memory.limit_in_bytes", none), ("memory.memsw.limit_in_bytes", none)],
            [("memory.max", "max"), ("memory.swap.max", "max")],
        );
        assert_files(bed, &bundle, &files);
    });
}

#[test]
fn a_cut_below_what_is_in_use_is_refused_or_made_by_force() {
    with_limits(|bed| {
        // awk holds about 40 MB, which without swap cannot be taken from it.
        let bundle = bed
            .bundle()
            .sh("awk 'BEGIN { s = sprintf(\"%40000000s\", \"\"); print \"full\"; fflush(); \
                 while (1) system(\"sleep 1\") }'");
        let container = bed.start(&bundle);
        container.prints("full");
        let output = update(bed, &container, &["--memory", "4194304", "--memory-swap", "4194304"]);
        let limit = file(bed, &bundle, bed.by_version("memory.limit_in_bytes", "memory.max"));
        if output.code == 0 {
            assert_eq!(limit, "4194304");
        } else {
            assert_eq!(limit, bed.by_version("9223372036854771712", "max"), "{output}");
            assert!(output.stderr.contains("memory"), "{output}");
        }
    });
}

#[test]
fn an_object_is_read_from_a_file_or_from_stdin() {
    with_limits(|bed| {
        let bundle = limited(bed);
        let container = bed.start(&bundle);
        let resources = bed.write(
            "resources.json",
            &json!({"memory": {"limit": 100663296}, "cpu": {"shares": 11, "cpus": "0"},
                    "pids": {"limit": 17}})
            .to_string(),
        );
        update(bed, &container, &["--resources", resources.to_str().unwrap()]).success();
        let memory = bed.by_version("memory.limit_in_bytes", "memory.max");
        assert_file(bed, &bundle, memory, "100663296");
        assert_shares(bed, &bundle, "11", "4");
        assert_file(bed, &bundle, "cpuset.cpus", "0");
        assert_file(bed, &bundle, "pids.max", "17");
        let stdin = bed.write("stdin.json", &json!({"pids": {"limit": 18}}).to_string());
        let call = bed.call().args(["update", "--resources", "-"]).arg(&container.id);
        call.stdin(fs::File::open(stdin).unwrap()).output().success();
        assert_file(bed, &bundle, "pids.max", "18");
        let call = bed.call().args(["update", "-r", "-"]).arg(&container.id);
        let empty = bed.write("empty.json", "{}");
        call.stdin(fs::File::open(empty).unwrap()).output().success();
        assert_file(bed, &bundle, "pids.max", "18");
    });
}

#[test]
fn what_is_not_named_stays_as_it_was() {
    with_limits(|bed| {
        if bed.is_peer("crun 1.8 takes 0 for a limit") {
            return;
        }
        let bundle = limited(bed);
        let container = bed.start(&bundle);
        let assert_rest = || {
            assert_memory(bed, &bundle, 67108864, 134217728);
            assert_shares(bed, &bundle, "77", "14");
            assert_quota(bed, &bundle, "50000", "100000");
        };
        update(bed, &container, &["--pids-limit", "20"]).success();
        assert_rest();
        // Engines send every property, with null and 0 for what is to stay.
        let unset = json!({"memory": {"limit": 0, "swap": 0, "reservation": 0}, "pids": {"limit": 21},
            "cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": "", "mems": ""},
            "blockIO": {"weight": 0}, "devices": null});
        let path = bed.write("resources.json", &unset.to_string());
        update(bed, &container, &["--resources", path.to_str().unwrap()]).success();
        assert_rest();
        assert_file(bed, &bundle, "pids.max", "21");
        // Nor does a second change take the first one back.
        update(bed, &container, &["--cpu-share", "55"]).success();
        assert_file(bed, &bundle, "pids.max", "21");
        // A period alone is checked against the quota that there is.
        update(bed, &container, &["--cpu-period", "200000"]).success();
        assert_quota(bed, &bundle, "50000", "200000");
    });
}

#[test]
fn rules_for_devices_are_left_alone() {
    with_limits(|bed| {
        if bed.is_peer("crun 1.8 takes them for all rules") {
            return;
        }
        let container = reading_kmsg(bed);
        assert_eq!(opened(&container), "read null");
        // Docker and CRI send the rule that denies everything along.
        let sent = json!({"devices": [{"allow": false, "access": "rwm"}], "pids": {"limit": 9}});
        update_from(bed, &container, &sent.to_string()).success();
        assert_eq!(opened(&container), "read null");
        update(bed, &container, &["--memory", "50331648"]).success();
        assert_eq!(opened(&container), "read null");
    });
}

#[test]
fn rules_for_devices_take_the_place_of_those_before() {
    with_limits(|bed| {
        if bed.is_peer("their update passes over device rules") {
            return;
        }
        let container = reading_kmsg(bed);
        assert_eq!(opened(&container), "read null");
        let sent = json!({"devices": kmsg("w")}).to_string();
        update_from(bed, &container, &sent).success();
        // What every container may use is not taken away.
        assert_eq!(opened(&container), "written null");
        let wrong = json!({"devices": [{"allow": true, "type": "q"}], "pids": {"limit": 8}});
        let output = update_from(bed, &container, &wrong.to_string());
        assert!(output.failure(1).contains("devices[0].type"), "{output}");
        assert_eq!(opened(&container), "written null");
    });
}

#[test]
fn a_created_and_a_paused_container_can_be_changed() {
    with_limits(|bed| {
        if bed.is_peer("crun 1.8 changes a stopped container too") {
            return;
        }
        let bundle = limited(bed);
        let container = bed.create(&bundle);
        update(bed, &container, &["--pids-limit", "30"]).success();
        assert_file(bed, &bundle, "pids.max", "30");
        container.start();
        container.call("pause").success();
        update(bed, &container, &["--pids-limit", "31"]).success();
        assert_file(bed, &bundle, "pids.max", "31");
        assert_eq!(container.status(), "paused");
        container.call("resume").success();
        container.kill("KILL");
        container.ended();
        update(bed, &container, &["--pids-limit", "32"]).failure(1);
    });
}

#[test]
fn wrong_values_are_refused_and_change_nothing() {
    with_limits(|bed| {
        if bed.is_peer("they name other things, and write what comes before") {
            return;
        }
        let bundle = limited(bed);
        let container = bed.start(&bundle);
        for (flags, parts) in [
            (&["--memory", "much"][..], ["--memory", "much"]),
            (&["--memory", "9999999999g"], ["--memory", "9999999999g"]),
            (&["--pids-limit", "1.5"], ["--pids-limit", "1.5"]),
            (&["--cpuset-cpus", "9999"], ["linux.resources.cpu.cpus", "9999"]),
            // The kernel's word for it is glibc's, not musl's.
            (&["--cpuset-cpus", "9999"], ["cpus", "Numerical result out of range"]),
            (&["--cpuset-mems", "77"], ["linux.resources.cpu.mems", "77"]),
            // Version 2 has one line for a quota and its period.
            (&["--cpu-period", "5"], ["linux.resources.cpu.period", "5"]),
            (&["--cpu-share", "-7"], ["linux.resources", "-7"]),
            (
                &["--memory", "50331648", "--memory-swap", "33554432"],
                ["linux.resources.memory.swap", "33554432"],
            ),
            (&["--resources", "/no/such/file"], ["--resources", "/no/such/file"]),
            (&[], ["update", "no resource"]),
            (&["--bogus", "1"], ["--bogus", ""]),
        ] {
            let output = update(bed, &container, flags);
            let text = output.failure(1).to_owned() + &output.stdout;
            for part in parts {
                assert!(text.contains(part), "{part:?} is not in {output}");
            }
        }
        for text in ["", "[]", "{", "7", r#"{"memory": {"limit": "much"}}"#, r#"{"memory": 5}"#] {
            let path = bed.write("resources.json", text);
            let output = update(bed, &container, &["--resources", path.to_str().unwrap()]);
            assert!(!output.failure(1).is_empty(), "{text}: {output}");
        }
        assert_memory(bed, &bundle, 67108864, 134217728);
        assert_shares(bed, &bundle, "77", "14");
        assert_quota(bed, &bundle, "50000", "100000");
        assert_file(bed, &bundle, "pids.max", "50");
        assert_eq!(container.status(), "running");
        // And what was refused is not remembered for the next change.
        update(bed, &container, &["--pids-limit", "40"]).success();
        assert_file(bed, &bundle, "pids.max", "40");
        bed.runtime(["update", "--pids-limit", "5", "no-such-container"]).failure(1);
    });
}

#[test]
fn what_was_changed_before_a_limit_is_refused_is_put_back() {
    as_root(|bed| {
        if bed.is_peer("crun 1.8 leaves it, and runc 1.1 what was not limited before") {
            return;
        }
        let needed = ["cpu", "cpuset", "memory", "pids"];
        if let Some(name) = needed.iter().find(|name| !bed.has_controller(name)) {
            return bed.skip(&format!("no {name} controller is mounted"));
        }
        let bundle = limited(bed);
        let container = bed.start(&bundle);
        let reservation = bed.by_version("memory.soft_limit_in_bytes", "memory.low");
        let before = file(bed, &bundle, reservation);
        for flags in [
            ["--cpu-share=512", "--pids-limit=20", "--memory-reservation=8m", "--cpuset-cpus=9999"],
            ["--memory=33554432", "--memory-swap=50331648", "--cpu-quota=9000", "--cpuset-mems=77"],
        ] {
            let (_, refused) = flags[3].split_once('=').unwrap();
            assert!(update(bed, &container, &flags).failure(1).contains(refused));
            assert_memory(bed, &bundle, 67108864, 134217728);
            assert_shares(bed, &bundle, "77", "14");
            assert_quota(bed, &bundle, "50000", "100000");
            assert_file(bed, &bundle, "pids.max", "50");
            assert_eq!(file(bed, &bundle, reservation), before, "it had none");
        }
    });
}

#[test]
fn zero_and_nothing_leave_what_is_there() {
    with_limits(|bed| {
        if bed.is_peer("crun 1.8 writes 0 as it is") {
            return;
        }
        let bundle = limited(bed);
        let container = bed.start(&bundle);
        for flags in [
            &["--memory", "0"][..],
            &["--memory", "0", "--memory-swap", "0", "--memory-reservation", "0"],
            &["--cpu-share", "0", "--cpu-quota", "0", "--cpu-period", "0"],
            &["--pids-limit", "0"],
            &["--cpuset-cpus", "", "--cpuset-mems", ""],
            &["--memory", "", "--memory-swap", ""],
        ] {
            update(bed, &container, flags).success();
            assert_memory(bed, &bundle, 67108864, 134217728);
            assert_shares(bed, &bundle, "77", "14");
            assert_quota(bed, &bundle, "50000", "100000");
            assert_file(bed, &bundle, "pids.max", "50");
        }
        update(bed, &container, &["--cpuset-cpus", "", "--pids-limit", "60"]).success();
        assert_file(bed, &bundle, "pids.max", "60");
    });
}

#[test]
fn an_idle_group_can_be_woken() {
    with_limits(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 do not know it") {
            return;
        }
        let bundle = limited(bed);
        let container = bed.start(&bundle);
        update_from(bed, &container, r#"{"cpu": {"idle": 1}}"#).success();
        assert_file(bed, &bundle, "cpu.idle", "1");
        update_from(bed, &container, r#"{"cpu": {"idle": 0}}"#).success();
        assert_file(bed, &bundle, "cpu.idle", "0");
        update(bed, &container, &["--cpu-idle", "1"]).success();
        assert_file(bed, &bundle, "cpu.idle", "1");
        update(bed, &container, &["--cpu-idle", "0"]).success();
        assert_file(bed, &bundle, "cpu.idle", "0");
    });
}

#[test]
fn who_lifts_the_limit_of_memory_lifts_that_of_swap() {
    with_limits(|bed| {
        if bed.is_peer("crun 1.8 lifts the one alone") {
            return;
        }
        let bundle = limited(bed);
        let container = bed.start(&bundle);
        let files = bed.by_version(
            ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"],
            ["memory.max", "memory.swap.max"],
        );
        let none = bed.by_version("9223372036854771712", "max");
        update(bed, &container, &["--memory", "-1"]).success();
        assert_files(bed, &bundle, &files.map(|file| (file, none)));
        // And later changes begin from there.
        update(bed, &container, &["--pids-limit", "7"]).success();
        assert_files(bed, &bundle, &files.map(|file| (file, none)));
    });
}

/// `--resources` has a place for huge pages and for `unified`, no flag has.
#[test]
fn version_2_limits_huge_pages_and_passes_files_through() {
    in_views(|bed| {
        if bed.view == View::V1 || !bed.has_controller("hugetlb") {
            return bed.skip("no group of version 2 has the hugetlb controller");
        }
        if bed.is_peer("they use version 1 alone in a hybrid hierarchy") {
            return;
        }
        let bundle = bed
            .bundle()
            .with("/linux/resources/hugepageLimits", json!([{"pageSize": "2MB", "limit": 4194304}]))
            .sh("sleep 100");
        let container = bed.start(&bundle);
        let sent = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 8388608}]});
        let path = bed.write("resources.json", &sent.to_string());
        update(bed, &container, &["--resources", path.to_str().unwrap()]).success();
        assert_file(bed, &bundle, "hugetlb.2MB.max", "8388608");
        let path = bed.write("resources.json", r#"{"unified": {"cgroup.max.depth": "3"}}"#);
        update(bed, &container, &["--resources", path.to_str().unwrap()]).success();
        assert_file(bed, &bundle, "cgroup.max.depth", "3");
        // Line by line, of which the last one stays here.
        let path = bed.write("resources.json", r#"{"unified": {"cgroup.max.depth": "4\n\n5\n"}}"#);
        update(bed, &container, &["--resources", path.to_str().unwrap()]).success();
        assert_file(bed, &bundle, "cgroup.max.depth", "5");
        assert_file(bed, &bundle, "hugetlb.2MB.max", "8388608");
        if !bed.has_controller("memory") {
            let output = update(bed, &container, &["--memory", "50331648"]);
            assert!(output.failure(1).contains("linux.resources.memory.limit"), "{output}");
        }
    });
}
