//! Hostile images, neighbours and programs: what they try, and what shows that
//! it has not worked.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use integration::{
    Bed, Caller, Container, as_both, as_root, as_user, copy_program, in_views, runtime,
};
use serde_json::json;

#[test]
fn an_init_process_that_waits_is_opaque() {
    use std::os::unix::fs::MetadataExt as _;
    as_user(|bed| {
        if bed.is_peer("runc is opaque in other moments") {
            return;
        }
        let container = bed.create(&bed.bundle().sh("sleep 100"));
        let owner =
            |file: &str| fs::metadata(format!("/proc/{}/{file}", container.pid())).unwrap().uid();
        // The kernel gives what belongs to a non-dumpable process to root.
        assert_eq!((owner("environ"), owner("fd")), (0, 0));
        container.start();
        assert_eq!(Caller::User(owner("environ")), bed.caller);
    });
}

#[test]
fn no_descriptor_of_the_host_is_reached_as_working_directory_or_program() {
    as_root(|bed| {
        let look =
            ["/bin/sh", "-c", "cat ./bin/../etc/passwd ../../../../../../etc/passwd 2>/dev/null"];
        let host = fs::read_to_string("/etc/passwd").unwrap();
        let first = host.lines().next().unwrap();
        for number in 0..12 {
            for base in ["/proc/self/fd", "/proc/1/fd", "/dev/fd"] {
                let place = format!("{base}/{number}");
                let bundle = bed.bundle().with("/process/cwd", place.as_str()).args(look);
                let output = bed.run(&bundle);
                assert!(!output.stdout.contains(first), "{place}: {output}");
                if number < 4 {
                    continue;
                }
                let program = format!("{place}/bin/busybox");
                let output = bed.run(&bed.bundle().args([program.as_str(), "cat", "/etc/passwd"]));
                assert!(!output.stdout.contains(first), "{program}: {output}");
            }
        }
        let container = bed.start(&bed.bundle().sh("sleep 100"));
        for number in 0..12 {
            let place = format!("/proc/self/fd/{number}");
            let output = container.exec_call(&["--cwd", &place], &look).output();
            assert!(!output.stdout.contains(first), "exec {place}: {output}");
        }
    });
}

/// A copy of the runtime under test: the original is not to be put at risk.
fn own_copy(bed: &Bed) -> std::path::PathBuf {
    let copy = bed.directory.join("victim");
    copy_program(&runtime().program, &copy);
    copy
}

#[test]
fn a_program_that_is_the_runtime_cannot_write_to_it() {
    as_root(|bed| {
        if bed.is_peer("crun 1.8 cannot run a script of such an interpreter") {
            return;
        }
        let victim = own_copy(bed);
        let before = fs::read(&victim).unwrap();
        let mut bundle = bed.bundle().capable(&["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_KILL"]);
        for library in ["/lib", "/lib64", "/usr/lib"] {
            // A runtime that is not linked statically is to run inside all the same.
            bundle = bundle.mount(library, "bind", library, &["rbind", "ro"]);
        }
        // While it runs it cannot be written. So a handle is kept until it does not.
        let bundle = bundle.sh(
            "while :; do for p in /proc/[0-9]*; do case $(readlink $p/exe) in */busybox|'') ;; *) \
             exec 9< $p/exe && echo found && sleep 0.3 && kill -9 ${p#/proc/}; n=0; while [ $n -lt 200 ]; do \
             n=$((n + 1)); (echo OVERWRITTEN > /proc/self/fd/9) 2>/dev/null && echo written; done;; \
             esac; done; done",
        );
        // The image's program is whatever starts it; opening its log holds it up.
        bundle.write("/entry", "#!/proc/self/exe --root\n");
        fs::set_permissions(bundle.rootfs().join("entry"), fs::Permissions::from_mode(0o755))
            .unwrap();
        let fifo = bundle.rootfs().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
        let id = bed.id();
        let call = |verb: &str| bed.program(&victim).arg("--root").arg(bed.root()).arg(verb);
        let create = call("create").arg("--bundle").arg(&bundle.save().path).arg(&id);
        let container = Container::create(bed, &id, create);
        call("start").arg(&id).output().success();
        for program in ["/entry", "/proc/self/exe"] {
            let output = call("exec").args([&id, program, "--log", "/fifo", "list"]).output();
            assert_eq!(output.code, 137, "it was found and killed: {output}");
        }
        container.prints("found\nfound");
        container.delete();
        assert!(before == fs::read(&victim).unwrap(), "the runtime's program was overwritten");
    });
}

