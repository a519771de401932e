//! systemd makes the containers' groups: `--systemd-cgroup`. Everything is read from the
//! kernel's files, from outside and inside, and by systemctl.

use std::path::Path;

use integration::agent::{Agent, Answer};
use integration::blow::{Blow, Ended, Victim, hit_by};
use integration::systemd_host::{SystemdHost, USER, beside_a_systemd_host, on_a_systemd_host};
use integration::terminal::Terminal;
use integration::{Bundle, Call, Output};
use nix::sys::signal::Signal;
use serde_json::json;

/// Where most containers here are.
const USUAL: &str = "system.slice:docker:c1";
const UNIT: &str = "docker-c1.scope";

/// Runs a container in the foreground.
#[track_caller]
fn run(host: &SystemdHost<'_>, bundle: &Bundle) -> Output {
    let path = bundle.save().path.clone();
    host.call().args(["run", "--bundle"]).arg(path).arg("c1").output()
}

#[track_caller]
fn exec(host: &SystemdHost<'_>, script: &str) -> Output {
    host.runtime(&["exec", "c1", "/bin/sh", "-c", script])
}

#[track_caller]
fn delete(host: &SystemdHost<'_>, id: &str) {
    host.runtime(&["delete", "--force", id]).success();
}

#[test]
fn the_unit_is_where_the_configuration_says() {
    on_a_systemd_host(|host| {
        for (cgroups_path, slice, group) in [
            (USUAL, "system.slice", "/system.slice/docker-c1.scope"),
            ("a-b.slice:x:c1", "a-b.slice", "/a.slice/a-b.slice/x-c1.scope"),
            ("-.slice:x:c1", "-.slice", "/x-c1.scope"),
            (":x:c1", "system.slice", "/system.slice/x-c1.scope"),
            ("user.slice::c1", "user.slice", "/user.slice/-c1.scope"),
            ("", "system.slice", "/system.slice/ferrun-c1.scope"),
            ("system.slice:x-y:a.b_c-d", "system.slice", "/system.slice/x-y-a.b_c-d.scope"),
        ] {
            host.start(&host.bundle(cgroups_path), "c1");
            assert_eq!(host.group("c1"), group, "{cgroups_path}");
            let unit = Path::new(group).file_name().unwrap().to_str().unwrap();
            // systemctl takes a name that begins with a dash for an option.
            if !unit.starts_with('-') {
                assert_eq!(host.show(unit, "ControlGroup"), group);
                assert_eq!(host.show(unit, "Slice"), slice);
                assert_eq!(host.show(unit, "ActiveState"), "active");
            }
            delete(host, "c1");
            host.assert_nothing_left();
        }
        // Without one at all.
        host.start(&host.bundle("").without("/linux/cgroupsPath"), "c2");
        assert_eq!(host.group("c2"), "/system.slice/ferrun-c2.scope");
        delete(host, "c2");
        host.assert_nothing_left();
    });
}

