//! What other runtimes had to mend or to add, each tried here. `changelogs.md` beside this
//! directory lists all of it; the numbers are its rows.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use integration::{
    Bed, Bundle, MACHINE, View, as_root, as_user, copy_program, eventually, in_views, runtime,
    with_controllers,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

/// A row of the list: its number, what is run, and what comes of it.
type Row = (&'static str, fn(&Bed) -> Bundle, Expected);

enum Expected {
    /// Exactly this is printed, but for white space at both ends.
    Prints(&'static str),
    /// Among what is printed.
    Holds(&'static str),
    /// An error with each of these words.
    Refused(&'static [&'static str]),
}
use Expected::{Holds, Prints, Refused};

/// Runs all rows before the test fails.
fn try_all(rows: &[Row]) {
    as_root(|bed| {
        if bed.is_peer("what a peer had to mend may be wrong in an old version of it") {
            return;
        }
        let mut wrong = Vec::new();
        for (number, bundle, expected) in rows {
            let bundle = bundle(bed);
            let own = mounts_of(bed);
            let output = bed.run(&bundle);
            for place in own.iter().rev() {
                umount2(place.as_str(), MntFlags::MNT_DETACH).expect("what the row has mounted");
            }
            let is_right = match expected {
                Prints(text) => output.code == 0 && output.stdout.trim() == *text,
                Holds(text) => output.code == 0 && output.stdout.contains(text),
                Refused(words) => {
                    output.code == 1 && words.iter().all(|word| output.stderr.contains(word))
                }
            };
            if !is_right {
                wrong.push(format!("{number}: {output}"));
            }
            bed.assert_nothing_left();
        }
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    });
}

/// What is mounted in the bed by now.
fn mounts_of(bed: &Bed) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/thread-self/mounts").expect("mounts");
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    places.filter(|place| place.contains(&bed.name)).map(str::to_owned).collect()
}

/// Prints the options of what is mounted at a place, the file system's own behind them.
fn show(place: &str) -> String {
    format!("awk '$5 == \"{place}\" {{ print $6, $NF }}' /proc/self/mountinfo")
}

/// A directory of the bed, mounted on itself as a tmpfs with these flags.
fn file_system(bed: &Bed, flags: MsFlags) -> String {
    let directory = bed.make_directory(&format!("file-system-{}", bed.next()), 0o755);
    mount(Some("x"), &directory, Some("tmpfs"), flags, None::<&str>).expect("a tmpfs");
    directory.to_str().expect("UTF-8").to_owned()
}

fn source(bed: &Bed) -> String {
    let directory = bed.make_directory(&format!("source-{}", bed.next()), 0o755);
    fs::write(directory.join("file"), "content\n").expect("a file");
    directory.to_str().expect("UTF-8").to_owned()
}

/// The last mount comes first.
fn first(mut bundle: Bundle) -> Bundle {
    bundle.config["mounts"].as_array_mut().expect("mounts").rotate_right(1);
    bundle
}

#[test]
fn mounts() {
    try_all(&[
        (
            "M01",
            |bed| {
                let source = file_system(bed, MsFlags::MS_RDONLY | MsFlags::MS_NOEXEC);
                let bundle = bed.bundle().mount("/data", "bind", &source, &["rbind", "rw", "exec"]);
                bundle.sh(&show("/data"))
            },
            Holds("rw,relatime"),
        ),
        (
            "M03",
            |bed| {
                let source = file_system(bed, MsFlags::MS_NOEXEC);
                let bundle = bed.bundle().in_user_namespace(65_536);
                bundle.mount("/data", "bind", &source, &["bind"]).sh(&show("/data"))
            },
            Holds("rw,noexec,relatime"),
        ),
        (
            "M04",
            |bed| bed.bundle().mount("/data", "bind", &source(bed), &["bind", "size=1m"]),
            Prints(""),
        ),
        (
            "M05",
            |bed| bed.bundle().mount("/data", "tmpfs", "tmpfs", &["acl"]),
            Refused(&["mounts[4].options", "acl"]),
        ),
        (
            "M06",
            |bed| bed.bundle().mount("/da\0ta", "tmpfs", "tmpfs", &[]),
            Refused(&["mounts[", "].destination: a NUL"]),
        ),
        (
            "M06",
            |bed| bed.bundle().mount("/data", "tm\0pfs", "tmpfs", &[]),
            Refused(&["mounts[", "].type: a NUL"]),
        ),
        (
            "M06",
            |bed| bed.bundle().mount("/data", "tmpfs", "tm\0pfs", &[]),
            Refused(&["mounts[", "].source: a NUL"]),
        ),
        (
            "M06",
            |bed| bed.bundle().mount("/data", "tmpfs", "tmpfs", &["mode=1\0"]),
            Refused(&["mounts[", "].options[0]: a NUL"]),
        ),
        (
            "M08",
            |bed| {
                let source = file_system(bed, MsFlags::MS_NOATIME);
                bed.bundle()
                    .mount("/data", "bind", &source, &["rbind", "ratime"])
                    .sh(&show("/data"))
            },
            Holds("rw,relatime"),
        ),
        (
            "M08",
            |bed| {
                let source = file_system(bed, MsFlags::MS_NOATIME);
                bed.bundle()
                    .mount("/data", "bind", &source, &["rbind", "rrelatime"])
                    .sh(&show("/data"))
            },
            Holds("rw,relatime"),
        ),
        (
            "M08",
            |bed| {
                let source = file_system(bed, MsFlags::MS_STRICTATIME);
                bed.bundle()
                    .mount("/data", "bind", &source, &["rbind", "rnostrictatime"])
                    .sh(&show("/data"))
            },
            Holds("rw,relatime"),
        ),
        (
            "M09",
            |bed| {
                let file = format!("{}/file", source(bed));
                bed.bundle().mount("/data", "bind", &file, &["bind", "rro"]).sh(&show("/data"))
            },
            Holds("ro,"),
        ),
        (
            "M09",
            |bed| {
                let fifo = format!("{}/fifo", source(bed));
                nix::unistd::mkfifo(&*fifo, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
                let bundle = bed.bundle().mount("/data", "bind", &fifo, &["bind", "rnoexec"]);
                bundle.sh("stat -c %F /data")
            },
            Prints("fifo"),
        ),
        (
            "M10",
            |bed| {
                let source = file_system(bed, MsFlags::MS_RDONLY);
                bed.bundle().mount("/data", "bind", &source, &["rbind", "rw"])
            },
            Prints(""),
        ),
        (
            "M15",
            |bed| {
                bed.bundle()
                    .mount("/sys", "sysfs", "sysfs", &["ro"])
                    .mount("/dev/mqueue", "mqueue", "mqueue", &[])
                    .sh("stat -c %a /proc /sys /dev/mqueue | tr '\\n' ' '")
            },
            Prints("555 555 1777"),
        ),
        (
            "M17",
            |bed| bed.bundle().mount("/data", "none", &source(bed), &["bind"]).sh("cat /data/file"),
            Prints("content"),
        ),
        (
            "M17",
            |bed| {
                let bundle = bed.bundle().mount("/data", "none", &source(bed), &["rbind"]);
                bundle.without("/mounts/4/type").sh("cat /data/file")
            },
            Prints("content"),
        ),
        (
            "M20",
            |bed| {
                let bundle = bed.bundle().mount(
                    "/etc/passwd",
                    "bind",
                    &format!("{}/file", source(bed)),
                    &["bind"],
                );
                bundle.write("/etc/passwd", "root:x:0:0::/:/bin/sh\n");
                let rootfs = bundle.rootfs();
                for name in ["data", "root"] {
                    let _ = fs::create_dir(rootfs.join(name));
                }
                mount(Some(&rootfs), &rootfs, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                    .expect("a bind");
                let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
                mount(None::<&str>, &rootfs, None::<&str>, flags, None::<&str>).expect("read-only");
                bundle.sh("cat /etc/passwd")
            },
            Prints("content"),
        ),
        (
            "M22",
            |bed| {
                let file = format!("{}/file", source(bed));
                let bundle =
                    bed.bundle().mount("/proc/sys/kernel/ns_last_pid", "bind", &file, &["bind"]);
                bundle.sh("cat /proc/sys/kernel/ns_last_pid")
            },
            Prints("content"),
        ),
        (
            "M24",
            |bed| {
                let file = format!("{}/file", source(bed));
                let bundle = bed.bundle().mount("/proc/cmdline", "bind", &file, &["bind"]);
                bundle
                    .mount("/proc/uptime", "bind", &file, &["bind"])
                    .sh("cat /proc/cmdline /proc/uptime | uniq")
            },
            Prints("content"),
        ),
        (
            "M30",
            |bed| {
                bed.bundle()
                    .mount("/sys", "sysfs", "sysfs", &["ro"])
                    .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro"])
                    .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro"])
                    .sh("grep -c ' /sys/fs/cgroup ' /proc/self/mounts | grep -v ^0")
            },
            Holds(""),
        ),
        (
            "M34",
            |bed| {
                let bundle = bed.bundle();
                let upper = bed.bundle_of(bundle.config.clone());
                upper.write("/made", "by the upper one\n");
                let upper = upper.rootfs().to_str().expect("UTF-8").to_owned();
                let bundle = first(bundle.mount("/", "bind", &upper, &["rbind"]));
                bundle.sh("cat /made; readlink /dev/fd; ls -d /proc/self")
            },
            Prints("by the upper one\n/proc/self/fd\n/proc/self"),
        ),
        (
            "M34",
            |bed| {
                let [upper, work] = ["upper", "work"].map(|name| bed.make_directory(name, 0o755));
                let bundle = bed.bundle();
                let lower = bundle.rootfs();
                let layers = [("lowerdir", &lower), ("upperdir", &upper), ("workdir", &work)];
                let layers = layers.map(|(key, path)| format!("{key}={}", path.display()));
                let layers = layers.iter().map(String::as_str).collect::<Vec<_>>();
                let bundle = first(bundle.mount("/", "overlay", "overlay", &layers));
                bundle.sh(
                    "echo x > /written; awk '$5 == \"/\" { print $(NF - 2) }' /proc/self/mountinfo",
                )
            },
            Prints("overlay"),
        ),
        (
            "M28",
            |bed| {
                let source = source(bed);
                let mut bundle = bed.bundle();
                for number in 0..300 {
                    bundle = bundle.mount(&format!("/data/{number}"), "bind", &source, &["bind"]);
                }
                bundle.sh("ls /data | wc -l")
            },
            Prints("300"),
        ),
        (
            "M32",
            |bed| {
                let bundle = bed.bundle().in_user_namespace(65_536).without_namespace("network");
                let bundle =
                    bundle.mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]);
                bundle.sh("awk '$5 == \"/sys\" { print substr($6, 1, 3) }' /proc/self/mountinfo; mkdir /sys/x 2>&1; true")
            },
            Holds("ro,"),
        ),
        (
            "R14",
            |bed| {
                let bundle = bed
                    .bundle()
                    .mount("/data", "bind", &source(bed), &["bind"])
                    .sh("cat /none/file");
                std::os::unix::fs::symlink("/none", bundle.rootfs().join("data")).expect("a link");
                bundle
            },
            Prints("content"),
        ),
        (
            "M40",
            |bed| {
                let bundle = bed.bundle().mount("/group/deep/er", "tmpfs", "tmpfs", &[]);
                let directory = bundle.rootfs().join("group");
                fs::create_dir(&directory).expect("a directory");
                nix::unistd::chown(&directory, None, Some(5.into())).expect("chown");
                fs::set_permissions(&directory, fs::Permissions::from_mode(0o2775)).expect("chmod");
                bundle.sh("stat -c %a:%g /group/deep")
            },
            Prints("2755:5"),
        ),
        (
            "M46",
            |bed| {
                let bundle =
                    bed.bundle().in_user_namespace(65_536).mount("/data", "tmpfs", "tmpfs", &[]);
                let map = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
                bundle.with("/mounts/4/uidMappings", map.clone()).with("/mounts/4/gidMappings", map)
            },
            Refused(&["mounts[4].uidMappings"]),
        ),
        (
            "M46",
            |bed| {
                let map = json!([{"containerID": 0, "hostID": 7, "size": 1}]);
                bed.bundle()
                    .mount("/data", "tmpfs", "tmpfs", &[])
                    .with("/mounts/4/uidMappings", map.clone())
                    .with("/mounts/4/gidMappings", map)
                    .sh("touch /data/x; stat -c %u /data/x")
            },
            Refused(&["mounts[4].uidMappings", "only a bind mount"]),
        ),
    ]);
}

#[test]
fn masks_and_read_only_paths() {
    try_all(&[
        (
            "R02",
            |bed| {
                let bundle = bed.bundle().with("/linux/maskedPaths", json!(["/etc", "/var"]));
                bundle.sh(
                    "touch /etc/x 2>&1; ls -A /etc /var; stat -c %d /etc /var | sort -u | wc -l",
                )
            },
            Holds("Read-only file system"),
        ),
        (
            "R03",
            |bed| {
                let bundle =
                    bed.bundle().mount("/data", "tmpfs", "tmpfs", &["nosuid", "nodev", "noexec"]);
                let bundle = bundle.with("/linux/maskedPaths", json!(["/data"]));
                bundle.sh("awk '$5 == \"/data\" { print $6 }' /proc/self/mountinfo | tail -n 1")
            },
            Holds("nosuid,nodev,noexec"),
        ),
        (
            "R04",
            |bed| {
                let bundle = bed.bundle().with("/root/readonly", true).sh(&show("/"));
                let rootfs = bundle.rootfs();
                mount(Some(&rootfs), &rootfs, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                    .expect("a bind");
                let flags =
                    MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
                mount(None::<&str>, &rootfs, None::<&str>, flags, None::<&str>).expect("a remount");
                bundle
            },
            Holds("ro,nosuid,nodev"),
        ),
        (
            "R05",
            |bed| {
                let bundle = bed.bundle().with("/root/readonly", true).sh("cat /tmp/by-hook");
                let script = format!("echo made > {}/tmp/by-hook", bundle.rootfs().display());
                bundle.with(
                    "/hooks/createContainer",
                    json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]),
                )
            },
            Prints("made"),
        ),
        (
            "R06",
            |bed| {
                let bundle =
                    bed.bundle().with("/mounts/1/options", json!(["nosuid", "mode=755", "ro"]));
                bundle.sh("touch /dev/x 2>&1; echo to > /dev/null && ls /dev | grep -c null")
            },
            Holds("Read-only file system\n1"),
        ),
    ]);
}

