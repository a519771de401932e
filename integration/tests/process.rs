//! `process`, `root`, `hostname` and `domainname`, as the program finds them.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use integration::{MACHINE, View, as_both, as_root, as_user, in_views};
use serde_json::{Value, json};

/// The lines of /proc/self/status that this test is about.
fn status(fields: &str) -> String {
    format!("grep -E '^({fields}):' /proc/self/status | tr -d '\\t'")
}

#[test]
fn the_program_runs_as_its_user_and_groups() {
    as_root(|bed| {
        let bundle = bed
            .bundle()
            .with("/process/user", json!({"uid": 1234, "gid": 2345, "additionalGids": [5, 77, 5]}))
            .sh(&status("Uid|Gid|Groups"));
        let lines: Vec<_> = bed.run(&bundle).success().lines().map(str::to_owned).collect();
        assert_eq!(lines[0], "Uid:1234123412341234");
        assert_eq!(lines[1], "Gid:2345234523452345");
        let groups: Vec<_> = lines[2].trim_start_matches("Groups:").split_whitespace().collect();
        assert!(groups.contains(&"5") && groups.contains(&"77"), "{lines:?}");
        assert!(groups.iter().all(|group| ["5", "77", "2345"].contains(group)), "{lines:?}");
    });
}

#[test]
fn without_additional_groups_the_callers_are_not_kept() {
    as_root(|bed| {
        let bundle = bed.bundle().sh(&status("Groups"));
        let wrapped = bed
            .program("/usr/bin/setpriv".as_ref())
            .args(["--groups", "4,20"])
            .arg(&integration::runtime().program)
            .arg("--root")
            .arg(bed.root())
            .args(["run", "--bundle"])
            .arg(&bundle.save().path)
            .arg(bed.id());
        let groups = wrapped.output().success().replace("Groups:", "");
        assert!(["", "0"].contains(&groups.trim()), "{groups:?}");
    });
}

#[test]
fn the_umask_is_set_and_0022_otherwise() {
    as_both(|bed| {
        let bundle = bed.bundle().sh("umask");
        assert_eq!(bed.run(&bundle).success(), "0022");
        let bundle = bundle.with("/process/user/umask", 0o27);
        assert_eq!(bed.run(&bundle).success(), "0027");
    });
}

#[test]
fn the_environment_is_the_configs_alone() {
    as_both(|bed| {
        let bundle = bed
            .bundle()
            .args(["/bin/env"])
            .with("/process/env", json!(["PATH=/bin", "HOME=/h", "A=b=c", "EMPTY=", "S=x y"]));
        let output = bed.run_call(&bundle).env("LEAK", "1").output();
        assert_eq!(output.success(), "PATH=/bin\nHOME=/h\nA=b=c\nEMPTY=\nS=x y");
    });
}

#[test]
fn a_missing_home_comes_from_the_containers_passwd() {
    as_root(|bed| {
        let bundle = bed
            .bundle()
            .sh("echo $HOME")
            .with("/process/env", json!(["PATH=/bin"]))
            .with("/process/user/uid", 1234);
        bundle
            .write("/etc/passwd", "root:x:0:0::/root:/bin/sh\nsomebody:x:1234:1::/srv/s:/bin/sh\n");
        assert_eq!(bed.run(&bundle).success(), "/srv/s");
    });
}

#[test]
fn the_program_is_looked_up_in_the_path_of_the_config() {
    as_both(|bed| {
        let bundle =
            bed.bundle().args(["here"]).with("/process/env", json!(["PATH=/no:/srv:/bin"]));
        bundle.write("/srv/here", "#!/bin/sh\necho found");
        make_executable(&bundle.rootfs().join("srv/here"));
        assert_eq!(bed.run(&bundle).success(), "found");
    });
}

fn make_executable(path: &std::path::Path) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn the_working_directory_is_entered_and_made_if_it_is_missing() {
    as_both(|bed| {
        for directory in ["/tmp", "/", "/made/by/create"] {
            let bundle = bed.bundle().args(["/bin/pwd"]).with("/process/cwd", directory);
            assert_eq!(bed.run(&bundle).success(), directory);
        }
    });
}

/// `start` comes when nobody waits for an error any more. What is in /proc may be there for the
/// program alone, and is told as early all the same where it cannot be.
#[test]
fn a_program_or_a_directory_that_is_not_there_is_told_by_create() {
    as_both(|bed| {
        let program = |path: &str| bed.bundle().args([path]);
        for (bundle, words) in [
            (program("nowhere"), "executable file not found in $PATH"),
            (program("/nowhere"), "no such file or directory"),
            (program("/proc/self/nowhere"), "no such file or directory"),
            (bed.bundle().with("/process/cwd", "/proc/self/nowhere"), "o such file or directory"),
        ] {
            let output = bed.create_call(&bundle, &bed.id()).output();
            assert!(output.code != 0, "{words}: {output}");
            if !bed.is_peer("crun 1.8 has other words") {
                assert!(output.stderr.contains(words), "{words}: {output}");
            }
        }
    });
}

