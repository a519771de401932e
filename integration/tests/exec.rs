//! `exec`: a second process in a container, with every restriction of the first.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use integration::terminal::{ConsoleSocket, Terminal};
use integration::{
    CALLERS_KEYRING, Container, MACHINE, View, as_both, as_root, eventually, everywhere, in_views,
};
use serde_json::json;

const WAIT: &str = "sleep 100";

#[test]
fn it_runs_a_program_and_gives_its_exit_code() {
    everywhere(|bed| {
        let container = bed.start(&bed.bundle().sh(WAIT));
        assert_eq!(
            container.exec(&["/bin/echo", "a b", "-c", "--force"]).success(),
            "a b -c --force"
        );
        assert_eq!(container.sh("exit 9").code, 9);
        assert_eq!(container.sh("kill -TERM $$").code, 143);
        assert_eq!(container.exec(&["echo", "by PATH"]).success(), "by PATH");
    });
}

#[test]
fn its_working_directory_may_be_one_of_its_own_process() {
    as_both(|bed| {
        let container = bed.start(&bed.bundle().sh(WAIT));
        let exec = |cwd: &str, args: &[&str]| container.exec_call(&["--cwd", cwd], args).output();
        assert_eq!(exec("/proc/self", &["cat", "comm"]).success(), "cat");
        assert_eq!(exec("/proc/self/task", &["/bin/sh", "-c", "ls | wc -l"]).success(), "1");
        assert_eq!(exec("/proc/self/cwd", &["pwd"]).success(), "/");
        let output = exec("/proc/self/nowhere", &["pwd"]);
        assert!(output.code != 0 && output.stderr.contains("/proc/self/nowhere"), "{output}");
        if bed.is_peer("runc 1.1 and crun 1.8 have other words") {
            return;
        }
        assert!(output.stderr.contains("cwd: \"/proc/self/nowhere\": No such file"), "{output}");
    });
}

#[test]
fn its_program_may_be_found_by_its_own_process() {
    as_both(|bed| {
        let container = bed.start(&bed.bundle().sh(WAIT));
        let exec = |path: &str, name: &str| {
            container.exec_call(&["--env", &format!("PATH={path}")], &[name, "found"]).output()
        };
        assert_eq!(exec("/bin", "/proc/self/root/bin/echo").success(), "found");
        assert_eq!(exec("/proc/self/root/bin", "echo").success(), "found");
        let output = exec("/proc/self/root/bin", "nowhere");
        assert!(output.code != 0 && output.stderr.contains("nowhere"), "{output}");
    });
}

/// Also where it may lead through /proc, so that it may have to be looked for again.
#[test]
fn its_working_directory_may_be_roots_alone() {
    as_root(|bed| {
        let container = bed.start(&bed.bundle().sh(WAIT));
        for directory in ["/closed", "/dev/closed"] {
            container.sh(&format!("mkdir -m 700 {directory}")).success();
            let options = ["--cwd", directory, "--user", "1000:1000"];
            let output = container.exec_call(&options, &["/bin/pwd"]).output();
            assert_eq!(output.success(), directory);
        }
    });
}

#[test]
fn its_scheduler_is_that_of_the_container_or_its_own() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 is older than the field, crun 1.8 leaves what exec adds as it is")
        {
            return;
        }
        // proc_pid_stat(5): the policy is field 41, nice 19.
        let show = ["/bin/sh", "-c", "cut -d' ' -f19,41 /proc/$$/stat"];
        let batch = |nice: i32, flags: &[&str]| json!({"policy": "SCHED_BATCH", "nice": nice, "flags": flags});
        for flags in [&[][..], &["SCHED_FLAG_RESET_ON_FORK"]] {
            let bundle = bed.bundle().sh(WAIT).with("/process/scheduler", batch(5, flags));
            let container = bed.start(&bundle);
            assert_eq!(container.exec(&show).success(), "5 3", "{flags:?}");
            let process = json!({"args": show, "cwd": "/", "env": ["PATH=/bin"],
                "user": {"uid": 0, "gid": 0}, "scheduler": batch(6, flags)});
            let file = bed.write("process.json", &process.to_string());
            let output = container.exec_call(&["--process", file.to_str().unwrap()], &[]).output();
            assert_eq!(output.success(), "6 3", "{flags:?}");
        }
    });
}