#[test]
fn namespaces() {
    try_all(&[
        (
            "N01",
            |bed| bed.bundle().with("/linux/namespaces/-", json!({"type": "pid"})),
            Refused(&["linux.namespaces[5]", "pid"]),
        ),
        (
            "N02",
            |bed| {
                let net = "/proc/self/ns/net";
                bed.bundle().with_namespace("network", Some(Path::new(net))).sh("echo went")
            },
            Prints("went"),
        ),
        (
            "N08",
            |bed| {
                let map = json!([{"containerID": 1000, "hostID": 100_000, "size": 10}]);
                let bundle = bed.bundle().with_namespace("user", None);
                let bundle =
                    bundle.with("/linux/uidMappings", map.clone()).with("/linux/gidMappings", map);
                bundle.with("/process/user", json!({"uid": 1000, "gid": 1000})).sh("id -u; id -g")
            },
            Refused(&["linux.uidMappings", "root is not mapped"]),
        ),
        (
            "N10",
            |bed| {
                let map = json!([{"containerID": 0, "hostID": 0, "size": u32::MAX}]);
                let bundle = bed.bundle().with_namespace("user", None);
                let bundle =
                    bundle.with("/linux/uidMappings", map.clone()).with("/linux/gidMappings", map);
                bundle.sh("echo $(cat /proc/self/uid_map)")
            },
            Prints("0 0 4294967295"),
        ),
        (
            "N12",
            |bed| {
                let bundle = bed.bundle().in_user_namespace(65_536);
                bundle
                    .with("/linux/sysctl", json!({"user.max_net_namespaces": "7"}))
                    .sh("cat /proc/sys/user/max_net_namespaces")
            },
            Prints("7"),
        ),
        (
            "N14",
            |bed| {
                let bundle = bed.bundle().in_user_namespace(10);
                bundle.with("/linux/sysctl", json!({"net.ipv4.ping_group_range": "0 2147483647"}))
            },
            Refused(&["linux.sysctl", "ping_group_range"]),
        ),
        (
            "N17",
            |bed| {
                bed.bundle()
                    .with("/linux/netDevices", json!({"nonesuch": {"name": "a-name-of-16-byt"}}))
            },
            Refused(&["netDevices", "a-name-of-16-byt"]),
        ),
        (
            "N17",
            |bed| bed.bundle().with("/linux/netDevices", json!({"none/such": {}})),
            Refused(&["netDevices", "none/such"]),
        ),
        (
            "N17",
            |bed| {
                bed.bundle()
                    .without_namespace("network")
                    .with("/linux/netDevices", json!({"lo": {}}))
            },
            Refused(&["netDevices"]),
        ),
        (
            "N18",
            |bed| {
                let filter = json!({
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": ["personality"], "action": "SCMP_ACT_ERRNO"}],
                });
                let bundle = bed.bundle().with("/linux/seccomp", filter);
                bundle.with("/linux/personality", json!({"domain": "LINUX32"})).sh("uname -m")
            },
            Prints(MACHINE[1]),
        ),
    ]);
}

