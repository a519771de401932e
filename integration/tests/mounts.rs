//! `mounts`, masked and read-only paths, rootfsPropagation, and a root without a
//! mount namespace.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use integration::on_every_ground::{as_both, as_root, in_views};
use integration::{Bed, Bundle, eventually, shared_too};
use serde_json::json;

/// Prints the line of mountinfo for a place: its options, its optional fields, a
/// dash, type, source and the options of the file system.
fn show(place: &str) -> String {
    format!("awk '$5 == \"{place}\" {{ $1=$2=$3=$4=\"\"; print }}' /proc/self/mountinfo")
}

/// What a bundle prints of the mount at `place`, split at blanks.
#[track_caller]
fn shown(bed: &Bed, bundle: Bundle, place: &str) -> Vec<String> {
    let output = bed.run(&bundle.sh(&show(place)));
    output.success().split_whitespace().map(str::to_owned).collect()
}

/// A directory of the bed with one file in it.
fn source(bed: &Bed) -> String {
    let directory = bed.make_directory(&format!("source-{}", bed.next()), 0o755);
    fs::write(directory.join("file"), "content\n").unwrap();
    directory.to_str().unwrap().to_owned()
}

#[test]
fn each_option_word_has_its_effect_on_a_file_system() {
    as_both(|bed| {
        for (word, expected) in [
            ("ro", "ro"),
            ("rw", "rw"),
            ("nosuid", "nosuid"),
            ("nodev", "nodev"),
            ("noexec", "noexec"),
            ("noatime", "noatime"),
            ("nodiratime", "nodiratime"),
            ("relatime", "relatime"),
            ("nosymfollow", "nosymfollow"),
        ] {
            if word == "nosymfollow" && bed.is_peer("crun 1.8 does not know nosymfollow") {
                continue;
            }
            let bundle = bed.bundle().mount("/tmp", "tmpfs", "tmpfs", &[word]);
            let line = shown(bed, bundle, "/tmp");
            let options: Vec<_> = line[1].split(',').collect();
            assert!(options.contains(&expected), "{word}: {line:?}");
        }
    });
}

#[test]
fn a_later_option_word_takes_an_earlier_one_back() {
    as_root(|bed| {
        if bed.is_peer("crun 1.8 has ro win") {
            return;
        }
        for (words, absent) in [
            (["ro", "rw"], "ro"),
            (["nosuid", "suid"], "nosuid"),
            (["nodev", "dev"], "nodev"),
            (["noexec", "exec"], "noexec"),
            (["noatime", "atime"], "noatime"),
            (["nodiratime", "diratime"], "nodiratime"),
        ] {
            let bundle = bed.bundle().mount("/tmp", "tmpfs", "tmpfs", &words);
            let line = shown(bed, bundle, "/tmp");
            assert!(!line[1].split(',').any(|word| word == absent), "{words:?}: {line:?}");
        }
        let bundle = bed.bundle().mount("/tmp", "tmpfs", "tmpfs", &["relatime", "strictatime"]);
        let line = shown(bed, bundle, "/tmp");
        assert!(!line[1].contains("atime"), "{line:?}");
    });
}

#[test]
fn words_about_the_file_system_reach_it() {
    as_root(|bed| {
        for (words, expected) in [
            (&["sync"] as &[&str], "sync"),
            (&["dirsync"], "dirsync"),
            (&["lazytime"], "lazytime"),
            (&["size=64k"], "size=64k"),
            (&["mode=0710"], "mode=710"),
            (&["uid=5", "gid=6"], "gid=6"),
        ] {
            if words[0] == "lazytime" && bed.is_peer("crun 1.8 does not know lazytime") {
                continue;
            }
            let bundle = bed.bundle().mount("/tmp", "tmpfs", "tmpfs", words);
            let line = shown(bed, bundle, "/tmp");
            let options = line.last().unwrap();
            assert!(options.split(',').any(|word| word == expected), "{words:?}: {line:?}");
        }
        for word in [
            "async",
            "nolazytime",
            "loud",
            "silent",
            "iversion",
            "noiversion",
            "norelatime",
            "nostrictatime",
            "mand",
            "nomand",
            "symfollow",
            "defaults",
            "acl",
        ] {
            if bed.is_peer("runc 1.1 and crun 1.8 do not know all of these") {
                break;
            }
            let bundle = bed.bundle().mount("/tmp", "tmpfs", "tmpfs", &[word]);
            if ["mand", "acl"].contains(&word) {
                // No longer of this kernel; a word it does not know must be an error at most.
                bed.run(&bundle);
                continue;
            }
            bed.run(&bundle).success();
        }
    });
}