/// Its parent takes it on for the clone, and no longer.
#[test]
fn the_oom_score_is_that_of_the_container_and_not_of_who_waits() {
    as_both(|bed| {
        if bed.is_peer("crun 1.8 leaves what exec adds as it is") {
            return;
        }
        let bundle = bed.bundle().sh(WAIT).with("/process/oomScoreAdj", 300);
        let container = bed.start(&bundle);
        let show = ["/bin/sh", "-c", "cat /proc/self/oom_score_adj; sleep 100"];
        let running = container.exec_call(&[], &show).spawn();
        eventually("the program runs", || running.printed() == "300\n");
        let score = |pid: &str| {
            let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj"));
            text.expect("oom_score_adj").trim().to_owned()
        };
        let has_its_own_again = || score(&running.pid().to_string()) == score("self");
        eventually("who waits has its own again", has_its_own_again);
        container.kill("KILL");
        let output = running.wait();
        assert_eq!((output.code, output.stderr.as_str()), (137, ""), "{output}");
    });
}

#[test]
fn a_program_that_cannot_be_run_is_told_in_the_words_that_engines_look_for() {
    as_root(|bed| {
        if bed.is_peer("runc starts with a time stamp, crun 1.8 has other words and codes") {
            return;
        }
        let bundle = bed.bundle().sh(WAIT);
        bundle.write("/etc/text", "no program\n");
        let container = bed.start(&bundle);
        for (program, words) in [
            ("/no/such/program", "no such file or directory"),
            ("no-such-program", "executable file not found in $PATH"),
            ("/etc", "is a directory"),
            ("/etc/text", "permission denied"),
        ] {
            let output = container.exec(&[program]);
            let message = output.failure(255);
            assert!(
                message.starts_with("ferrun: error: ") && message.lines().count() == 1,
                "{output}"
            );
            assert!(message.contains(words), "{words:?} is not in {output}");
            assert!(message.contains(program), "{output}");
        }
    });
}

#[test]
fn it_is_in_all_namespaces_and_the_cgroup_of_the_container() {
    in_views(|bed| {
        let bundle = bed
            .bundle()
            .with_namespace("cgroup", None)
            .with_namespace("user", None)
            .with("/linux/uidMappings", json!([{"containerID": 0, "hostID": 0, "size": 70000}]))
            .with("/linux/gidMappings", json!([{"containerID": 0, "hostID": 0, "size": 70000}]))
            .sh(WAIT);
        let container = bed.start(&bundle);
        let script = "for n in cgroup ipc mnt net pid user uts; do readlink /proc/$P/ns/$n; done";
        let own = container.sh(&script.replace("$P", "self"));
        let of_init = container.sh(&script.replace("$P", "1"));
        assert_eq!(own.success().lines().count(), 7, "{own}");
        assert_eq!(own.stdout, of_init.stdout);
        let controller = if bed.view == View::V2 { "cgroup.procs" } else { "pids.max" };
        let procs = bed.cgroup_file(&bundle, controller).with_file_name("cgroup.procs");
        let members = || fs::read_to_string(&procs).unwrap().lines().count();
        let before = members();
        let running = container.exec_call(&[], &["/bin/sleep", "100"]).spawn();
        eventually("a process more in the cgroup", || members() == before + 1);
        drop(running);
    });
}

#[test]
fn it_follows_init_where_the_container_has_groups_of_its_own() {
    in_views(|bed| {
        let nested = "mkdir inner && echo 1 > inner/cgroup.procs && \
                      echo +hugetlb > cgroup.subtree_control";
        if bed.view != View::V2 {
            return;
        }
        if !bed.has_controller("hugetlb") {
            return bed.skip("no group of version 2 has the hugetlb controller");
        }
        if bed.is_peer("runc 1.1 fails") {
            return;
        }
        let bundle = bed
            .bundle()
            .with_namespace("cgroup", None)
            .mount("/sys", "sysfs", "sysfs", &[])
            .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["rw"])
            .sh(&format!("cd /sys/fs/cgroup && {nested} && echo nested; sleep 100"));
        let container = bed.start(&bundle);
        container.prints("nested");
        let output = container.sh("cat /proc/self/cgroup");
        assert!(output.success().ends_with("0::/inner"), "{output}");
    });
}

