//! Id-mapped mounts, and sources that a user namespace could not reach by itself.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use integration::on_every_ground::as_root;
use integration::shared_too::as_user;
use integration::{Bed, Bundle};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};
use serde_json::{Value, json};

/// The first id that the user namespaces of these tests have on the host.
const BASE: u32 = 100_000;

/// Runs a test as root with ferrun, which may be newer than others.
fn with_root(test: impl Fn(&Bed) + Sync) {
    as_root(|bed| {
        // As a container has its root, in which these tests may run.
        let found = statfs(&bed.directory).unwrap();
        if found.filesystem_type() == OVERLAYFS_SUPER_MAGIC {
            return bed.skip("the kernel maps no ids of an overlay, and TMPDIR is on one");
        }
        if !bed.is_peer("runc 1.1 and crun 1.8 map less, and in other ways") {
            test(bed);
        }
    });
}

/// A source whose files belong to 0:0, to 5:7 and to 999:999, in which anybody may
/// make files.
fn source(bed: &Bed) -> PathBuf {
    let source = bed.make_directory(&format!("source-{}", bed.next()), 0o777);
    fill(&source);
    source
}

fn fill(directory: &Path) {
    for (name, owner, group) in [("root", 0, 0), ("five", 5, 7), ("far", 999, 999)] {
        let path = directory.join(name);
        fs::write(&path, name).unwrap();
        chown(&path, Some(owner), Some(group)).unwrap();
    }
}

/// The ids from `first` on, as `count` ids of the host from `host` on.
fn ids(first: u32, host: u32, count: u32) -> Value {
    json!([{"containerID": first, "hostID": host, "size": count}])
}

/// A bind mount with mappings of its own.
fn mapped(bundle: Bundle, source: &Path, options: &[&str], uids: Value, gids: Value) -> Bundle {
    bundle.with(
        "/mounts/-",
        json!({"destination": "/data", "type": "bind", "source": source, "options": options,
               "uidMappings": uids, "gidMappings": gids}),
    )
}

/// The same with a new user namespace for the ids from `BASE` on. Its root belongs
/// to nobody in there, so that the places of mounts have to be there before.
fn in_user_namespace(bundle: Bundle) -> Bundle {
    for place in ["data", "mapped", "ro"] {
        fs::create_dir_all(bundle.rootfs().join(place)).unwrap();
    }
    bundle.write("file", "");
    bundle
        .with_namespace("user", None)
        .with("/linux/uidMappings", ids(0, BASE, 65_536))
        .with("/linux/gidMappings", ids(0, BASE, 65_536))
}

const OWNERS: &str = "stat -c '%n %u:%g' root five far";

#[track_caller]
fn assert_owners(bed: &Bed, bundle: &Bundle, directory: &str, expected: [&str; 3]) {
    let output = bed.run(&bundle.clone().sh(&format!("cd {directory} && {OWNERS}")));
    let [root, five, far] = expected;
    assert_eq!(output.success(), format!("root {root}\nfive {five}\nfar {far}"), "{directory}");
}