#[test]
fn a_word_that_the_file_system_does_not_know_is_an_error() {
    as_root(|bed| {
        let bundle = bed.bundle().mount("/tmp", "tmpfs", "tmpfs", &["bogus=1"]);
        let output = bed.run(&bundle);
        assert!(output.code != 0, "{output}");
        bed.assert_nothing_left();
    });
}

#[test]
fn a_bind_shows_its_source_and_takes_the_options() {
    as_both(|bed| {
        let source = source(bed);
        for (options, expected) in [
            (&["bind", "ro"] as &[&str], "ro"),
            (&["rbind", "ro", "nosuid"], "nosuid"),
            (&["rbind", "nodev", "noexec"], "noexec"),
            (&["bind", "noatime"], "noatime"),
        ] {
            if bed.is_rootless() && options.contains(&"noatime") {
                // The kernel locks it for a user namespace that has not made the mount.
                continue;
            }
            let bundle = bed.bundle().mount("/data", "bind", &source, options).sh(&format!(
                "cat /data/file; {}; echo x 2>/dev/null > /data/new || echo refused",
                show("/data")
            ));
            let output = bed.run(&bundle);
            let lines: Vec<_> = output.success().lines().collect();
            assert_eq!(lines[0], "content", "{output}");
            assert!(lines[1].contains(expected), "{options:?}: {output}");
            let read_only = options.contains(&"ro");
            assert_eq!(lines.get(2) == Some(&"refused"), read_only, "{options:?}: {output}");
        }
    });
}