#[test]
fn what_is_no_name_of_a_unit_is_refused() {
    on_a_systemd_host(|host| {
        let long = format!("system.slice:x:{}", "y".repeat(250));
        for (cgroups_path, part) in [
            ("/a/b", "expected cgroupsPath to be of format \"slice:prefix:name\""),
            ("a:b", "expected cgroupsPath"),
            ("a.slice:b:c:d", "expected cgroupsPath"),
            ("a.slice:b:", "no name"),
            ("a.slice:b:c.slice", "a slice cannot hold a container"),
            ("a:b:c", ".slice"),
            ("a--b.slice:b:c", "a--b.slice"),
            ("-a.slice:b:c", "-a.slice"),
            ("a/b.slice:b:c", "'/'"),
            ("system.slice:b:../c", "'/'"),
            ("system.slice:b:c d", "' '"),
            (&long, "255"),
        ] {
            let output = run(host, &host.bundle(cgroups_path));
            let error = output.failure(1);
            assert!(error.contains("linux.cgroupsPath"), "{cgroups_path}: {error}");
            assert!(error.contains(part), "{cgroups_path}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
            assert_eq!(host.left(), [""; 0], "{cgroups_path}");
        }
    });
}

#[test]
fn a_container_sees_its_own_group() {
    on_a_systemd_host(|host| {
        let script = "sed -n s/^0:://p /proc/self/cgroup; cat /sys/fs/cgroup/cgroup.procs; \
            ls /sys/fs/cgroup | grep -c scope";
        let with_cgroups = |bundle: Bundle| {
            let options = ["nosuid", "noexec", "nodev", "ro"];
            bundle
                .mount("/sys", "sysfs", "sysfs", &options)
                .mount("/sys/fs/cgroup", "cgroup", "cgroup", &options)
                .sh(script)
        };
        for (bundle, group) in [
            (host.bundle(USUAL), "/"),
            (host.bundle(USUAL).without_namespace("cgroup"), "/system.slice/docker-c1.scope"),
        ] {
            let output = run(host, &with_cgroups(bundle));
            let lines: Vec<_> = output.stdout.lines().collect();
            assert_eq!(lines[0], group, "{output}");
            assert!(lines.len() > 2 && lines.contains(&"1"), "{output}");
            assert_eq!(lines.last(), Some(&"0"), "{output}");
            host.assert_nothing_left();
        }
    });
}

#[test]
fn a_unit_has_the_properties_of_a_container() {
    on_a_systemd_host(|host| {
        let annotations = json!({
            "org.systemd.property.KillSignal": "int32 10",
            "org.systemd.property.TimeoutStopUSec": "uint64 7000000",
            "org.systemd.property.RuntimeMaxSec": "300",
            "org.systemd.property.SendSIGHUP": "true",
            "something.else": "true",
        });
        let rules = json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "rw"},
        ]);
        let bundle = host.bundle(USUAL).with("/annotations", annotations);
        host.start(&bundle.with("/linux/resources/devices", rules), "c1");
        for (property, value) in [
            ("Slice", "system.slice"),
            ("Delegate", "yes"),
            ("Description", "ferrun container c1"),
            ("CollectMode", "inactive-or-failed"),
            ("DefaultDependencies", "no"),
            ("DevicePolicy", "strict"),
            ("KillSignal", "10"),
            ("TimeoutStopUSec", "7s"),
            ("RuntimeMaxUSec", "5min"),
            ("SendSIGHUP", "yes"),
            ("Transient", "yes"),
            ("Result", "success"),
        ] {
            assert_eq!(host.show(UNIT, property), value, "{property}");
        }
        let allowed = host.show(UNIT, "DeviceAllow");
        for entry in ["/dev/char/1:3 rwm", "/dev/char/1:11 rw", "char-* m"] {
            assert!(allowed.lines().any(|line| line == entry), "{entry}: {allowed}");
        }
        delete(host, "c1");
        host.assert_nothing_left();
        // What CRI-O sets for each container.
        let annotations = json!({
            "org.systemd.property.After": "['crio.service']",
            "org.systemd.property.DefaultDependencies": "true",
        });
        host.start(&host.bundle(USUAL).with("/annotations", annotations), "c1");
        assert_eq!(host.show(UNIT, "DefaultDependencies"), "yes");
        let after = host.show(UNIT, "After");
        assert!(after.split(' ').any(|unit| unit == "crio.service"), "{after}");
        delete(host, "c1");
        host.assert_nothing_left();
        // Without any limit of devices systemd has none to keep either.
        let free = json!([{"allow": true, "access": "rwm"}]);
        host.start(&host.bundle(USUAL).with("/linux/resources/devices", free), "c1");
        assert_eq!(host.show(UNIT, "DevicePolicy"), "auto");
        assert_eq!(host.show(UNIT, "DeviceAllow"), "");
        delete(host, "c1");
        host.assert_nothing_left();
    });
}

#[test]
fn annotations_that_reach_beyond_the_unit_are_refused() {
    on_a_systemd_host(|host| {
        for (name, value) in [
            ("PIDs", "[1]"),
            ("Slice", "'user.slice'"),
            ("Delegate", "false"),
            ("DelegateControllers", "['cpu']"),
            ("DevicePolicy", "'auto'"),
            ("DeviceAllow", "[]"),
            ("BPFProgram", "[]"),
            ("Conflicts", "['dbus.service']"),
            ("Wants", "['x.service']"),
            ("Before", "['dbus.service']"),
            ("After", "['dbus.service']"),
            ("After", "['crio.service', 'dbus.service']"),
            ("DefaultDependencies", "false"),
            ("PropagatesStopTo", "['dbus.service']"),
            ("OnFailure", "['x.service']"),
            ("SuccessAction", "'poweroff'"),
            ("FailureAction", "'poweroff'"),
            ("JobTimeoutAction", "'poweroff'"),
            ("Controller", "':1.0'"),
            ("Nonsense", "true"),
            ("KillSignal", "fifteen"),
        ] {
            let key = format!("org.systemd.property.{name}");
            let bundle = host.bundle(USUAL).with("/annotations", json!({&key: value}));
            let output = run(host, &bundle);
            let error = output.failure(1);
            assert!(error.contains(&format!("annotations[{key:?}]")), "{error}");
            assert_eq!(host.left(), [""; 0], "{name}");
        }
        assert_eq!(host.show("dbus.socket", "ActiveState"), "active");
    });
}

/// A container that may have one device beside the usual ones, and nodes of that and of
/// another one.
fn with_devices(host: &SystemdHost<'_>) -> Bundle {
    let node = |path: &str, major: u32, minor: u32| json!({"path": path, "type": "c", "major": major, "minor": minor, "fileMode": 0o666});
    host.bundle(USUAL)
        .with("/linux/devices", json!([node("/dev/given", 1, 11), node("/dev/denied", 10, 229)]))
        .with(
            "/linux/resources/devices",
            json!([
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "rw"},
            ]),
        )
}