#[test]
fn groups() {
    try_all(&[
        (
            "CG04",
            |bed| bed.bundle().with("/linux/resources", json!({"memory": {"kernel": 10_000_000}})),
            Prints(""),
        ),
        (
            "CG05",
            |bed| {
                bed.bundle().with(
                    "/linux/resources",
                    json!({"hugepageLimits": [{"pageSize": "../../x", "limit": 1}]}),
                )
            },
            Refused(&["linux.resources.hugepageLimits[0].pageSize", "../../x"]),
        ),
        (
            "CG07",
            |bed| {
                let memory = json!({"limit": 100_000_000, "swappiness": 0, "disableOOMKiller": false, "useHierarchy": true});
                bed.bundle().with("/linux/resources", json!({"memory": memory}))
            },
            Prints(""),
        ),
        (
            "CG11",
            |bed| {
                bed.bundle().with(
                    "/linux/resources",
                    json!({"pids": {"limit": -1}, "cpu": {"shares": 0, "quota": 0, "period": 0}}),
                )
            },
            Prints(""),
        ),
        (
            "CG15",
            |bed| {
                bed.bundle()
                    .with("/linux/resources", json!({"rdma": {"mlx5_1": {"hcaHandles": 3}}}))
            },
            Refused(&["rdma"]),
        ),
        (
            "V25",
            |bed| {
                bed.bundle().with("/linux/resources", json!({"memory": {"limit": -1, "swap": -1}}))
            },
            Prints(""),
        ),
    ]);
}