/// A source with another mount in it, that only rbind shows.
fn nested(bed: &Bed) -> String {
    use nix::mount::{MsFlags, mount};
    let outer = source(bed);
    let inner = format!("{outer}/inner");
    fs::create_dir(&inner).unwrap();
    mount(Some("tmpfs"), inner.as_str(), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    fs::write(format!("{inner}/deep"), "deep\n").unwrap();
    outer
}

/// Takes away what `nested` has mounted: the bed would count it.
fn forget(outer: &str) {
    nix::mount::umount2(format!("{outer}/inner").as_str(), nix::mount::MntFlags::MNT_DETACH)
        .unwrap();
}

#[test]
fn rbind_shows_what_is_mounted_below_and_bind_does_not() {
    as_root(|bed| {
        let source = nested(bed);
        let script = "cat /data/inner/deep 2>/dev/null || echo nothing";
        for (option, expected) in [("rbind", "deep"), ("bind", "nothing")] {
            let bundle = bed.bundle().mount("/data", "none", &source, &[option]).sh(script);
            assert_eq!(bed.run(&bundle).success(), expected, "{option}");
        }
        forget(&source);
    });
}

#[test]
fn recursive_words_reach_what_is_mounted_below() {
    as_root(|bed| {
        if bed.is_peer("crun 1.8 cannot set recursive times") {
            return;
        }
        let source = nested(bed);
        for (word, option) in [
            ("rro", "ro"),
            ("rnosuid", "nosuid"),
            ("rnodev", "nodev"),
            ("rnoexec", "noexec"),
            ("rnoatime", "noatime"),
            ("rnodiratime", "nodiratime"),
            ("rnosymfollow", "nosymfollow"),
        ] {
            if word == "rnosymfollow" && bed.is_peer("crun 1.8 does not know rnosymfollow") {
                continue;
            }
            for place in ["/data", "/data/inner"] {
                let bundle = bed.bundle().mount("/data", "bind", &source, &["rbind", word]);
                let line = shown(bed, bundle, place);
                assert!(line[1].split(',').any(|found| found == option), "{word}: {line:?}");
            }
        }
        // `ro` is about the top alone.
        let bundle = bed.bundle().mount("/data", "bind", &source, &["rbind", "ro"]);
        let line = shown(bed, bundle, "/data/inner");
        assert!(line[1].split(',').any(|found| found == "rw"), "{line:?}");
        // And the words that take them back are known.
        for word in [
            "rrw",
            "rsuid",
            "rdev",
            "rexec",
            "ratime",
            "rdiratime",
            "rrelatime",
            "rnorelatime",
            "rstrictatime",
            "rnostrictatime",
            "rsymfollow",
        ] {
            if bed.is_peer("runc 1.1 and crun 1.8 do not know all of these") {
                break;
            }
            let bundle = bed.bundle().mount("/data", "bind", &source, &["rbind", word]);
            let line = shown(bed, bundle, "/data/inner");
            if word == "rnorelatime" {
                assert!(line[1].contains("relatime"), "{line:?}");
            }
        }
        forget(&source);
    });
}

#[test]
fn propagation_words_stand_in_mountinfo() {
    as_root(|bed| {
        if bed.is_peer("crun 1.8 loses them") {
            return;
        }
        let source = source(bed);
        for (word, expected) in [
            ("private", ""),
            ("rprivate", ""),
            ("shared", "shared:"),
            ("rshared", "shared:"),
            ("unbindable", "unbindable"),
            ("runbindable", "unbindable"),
        ] {
            let bundle = bed.bundle().mount("/data", "bind", &source, &["rbind", word]);
            let line = shown(bed, bundle, "/data").join(" ");
            let (options, _) = line.split_once(" - ").unwrap();
            let optional = options.split(' ').skip(2).collect::<Vec<_>>().join(" ");
            if expected.is_empty() {
                assert_eq!(optional, "", "{word}: {line}");
            } else {
                assert!(optional.starts_with(expected), "{word}: {line}");
            }
        }
    });
}

#[test]
fn a_slave_mount_follows_its_shared_source() {
    use nix::mount::{MsFlags, mount};
    as_root(|bed| {
        if bed.is_peer("crun 1.8 loses the propagation") {
            return;
        }
        let source = source(bed);
        let path = source.as_str();
        mount(Some(path), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        mount(None::<&str>, path, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
        for word in ["slave", "rslave"] {
            let bundle = bed.bundle().mount("/data", "bind", path, &["rbind", word]);
            let line = shown(bed, bundle, "/data");
            assert!(line.iter().any(|field| field.starts_with("master:")), "{word}: {line:?}");
        }
        let inner = Path::new(path).join("inner");
        fs::create_dir(&inner).unwrap();
        for word in ["slave", "rslave", "shared", "rshared"] {
            let bundle = bed.bundle().mount("/data", "bind", path, &["rbind", word]);
            let container = bed.start(&bundle.sh("sleep 100"));
            mount(Some("/bin"), &inner, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
            assert_eq!(container.sh("ls -d /data/inner/busybox").code, 0, "{word}");
            nix::mount::umount2(&inner, nix::mount::MntFlags::MNT_DETACH).unwrap();
            assert_ne!(container.sh("ls -d /data/inner/busybox").code, 0, "{word}");
            container.delete();
        }
        nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH).unwrap();
    });
}

#[test]
fn rootfs_propagation_is_that_of_the_root() {
    as_root(|bed| {
        for (word, expected) in [
            ("private", ""),
            ("rprivate", ""),
            ("shared", "shared:"),
            ("rshared", "shared:"),
            ("unbindable", "unbindable"),
        ] {
            if word == "unbindable" && bed.is_peer("runc 1.1 binds it afterwards") {
                continue;
            }
            let bundle = bed.bundle().with("/linux/rootfsPropagation", word);
            let line = shown(bed, bundle, "/").join(" ");
            let (options, _) = line.split_once(" - ").unwrap();
            let optional = options.split(' ').skip(2).collect::<Vec<_>>().join(" ");
            if expected.is_empty() {
                assert!(!optional.contains("shared:"), "{word}: {line}");
            } else if !bed.is_peer("runc 1.1 has it private all the same") {
                assert!(optional.contains(expected), "{word}: {line}");
            }
        }
    });
}

#[test]
fn mounts_of_the_container_are_not_seen_outside() {
    as_root(|bed| {
        for word in ["private", "slave", "shared"] {
            let bundle = bed
                .bundle()
                .with("/linux/rootfsPropagation", word)
                .mount("/data", "tmpfs", "tmpfs", &[])
                .capable(&["CAP_SYS_ADMIN"])
                .sh("mount -t tmpfs x /tmp; echo up; sleep 100");
            let container = bed.start(&bundle);
            container.prints("up");
            let outside = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            assert!(!outside.contains(&bed.name), "{word}: {outside}");
        }
    });
}

/// What Kubernetes calls bidirectional.
#[test]
fn a_mount_made_below_a_shared_bind_is_seen_outside() {
    use nix::mount::{MsFlags, mount};
    shared_too::as_root(|bed| {
        let outside = bed.make_directory("outside", 0o755);
        fs::create_dir(outside.join("inner")).unwrap();
        let path = outside.to_str().unwrap();
        mount(Some(path), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        mount(None::<&str>, path, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
        let bundle = bed
            .bundle()
            .with("/linux/rootfsPropagation", "rshared")
            .mount("/data", "bind", path, &["rbind", "rshared"])
            .capable(&["CAP_SYS_ADMIN"])
            .sh("mount --bind /bin /data/inner; echo up; sleep 100");
        let container = bed.start(&bundle);
        container.prints("up");
        assert!(outside.join("inner/busybox").exists());
        container.delete();
        nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH).unwrap();
    });
}

#[test]
fn tmpcopyup_takes_what_the_image_has_there() {
    as_root(|bed| {
        let bundle = bed
            .bundle()
            .mount("/srv", "tmpfs", "tmpfs", &["tmpcopyup"])
            .sh("cat /srv/deep/file; readlink /srv/link; stat -c %a:%u /srv/deep; echo new > /srv/deep/file");
        bundle.write("/srv/deep/file", "copied\n");
        symlink("deep/file", bundle.rootfs().join("srv/link")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        fs::set_permissions(bundle.rootfs().join("srv/deep"), mode).unwrap();
        assert_eq!(bed.run(&bundle).success(), "copied\ndeep/file\n711:0");
        let kept = fs::read_to_string(bundle.rootfs().join("srv/deep/file")).unwrap();
        assert_eq!(kept, "copied\n", "the image stays as it is");
    });
}

#[test]
fn a_relative_destination_counts_from_the_root() {
    as_root(|bed| {
        let source = source(bed);
        let bundle = bed.bundle().mount("data", "bind", &source, &["bind"]).sh("cat /data/file");
        assert_eq!(bed.run(&bundle).success(), "content");
    });
}

#[test]
fn a_relative_source_counts_from_the_bundle() {
    as_both(|bed| {
        let bundle = bed.bundle().mount("/data", "bind", "extra", &["bind"]).sh("cat /data/file");
        fs::create_dir(bundle.path.join("extra")).unwrap();
        fs::write(bundle.path.join("extra/file"), "beside\n").unwrap();
        let output = bed.run(&bundle);
        fs::remove_dir_all(bundle.path.join("extra")).unwrap();
        assert_eq!(output.success(), "beside");
    });
}

#[test]
fn a_file_can_be_bound_to_a_file_that_is_made() {
    as_both(|bed| {
        let source = source(bed);
        let bundle = bed
            .bundle()
            .mount("/some/where/file", "bind", &format!("{source}/file"), &["bind", "ro"])
            .sh("cat /some/where/file; echo x > /some/where/file || echo refused");
        assert_eq!(bed.run(&bundle).success(), "content\nrefused");
    });
}

#[test]
fn mounts_are_made_in_the_order_of_the_list() {
    as_both(|bed| {
        let source = source(bed);
        let bundle = bed
            .bundle()
            .mount("/data", "bind", &source, &["bind"])
            .mount("/data", "tmpfs", "tmpfs", &[])
            .mount("/data/below", "tmpfs", "tmpfs", &[])
            .sh("ls /data");
        assert_eq!(bed.run(&bundle).success(), "below");
    });
}

#[test]
fn a_destination_behind_a_symlink_stays_inside() {
    as_both(|bed| {
        if bed.is_peer("crun 1.8 cannot make what a link names") {
            return;
        }
        let outside = bed.make_directory("outside", 0o755);
        let bundle = bed
            .bundle()
            .mount("/link/made", "tmpfs", "tmpfs", &[])
            .mount("/climbing/made", "tmpfs", "tmpfs", &[])
            .sh("ls -d /*/outside/made /tmp/made 2>/dev/null; cut -d' ' -f5 /proc/self/mountinfo");
        symlink(&outside, bundle.rootfs().join("link")).unwrap();
        symlink("../../../../tmp", bundle.rootfs().join("climbing")).unwrap();
        let output = bed.run(&bundle);
        let inside = format!("{}/made", outside.display());
        assert!(output.success().contains(&inside), "{output}");
        assert!(output.stdout.contains("/tmp/made"), "{output}");
        assert!(!outside.join("made").exists(), "a directory was made outside");
    });
}

#[test]
fn a_dev_that_is_a_symlink_leads_nowhere_outside() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 follows it out: CVE-2026-41579") {
            return;
        }
        let outside = bed.make_directory("outside", 0o755);
        let bundle = bed.bundle().sh("echo ran");
        fs::remove_dir(bundle.rootfs().join("dev")).unwrap();
        symlink(&outside, bundle.rootfs().join("dev")).unwrap();
        // Whether it is refused or resolved inside, nothing may appear outside.
        let _ = bed.run(&bundle);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        bed.assert_nothing_left();
    });
}

#[test]
fn a_proc_or_sys_of_the_image_that_is_a_symlink_is_refused() {
    as_root(|bed| {
        if bed.is_peer("crun 1.8 resolves it inside") {
            return;
        }
        for (name, kind) in [("proc", "proc"), ("sys", "sysfs")] {
            let place = format!("/{name}");
            let mut bundle = bed.bundle();
            if kind == "sysfs" {
                bundle = bundle.mount(&place, kind, kind, &[]);
            }
            fs::remove_dir(bundle.rootfs().join(name)).unwrap();
            symlink("tmp", bundle.rootfs().join(name)).unwrap();
            let output = bed.run(&bundle);
            assert!(output.failure(1).contains(&place), "{output}");
        }
        bed.assert_nothing_left();
    });
}

#[test]
fn masked_paths_cannot_be_read_and_missing_ones_are_passed_over() {
    as_both(|bed| {
        let paths = ["/secret", "/secrets", "/behind/file", "/not/there", "/proc/kcore"];
        let bundle = bed
            .bundle()
            .with("/linux/maskedPaths", json!(paths))
            .sh("cat /secret; ls /secrets; cat /target/file; cat /proc/kcore; \
                 echo x > /secrets/new && echo written; stat -c %t:%T /secret; echo end");
        bundle.write("/secret", "SECRET\n");
        bundle.write("/secrets/file", "SECRET\n");
        bundle.write("/target/file", "SECRET\n");
        symlink("target", bundle.rootfs().join("behind")).unwrap();
        let output = bed.run(&bundle);
        assert_eq!(output.success(), "1:3\nend", "{output}");
    });
}

#[test]
fn a_mask_is_the_real_null_device_whatever_the_image_has_there() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 bind the image's: CVE-2025-31133") {
            return;
        }
        // Without a file system at /dev the image's own null is at hand.
        let bundle = bed.bundle().without("/mounts/1").without("/mounts/1").without("/mounts/1");
        let bundle = bundle
            .with("/linux/maskedPaths", json!(["/secret"]))
            .sh("cat /secret; stat -c %t:%T /secret");
        bundle.write("/secret", "SECRET\n").write("/bait", "BAIT\n");
        symlink("/bait", bundle.rootfs().join("dev/null")).unwrap();
        let output = bed.run(&bundle);
        assert!(!output.stdout.contains("SECRET") && !output.stdout.contains("BAIT"), "{output}");
        assert!(output.code != 0 || output.stdout == "1:3\n", "{output}");
    });
}

