//! Protections that only an odd machine or an odd caller brings to light. Each of
//! them is taken out by a patch in `mutants/`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use integration::{
    Bed, Bundle, Output, as_both, as_root, eventually, in_views, runtime, shared_too,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

/// Runs a bundle from within a shell script that ends in `exec "$@"`.
#[track_caller]
fn run_by(bed: &Bed, script: &str, bundle: &Bundle) -> Output {
    let call = bed.program("/bin/sh".as_ref()).args(["-c", script, "sh"]);
    let call = call.arg(&runtime().program).arg("--root").arg(bed.root());
    call.args(["run", "--bundle"]).arg(&bundle.save().path).arg(bed.id()).output()
}

#[test]
fn a_null_device_of_the_host_that_is_another_file_covers_nothing() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 bind whatever they find there") {
            return;
        }
        let bundle = bed.bundle().with("/linux/maskedPaths", json!(["/secret"])).sh("cat /secret");
        bundle.write("/secret", "SECRET\n");
        let bait = bed.directory.join("bait");
        fs::write(&bait, "BAIT\n").unwrap();
        // In the mount namespace of this test alone.
        mount(Some(&bait), "/dev/null", None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let output = bed.run(&bundle);
        umount2("/dev/null", MntFlags::MNT_DETACH).unwrap();
        let error = output.failure(1);
        assert!(error.contains("linux.maskedPaths[0]: \"/secret\": /dev/null"), "{error}");
        assert_eq!(output.stdout, "");
        bed.assert_nothing_left();
    });
}

#[test]
fn a_directory_that_the_caller_has_open_is_no_working_directory() {
    as_root(|bed| {
        if bed.is_peer("crun 1.8 starts the program there") {
            return;
        }
        for place in ["/proc/self/fd/7", "/proc/self/fd/7/etc"] {
            let bundle = bed.bundle().with("/process/cwd", place).sh("ls -a");
            let output = run_by(bed, "exec 7</; exec \"$@\"", &bundle);
            assert_ne!(output.code, 0, "{place}: {output}");
            assert_eq!(output.stdout, "", "{place}: {output}");
        }
        // A program that exec adds may be given it as a descriptor, but is not to start there.
        let container = bed.start(&bed.bundle().sh("sleep 100"));
        for place in ["/proc/self/fd/7", "/proc/self/fd/7/etc"] {
            let call = bed.program("/bin/sh".as_ref()).args(["-c", "exec 7</; exec \"$@\"", "sh"]);
            let call = call.arg(&runtime().program).arg("--root").arg(bed.root());
            let call =
                call.args(["exec", "--preserve-fds", "5", "--cwd", place]).arg(&container.id);
            let output = call.args(["/bin/ls", "-a"]).output();
            assert_ne!(output.code, 0, "exec, {place}: {output}");
            assert_eq!(output.stdout, "", "exec, {place}: {output}");
        }
        container.delete();
        bed.assert_nothing_left();
    });
}

#[test]
fn ambient_capabilities_of_the_caller_are_not_kept() {
    as_root(|bed| {
        let names = ["CAP_KILL"];
        let sets = json!({"bounding": names, "permitted": names, "effective": names,
            "inheritable": names});
        let bundle = bed.bundle().with("/process/capabilities", sets).args([
            "/bin/grep",
            "CapAmb",
            "/proc/self/status",
        ]);
        let script = "exec setpriv --inh-caps +kill --ambient-caps +kill -- \"$@\"";
        let output = run_by(bed, script, &bundle);
        assert_eq!(output.success(), "CapAmb:\t0000000000000000");
    });
}

#[test]
fn the_root_of_the_host_is_not_below_that_of_the_container() {
    as_root(|bed| {
        let script = "awk '$5 == \"/\"' /proc/self/mountinfo | wc -l; ls /.. | tr '\\n' ' '";
        let bundle = bed.bundle().sh(script);
        let output = bed.run(&bundle);
        let mut names: Vec<_> = fs::read_dir(bundle.rootfs())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(output.success(), format!("1\n{}", names.join(" ")));
    });
}

