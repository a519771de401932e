//! `linux.namespaces`: new, joined by path, or the caller's own; id maps, time
//! offsets and sysctls.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use integration::shared_too::{as_both, as_root, in_views};
use integration::{Bed, Bundle, View};
use serde_json::json;

const KINDS: [(&str, &str); 7] = [
    ("pid", "pid"),
    ("network", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("mount", "mnt"),
    ("user", "user"),
    ("cgroup", "cgroup"),
];

fn link(pid: &str, kind: &str) -> String {
    let link = fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    link.to_str().unwrap().to_owned()
}

#[test]
fn a_namespace_is_new_if_it_is_listed_and_the_callers_if_not() {
    in_views(|bed| {
        for (listed, file) in KINDS {
            let mut bundle = bed.bundle().sh("sleep 100");
            if listed == "mount"
                && bed
                    .is_peer("runc 1.1 refuses a container without one, crun 1.8 leaves its mounts")
            {
                continue;
            }
            let with = |bundle: Bundle, new: bool| {
                let mut bundle = bundle.without_namespace(listed);
                if new {
                    bundle = bundle.with_namespace(listed, None);
                    if listed == "user" {
                        for field in ["uidMappings", "gidMappings"] {
                            bundle = bundle.with(
                                &format!("/linux/{field}"),
                                json!([{"containerID": 0, "hostID": 0, "size": 5000}]),
                            );
                        }
                    }
                }
                bundle
            };
            for new in [true, false] {
                bundle = with(bundle, new);
                if !new && listed == "user" {
                    bundle = bundle.without("/linux/uidMappings").without("/linux/gidMappings");
                }
                let container = bed.start(&bundle);
                let found = link(&container.pid().to_string(), file);
                assert_eq!(found != link("thread-self", file), new, "{listed}");
            }
        }
    });
}

/// A process of the bed in namespaces of its own, which ends with the value.
struct Holder(std::process::Child);

impl Holder {
    fn new(flags: &[&str]) -> Self {
        let child = std::process::Command::new("/usr/bin/unshare")
            .args(flags)
            .args(["--fork", "--kill-child", "/bin/sleep", "100"])
            .spawn()
            .unwrap();
        let holder = Self(child);
        integration::eventually("the holder sleeps", || holder.sleeper().is_some());
        holder
    }

    /// The process inside: the only child, unless there is none yet.
    fn sleeper(&self) -> Option<String> {
        let id = self.0.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
        let child = children.split_whitespace().next()?.to_owned();
        let comm = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
        (comm.trim() == "sleep").then_some(child)
    }

    fn path(&self, kind: &str) -> PathBuf {
        Path::new("/proc").join(self.sleeper().unwrap()).join("ns").join(kind)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let sleeper = self.sleeper();
        let _ = self.0.kill();
        let _ = self.0.wait();
        if let Some(pid) = sleeper {
            integration::eventually("the sleeper ends with its parent", || {
                !Path::new("/proc").join(&pid).exists()
            });
        }
    }
}

#[test]
fn namespaces_are_joined_by_their_paths() {
    as_root(|bed| {
        let holder = Holder::new(&["--net", "--ipc", "--uts", "--pid"]);
        let mut bundle = bed.bundle().sh("sleep 100");
        let joined = [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")];
        for (kind, file) in joined {
            bundle = bundle.with_namespace(kind, Some(&holder.path(file)));
        }
        let container = bed.start(&bundle);
        for (kind, file) in joined {
            let found = fs::read_link(format!("/proc/{}/ns/{file}", container.pid())).unwrap();
            assert_eq!(found, fs::read_link(holder.path(file)).unwrap(), "{kind}");
        }
        // And exec finds its way there.
        assert_eq!(
            container.sh("readlink /proc/self/ns/net").success(),
            link(&container.pid().to_string(), "net")
        );
        container.delete();
        bed.assert_nothing_left();
    });
}

#[test]
fn a_cgroup_and_a_mount_namespace_can_be_joined() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 cannot pivot in one that they have joined") {
            return;
        }
        let holder = Holder::new(&["--mount", "--cgroup"]);
        let bundle = bed
            .bundle()
            .with_namespace("cgroup", Some(&holder.path("cgroup")))
            .with_namespace("mount", Some(&holder.path("mnt")))
            .sh("sleep 100");
        let container = bed.start(&bundle);
        for file in ["mnt", "cgroup"] {
            let found = fs::read_link(format!("/proc/{}/ns/{file}", container.pid())).unwrap();
            assert_eq!(found, fs::read_link(holder.path(file)).unwrap());
        }
        // The root of the namespace is another one, with the host's files.
        bundle.write("/of-the-container", "text");
        assert_eq!(container.exec(&["/bin/cat", "/of-the-container"]).success(), "text");
    });
}