#[test]
fn read_only_paths_cannot_be_written_and_missing_ones_are_passed_over() {
    as_both(|bed| {
        let paths = ["/file", "/directory", "/behind/file", "/not/there", "/proc/sys"];
        let bundle = bed.bundle().with("/linux/readonlyPaths", json!(paths)).sh(
            "for f in /file /directory/new /target/file /proc/sys/net/ipv4/ip_forward; do \
             (echo 1 > $f) 2>/dev/null && echo $f was written; done; \
             echo x > /free && cat /file /free",
        );
        bundle.write("/file", "old\n").write("/directory/old", "").write("/target/file", "");
        symlink("target", bundle.rootfs().join("behind")).unwrap();
        assert_eq!(bed.run(&bundle).success(), "old\nx");
    });
}

#[test]
fn read_only_paths_keep_the_flags_of_their_mount() {
    as_root(|bed| {
        if bed.is_peer("crun 1.8 loses them") {
            return;
        }
        let bundle =
            bed.bundle().with("/linux/readonlyPaths", json!(["/proc/sys"])).sh(&show("/proc/sys"));
        let output = bed.run(&bundle);
        for option in ["ro", "nosuid", "nodev", "noexec"] {
            assert!(output.success().contains(option), "{output}");
        }
    });
}

#[test]
fn a_sysfs_and_a_cgroup_mount_can_be_had() {
    in_views(|bed| {
        if bed.is_peer("crun 1.8 has it writable") {
            return;
        }
        let bundle = bed
            .bundle()
            .with_namespace("cgroup", None)
            .mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"])
            .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "ro"])
            .sh("find /sys/fs/cgroup -name cgroup.procs | head -1; cat /proc/self/cgroup; \
                 mkdir /sys/fs/cgroup/made 2>/dev/null && echo made; \
                 for d in $(find /sys/fs/cgroup -name cgroup.procs); do \
                   mkdir $(echo $d | sed s/cgroup.procs/made/) 2>/dev/null && echo made; done; true");
        let output = bed.run(&bundle);
        let first = output.success().lines().next().unwrap_or_default();
        assert!(first.starts_with("/sys/fs/cgroup/"), "{output}");
        assert!(!output.stdout.contains("made"), "{output}");
        // Its own namespace shows its own group as the root of each tree it is in.
        assert!(!output.stdout.contains(&bed.name), "{output}");
    });
}

