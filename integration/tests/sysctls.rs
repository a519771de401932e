//! Kernel parameters where the caller's own /proc/sys is closed, as to a runtime in a
//! container or in a service that may change none.

use std::collections::BTreeMap;
use std::fs;

use integration::on_every_ground::as_root;
use integration::{Bed, Bundle, Container, Holder, as_user};
use nix::mount::{MsFlags, mount};
use serde_json::json;

/// How a caller's parameters are closed, in the mount namespace of the test.
const CLOSED: [(&str, fn()); 4] = [
    ("read-only", || close("/proc/sys")),
    ("a part of them read-only", || close("/proc/sys/net")),
    ("a part of them covered", || new("tmpfs", "/proc/sys/net", None)),
    ("a procfs of processes alone", || new("proc", "/proc", Some("subset=pid"))),
];

fn close(path: &str) {
    let bind = |flags| mount(Some(path), path, None::<&str>, flags, None::<&str>).expect(path);
    bind(MsFlags::MS_BIND);
    bind(MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY);
}

fn new(kind: &str, path: &str, data: Option<&str>) {
    mount(Some(kind), path, Some(kind), MsFlags::empty(), data).expect(path);
}

/// Parameters of each namespace that has some. The last one is for the machine's root alone.
const PARAMETERS: [(&str, &str); 4] = [
    ("net/ipv4/ip_forward", "1"),
    ("kernel/shmmax", "123456"),
    ("fs/mqueue/msg_max", "17"),
    ("kernel/domainname", "inside"),
];

fn parameters(bed: &Bed) -> &'static [(&'static str, &'static str)] {
    if bed.is_rootless() { &PARAMETERS[..3] } else { &PARAMETERS }
}

fn with_parameters(bed: &Bed, bundle: Bundle) -> Bundle {
    let given: BTreeMap<_, _> = parameters(bed).iter().copied().collect();
    bundle.with("/linux/sysctl", json!(given)).sh("sleep 100")
}

/// Reads parameters in the namespaces of a process, by the whole procfs that `before` has in
/// its mount namespace.
fn values(bed: &Bed, before: &Holder, process: &str) -> Vec<String> {
    let mut call = bed.program("/usr/bin/nsenter".as_ref()).user(0);
    call = call.arg(format!("--mount={}", before.path("mnt").display()));
    call = call.args(["--target", process, "--net", "--ipc", "--uts", "cat"]);
    call = call.args(parameters(bed).iter().map(|(name, _)| format!("/proc/sys/{name}")));
    call.output().success().lines().map(str::to_owned).collect()
}

fn assert_set(bed: &Bed, before: &Holder, container: &Container<'_>) {
    let wanted: Vec<_> = parameters(bed).iter().map(|(_, value)| *value).collect();
    assert_eq!(values(bed, before, &container.pid().to_string()), wanted);
}

/// Parameters of a container of `bundle`, while those of the caller are closed; the machine
/// keeps its own.
fn set_while_closed(bed: &Bed, close: fn(), bundle: Bundle) {
    let before = Holder::new(&["--mount"]);
    let of_the_machine = values(bed, &before, &before.pid);
    close();
    let container = bed.start(&with_parameters(bed, bundle));
    assert_set(bed, &before, &container);
    container.delete();
    assert_eq!(values(bed, &before, &before.pid), of_the_machine);
}

#[test]
fn parameters_are_set_though_those_of_the_caller_are_closed() {
    for (case, close) in CLOSED {
        as_root(|bed| {
            if bed.is_peer("crun 1.8 fails there") {
                return;
            }
            eprintln!("{case}");
            set_while_closed(bed, close, bed.bundle());
        });
    }
}