#[test]
fn descriptors_of_exec_cannot_be_stolen() {
    as_root(|bed| {
        let host = fs::read_to_string("/etc/machine-id").unwrap_or_else(|_| "none".into());
        let bundle = bed.bundle().capable(&["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE"]).sh(
            "while :; do for d in /proc/[0-9]*/fd/*; do \
             cat $d/etc/machine-id $d/../etc/machine-id $d/../../../../etc/machine-id 2>/dev/null; \
             done; done",
        );
        let container = bed.start(&bundle);
        for _ in 0..20 {
            container.exec(&["/bin/true"]).success();
        }
        assert!(!container.printed().contains(host.trim()), "the host's files were reached");
    });
}

#[test]
fn a_destination_that_is_swapped_for_a_link_leads_nowhere_outside() {
    as_root(|bed| {
        // The volume that two containers share: another one swaps what is in it.
        let volume = bed.make_directory("volume", 0o755);
        let outside = bed.make_directory("outside", 0o755);
        fs::write(outside.join("secret"), "SECRET\n").unwrap();
        fs::create_dir(volume.join("place")).unwrap();
        symlink(&outside, volume.join("link")).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (place, link) = (volume.join("place"), volume.join("link"));
                while !done.load(Ordering::Relaxed) {
                    let _ = exchange(&place, &link);
                }
            });
            for _ in 0..40 {
                let bundle = bed
                    .bundle()
                    .mount("/volume", "bind", volume.to_str().unwrap(), &["bind"])
                    .mount("/volume/place/made/deep", "tmpfs", "tmpfs", &[])
                    .sh("cat /volume/place/secret 2>/dev/null; true");
                // Losing the race is an error, or a mount inside.
                let output = bed.run(&bundle);
                assert!(!output.stdout.contains("SECRET"), "{output}");
                assert!([0, 1].contains(&output.code), "{output}");
            }
            done.store(true, Ordering::Relaxed);
        });
        let names: Vec<_> =
            fs::read_dir(&outside).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, ["secret"], "something was made outside");
    });
}

/// renameat2(2) with RENAME_EXCHANGE.
fn exchange(one: &std::path::Path, other: &std::path::Path) -> nix::Result<()> {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE)
}

#[test]
fn a_proc_that_the_bundle_brings_is_not_written_to() {
    as_root(|bed| {
        // A volume at /proc looks like procfs to whoever does not check.
        let fake = bed.make_directory("fake", 0o755);
        fs::create_dir_all(fake.join("self/attr")).unwrap();
        fs::create_dir_all(fake.join("sys/net/ipv4")).unwrap();
        for name in
            ["self/attr/exec", "self/oom_score_adj", "self/setgroups", "sys/net/ipv4/ip_forward"]
        {
            fs::write(fake.join(name), "untouched").unwrap();
        }
        let mut bundle = bed.bundle();
        bundle.config["mounts"][0] =
            json!({"destination": "/proc", "type": "bind", "source": fake, "options": ["bind"]});
        let bundle = bundle
            .with("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}))
            .with("/process/oomScoreAdj", 500)
            .sh("true");
        let _ = bed.run(&bundle);
        for name in
            ["self/attr/exec", "self/oom_score_adj", "self/setgroups", "sys/net/ipv4/ip_forward"]
        {
            assert_eq!(fs::read_to_string(fake.join(name)).unwrap(), "untouched", "{name}");
        }
        bed.assert_nothing_left();
    });
}

#[test]
fn the_cgroups_of_the_host_are_not_written_to_by_a_container_of_an_ordinary_user() {
    as_user(|bed| {
        // All that can be had without a cgroup namespace is a bind of the host's tree.
        let bundle = bed
            .bundle()
            .mount("/sys", "bind", "/sys", &["rbind", "ro"])
            .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "ro"])
            .sh("for d in $(find /sys/fs/cgroup -maxdepth 2 -name cgroup.procs 2>/dev/null); do \
                 (echo 0 > $d) 2>/dev/null && echo written $d; done; true");
        let output = bed.run(&bundle);
        assert!(!output.stdout.contains("written"), "{output}");
        bed.assert_nothing_left();
    });
}