#[test]
fn it_has_the_containers_user_environment_and_directory() {
    as_both(|bed| {
        if bed.is_peer("crun 1.8 takes user 0 and / where exec names none") {
            return;
        }
        let mut bundle = bed
            .bundle()
            .with("/process/env", json!(["PATH=/bin", "HOME=/h", "FROM=config"]))
            .with("/process/cwd", "/tmp")
            .sh(WAIT);
        if !bed.is_rootless() {
            bundle =
                bundle.with("/process/user", json!({"uid": 11, "gid": 12, "additionalGids": [13]}));
        }
        let container = bed.start(&bundle);
        let output = container.sh("id -u; id -g; id -G; echo $FROM; pwd; umask");
        if bed.is_rootless() {
            assert!(output.success().ends_with("config\n/tmp\n0022"), "{output}");
        } else {
            assert_eq!(output.success(), "11\n12\n12 13\nconfig\n/tmp\n0022");
        }
    });
}

#[test]
fn options_replace_what_the_config_says() {
    as_root(|bed| {
        let container = bed.start(&bed.bundle().sh(WAIT));
        let exec = |options: &[&str], script: &str| {
            let output = container.exec_call(options, &["/bin/sh", "-c", script]).output();
            output.success().to_owned()
        };
        assert_eq!(exec(&["--user", "5"], "id -u; id -g"), "5\n0");
        assert_eq!(exec(&["--user", "5:6"], "id -u; id -g"), "5\n6");
        assert_eq!(exec(&["--cwd", "/etc"], "pwd"), "/etc");
        assert_eq!(exec(&["--cwd=/etc"], "pwd"), "/etc");
        assert_eq!(exec(&["-e", "A=1", "-e", "B=2 3"], "echo $A $B"), "1 2 3");
        assert_eq!(exec(&["--env", "HOME=/other"], "echo $HOME"), "/other");
        if !bed.is_peer("runc and crun take no value there") {
            assert_eq!(exec(&["-u5:6"], "id -u; id -g"), "5\n6");
        }
        if !bed.is_peer(
            "crun sets no HOME, has no --additional-gids, and Go's one dash is not its own",
        ) {
            assert_eq!(exec(&["-e", "A=1"], "echo $A $HOME"), "1 /root");
            assert_eq!(exec(&["-cwd", "/etc", "-env", "A=4"], "pwd; echo $A"), "/etc\n4");
            assert_eq!(exec(&["--user", "5:6", "-g", "7", "-g", "8"], "id -G"), "6 7 8");
        }
    });
}

#[test]
fn odd_user_ids_are_refused() {
    as_root(|bed| {
        if bed.is_peer("they take some of these") {
            return;
        }
        let container = bed.start(&bed.bundle().sh(WAIT));
        for user in [
            "-1",
            "+5",
            "4294967296",
            "4294967295",
            "root",
            "1:-1",
            "1:",
            ":1",
            "0x10",
            " 1",
            "1:2:3",
        ] {
            let option = format!("--user={user}");
            let output = container.exec_call(&[&option], &["/bin/id"]).output();
            assert!(output.failure(255).starts_with("ferrun: error: "), "{user:?}: {output}");
            assert_eq!(output.stdout, "", "{user:?}");
        }
    });
}

#[test]
fn every_restriction_of_the_config_holds() {
    as_both(|bed| {
        if bed.is_peer(
            "runc 1.1 raises the soft limit of descriptors, crun 1.8 drops limits and no_new_privs",
        ) {
            return;
        }
        let bundle = bed
            .bundle()
            .with("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}]))
            .with("/process/oomScoreAdj", 321)
            .with(
                "/linux/seccomp",
                json!({
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]
                }),
            )
            .sh(WAIT);
        let container = bed.start(&bundle);
        let script = "ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj; mkdir /tmp/x 2>&1; \
                      grep -E '^(NoNewPrivs|Seccomp|Cap...):' /proc/self/status | tr '\\t' ' '";
        let output = container.sh(script);
        let bits = "0000000020000420";
        let expected = format!(
            "77\n88\n321\nmkdir: can't create directory '/tmp/x': Operation not supported\n\
             CapInh: 0000000000000000\nCapPrm: {bits}\nCapEff: {bits}\nCapBnd: {bits}\n\
             CapAmb: 0000000000000000\nNoNewPrivs: 1\nSeccomp: 2"
        );
        assert_eq!(output.success(), expected);
    });
}