#[test]
fn a_joined_user_namespace_gives_its_ids() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 needs the maps, crun 1.8 fails over the network namespace") {
            return;
        }
        let holder = Holder::new(&["--user", "--map-root-user", "--net"]);
        let bundle = bed
            .bundle()
            .with_namespace("user", Some(&holder.path("user")))
            .with_namespace("network", Some(&holder.path("net")))
            .sh("cat /proc/self/uid_map | tr -s ' '; id -u; sleep 100");
        let container = bed.start(&bundle);
        container.prints(" 0 0 1\n0\n");
        let found = fs::read_link(format!("/proc/{}/ns/user", container.pid())).unwrap();
        assert_eq!(found, fs::read_link(holder.path("user")).unwrap());
        container.delete();
        bed.assert_nothing_left();
    });
}

#[test]
fn a_container_can_join_another_ones_namespaces() {
    as_both(|bed| {
        let first = bed.start(&bed.bundle().with("/hostname", "first").sh("sleep 100"));
        let pid = first.pid();
        let mut bundle =
            bed.bundle().sh("hostname; readlink /proc/self/ns/net; readlink /proc/self/ns/ipc");
        let kinds: &[(&str, &str)] = if bed.is_rootless() {
            &[("user", "user"), ("uts", "uts"), ("network", "net"), ("ipc", "ipc")]
        } else {
            &[("uts", "uts"), ("network", "net"), ("ipc", "ipc")]
        };
        for (kind, file) in kinds {
            let path = format!("/proc/{pid}/ns/{file}");
            bundle = bundle.with_namespace(kind, Some(Path::new(&path)));
        }
        if bed.is_rootless() {
            bundle = bundle.without("/linux/uidMappings").without("/linux/gidMappings");
            if bed.is_peer("runc 1.1 and crun 1.8 need the maps") {
                return;
            }
        }
        let pid = pid.to_string();
        let expected = format!("first\n{}\n{}", link(&pid, "net"), link(&pid, "ipc"));
        assert_eq!(bed.run(&bundle).success(), expected);
    });
}

#[test]
fn a_bundle_without_any_namespace_runs() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 refuses it, crun 1.8 leaves its mounts") {
            return;
        }
        let bundle = bed.bundle().with("/linux/namespaces", json!([])).sh(
            "for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n; done; exit 4",
        );
        let output = bed.run(&bundle);
        assert_eq!(output.code, 4, "{output}");
        let expected: Vec<_> = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"]
            .map(|kind| link("thread-self", kind))
            .to_vec();
        assert_eq!(output.stdout.lines().collect::<Vec<_>>(), expected, "{output}");
        bed.assert_nothing_left();
        let container = bed.start(&bundle.without("/linux/namespaces").sh("sleep 93 & sleep 92"));
        assert_eq!(container.sh("echo in").success(), "in");
        container.delete();
        bed.assert_nothing_left();
    });
}

#[test]
fn ids_are_mapped() {
    as_root(|bed| {
        if bed.is_peer("crun 1.8 gives the machine's /dev/null to the container's root") {
            return;
        }
        let bundle = bed
            .bundle()
            .with_namespace("user", None)
            .with(
                "/linux/uidMappings",
                json!([{"containerID": 0, "hostID": 100000, "size": 1000},
                       {"containerID": 1000, "hostID": 300000, "size": 7}]),
            )
            .with("/linux/gidMappings", json!([{"containerID": 0, "hostID": 200000, "size": 1000}]))
            .sh("cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; sleep 100");
        give_to_mapped_root(&bundle);
        let container = bed.start(&bundle);
        container.prints(" 0 100000 1000\n 1000 300000 7\n 0 200000 1000\n");
        let status = fs::read_to_string(format!("/proc/{}/status", container.pid())).unwrap();
        assert!(status.contains("Uid:\t100000\t100000"), "{status}");
        assert!(status.contains("Gid:\t200000\t200000"), "{status}");
        assert_eq!(container.sh("id -u").success(), "0");
    });
}

