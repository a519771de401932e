//! `events`: what callers read of a container's use, and how soon they hear of a
//! process that was killed for want of memory.

use std::fs;
use std::time::{Duration, Instant};

use integration::{Bed, Container, Running, View, as_root, eventually, in_views, with_controllers};
use serde_json::{Value, json};

/// Runs the test where these controllers are, by a runtime that has the verb.
fn with_events(controllers: &[&str], test: impl Fn(&Bed) + Sync) {
    with_controllers(controllers, |bed| {
        if !bed.is_peer("crun 1.8 has no events") {
            test(bed);
        }
    });
}

/// Lines of JSON, the last only if it is whole.
#[track_caller]
fn events(text: &str) -> Vec<Value> {
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    whole.lines().map(parse).collect()
}

/// The events of a type that were printed so far.
fn of_type(running: &Running, kind: &str) -> Vec<Value> {
    let mut events = events(&running.printed());
    events.retain(|event| event["type"] == kind);
    events
}

#[track_caller]
fn stats(bed: &Bed, container: &Container<'_>) -> Value {
    let output = bed.runtime(["events", "--stats", &container.id]);
    let mut events = events(&output.stdout);
    output.success();
    assert_eq!(events.len(), 1, "{output}");
    events.remove(0)
}

#[track_caller]
fn number(value: &Value, pointer: &str) -> u64 {
    let found = value.pointer(pointer).and_then(Value::as_u64);
    found.unwrap_or_else(|| panic!("no number at {pointer} in {value:#}"))
}

#[test]
fn statistics_have_the_shape_that_callers_parse() {
    in_views(|bed| {
        if bed.is_peer("crun 1.8 has no events") {
            return;
        }
        if bed.view != View::V1 && bed.is_peer("they do not count in a hybrid hierarchy") {
            return;
        }
        let container = bed.start(&bed.bundle().sh("sleep 100"));
        let event = stats(bed, &container);
        assert_eq!(event["type"], "stats");
        assert_eq!(event["id"], container.id.as_str());
        for section in ["cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt"] {
            assert!(event["data"][section].is_object(), "{section}: {event:#}");
        }
        assert!(event["data"].as_object().unwrap().contains_key("network_interfaces"));
        for pointer in ["/cpu/usage/total", "/cpu/usage/kernel", "/cpu/usage/user"] {
            number(&event["data"], pointer);
        }
        for section in ["usage", "swap", "kernel", "kernelTCP"] {
            number(&event["data"], &format!("/memory/{section}/limit"));
            number(&event["data"], &format!("/memory/{section}/failcnt"));
        }
        assert!(event["data"]["cpuset"]["mem_hardwall"].is_number(), "{event:#}");
        assert!(event["data"]["memory"]["raw"].is_object(), "{event:#}");
        assert!(event["data"]["cpu"]["throttling"].is_object(), "{event:#}");
    });
}