#[track_caller]
fn assert_devices(host: &SystemdHost<'_>, when: &str) {
    let script = "echo x > /dev/null && : > /dev/given && head -c 1 /dev/zero | wc -c; \
        : < /dev/denied";
    let output = exec(host, script);
    assert_eq!(output.stdout, "1\n", "{when}: {output}");
    assert!(output.stderr.contains("Operation not permitted"), "{when}: {output}");
}

#[test]
fn what_systemd_does_to_its_unit_later_takes_nothing_away() {
    on_a_systemd_host(|host| {
        host.start(&with_devices(host), "c1");
        assert_devices(host, "at the start");
        let invocation = host.show(UNIT, "InvocationID");
        host.systemctl(&["daemon-reload"]).success();
        assert_devices(host, "after a reload");
        host.systemctl(&["set-property", "--runtime", UNIT, "TasksMax=50"]).success();
        assert_eq!(host.show(UNIT, "TasksMax"), "50");
        assert_devices(host, "after another property");
        host.systemctl(&["set-property", "--runtime", "system.slice", "TasksMax=5000"]).success();
        host.systemctl(&["daemon-reload"]).success();
        assert_devices(host, "after a property of the slice");
        host.systemctl(&["daemon-reexec"]).success();
        assert_devices(host, "after systemd has been executed again");
        assert_eq!(host.show(UNIT, "InvocationID"), invocation);
        assert_eq!(host.show(UNIT, "ActiveState"), "active");
        assert_eq!(host.group("c1"), "/system.slice/docker-c1.scope");
        assert_eq!(host.state("c1")["status"], "running");
        delete(host, "c1");
        host.assert_nothing_left();
    });
}

/// The one controller that a machine of version 1 leaves to version 2, and of which systemd knows
/// nothing.
#[test]
fn a_limit_that_systemd_has_no_word_for_is_in_its_file() {
    on_a_systemd_host(|host| {
        let controllers = host.sh("cat /sys/fs/cgroup/cgroup.controllers");
        if !controllers.stdout.contains("hugetlb") {
            return host.bed().skip("no hugetlb controller is mounted");
        }
        let limits = json!([{"pageSize": "2MB", "limit": 4_194_304}]);
        host.start(&host.bundle(USUAL).with("/linux/resources/hugepageLimits", limits), "c1");
        for when in ["at once", "after a reload"] {
            let file = host.sh(&format!("cat /sys/fs/cgroup/system.slice/{UNIT}/hugetlb.2MB.max"));
            assert_eq!(file.success(), "4194304", "{when}");
            host.systemctl(&["daemon-reload"]).success();
        }
        delete(host, "c1");
        host.assert_nothing_left();
    });
}

