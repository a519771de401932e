//! Every wrong input ends in one line that names the field and the value, with
//! the exit code that callers know, and leaves nothing behind.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use integration::{Bed, Bundle, as_root, as_user};
use serde_json::{Value, json};

/// A wrong input: what it is, how it comes to be, and what the line must hold.
type Row = (&'static str, fn(&Bed) -> Bundle, &'static [&'static str]);

fn with(bed: &Bed, pointer: &str, value: Value) -> Bundle {
    bed.bundle().with(pointer, value)
}

fn hook(script: &str) -> Value {
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
}

const ROWS: &[Row] = &[
    ("no ociVersion", |bed| bed.bundle().without("/ociVersion"), &["ociVersion", "missing"]),
    (
        "ociVersion 2.0.0",
        |bed| with(bed, "/ociVersion", json!("2.0.0")),
        &["ociVersion", "\"2.0.0\""],
    ),
    (
        "ociVersion of no version",
        |bed| with(bed, "/ociVersion", json!("new")),
        &["ociVersion", "\"new\""],
    ),
    ("no root", |bed| bed.bundle().without("/root"), &["root.path", "missing"]),
    (
        "a root that is not there",
        |bed| with(bed, "/root/path", json!("nowhere")),
        &["root.path", "nowhere"],
    ),
    (
        "empty args",
        |bed| with(bed, "/process/args", json!([])),
        &["process.args", "must not be empty"],
    ),
    ("no args", |bed| bed.bundle().without("/process/args"), &["process.args"]),
    (
        "relative cwd",
        |bed| with(bed, "/process/cwd", json!("some/where")),
        &["process.cwd", "\"some/where\""],
    ),
    ("no cwd", |bed| bed.bundle().without("/process/cwd"), &["process", "cwd"]),
    (
        "a string as uid",
        |bed| with(bed, "/process/user/uid", json!("five")),
        &["process.user.uid", "\"five\""],
    ),
    (
        "a negative uid",
        |bed| with(bed, "/process/user/uid", json!(-1)),
        &["process.user.uid", "-1"],
    ),
    (
        "a uid above 32 bits",
        |bed| with(bed, "/process/user/uid", json!(4294967296_u64)),
        &["process.user.uid", "4294967296"],
    ),
    (
        "a list for an object",
        |bed| with(bed, "/process/user", json!([0, 0])),
        &["config.json", "process.user", "a list, and an object is expected"],
    ),
    (
        "a mapping to no id of the host",
        |bed| with(bed, "/linux/uidMappings", json!([{"containerID": 0, "size": 1}])),
        &["config.json", "linux.uidMappings[0].hostID", "missing"],
    ),
    ("no uid", |bed| bed.bundle().without("/process/user/uid"), &["process.user.uid", "missing"]),
    (
        "a uid that is null",
        |bed| with(bed, "/process/user/uid", Value::Null),
        &["process.user.uid", "missing"],
    ),
    ("an empty root", |bed| with(bed, "/root/path", json!("")), &["root.path", "missing"]),
    ("no gid", |bed| bed.bundle().without("/process/user/gid"), &["process.user.gid", "missing"]),
    (
        "a string as memory limit",
        |bed| with(bed, "/linux/resources/memory/limit", json!("64m")),
        &["linux.resources.memory.limit", "\"64m\""],
    ),
    (
        "an unknown namespace",
        |bed| with(bed, "/linux/namespaces/-", json!({"type": "astral"})),
        &["linux.namespaces[5].type", "astral"],
    ),
    (
        "a namespace path that is missing",
        |bed| bed.bundle().with_namespace("ipc", Some(Path::new("/no/such/ns"))),
        &["linux.namespaces[4].path", "/no/such/ns"],
    ),
    (
        "a namespace path of another type",
        |bed| bed.bundle().with_namespace("ipc", Some(Path::new("/proc/1/ns/net"))),
        &["linux.namespaces[4].path", "/proc/1/ns/net"],
    ),
    (
        "a namespace path of no namespace",
        |bed| bed.bundle().with_namespace("ipc", Some(Path::new("/etc/passwd"))),
        &["linux.namespaces[4].path", "/etc/passwd"],
    ),
    (
        "a namespace path that is relative",
        |bed| bed.bundle().with_namespace("ipc", Some(Path::new("ns/net"))),
        &["linux.namespaces[4].path", "\"ns/net\""],
    ),
    (
        "a namespace given twice",
        |bed| with(bed, "/linux/namespaces/-", json!({"type": "uts"})),
        &["linux.namespaces[5]", "uts", "twice"],
    ),
    (
        "a user namespace without mappings",
        |bed| bed.bundle().with_namespace("user", None),
        &["linux.uidMappings", "missing"],
    ),
    (
        "mappings without a user namespace",
        |bed| with(bed, "/linux/uidMappings", json!([{"containerID": 0, "hostID": 0, "size": 1}])),
        &["linux.uidMappings"],
    ),
    (
        "an unknown rlimit",
        |bed| {
            with(bed, "/process/rlimits", json!([{"type": "RLIMIT_BOGUS", "soft": 1, "hard": 1}]))
        },
        &["process.rlimits[0].type", "RLIMIT_BOGUS"],
    ),
    (
        "an rlimit given twice",
        |bed| {
            let limit = json!({"type": "RLIMIT_CORE", "soft": 1, "hard": 1});
            with(bed, "/process/rlimits", json!([limit, limit]))
        },
        &["process.rlimits[1].type", "RLIMIT_CORE"],
    ),
    (
        "a soft limit above the hard one",
        |bed| with(bed, "/process/rlimits", json!([{"type": "RLIMIT_CORE", "soft": 5, "hard": 1}])),
        &["process.rlimits[0].soft", "5"],
    ),
    (
        "an unknown file system",
        |bed| bed.bundle().mount("/data", "bogusfs", "x", &[]),
        &["mounts[4].type", "bogusfs"],
    ),
    (
        "a bind source that is missing",
        |bed| bed.bundle().mount("/data", "bind", "/no/such/dir", &["rbind"]),
        &["mounts[4].source: \"/no/such/dir\": No such file or directory"],
    ),
    (
        "a file of the image on the way to a bind",
        |bed| {
            let bundle = bed.bundle().mount("/etc/file/a/b", "bind", "/bin", &["rbind"]);
            bundle.write("etc/file", "");
            bundle
        },
        &["mounts[4].destination: \"/etc/file/a/b\": \"/etc/file\" is a file: Not a directory"],
    ),
    (
        "a file of the image, behind a link, on the way to a file system",
        |bed| {
            let bundle = bed.bundle().mount("/link/data", "tmpfs", "tmpfs", &[]);
            bundle.write("etc/file", "");
            symlink("/etc/file", bundle.rootfs().join("link")).unwrap();
            bundle
        },
        &["mounts[4].destination: \"/link/data\": \"/link\" is a file: Not a directory"],
    ),
    (
        "a file of the image where a file system is to be",
        |bed| {
            let bundle = bed.bundle().mount("/etc/file", "tmpfs", "tmpfs", &[]);
            bundle.write("etc/file", "");
            bundle
        },
        &["mounts[4].destination: \"/etc/file\": is a file: Not a directory"],
    ),
    (
        "a file of the image on the way to a device",
        |bed| {
            let device = json!({"path": "/etc/file/null", "type": "c", "major": 1, "minor": 3});
            let bundle = with(bed, "/linux/devices", json!([device]));
            bundle.write("etc/file", "");
            bundle
        },
        &["linux.devices[0]", "\"/etc/file\": is a file: Not a directory"],
    ),
    (
        "an I/O priority without a class",
        |bed| with(bed, "/process/ioPriority", json!({"priority": 3})),
        &["process.ioPriority.class: missing"],
    ),
    (
        "an I/O priority whose class is null",
        |bed| with(bed, "/process/ioPriority", json!({"class": null, "priority": 3})),
        &["process.ioPriority.class: missing"],
    ),
    (
        "id ranges that overlap",
        |bed| {
            let range = json!({"containerID": 0, "hostID": 100_000, "size": 10});
            let bundle = bed.bundle().in_user_namespace(65_536);
            bundle.with("/linux/uidMappings/-", range)
        },
        &["linux.uidMappings[1]: overlaps [0]"],
    ),
    (
        "an unknown word on a bind",
        |bed| bed.bundle().mount("/data", "bind", "/bin", &["rbind", "bogusword"]),
        &["mounts[4].options", "bogusword"],
    ),
    (
        "an unknown word on a file system",
        |bed| bed.bundle().mount("/data", "tmpfs", "tmpfs", &["bogusword"]),
        &["mounts[4].options", "bogusword"],
    ),
    (
        "an empty destination",
        |bed| bed.bundle().mount("", "tmpfs", "x", &[]),
        &["mounts[4].destination"],
    ),
    (
        "a destination that is a file of the image for a file system",
        |bed| {
            let bundle = bed.bundle().mount("/etc/file", "tmpfs", "tmpfs", &[]);
            bundle.write("/etc/file", "");
            bundle
        },
        &["mounts[4]", "/etc/file"],
    ),
    (
        "a missing hook",
        |bed| with(bed, "/hooks/createRuntime", json!([{"path": "/no/such/hook"}])),
        &["hooks.createRuntime[0]", "/no/such/hook"],
    ),
    (
        "a relative hook",
        |bed| with(bed, "/hooks/prestart", json!([{"path": "bin/hook"}])),
        &["hooks.prestart[0].path", "bin/hook"],
    ),
    (
        "a hook that fails",
        |bed| with(bed, "/hooks/prestart", hook("echo first; echo the reason >&2; exit 5")),
        &["hooks.prestart[0]", "error running prestart hook #0: ", "exit status 5", "the reason"],
    ),
    (
        "a hook that fails in the container",
        |bed| with(bed, "/hooks/createContainer", hook("echo the reason >&2; exit 5")),
        &["hooks.createContainer[0]", "exit status 5", "the reason"],
    ),
    (
        "a hook's timeout of nothing",
        |bed| with(bed, "/hooks/prestart", json!([{"path": "/bin/true", "timeout": 0}])),
        &["hooks.prestart[0].timeout", "0"],
    ),
    (
        "a kernel parameter of the host",
        |bed| with(bed, "/linux/sysctl", json!({"vm.swappiness": "1"})),
        &["linux.sysctl", "vm.swappiness"],
    ),
    (
        "a kernel parameter of a namespace that is the host's",
        |bed| {
            with(bed, "/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}))
                .without_namespace("network")
        },
        &["linux.sysctl", "net.ipv4.ip_forward", "network"],
    ),
    (
        "a kernel parameter that climbs",
        |bed| with(bed, "/linux/sysctl", json!({"net/../vm/swappiness": "1"})),
        &["linux.sysctl", "net/../vm/swappiness"],
    ),
    (
        "a device of unknown type",
        |bed| {
            with(
                bed,
                "/linux/devices",
                json!([{"path": "/dev/x", "type": "z", "major": 1, "minor": 1}]),
            )
        },
        &["linux.devices[0].type", "z"],
    ),
    (
        "a host name without its namespace",
        |bed| with(bed, "/hostname", json!("box")).without_namespace("uts"),
        &["hostname", "\"box\"", "UTS namespace"],
    ),
    (
        "a root to be closed without a mount namespace",
        |bed| with(bed, "/root/readonly", json!(true)).without_namespace("mount"),
        &["root.readonly", "mount namespace"],
    ),
    (
        "a domain name without its namespace",
        |bed| with(bed, "/domainname", json!("box")).without_namespace("uts"),
        &["domainname", "\"box\"", "UTS namespace"],
    ),
    (
        "a cgroup path that climbs",
        |bed| with(bed, "/linux/cgroupsPath", json!("/a/../b")),
        &["linux.cgroupsPath", "\"/a/../b\""],
    ),
    (
        "an unknown seccomp action",
        |bed| with(bed, "/linux/seccomp", json!({"defaultAction": "SCMP_ACT_MAYBE"})),
        &["linux.seccomp.defaultAction", "SCMP_ACT_MAYBE"],
    ),
    (
        "an unknown seccomp architecture",
        |bed| {
            let seccomp =
                json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_PDP11"]});
            with(bed, "/linux/seccomp", seccomp)
        },
        &["linux.seccomp.architectures[0]", "SCMP_ARCH_PDP11"],
    ),
    (
        "a program that is not found",
        |bed| bed.bundle().args(["no-such-program"]),
        &["process.args[0]", "no-such-program", "executable file not found in $PATH"],
    ),
    (
        "a program at a path that is not there",
        |bed| bed.bundle().args(["/no/such/program"]),
        &["process.args[0]", "/no/such/program", "no such file or directory"],
    ),
    (
        "a program that is a directory",
        |bed| bed.bundle().args(["/etc"]),
        &["process.args[0]", "/etc", "is a directory"],
    ),
    (
        "a program without permission",
        |bed| {
            let bundle = bed.bundle().args(["/etc/text"]);
            bundle.write("/etc/text", "text\n");
            bundle
        },
        &["process.args[0]", "/etc/text", "permission denied"],
    ),
    (
        "a cwd that is a file",
        |bed| {
            let bundle = with(bed, "/process/cwd", json!("/etc/file"));
            bundle.write("/etc/file", "");
            bundle
        },
        &["process.cwd", "/etc/file"],
    ),
    (
        "a string with NUL",
        |bed| with(bed, "/process/args", json!(["/bin/true", "a\0b"])),
        &["process.args", "NUL"],
    ),
    (
        "an oomScoreAdj out of range",
        |bed| with(bed, "/process/oomScoreAdj", json!(1001)),
        &["process.oomScoreAdj", "1001"],
    ),
    (
        "an unknown scheduling policy",
        |bed| with(bed, "/process/scheduler", json!({"policy": "SCHED_LATER"})),
        &["process.scheduler.policy", "SCHED_LATER"],
    ),
    (
        "an unknown priority class",
        |bed| with(bed, "/process/ioPriority", json!({"class": "IOPRIO_CLASS_X", "priority": 1})),
        &["process.ioPriority.class", "IOPRIO_CLASS_X"],
    ),
    (
        "a priority out of range",
        |bed| with(bed, "/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 8})),
        &["process.ioPriority.priority", "8"],
    ),
    (
        "an unknown personality",
        |bed| with(bed, "/linux/personality", json!({"domain": "MULTICS"})),
        &["linux.personality.domain", "MULTICS"],
    ),
    (
        "an unknown propagation",
        |bed| with(bed, "/linux/rootfsPropagation", json!("viral")),
        &["linux.rootfsPropagation", "viral"],
    ),
    (
        "a relative masked path",
        |bed| with(bed, "/linux/maskedPaths", json!(["proc/kcore"])),
        &["linux.maskedPaths[0]", "proc/kcore"],
    ),
    (
        "a relative read-only path",
        |bed| with(bed, "/linux/readonlyPaths", json!(["proc/sys"])),
        &["linux.readonlyPaths[0]", "proc/sys"],
    ),
    (
        "a time offset without its namespace",
        |bed| with(bed, "/linux/timeOffsets", json!({"boottime": {"secs": 1}})),
        &["linux.timeOffsets"],
    ),
    (
        "an unknown clock",
        |bed| {
            with(bed, "/linux/timeOffsets", json!({"sundial": {"secs": 1}}))
                .with_namespace("time", None)
        },
        &["linux.timeOffsets", "sundial"],
    ),
    (
        "a profile that nothing applies",
        |bed| with(bed, "/process/apparmorProfile", json!("some-profile")),
        &["process.apparmorProfile", "some-profile"],
    ),
    (
        "a label that nothing applies",
        |bed| with(bed, "/process/selinuxLabel", json!("a:b:c:s0")),
        &["process.selinuxLabel", "a:b:c:s0"],
    ),
    (
        "a mount label that nothing applies",
        |bed| with(bed, "/linux/mountLabel", json!("a:b:c:s0")),
        &["linux.mountLabel", "a:b:c:s0"],
    ),
];

/// One plain line of ours that holds these parts.
#[track_caller]
fn assert_line(what: &str, output: &integration::Output, code: i32, parts: &[&str]) {
    assert_eq!(output.code, code, "{what}: {output}");
    let line = &output.stderr;
    assert!(line.starts_with("ferrun: error: ") && line.ends_with('\n'), "{what}: {output}");
    assert_eq!(line.lines().count(), 1, "{what}: {output}");
    for part in parts {
        assert!(line.contains(part), "{what}: {part:?} is not in {line:?}");
    }
    // Nothing of how we work inside.
    for inner in [
        "/proc/self/fd",
        "/proc/thread-self",
        "channel",
        "socket pair",
        "Os {",
        "panicked",
        "pidfd",
        "init process ended",
    ] {
        assert!(!line.contains(inner), "{what}: {inner:?} is in {line:?}");
    }
}

#[test]
fn each_wrong_configuration_is_refused_in_one_line_with_field_and_value() {
    as_root(|bed| {
        if bed.is_peer("they name the field in a few cases") {
            return;
        }
        let mut wrong = Vec::new();
        for (what, bundle, parts) in ROWS {
            let bundle = bundle(bed);
            // All rows are tried before the test fails.
            let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let output = bed.run(&bundle);
                assert_line(what, &output, 1, parts);
                bed.assert_nothing_left();
            }));
            if checked.is_err() {
                wrong.push(*what);
            }
        }
        assert!(wrong.is_empty(), "{} of {} rows: {wrong:#?}", wrong.len(), ROWS.len());
    });
}

/// The words by which callers of runc, and its own tests, know what went wrong. They stand
/// beside the field and the value.
#[test]
fn the_words_that_callers_look_for_are_there() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 and crun have some of them") {
            return;
        }
        let script = |path: &str, lines: &str| {
            let bundle = bed.bundle().args([path]);
            let path = path.trim_start_matches('/');
            bundle.write(path, lines);
            let file = bundle.rootfs().join(path);
            fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
            bundle
        };
        let occupied = bed.bundle().sh("sleep 100");
        let container = bed.start(&occupied);
        let same = occupied.config["linux"]["cgroupsPath"].clone();
        let filter = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": bed.directory.join("nobody"),
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
        });
        let linked = bed.bundle();
        let linked = {
            fs::remove_dir(linked.rootfs().join("proc")).unwrap();
            symlink("/etc", linked.rootfs().join("proc")).unwrap();
            linked
        };
        let policy = json!({"mode": "MPOL_BIND", "nodes": "x"});
        let failing = |kind: &str| with(bed, &format!("/hooks/{kind}"), hook("exit 3"));
        let rows = [
            (failing("prestart"), "hooks.prestart[0]: error running prestart hook #0: \"/bin/sh\""),
            (failing("createRuntime"), "error running createRuntime hook #0: "),
            (failing("createContainer"), "error running createContainer hook #0: "),
            (failing("startContainer"), "error running startContainer hook #0: "),
            (failing("poststart"), "error running poststart hook #0: "),
            (
                script("/crlf", "#!/bin/sh\r\n"),
                "process.args[0]: exec /crlf: no such file or directory",
            ),
            (
                bed.bundle().args(["/none"]),
                "process.args[0]: exec: \"/none\": stat /none: no such file",
            ),
            (bed.bundle().args(["none"]), "exec: \"none\": executable file not found in $PATH"),
            (
                with(bed, "/linux/cgroupsPath", same),
                "\": container's cgroup is not empty: process ",
            ),
            (linked, "filesystem \"proc\" must be mounted on ordinary directory"),
            (with(bed, "/linux/memoryPolicy", policy), "invalid memory policy"),
            (with(bed, "/linux/seccomp", filter), "failed to connect with seccomp agent"),
        ];
        for (bundle, words) in rows {
            assert_line(words, &bed.run(&bundle), 1, &[words]);
        }
        for (options, args, words) in [
            (&["--cgroup=.."] as &[&str], &["/bin/true"], "\"..\": bad sub cgroup path"),
            (&[], &["/none"], "error: args[0]: exec: \"/none\": stat /none: no such file"),
            (&[], &["none"], "error: args[0]: exec: \"none\": executable file not found in $PATH"),
        ] {
            assert_line(words, &container.exec_call(options, args).output(), 255, &[words]);
        }
        // Warnings: one for each capability, since each is looked for.
        let ambient = json!(["CAP_SYS_RAWIO", "CAP_SYS_BOOT"]);
        let output = bed.run(&with(bed, "/process/capabilities/ambient", ambient));
        for name in ["CAP_SYS_RAWIO", "CAP_SYS_BOOT"] {
            let words = format!("can't raise ambient capability {name}: ");
            assert!(output.stderr.contains(&words), "{output}");
        }
        output.success();
        let poststop = bed.run(&failing("poststop"));
        assert!(poststop.stderr.contains("error running poststop hook #0: "), "{poststop}");
    });
}