#[test]
fn capabilities_can_be_added() {
    as_root(|bed| {
        if bed.is_peer("crun 1.8 takes them instead of the config's") {
            return;
        }
        let container = bed.start(&bed.bundle().sh(WAIT));
        let script = "grep CapEff /proc/self/status | cut -f2";
        for options in [["--cap", "CAP_CHOWN"], ["-c", "CAP_CHOWN"]] {
            let output = container.exec_call(&options, &["/bin/sh", "-c", script]).output();
            assert_eq!(output.success(), "0000000020000421");
        }
    });
}

#[test]
fn a_process_file_says_it_all() {
    as_both(|bed| {
        if bed.is_peer("runc 1.1 knows no umask there") {
            return;
        }
        let container = bed.start(&bed.bundle().sh(WAIT));
        let process = json!({
            "args": ["/bin/sh", "-c", "pwd; echo $A; grep -E 'CapEff|NoNew' /proc/self/status; umask"],
            "cwd": "/etc",
            "env": ["PATH=/bin", "A=b"],
            "user": {"uid": 0, "gid": 0, "umask": 63},
            "noNewPrivileges": true,
            "capabilities": {"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]}
        });
        let file = bed.write("process.json", &process.to_string());
        for option in ["--process", "-p"] {
            let output = container.exec_call(&[option, file.to_str().unwrap()], &[]).output();
            assert_eq!(
                output.success(),
                "/etc\nb\nCapEff:\t0000000000000020\nNoNewPrivs:\t1\n0077"
            );
        }
        // What stands in no file is in no process either.
        let file = bed.write(
            "bare.json",
            &json!({"args": ["/bin/env"], "cwd": "/",
            "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin", "HOME=/"]})
            .to_string(),
        );
        let output = container.exec_call(&["--process", file.to_str().unwrap()], &[]).output();
        assert_eq!(output.success(), "PATH=/bin\nHOME=/");
    });
}

#[test]
fn a_wrong_process_file_names_its_field() {
    as_root(|bed| {
        if bed.is_peer("they do not name it") {
            return;
        }
        let container = bed.start(&bed.bundle().sh(WAIT));
        for (process, parts) in [
            (json!({"args": [], "cwd": "/", "user": {"uid": 0, "gid": 0}}), ["args", "args"]),
            (json!({"args": ["a"], "cwd": "x", "user": {"uid": 0, "gid": 0}}), ["cwd", "\"x\""]),
            (json!({"args": ["a"], "cwd": "/", "user": {"uid": "z", "gid": 0}}), ["user.uid", "z"]),
        ] {
            let file = bed.write("process.json", &process.to_string());
            let output = container.exec_call(&["--process", file.to_str().unwrap()], &[]).output();
            let message = output.failure(255);
            for part in parts {
                assert!(message.contains(part), "{part:?} is not in {output}");
            }
            assert_eq!(message.lines().count(), 1, "{output}");
        }
        let output = container.exec_call(&["--process", "/no/such/file"], &[]).output();
        assert!(output.failure(255).contains("/no/such/file"), "{output}");
    });
}

#[test]
fn a_detached_process_goes_on_and_its_pid_is_written() {
    as_both(|bed| {
        let container = bed.start(&bed.bundle().sh(WAIT));
        let file = bed.make_directory("pids", 0o755).join("pid");
        let options = ["--detach", "--pid-file", file.to_str().unwrap()];
        let output = container.exec_call(&options, &["/bin/sleep", "90"]).output();
        output.success();
        let pid: i32 = fs::read_to_string(&file).unwrap().parse().unwrap();
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        assert_eq!(String::from_utf8_lossy(&line), "/bin/sleep\x0090\0");
        assert_ne!(pid, container.pid());
    });
}

#[test]
fn a_created_container_can_be_entered_too() {
    as_root(|bed| {
        if bed.is_peer("crun 1.8 cannot find its rootfs then") {
            return;
        }
        let container = bed.create(&bed.bundle().sh(WAIT));
        assert_eq!(container.exec(&["/bin/echo", "in"]).success(), "in");
        assert_eq!(container.status(), "created");
    });
}