/// Who owns a file on the disk.
#[track_caller]
fn owner(path: &Path) -> (u32, u32) {
    let found = fs::metadata(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    (found.uid(), found.gid())
}

#[test]
fn a_mount_has_mappings_of_its_own() {
    with_root(|bed| {
        let source = source(bed);
        // Engines give mappings with the word, or without it.
        for options in [&["bind"][..], &["bind", "idmap"], &["rbind", "ridmap"]] {
            let bundle =
                mapped(bed.bundle(), &source, options, ids(0, 1000, 100), ids(0, 3000, 100));
            let expected = ["1000:3000", "1005:3007", "65534:65534"];
            assert_owners(bed, &bundle, "/data", expected);
        }
        assert_eq!(owner(&source.join("five")), (5, 7), "the source is as it was");
        bed.assert_nothing_left();
    });
}

#[test]
fn what_is_made_there_is_mapped_back() {
    with_root(|bed| {
        let source = source(bed);
        let bundle = mapped(bed.bundle(), &source, &["bind"], ids(0, 1000, 100), ids(0, 3000, 100));
        let made = bundle
            .clone()
            .with("/process/user", json!({"uid": 1042, "gid": 3043}))
            .sh("echo mine > /data/made && stat -c %u:%g /data/made");
        assert_eq!(bed.run(&made).success(), "1042:3043");
        assert_eq!(owner(&source.join("made")), (42, 43));
        // An id that has no place on the disk cannot own anything there.
        let stranger = bundle.sh("echo x > /data/other 2>&1 || echo refused");
        let output = bed.run(&stranger);
        assert!(output.success().ends_with("refused"), "{output}");
        assert!(!source.join("other").exists());
    });
}

#[test]
fn several_ranges_and_mounts_keep_apart() {
    with_root(|bed| {
        let source = source(bed);
        let uids = json!([{"containerID": 0, "hostID": 1000, "size": 1},
                          {"containerID": 5, "hostID": 70, "size": 1},
                          {"containerID": 999, "hostID": 0, "size": 1}]);
        let bundle = mapped(bed.bundle(), &source, &["bind"], uids, ids(0, 0, 1000)).mount(
            "/plain",
            "bind",
            source.to_str().unwrap(),
            &["bind"],
        );
        assert_owners(bed, &bundle, "/data", ["1000:0", "70:7", "0:999"]);
        assert_owners(bed, &bundle, "/plain", ["0:0", "5:7", "999:999"]);
    });
}

#[test]
fn the_word_alone_takes_the_mappings_of_the_user_namespace() {
    with_root(|bed| {
        let source = source(bed);
        let text = source.to_str().unwrap();
        let plain = in_user_namespace(bed.bundle()).mount("/data", "bind", text, &["bind"]);
        assert_owners(bed, &plain, "/data", ["65534:65534"; 3]);
        let bundle =
            in_user_namespace(bed.bundle()).mount("/data", "bind", text, &["bind", "idmap"]);
        assert_owners(bed, &bundle, "/data", ["0:0", "5:7", "999:999"]);
        let made = bundle
            .with("/process/user", json!({"uid": 42, "gid": 43}))
            .sh("echo mine > /data/made && stat -c %u:%g /data/made");
        assert_eq!(bed.run(&made).success(), "42:43");
        assert_eq!(owner(&source.join("made")), (42, 43));
        bed.assert_nothing_left();
    });
}

#[test]
fn own_mappings_go_with_a_user_namespace() {
    with_root(|bed| {
        let source = source(bed);
        // As containerd and CRI-O have it for pods: both mappings are the same.
        let bundle = mapped(
            in_user_namespace(bed.bundle()),
            &source,
            &["rbind", "rprivate"],
            ids(0, BASE, 65_536),
            ids(0, BASE, 65_536),
        );
        assert_owners(bed, &bundle, "/data", ["0:0", "5:7", "999:999"]);
        // And they need not be: 5 on the disk is the container's 105.
        let bundle = mapped(
            in_user_namespace(bed.bundle()),
            &source,
            &["bind"],
            ids(0, BASE + 100, 10),
            ids(0, BASE + 200, 10),
        );
        assert_owners(bed, &bundle, "/data", ["100:200", "105:207", "65534:65534"]);
    });
}

#[test]
fn a_joined_user_namespace_gives_its_mappings_too() {
    with_root(|bed| {
        let source = source(bed);
        let holder = bed.start(&in_user_namespace(bed.bundle()).sh("sleep 100"));
        let path = format!("/proc/{}/ns/user", holder.pid());
        let bundle = bed.bundle().with_namespace("user", Some(Path::new(&path))).mount(
            "/tmp",
            "bind",
            source.to_str().unwrap(),
            &["bind", "idmap"],
        );
        let expected = ["0:0", "5:7", "999:999"];
        assert_owners(bed, &bundle, "/tmp", expected);
        // What the configuration says beside it changes nothing of that.
        for host in [100_000, 300_000] {
            let ids = json!([{"containerID": 0, "hostID": host, "size": 1000}]);
            let bundle = bundle.clone().with("/linux/uidMappings", ids.clone());
            assert_owners(bed, &bundle.with("/linux/gidMappings", ids), "/tmp", expected);
        }
    });
}

#[test]
fn what_is_mounted_below_is_mapped_by_the_recursive_word_alone() {
    with_root(|bed| {
        // Of the same file system: before Linux 6.3 a tmpfs cannot be mapped.
        let (source, other) = (source(bed), source(bed));
        let below = source.join("below");
        fs::create_dir(&below).unwrap();
        mount(Some(&other), &below, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let changed = ["1000:1000", "1005:1007", "65534:65534"];
        let unchanged = ["0:0", "5:7", "999:999"];
        for (word, expected) in [("ridmap", changed), ("idmap", unchanged)] {
            let ids = || ids(0, 1000, 100);
            let bundle = mapped(bed.bundle(), &source, &["rbind", word], ids(), ids());
            assert_owners(bed, &bundle, "/data", changed);
            assert_owners(bed, &bundle, "/data/below", expected);
        }
        // The same with the mappings of the user namespace.
        for (word, expected) in [("ridmap", unchanged), ("idmap", ["65534:65534"; 3])] {
            let bundle = in_user_namespace(bed.bundle()).mount(
                "/data",
                "bind",
                source.to_str().unwrap(),
                &["rbind", word],
            );
            assert_owners(bed, &bundle, "/data", unchanged);
            assert_owners(bed, &bundle, "/data/below", expected);
        }
        nix::mount::umount2(&below, nix::mount::MntFlags::MNT_DETACH).unwrap();
        bed.assert_nothing_left();
    });
}

#[test]
fn other_options_hold_on_a_mapped_mount() {
    with_root(|bed| {
        let source = source(bed);
        let bundle = mapped(
            bed.bundle(),
            &source,
            &["bind", "ro", "nosuid", "noexec"],
            ids(0, 1000, 100),
            ids(0, 1000, 100),
        )
        .with("/process/user", json!({"uid": 1000, "gid": 1000}))
        .sh("touch /data/x 2>&1; grep ' /data ' /proc/self/mounts | cut -d' ' -f4");
        let output = bed.run(&bundle);
        assert!(output.success().contains("Read-only"), "{output}");
        for word in ["ro", "nosuid", "noexec"] {
            let options = output.stdout.lines().last().unwrap_or_default();
            assert!(options.split(',').any(|option| option == word), "{word}: {output}");
        }
    });
}

#[test]
fn mappings_that_are_missing_or_wrong_are_refused_by_name() {
    with_root(|bed| {
        let source = source(bed);
        let some = || ids(0, 1000, 100);
        let entry = |options: &[&str], more: Value| {
            let mut entry = json!({"destination": "/data", "type": "bind", "source": source,
                                   "options": options});
            entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            entry
        };
        let overlapping = json!([{"containerID": 0, "hostID": 1000, "size": 10},
                                 {"containerID": 5, "hostID": 2000, "size": 10}]);
        for (entry, field) in [
            (entry(&["bind", "idmap"], json!({})), "mounts[4].options"),
            (entry(&["rbind", "ridmap"], json!({})), "mounts[4].options"),
            (entry(&["bind"], json!({"uidMappings": some()})), "mounts[4].gidMappings"),
            (entry(&["bind"], json!({"gidMappings": some()})), "mounts[4].uidMappings"),
            (
                entry(&["bind"], json!({"uidMappings": overlapping, "gidMappings": some()})),
                "mounts[4].uidMappings",
            ),
            (
                entry(&["bind"], json!({"uidMappings": ids(0, 5, 0), "gidMappings": some()})),
                "mounts[4].uidMappings",
            ),
            (
                json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs",
                       "uidMappings": some(), "gidMappings": some()}),
                "mounts[4].uidMappings",
            ),
        ] {
            if field.ends_with("options") && bed.is_inside("there are mappings to take") {
                continue;
            }
            let output = bed.run(&bed.bundle().with("/mounts/-", entry.clone()));
            assert!(output.failure(1).contains(field), "{field}, {entry}: {output}");
            bed.assert_nothing_left();
        }
    });
}

