//! `linux.seccomp`, as a program under it finds it.

use integration::{Bed, Bundle, as_both, as_root};
use serde_json::{Value, json};

/// A filter that allows all but these calls.
fn filter(names: &[&str], action: &str, errno: Option<u32>) -> Value {
    let mut rule = json!({"names": names, "action": action});
    if let Some(errno) = errno {
        rule["errnoRet"] = json!(errno);
    }
    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})
}

/// The same with no_new_privs and without; then the runtime may need privileges
/// for it, which the program must not keep.
fn both_ways(bundle: &Bundle) -> [Bundle; 2] {
    [true, false].map(|wanted| bundle.clone().with("/process/noNewPrivileges", wanted))
}

const MKDIR: &str = "mkdir /tmp/made 2>&1; grep -E '^Seccomp:' /proc/self/status | tr '\\t' ' '";

#[test]
fn a_call_can_be_refused_with_an_error() {
    as_both(|bed| {
        for (errno, text) in
            [(None, "Operation not permitted"), (Some(38), "Function not implemented")]
        {
            let bundle = bed
                .bundle()
                .with("/linux/seccomp", filter(&["mkdir", "mkdirat"], "SCMP_ACT_ERRNO", errno))
                .sh(MKDIR);
            for bundle in both_ways(&bundle) {
                let output = bed.run(&bundle);
                assert!(output.success().contains(text), "{output}");
                assert!(output.stdout.ends_with("Seccomp: 2\n"), "{output}");
                assert!(!bundle.rootfs().join("tmp/made").exists());
            }
        }
    });
}

#[test]
fn a_call_can_be_deadly() {
    as_root(|bed| {
        for (action, code) in
            [("SCMP_ACT_KILL_PROCESS", 159), ("SCMP_ACT_KILL", 159), ("SCMP_ACT_TRAP", 159)]
        {
            let bundle = bed
                .bundle()
                .with("/linux/seccomp", filter(&["mkdir", "mkdirat"], action, None))
                .sh("mkdir /tmp/made; echo $?");
            let output = bed.run(&bundle);
            assert_eq!(output.success(), code.to_string(), "{action}");
        }
    });
}

#[test]
fn without_a_filter_nothing_is_filtered() {
    as_both(|bed| {
        let output = bed.run(&bed.bundle().sh(MKDIR));
        assert_eq!(output.success(), "Seccomp: 0");
    });
}

#[test]
fn arguments_are_compared() {
    as_root(|bed| {
        // kill(pid, 10) alone is refused.
        let bundle = bed
            .bundle()
            .with(
                "/linux/seccomp",
                json!({
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95,
                        "args": [{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}]}]
                }),
            )
            .sh("trap : USR1 USR2; kill -USR1 $$ 2>&1; kill -USR2 $$ && echo sent");
        let output = bed.run(&bundle);
        assert!(output.success().contains("not supported"), "{output}");
        assert!(output.stdout.ends_with("sent\n"), "{output}");
    });
}

/// Docker's profile, from a real engine's configuration.
fn docker(bed: &Bed) -> Bundle {
    let config: Value =
        serde_json::from_str(include_str!("../data/docker-29-default.json")).unwrap();
    bed.bundle().with("/linux/seccomp", config["linux"]["seccomp"].clone())
}

#[test]
fn a_profile_that_denies_all_but_a_list_lets_programs_run() {
    as_both(|bed| {
        // What is not on the list is refused: a new user namespace is not.
        let bundle = docker(bed).sh("unshare -U true 2>&1; ls -d /bin; mkdir /tmp/x && echo made");
        for bundle in both_ways(&bundle) {
            let output = bed.run(&bundle);
            let _ = std::fs::remove_dir(bundle.rootfs().join("tmp/x"));
            assert!(output.success().contains("unshare: "), "{output}");
            assert!(output.stdout.ends_with("/bin\nmade\n"), "{output}");
        }
    });
}

#[test]
fn exec_is_filtered_too() {
    as_both(|bed| {
        if bed.is_rootless() && bed.is_peer("crun 1.8 fails to enter a user namespace at times") {
            return;
        }
        let bundle = bed
            .bundle()
            .with("/linux/seccomp", filter(&["mkdir", "mkdirat"], "SCMP_ACT_ERRNO", Some(95)))
            .sh("sleep 100");
        for bundle in both_ways(&bundle) {
            let container = bed.start(&bundle);
            let output = container.sh(MKDIR);
            assert!(output.success().contains("not supported"), "{output}");
            assert!(output.stdout.ends_with("Seccomp: 2\n"), "{output}");
            // The process file of an engine says nothing of a filter.
            let process = json!({"args": ["/bin/sh", "-c", MKDIR], "cwd": "/",
                "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}});
            let file = bed.write("process.json", &process.to_string());
            let output = container.exec_call(&["--process", file.to_str().unwrap()], &[]).output();
            assert!(output.success().ends_with("Seccomp: 2"), "{output}");
        }
    });
}

#[test]
fn no_privilege_that_loading_a_filter_needs_is_left() {
    as_root(|bed| {
        let bundle = bed
            .bundle()
            .with("/process/noNewPrivileges", false)
            .with("/linux/seccomp", filter(&["mkdir"], "SCMP_ACT_ERRNO", None))
            .sh("grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status | cut -f2 | tr '\\n' ' '");
        let output = bed.run(&bundle);
        let (none, some) = ("0000000000000000", "0000000020000420");
        assert_eq!(output.success(), format!("{none} {some} {some} {some} {none}"));
        let bundle = bundle.with("/process/user", json!({"uid": 9, "gid": 9}));
        let output = bed.run(&bundle);
        assert_eq!(output.success(), format!("{none} {none} {none} {some} {none}"));
    });
}

#[test]
fn a_created_container_waits_under_its_filter_with_the_rights_of_the_program() {
    as_both(|bed| {
        if bed.is_peer("crun 1.8 loads it when the container starts") {
            return;
        }
        let bundle =
            bed.bundle().with("/linux/seccomp", filter(&["mkdir"], "SCMP_ACT_ERRNO", None));
        for bundle in both_ways(&bundle.sh("sleep 100")) {
            let container = bed.create(&bundle);
            let status = std::fs::read_to_string(format!("/proc/{}/status", container.pid()));
            let status = status.unwrap();
            assert!(status.contains("Seccomp:\t2\n"), "{status}");
            // And without what loading it takes.
            for set in ["Prm", "Eff"] {
                assert!(status.contains(&format!("Cap{set}:\t0000000020000420\n")), "{status}");
            }
        }
    });
}

#[test]
fn a_filter_that_refuses_execve_is_told_by_start() {
    as_root(|bed| {
        if bed.is_peer("they take the end of the channel for success") {
            return;
        }
        // Nothing at all is allowed, so that even the word of it cannot be sent.
        let bundle =
            bed.bundle().with("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ERRNO"}));
        let container = bed.create(&bundle);
        let output = container.call("start");
        assert!(output.failure(1).contains("permitted"), "{output}");
        bed.assert_nothing_left();
    });
}