#[test]
fn it_has_a_terminal_if_asked_for() {
    as_both(|bed| {
        if bed.is_rootless() && bed.is_peer("crun 1.8 fails to enter a user namespace at times") {
            return;
        }
        let container = bed.start(&bed.bundle().sh(WAIT));
        let (mut terminal, other) = Terminal::open();
        terminal.resize(91, 17);
        let script = "tty; stty size; read line; echo got $line; exit 5";
        let call = container.exec_call(&["--tty"], &["/bin/sh", "-c", script]).on_terminal(&other);
        let running = call.spawn();
        drop(other);
        terminal.expect("/dev/pts/0");
        if !bed.is_peer("runc 1.1 and crun 1.8 set the first size late") {
            terminal.expect("17 91");
        }
        terminal.send("typed\n");
        terminal.expect("got typed");
        assert_eq!(running.wait().code, 5);
    });
}

#[test]
fn a_detached_terminal_goes_to_the_console_socket() {
    as_both(|bed| {
        let container = bed.start(&bed.bundle().sh(WAIT));
        let socket = ConsoleSocket::listen(bed);
        let path = socket.path.to_str().unwrap();
        let script = ["/bin/sh", "-c", "tty; echo hello; sleep 100"];
        let options = ["-t", "-d", "--console-socket", path];
        container.exec_call(&options, &script).output().success();
        let (mut terminal, _) = socket.terminal();
        terminal.expect("hello");
        // Without a socket nobody would hold the terminal.
        let output = container.exec_call(&["-t", "-d"], &script).output();
        assert!(output.code != 0, "{output}");
    });
}

#[test]
fn nothing_of_the_helper_is_seen_inside() {
    as_root(|bed| {
        let container = bed.start(&bed.bundle().capable(&["CAP_SYS_PTRACE"]).sh(WAIT));
        let output = container
            .sh("ls -l /proc/self/fd | grep -v total; for p in /proc/[0-9]*; do \
                                   readlink $p/exe; done");
        let descriptors = output.success().lines().filter(|line| line.contains("1 0 "));
        assert_eq!(descriptors.count(), 4, "{output}");
        let foreign = output.stdout.lines().filter(|line| line.starts_with('/'));
        for program in foreign {
            assert_eq!(program, "/bin/busybox", "{output}");
        }
    });
}

#[test]
fn it_has_the_containers_session_keyring_and_not_the_callers() {
    as_both(|bed| {
        if bed.is_peer("the exec of runc 1.1 makes another of that name, in that of crun 1.8 it is the caller's") {
            return;
        }
        let own = CALLERS_KEYRING.to_str().unwrap();
        for keeps in [false, true] {
            let bundle = bed.bundle().without("/linux/maskedPaths");
            let bundle = bundle.sh("cat /proc/keys; echo end; sleep 100");
            let id = bed.id();
            let create = bed.create_call(&bundle, &id).with_keyring();
            let create = if keeps { create.flag("--no-new-keyring") } else { create };
            let container = Container::create(bed, &id, create);
            container.start();
            eventually("init has said it", || container.printed().ends_with("end\n"));
            let cat = container.exec_call(&[], &["/bin/cat", "/proc/keys"]).with_keyring().output();
            for keys in [&container.printed(), cat.success()] {
                assert_eq!(keys.contains(own), keeps, "{keys}");
                let named = format!("_ses.{id}");
                assert_eq!(
                    keys.lines().filter(|line| line.contains(&named)).count(),
                    usize::from(!keeps)
                );
            }
        }
    });
}