#[test]
fn nothing_of_the_caller_is_inherited() {
    as_root(|bed| {
        if bed.is_peer("crun 1.8 runs exec without the config's no_new_privs") {
            return;
        }
        let script = "grep -E '^(SigBlk|SigIgn|Groups|NoNewPrivs|Seccomp):' /proc/self/status; \
                      ls /proc/self/fd | wc -l; cat /proc/self/oom_score_adj; id -G; echo $LEAK";
        let usual = bed.run(&bed.bundle().sh(script)).success().to_owned();
        // Groups, an ignored SIGPIPE, a variable and a descriptor of the caller's.
        let odd = "trap '' PIPE; export LEAK=leak; exec 7</etc/passwd; exec \"$@\"";
        let by_odd_caller = |arguments: &[&str]| {
            let call = bed.program("/usr/bin/setpriv".as_ref());
            let call = call.args(["--groups", "7,8,9", "/bin/sh", "-c", odd, "sh"]);
            call.arg(&runtime().program).arg("--root").arg(bed.root()).args(arguments).output()
        };
        let bundle = bed.bundle().sh(script).save().clone();
        let path = bundle.path.to_str().unwrap();
        let output = by_odd_caller(&["run", "--bundle", path, &bed.id()]);
        assert_eq!(output.success(), usual);
        let container = bed.start(&bed.bundle().sh("sleep 100"));
        let output = by_odd_caller(&["exec", &container.id, "/bin/sh", "-c", script]);
        assert_eq!(output.success(), usual, "exec");
    });
}

#[test]
fn very_long_id_maps_are_exact_or_refused() {
    as_root(|bed| {
        // user_namespaces(7): 340 lines, and less than a page of text.
        let map = |lines: u32, first: u32| -> Vec<_> {
            let range = |at| json!({"containerID": at * 2, "hostID": first + at * 3, "size": 1});
            (0..lines).map(range).collect()
        };
        let bundle = bed
            .bundle()
            .with_namespace("user", None)
            .with("/linux/uidMappings", map(340, 0))
            .with("/linux/gidMappings", map(340, 0))
            .sh("wc -l < /proc/self/uid_map; tail -1 /proc/self/uid_map | tr -s ' '");
        let output = bed.run(&bundle);
        assert_eq!(output.success(), "340\n 678 1017 1");
        for long in [map(341, 0), map(340, 100_000)] {
            let output = bed.run(&bundle.clone().with("/linux/uidMappings", long));
            assert_eq!(output.code, 1, "{output}");
            assert!(output.stderr.contains("uid"), "{output}");
        }
        bed.assert_nothing_left();
    });
}

#[test]
fn a_container_cannot_end_or_stop_its_own_deletion() {
    in_views(|bed| {
        if bed.is_peer("runc 1.1 may leave a cgroup of version 2 behind") {
            return;
        }
        // It forks as fast as it can, and its processes outlive their parents.
        let bundle = bed
            .bundle()
            .with("/process/rlimits", json!([{"type": "RLIMIT_NPROC", "soft": 300, "hard": 300}]))
            .without_namespace("pid")
            .sh(
                "f() { while :; do (sleep 0.01 & exec sleep 0.02) & done; }; trap '' TERM HUP INT; \
                 f 2>/dev/null & f 2>/dev/null & echo up; wait",
            );
        let container = bed.start(&bundle);
        container.prints("up");
        container.delete();
        bed.assert_nothing_left();
    });
}

#[test]
fn links_of_the_image_are_never_followed_out() {
    as_both(|bed| {
        let outside = bed.make_directory("outside", 0o777);
        fs::write(outside.join("file"), "SECRET\n").unwrap();
        let bundle = bed
            .bundle()
            .with("/linux/maskedPaths", json!(["/escape/file"]))
            .with("/linux/readonlyPaths", json!(["/escape"]))
            .with("/process/cwd", "/escape/made/by/cwd")
            .mount("/escape/mounted", "tmpfs", "tmpfs", &[])
            .sh("ls /escape; true");
        symlink(&outside, bundle.rootfs().join("escape")).unwrap();
        let _ = bed.run(&bundle);
        let names: Vec<_> =
            fs::read_dir(&outside).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, ["file"], "something was made outside");
        assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "SECRET\n");
        bed.assert_nothing_left();
    });
}

#[test]
fn a_passwd_without_end_does_not_hold_exec_up() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 read it for ever") {
            return;
        }
        let bundle = bed
            .bundle()
            .with("/process/env", json!(["PATH=/bin"]))
            .with("/process/user", json!({"uid": 5, "gid": 5}))
            .sh("echo $HOME");
        fs::create_dir_all(bundle.rootfs().join("etc")).unwrap();
        for target in ["/dev/zero", "/dev/stdin", "/proc/self/mem"] {
            let passwd = bundle.rootfs().join("etc/passwd");
            let _ = fs::remove_file(&passwd);
            symlink(target, &passwd).unwrap();
            let output = bed.run(&bundle);
            assert!([0, 1].contains(&output.code), "{target}: {output}");
        }
        let fifo = bundle.rootfs().join("etc/passwd");
        fs::remove_file(&fifo).unwrap();
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
        let output = bed.run(&bundle);
        assert!([0, 1].contains(&output.code), "a fifo: {output}");
        bed.assert_nothing_left();
    });
}