#[test]
fn devices() {
    try_all(&[
        (
            "DV01",
            |bed| {
                let device = json!({"path": "/dev/a", "type": "c", "major": 1, "minor": 3});
                bed.bundle().with("/linux/devices/-", device).sh("stat -c %a /dev/a")
            },
            Prints("666"),
        ),
        (
            "DV02",
            |bed| {
                let device = json!({"path": "/dev/a/b/c", "type": "c", "major": 1, "minor": 3});
                bed.bundle()
                    .with("/linux/devices/-", device)
                    .sh("stat -c %a /dev/a /dev/a/b | uniq")
            },
            Prints("755"),
        ),
        (
            "DV05",
            |bed| {
                let device = |path: &str, minor| json!({"path": path, "type": "c", "major": 5, "minor": minor});
                let devices = json!([
                    device("/dev/ptmx", 2),
                    device("/dev/tty", 0),
                    device("/dev/console", 1)
                ]);
                bed.bundle()
                    .with("/linux/devices", devices)
                    .sh("readlink /dev/ptmx; stat -c %F /dev/tty")
            },
            Prints("pts/ptmx\ncharacter special file"),
        ),
        (
            "DV05",
            |bed| {
                let device = |path: &str, minor| json!({"path": path, "type": "c", "major": 5, "minor": minor});
                let devices = json!([
                    device("/dev/ptmx", 2),
                    device("/dev/tty", 0),
                    device("/dev/console", 1)
                ]);
                let bundle = bed.bundle().in_user_namespace(65_536).with("/linux/devices", devices);
                bundle.sh("readlink /dev/ptmx; stat -c %F /dev/tty")
            },
            Prints("pts/ptmx\ncharacter special file"),
        ),
        (
            "DV07",
            |bed| {
                let device = json!({"path": "/dev/a/", "type": "c", "major": 1, "minor": 3});
                bed.bundle().with("/linux/devices/-", device).sh("stat -c %F /dev/a")
            },
            Prints("character special file"),
        ),
        (
            "DV11",
            |bed| {
                let device = json!({"path": "/dev/a", "type": "c", "major": 1, "minor": 3, "fileMode": 0o20640});
                bed.bundle().with("/linux/devices/-", device).sh("stat -c %a /dev/a")
            },
            Prints("640"),
        ),
        (
            "DV03",
            |bed| {
                let device = json!({"path": "/dev/full", "type": "c", "major": 1, "minor": 7, "uid": 1000, "gid": 1000});
                let bundle = bed.bundle().with("/linux/devices/-", device);
                bundle.sh("stat -c %u:%g /dev/full")
            },
            Prints("1000:1000"),
        ),
    ]);
}