#[test]
fn a_cgroup_that_belongs_to_the_mapped_root_is_entered_by_exec_too() {
    in_views(|bed| {
        if bed.is_peer("crun 1.8 gives the machine's /dev/null to the container's root") {
            return;
        }
        let bundle = bed
            .bundle()
            .with_namespace("user", None)
            .with_namespace("cgroup", None)
            .with("/linux/uidMappings", json!([{"containerID": 0, "hostID": 100000, "size": 9}]))
            .with("/linux/gidMappings", json!([{"containerID": 0, "hostID": 200000, "size": 9}]))
            .mount("/sys", "sysfs", "sysfs", &[])
            .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["rw"])
            .sh("sleep 100");
        give_to_mapped_root(&bundle);
        let container = bed.start(&bundle);
        if bed.view == View::V2 && !bed.is_peer("they give it away in other cases") {
            let procs = bed.cgroup_file(&bundle, "cgroup.procs");
            assert_eq!(fs::metadata(procs).unwrap().uid(), 100_000);
        }
        let groups = container.exec(&["cat", "/proc/self/cgroup"]);
        assert!(groups.success().lines().all(|line| line.ends_with(":/")), "{groups}");
    });
}

/// Mapped ids are others to the bundle's owner.
fn give_to_mapped_root(bundle: &Bundle) {
    for path in [bundle.path.clone(), bundle.rootfs()] {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    for name in ["dev", "proc", "sys", "tmp"] {
        std::os::unix::fs::chown(bundle.rootfs().join(name), Some(100_000), Some(200_000)).unwrap();
    }
}

#[test]
fn clocks_are_offset_in_a_time_namespace() {
    as_both(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 are older than the field") {
            return;
        }
        let uptime = || {
            let text = fs::read_to_string("/proc/uptime").unwrap();
            text.split('.').next().unwrap().parse::<i64>().unwrap()
        };
        let bundle = bed
            .bundle()
            .with_namespace("time", None)
            // No clock can be set to before the machine's start, which may be just over.
            .with(
                "/linux/timeOffsets",
                json!({"boottime": {"secs": 1_000_000, "nanosecs": 5}, "monotonic": {"secs": -3}}),
            )
            .sh("cut -d. -f1 /proc/uptime; cat /proc/self/timens_offsets | tr -s ' '; sleep 100");
        let before = uptime();
        let container = bed.start(&bundle);
        container.prints("boottime");
        let printed = container.printed();
        let inside: i64 = printed.lines().next().unwrap().parse().unwrap();
        assert!((inside - before - 1_000_000).abs() < 10, "{printed}");
        assert!(
            printed.contains("monotonic -3 0") && printed.contains("boottime 1000000 5"),
            "{printed}"
        );
        let exec = container.sh("cut -d. -f1 /proc/uptime").success().parse::<i64>().unwrap();
        assert!((exec - before - 1_000_000).abs() < 10, "{exec}");
    });
}

#[test]
fn kernel_parameters_are_set_in_their_namespaces_alone() {
    as_root(|bed| {
        let read = |name: &str| fs::read_to_string(format!("/proc/sys/{name}")).unwrap();
        let names =
            ["net/ipv4/ip_forward", "kernel/shmmax", "fs/mqueue/msg_max", "kernel/domainname"];
        let before = names.map(read);
        let bundle = bed
            .bundle()
            .with(
                "/linux/sysctl",
                json!({"net.ipv4.ip_forward": "1", "kernel.shmmax": "123456", "fs.mqueue.msg_max": "17",
                       "net.ipv4.ping_group_range": "0 7"}),
            )
            .sh("cd /proc/sys; cat net/ipv4/ip_forward kernel/shmmax fs/mqueue/msg_max net/ipv4/ping_group_range");
        let output = bed.run(&bundle);
        assert_eq!(output.success().replace('\t', " "), "1\n123456\n17\n0 7");
        assert_eq!(names.map(read), before);
    });
}