#[test]
fn text_that_is_not_one_json_value_is_refused_with_its_place() {
    as_root(|bed| {
        if bed.is_peer("they give no place") {
            return;
        }
        let good = serde_json::to_string_pretty(&bed.bundle().config).unwrap();
        let config = "config.json";
        for (what, text, parts) in [
            ("broken", good.replacen("\"args\"", "args", 1), vec![config, "line ", "column "]),
            ("cut short", good[..good.len() / 2].to_owned(), vec![config, "EOF", "line "]),
            ("empty", String::new(), vec![config, "EOF", "line 1 column 0"]),
            ("two values", format!("{good}\n{{}}"), vec![config, "trailing", "line ", "column 1"]),
            (
                "a key given twice",
                good.replacen("\"cwd\"", "\"args\": [\"/bin/false\"], \"cwd\"", 1),
                vec![config, "args", "twice"],
            ),
            ("another type", "[1]".to_owned(), vec![config]),
            ("null", "null".to_owned(), vec![]),
            ("deep", "[".repeat(100_000), vec![config]),
        ] {
            let bundle = bed.bundle();
            bundle.save_text(&text);
            let output =
                bed.call().args(["run", "--bundle"]).arg(&bundle.path).arg(bed.id()).output();
            assert_line(what, &output, 1, &parts);
        }
        let bundle = bed.bundle();
        let output = bed.call().args(["run", "--bundle"]).arg(&bundle.path).arg(bed.id()).output();
        assert_line("no file", &output, 1, &["config.json", "No such file"]);
        let output = bed.runtime(["run", "--bundle", "/no/such/bundle", "x"]);
        assert_line("no bundle", &output, 1, &["/no/such/bundle"]);
        bed.assert_nothing_left();
    });
}