#[test]
fn nothing_is_mounted_on_the_host_where_its_mounts_are_shared() {
    as_root(|bed| {
        let shared = bed.make_directory("shared", 0o755);
        mount(Some("tmpfs"), &shared, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        mount(None::<&str>, &shared, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
        let mounted = || {
            let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            table.lines().filter(|line| line.contains(&bed.name)).count()
        };
        let before = mounted();
        let bundle = bed.bundle();
        let rootfs = shared.join("rootfs");
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .args([&bundle.rootfs(), &rootfs])
            .status()
            .unwrap();
        assert!(copied.success());
        for word in ["private", "slave", "shared"] {
            let bundle = bundle
                .clone()
                .with("/root/path", rootfs.to_str().unwrap())
                .with("/linux/rootfsPropagation", word);
            let container = bed.create(&bundle);
            assert_eq!(mounted(), before, "{word}");
            container.delete();
        }
        umount2(&shared, MntFlags::MNT_DETACH).unwrap();
    });
}

#[test]
fn what_is_remembered_of_a_container_is_closed_to_others() {
    as_root(|bed| {
        let container = bed.create(&bed.bundle());
        let mode = fs::metadata(bed.root().join(&container.id)).unwrap().permissions().mode();
        // Others may pass at the most: runc's is 0711.
        assert_eq!(mode & 0o066, 0, "{mode:o}");
    });
}

#[test]
fn a_cgroup_in_which_others_are_is_refused() {
    in_views(|bed| {
        if bed.is_peer("runc 1.1 warns, and kills them with the container, crun 1.8 lets them be") {
            return;
        }
        let bundle = bed.bundle();
        let procs = bed.cgroup_file(&bundle, "pids.max").with_file_name("cgroup.procs");
        fs::create_dir_all(procs.parent().unwrap()).unwrap();
        let mut other = std::process::Command::new("/bin/sleep").arg("50").spawn().unwrap();
        fs::write(&procs, other.id().to_string()).unwrap();
        let output = bed.run(&bundle);
        let error = output.failure(1);
        let lives = matches!(other.try_wait(), Ok(None));
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(lives, "it is not the container's to kill");
        assert!(error.contains("linux.cgroupsPath") && error.contains("is not empty"), "{error}");
        fs::remove_dir(procs.parent().unwrap()).unwrap();
        bed.assert_nothing_left();
    });
}

#[test]
fn what_is_made_in_the_root_does_not_depend_on_the_callers_umask() {
    as_root(|bed| {
        if bed.is_peer("under runc and crun it does") {
            return;
        }
        let file = bed.write("file", "text");
        let bundle = bed
            .bundle()
            .mount("/made/for/tmpfs", "tmpfs", "tmpfs", &[])
            .mount("/put/file", "bind", file.to_str().unwrap(), &["bind"])
            .with("/process/cwd", "/desk/here")
            .sh("stat -c '%a %n' /made /made/for /put /desk /desk/here");
        let output = bed.run_call(&bundle).umask(0o777).output();
        assert_eq!(
            output.success(),
            "755 /made\n755 /made/for\n755 /put\n755 /desk\n755 /desk/here"
        );
        let mode = fs::metadata(bundle.rootfs().join("put/file")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o644);
    });
}

#[test]
fn init_ends_with_its_creator() {
    use nix::sys::signal::Signal;
    as_root(|bed| {
        if bed.is_peer("they have other records") {
            return;
        }
        // It holds init up between its first moment and its last word.
        let hook = json!([{"path": "/bin/sleep", "args": ["sleep", "100"]}]);
        let bundle = bed.bundle().with("/hooks/createContainer", hook);
        let id = bed.id();
        let creator = bed.create_call(&bundle, &id).spawn();
        let record = bed.root().join(&id).join("state.json");
        let init = || {
            let value: serde_json::Value = serde_json::from_slice(&fs::read(&record).ok()?).ok()?;
            value["init"]["pid"].as_i64()
        };
        eventually("init calls the hook", || {
            init().is_some_and(|pid| {
                let path = format!("/proc/{pid}/task/{pid}/children");
                fs::read_to_string(path).is_ok_and(|children| !children.is_empty())
            })
        });
        let status = format!("/proc/{}/status", init().unwrap());
        creator.signal(Signal::SIGKILL);
        eventually("init ends", || {
            fs::read_to_string(&status).map_or(true, |text| text.contains("State:\tZ"))
        });
        bed.runtime(["delete", "--force", &id]).success();
        bed.assert_nothing_left();
    });
}

#[test]
fn who_has_created_a_container_and_goes_on_is_not_killed_for_it() {
    as_both(|bed| {
        if bed.is_peer("runc's run ends with an error of its own") {
            return;
        }
        let bundle = bed.bundle().sh("sleep 100");
        let run = bed.run_call(&bundle).spawn();
        eventually("it runs", || bed.runtime(["list"]).stdout.contains("running"));
        let id = bed.runtime(["list", "--quiet"]).success().trim().to_owned();
        bed.runtime(["delete", "--force", &id]).success();
        // It tells of the program's end, which was by SIGKILL, and not by its own.
        let output = run.wait();
        assert_eq!(output.code, 137, "{output}");
        bed.assert_nothing_left();
    });
}

#[test]
fn a_ptmx_of_the_image_does_not_lead_to_terminals_of_the_host() {
    as_root(|bed| {
        // Without a file system at /dev the image's own is at hand.
        let bundle = bed.bundle().without("/mounts/1").sh("readlink /dev/ptmx");
        std::os::unix::fs::symlink("/host/ptmx", bundle.rootfs().join("dev/ptmx")).unwrap();
        let output = bed.run(&bundle);
        assert_eq!(output.success(), "pts/ptmx");
    });
}

#[test]
fn capabilities_that_exec_adds_are_not_inheritable() {
    as_root(|bed| {
        let container = bed.start(&bed.bundle().sh("sleep 100"));
        let show = ["/bin/grep", "-E", "CapInh|CapAmb", "/proc/self/status"];
        let output = container.exec_call(&["--cap", "CAP_CHOWN"], &show).output();
        let none = "0000000000000000";
        assert_eq!(output.success(), format!("CapInh:\t{none}\nCapAmb:\t{none}"));
    });
}

#[test]
fn the_containers_cgroup_is_read_only_where_that_is_asked_for() {
    in_views(|bed| {
        let script = "for file in $(find /sys/fs/cgroup -name cgroup.procs); do echo found; \
            (echo 0 > $file) 2>/dev/null && echo written $file; done; true";
        for own in [false, true] {
            let bundle = bed
                .bundle()
                .mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"])
                .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "ro"])
                .sh(script);
            let bundle = if own { bundle.with_namespace("cgroup", None) } else { bundle };
            let output = bed.run(&bundle);
            let printed = output.success();
            assert!(printed.contains("found") && !printed.contains("written"), "{own}: {output}");
        }
    });
}