#[test]
fn a_file_system_that_cannot_be_mapped_is_named() {
    with_root(|bed| {
        let some = || ids(0, 1000, 100);
        let bundle = mapped(bed.bundle(), Path::new("/proc/sys"), &["bind"], some(), some());
        let output = bed.run(&bundle);
        assert!(output.failure(1).contains("mounts[4]"), "{output}");
        bed.assert_nothing_left();
    });
}

#[test]
fn an_ordinary_user_is_told_that_he_may_not() {
    as_user(|bed| {
        if bed.is_peer("they have other words") {
            return;
        }
        let source = bed.make_directory("source", 0o755);
        let bundle =
            bed.bundle().mount("/data", "bind", source.to_str().unwrap(), &["bind", "idmap"]);
        let output = bed.run(&bundle);
        assert!(output.failure(1).contains("mounts[4]"), "{output}");
        bed.assert_nothing_left();
    });
}

/// Nobody but root may enter it: a process in another user namespace cannot.
fn closed(bed: &Bed) -> PathBuf {
    let closed = bed.make_directory("closed", 0o700);
    let inner = closed.join("inner");
    fs::create_dir(&inner).unwrap();
    fs::set_permissions(&inner, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(inner.join("word"), "reached").unwrap();
    closed
}

#[test]
fn a_source_in_a_closed_directory_reaches_a_user_namespace() {
    with_root(|bed| {
        let inner = closed(bed).join("inner");
        let (directory, file) = (inner.clone(), inner.join("word"));
        let bundle = in_user_namespace(bed.bundle())
            .mount("/data", "bind", directory.to_str().unwrap(), &["bind"])
            .mount("/ro", "bind", directory.to_str().unwrap(), &["rbind", "ro"])
            .mount("/file", "bind", file.to_str().unwrap(), &["bind"])
            .mount("/mapped", "bind", directory.to_str().unwrap(), &["bind", "idmap"]);
        let script = "cat /data/word /ro/word /file /mapped/word; echo; \
                      stat -c %u /mapped/word; touch /ro/x 2>&1";
        let output = bed.run(&bundle.sh(script));
        assert!(output.stdout.starts_with("reachedreachedreachedreached\n0\n"), "{output}");
        assert!(output.stdout.contains("Read-only"), "{output}");
        bed.assert_nothing_left();
    });
}

/// As the containers of a pod that has a user namespace.
#[test]
fn a_source_in_a_closed_directory_reaches_a_joined_user_namespace() {
    with_root(|bed| {
        let inner = closed(bed).join("inner");
        let holder = bed.start(&in_user_namespace(bed.bundle()).sh("sleep 100"));
        let path = format!("/proc/{}/ns/user", holder.pid());
        let bundle = in_user_namespace(bed.bundle())
            .without_namespace("user")
            .with_namespace("user", Some(Path::new(&path)))
            .mount("/data", "bind", inner.to_str().unwrap(), &["rbind", "ro"]);
        assert_eq!(bed.run(&bundle.sh("cat /data/word")).success(), "reached");
    });
}

#[test]
fn a_root_in_a_closed_directory_is_named() {
    with_root(|bed| {
        let closed = closed(bed);
        let bundle = in_user_namespace(bed.bundle());
        let moved = closed.join("rootfs");
        fs::rename(bundle.rootfs(), &moved).unwrap();
        // As with runc: engines open the directories above it for the mapped root.
        let output = bed.run(&bundle.with("/root/path", moved.to_str()));
        assert!(output.failure(1).contains("root.path"), "{output}");
        bed.assert_nothing_left();
    });
}