#[test]
fn another_file_than_config_json_is_told_by_its_own_name() {
    as_root(|bed| {
        if bed.is_peer("they name config.json, or none") {
            return;
        }
        let bundle = bed.bundle();
        bundle.save();
        let file = bed.write("other.json", "{\"root\": ");
        let call = bed.call().args(["run", "--config"]).arg(&file).arg("--bundle");
        let output = call.arg(&bundle.path).arg(bed.id()).output();
        assert!(output.failure(1).contains("other.json\": EOF"), "{output}");
    });
}

#[test]
fn null_in_any_place_neither_crashes_nor_leaves_anything() {
    as_root(|bed| {
        if bed.is_peer("it is a test of robustness of ours") {
            return;
        }
        let config = json!({
            "annotations": {"a": "b"}, "hostname": "x",
            "hooks": {"prestart": [{"path": "/bin/true", "args": ["true"], "env": ["A=b"], "timeout": 5}]},
        });
        let mut bundle = bed.bundle();
        for (key, value) in config.as_object().unwrap() {
            bundle = bundle.with(&format!("/{key}"), value.clone());
        }
        let bundle = bundle
            .with("/linux/resources", json!({"devices": [{"allow": false, "access": "rwm"}], "pids": {"limit": 100}}))
            .with("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}))
            .with("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "args": []}]}))
            .with("/process/rlimits", json!([{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}]));
        let mut pointers = Vec::new();
        collect(&bundle.config, String::new(), &mut pointers);
        // Without these there is a cgroup of another name, or of none.
        pointers
            .retain(|pointer| !["", "/linux", "/linux/cgroupsPath"].contains(&pointer.as_str()));
        for pointer in &pointers {
            let output = bed.run(&bundle.clone().with(pointer, Value::Null));
            assert!([0, 1].contains(&output.code), "{pointer}: {output}");
            assert!(output.code == 0 || output.stderr.lines().count() == 1, "{pointer}: {output}");
        }
        bed.assert_nothing_left();
        eprintln!("{} places", pointers.len());
    });
}

fn collect(value: &Value, pointer: String, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                collect(value, format!("{pointer}/{}", key.replace('/', "~1")), found);
            }
        }
        Value::Array(list) => {
            for (at, value) in list.iter().enumerate() {
                collect(value, format!("{pointer}/{at}"), found);
            }
        }
        _ => {}
    }
    found.push(pointer);
}