#[test]
fn rlimits_are_set() {
    as_both(|bed| {
        let bundle = bed
            .bundle()
            .with(
                "/process/rlimits",
                json!([
                    {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
                    {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
                    {"type": "RLIMIT_NPROC", "soft": 1000, "hard": 2000},
                    {"type": "RLIMIT_FSIZE", "soft": 4096000, "hard": 18446744073709551615_u64},
                    {"type": "RLIMIT_STACK", "soft": 1048576, "hard": 4194304},
                ]),
            )
            .args(["/bin/cat", "/proc/self/limits"]);
        let output = bed.run(&bundle);
        let limit = |name: &str| {
            let line = output.success().lines().find(|line| line.starts_with(name));
            let line = line.unwrap_or_else(|| panic!("{name}: {output}"));
            line[name.len()..].split_whitespace().take(2).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(limit("Max open files"), "100 200");
        assert_eq!(limit("Max core file size"), "0 0");
        assert_eq!(limit("Max processes"), "1000 2000");
        assert_eq!(limit("Max file size"), "4096000 unlimited");
        assert_eq!(limit("Max stack size"), "1048576 4194304");
    });
}

#[test]
fn few_descriptors_are_enough_to_start() {
    as_root(|bed| {
        if bed.is_peer("runc and crun need more of them after setting the limit") {
            return;
        }
        for few in [4, 8, 12] {
            let bundle = bed
                .bundle()
                .with(
                    "/process/rlimits/-",
                    json!({"type": "RLIMIT_NOFILE", "soft": few, "hard": few}),
                )
                .sh("ulimit -n");
            assert_eq!(bed.run(&bundle).success(), few.to_string());
        }
    });
}

/// The sets of /proc/PID/status in its order.
const SETS: [&str; 5] = ["inheritable", "permitted", "effective", "bounding", "ambient"];

#[test]
fn each_set_of_capabilities_is_exact() {
    as_both(|bed| {
        // CHOWN 0, KILL 5, SETUID 7, NET_BIND_SERVICE 10, MKNOD 27
        let sets = json!({
            "inheritable": ["CAP_KILL", "CAP_CHOWN"],
            "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"],
            "effective": ["CAP_CHOWN", "CAP_KILL"],
            "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_MKNOD"],
            "ambient": ["CAP_KILL"],
        });
        let mut bundle = bed.bundle().with("/process/capabilities", sets).sh(&status("Cap.*"));
        if !bed.is_rootless() {
            // Not root, whom execve gives every permitted capability.
            bundle = bundle.with("/process/user", json!({"uid": 7, "gid": 7}));
        }
        let all = bed.run(&bundle).success().to_owned();
        let found: Vec<_> = all.lines().map(|line| line.split_once(':').unwrap().1).collect();
        let bits =
            |bits: &[u32]| format!("{:016x}", bits.iter().map(|bit| 1_u64 << bit).sum::<u64>());
        let expected = if bed.is_rootless() {
            // execve by (mapped) root without no_new_privs' help: P' = I | bounding.
            [bits(&[0, 5]), bits(&[0, 5, 7]), bits(&[0, 5, 7]), bits(&[0, 5, 7, 27]), bits(&[5])]
        } else {
            // execve by an ordinary user keeps what is ambient.
            [bits(&[0, 5]), bits(&[5]), bits(&[5]), bits(&[0, 5, 7, 27]), bits(&[5])]
        };
        for ((set, found), expected) in SETS.iter().zip(found).zip(expected) {
            assert_eq!(found, expected, "{set}: {all}");
        }
    });
}

#[test]
fn without_capabilities_there_are_none() {
    as_both(|bed| {
        let bundle = bed.bundle().without("/process/capabilities").sh(&status("Cap.*"));
        let output = bed.run(&bundle);
        for line in output.success().lines() {
            assert!(line.ends_with(":0000000000000000"), "{output}");
        }
    });
}

#[test]
fn a_capability_that_is_unknown_or_cannot_be_granted_is_a_warning() {
    as_root(|bed| {
        if bed.is_peer(
            "runc 1.1 does not warn of ambient ones, crun 1.8 and 1.29 refuse an unknown one",
        ) {
            return;
        }
        let bundle = bed.bundle().sh("echo started; grep CapEff /proc/self/status");
        let unknown = bundle.clone().capable(&["CAP_BOGUS", "CAP_KILL"]);
        let output = bed.run(&unknown);
        assert_eq!(output.success(), "started\nCapEff:\t0000000000000020");
        assert!(output.stderr.contains("CAP_BOGUS"), "{output}");
        // Ambient without permitted and inheritable is what the kernel refuses.
        let ungrantable = bundle.with("/process/capabilities/ambient", json!(["CAP_SYS_TIME"]));
        let output = bed.run(&ungrantable);
        assert!(output.success().starts_with("started"), "{output}");
        assert!(output.stderr.contains("CAP_SYS_TIME"), "{output}");
    });
}

#[test]
fn no_new_privileges_is_set_or_not() {
    as_both(|bed| {
        for (wanted, expected) in [(true, "1"), (false, "0")] {
            let bundle =
                bed.bundle().with("/process/noNewPrivileges", wanted).sh(&status("NoNewPrivs"));
            assert_eq!(bed.run(&bundle).success(), format!("NoNewPrivs:{expected}"));
        }
    });
}

#[test]
fn a_set_user_id_program_gains_nothing_under_no_new_privileges() {
    as_root(|bed| {
        for (wanted, saved) in [(true, "1000"), (false, "0")] {
            // busybox gives up what it gained; the saved id tells what execve gave.
            let script = "/srv/busybox sh -c 'grep ^Uid /proc/self/status' | cut -f4";
            let bundle = bed
                .bundle()
                .with("/process/user", json!({"uid": 1000, "gid": 1000}))
                .with("/process/noNewPrivileges", wanted)
                .sh(script);
            bundle.write("/srv/busybox", "");
            let raised = bundle.rootfs().join("srv/busybox");
            integration::copy_program("/bin/busybox".as_ref(), &raised);
            std::fs::set_permissions(&raised, PermissionsExt::from_mode(0o4755)).unwrap();
            assert_eq!(bed.run(&bundle).success(), saved, "noNewPrivileges: {wanted}");
        }
    });
}

#[test]
fn the_oom_score_is_adjusted() {
    as_both(|bed| {
        let bundle = bed
            .bundle()
            .with("/process/oomScoreAdj", 567)
            .args(["/bin/cat", "/proc/self/oom_score_adj"]);
        assert_eq!(bed.run(&bundle).success(), "567");
    });
}

#[test]
fn the_io_priority_is_set() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 are older than the field") {
            return;
        }
        let bundle = bed
            .bundle()
            .with("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 6}))
            .args(["/bin/ionice", "-p", "1"]);
        assert_eq!(bed.run(&bundle).success(), "best-effort: prio 6");
        let idle = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0});
        let output = bed.run(&bundle.with("/process/ioPriority", idle));
        assert!(output.success().starts_with("idle"), "{output}");
    });
}

