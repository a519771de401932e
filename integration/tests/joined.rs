//! Namespaces that are joined by their paths, each beside a user namespace that is the
//! caller's, new, or joined too. Who may enter which differs: a new user namespace has no
//! rights over the others, and what belongs to a joined one is entered from inside only.

use std::fs;
use std::path::{Path, PathBuf};

use integration::shared_too::{as_both, as_root, as_user};
use integration::{Bed, Container, Holder};
use serde_json::json;

/// A type of namespace by the names that the configuration, /proc/PID/ns and unshare(1)
/// have for it.
type Kind = (&'static str, &'static str, &'static str);

const KINDS: [Kind; 6] = [
    ("network", "net", "--net"),
    ("ipc", "ipc", "--ipc"),
    ("uts", "uts", "--uts"),
    ("pid", "pid", "--pid"),
    ("cgroup", "cgroup", "--cgroup"),
    ("time", "time", "--time"),
];

/// All ids of the host but the last.
const ALL_IDS: u32 = u32::MAX;

/// Runs a test as root with ferrun.
fn with_root(test: impl Fn(&Bed) + Sync) {
    as_root(|bed| {
        if !bed.is_peer("runc 1.1 and crun 1.8 can do some of it only") {
            test(bed);
        }
    });
}

/// Which namespace a process is in.
#[track_caller]
fn namespace(process: &str, file: &str) -> PathBuf {
    let path = format!("/proc/{process}/ns/{file}");
    fs::read_link(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The init process and what exec brings are in the namespaces of these files' processes.
#[track_caller]
fn assert_joined(container: &Container<'_>, files: &[(&str, PathBuf)], when: &str) {
    let pid = container.pid().to_string();
    for (file, expected) in files {
        assert_eq!(&namespace(&pid, file), expected, "{when}: {file}");
        let inside = container.exec(&["readlink", &format!("/proc/self/ns/{file}")]);
        assert_eq!(Path::new(inside.success()), expected, "{when}: {file} of exec");
    }
}

#[test]
fn each_is_joined_without_a_user_namespace() {
    with_root(|bed| {
        for (kind, file, flag) in KINDS {
            let holder = Holder::new(&[flag]);
            let bundle = bed.bundle().with_namespace(kind, Some(&holder.path(file)));
            let container = bed.start(&bundle.sh("sleep 100"));
            let joined = [(file, namespace(&holder.pid, file))];
            assert_joined(&container, &joined, kind);
        }
    });
}

#[test]
fn each_is_joined_beside_a_new_user_namespace() {
    with_root(|bed| {
        for (kind, file, flag) in KINDS {
            let holder = Holder::new(&[flag]);
            let bundle = bed.bundle().in_user_namespace(ALL_IDS);
            let bundle = bundle.with_namespace(kind, Some(&holder.path(file)));
            let container = bed.start(&bundle.sh("sleep 100"));
            let pid = container.pid().to_string();
            assert_ne!(namespace(&pid, "user"), namespace("self", "user"), "{kind}");
            assert_joined(&container, &[(file, namespace(&holder.pid, file))], kind);
        }
    });
}

#[test]
fn a_mount_namespace_cannot_be_joined_beside_a_new_user_namespace() {
    with_root(|bed| {
        let holder = Holder::new(&["--mount"]);
        let bundle = bed.bundle().in_user_namespace(ALL_IDS);
        let output = bed.run(&bundle.with_namespace("mount", Some(&holder.path("mnt"))));
        // Behind pid, network, ipc, uts and user.
        assert!(output.failure(1).contains("linux.namespaces[5].path"), "{output}");
        bed.assert_nothing_left();
    });
}

#[test]
fn each_is_new_or_joined_beside_a_joined_user_namespace() {
    with_root(|bed| {
        let user = ["--user", "--map-root-user"];
        let mut flags = user.to_vec();
        flags.extend(KINDS.map(|(.., flag)| flag));
        let own = Holder::new(&flags);
        let foreign = Holder::new(&flags[user.len()..]);
        for (kind, file, _) in KINDS {
            let bundle = bed.bundle().with_namespace("user", Some(&own.path("user")));
            let user = ("user", namespace(&own.pid, "user"));
            // What belongs to the user namespace, and what belongs to the caller's. A procfs
            // of foreign processes cannot be mounted: then there is the caller's.
            for holder in [&own, &foreign] {
                let bundle = bundle.clone().with_namespace(kind, Some(&holder.path(file)));
                let container = bed.start(&bundle.sh("sleep 100"));
                let joined = [user.clone(), (file, namespace(&holder.pid, file))];
                assert_joined(&container, &joined, kind);
                let warned = container.warnings.contains("the container sees the caller's /proc");
                assert_eq!(warned, kind == "pid" && holder.pid == foreign.pid, "{kind}");
            }
            let container = bed.start(&bundle.with_namespace(kind, None).sh("sleep 100"));
            let pid = container.pid().to_string();
            assert_joined(&container, &[user, (file, namespace(&pid, file))], kind);
            for other in [&own.pid, &foreign.pid, "self"] {
                assert_ne!(namespace(&pid, file), namespace(other, file), "new {kind}");
            }
        }
    });
}

#[test]
fn all_are_joined_together() {
    with_root(|bed| {
        let mut flags = vec!["--user", "--map-root-user", "--mount"];
        flags.extend(KINDS.map(|(.., flag)| flag));
        let holder = Holder::new(&flags);
        let mut bundle = bed.bundle().sh("sleep 100");
        let mut joined = Vec::new();
        for (kind, file, _) in [("user", "user", ""), ("mount", "mnt", "")].iter().chain(&KINDS) {
            bundle = bundle.with_namespace(kind, Some(&holder.path(file)));
            joined.push((*file, namespace(&holder.pid, file)));
        }
        let container = bed.start(&bundle);
        assert_joined(&container, &joined, "all");
    });
}

/// As the second container of a pod that has a user namespace, and a third one that
/// shares the processes of the first.
#[test]
fn an_ordinary_user_joins_what_is_his_own() {
    as_user(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 can do some of it only") {
            return;
        }
        let first = bed.start(&bed.bundle().with_namespace("cgroup", None).sh("sleep 100"));
        let path = |file: &str| PathBuf::from(format!("/proc/{}/ns/{file}", first.pid()));
        let user = bed
            .bundle()
            .without("/linux/uidMappings")
            .without("/linux/gidMappings")
            .with_namespace("user", Some(&path("user")))
            .sh("sleep 100");
        for (kind, file, _) in KINDS {
            if kind == "time" {
                continue; // The first one has the caller's.
            }
            let bundle = user.clone().with_namespace(kind, Some(&path(file)));
            let joined =
                ["user", file].map(|file| (file, namespace(&first.pid().to_string(), file)));
            assert_joined(&bed.start(&bundle), &joined, kind);
        }
        let second = bed.start(&user);
        let pid = second.pid().to_string();
        for file in ["pid", "net", "mnt", "ipc", "uts"] {
            assert_ne!(namespace(&pid, file), namespace(&first.pid().to_string(), file), "{file}");
        }
    });
}

#[test]
fn a_joined_or_new_time_namespace_is_not_that_of_hooks() {
    with_root(|bed| {
        let holder = Holder::new(&["--time", "--boottime", "1000000"]);
        let log = bed.write("log", "");
        let script = format!("readlink /proc/self/ns/time >> {}", log.display());
        let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
        let mut bundles = [
            bed.bundle().with_namespace("time", Some(&holder.path("time"))),
            bed.bundle()
                .with_namespace("time", None)
                .with("/linux/timeOffsets", json!({"boottime": {"secs": 1_000_000}})),
        ];
        for bundle in &mut bundles {
            for kind in ["createRuntime", "poststart", "poststop"] {
                *bundle = bundle.clone().with(&format!("/hooks/{kind}"), hook.clone());
            }
        }
        let before = boot_time(&fs::read_to_string("/proc/uptime").unwrap());
        for bundle in bundles {
            let output = bed.run(&bundle.args(["cat", "/proc/uptime"]));
            let ahead = boot_time(output.success()) - before;
            assert!((1_000_000..1_000_100).contains(&ahead), "{output}");
        }
        let found = fs::read_to_string(log).unwrap();
        let own = namespace("self", "time");
        assert_eq!(found.lines().collect::<Vec<_>>(), [own.to_str().unwrap(); 6]);
    });
}

#[test]
fn a_new_time_namespace_beside_a_joined_user_namespace_has_its_offsets() {
    as_both(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 know no time namespace") {
            return;
        }
        // An ordinary user may join what is his own: the namespaces of a container of his.
        let first = bed.bundle();
        let first = if bed.is_rootless() { first } else { first.in_user_namespace(65_536) };
        let first = bed.start(&first.sh("sleep 100"));
        let of_first = |file: &str| PathBuf::from(format!("/proc/{}/ns/{file}", first.pid()));
        let log = bed.write("log", "");
        let script = format!("cat /proc/self/timens_offsets >> {}", log.display());
        let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
        let bundle = bed
            .bundle()
            .with_namespace("user", Some(&of_first("user")))
            .with_namespace("time", None)
            .with("/linux/uidMappings", json!([]))
            .with("/linux/gidMappings", json!([]))
            .with("/linux/timeOffsets", json!({"boottime": {"secs": 1_000_000, "nanosecs": 7}}))
            .with("/hooks/createContainer", hook)
            .sh("sleep 100");
        let joined = bundle.clone().with_namespace("pid", Some(&of_first("pid")));
        for (case, bundle) in [("new", bundle), ("joined", joined)] {
            let container = bed.start(&bundle);
            let pid = container.pid();
            let user = ("user", namespace(&first.pid().to_string(), "user"));
            let time = ("time", namespace(&pid.to_string(), "time"));
            assert_ne!(time.1, namespace("self", "time"), "{case} pid");
            assert_joined(&container, &[user, time], case);
            let offsets = container.exec(&["cat", "/proc/self/timens_offsets"]);
            let words: Vec<_> = offsets.success().split_whitespace().collect();
            assert_eq!(words, ["monotonic", "0", "0", "boottime", "1000000", "7"], "{case} pid");
            let found = fs::read_to_string(&log).unwrap();
            assert!(found.contains("1000000"), "{case} pid: {found}");
            fs::write(&log, "").unwrap();
        }
    });
}