#[test]
fn absurd_sizes_are_borne() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 hangs over many variables") {
            return;
        }
        let long = bed.bundle().with("/annotations/huge", "x".repeat(20 << 20));
        let output = bed.run(&long.sh("echo ran"));
        assert!([0, 1].contains(&output.code), "{}", output.code);
        let odd = bed.bundle().with("/process/env", json!(["PATH=/bin", "NOTHING", "=", "=x"]));
        let output = bed.run(&odd);
        assert!([0, 1].contains(&output.code), "{output}");
        let many: Vec<_> = (0..100_000).map(|n| format!("V{n}=x")).collect();
        let output = bed.run(&bed.bundle().with("/process/env", many));
        assert!([0, 1].contains(&output.code), "{}", output.code);
        bed.assert_nothing_left();
    });
}

#[test]
fn ids_are_names_and_nothing_else() {
    as_root(|bed| {
        if bed.is_peer("runc does not show all of them, crun takes some") {
            return;
        }
        let bundle = bed.bundle().save().clone();
        let path = bundle.path.to_str().unwrap();
        let long = "x".repeat(1025);
        for id in ["../x", "a/b", "/", ".", "..", "a b", "\u{e9}", "a\nb", long.as_str()] {
            let output = bed.runtime(["create", "--bundle", path, id]);
            assert_eq!(output.code, 1, "{id:?}: {output}");
            let shown = id.replace('\n', "\\n");
            assert!(output.stderr.contains(&shown), "{id:?}: {output}");
            assert_eq!(output.stderr.lines().count(), 1, "{id:?}: {output}");
            for verb in ["state", "start", "kill", "delete"] {
                assert_eq!(bed.runtime([verb, id]).code, 1, "{verb} {id:?}");
            }
        }
        let output = bed.runtime(["create", "--bundle", path, ""]);
        assert_line("empty", &output, 1, &["id", "empty"]);
        assert!(!bed.directory.join("x").exists());
        bed.assert_nothing_left();
        for id in ["a", "A-b_c.d+e", "0"] {
            bed.runtime(["create", "--bundle", path, id]).success();
            bed.runtime(["delete", "--force", id]).success();
        }
    });
}