#[test]
fn filters() {
    try_all(&[
        (
            "SE01",
            |bed| {
                let filter = json!({
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [
                        {"names": ["mkdir"], "action": "SCMP_ACT_ALLOW"},
                        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
                    ],
                });
                bed.bundle().with("/linux/seccomp", filter).sh("mkdir /tmp/x 2>&1; true")
            },
            Holds("Permission denied"),
        ),
        (
            "SE02",
            |bed| {
                let condition = |value| json!({"index": 0, "value": value, "op": "SCMP_CMP_EQ"});
                let filter = json!({
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{
                        "names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13,
                        "args": [condition(1), condition(2)],
                    }],
                });
                let bundle = bed.bundle().with("/linux/seccomp", filter);
                bundle.sh("kill -0 1 2>&1; kill -0 2 2>&1; kill -0 3 2>&1; true")
            },
            Holds("Permission denied\nsh: "),
        ),
        (
            "SE03",
            |bed| {
                let filter = json!({
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}],
                });
                bed.bundle().with("/linux/seccomp", filter).sh("mkdir /tmp/x; echo $?")
            },
            Holds("159"),
        ),
        (
            "SE03",
            |bed| {
                let filter = json!({
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_TRACE", "errnoRet": 5}],
                });
                bed.bundle().with("/linux/seccomp", filter).sh("mkdir /tmp/x 2>&1; true")
            },
            Holds("Function not implemented"),
        ),
        (
            "SE03",
            |bed| {
                let filter = json!({
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_LOG"}],
                });
                bed.bundle().with("/linux/seccomp", filter).sh("mkdir /tmp/x && echo made")
            },
            Prints("made"),
        ),
        (
            "SE05",
            |bed| {
                let filter = json!({
                    "defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
                });
                bed.bundle().with("/linux/seccomp", filter).sh("echo went")
            },
            Refused(&["linux.seccomp", "flags[0]", "SCMP_ACT_NOTIFY"]),
        ),
        (
            "SE06",
            |bed| bed.bundle().with("/linux/seccomp", json!({})),
            Refused(&["seccomp", "defaultAction"]),
        ),
    ]);
}

#[test]
fn processes() {
    try_all(&[
        (
            "P05",
            |bed| {
                let bundle = bed.bundle().with("/process/env", json!(["PATH=/bin", "HOME="]));
                bundle.write("/etc/passwd", "root:x:0:0::/roots-own:/bin/sh\n");
                bundle.sh("echo [$HOME]")
            },
            Prints("[]"),
        ),
        (
            "P06",
            |bed| {
                let bundle = bed.bundle().with("/process/env", json!(["PATH=/bin"]));
                bundle.write(
                    "/etc/passwd",
                    &format!(
                        "{}:x:7:7::/no:/bin/sh\nroot:x:0:0::/yes:/bin/sh\n",
                        "x".repeat(100_000)
                    ),
                );
                bundle.sh("echo $HOME")
            },
            Prints("/yes"),
        ),
        (
            "P07",
            |bed| {
                let bundle =
                    bed.bundle().with("/process/env", json!(["PATH=/bin:/data"])).args([".hidden"]);
                bundle.write("/data/.hidden", "#!/bin/sh\necho ran\n");
                let path = bundle.rootfs().join("data/.hidden");
                fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
                bundle
            },
            Prints("ran"),
        ),
        (
            "P11",
            |bed| bed.bundle().with("/process/env", json!(["PATH=/bin", "KEY=secret\0more"])),
            Refused(&["process.env"]),
        ),
        (
            "P12",
            |bed| {
                let user = json!({"uid": 0, "gid": 0, "additionalGids": [7, 7]});
                bed.bundle().with("/process/user", user).sh("id -G")
            },
            Prints("0 7"),
        ),
        (
            "P14",
            |bed| {
                bed.bundle()
                    .with("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "5000"}))
            },
            Refused(&["linux.memoryPolicy"]),
        ),
        (
            "EX15",
            |bed| {
                let bundle = bed
                    .bundle()
                    .mount("/data", "tmpfs", "tmpfs", &["noexec", "tmpcopyup"])
                    .args(["/data/program"]);
                bundle.write("/data/program", "#!/bin/sh\necho ran\n");
                let path = bundle.rootfs().join("data/program");
                fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
                bundle
            },
            Refused(&["process.args[0]", "/data/program", "permission denied"]),
        ),
        (
            "EX16",
            |bed| {
                let bundle = bed.bundle().args(["/program"]).capable(&["CAP_DAC_OVERRIDE"]);
                bundle.write("/program", "#!/bin/sh\necho ran\n");
                let path = bundle.rootfs().join("program");
                fs::set_permissions(&path, fs::Permissions::from_mode(0o100)).expect("chmod");
                nix::unistd::chown(&path, Some(1000.into()), None).expect("chown");
                bundle
            },
            Prints("ran"),
        ),
        (
            "EX17",
            |bed| {
                let user = json!({"uid": 1000, "gid": 1000});
                let bundle = bed.bundle().args(["/closed/program"]).with("/process/user", user);
                bundle.write("/closed/program", "#!/bin/sh\necho ran\n");
                let directory = bundle.rootfs().join("closed");
                for (path, mode) in [(directory.join("program"), 0o700), (directory, 0o700)] {
                    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
                    nix::unistd::chown(&path, Some(1000.into()), Some(1000.into())).expect("chown");
                }
                bundle
            },
            Prints("ran"),
        ),
        (
            "EX18",
            |bed| {
                let user = json!({"uid": 1000, "gid": 1000});
                let bundle = bed
                    .bundle()
                    .with("/process/cwd", "/closed")
                    .with("/process/user", user)
                    .in_user_namespace(65_536);
                let directory = bundle.rootfs().join("closed");
                fs::create_dir(&directory).expect("a directory");
                fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).expect("chmod");
                nix::unistd::chown(&directory, Some(1000.into()), Some(1000.into()))
                    .expect("chown");
                bundle.sh("pwd")
            },
            Prints("/closed"),
        ),
        ("G10", |bed| bed.bundle().with("/ociVersion", "1.99.0").sh("echo went"), Prints("went")),
    ]);
}