#[test]
fn a_program_that_the_filter_kills_at_its_execve_did_not_start() {
    as_root(|bed| {
        if bed.is_peer("they have other words") {
            return;
        }
        for action in ["SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD"] {
            let bundle = bed.bundle().with("/linux/seccomp", json!({"defaultAction": action}));
            let output = bed.run(&bundle);
            assert!(output.failure(1).contains("linux.seccomp"), "{action}: {output}");
            // The init of a created container may have been reaped by now.
            let container = bed.create(&bundle);
            if container.call("start").code == 0 {
                assert_eq!(container.ended(), "", "{action}");
            } else {
                bed.assert_nothing_left();
            }
        }
    });
}

#[test]
fn a_filter_that_refuses_execve_is_told_by_exec() {
    as_root(|bed| {
        if bed.is_peer("they take the end of the channel for success") {
            return;
        }
        for action in ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS"] {
            // Init waits outside of its filter.
            let bundle = bed.bundle().with("/linux/seccomp", json!({"defaultAction": action}));
            let container = bed.create(&bundle);
            let output = container.exec(&["/bin/true"]);
            let words = if action == "SCMP_ACT_ERRNO" { "permitted" } else { "" };
            assert!(output.code != 0 && output.stderr.contains(words), "{action}: {output}");
            assert_eq!(container.status(), "created");
        }
    });
}

#[test]
fn names_that_the_kernel_does_not_have_are_passed_over() {
    as_root(|bed| {
        let bundle = bed
            .bundle()
            .with(
                "/linux/seccomp",
                filter(&["no_such_call", "mkdir", "mkdirat"], "SCMP_ACT_ERRNO", None),
            )
            .sh(MKDIR);
        let output = bed.run(&bundle);
        assert!(output.success().contains("not permitted"), "{output}");
    });
}

/// The runtime loads a filter before its last calls, where the filter lets them all through.
/// One that knows those and the program's alone, and kills for any other, shows that the list
/// of them is whole: for an init that waits, for one that does not, and for `exec`.
#[test]
fn the_last_calls_of_the_runtime_are_those_that_it_knows() {
    const LAST_CALLS: [&str; 24] = [
        "accept4",
        "brk",
        "capset",
        "clone",
        "close",
        "execve",
        "exit_group",
        "fcntl",
        "ioctl",
        "madvise",
        "mmap",
        "mprotect",
        "munmap",
        "ppoll",
        "prctl",
        "prlimit64",
        "recvfrom",
        "recvmsg",
        "restart_syscall",
        "rt_sigaction",
        "rt_sigprocmask",
        "sendmsg",
        "setsid",
        "write",
    ];
    // What busybox's `true` calls.
    const PROGRAM: [&str; 12] = [
        "arch_prctl",
        "fstat",
        "getrandom",
        "getuid",
        "mprotect",
        "newfstatat",
        "read",
        "readlink",
        "readlinkat",
        "rseq",
        "set_robust_list",
        "set_tid_address",
    ];
    as_both(|bed| {
        if bed.is_peer("runc and crun have other last calls") {
            return;
        }
        let names = [&LAST_CALLS[..], &PROGRAM[..]].concat();
        let profile = json!({"defaultAction": "SCMP_ACT_KILL_PROCESS",
            "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]});
        let program = ["/bin/busybox", "true"];
        let bundle = bed
            .bundle()
            .with("/linux/seccomp", profile)
            .with("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 64}]))
            .args(program);
        for bundle in both_ways(&bundle) {
            bed.run(&bundle).success();
            let container = bed.create(&bundle);
            // The init process of an ordinary user is hidden from him too until it is started.
            if !bed.is_rootless() {
                container.exec_call(&["--tty"], &program).output().success();
                container.exec(&program).success();
                // It is looked for before the filter is there, which lets nobody look.
                let output = container.exec(&["/bin/missing"]);
                assert!(output.failure(255).contains("no such file or directory"), "{output}");
            }
            container.start();
            container.ended();
            container.delete();
        }
    });
}