#[test]
fn statistics_are_what_the_container_uses() {
    with_events(&["cpu", "cpuset", "memory", "pids"], |bed| {
        let bundle = bed
            .bundle()
            .with("/linux/resources/memory", json!({"limit": 67108864, "swap": 134217728}))
            .with("/linux/resources/pids/limit", 50)
            .with("/linux/resources/cpu", json!({"cpus": "0", "quota": 20000, "period": 100000}))
            // It holds 20 MB, and then uses what it gets of a processor.
            .sh("awk 'BEGIN { s = sprintf(\"%20000000s\", \"\"); print \"full\"; fflush(); \
                 while (1) n++ }'");
        let container = bed.start(&bundle);
        container.prints("full");
        let data = |pointer: &str| number(&stats(bed, &container)["data"], pointer);
        eventually("it was held up", || {
            let throttled = stats(bed, &container);
            throttled.pointer("/data/cpu/throttling/throttledTime").is_some()
        });
        let first = data("/cpu/usage/total");
        assert!(first > 0);
        eventually("the time goes on", || data("/cpu/usage/total") > first);
        // Nanoseconds: never more than the processors have had.
        assert!(data("/cpu/usage/total") < 60_000_000_000);
        assert!(data("/cpu/usage/user") > 0);
        assert!(data("/cpu/throttling/throttledTime") > 0);
        assert!((20_000_000..67_108_865).contains(&data("/memory/usage/usage")));
        // Version 2 counts it since Linux 5.19.
        let peak = bed.by_version("memory.max_usage_in_bytes", "memory.peak");
        if bed.cgroup_file(&bundle, peak).exists() {
            assert!(data("/memory/usage/max") >= 20_000_000);
        }
        assert_eq!(data("/memory/usage/limit"), 67_108_864);
        // Together with memory, as version 1 counts it and runc's callers expect.
        assert_eq!(data("/memory/swap/limit"), 134_217_728);
        let (programs, files) = bed.by_version(("total_rss", "total_cache"), ("anon", "file"));
        let raw = |name: &str| data(&format!("/memory/raw/{name}"));
        assert!(raw(programs) + raw(files) > 20_000_000);
        assert_eq!(data("/pids/limit"), 50);
        assert!((1..=3).contains(&data("/pids/current")));
        // Runc has these of version 1 alone.
        let cpus = stats(bed, &container)["data"]["cpuset"]["cpus"].clone();
        assert_eq!(cpus, bed.by_version(json!([0]), Value::Null));
    });
}

#[test]
fn time_of_the_program_and_of_the_kernel_are_told_apart() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 reads the file that counts in ticks, crun 1.8 has no events") {
            return;
        }
        let bundle = bed.bundle().sh("awk 'BEGIN { while (1) n++ }'");
        let container = bed.start(&bundle);
        let mut read = Value::Null;
        eventually("the program has used some", || {
            read = stats(bed, &container)["data"]["cpu"]["usage"].clone();
            number(&read, "/user") > 50_000_000
        });
        // While nobody runs nothing changes.
        container.call("pause").success();
        let read = stats(bed, &container)["data"]["cpu"]["usage"].clone();
        let file = |name: &str| fs::read_to_string(bed.cgroup_file(&bundle, name)).unwrap();
        let [user, kernel] = match bed.view {
            View::V2 => ["user_usec ", "system_usec "].map(|name| {
                let text = file("cpu.stat");
                let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
                line.parse::<u64>().unwrap() * 1000
            }),
            _ => ["cpuacct.usage_user", "cpuacct.usage_sys"]
                .map(|name| file(name).trim().parse::<u64>().unwrap()),
        };
        assert_eq!((number(&read, "/user"), number(&read, "/kernel")), (user, kernel));
        assert!(user > kernel, "{user} {kernel}");
        container.call("resume").success();
    });
}

#[test]
fn an_absent_limit_is_the_kernels_number_for_none() {
    with_events(&["memory", "pids"], |bed| {
        let container = bed.start(&bed.bundle().sh("sleep 100"));
        let event = stats(bed, &container);
        let none = bed.by_version(9_223_372_036_854_771_712, u64::MAX);
        assert_eq!(number(&event, "/data/memory/usage/limit"), none);
        assert!(event.pointer("/data/pids/limit").is_none_or(|limit| limit == 0), "{event:#}");
    });
}

#[test]
fn statistics_are_printed_at_each_interval_until_the_container_ends() {
    with_events(&["memory"], |bed| {
        let container = bed.start(&bed.bundle().sh("sleep 100"));
        let begun = Instant::now();
        let running = bed.call().args(["events", "--interval=1s"]).arg(&container.id).spawn();
        eventually("a second line", || of_type(&running, "stats").len() >= 2);
        assert!(begun.elapsed() > Duration::from_millis(1900), "{:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        if bed.is_peer("their events go on in a hybrid hierarchy") {
            return;
        }
        container.kill("KILL");
        let killed = Instant::now();
        let output = running.wait();
        output.success();
        assert!(killed.elapsed() < Duration::from_secs(3), "{:?}", killed.elapsed());
        let all = events(&output.stdout);
        assert!(all.iter().all(|event| event["id"] == container.id.as_str()), "{output}");
    });
}