/// A container whose program sleeps; what is asked of it on the command line.
#[test]
fn added_processes() {
    as_root(|bed| {
        if bed.is_peer("what a peer had to mend may be wrong in an old version of it") {
            return;
        }
        let clocks = json!({"boottime": {"secs": 100_000, "nanosecs": 0}});
        let bundle = bed.bundle().with_namespace("time", None).with("/linux/timeOffsets", clocks);
        let bundle = bundle.with("/process/env", json!(["PATH=/bin", "ONE=1", "TWO=2"]));
        bundle.write("/etc/passwd", "root:x:0:0::/:/bin/sh\nuser:x:1000:7::/:/bin/sh\n");
        let container = bed.start(&bundle.sh("sleep 100"));
        // N07: the clocks of a namespace that has begun cannot be set again.
        let up = container.exec(&["cat", "/proc/uptime"]);
        let seconds: f64 =
            up.success().split(' ').next().expect("a number").parse().expect("seconds");
        assert!(seconds > 100_000.0, "{up}");
        // EX03
        let call = container.exec_call(&["--env", "TWO=3", "--env", "NEW=4"], &["env"]);
        let env = call.output();
        let mut lines: Vec<&str> =
            env.success().lines().filter(|line| !line.starts_with("HOME")).collect();
        lines.sort_unstable();
        assert_eq!(lines, ["NEW=4", "ONE=1", "PATH=/bin", "TWO=3"]);
        // EX05
        let groups =
            container.exec_call(&["--user", "1000:7", "--additional-gids", "8"], &["id", "-G"]);
        assert_eq!(groups.output().success(), "7 8");
        let process = json!({
            "args": ["sh", "-c", "umask; id -u; id -G; awk '{ print $19 }' /proc/self/stat; ionice"], "cwd": "/", "env": ["PATH=/bin"],
            "user": {"uid": 1000, "gid": 7, "umask": 0o27, "additionalGids": [9]},
            "scheduler": {"policy": "SCHED_OTHER", "nice": 5},
            "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 3},
        });
        let file = bed.write("process.json", &process.to_string());
        let call = bed.call().args(["exec", "--process"]).arg(file).arg(&container.id).output();
        assert_eq!(call.success(), "0027\n1000\n7 9\n5\nbest-effort: prio 3");
        // EX12
        for _ in 0..20 {
            let container = bed.start(&bed.bundle().sh("sleep 100"));
            assert_eq!(container.exec(&["echo", "at once"]).success(), "at once");
            container.delete();
        }
        // EX14
        for _ in 0..30 {
            container.exec(&["true"]).success();
        }
        // EX19: three of its own, those that are handed on, and the directory that ls reads.
        let call = container.exec_call(&["--preserve-fds", "0"], &["ls", "/proc/self/fd"]);
        assert_eq!(call.output().success().split_whitespace().collect::<String>(), "0123");
        // EX20
        let call = bed.call().args(["exec", &container.id, "--", "echo", "--tty"]).output();
        assert_eq!(call.success(), "--tty");
        let call = bed.call().args(["exec", &container.id, "echo", "--help"]).output();
        assert_eq!(call.success(), "--help");
        // G01
        let ps = bed.call().args(["ps", &container.id, "-o", "pid"]).output();
        assert!(ps.success().starts_with("PID"), "{ps}");
        // G02
        let call =
            bed.call().args(["exec", "--tty=false", &container.id, "echo", "typed"]).output();
        assert_eq!(call.success(), "typed");
        // EX11: a session of its own.
        let call = container.sh("[ $(awk '{ print $6 }' /proc/self/stat) -gt 1 ] && echo leads");
        assert_eq!(call.success(), "leads");
        // K04
        for wrong in ["FOO", "9x", "KILL ", "99"] {
            let call = bed.call().args(["kill", &container.id, wrong]).output();
            assert!(call.code == 1 && call.stderr.contains(wrong.trim()), "{wrong:?}: {call}");
        }
        bed.call().args(["kill", &container.id, "sigcont"]).output().success();
        bed.call().args(["delete", "-f=true", &container.id]).output().success();
        eventually("it is gone", || !bed.root().join(&container.id).exists());
        // EX23: where /proc is no procfs.
        let bundle = bed.bundle().without("/mounts/0").sh("sleep 100");
        let container = bed.start(&bundle);
        assert_eq!(container.exec(&["echo", "ran"]).success(), "ran");
    });
}