/// The seconds since boot that /proc/uptime tells.
fn boot_time(text: &str) -> i64 {
    text.split('.').next().unwrap().parse().unwrap()
}

/// As the containers of a pod with a user namespace of its own, whose root is nobody outside.
#[test]
fn the_namespaces_of_a_container_whose_root_is_nobody_are_joined() {
    with_root(|bed| {
        let ids = json!([{"containerID": 0, "hostID": 200_000, "size": 65_536}]);
        let mapped = bed
            .bundle()
            .in_user_namespace(1)
            .with("/linux/uidMappings", ids.clone())
            .with("/linux/gidMappings", ids);
        for path in [&mapped.path, &mapped.rootfs()] {
            std::os::unix::fs::chown(path, Some(200_000), Some(200_000)).unwrap();
        }
        let first = bed.start(&mapped.sh("sleep 100"));
        let of_first = |file: &str| PathBuf::from(format!("/proc/{}/ns/{file}", first.pid()));
        for kinds in [&[("user", "user"), ("pid", "pid")][..], &[("user", "user")]] {
            let mut bundle = bed.bundle();
            std::os::unix::fs::chown(bundle.rootfs(), Some(200_000), Some(200_000)).unwrap();
            for (kind, file) in kinds {
                bundle = bundle.with_namespace(kind, Some(&of_first(file)));
            }
            let second = bed.start(&bundle.sh("sleep 100"));
            let first_pid = first.pid().to_string();
            let files: Vec<_> =
                kinds.iter().map(|(_, file)| (*file, namespace(&first_pid, file))).collect();
            assert_joined(&second, &files, "nobody's");
            // Its procfs is of the pid namespace that it is in.
            let seen = second.sh("grep -l sleep /proc/[0-9]*/comm | wc -l");
            let expected = if kinds.len() == 2 { "2" } else { "1" };
            assert_eq!(seen.success(), expected);
            assert!(!second.warnings.contains("/proc"), "{}", second.warnings);
        }
    });
}

