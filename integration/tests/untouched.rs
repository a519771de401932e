//! What lies already at a path that the runtime makes itself stays as it was: its kind, its
//! number, its mode, its owner, its content. What a mount put there is also what is there.
//!
//! The paths that the runtime makes, and every call there that goes by a name:
//!
//! | path | made by | what is there already |
//! |---|---|---|
//! | default devices, `linux.devices` | mknodat(2); chmod and chown by handle | of the image: the same node is taken, all else is an error; put there by a mount: stays |
//! | the same in a user namespace | a bind of the host's node | of the image: covered; a mount: stays |
//! | links in /dev | symlinkat(2) | stays |
//! | all of these, where /dev is a bind, or leads into one | – | nothing is made |
//! | /dev/ptmx | symlinkat(2), unlinkat(2) | of the image: replaced; put there by a mount: stays |
//! | places of mounts, parents, process.cwd | mkdirat(2), openat(2) with O_EXCL and O_NOFOLLOW | stays |
//! | /dev/console | openat(2) with O_EXCL and O_NOFOLLOW, a bind | covered |
//! | what tmpcopyup reads | openat(2) with O_PATH and O_NOFOLLOW, then by that handle | is read |
//! | what tmpcopyup writes | by name, in a file system that nobody else can reach yet | nothing |
//! | what a handle is on, for calls that take none | /proc/self/fd of the host, before the root changes | is used |
//! | the mounts behind a root that is moved | open(2) of what mountinfo names, compared by its identity | covered |
//! | kernel parameters | openat(2) in a procfs of the host, or one of our own | is written |
//! | the sources of binds, /dev/null, root.path | open(2): paths of the host, which are trusted | is opened |

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use integration::terminal::ConsoleSocket;
use integration::{
    Bed, Bundle, Container, View, as_root, described, shared_too, where_mounts_are_shared,
};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;
use serde_json::json;

/// Files such as the host may have, none of which is the machine's: each has a mode and an
/// owner that nothing gives by default.
fn host(bed: &Bed) -> PathBuf {
    let host = bed.make_directory(&format!("host-{}", bed.next()), 0o755);
    node(&host.join("same"), 7);
    node(&host.join("other"), 9);
    fs::write(host.join("file"), "of the host\n").unwrap();
    fs::create_dir(host.join("directory")).unwrap();
    symlink("file", host.join("link")).unwrap();
    for name in ["same", "other", "file", "directory"] {
        odd(&host.join(name));
    }
    host
}

/// A memory device: 7 is full, 9 is urandom.
fn node(path: &Path, minor: u64) {
    mknod(path, SFlag::S_IFCHR, Mode::empty(), makedev(1, minor)).unwrap();
}

fn odd(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
    chown(path, Some(11), Some(12)).unwrap();
}

/// A bundle without a file system at /dev, with one more device.
fn without_dev(bed: &Bed) -> Bundle {
    let device = json!({"path": "/srv/full", "type": "c", "major": 1, "minor": 7,
                        "fileMode": 0o600, "uid": 5, "gid": 6});
    let bundle = bed.bundle().without("/mounts/1").without("/mounts/1").without("/mounts/1");
    bundle.with("/linux/devices", json!([device]))
}

/// The paths at which something is made.
const MADE: [&str; 5] = ["/dev/full", "/srv/full", "/dev/ptmx", "/dev/stdin", "/place/here"];

#[test]
fn what_a_mount_puts_in_the_place_of_something_made_is_there_as_it_was() {
    where_mounts_are_shared(|bed| {
        if bed.is_peer("crun 1.8 makes its own over what is mounted") {
            return;
        }
        let host = host(bed);
        let before = described(&host);
        for place in MADE {
            for name in ["same", "other", "file", "directory", "link"] {
                for word in ["rw", "ro"] {
                    for user_namespace in [false, true] {
                        if user_namespace && bed.is_peer("runc 1.1 covers it in a user namespace") {
                            continue;
                        }
                        if place == "/dev/ptmx" && bed.is_peer("runc cannot replace it") {
                            continue;
                        }
                        let source = host.join(name);
                        let bundle = without_dev(bed)
                            .mount(place, "bind", source.to_str().unwrap(), &["bind", word])
                            .sh(&format!("stat -c '%a %t:%T %u:%g' {place}"));
                        let bundle = match place {
                            "/place/here" if name == "directory" => {
                                bundle.with("/process/cwd", place)
                            }
                            _ => bundle,
                        };
                        let bundle = match (user_namespace, place) {
                            (true, "/srv/full") => bundle.in_user_namespace(65_536),
                            // The host has no node of that name to bind.
                            (true, _) => bundle.in_user_namespace(65_536).without("/linux/devices"),
                            _ => bundle,
                        };
                        let case = format!("{place}, {name}, {word}, {user_namespace}");
                        let output = bed.run(&bundle);
                        assert_eq!(described(&host), before, "{case}: {output}");
                        let minor = match name {
                            "same" => "1:7",
                            "other" => "1:9",
                            _ => "0:0",
                        };
                        assert_eq!(output.success(), format!("640 {minor} 11:12"), "{case}");
                    }
                }
            }
        }
    });
}