/// pivot_root(2) takes the caller's out of the mount namespace; a root that is moved has them
/// behind it.
#[test]
fn no_whole_procfs_can_be_had_behind_a_root_that_was_moved() {
    shared_too::as_root(|bed| {
        if bed.is_peer("crun 1.8 leaves them there") {
            return;
        }
        let nested = "cd /tmp && mkdir place && echo made && mount -t proc proc place && echo a procfs; \
            mount -t sysfs sysfs place && echo a sysfs; true";
        let bundle = bed
            .bundle()
            .with("/process/user", json!({"uid": 1000, "gid": 1000}))
            .with("/process/capabilities", json!({}))
            .with("/linux/maskedPaths", json!(["/proc/keys", "/proc/kcore"]))
            .args(["/bin/unshare", "-Urpmf", "/bin/sh", "-c", nested]);
        let table = || fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        // In a mount of its own, so that / is not the mount that the root is taken from.
        let root = bundle.rootfs();
        mount(Some(&root), &root, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let before = table();
        for user_namespace in [false, true] {
            for word in ["", "rshared"] {
                if word == "rshared" && bed.is_peer("runc 1.1 takes the host's /proc away") {
                    continue;
                }
                let bundle = bundle.clone().with("/linux/rootfsPropagation", word);
                let bundle = if user_namespace { bundle.in_user_namespace(65_536) } else { bundle };
                let output = bed.run_call(&bundle).flag("--no-pivot").output();
                assert_eq!(output.success(), "made", "{word:?}, {user_namespace}: {output}");
                fs::remove_dir(root.join("tmp/place")).unwrap();
                assert_eq!(table(), before, "{word:?}, {user_namespace}");
            }
        }
        umount2(&root, MntFlags::MNT_DETACH).unwrap();
    });
}