#[test]
fn an_id_in_use_is_told() {
    as_root(|bed| {
        if bed.is_peer("they have other words") {
            return;
        }
        let container = bed.create(&bed.bundle());
        let output = bed.create_call(&bed.bundle(), &container.id).output();
        assert_line("an ID in use", &output, 1, &[&container.id, "exists"]);
    });
}

#[test]
fn a_console_socket_that_nobody_listens_on_is_told() {
    as_root(|bed| {
        if bed.is_peer("they have other words") {
            return;
        }
        let dead = bed.directory.join("dead");
        drop(UnixListener::bind(&dead).unwrap());
        let file = bed.write("file", "");
        let missing = bed.directory.join("missing");
        let bundle = bed.bundle().with("/process/terminal", true);
        for path in [&dead, &file, &missing] {
            let call = bed.create_call(&bundle, &bed.id()).option("--console-socket", path);
            let path = path.to_str().unwrap();
            assert_line(path, &call.output(), 1, &["--console-socket", path]);
        }
        let bundle = bed.bundle();
        let socket = integration::terminal::ConsoleSocket::listen(bed);
        let call = bed.create_call(&bundle, &bed.id()).option("--console-socket", &socket.path);
        assert_line("no terminal", &call.output(), 1, &["--console-socket", "process.terminal"]);
        bed.assert_nothing_left();
    });
}