#[test]
fn an_ordinary_users_bind_at_a_device_stays_too() {
    shared_too::as_user(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 cover it") {
            return;
        }
        for word in ["", "rslave", "rshared"] {
            // Of a shared /dev the cover would be seen at /dev/null itself, inside.
            let bundle = bed
                .bundle()
                .with("/linux/rootfsPropagation", word)
                .mount("/dev/zero", "bind", "/dev/null", &["bind"])
                .with("/linux/maskedPaths", json!(["/proc/keys"]))
                .sh("stat -c %t:%T /dev/zero /dev/null /proc/keys");
            assert_eq!(bed.run(&bundle).success(), "1:3\n1:3\n1:3", "{word:?}");
        }
    });
}

#[test]
fn what_lies_in_a_bound_directory_is_there_as_it_was() {
    as_root(|bed| {
        if bed.is_peer("crun 1.8 makes its own over what is mounted") {
            return;
        }
        // The image decides that the devices are made in the volume.
        for linked in [false, true] {
            let host = host(bed);
            for name in ["same", "other"] {
                fs::remove_file(host.join(name)).unwrap();
            }
            for (name, minor) in [("full", 7), ("zero", 9), ("null", 3)] {
                node(&host.join(name), minor);
                odd(&host.join(name));
            }
            for name in ["random", "ptmx", "stdin"] {
                fs::write(host.join(name), "of the host\n").unwrap();
                odd(&host.join(name));
            }
            let before = described(&host);
            let bundle = without_dev(bed);
            let bundle = if linked {
                fs::remove_dir(bundle.rootfs().join("dev")).unwrap();
                symlink("volume", bundle.rootfs().join("dev")).unwrap();
                bundle
            } else {
                bundle.with("/linux/devices/0/path", "/volume/full")
            };
            let bundle = bundle.mount("/volume", "bind", host.to_str().unwrap(), &["bind"]);
            if linked && bed.is_peer("runc 1.1 makes its own in it, and replaces ptmx") {
                continue;
            }
            bed.run(&bundle.sh("stat -c %a:%t:%T /volume/full")).success();
            let after = described(&host);
            assert_eq!(after, before, "{linked}");
        }
    });
}

/// A terminal at /dev/console, and the mounts of a list, cover what is there.
#[test]
fn what_is_covered_is_as_it_was() {
    where_mounts_are_shared(|bed| {
        if bed.is_peer("runc 1.1 empties what is at /dev/console, crun 1.8 follows links") {
            return;
        }
        let host = host(bed);
        let before = described(&host);
        let table = || fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let mounted = table();
        for name in ["same", "other", "file", "link"] {
            for word in ["rw", "ro"] {
                for user_namespace in [false, true] {
                    let bundle = bed
                        .bundle()
                        .mount("/volume", "bind", host.to_str().unwrap(), &["bind", word])
                        .mount(&format!("/volume/{name}"), "bind", "/bin/true", &["bind"])
                        .mount("/volume/directory", "tmpfs", "tmpfs", &["mode=700"])
                        .mount(
                            "/dev/console",
                            "bind",
                            host.join(name).to_str().unwrap(),
                            &["bind", word],
                        )
                        .with("/process/terminal", true)
                        .sh("echo up; sleep 100");
                    let bundle = match user_namespace {
                        true => bundle.in_user_namespace(65_536),
                        false => bundle,
                    };
                    let socket = ConsoleSocket::listen(bed);
                    let id = bed.id();
                    let call =
                        bed.create_call(&bundle, &id).option("--console-socket", &socket.path);
                    let container = Container::create(bed, &id, call);
                    let (mut terminal, _) = socket.terminal();
                    container.start();
                    terminal.expect("up");
                    let case = format!("{name}, {word}, {user_namespace}");
                    assert_eq!(described(&host), before, "{case}");
                    assert_eq!(table(), mounted, "{case}");
                    container.delete();
                    assert_eq!(described(&host), before, "{case}");
                }
            }
        }
    });
}