#[test]
fn it_joins_a_group_below_the_container_s_if_asked_to() {
    in_views(|bed| {
        if bed.is_peer("crun 1.8 knows no tree by its name") {
            return;
        }
        let bundle = bed.bundle().sh(WAIT);
        let container = bed.start(&bundle);
        let groups = || fs::read_to_string(format!("/proc/{}/cgroup", container.pid())).unwrap();
        // Where the container is, in each tree, as the kernel writes it.
        for line in groups().lines() {
            let (names, path) = line.split_once(':').unwrap().1.split_once(':').unwrap();
            if !path.contains(&bed.name) {
                continue;
            }
            let tree = match names {
                "" if bed.view == View::V2 => "",
                "" => "unified",
                names => names.strip_prefix("name=").unwrap_or(names),
            };
            let group = format!("/sys/fs/cgroup/{tree}{path}");
            fs::create_dir(format!("{group}/below")).unwrap();
            // Nothing can join a group without processors or memory.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let _ = fs::read_to_string(format!("{group}/{file}"))
                    .and_then(|text| fs::write(format!("{group}/below/{file}"), text));
            }
        }
        let exec = |option: &[&str]| {
            container.exec_call(option, &["/bin/cat", "/proc/self/cgroup"]).output()
        };
        let output = exec(&["--cgroup", "/below"]);
        for (line, of_init) in output.success().lines().zip(groups().lines()) {
            if of_init.contains(&bed.name) {
                assert_eq!(line, format!("{of_init}/below"), "{output}");
            }
        }
        assert!(output.stdout.contains("/below"), "{output}");
        if bed.view != View::V2 {
            let output = exec(&["--cgroup=memory,pids:below"]);
            for line in output.success().lines() {
                let named = line.contains(":memory:") || line.contains(":pids:");
                assert_eq!(line.ends_with("/below"), named, "{output}");
            }
        }
        for wrong in ["../above", "nowhere", "nosuch:below"] {
            let output = exec(&["--cgroup", wrong]);
            assert!(output.code != 0, "{output}");
            assert!(bed.is_peer("other words") || output.stderr.contains("--cgroup"), "{output}");
        }
    });
}

#[test]
fn a_paused_container_is_waited_for_if_asked_to() {
    in_views(|bed| {
        if bed.is_peer("runc 1.1 waits inside, and crun 1.8 has no such option") {
            return;
        }
        let container = bed.start(&bed.bundle().sh(WAIT));
        container.call("pause").success();
        let refused = container.exec(&["/bin/echo", "at once"]);
        assert!(refused.failure(255).contains("paused"), "{refused}");
        let call =
            container.exec_call(&["--ignore-paused"], &["/bin/echo", "after the pause"]).spawn();
        std::thread::sleep(std::time::Duration::from_millis(300));
        container.call("resume").success();
        assert_eq!(call.wait().success(), "after the pause");
        if bed.view == View::V1 {
            return; // As in the hybrid view, and it takes ten seconds.
        }
        // Nobody resumes it: there is an end to the patience, and nothing has joined.
        container.call("pause").success();
        let output = container.exec_call(&["--ignore-paused"], &["/bin/true"]).output();
        assert!(output.failure(255).contains("--ignore-paused"), "{output}");
        container.call("resume").success();
        assert_eq!(container.call("ps").success().lines().count(), 2);
    });
}

#[test]
fn processors_of_an_added_process_are_those_of_the_config_or_its_own() {
    as_both(|bed| {
        if std::thread::available_parallelism().unwrap().get() < 2 {
            return bed.skip("this machine has one processor");
        }
        if bed.is_peer("runc 1.1 and crun 1.8 do not know execCPUAffinity") {
            return;
        }
        let allowed = ["/bin/grep", "Cpus_allowed_list", "/proc/self/status"];
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let own = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:\t"));
        let own = own.unwrap().to_owned();
        let of = |affinity: serde_json::Value| {
            let bundle = bed.bundle().with("/process/execCPUAffinity", affinity);
            let container =
                bed.start(&bundle.sh("grep Cpus_allowed_list /proc/self/status; sleep 100"));
            // Not those of its first process.
            container.prints(&own);
            container.exec(&allowed).success().split_whitespace().last().unwrap().to_owned()
        };
        assert_eq!(of(json!({"initial": "0", "final": "1"})), "1");
        let initial = of(json!({"initial": "1"}));
        // On version 2 the kernel gives what joins a cpuset all of its processors again.
        let is_taken_back = bed.view == View::V2 && !bed.is_rootless() && initial == own;
        assert!(initial == "1" || is_taken_back, "{initial}");
        assert_eq!(of(json!({"final": "0"})), "0");
        assert_eq!(of(json!({"initial": "", "final": ""})), own);
        let container = bed.start(&bed.bundle().sh(WAIT));
        let process = json!({"cwd": "/", "user": {"uid": 0, "gid": 0}, "args": allowed,
            "execCPUAffinity": {"final": "1"}});
        let path = bed.write("process.json", &process.to_string());
        let call = container.exec_call(&["--process", path.to_str().unwrap()], &[]);
        assert!(call.output().success().ends_with('1'));
        let wrong = bed.bundle().with("/process/execCPUAffinity", json!({"final": "7000"}));
        let output = bed.run(&wrong.sh("true"));
        assert!(output.failure(1).contains("process.execCPUAffinity.final"), "{output}");
    });
}