#[test]
fn it_ends_with_the_container_before_the_first_interval() {
    in_views(|bed| {
        if bed.is_peer("they look only when an interval is over") {
            return;
        }
        let container = bed.start(&bed.bundle().sh("sleep 100"));
        let running = bed.call().args(["events", "--interval", "1h"]).arg(&container.id).spawn();
        std::thread::sleep(Duration::from_millis(100));
        container.kill("KILL");
        assert_eq!(running.wait().success(), "");
    });
}

#[test]
fn a_process_killed_for_want_of_memory_is_told_at_once() {
    with_events(&["memory"], |bed| {
        // The program takes 100 MB whenever it is told to.
        let bundle =
            bed.bundle().sh("trap 'tail -c 100m /dev/zero > /dev/null; echo ended with $?' USR1; \
             echo ready; while :; do sleep 0.05; done");
        let container = bed.start(&bundle);
        container.prints("ready");
        let running = bed.call().args(["events", "--interval", "1h"]).arg(&container.id).spawn();
        // What it listens to is set up soon after its start.
        std::thread::sleep(Duration::from_millis(300));
        let limits = ["update", "--memory", "16777216", "--memory-swap", "16777216"];
        bed.call().args(limits).arg(&container.id).output().success();
        for time in 1..=2 {
            container.kill("USR1");
            eventually("the program was refused the memory", || {
                container.printed().matches("ended with 137").count() == time
            });
            let killed = Instant::now();
            eventually("the event", || of_type(&running, "oom").len() == time);
            assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
        }
        let event = of_type(&running, "oom").remove(0);
        assert_eq!(event, json!({"type": "oom", "id": container.id}));
        assert_eq!(container.status(), "running");
        if bed.is_peer("their events go on in a hybrid hierarchy") {
            return;
        }
        container.kill("KILL");
        running.wait().success();
    });
}

#[test]
fn the_end_by_want_of_memory_is_told_too() {
    with_events(&["memory"], |bed| {
        if bed.is_peer("their events go on in a hybrid hierarchy") {
            return;
        }
        let bundle = bed
            .bundle()
            .with("/linux/resources/memory", json!({"limit": 16777216, "swap": 16777216}))
            .args(["/bin/sh", "-c", "read line < /tmp/go; exec tail -c 100m /dev/zero"]);
        std::process::Command::new("mkfifo").arg(bundle.rootfs().join("tmp/go")).status().unwrap();
        let container = bed.start(&bundle);
        let running = bed.call().args(["events", "--interval", "1h"]).arg(&container.id).spawn();
        std::thread::sleep(Duration::from_millis(300));
        std::fs::write(bundle.rootfs().join("tmp/go"), "go\n").unwrap();
        let output = running.wait();
        output.success();
        assert!(events(&output.stdout).iter().any(|event| event["type"] == "oom"), "{output}");
    });
}

#[test]
fn a_wrong_interval_and_a_container_that_does_not_run_are_errors() {
    as_root(|bed| {
        let container = bed.create(&bed.bundle());
        if !bed.is_peer("they take an interval of nothing for another error") {
            for wrong in ["0s", "5", "x", "-1s", ""] {
                let output = bed.runtime(["events", &format!("--interval={wrong}"), &container.id]);
                assert!(output.failure(1).contains("--interval"), "{wrong}: {output}");
            }
        }
        container.start();
        container.ended();
        bed.runtime(["events", &container.id]).failure(1);
        bed.runtime(["events", "--stats", &container.id]).failure(1);
        bed.runtime(["events", "no-such-container"]).failure(1);
    });
}