#[test]
fn nothing_is_made_in_a_dev_of_the_host_however_it_is_spelt() {
    where_mounts_are_shared(|bed| {
        if bed.is_peer("crun 1.8 makes its own in it") {
            return;
        }
        let host = host(bed);
        // runc wants to find this one.
        node(&host.join("null"), 3);
        fs::write(host.join("ptmx"), "of the host\n").unwrap();
        let before = described(&host);
        for spelling in ["/dev", "/dev/", "//dev", "/./dev", "/x/../dev", "dev", "../dev"] {
            if !spelling.starts_with('/') && bed.is_peer("runc 1.1 knows no relative one") {
                continue;
            }
            for user_namespace in [false, true] {
                let bundle = without_dev(bed).without("/linux/devices").mount(
                    spelling,
                    "bind",
                    host.to_str().unwrap(),
                    &["rbind"],
                );
                fs::create_dir(bundle.rootfs().join("x")).unwrap();
                let bundle = if user_namespace { bundle.in_user_namespace(65_536) } else { bundle };
                let output = bed.run(&bundle.sh("stat -c %u /dev/file"));
                assert_eq!(output.success(), "11", "{spelling}");
                assert_eq!(described(&host), before, "{spelling}, {user_namespace}");
            }
        }
    });
}

#[test]
fn a_file_of_the_image_in_the_place_of_a_device_is_the_same_node_or_an_error() {
    as_root(|bed| {
        if bed.is_peer("they leave it or take it away") {
            return;
        }
        for place in ["dev/full", "srv/full"] {
            for name in ["nothing", "same", "other", "file", "directory", "link"] {
                let bundle = without_dev(bed).sh(&format!("stat -c '%a %t:%T' /{place}"));
                let path = bundle.rootfs().join(place);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                if name != "nothing" {
                    let moved = std::process::Command::new("mv")
                        .args([&host(bed).join(name), &path])
                        .status();
                    assert!(moved.unwrap().success());
                }
                let around = path.parent().unwrap();
                let before = described(around);
                let output = bed.run(&bundle);
                if ["nothing", "same"].contains(&name) {
                    let mode = if place == "dev/full" { "666" } else { "600" };
                    assert_eq!(output.success(), format!("{mode} 1:7"), "{place}, {name}");
                    let owner = fs::symlink_metadata(&path).unwrap();
                    let expected = match (place, name) {
                        ("srv/full", _) => (5, 6),
                        (_, "same") => (11, 12),
                        _ => (0, 0),
                    };
                    assert_eq!((owner.uid(), owner.gid()), expected, "{place}, {name}");
                } else {
                    assert!(output.failure(1).contains(place), "{place}, {name}: {output}");
                    let after = described(around);
                    let kept = before.iter().filter(|line| line.contains("full"));
                    assert!(kept.into_iter().all(|line| after.contains(line)), "{after:#?}");
                }
            }
        }
    });
}

/// renameat2(2) with RENAME_EXCHANGE, again and again, while `meanwhile` runs.
fn exchanging(one: &Path, other: &Path, meanwhile: impl FnOnce()) {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE).unwrap();
            }
        });
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(meanwhile));
        done.store(true, Ordering::Relaxed);
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