/// Commands that come one after another, or beside each other.
#[test]
fn lives() {
    in_views(|bed| {
        if bed.is_peer("what a peer had to mend may be wrong in an old version of it") {
            return;
        }
        // M39
        let shared = bed.bundle().mount("/made/at/once", "tmpfs", "tmpfs", &[]).sh("true");
        let root = shared.rootfs();
        let bundles: Vec<Bundle> = (0..8)
            .map(|_| {
                let bundle = bed.bundle().mount("/made/at/once", "tmpfs", "tmpfs", &[]).sh("true");
                bundle.with("/root/path", root.to_str().expect("UTF-8"))
            })
            .collect();
        let running: Vec<_> = bundles.iter().map(|bundle| bed.run_call(bundle).spawn()).collect();
        for call in running {
            call.wait().success();
        }
        // V19: controllers are enabled by several at once.
        let bundles: Vec<Bundle> = (0..8).map(|_| bed.bundle().sh("true")).collect();
        let running: Vec<_> = bundles.iter().map(|bundle| bed.run_call(bundle).spawn()).collect();
        for call in running {
            call.wait().success();
        }
        // Q01, V15: list and state beside deletes.
        let id = bed.id();
        let bundle = bed.bundle().sh("sleep 100");
        for _ in 0..20 {
            bed.create_call(&bundle, &id).output().success();
            let deleting = bed.call().args(["delete", "--force", &id]).spawn();
            let list = bed.call().arg("list").output();
            assert!(list.success().starts_with("ID") && list.stderr.is_empty(), "{list}");
            let state = bed.call().args(["state", &id]).output();
            assert!(state.code == 0 || state.stderr.contains("does not exist"), "{state}");
            deleting.wait().success();
        }
        // G06: what stood in a pid file before.
        let file = bed.write("pid", &"9".repeat(100));
        let call = bed.create_call(&bundle, &id).option("--pid-file", &file);
        call.output().success();
        let pid = fs::read_to_string(&file).expect("the pid file");
        assert!(pid.len() < 12 && pid.parse::<i32>().is_ok(), "{pid:?}");
        bed.call().args(["delete", "--force", &id]).output().success();
        // P09: what is inherited and what is written.
        let bundle =
            bed.bundle().with("/process/oomScoreAdj", 0).sh("cat /proc/self/oom_score_adj");
        assert_eq!(bed.run(&bundle).success(), "0");
        // P04
        let directory = bed.make_directory(&format!("spec-{}", bed.next()), 0o755);
        bed.call().args(["spec", "--bundle"]).arg(&directory).output().success();
        let spec = fs::read_to_string(directory.join("config.json")).expect("config.json");
        assert!(!spec.contains("inheritable"), "{spec}");
        // G04
        bed.bare_call().args(["--root", "/proc/none/such", "--version"]).output().success();
        // IN03: the log of init is no message.
        let log = bed.directory.join(format!("log-{}", bed.next()));
        let call = bed.call().arg("--debug").arg("--log").arg(&log).args(["run", "--bundle"]);
        call.arg(&bed.bundle().sh("true").save().path).arg(bed.id()).output().success();
    });
}

/// What is asked of a container, or found in it, while it lives.
#[test]
fn living_containers() {
    in_views(|bed| {
        if bed.is_peer("what a peer had to mend may be wrong in an old version of it") {
            return;
        }
        // CG25: no verb needs a group.
        let id = bed.id();
        let alone =
            |words: &[&str]| bed.call().args(["--cgroup-manager", "disabled"]).args(words).output();
        let bundle = bed.bundle().without("/linux/cgroupsPath").sh("sleep 100").save().clone();
        alone(&["create", "--bundle", bundle.path.to_str().expect("UTF-8"), &id]).success();
        for verb in [
            "start",
            "state",
            "ps",
            "pause",
            "resume",
            "events --stats",
            "kill",
            "update --pids-limit 5",
        ] {
            let mut words: Vec<&str> = verb.split(' ').collect();
            words.push(&id);
            let output = bed.call().args(words).output();
            assert!(output.code <= 1 && !output.stderr.contains("panicked"), "{output}");
        }
        bed.call().args(["delete", "--force", &id]).output().success();

        // CG18: groups that come and go while they are walked.
        let script = "while :; do mkdir $0/a $0/a/b; rmdir $0/a/b $0/a; done 2>/dev/null";
        let bundle = bed.bundle().sh("sleep 100");
        let container = bed.start(&bundle);
        let group = bed.cgroup_file(&bundle, bed.by_version("freezer.state", "cgroup.procs"));
        let group = group.parent().expect("its group").to_owned();
        let churning = bed.program(Path::new("/bin/sh")).args(["-c", script]).arg(&group).spawn();
        for _ in 0..20 {
            for words in [
                &["ps", &container.id] as &[&str],
                &["pause", &container.id],
                &["resume", &container.id],
                &["kill", "--all", &container.id, "CONT"],
                &["events", "--stats", &container.id],
            ] {
                bed.call().args(words).output().success();
            }
        }
        drop(churning);

        // K12: a state directory that is busy.
        let directory = bed.root().join(&container.id).join("busy");
        fs::create_dir(&directory).expect("a directory");
        mount(Some("x"), &directory, Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .expect("a tmpfs");
        let delete = bed.call().args(["delete", "--force", &container.id]).output();
        assert!(delete.code == 1 && delete.stderr.contains("busy"), "{delete}");
        umount2(&directory, MntFlags::MNT_DETACH).expect("umount");
        bed.call().args(["delete", "--force", &container.id]).output().success();

        // HK01: poststart is called once the program runs.
        let hook =
            r#"pid=$(sed 's/.*"pid":\([0-9]*\).*/\1/'); tr '\0' ' ' < /proc/$pid/cmdline > $0"#;
        let found = bed.directory.join(format!("found-{}", bed.next()));
        let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", hook, found]}]);
        let container =
            bed.start(&bed.bundle().args(["sleep", "123"]).with("/hooks/poststart", hook));
        assert_eq!(fs::read_to_string(&found).expect("what the hook found").trim(), "sleep 123");
        container.delete();

        // T05, T13: a terminal belongs to the user of its process; a program that is missing is told.
        let container = bed.start(&bed.bundle().sh("sleep 100"));
        let call =
            container.exec_call(&["--tty", "--user", "1000:7"], &["sh", "-c", "stat -c %u $(tty)"]);
        let output = call.output();
        assert_eq!(output.success(), "1000");
        let output = container.exec_call(&["--tty"], &["/none"]).output();
        assert!(output.code == 255 && output.stderr.contains("/none"), "{output}");

        // K03: a signal that Go's runtime sends itself is like any other.
        let run = bed
            .run_call(
                &bed.bundle()
                    .sh("trap 'echo urgent; exit 7' URG; echo up; while :; do sleep 0.1; done"),
            )
            .spawn();
        eventually("the program is up", || run.printed().contains("up"));
        run.signal(nix::sys::signal::Signal::SIGURG);
        let output = run.wait();
        assert_eq!((output.code, output.stdout.as_str()), (7, "up\nurgent\n"), "{output}");
    });
}

/// M31: of version 2; a tree of version 1 has its controllers for options.
#[test]
fn options_of_a_cgroup_mount_reach_the_kernel() {
    in_views(|bed| {
        if bed.view != View::V2 {
            return bed.skip("version 1 has no such options");
        }
        let mounted = |options: &[&str]| {
            let bundle = bed.bundle().with_namespace("cgroup", None);
            bed.run(&bundle.mount("/sys/fs/cgroup", "cgroup2", "cgroup", options))
        };
        mounted(&["nsdelegate", "memory_recursiveprot", "ro"]).success();
        if bed.is_peer("they say it in other words") {
            return;
        }
        let output = mounted(&["nonsense"]);
        assert!(output.failure(1).contains("mounts[4].options: \"nonsense\""), "{output}");
    });
}

/// Q03: whoever has no name is shown by his number.
#[test]
fn an_owner_without_a_name_is_listed() {
    as_user(|bed| {
        let Some(user) = bed.user() else {
            return bed.skip("whoever runs the tests has a name");
        };
        let container = bed.create(&bed.bundle());
        let list = bed.call().arg("list").output();
        let owner = format!(" #{user}\n");
        assert!(list.stdout.contains(&container.id) && list.stdout.ends_with(&owner), "{list}");
    });
}

/// T03: what a user may not change is handed to him as it is.
#[test]
fn stdio_on_a_read_only_file_system_is_no_error() {
    as_root(|bed| {
        let place = file_system(bed, MsFlags::empty());
        fs::write(format!("{place}/input"), "given\n").expect("a file");
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, place.as_str(), None::<&str>, flags, None::<&str>).expect("read-only");
        let bundle =
            bed.bundle().with("/process/user", json!({"uid": 1000, "gid": 1000})).args(["cat"]);
        let input = fs::File::open(format!("{place}/input")).expect("the file");
        let output = bed.run_call(&bundle).stdin(input).output();
        umount2(place.as_str(), MntFlags::MNT_DETACH).expect("umount");
        assert_eq!(output.success(), "given");
    });
}

