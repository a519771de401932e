//! What is mounted in a container never reaches the host, where all mounts of the host are
//! shared: neither its own mounts nor what the runtime covers there.
//!
//! Where a tree of the host's mount namespace comes into a container, and what it is then:
//!
//! | tree | opened by | most that it may be |
//! |---|---|---|
//! | the root | init, in the new mount namespace | a slave, as `rootfsPropagation` says |
//! | a bind | init, in the new mount namespace | what `rootfsPropagation` has left of it |
//! | a bind beside a user namespace, or id-mapped | the creator | the same as without |
//! | a bind without a mount namespace | init, in the caller's | a slave |
//! | the group of `type: cgroup` | as a bind | the same |
//! | a proc or sysfs of the caller's, where no new one may be had | init | a slave |
//! | nodes of devices, `/dev/null` as a cover, the empty cover | init | private |
//! | a read-only path, bound on itself | init | what its mount is |
//! | `/dev/console` | init, from the container's own devpts | private |

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use integration::{Bed, Bundle, Container, where_mounts_are_shared};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

/// The host's mounts, as this thread's namespace has them.
fn table() -> String {
    fs::read_to_string("/proc/thread-self/mountinfo").unwrap()
}

/// Whether the mount at `place` inside has peers, and whether it has a master.
#[track_caller]
fn ties(container: &Container<'_>, place: &str) -> (bool, bool) {
    let table = fs::read_to_string(format!("/proc/{}/mountinfo", container.pid())).unwrap();
    let mut lines = table.lines().filter(|line| line.split(' ').nth(4) == Some(place));
    let line = lines.next_back().unwrap_or_else(|| panic!("nothing at {place}: {table}"));
    (line.contains(" shared:"), line.contains(" master:"))
}

/// A directory of the host with something to hide, to close and to cover.
fn source(bed: &Bed) -> PathBuf {
    let source = bed.make_directory(&format!("source-{}", bed.next()), 0o755);
    for directory in ["secrets", "closed", "below", "own"] {
        fs::create_dir(source.join(directory)).unwrap();
    }
    for file in ["secret", "secrets/file", "closed/file", "device"] {
        fs::write(source.join(file), "of the host\n").unwrap();
    }
    source
}

#[track_caller]
fn assert_untouched(source: &Path) {
    for file in ["secret", "secrets/file", "closed/file", "device"] {
        assert_eq!(fs::read_to_string(source.join(file)).unwrap(), "of the host\n", "{file}");
        fs::write(source.join(file), "of the host\n").unwrap_or_else(|e| panic!("{file}: {e}"));
    }
}

/// How a container comes by the tree of a bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    Mapped,
    UserNamespace,
    Joined,
    MappedInUserNamespace,
}

const WAYS: [Way; 5] =
    [Way::Plain, Way::Mapped, Way::UserNamespace, Way::Joined, Way::MappedInUserNamespace];

impl Way {
    /// A bundle with `source` bound at /data.
    fn bundle(self, bed: &Bed, source: &Path, options: &[&str], holder: &Container<'_>) -> Bundle {
        let mut entry = json!({"destination": "/data", "type": "bind", "source": source,
                               "options": ["rbind"]});
        entry["options"].as_array_mut().unwrap().extend(options.iter().map(|word| json!(word)));
        if matches!(self, Self::Mapped | Self::MappedInUserNamespace) {
            let ids = json!([{"containerID": 0, "hostID": 0, "size": 65_536}]);
            entry["uidMappings"] = ids.clone();
            entry["gidMappings"] = ids;
        }
        let bundle = bed.bundle().with("/mounts/-", entry);
        match self {
            Self::Plain | Self::Mapped => bundle,
            Self::UserNamespace | Self::MappedInUserNamespace => bundle.in_user_namespace(65_536),
            Self::Joined => {
                let path = format!("/proc/{}/ns/user", holder.pid());
                bundle.with_namespace("user", Some(Path::new(&path)))
            }
        }
    }
}

/// A container whose user namespace others join.
fn holder(bed: &Bed) -> Container<'_> {
    bed.start(&bed.bundle().in_user_namespace(65_536).sh("sleep 100"))
}

#[test]
fn nothing_of_a_bind_without_a_word_reaches_the_host() {
    where_mounts_are_shared(|bed| {
        let (source, holder) = (source(bed), holder(bed));
        for way in WAYS {
            if way != Way::Plain && bed.is_peer("runc 1.1 and crun 1.8 map less") {
                continue;
            }
            let before = table();
            let bundle = way
                .bundle(bed, &source, &[], &holder)
                .mount("/data/below", "tmpfs", "tmpfs", &["ro"])
                .mount("/data/device", "bind", "/bin/true", &["bind"])
                .with("/linux/maskedPaths", json!(["/data/secret", "/data/secrets"]))
                .with("/linux/readonlyPaths", json!(["/data/closed"]))
                .capable(&["CAP_SYS_ADMIN"])
                .sh("mount -t tmpfs x /data/own && echo mounted; sleep 100");
            let container = bed.create(&bundle);
            assert_eq!(table(), before, "{way:?}: after create");
            container.start();
            container.prints("mounted");
            assert_eq!(table(), before, "{way:?}: while it runs");
            assert_untouched(&source);
            let hidden = container.sh("cat /data/secret; ls /data/secrets /data/own; \
                 echo x 2>/dev/null > /data/closed/file || echo closed");
            assert_eq!(hidden.success(), "/data/own:\n\n/data/secrets:\nclosed", "{way:?}");
            container.delete();
            assert_eq!(table(), before, "{way:?}: after delete");
        }
    });
}