#[test]
fn an_update_of_devices_is_the_units_too() {
    on_a_systemd_host(|host| {
        host.start(&with_devices(host), "c1");
        let rules = json!({"devices": [
            {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "rw"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        ]});
        let file = host.write("rules.json", &rules.to_string());
        host.runtime(&["update", "--resources", file.to_str().unwrap(), "c1"]).success();
        for when in ["at once", "after a reload"] {
            let allowed = host.show(UNIT, "DeviceAllow");
            assert!(allowed.lines().any(|line| line == "/dev/char/10:229 rw"), "{when}: {allowed}");
            assert!(allowed.lines().any(|line| line == "/dev/char/1:3 rwm"), "{when}: {allowed}");
            let output = exec(host, ": > /dev/given; : < /dev/denied");
            assert!(!output.stderr.contains("not permitted"), "{when}: {output}");
            host.systemctl(&["daemon-reload"]).success();
        }
        delete(host, "c1");
        host.assert_nothing_left();
    });
}

#[test]
fn containers_start_and_end_while_systemd_reloads() {
    on_a_systemd_host(|host| {
        let script = "while :; do systemctl daemon-reload; done";
        let reloads = host.program("/bin/sh").args(["-c", script]).spawn();
        for _ in 0..10 {
            host.start(&host.bundle(USUAL), "c1");
            assert_eq!(host.group("c1"), "/system.slice/docker-c1.scope");
            delete(host, "c1");
        }
        drop(reloads);
        host.assert_nothing_left();
    });
}

/// What was asked meanwhile nobody may answer.
#[test]
fn systemd_may_start_itself_over_meanwhile() {
    on_a_systemd_host(|host| {
        let over = || host.program("/bin/systemctl").arg("daemon-reexec").spawn();
        for _ in 0..10 {
            let (bundle, execution) = (host.bundle(USUAL), over());
            host.run_call(&bundle, "c1").output().success();
            execution.wait();
            host.systemctl(&["daemon-reload"]).success();
            let execution = over();
            let call = host.call().args(["delete", "--force", "c1"]);
            call.output().success();
            execution.wait();
            host.systemctl(&["daemon-reload"]).success();
            host.assert_nothing_left();
        }
    });
}

#[test]
fn each_verb_serves_a_container_in_a_unit() {
    on_a_systemd_host(|host| {
        host.start(&host.bundle(USUAL), "c1");
        let group = "/sys/fs/cgroup/system.slice/docker-c1.scope";
        // By a process of the host, which has its pids.
        let file = |name: &str| host.sh(&format!("cat {group}/{name}")).success().to_owned();
        assert_eq!(exec(host, "sed -n s/^0:://p /proc/self/cgroup").success(), "/");
        host.runtime(&["exec", "--detach", "c1", "/bin/sleep", "100"]).success();
        assert_eq!(file("cgroup.procs").lines().count(), 2);
        host.runtime(&["pause", "c1"]).success();
        assert!(file("cgroup.events").contains("frozen 1"));
        assert_eq!(host.state("c1")["status"], "paused");
        host.runtime(&["resume", "c1"]).success();
        assert!(file("cgroup.events").contains("frozen 0"));
        let listed = host.runtime(&["ps", "--format", "json", "c1"]);
        let listed: Vec<u32> = serde_json::from_str(listed.success()).unwrap();
        let mut listed: Vec<_> = listed.iter().map(u32::to_string).collect();
        listed.sort_unstable();
        let procs = file("cgroup.procs");
        let mut procs: Vec<_> = procs.lines().map(str::to_owned).collect();
        procs.sort_unstable();
        assert_eq!(listed, procs);
        let stats = host.runtime(&["events", "--stats", "c1"]);
        let stats: serde_json::Value = serde_json::from_str(stats.success()).unwrap();
        assert_eq!((&stats["type"], &stats["id"]), (&json!("stats"), &json!("c1")));
        // A paused one is ended by force as well.
        host.runtime(&["pause", "c1"]).success();
        delete(host, "c1");
        assert!(!Path::new(group).exists());
        host.assert_nothing_left();

        // One that is created only, and one that is killed.
        let bundle = host.bundle(USUAL);
        let path = bundle.save().path.to_str().unwrap().to_owned();
        host.runtime(&["create", "--bundle", &path, "c1"]).success();
        assert_eq!(host.group("c1"), "/system.slice/docker-c1.scope");
        host.runtime(&["start", "c1"]).success();
        host.runtime(&["kill", "c1", "KILL"]).success();
        host.eventually("the container stops", || host.state("c1")["status"] == "stopped");
        host.runtime(&["delete", "c1"]).success();
        host.assert_nothing_left();
    });
}

#[test]
fn a_program_that_ends_takes_its_unit_with_it() {
    on_a_systemd_host(|host| {
        assert_eq!(run(host, &host.bundle(USUAL).sh("exit 7")).code, 7);
        assert_eq!(host.left(), [""; 0]);
        // The same name at once, again and again.
        for round in 0..20 {
            let output = run(host, &host.bundle(USUAL).sh("echo it ran"));
            assert_eq!(output.success(), "it ran", "{round}: {output}");
            assert_eq!(host.left(), [""; 0]);
        }
        for _ in 0..20 {
            host.start(&host.bundle(USUAL), "c1");
            delete(host, "c1");
            assert_eq!(host.left(), [""; 0]);
        }
        // By itself and by a signal, with nobody there: the unit goes before its container.
        for script in ["exit 0", "exit 3", "kill -KILL $$", "sleep 100 & exit 1"] {
            host.start(&host.bundle(USUAL).sh(script), "c1");
            host.eventually("the container stops", || host.state("c1")["status"] == "stopped");
            host.eventually("the unit goes", || host.show(UNIT, "ActiveState") == "inactive");
            host.runtime(&["delete", "c1"]).success();
            assert_eq!(host.left(), [""; 0], "{script}");
        }
    });
}

#[test]
fn an_administrator_may_stop_or_kill_the_unit() {
    on_a_systemd_host(|host| {
        for arguments in [&["stop", UNIT][..], &["kill", "--signal=KILL", UNIT]] {
            let bundle = host.bundle(USUAL).sh("trap 'exit 0' TERM; while :; do sleep 0.1; done");
            host.start(&bundle, "c1");
            host.systemctl(arguments).success();
            host.eventually("the container stops", || host.state("c1")["status"] == "stopped");
            host.runtime(&["delete", "c1"]).success();
            host.assert_nothing_left();
        }
    });
}

#[test]
fn a_failed_unit_of_the_name_is_in_nobodys_way() {
    on_a_systemd_host(|host| {
        let fail = format!(
            "systemd-run --quiet --scope --unit={UNIT} --property=RuntimeMaxSec=100ms sleep 100"
        );
        host.sh(&fail);
        host.eventually("the unit fails", || host.show(UNIT, "ActiveState") == "failed");
        host.start(&host.bundle(USUAL), "c1");
        assert_eq!(host.show(UNIT, "ActiveState"), "active");
        assert_eq!(host.show(UNIT, "Description"), "ferrun container c1");
        delete(host, "c1");
        host.assert_nothing_left();
    });
}

#[test]
fn a_living_unit_of_the_name_is_anothers() {
    on_a_systemd_host(|host| {
        let living = format!("systemd-run --quiet --scope --unit={UNIT} sleep 1000");
        let other = host.program("/bin/sh").args(["-c", &living]).spawn();
        host.eventually("the unit is there", || host.show(UNIT, "ActiveState") == "active");
        let invocation = host.show(UNIT, "InvocationID");
        let output = run(host, &host.bundle(USUAL));
        let error = output.failure(1);
        assert!(error.contains("linux.cgroupsPath") && error.contains(UNIT), "{error}");
        host.runtime(&["delete", "--force", "c1"]);
        assert_eq!(host.show(UNIT, "InvocationID"), invocation);
        assert_eq!(host.show(UNIT, "ActiveState"), "active");
        assert_eq!(host.sh("ls -A /run/ferrun").stdout, "");
        host.systemctl(&["stop", UNIT]).success();
        drop(other);

        // A container of another bundle, and a second one of the same unit.
        host.start(&host.bundle(USUAL), "c1");
        let bundle = host.bundle(USUAL);
        let output = host.run_call(&bundle, "c2").output();
        assert!(output.failure(1).contains(UNIT), "{output}");
        assert_eq!(host.state("c1")["status"], "running");
        delete(host, "c1");
        host.assert_nothing_left();
    });
}

#[test]
fn a_unit_that_has_taken_the_name_since_is_not_stopped() {
    on_a_systemd_host(|host| {
        for verb in [&["delete", "c1"][..], &["delete", "--force", "c1"]] {
            host.start(&host.bundle(USUAL).sh("exit 0"), "c1");
            host.eventually("the unit goes", || host.show(UNIT, "ActiveState") == "inactive");
            let living = format!("systemd-run --quiet --scope --unit={UNIT} sleep 1000");
            let other = host.program("/bin/sh").args(["-c", &living]).spawn();
            host.eventually("the unit is there", || host.show(UNIT, "ActiveState") == "active");
            let invocation = host.show(UNIT, "InvocationID");
            host.runtime(verb);
            assert_eq!(host.show(UNIT, "InvocationID"), invocation, "{verb:?}");
            assert_eq!(host.show(UNIT, "ActiveState"), "active", "{verb:?}");
            assert_eq!(host.sh("ls -A /run/ferrun").stdout, "", "{verb:?}");
            host.systemctl(&["stop", UNIT]).success();
            drop(other);
            host.assert_nothing_left();
        }
    });
}

#[test]
fn a_create_that_fails_leaves_no_unit() {
    on_a_systemd_host(|host| {
        let hook = |script: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
        let good = || host.bundle(USUAL);
        for (what, bundle) in [
            ("process.args[0]", good().args(["/bin/nothing"])),
            ("mounts[4].source", good().mount("/x", "bind", "/nowhere", &["bind"])),
            ("mounts[4].type", good().mount("/x", "nothing", "nothing", &[])),
            ("hooks.createRuntime[0]", good().with("/hooks/createRuntime", hook("exit 1"))),
            (
                "hooks.createContainer[0]",
                good().with("/hooks/createContainer", json!([{"path": "/bin/false"}])),
            ),
            (
                "hooks.startContainer[0]",
                good().with("/hooks/startContainer", json!([{"path": "/bin/false"}])),
            ),
            // The state on stdin names init.
            (
                "init process",
                good().with(
                    "/hooks/createRuntime",
                    hook("kill -KILL $(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/' | head -n 1)"),
                ),
            ),
            (
                "linux.resources.hugepageLimits[0]",
                good().with(
                    "/linux/resources/hugepageLimits",
                    json!([{"pageSize": "3MB", "limit": 5}]),
                ),
            ),
            (
                "linux.resources.unified",
                good().with("/linux/resources/unified", json!({"nothing.max": "1"})),
            ),
        ] {
            let output = run(host, &bundle);
            assert_ne!(output.code, 0, "{what}: {output}");
            assert_eq!(output.stderr.trim().lines().count(), 1, "{what}: {output}");
            assert!(output.stderr.contains(what), "{what}: {output}");
            host.assert_nothing_left();
        }
    });
}

/// A container runs although or because the environment names this system bus, or does not.
#[track_caller]
fn with_bus(host: &SystemdHost<'_>, address: &str) -> Output {
    let bundle = host.bundle(USUAL).sh("echo it ran");
    let path = bundle.save().path.clone();
    let call = host.call().env("DBUS_SYSTEM_BUS_ADDRESS", address);
    call.args(["run", "--bundle"]).arg(path).arg("c1").output()
}

#[test]
fn systemd_is_found_by_its_bus_or_its_own_socket() {
    on_a_systemd_host(|host| {
        for address in [
            "unix:path=/run/dbus/system_bus_socket",
            "unix:path=%2frun%2Fdbus/system_bus_socket,guid=0123456789abcdef0123456789abcdef",
            "unix:path=/nowhere;unix:path=/run/dbus/system_bus_socket",
            // Its own socket is there too.
            "unix:path=/nowhere",
            "unix:abstract=nowhere",
        ] {
            let output = with_bus(host, address);
            assert_eq!(output.success(), "it ran", "{address}: {output}");
            host.assert_nothing_left();
        }
        for (address, part) in [
            ("tcp:host=localhost,port=1", "tcp"),
            ("unixexec:path=/bin/touch,argv1=/run/executed", "unixexec"),
            ("nonsense", "nonsense"),
        ] {
            let output = with_bus(host, address);
            assert!(output.failure(1).contains(part), "{address}: {output}");
            host.assert_nothing_left();
        }
        assert!(!Path::new("/run/executed").exists());
        // Nobody listens there any more.
        host.sh("systemctl stop dbus.socket dbus.service");
        assert_eq!(run(host, &host.bundle(USUAL).sh("echo it ran")).success(), "it ran");
        host.assert_nothing_left();
        host.start(&host.bundle(USUAL), "c1");
        host.sh("mv /run/systemd/private /run/systemd/elsewhere");
        let output = host.run_call(&host.bundle("system.slice:docker:c2"), "c2").output();
        let error = output.failure(1);
        assert!(error.contains("systemd cannot be reached"), "{error}");
        // It is ended all the same, and systemd, which sees it, tidies up by itself.
        let output = host.runtime(&["delete", "--force", "c1"]);
        output.success();
        assert!(output.stderr.contains("systemd cannot be reached"), "{output}");
        host.sh("mv /run/systemd/elsewhere /run/systemd/private");
        host.assert_nothing_left();
    });
}

/// Who listens decides, not where.
#[test]
fn nothing_is_told_to_a_bus_of_another_user() {
    on_a_systemd_host(|host| {
        host.sh("mkdir /run/strangers && chmod 777 /run/strangers").success();
        let socket = "/run/strangers/bus";
        let listen = host.program("/usr/bin/systemd-socket-activate").user(USER);
        let listener = listen.args(["--listen", socket, "--accept", "/bin/cat"]).spawn();
        host.eventually("somebody listens", || Path::new(socket).exists());
        let output = with_bus(host, &format!("unix:path={socket}"));
        assert_eq!(output.success(), "it ran", "{output}");
        // The machine's bus is no bus of an ordinary user's.
        let bundle = host.users_bundle("user.slice:x:c1");
        let bus = "unix:path=/run/dbus/system_bus_socket";
        let call = host.users_call_without_systemd("DBUS_SESSION_BUS_ADDRESS", bus);
        let output = call.args(["run", "--bundle"]).arg(&bundle.save().path).arg("c1").output();
        assert!(output.failure(1).contains("user 0"), "{output}");
        assert_eq!(listener.printed(), "");
        host.assert_nothing_left();
    });
}

#[test]
fn create_and_delete_connect_once_and_write_once() {
    on_a_systemd_host(|host| {
        let bundle = host.bundle(USUAL);
        let path = bundle.save().path.to_str().unwrap().to_owned();
        let record = host.write("calls", "");
        let traced = |arguments: &[&str]| {
            let strace = host.service(Path::new("/usr/bin/strace"));
            let strace = strace.args(["-e", "trace=connect,sendto", "-o"]).arg(&record);
            let strace = strace.arg(&host.program).arg("--systemd-cgroup").args(arguments);
            strace.output().success();
            let calls = std::fs::read_to_string(&record).unwrap();
            let count = |name: &str| calls.lines().filter(|line| line.contains(name)).count();
            assert_eq!((count("connect("), count("sendto(")), (1, 1), "{arguments:?}: {calls}");
            assert_eq!(count("system_bus_socket"), 1, "{calls}");
        };
        traced(&["create", "--bundle", &path, "c1"]);
        traced(&["delete", "--force", "c1"]);
        host.assert_nothing_left();
    });
}

#[test]
fn containers_of_every_kind_run_in_units() {
    beside_a_systemd_host(|host| {
        let agent = Agent::listen(host.bed(), |_| Answer::Errno(libc::EL2NSYNC));
        let filter = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": agent.path,
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
        });
        host.inside(|| {
            let group = "sed -n s/^0:://p /proc/self/cgroup";
            let bundle = || host.bundle(USUAL).sh(group);
            let output = run(host, &bundle().in_user_namespace(65_536));
            assert_eq!(output.success(), "/", "a user namespace: {output}");
            host.assert_nothing_left();

            let holder = host.program("/usr/bin/unshare");
            let holder = holder.args(["--pid", "--fork", "--kill-child", "sleep", "1000"]).spawn();
            let pid = || host.sh("pgrep -x sleep -n").stdout.trim().to_owned();
            host.eventually("the holder is there", || {
                let link =
                    format!("readlink /proc/{}/ns/pid /proc/1/ns/pid | sort -u | wc -l", pid());
                host.sh(&link).stdout == "2\n"
            });
            let path = format!("/proc/{}/ns/pid", pid());
            let output = run(host, &bundle().with_namespace("pid", Some(Path::new(&path))));
            assert_eq!(output.success(), "/", "a joined pid namespace: {output}");
            drop(holder);
            let output = run(host, &bundle().without_namespace("pid"));
            assert_eq!(output.success(), "/", "no pid namespace: {output}");
            host.assert_nothing_left();

            let notified = bundle().with("/linux/seccomp", filter.clone());
            let output = run(host, &notified.sh("mkdir /tmp/made 2>&1"));
            assert!(output.stdout.contains("Level 2 not synchronized"), "{output}");
            assert_eq!(agent.states().len(), 1);
            host.assert_nothing_left();

            let (mut terminal, other) = Terminal::open();
            let shell = bundle().with("/process/terminal", true).args(["/bin/sh"]);
            let call = host.call().args(["run", "--bundle"]).arg(&shell.save().path).arg("c1");
            let running = call.on_terminal(&other).spawn();
            terminal.expect("# ");
            terminal.send("echo $((40 + 2))\n");
            terminal.expect("42");
            terminal.send("exit 3\n");
            assert_eq!(running.wait().code, 3);
            host.assert_nothing_left();

            // Hooks of the creator are where that is, those of the container in the unit.
            let seen = host.write("seen", "");
            let note = format!("{group} >> {}", seen.display());
            let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", note]}]);
            let inside = json!([{"path": "/bin/sh", "args": ["sh", "-c", group]}]);
            let mut hooked = bundle().sh("echo it ran");
            for name in ["prestart", "createRuntime", "poststart", "poststop"] {
                hooked = hooked.with(&format!("/hooks/{name}"), hook.clone());
            }
            let output = run(host, &hooked.with("/hooks/startContainer", inside));
            assert!(output.success().ends_with("it ran"), "{output}");
            let seen = std::fs::read_to_string(seen).unwrap();
            assert_eq!(seen, "/system.slice/callers.service\n".repeat(4));
            host.assert_nothing_left();
        });
    });
}