/// Hardened hosts forbid user namespaces, to root too. The limit is that of the user namespace
/// that the caller is in.
#[test]
fn a_pid_namespace_is_joined_where_there_are_no_user_namespaces() {
    with_root(|bed| {
        let holder = Holder::new(&["--user", "--map-root-user"]);
        let ferrun = |first: &str| {
            let enter = ["--user", "--preserve-credentials", "--target", &holder.pid];
            let call = bed.program("/usr/bin/nsenter".as_ref()).args(enter);
            let script = format!("{first}; exec \"$@\"");
            let call = call.args(["/bin/sh", "-c", &script, "sh"]);
            call.arg(&integration::runtime().program).arg("--root").arg(bed.root())
        };
        let bundle = || bed.bundle().without("/linux/cgroupsPath");
        let id = bed.id();
        let first = bundle().sh("sleep 100").save().clone();
        let create = ferrun("true").args(["create", "--bundle"]).arg(&first.path).arg(&id);
        let neighbour = Container::create(bed, &id, create);
        let pids = PathBuf::from(format!("/proc/{}/ns/pid", neighbour.pid()));
        let joined = bundle().with_namespace("pid", Some(&pids));
        let joined = joined.sh("readlink /proc/self/ns/pid").save().clone();
        for limit in ["100", "0"] {
            let call = ferrun(&format!("echo {limit} > /proc/sys/user/max_user_namespaces"));
            let output = call.args(["run", "--bundle"]).arg(&joined.path).arg(bed.id()).output();
            assert_eq!(Path::new(output.success()), namespace(&neighbour.pid().to_string(), "pid"));
            let warned = output.stderr.contains("forbidden by user.max_user_namespaces = 0");
            assert_eq!(warned, limit == "0", "{output}");
        }
    });
}