#[test]
fn a_cgroup_namespace_has_the_containers_group_as_its_root() {
    in_views(|bed| {
        let bundle =
            bed.bundle().with_namespace("cgroup", None).sh("cat /proc/self/cgroup; sleep 100");
        let container = bed.start(&bundle);
        eventually("it has looked", || container.printed().ends_with('\n'));
        let printed = container.printed();
        let of_exec = container.sh("cat /proc/self/cgroup");
        let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", container.pid())).unwrap();
        for ((inside, outside), of_exec) in
            printed.lines().zip(cgroups.lines()).zip(of_exec.success().lines())
        {
            assert!(inside.ends_with(":/"), "{printed}");
            // Trees that are not mounted in this view are none of the container's.
            assert!(inside == of_exec || !outside.contains(&bed.name), "{of_exec}");
        }
        assert!(cgroups.contains(&bed.name), "{cgroups}");
    });
}

#[test]
fn a_container_in_the_callers_mount_namespace_leaves_no_mount() {
    shared_too::as_root(|bed| {
        if bed.is_peer("runc 1.1 refuses it, crun 1.8 leaves its mounts") {
            return;
        }
        let source = source(bed);
        let bundle = bed
            .bundle()
            .without_namespace("mount")
            .mount("/data", "bind", &source, &["bind", "ro"])
            .sh("cat /data/file; ls /dev/null; sleep 0.1; exit 3");
        let output = bed.run(&bundle);
        assert_eq!((output.code, output.stdout.as_str()), (3, "content\n/dev/null\n"), "{output}");
        bed.assert_nothing_left();
        assert!(fs::read(format!("{source}/file")).is_ok());
        // The same by delete.
        let bundle = bed.bundle().without_namespace("mount").sh("sleep 100");
        let container = bed.start(&bundle);
        container.delete();
        bed.assert_nothing_left();
    });
}