#[test]
fn a_node_that_is_swapped_for_a_link_changes_nothing_of_the_host() {
    as_root(|bed| {
        let secret = bed.write("secret", "of the host\n");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        // Directories that containers share are on one file system: so is what is swapped.
        let shared = without_dev(bed);
        let place = shared.rootfs().join("srv");
        fs::create_dir(&place).unwrap();
        node(&place.join("full"), 7);
        symlink(&secret, place.join("link")).unwrap();
        exchanging(&place.join("full"), &place.join("link"), || {
            for mode in 0..100 {
                // Another mode each time, so that there is always one to give.
                let bundle = shared.clone().with("/linux/devices/0/fileMode", 0o600 + mode % 8);
                let output = bed.run(&bundle.args(["/bin/true"]));
                assert!([0, 1].contains(&output.code), "{output}");
                let found = fs::metadata(&secret).unwrap();
                let now = (found.mode() & 0o7777, found.uid(), found.gid());
                assert_eq!(now, (0o600, 0, 0), "{output}");
            }
        });
    });
}

#[test]
fn a_file_that_is_swapped_for_a_fifo_does_not_hold_tmpcopyup_up() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 stumble over it") {
            return;
        }
        let bundle = bed.bundle().mount("/srv", "tmpfs", "tmpfs", &["tmpcopyup"]);
        bundle.write("/srv/file", "of the image\n");
        let place = bundle.rootfs().join("srv");
        mkfifo(&bundle.rootfs().join("fifo"), Mode::from_bits_truncate(0o644)).unwrap();
        exchanging(&place.join("file"), &bundle.rootfs().join("fifo"), || {
            for _ in 0..100 {
                // A call that hangs fails the test.
                let output = bed.run_call(&bundle.clone().args(["/bin/true"])).output();
                assert_eq!(output.code, 0, "{output}");
            }
        });
        let fifo = fs::symlink_metadata(place.join("file")).unwrap().file_type();
        assert!(fifo.is_file() || fifo.is_fifo());
    });
}

/// Everything that has to be made below a file system that is to be read-only.
#[test]
fn a_tmpfs_is_read_only_when_all_is_made_in_it() {
    as_root(|bed| {
        if bed.is_peer("crun 1.8 closes it at once") {
            return;
        }
        let file = bed.write("file", "bound\n");
        let bundle = bed
            .bundle()
            .mount("/run", "tmpfs", "tmpfs", &["ro"])
            .mount("/run/in/file", "bind", file.to_str().unwrap(), &["bind"])
            .mount("/run/in/tmpfs", "tmpfs", "tmpfs", &[])
            .with(
                "/linux/devices",
                json!([{"path": "/run/full", "type": "c", "major": 1, "minor": 7}]),
            )
            .with("/process/cwd", "/run/place/here")
            .with("/mounts/1/options", json!(["nosuid", "mode=755", "ro"]))
            .sh("pwd; cat /run/in/file; stat -c %t:%T /run/full 2>/dev/null; echo x > /dev/null; \
                 for f in /run/x /run/place/x /run/in/x /dev/x /dev/shm/y /run/in/tmpfs/y; do \
                 (: > $f) 2>/dev/null && echo $f is made; done; true");
        for user_namespace in [false, true] {
            let bundle = bundle.clone();
            let bundle = match user_namespace {
                // There it is bound from where the host has it.
                true => bundle.in_user_namespace(65_536).with("/linux/devices/0/path", "/dev/full"),
                false => bundle,
            };
            let node = if user_namespace { "" } else { "1:7\n" };
            let expected = format!(
                "/run/place/here\nbound\n{node}/dev/shm/y is made\n/run/in/tmpfs/y is made"
            );
            assert_eq!(bed.run(&bundle).success(), expected, "{user_namespace}");
        }
    });
}

#[test]
fn a_joined_cgroup_namespace_beside_a_new_user_namespace_shows_the_own_group() {
    integration::in_views(|bed| {
        if bed.view != View::V2 && bed.is_peer("runc 1.1 and crun 1.8 refuse it")
            || bed.is_peer("crun 1.8 refuses it")
        {
            return;
        }
        let holder = bed.start(&bed.bundle().with_namespace("cgroup", None).sh("sleep 100"));
        let path = format!("/proc/{}/ns/cgroup", holder.pid());
        let bundle = bed
            .bundle()
            .in_user_namespace(65_536)
            .with_namespace("cgroup", Some(Path::new(&path)))
            .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "ro"])
            .sh("for f in $(find /sys/fs/cgroup -name cgroup.procs); do \
                 grep -qx 1 $f && echo own; done | sort -u");
        fs::create_dir_all(bundle.rootfs().join("sys/fs/cgroup")).unwrap();
        assert_eq!(bed.run(&bundle).success(), "own");
    });
}