#[test]
fn an_ordinary_user_has_units_of_his_own_systemd() {
    on_a_systemd_host(|host| {
        let user = host.user();
        let slice = format!("/user.slice/user-{USER}.slice/user@{USER}.service");
        for (cgroups_path, unit, group) in [
            ("user.slice:libpod:c1", "libpod-c1.scope", "/user.slice/libpod-c1.scope"),
            ("", "ferrun-c1.scope", "/user.slice/ferrun-c1.scope"),
            ("app-x.slice:a:c1", "a-c1.scope", "/app.slice/app-x.slice/a-c1.scope"),
        ] {
            let bundle = host.users_bundle(cgroups_path).sh("sleep 1000");
            let path = bundle.save().path.clone();
            let call = user.call().args(["run", "--detach", "--bundle"]).arg(path);
            let output = call.arg("c1").output();
            output.success();
            assert_eq!(output.stderr, "");
            let state = user.runtime(&["state", "c1"]);
            let state: serde_json::Value = serde_json::from_str(state.success()).unwrap();
            let expected = format!("{slice}{group}");
            assert_eq!(host.group_of(state["pid"].as_u64().unwrap()), expected);
            for (property, value) in
                [("Delegate", "yes"), ("ActiveState", "active"), ("ControlGroup", &expected)]
            {
                let show = ["show", "--value", "--property", property, unit];
                assert_eq!(user.systemctl(&show).success(), value, "{property}");
            }
            assert_eq!(host.show(unit, "ActiveState"), "inactive");
            let inside =
                user.runtime(&["exec", "c1", "/bin/sed", "-n", "s/^0:://p", "/proc/self/cgroup"]);
            assert_eq!(inside.success(), "/");
            user.runtime(&["pause", "c1"]).success();
            user.runtime(&["resume", "c1"]).success();
            user.systemctl(&["daemon-reload"]).success();
            user.runtime(&["delete", "--force", "c1"]).success();
            host.assert_nothing_left();
            assert_eq!(user.left(), "", "{cgroups_path}");
        }
        let bundle = host.users_bundle("user.slice:libpod:c1").sh("exit 7");
        for _ in 0..5 {
            let call = user.call().args(["run", "--bundle"]).arg(&bundle.save().path);
            assert_eq!(call.arg("c1").output().code, 7);
            assert_eq!(user.left(), "");
        }
        host.assert_nothing_left();
    });
}