#[test]
fn the_scheduler_is_set() {
    in_views(|bed| {
        if bed.is_peer("runc 1.1 is older than the field, crun 1.8 knows a part of it") {
            return;
        }
        // proc_pid_stat(5): the policy is field 41, the real-time priority 40, nice 19. Where a
        // policy has no nice value, the caller's is kept.
        let script = "cut -d' ' -f19,40,41 /proc/1/stat";
        let own = rustix::process::getpriority_process(None).unwrap();
        let reset = json!(["SCHED_FLAG_RESET_ON_FORK"]);
        for (scheduler, nice, rest) in [
            (json!({"policy": "SCHED_OTHER", "nice": 11}), 11, "0 0"),
            (json!({"policy": "SCHED_BATCH", "nice": 3}), 3, "0 3"),
            (json!({"policy": "SCHED_BATCH", "nice": 4, "flags": reset}), 4, "0 3"),
            (json!({"policy": "SCHED_IDLE"}), own, "0 5"),
            (json!({"policy": "SCHED_FIFO", "priority": 7}), own, "7 1"),
            (json!({"policy": "SCHED_RR", "priority": 2, "flags": reset}), own, "2 2"),
        ] {
            let real_time = !rest.starts_with('0');
            if real_time && bed.view != View::V2 {
                bed.skip("a new cpu group of version 1 may have no real-time budget");
                continue;
            }
            // Nor does the caller's own group, where these tests run in a container of version 1.
            let may_be_real_time = || {
                let chrt = Command::new("chrt").args(["-f", "7", "true"]).status();
                chrt.is_ok_and(|status| status.success())
            };
            if real_time && !may_be_real_time() {
                bed.skip("the caller's group has no real-time budget");
                continue;
            }
            let bundle = bed.bundle().with("/process/scheduler", scheduler.clone()).sh(script);
            let output = bed.run(&bundle);
            assert_eq!(output.success(), format!("{nice} {rest}"), "{scheduler}");
        }
    });
}