#[test]
fn parameters_of_joined_namespaces_are_set_too() {
    let owned_by: [&[&str]; 2] = [&[], &["--user", "--map-root-user"]];
    for (case, close) in CLOSED {
        for user in owned_by {
            integration::as_root(|bed| {
                if bed.is_peer("runc 1.1 and crun 1.8 can do some of it only") {
                    return;
                }
                eprintln!("{case}, {user:?}");
                let flags = [user, &["--net", "--ipc", "--uts"]].concat();
                let holder = Holder::new(&flags);
                let mut bundle = bed.bundle();
                let mut joined = vec![("network", "net"), ("ipc", "ipc"), ("uts", "uts")];
                joined.extend((!user.is_empty()).then_some(("user", "user")));
                for (kind, file) in joined {
                    bundle = bundle.with_namespace(kind, Some(&holder.path(file)));
                }
                set_while_closed(bed, close, bundle);
            });
        }
    }
}

#[test]
fn a_hook_may_make_the_interface_that_a_parameter_is_about() {
    integration::as_root(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 run it before there is the network") {
            return;
        }
        let add = bed.script("hook", "exec busybox ip link add inside0 type veth");
        let bundle = bed
            .bundle()
            .with("/hooks/createContainer", json!([{"path": add, "env": ["PATH=/bin"]}]))
            .with("/linux/sysctl", json!({"net.ipv4.conf.inside0.rp_filter": "1"}))
            .sh("cat /proc/sys/net/ipv4/conf/inside0/rp_filter");
        assert_eq!(bed.run(&bundle).success(), "1");
    });
}

/// He may mount a procfs in his user namespace alone, and there no more than he sees outside.
#[test]
fn an_ordinary_user_is_told_what_is_closed() {
    for (case, close) in CLOSED {
        as_user(|bed| {
            if bed.is_peer("they have other words") {
                return;
            }
            if !nix::unistd::getuid().is_root() {
                return bed.skip("needs root to close a part of /proc");
            }
            eprintln!("{case}");
            if case == "a procfs of processes alone" {
                return set_while_closed(bed, close, bed.bundle());
            }
            close();
            let output = bed.run(&with_parameters(bed, bed.bundle()));
            let told = "linux.sysctl: the caller's /proc/sys is closed, and there is no other";
            assert!(output.failure(1).contains(told), "{output}");
            bed.assert_nothing_left();
        });
    }
}

/// What a runtime needs to make a container that asks for little.
const RIGHTS: [&str; 10] = [
    "CAP_SYS_ADMIN",
    "CAP_NET_ADMIN",
    "CAP_SETUID",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_MKNOD",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
];

/// Docker in Docker, with what its containers have at /proc.
#[test]
fn parameters_are_set_from_within_a_container() {
    integration::as_root(|bed| {
        if bed.is_peer("it needs a runtime that is one file") {
            return;
        }
        let inner = with_parameters(bed, bed.bundle().with("/linux/cgroupsPath", "/inner"));
        let names = PARAMETERS.map(|(name, _)| name).join(" ");
        let inner = inner.sh(&format!("cd /proc/sys; cat {names}")).save().clone();
        let runtime = bed.make_directory("runtime", 0o755);
        integration::copy_program(&integration::runtime().program, &runtime.join("ferrun"));
        let outer = bed
            .bundle()
            .mount("/inner", "bind", inner.path.to_str().unwrap(), &["rbind"])
            .mount("/opt", "bind", runtime.to_str().unwrap(), &["bind", "ro"])
            .mount("/sys", "sysfs", "sysfs", &["ro"])
            .mount("/sys/fs/cgroup", "cgroup", "cgroup", &[])
            .with("/linux/maskedPaths", json!(["/proc/irq", "/proc/keys"]))
            .with("/linux/readonlyPaths", json!(["/proc/sys"]))
            .capable(&RIGHTS)
            .args(["/opt/ferrun", "--root", "/tmp/root", "run", "--bundle", "/inner", "x"]);
        let read = |name: &str| fs::read_to_string(format!("/proc/sys/{name}")).unwrap();
        let of_the_machine = PARAMETERS.map(|(name, _)| read(name));
        let values = PARAMETERS.map(|(_, value)| value).join("\n");
        assert_eq!(bed.run(&outer).success(), values);
        assert_eq!(PARAMETERS.map(|(name, _)| read(name)), of_the_machine);
    });
}