/// As from a login's session, which is no part of what the user's systemd has.
#[test]
fn an_ordinary_user_may_call_from_elsewhere() {
    on_a_systemd_host(|host| {
        let user = host.user();
        let bundle = host.users_bundle("user.slice:libpod:c1").sh("sleep 1000");
        let call = user.call_from_elsewhere().args(["run", "--detach", "--bundle"]);
        call.arg(&bundle.save().path).arg("c1").output().success();
        let state = user.runtime(&["state", "c1"]);
        let state: serde_json::Value = serde_json::from_str(state.success()).unwrap();
        let group = host.group_of(state["pid"].as_u64().unwrap());
        assert!(group.ends_with("/user@12345.service/user.slice/libpod-c1.scope"), "{group}");
        let inside = ["exec", "c1", "/bin/sed", "-n", "s/^0:://p", "/proc/self/cgroup"];
        assert_eq!(user.call_from_elsewhere().args(inside).output().success(), "/");
        user.call_from_elsewhere().args(["delete", "--force", "c1"]).output().success();
        assert_eq!(user.left(), "");
        host.assert_nothing_left();
    });
}

#[test]
fn an_ordinary_user_without_a_systemd_is_told_so() {
    on_a_systemd_host(|host| {
        let bundle = host.users_bundle("user.slice:libpod:c1");
        for (variable, value, part) in [
            ("OTHER", "", "neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set"),
            ("XDG_RUNTIME_DIR", "/run/users", "the user's systemd cannot be reached"),
            (
                "DBUS_SESSION_BUS_ADDRESS",
                "unix:path=/nowhere",
                "the user's systemd cannot be reached",
            ),
            ("DBUS_SESSION_BUS_ADDRESS", "tcp:host=localhost,port=1", "tcp"),
        ] {
            let call = host.users_call_without_systemd(variable, value).args(["run", "--bundle"]);
            let output = call.arg(&bundle.save().path).arg("c1").output();
            assert!(output.failure(1).contains(part), "{variable}: {output}");
            assert_eq!(host.sh("find /run/users -mindepth 2").stdout, "");
        }
        host.assert_nothing_left();
    });
}