#[test]
fn a_rootfs_that_was_not_pivoted_to_is_still_the_root() {
    as_root(|bed| {
        let bundle = bed.bundle().sh("ls -d /bin/busybox /usr/lib 2>/dev/null; true");
        let output = bed.run_call(&bundle).flag("--no-pivot").output();
        assert_eq!(output.success(), "/bin/busybox");
    });
}

/// The flags of the mount at a place that have words in pairs.
fn flags(options: &str) -> Vec<&str> {
    let pairs = ["ro", "nosuid", "nodev", "noexec"];
    options.split(',').filter(|word| pairs.contains(word)).collect()
}

/// A source in a mount that has all these flags.
fn closed_source(bed: &Bed) -> String {
    use nix::mount::{MsFlags, mount};
    let source = source(bed);
    let all = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let path = source.as_str();
    mount(Some(path), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    let change = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | all;
    mount(None::<&str>, path, None::<&str>, change, None::<&str>).unwrap();
    source
}

#[test]
fn a_word_that_takes_back_names_all_flags_of_a_bind() {
    shared_too::as_root(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 have older rules") {
            return;
        }
        let source = closed_source(bed);
        let host = || {
            let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            table.lines().find(|line| line.contains(&source)).unwrap().to_owned()
        };
        let before = host();
        for (words, expected) in [
            (&[] as &[&str], &["ro", "nosuid", "nodev", "noexec"] as &[&str]),
            (&["ro"], &["ro", "nosuid", "nodev", "noexec"]),
            (&["rw"], &[]),
            (&["ro", "exec"], &["ro"]),
            (&["rw", "nodev"], &["nodev"]),
            (&["exec", "noexec"], &["noexec"]),
            (&["suid", "dev", "ro"], &["ro"]),
        ] {
            let words: Vec<_> = ["rbind"].iter().chain(words).copied().collect();
            let bundle = bed.bundle().mount("/data", "bind", &source, &words);
            let line = shown(bed, bundle, "/data");
            assert_eq!(flags(&line[1]), expected, "{words:?}: {line:?}");
            assert_eq!(host(), before, "{words:?}");
        }
        nix::mount::umount2(source.as_str(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    });
}

#[test]
fn what_a_user_namespace_cannot_lift_stays_unless_it_is_named() {
    as_both(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 have older rules") || !is_root() {
            return;
        }
        let in_user_namespace = |bundle: Bundle| match bed.is_rootless() {
            true => bundle,
            false => bundle.in_user_namespace(65_536),
        };
        let source = closed_source(bed);
        let all = ["ro", "nosuid", "nodev", "noexec"];
        for (words, named) in
            [(&[] as &[&str], ""), (&["ro"], ""), (&["ro", "exec"], "noexec"), (&["rw"], "ro")]
        {
            let words: Vec<_> = ["rbind"].iter().chain(words).copied().collect();
            let bundle = in_user_namespace(bed.bundle()).mount("/data", "bind", &source, &words);
            if named.is_empty() {
                let line = shown(bed, bundle, "/data");
                assert_eq!(flags(&line[1]), all, "{words:?}: {line:?}");
            } else {
                let output = bed.run(&bundle);
                let message = format!("the source is {named}, which is locked");
                let error = output.failure(1);
                assert!(error.contains("mounts[4]") && error.contains(&message), "{output}");
            }
        }
        nix::mount::umount2(source.as_str(), nix::mount::MntFlags::MNT_DETACH).unwrap();
        // What engines write on every volume does no harm where nothing has to be lifted.
        let source = bed.make_directory("open", 0o755);
        let bundle = in_user_namespace(bed.bundle());
        let bundle = bundle.mount("/data", "bind", source.to_str().unwrap(), &["bind", "rw"]);
        bed.run(&bundle).success();
    });
}