#[test]
fn the_personality_is_set() {
    as_both(|bed| {
        let bundle = bed
            .bundle()
            .with("/linux/personality", json!({"domain": "LINUX32"}))
            .args(["/bin/uname", "-m"]);
        if bed.is_peer("runc 1.1 is older than the field") {
            return;
        }
        let [wide, narrow] = MACHINE;
        assert_eq!(bed.run(&bundle).success(), narrow);
        let bundle = bundle.with("/linux/personality/domain", "LINUX");
        assert_eq!(bed.run(&bundle).success(), wide);
    });
}

#[test]
fn the_root_is_read_only_if_asked_for() {
    as_both(|bed| {
        let bundle = bed.bundle().sh("touch /made 2>&1 || true; test -e /made && echo made");
        assert_eq!(bed.run(&bundle).stdout, "made\n");
        let bundle = bed.bundle_of(bundle.config).with("/root/readonly", true);
        let output = bed.run(&bundle);
        assert!(output.stdout.contains("Read-only file system"), "{output}");
        assert!(!output.stdout.contains("made\n") && !bundle.rootfs().join("made").exists());
    });
}

#[test]
fn the_root_may_be_absolute_or_relative_to_the_bundle() {
    as_both(|bed| {
        let bundle = bed.bundle().sh("echo found");
        bed.run(&bundle).success();
        let absolute = bundle.rootfs().to_str().unwrap().to_owned();
        assert_eq!(bed.run(&bundle.with("/root/path", absolute)).success(), "found");
    });
}

#[test]
fn the_host_name_is_set_for_the_container_alone() {
    as_both(|bed| {
        let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let bundle = bed.bundle().with("/hostname", "box.example").args(["/bin/hostname"]);
        assert_eq!(bed.run(&bundle).success(), "box.example");
        assert_eq!(std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), machine);
    });
}

#[test]
fn the_domain_name_is_set() {
    as_both(|bed| {
        if bed.is_peer("runc 1.1 is older than the field") {
            return;
        }
        let bundle = bed
            .bundle()
            .with("/domainname", "nis.example")
            .args(["/bin/cat", "/proc/sys/kernel/domainname"]);
        assert_eq!(bed.run(&bundle).success(), "nis.example");
    });
}

#[test]
fn nothing_of_the_runtime_reaches_the_program() {
    as_both(|bed| {
        let script = "ls -l /proc/self/fd | grep -v total; grep -E 'SigBlk|SigIgn|SigCgt' /proc/self/status; \
                      readlink /proc/self/cwd";
        let output = bed.run(&bed.bundle().sh(script));
        let descriptors = output.success().lines().take_while(|line| !line.starts_with("Sig"));
        // stdio, and the directory that ls reads.
        assert_eq!(descriptors.count(), 4, "{output}");
        let line = |name: &str| {
            let line = output.stdout.lines().find(|line| line.starts_with(name)).unwrap();
            u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
        };
        assert_eq!(line("SigBlk"), 0, "{output}");
        // The two that libc keeps for itself are out of its callers' reach.
        assert_eq!(line("SigIgn") & !0x1_8000_0000, 0, "{output}");
        assert!(output.stdout.ends_with("\n/\n"), "{output}");
    });
}

#[test]
fn a_terminal_has_the_size_that_is_asked_for() {
    as_both(|bed| {
        let bundle = bed
            .bundle()
            .with("/process/terminal", true)
            .with("/process/consoleSize", json!({"height": 33, "width": 99}))
            .sh("stty size; sleep 100");
        let socket = integration::terminal::ConsoleSocket::listen(bed);
        let id = bed.id();
        let call = bed.create_call(&bundle, &id).option("--console-socket", &socket.path);
        let container = integration::Container::create(bed, &id, call);
        let (mut terminal, _) = socket.terminal();
        assert_eq!(terminal.size(), (99, 33));
        container.start();
        terminal.expect("33 99");
    });
}

#[test]
fn preserved_descriptors_are_passed_on() {
    as_root(|bed| {
        let bundle = bed.bundle().sh("cat <&3");
        let file = bed.write("passed", "on\n");
        let shell = format!(
            "exec 3<{}; exec {} --root {} run --preserve-fds 1 --bundle {} {}",
            file.display(),
            integration::runtime().program.display(),
            bed.root().display(),
            bundle.save().path.display(),
            bed.id()
        );
        let output = bed.program("/bin/sh".as_ref()).args(["-c", &shell]).output();
        assert_eq!(output.success(), "on");
    });
}