#[test]
fn it_passes_signals_on_and_gives_the_exit_code() {
    as_both(|bed| {
        let container = bed.start(&bed.bundle().sh(WAIT));
        let script = "trap 'echo got it; exit 9' TERM; echo ready; while :; do sleep 0.02; done";
        let running = container.exec_call(&[], &["/bin/sh", "-c", script]).spawn();
        eventually("the program is ready", || running.printed().contains("ready"));
        running.signal(nix::sys::signal::Signal::SIGTERM);
        let output = running.wait();
        assert_eq!((output.code, output.stdout.as_str()), (9, "ready\ngot it\n"), "{output}");
        for (signal, code) in [("TERM", 143), ("35", 163)] {
            assert_eq!(container.sh(&format!("kill -{signal} $$")).code, code, "{signal}");
        }
        assert_eq!(container.status(), "running");
    });
}

#[test]
fn it_has_the_personality_and_the_memory_policy_of_the_container() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 know no memory policy") {
            return;
        }
        let bundle = bed
            .bundle()
            .with("/linux/personality", json!({"domain": "LINUX32"}))
            .with("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "0"}))
            .sh(WAIT);
        let container = bed.start(&bundle);
        // The first line is about a mapping of the program: its policy is the process's.
        let output = container.sh("uname -m; read line < /proc/self/numa_maps; echo $line");
        let lines: Vec<&str> = output.success().lines().collect();
        assert_eq!(lines[0], MACHINE[1], "{output}");
        assert_eq!(lines[1].split(' ').nth(1), Some("bind:0"), "{output}");
    });
}

#[test]
fn a_program_that_is_there_and_cannot_be_run_is_told_with_its_reason() {
    as_both(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 do not name what is missing") {
            return;
        }
        let bundle = bed.bundle();
        let other = if cfg!(target_arch = "x86_64") { 183 } else { 62 };
        let mut foreign = fs::read(bundle.rootfs().join("bin/busybox")).unwrap();
        foreign[18] = other;
        for (name, content, reason) in [
            (
                "crlf",
                &b"#!/bin/sh\r\necho hi\r\n"[..],
                r#"no such file or directory: its interpreter "/bin/sh\r" is not there"#,
            ),
            (
                "script",
                b"#!/no/such/shell -e\n",
                r#"no such file or directory: its interpreter "/no/such/shell" is not there"#,
            ),
            ("foreign", &foreign, "exec format error: a program for "),
            ("text", b"echo hi\n", "exec format error: neither a program nor a script"),
        ] {
            let path = bundle.rootfs().join("bin").join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            let expected = format!("args[0]: exec /bin/{name}: {reason}");
            for program in [name.to_owned(), format!("/bin/{name}")] {
                let output = bed.run(&bundle.clone().args([program.as_str()]));
                assert!(output.failure(1).contains(&format!("process.{expected}")), "{output}");
                let container = bed.start(&bundle.clone().sh(WAIT));
                let output = container.exec(&[&program]);
                assert!(output.failure(255).contains(&expected), "{output}");
            }
        }
        bed.assert_nothing_left();
    });
}

#[test]
fn a_limit_on_processes_that_leaves_no_room_is_named() {
    integration::with_controllers(&["pids"], |bed| {
        if bed.is_peer("runc's and crun's helpers count at other moments") {
            return;
        }
        let limited = |limit: i64| {
            let bundle = bed.bundle().with("/linux/resources/pids", json!({"limit": limit}));
            bed.start(&bundle.sh("exec sleep 100"))
        };
        // One for the process in between, and one for the one that it makes.
        limited(3).exec(&["/bin/true"]).success();
        let output = limited(2).exec(&["/bin/true"]);
        assert!(output.failure(255).contains("pids.limit"), "{output}");
        bed.assert_nothing_left();
    });
}