/// Nobody else can make a mount with flags for the test.
fn is_root() -> bool {
    nix::unistd::getuid().is_root()
}

#[test]
fn a_tmpfs_has_the_mode_of_what_it_covers_or_that_of_a_tmp() {
    as_both(|bed| {
        if bed.is_peer("crun 1.8 has other modes") {
            return;
        }
        let bundle = bed
            .bundle()
            .mount("/there", "tmpfs", "tmpfs", &[])
            .mount("/not/there", "tmpfs", "tmpfs", &["nosuid"])
            .mount("/given", "tmpfs", "tmpfs", &["mode=711"])
            .sh("stat -c '%a %n' /there /not /not/there /given");
        let there = bundle.rootfs().join("there");
        fs::create_dir(&there).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o2750);
        fs::set_permissions(&there, mode).unwrap();
        let expected = "2750 /there\n755 /not\n1777 /not/there\n711 /given";
        assert_eq!(bed.run(&bundle).success(), expected);
    });
}

#[test]
fn a_path_that_is_listed_twice_is_covered_once() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 cover it twice") {
            return;
        }
        let bundle = bed
            .bundle()
            .with("/linux/maskedPaths", json!(["/secrets", "/secret", "/secrets"]))
            .with("/linux/readonlyPaths", json!(["/closed", "/closed"]))
            .sh("cut -d' ' -f5 /proc/self/mountinfo | grep -E 'secret|closed' | sort");
        bundle.write("/secrets/file", "").write("/secret", "").write("/closed/file", "");
        assert_eq!(bed.run(&bundle).success(), "/closed\n/secret\n/secrets");
    });
}

#[test]
fn what_an_earlier_mount_shows_can_be_bound() {
    as_root(|bed| {
        for user_namespace in [false, true] {
            let bundle = bed.bundle();
            let source = bundle.rootfs().join("scratch");
            let bundle = bundle
                .mount("/scratch", "tmpfs", "tmpfs", &["mode=1777"])
                .mount("/scratch/deep", "tmpfs", "tmpfs", &["mode=1777"])
                .mount("/data", "bind", source.join("deep").to_str().unwrap(), &["bind"])
                .sh("touch /data/x; ls /scratch/deep");
            let bundle = if user_namespace { bundle.in_user_namespace(65_536) } else { bundle };
            if user_namespace && bed.is_peer("runc 1.1 and crun 1.8 open it outside") {
                continue;
            }
            assert_eq!(bed.run(&bundle).success(), "x", "{user_namespace}");
        }
    });
}