#[test]
fn a_value_that_does_not_exist_is_no_value() {
    as_user(|bed| {
        // Engines write null where they have nothing.
        let mut bundle = bed.bundle().sh("echo fine");
        for pointer in
            ["/hostname", "/process/rlimits", "/linux/resources", "/hooks", "/annotations"]
        {
            bundle = bundle.with(pointer, Value::Null);
        }
        assert_eq!(bed.run(&bundle).success(), "fine");
    });
}

/// `--cap` is for the program alone: what it starts, and a program with capabilities of
/// its own that another user starts, has what the container gives.
#[test]
fn a_capability_that_exec_adds_is_in_the_sets_of_the_program_alone() {
    as_root(|bed| {
        if bed.is_peer("crun 1.8 takes them instead of the config's") {
            return;
        }
        // CAP_CHOWN is bit 0, CAP_KILL bit 5.
        for (inheritable, ambient, expected) in [
            (json!([]), json!([]), [0, 0]),
            (json!(["CAP_KILL"]), json!(["CAP_KILL"]), [0x20, 0x20]),
            (json!(["CAP_KILL", "CAP_CHOWN"]), json!(["CAP_KILL"]), [0x21, 0x21]),
            (json!(["CAP_CHOWN"]), json!([]), [0x01, 0x01]),
        ] {
            let bundle = bed
                .bundle()
                .capable(&["CAP_KILL", "CAP_CHOWN"])
                .with("/process/capabilities/effective", json!(["CAP_KILL"]))
                .with("/process/capabilities/permitted", json!(["CAP_KILL"]))
                .with("/process/capabilities/inheritable", inheritable.clone())
                .with("/process/capabilities/ambient", ambient.clone())
                .sh("sleep 100");
            let container = bed.start(&bundle);
            let show = ["/bin/grep", "-E", "CapInh|CapAmb|CapEff", "/proc/self/status"];
            let output = container.exec_call(&["--cap", "CAP_CHOWN"], &show).output();
            let sets: Vec<_> = output.success().lines().map(str::to_owned).collect();
            let expected = [
                format!("CapInh:\t{:016x}", expected[0]),
                "CapEff:\t0000000000000021".to_owned(),
                format!("CapAmb:\t{:016x}", expected[1]),
            ];
            assert_eq!(sets, expected, "{inheritable} {ambient}");
        }
    });
}

#[test]
fn each_memory_policy_is_the_one_that_was_asked_for() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 know none") {
            return;
        }
        if !std::path::Path::new("/proc/self/numa_maps").exists() {
            return bed.skip("this kernel knows one node alone");
        }
        for (policy, expected) in [
            (json!({"mode": "MPOL_DEFAULT"}), "default"),
            (json!({"mode": "MPOL_PREFERRED", "nodes": "0"}), "prefer:0"),
            (json!({"mode": "MPOL_BIND", "nodes": "0"}), "bind:0"),
            (json!({"mode": "MPOL_INTERLEAVE", "nodes": "0"}), "interleave:0"),
            (json!({"mode": "MPOL_LOCAL"}), "local"),
            (
                json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}),
                "bind=static:0",
            ),
            (
                json!({"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_RELATIVE_NODES"]}),
                "interleave=relative:0",
            ),
        ] {
            let script = "read _ policy _ </proc/self/numa_maps; echo $policy";
            let bundle = bed.bundle().with("/linux/memoryPolicy", policy.clone()).sh(script);
            assert_eq!(bed.run(&bundle).success(), expected, "{policy}");
        }
    });
}

#[test]
fn the_null_device_among_stdio_is_the_containers_own() {
    as_root(|bed| {
        let script = "echo $(stat -L -c %d /proc/self/fd/0) $(stat -c %d /dev/null) \
                      $(stat -L -c %t:%T /proc/self/fd/0)";
        if bed.is_peer("runc copies stdin through a pipe") {
            return;
        }
        let bundle = bed.bundle().sh(script);
        let said = bed.run(&bundle);
        let words: Vec<_> = said.success().split_whitespace().collect();
        assert_eq!(words[0], words[1], "{said}");
        assert_eq!(words[2], "1:3", "{said}");
        // Where the container's is another file, the host's stays.
        let bundle = bed.bundle().sh(script).without("/mounts/1");
        bundle.write("/dev/other", "");
        let said = bed.run(&bundle.mount("/dev/null", "bind", "rootfs/dev/other", &["bind"]));
        let words: Vec<_> = said.success().split_whitespace().collect();
        assert_eq!(words[2], "1:3", "{said}");
    });
}