#[test]
fn kernel_parameters_may_have_slashes_and_be_read_only_for_the_program() {
    as_root(|bed| {
        let bundle = bed
            .bundle()
            .with("/linux/sysctl", json!({"net/ipv4/conf/all/rp_filter": "2"}))
            .with("/linux/readonlyPaths", json!(["/proc/sys"]))
            .sh("cat /proc/sys/net/ipv4/conf/all/rp_filter");
        if bed.is_peer("runc 1.1 and crun 1.8 know dots only") {
            return;
        }
        assert_eq!(bed.run(&bundle).success(), "2");
    });
}

#[test]
fn the_loopback_interface_of_a_new_network_is_up() {
    as_both(|bed| {
        let script = "grep -c . /proc/net/dev; cat /proc/net/if_inet6 2>/dev/null | grep -c lo; \
                      cat /proc/net/route | wc -l; cat /proc/net/fib_trie | grep -c 127.0.0.1";
        let output = bed.run(&bed.bundle().sh(script));
        assert!(!output.stdout.ends_with("\n0\n"), "127.0.0.1 is routed to: {output}");
    });
}

/// In a network namespace of the test's own, an interface with an address and an MTU.
fn with_interface(bed: &Bed, name: &str) {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    for line in [
        format!("link add name {name} type veth"),
        format!("addr add 10.98.7.6/24 dev {name}"),
        format!("addr add fd98::1/64 dev {name}"),
        format!("link set {name} mtu 1400 address 02:00:00:00:00:98"),
    ] {
        let call = bed.program(Path::new("/bin/busybox")).arg("ip");
        call.args(line.split(' ')).output().success();
    }
}

#[test]
fn an_interface_of_the_host_is_moved_with_its_addresses() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 do not know netDevices") {
            return;
        }
        with_interface(bed, "host0");
        let show = "ip -o addr show dev $0; ip -o link show dev $0";
        let bundle = bed
            .bundle()
            .with("/linux/netDevices", json!({"host0": {"name": "inside0"}}))
            .args(["/bin/sh", "-c", show, "inside0"]);
        let output = bed.run(&bundle);
        for part in ["10.98.7.6/24", "fd98::1/64", "mtu 1400", "02:00:00:00:00:98", "UP"] {
            assert!(output.success().contains(part), "{part}: {output}");
        }
        let call = bed.program(Path::new("/bin/busybox")).args(["ip", "link", "show", "host0"]);
        assert!(call.output().code != 0, "it is the container's");
        // By its own name, into a namespace that is joined.
        with_interface(bed, "host1");
        let holder = Holder::new(&["--net"]);
        let bundle = bed
            .bundle()
            .with_namespace("network", Some(&holder.path("net")))
            .with("/linux/netDevices", json!({"host1": {}}))
            .args(["/bin/sh", "-c", show, "host1"]);
        assert!(bed.run(&bundle).success().contains("10.98.7.6/24"));
    });
}

#[test]
fn an_interface_that_is_not_there_or_whose_name_is_taken_is_named() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 do not know netDevices") {
            return;
        }
        with_interface(bed, "host2");
        // It has the network with that interface, which the test then leaves for another.
        let holder = Holder::new(&["--uts"]);
        with_interface(bed, "host2");
        for (devices, field, namespace) in [
            (json!({"nosuch": {}}), "linux.netDevices.nosuch", None),
            (json!({"host2": {"name": "lo"}}), "linux.netDevices.host2", None),
            (json!({"host2": {}}), "linux.netDevices.host2", Some(holder.path("net"))),
        ] {
            let bundle = bed.bundle().with_namespace("network", namespace.as_deref());
            let output = bed.run(&bundle.with("/linux/netDevices", devices));
            assert!(output.failure(1).contains(field), "{output}");
            bed.assert_nothing_left();
        }
        let call = bed.program(Path::new("/bin/busybox")).args(["ip", "link", "show", "host2"]);
        call.output().success();
    });
}