/// The list of an overlay's layers is longer than fsconfig(2) takes a parameter.
#[test]
fn a_parameter_may_be_long() {
    as_root(|bed| {
        let layers: Vec<_> = (0..12)
            .map(|number| {
                let name = format!("layer-{number}-{}-{}", "x".repeat(40), bed.next());
                let layer = bed.make_directory(&name, 0o755);
                fs::write(layer.join(format!("file-{number}")), "").unwrap();
                layer.to_str().unwrap().to_owned()
            })
            .collect();
        let lower = format!("lowerdir={}", layers.join(":"));
        for user_namespace in [false, true] {
            let bundle = bed
                .bundle()
                .mount("/data/deep", "overlay", "overlay", &[&lower, "nodev", "noexec", "noatime"])
                .sh(&format!("ls /data/deep | wc -l; {}", show("/data/deep")));
            let bundle = if user_namespace { bundle.in_user_namespace(65_536) } else { bundle };
            let output = bed.run(&bundle);
            let (count, line) = output.success().split_once('\n').unwrap();
            assert_eq!(count, "12", "{output}");
            assert!(line.contains("nodev,noexec,noatime"), "{output}");
        }
        if bed.is_peer("they do not name the field") {
            return;
        }
        let missing = lower.replace("layer-7", "missing");
        let output = bed.run(&bed.bundle().mount("/data", "overlay", "overlay", &[&missing]));
        assert!(output.failure(1).contains("mounts[4]"), "{output}");
    });
}

#[test]
fn a_word_about_the_mount_holds_over_one_about_all_below_it() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 has it the other way round") {
            return;
        }
        let source = nested(bed);
        for (words, top, below) in [
            (["rrw", "ro"], "ro", "rw"),
            (["ro", "rrw"], "ro", "rw"),
            (["rro", "nodev"], "ro", "ro"),
            (["rro", "rw"], "rw", "ro"),
        ] {
            let words = [&["rbind"], &words[..]].concat();
            for (place, expected) in [("/data", top), ("/data/inner", below)] {
                let bundle = bed.bundle().mount("/data", "bind", &source, &words);
                let line = shown(bed, bundle, place);
                assert!(line[1].split(',').any(|word| word == expected), "{words:?}: {line:?}");
            }
        }
        forget(&source);
    });
}

#[test]
fn read_only_paths_close_what_is_mounted_below() {
    as_both(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 leave it open") {
            return;
        }
        let bundle = bed
            .bundle()
            .mount("/closed/below", "tmpfs", "tmpfs", &["mode=1777"])
            .mount("/closed/bound", "bind", &source(bed), &["bind"])
            .with("/linux/readonlyPaths", json!(["/closed"]))
            .sh("for d in /closed /closed/below /closed/bound; do \
                 (: > $d/x) 2>/dev/null && echo $d; done; cat /closed/bound/file");
        assert_eq!(bed.run(&bundle).success(), "content");
    });
}

#[test]
fn tmpcopyup_keeps_modes_and_links_whatever_the_umask() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 lose some") {
            return;
        }
        let bundle = bed
            .bundle()
            .mount("/srv", "tmpfs", "tmpfs", &["tmpcopyup"])
            .sh("cd /srv; stat -c '%a %n' . all all/file; readlink up; readlink absolute");
        bundle.write("/srv/all/file", "");
        let srv = bundle.rootfs().join("srv");
        symlink("../../../../tmp/../x", srv.join("up")).unwrap();
        symlink("/etc/passwd", srv.join("absolute")).unwrap();
        for (path, mode) in [("", 0o1757), ("all", 0o2777), ("all/file", 0o4606)] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            fs::set_permissions(srv.join(path), mode).unwrap();
        }
        let output = bed.run_call(&bundle).umask(0o077).output();
        let modes = "1757 .\n2777 all\n4606 all/file";
        assert_eq!(output.success(), format!("{modes}\n../../../../tmp/../x\n/etc/passwd"));
    });
}