/// Hits a call at each `step`th stop, by SIGKILL and by SIGTERM; then `delete --force` removes
/// everything, and the name is free.
#[track_caller]
fn go_through(
    host: &SystemdHost<'_>,
    what: &str,
    step: u32,
    before: impl Fn(&SystemdHost<'_>, &Bundle) + Sync,
    call: impl Fn(&SystemdHost<'_>, &Bundle) -> Call + Sync,
    victims: &[Victim],
) {
    let bundle = host
        .bundle(USUAL)
        .with("/linux/resources/devices", json!([{"allow": false, "access": "rwm"}]))
        .with("/hooks/createRuntime", json!([{"path": "/bin/true"}]));
    for (&victim, signal) in
        victims.iter().flat_map(|victim| [(victim, Signal::SIGKILL), (victim, Signal::SIGTERM)])
    {
        let mut hits = 0;
        for number in (1 + hits..).step_by(step as usize) {
            host.inside(|| before(host, &bundle));
            let blow = Blow { signal, number };
            let enter = || {
                host.enter();
                call(host, &bundle)
            };
            let ended: Ended = hit_by(enter, victim, blow);
            let when = format!("{what}, {victim:?}, {signal} at stop {number}: {ended:?}");
            host.inside(|| {
                let output = host.runtime(&["delete", "--force", "c1"]);
                assert_eq!(output.code, 0, "{when}: {output}");
                if !host.settles() {
                    panic!("{when}: left behind: {:#?}", host.left());
                }
                if hits % 8 == 0 {
                    host.start(&bundle, "c1");
                    delete(host, "c1");
                }
            });
            if !ended.reached {
                break;
            }
            hits += 1;
        }
        eprintln!("{what}, {victim:?}: {signal} at {hits} stops, one in {step}");
        assert!(hits * step > 20, "hardly traced: {hits} stops");
    }
}

const BOTH: [Victim; 2] = [Victim::Caller, Victim::Child];

fn create(step: u32) {
    beside_a_systemd_host(|host| {
        let call = |host: &SystemdHost<'_>, bundle: &Bundle| {
            host.call().args(["create", "--bundle"]).arg(&bundle.save().path).arg("c1")
        };
        go_through(host, "create", step, |_, _| {}, call, &BOTH);
    });
}

fn run_detached(step: u32) {
    beside_a_systemd_host(|host| {
        let call = |host: &SystemdHost<'_>, bundle: &Bundle| host.run_call(bundle, "c1");
        go_through(host, "run --detach", step, |_, _| {}, call, &BOTH);
    });
}

/// A call on a container that runs.
fn on_a_running_one(step: u32, arguments: &'static [&'static str], victims: &[Victim]) {
    beside_a_systemd_host(|host| {
        let before = |host: &SystemdHost<'_>, bundle: &Bundle| host.start(bundle, "c1");
        let call = |host: &SystemdHost<'_>, _: &Bundle| host.call().args(arguments);
        go_through(host, arguments[0], step, before, call, victims);
    });
}

#[test]
fn create_can_be_killed_at_some_stops() {
    create(40);
}

#[test]
fn delete_can_be_killed_at_some_stops() {
    on_a_running_one(20, &["delete", "--force", "c1"], &[Victim::Caller]);
}

#[test]
#[ignore = "takes minutes"]
fn create_can_be_killed_at_every_stop() {
    create(1);
}

#[test]
#[ignore = "takes minutes"]
fn run_detached_can_be_killed_at_every_stop() {
    run_detached(1);
}

#[test]
#[ignore = "takes minutes"]
fn exec_can_be_killed_at_every_stop() {
    on_a_running_one(1, &["exec", "c1", "/bin/true"], &BOTH);
}

#[test]
#[ignore = "takes minutes"]
fn update_can_be_killed_at_every_stop() {
    on_a_running_one(1, &["update", "--pids-limit", "0", "c1"], &[Victim::Caller]);
}

#[test]
#[ignore = "takes minutes"]
fn delete_can_be_killed_at_every_stop() {
    on_a_running_one(1, &["delete", "--force", "c1"], &[Victim::Caller]);
}