#[test]
fn a_bind_is_what_its_words_and_the_propagation_of_the_root_make_of_it() {
    where_mounts_are_shared(|bed| {
        let (source, holder) = (source(bed), holder(bed));
        let before = table();
        for root in ["", "rslave", "private", "rprivate"] {
            // rprivate cuts all mounts off; what is about the root alone does not.
            let master = root != "rprivate";
            for (word, expected) in [
                (None, (false, master)),
                (Some("private"), (false, false)),
                (Some("rslave"), (false, master)),
                (Some("rshared"), (true, master)),
            ] {
                for way in WAYS {
                    if bed.is_peer("runc 1.1 and crun 1.8 have other defaults") {
                        continue;
                    }
                    let bundle = way
                        .bundle(bed, &source, word.as_slice(), &holder)
                        .with("/linux/rootfsPropagation", root)
                        .sh("sleep 100");
                    let container = bed.start(&bundle);
                    let case = format!("{root:?}, {word:?}, {way:?}");
                    assert_eq!(ties(&container, "/data"), expected, "{case}");
                    container.delete();
                    assert_eq!(table(), before, "{case}");
                }
            }
        }
    });
}

#[test]
fn the_root_is_a_slave_unless_it_is_to_be_more_or_less() {
    where_mounts_are_shared(|bed| {
        if bed.is_peer("crun 1.8 has it private") {
            return;
        }
        for (word, expected) in [
            ("", (false, true)),
            ("slave", (false, true)),
            ("rslave", (false, true)),
            ("private", (false, false)),
            ("rprivate", (false, false)),
            ("unbindable", (false, false)),
            ("shared", (true, false)),
            ("rshared", (true, false)),
        ] {
            if word.ends_with("shared") && bed.is_peer("runc 1.1 has it private all the same")
                || word == "unbindable" && bed.is_peer("runc 1.1 binds it afterwards")
            {
                continue;
            }
            for user_namespace in [false, true] {
                let before = table();
                let bundle = bed.bundle().with("/linux/rootfsPropagation", word).sh("sleep 100");
                let bundle = if user_namespace { bundle.in_user_namespace(65_536) } else { bundle };
                let container = bed.start(&bundle);
                assert_eq!(ties(&container, "/"), expected, "{word:?}, {user_namespace}");
                assert_eq!(table(), before, "{word:?}, {user_namespace}");
                container.delete();
                assert_eq!(table(), before, "{word:?}, {user_namespace}");
            }
        }
    });
}

#[test]
fn the_container_hears_what_the_host_unmounts() {
    where_mounts_are_shared(|bed| {
        if bed.is_peer("crun 1.8 cuts the root off") {
            return;
        }
        let source = source(bed);
        for (word, heard) in [("rslave", true), ("private", false)] {
            if word == "private" && bed.is_peer("runc 1.1 cuts off all that is in / as well") {
                continue;
            }
            let bundle = bed
                .bundle()
                .with("/linux/rootfsPropagation", word)
                .mount("/data", "bind", source.to_str().unwrap(), &["rbind", "rslave"])
                .sh("sleep 100");
            let in_root = bundle.rootfs().join("var");
            let in_bind = source.join("below");
            for place in [&in_root, &in_bind] {
                mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
                fs::write(place.join("mounted"), "").unwrap();
            }
            let container = bed.start(&bundle);
            let seen = || container.sh("ls /var /data/below").success().matches("mounted").count();
            assert_eq!(seen(), 2, "{word}");
            // A bind of its own has its own word.
            umount2(&in_bind, MntFlags::MNT_DETACH).unwrap();
            assert_eq!(seen(), 1, "{word}");
            umount2(&in_root, MntFlags::MNT_DETACH).unwrap();
            assert_eq!(seen() == 0, heard, "{word}");
            container.delete();
        }
    });
}

/// Without a mount namespace of its own its mounts are the host's too, but where they are
/// made, and nowhere else.
#[test]
fn without_a_mount_namespace_covers_stay_below_the_root() {
    where_mounts_are_shared(|bed| {
        if bed.is_peer("runc 1.1 refuses it, crun 1.8 leaves its mounts") {
            return;
        }
        let source = source(bed);
        let before = table();
        let bundle = bed
            .bundle()
            .without_namespace("mount")
            .mount("/data", "bind", source.to_str().unwrap(), &["bind"])
            // What the link leads to is a cover already, of the host's /dev/null.
            .with(
                "/linux/maskedPaths",
                json!([
                    "/data/secret",
                    "/again",
                    "/data/secrets",
                    "/data/closed/file",
                    "/own/file"
                ]),
            )
            .with("/linux/readonlyPaths", json!(["/data/closed", "/own"]))
            .sh("sleep 100");
        bundle.write("/own/file", "of the image\n");
        symlink("data/secret", bundle.rootfs().join("again")).unwrap();
        let container = bed.start(&bundle);
        let root = bundle.rootfs();
        let during = table();
        let outside = during.lines().filter(|line| {
            let place = line.split(' ').nth(4).unwrap_or_default();
            !Path::new(place).starts_with(&root) && !before.contains(line)
        });
        assert_eq!(outside.collect::<Vec<_>>(), [""; 0]);
        assert_untouched(&source);
        container.delete();
        assert_eq!(table(), before);
    });
}