/// IN01: where the runtime itself lies.
#[test]
fn the_runtime_may_lie_on_any_file_system() {
    as_root(|bed| {
        if bed.is_peer("what a peer had to mend may be wrong in an old version of it") {
            return;
        }
        for flags in [MsFlags::MS_RDONLY, MsFlags::MS_NOSUID | MsFlags::MS_NODEV, MsFlags::empty()]
        {
            let place = file_system(bed, MsFlags::empty());
            let program = Path::new(&place).join("ferrun");
            copy_program(&runtime().program, &program);
            mount(
                None::<&str>,
                place.as_str(),
                None::<&str>,
                flags | MsFlags::MS_REMOUNT,
                None::<&str>,
            )
            .expect("a remount");
            let bundle = bed.bundle().sh("echo ran");
            let call =
                bed.program(&program).arg("--root").arg(bed.root()).args(["run", "--bundle"]);
            let output = call.arg(&bundle.save().path).arg(bed.id()).output();
            umount2(place.as_str(), MntFlags::MNT_DETACH).expect("umount");
            assert_eq!(output.success(), "ran", "{flags:?}");
        }
    });
}

/// CG01, CG10: limits that depend on each other, and those of devices.
#[test]
fn limits_are_changed_together() {
    with_controllers(&["cpu", "io"], |bed| {
        if bed.is_peer("what a peer had to mend may be wrong in an old version of it") {
            return;
        }
        let bundle = bed
            .bundle()
            .with("/linux/resources", json!({"cpu": {"quota": 50_000, "period": 100_000}}));
        let container = bed.start(&bundle.clone().sh("sleep 100"));
        let update =
            |words: &[&str]| bed.call().arg("update").args(words).arg(&container.id).output();
        let quota = |bed: &Bed| {
            let read = |file| {
                fs::read_to_string(bed.cgroup_file(&bundle, file)).expect(file).trim().to_owned()
            };
            match bed.view {
                View::V2 => read("cpu.max"),
                _ => format!("{} {}", read("cpu.cfs_quota_us"), read("cpu.cfs_period_us")),
            }
        };
        for (words, expected) in [
            (&["--cpu-quota", "400000", "--cpu-period", "500000"] as &[&str], "400000 500000"),
            (&["--cpu-quota", "20000", "--cpu-period", "50000"], "20000 50000"),
            (&["--cpu-period", "80000"], "20000 80000"),
        ] {
            update(words).success();
            assert_eq!(quota(bed), expected, "{words:?}");
        }
        update(&["--cpu-quota=-1"]).success();
        assert!(["-1 80000", "max 80000"].contains(&quota(bed).as_str()), "{}", quota(bed));
        // CG10: the throttles of a device.
        let disks = fs::read_dir("/sys/block").expect("block devices").flatten();
        let mut numbers = disks.filter_map(|disk| fs::read_to_string(disk.path().join("dev")).ok());
        let Some(numbers) = numbers.find(|numbers| !numbers.starts_with("7:")) else {
            return bed.skip("there is no block device but for loops");
        };
        let (major, minor) = numbers.trim().split_once(':').expect("two numbers");
        let number = |text: &str| text.parse::<u32>().expect("a number");
        let rate = json!([{"major": number(major), "minor": number(minor), "rate": 1 << 20}]);
        let limits = json!({"blockIO": {"throttleReadBpsDevice": rate}});
        let file = bed.write("limits.json", &limits.to_string());
        update(&["--resources", file.to_str().expect("UTF-8")]).success();
        let file = bed.by_version("blkio.throttle.read_bps_device", "io.max");
        let found = fs::read_to_string(bed.cgroup_file(&bundle, file)).expect("the throttles");
        assert!(found.contains("1048576"), "{found}");
    });
}