#[test]
fn a_bundle_whose_path_is_not_utf_8_is_told() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    as_root(|bed| {
        if bed.is_peer("they take it") {
            return;
        }
        let mut bundle = bed.bundle();
        let path = bundle.path.with_file_name(OsStr::from_bytes(b"bundle-\xff"));
        fs::rename(&bundle.path, &path).unwrap();
        bundle.path = path;
        assert_line("not UTF-8", &bed.run(&bundle), 1, &["bundle ", "\\xFF", "not UTF-8"]);
        bed.assert_nothing_left();
    });
}

#[test]
fn a_full_state_folder_is_told() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    as_root(|bed| {
        if bed.is_peer("they have other words") {
            return;
        }
        let root = bed.root();
        for (what, data) in [("no space", "size=4k"), ("no inode", "nr_inodes=2")] {
            mount(Some("tmpfs"), &root, Some("tmpfs"), MsFlags::empty(), Some(data)).unwrap();
            if data.starts_with("size") {
                fs::write(root.join("filler"), [0; 4096]).unwrap();
            } else {
                fs::write(root.join("filler"), "").unwrap();
            }
            let output = bed.run(&bed.bundle());
            umount2(&root, MntFlags::empty()).unwrap();
            assert_line(what, &output, 1, &[root.to_str().unwrap(), "No space left on device"]);
            bed.assert_nothing_left();
        }
        mount(Some("tmpfs"), &root, Some("tmpfs"), MsFlags::MS_RDONLY, None::<&str>).unwrap();
        let output = bed.run(&bed.bundle());
        umount2(&root, MntFlags::empty()).unwrap();
        assert_line("read-only", &output, 1, &[root.to_str().unwrap(), "Read-only file system"]);
        let file = bed.write("a-file", "");
        let bundle = bed.bundle();
        let call = bed.bare_call().arg("--root").arg(&file).args(["create", "--bundle"]);
        let output = call.arg(&bundle.save().path).arg("x").output();
        assert_line("a file", &output, 1, &[file.to_str().unwrap()]);
        bed.assert_nothing_left();
    });
}

/// Where an id can be given: tests/numbers.rs of the runtime has every number of a
/// configuration, this one the other ways too, and what the program would be.
///
/// | | |
/// |---|---|
/// | config.json | process.user, linux.devices, mappings of namespaces and mounts |
/// | `exec --process` | user |
/// | `exec` | --user, --additional-gids |
/// | mount options | uid= and gid=, which the file system reads itself |
#[test]
fn the_id_that_stands_for_none_is_refused_wherever_an_id_is_given() {
    const NONE: u32 = u32::MAX;
    as_root(|bed| {
        if bed.is_peer("they run the program as root") {
            return;
        }
        let device = json!({"path": "/dev/a", "type": "c", "major": 1, "minor": 3});
        let range = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
        let around = || {
            bed.bundle()
                .with("/linux/devices", json!([device]))
                .in_user_namespace(1)
                .mount("/data", "bind", bed.directory.to_str().unwrap(), &["bind"])
                .with("/mounts/4/uidMappings", range.clone())
                .with("/mounts/4/gidMappings", range.clone())
                .with("/process/user/additionalGids", json!([0]))
                .args(["/bin/id"])
        };
        for place in [
            "process.user.uid",
            "process.user.gid",
            "process.user.additionalGids[0]",
            "linux.devices[0].uid",
            "linux.devices[0].gid",
            "linux.uidMappings[0].containerID",
            "linux.uidMappings[0].hostID",
            "linux.gidMappings[0].containerID",
            "linux.gidMappings[0].hostID",
            "mounts[4].uidMappings[0].containerID",
            "mounts[4].uidMappings[0].hostID",
            "mounts[4].gidMappings[0].containerID",
            "mounts[4].gidMappings[0].hostID",
        ] {
            let pointer = format!("/{}", place.replace(['.', '['], "/").replace(']', ""));
            let bundle = around().with(&pointer, NONE);
            // A node of its own is made without a user namespace alone.
            let bundle = if place.contains("devices") {
                bed.bundle().with("/linux/devices", bundle.config["linux"]["devices"].clone())
            } else {
                bundle
            };
            assert_line(place, &bed.run(&bundle), 1, &[place, "4294967295"]);
        }
        for option in ["uid=4294967295", "gid=4294967295"] {
            let bundle = bed.bundle().mount("/data", "tmpfs", "tmpfs", &[option]);
            assert_line(option, &bed.run(&bundle), 1, &["mounts[4]", "4294967295"]);
        }
        let container = bed.start(&bed.bundle().sh("sleep 100"));
        for place in ["uid", "gid", "additionalGids"] {
            let mut user = json!({"uid": 0, "gid": 0});
            user[place] = if place == "additionalGids" { json!([NONE]) } else { json!(NONE) };
            let process = json!({"args": ["/bin/id"], "cwd": "/", "user": user});
            let file = bed.write("process.json", &process.to_string());
            let output = container.exec_call(&["--process", file.to_str().unwrap()], &[]).output();
            assert_line(place, &output, 255, &[&format!("user.{place}"), "4294967295"]);
        }
        for option in ["--user=4294967295", "--user=0:4294967295", "--additional-gids=5,4294967295"]
        {
            let output = container.exec_call(&[option], &["/bin/id"]).output();
            let name = option.split('=').next().unwrap();
            let code = if name == "--user" { 255 } else { 1 };
            assert_line(option, &output, code, &[name, "4294967295"]);
            assert_eq!(output.stdout, "");
        }
    });
}

/// | | |
/// |---|---|
/// | `--preserve-fds`, `LISTEN_FDS` | 3 is added to it: past 2^20 no process has descriptors |
/// | `--interval` | is added to the clock, which has 63 bits of nanoseconds |
/// | a signal | refused where it is none |
/// | limits of `update` | as in config.json |
#[test]
fn numbers_of_the_command_line_past_what_they_count_are_borne() {
    const EDGES: [u64; 7] =
        [(1 << 31) - 1, 1 << 31, (1 << 32) - 3, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, u64::MAX];
    as_root(|bed| {
        if bed.is_peer("they have other words") {
            return;
        }
        let bundle = bed.bundle().sh("echo ran");
        let container = bed.start(&bed.bundle().sh("sleep 100"));
        for number in EDGES {
            let text = number.to_string();
            let output = bed.run_call(&bundle).option("--preserve-fds", &text).output();
            assert_line(&text, &output, 1, &["--preserve-fds", &text]);
            let pid = "exec env LISTEN_PID=$$ LISTEN_FDS=$0 \"$@\"";
            let call = bed.program(Path::new("/bin/sh")).args(["-c", pid, &text]);
            let call = call.arg(integration::runtime().for_others(&bed.directory)).arg("--root");
            let call = call.arg(bed.root()).args(["run", "--bundle"]).arg(&bundle.save().path);
            assert_eq!(call.arg(bed.id()).output().success(), "ran", "{text} sockets");
            let output = bed.runtime(["kill", &container.id, &text]);
            assert_line(&text, &output, 1, &[&text]);
        }
        for interval in ["9223372037s", "9223372036854775807s", "18446744073709551615h"] {
            let output = bed.runtime(["events", "--interval", interval, &container.id]);
            assert_line(interval, &output, 1, &["--interval", interval]);
        }
    });
}

/// `c 4097:3` would be /dev/null, and 4294967295 "every number" to devices.allow.
#[test]
fn a_device_number_that_the_kernel_would_cut_short_is_refused() {
    as_root(|bed| {
        if bed.is_peer("they make another device") {
            return;
        }
        for (major, minor) in [(4097_u32, 3), (1, 0x10_0003), (u32::MAX, 3), (1, u32::MAX)] {
            let shown = if major == 1 { minor } else { major }.to_string();
            let node = json!({"path": "/dev/a", "type": "c", "major": major, "minor": minor});
            let bundle = bed.bundle().with("/linux/devices", json!([node])).sh("ls -l /dev/a");
            let output = bed.run(&bundle);
            assert_line(&shown, &output, 1, &["linux.devices[0].m", &shown]);
            let rule = json!({
                "allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm",
            });
            let bundle = bed.bundle().with("/linux/resources/devices", json!([rule]));
            let output = bed.run(&bundle);
            assert_line(&shown, &output, 1, &["linux.resources.devices[0]", &shown]);
        }
    });
}

#[test]
fn forbidden_user_namespaces_are_told_with_the_setting() {
    as_user(|bed| {
        if bed.is_peer("they name no setting") {
            return;
        }
        // The setting is one of each user namespace: of one made for this.
        let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"";
        let bundle = bed.bundle();
        let call = bed.program(Path::new("/usr/bin/unshare")).args(["--user", "--map-root-user"]);
        let call = call
            .args(["sh", "-c", script, "sh"])
            .arg(integration::runtime().for_others(&bed.directory));
        let call = call.arg("--root").arg(bed.root()).args(["run", "--bundle"]);
        let output = call.arg(&bundle.save().path).arg(bed.id()).output();
        let line = output.stderr.lines().last().unwrap_or_default().to_owned();
        assert_eq!(output.code, 1, "{output}");
        for part in ["linux.namespaces", "user.max_user_namespaces"] {
            assert!(line.contains(part), "{part:?} is not in {output}");
        }
        bed.assert_nothing_left();
    });
}

#[test]
fn the_log_holds_the_error_as_engines_read_it() {
    as_root(|bed| {
        let log = bed.directory.join("log.json");
        let bundle = bed.bundle().args(["no-such-program"]).save().clone();
        for format in ["json", "text"] {
            let call = bed.call().args(["--log-format", format, "--log"]).arg(&log);
            let output = call.args(["create", "--bundle"]).arg(&bundle.path).arg(bed.id()).output();
            assert!(output.code != 0, "{output}");
            let text = fs::read_to_string(&log).unwrap();
            let line = text.lines().last().unwrap();
            if format == "json" {
                // containerd's shim takes the last entry of this level.
                let entry: Value = serde_json::from_str(line).unwrap();
                assert_eq!(entry["level"], "error", "{line}");
                let message = entry["msg"].as_str().unwrap();
                assert!(message.contains("no-such-program"), "{line}");
                if !bed.is_peer("their messages on stderr differ from the log's") {
                    assert_eq!(output.stderr, format!("ferrun: error: {message}\n"));
                }
                let time = entry["time"].as_str().unwrap();
                assert!(time.len() >= 20 && time.as_bytes()[10] == b'T', "{line}");
            } else if !bed.is_peer("crun's text has another shape") {
                assert!(line.starts_with("time=\"") && line.contains("level=error msg="), "{line}");
            }
        }
        let call = bed.call().args(["--log", "/no/such/dir/log", "list"]);
        assert!(call.output().code != 0);
    });
}

#[test]
fn warnings_go_to_the_log_if_there_is_one() {
    as_root(|bed| {
        if bed.is_peer("crun 1.8 refuses an unknown capability") {
            return;
        }
        let log = bed.directory.join("log.json");
        let bundle = bed.bundle().capable(&["CAP_BOGUS"]).save().clone();
        let call = bed.call().args(["--log-format", "json", "--log"]).arg(&log);
        let output = call.args(["run", "--bundle"]).arg(&bundle.path).arg(bed.id()).output();
        assert_eq!((output.success(), output.stderr.as_str()), ("", ""), "{output}");
        let text = fs::read_to_string(&log).unwrap();
        assert!(!text.is_empty());
        for line in text.lines() {
            let entry: Value = serde_json::from_str(line).unwrap();
            assert_eq!(entry["level"], "warning");
            assert!(entry["msg"].as_str().unwrap().contains("CAP_BOGUS"), "{entry}");
        }
    });
}
