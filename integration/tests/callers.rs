//! Callers as they are: shells that start things in the background, nohup, engines with
//! descriptors left open, a disk that is full, a reader that has gone.
//!
//! What a process inherits over fork(2) and execve(2) (credentials(7), execve(2), signal(7),
//! sched(7)), and what becomes of the caller's here:
//!
//! | inherited | becomes | why | test |
//! |---|---|---|---|
//! | ignored signals | reset | a program may rely on the default, and a shell cannot even trap them | `ignored_signals_reach_neither_programs_nor_hooks` |
//! | blocked signals | reset | the same | `process::nothing_of_the_runtime_reaches_the_program` |
//! | descriptors past stdio | closed, but for `--preserve-fds`; in a created container's init too | they are the caller's | `attacks::nothing_of_the_caller_is_inherited`, `a_created_container_holds_no_descriptor_of_the_caller` |
//! | stdio | kept | the program's by contract; closed ones are /dev/null | `process::*`, `an_error_that_cannot_be_written_has_its_exit_code` |
//! | working directory | process.cwd; of hooks the bundle, of createContainer hooks the rootfs | as with runc | `hooks_start_in_the_bundle` |
//! | umask | process.user.umask, else 0022 | ARCHITECTURE.md | `process::the_umask_is_set_and_0022_otherwise` |
//! | environment | process.env alone; of hooks the caller's, where they name none | the specification | `hooks::a_hook_has_its_own_arguments_and_environment_or_the_callers` |
//! | supplementary groups | process.user.additionalGids alone | rights of the caller | `attacks::nothing_of_the_caller_is_inherited` |
//! | capabilities, securebits | the configuration's sets alone | rights of the caller | `process::each_set_of_capabilities_is_exact` |
//! | no_new_privs | kept where the caller has it | the kernel lets nobody take it back | `what_the_configuration_leaves_open_is_the_callers` |
//! | resource limits | kept where the configuration sets none | as with runc and crun | `what_the_configuration_leaves_open_is_the_callers` |
//! | CPU set | all of the cgroup's, but for `process.execCPUAffinity` | a service with `CPUAffinity=` means itself; so crun since 1.9.2 and runc since 1.4 | `processors_of_the_caller_are_not_those_of_the_container` |
//! | nice value, scheduling policy, I/O priority | kept where the configuration sets none | `nice ferrun run` is what people type | `what_the_configuration_leaves_open_is_the_callers` |
//! | session, process group, controlling terminal | new session | job control of the caller | `terminal::*` |
//! | session keyring | a new one, but for `--no-new-keyring` | keys of the caller | `exec::*` |
//! | oom_score_adj | kept where the configuration sets none | as with runc | `what_the_configuration_leaves_open_is_the_callers` |
//! | personality, memory policy | kept where the configuration sets none | numactl(8) before it | `what_the_configuration_leaves_open_is_the_callers`, `exec::it_has_the_personality_and_the_memory_policy_of_the_container` |
//! | parent-death signal, timers, locks, pending signals | gone by fork(2) | the kernel | |

use std::fs::{self, File};
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use integration::terminal::Terminal;
use integration::{Bed, Container, View, as_both, as_root, eventually, in_views, runtime, within};
use serde_json::json;

/// A call of the runtime by a shell that does something first.
fn by_shell(bed: &Bed, first: &str, arguments: &[&str]) -> integration::Call {
    let script = format!("{first}; exec \"$@\"");
    let program = runtime().for_others(&bed.directory);
    let call = bed.program("/bin/sh".as_ref()).args(["-c", &script, "sh"]).arg(program);
    call.arg("--root").arg(bed.root()).args(arguments)
}

#[test]
fn ignored_signals_reach_neither_programs_nor_hooks() {
    const IGNORE: &str = "trap '' HUP INT QUIT TSTP USR1 TERM";
    const LOOK: &str = "grep SigIgn: /proc/self/status";
    as_both(|bed| {
        if bed.is_peer("runc and crun leave some of them") {
            return;
        }
        let told = bed.make_directory("told", 0o777);
        let hooks = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
        // Not by busybox's shell, which ignores one of them itself.
        let look = ["/bin/busybox", "grep", "SigIgn:", "/proc/self/status"];
        let mut bundle = bed.bundle().args(look);
        for kind in hooks {
            let script = format!("{LOOK} > {}/{kind}", told.display());
            let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
            bundle = bundle.with(&format!("/hooks/{kind}"), hook);
        }
        let path = bundle.save().path.clone();
        let (id, path) = (bed.id(), path.to_str().unwrap());
        let output = by_shell(bed, IGNORE, &["run", "--bundle", path, &id]).output();
        assert_eq!(output.success(), "SigIgn:\t0000000000000000");
        for kind in hooks {
            let text = fs::read_to_string(told.join(kind)).unwrap();
            assert_eq!(text, "SigIgn:\t0000000000000000\n", "{kind}");
        }
        let container = bed.start(&bed.bundle().sh("sleep 100"));
        let arguments = [&["exec", &container.id][..], &look].concat();
        let output = by_shell(bed, IGNORE, &arguments).output();
        assert_eq!(output.success(), "SigIgn:\t0000000000000000");
    });
}

/// As `nice runtime run` has it: what the configuration does not say is the caller's choice.
#[test]
fn what_the_configuration_leaves_open_is_the_callers() {
    const SET: &str = "ulimit -n 777; ulimit -S -c 8; echo 300 > /proc/self/oom_score_adj; \
        set -- nice -n 3 ionice -c 2 -n 7 chrt --batch 0 setarch -R \
        setpriv --no-new-privs \"$@\"";
    const LOOK: &str = "ulimit -n; ulimit -c; cat /proc/self/oom_score_adj; \
        ionice -p $$; grep NoNewPrivs: /proc/self/status; \
        cut -d ' ' -f 19,41 /proc/$$/stat; cat /proc/$$/personality";
    // These tests may run under nice(1) too, and 19 is as nice as it gets.
    let nice = 19.min(rustix::process::getpriority_process(None).unwrap() + 3);
    let nice = &format!("{nice} 3");
    let kept = ["777", "8", "300", "best-effort: prio 7", "NoNewPrivs:\t1", nice, "00040000"];
    as_root(|bed| {
        let look = ["/bin/sh", "-c", LOOK];
        let bundle = bed.bundle().args(look).with("/process/noNewPrivileges", false);
        let path = bundle.save().path.clone();
        let (id, path) = (bed.id(), path.to_str().unwrap());
        let output = by_shell(bed, SET, &["run", "--bundle", path, &id]).output();
        assert_eq!(output.success().lines().collect::<Vec<_>>(), kept);
        let bundle = bed.bundle().sh("sleep 100").with("/process/noNewPrivileges", false);
        let container = bed.start(&bundle);
        let arguments = [&["exec", &container.id][..], &look].concat();
        let output = by_shell(bed, SET, &arguments).output();
        assert_eq!(output.success().lines().collect::<Vec<_>>(), kept, "exec");
    });
}

#[test]
fn processors_of_the_caller_are_not_those_of_the_container() {
    in_views(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 keep those of the caller") {
            return;
        }
        let look = ["/bin/grep", "Cpus_allowed_list", "/proc/self/status"];
        let of = |before: &str, arguments: &[&str]| {
            let output = by_shell(bed, before, arguments).output();
            output.success().split_whitespace().last().unwrap().to_owned()
        };
        let path = bed.bundle().args(look).save().path.clone();
        let run = ["run", "--bundle", path.to_str().unwrap()];
        let all = of(":", &[&run[..], &[&bed.id()]].concat());
        if all == "0" {
            return bed.skip("there is one processor");
        }
        let one = "set -- taskset -c 0 \"$@\"";
        assert_eq!(of(one, &[&run[..], &[&bed.id()]].concat()), all);
        let container = bed.start(&bed.bundle().sh("sleep 100"));
        let exec = [&["exec", &container.id][..], &look].concat();
        assert_eq!(of(one, &exec), all, "exec");
        // What is asked for holds before the group is joined, and nobody takes it back.
        let first = json!({"initial": "0"});
        let bundle = bed.bundle().with("/process/execCPUAffinity", first).sh("sleep 100");
        let container = bed.start(&bundle);
        let exec = [&["exec", &container.id][..], &look].concat();
        let is_taken_back = bed.view == View::V2;
        assert!(of(":", &exec) == "0" || is_taken_back, "initial alone");
        // As a group with fewer has it.
        let bundle =
            bed.bundle().args(look).with("/linux/resources", json!({"cpu": {"cpus": "1"}}));
        if bed.has_controller("cpuset") {
            let path = bundle.save().path.clone();
            let run = ["run", "--bundle", path.to_str().unwrap(), &bed.id()];
            assert_eq!(of(one, &run), "1");
        }
    });
}

#[test]
fn hooks_start_in_the_bundle() {
    as_both(|bed| {
        if bed.is_peer("crun 1.8 runs createContainer hooks elsewhere") {
            return;
        }
        let told = bed.make_directory("told", 0o777);
        let mut bundle = bed.bundle();
        let kinds = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
        for kind in kinds {
            let script = format!("pwd > {}/{kind}", told.display());
            let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
            bundle = bundle.with(&format!("/hooks/{kind}"), hook);
        }
        bed.run(&bundle).success();
        for kind in kinds {
            let place = fs::read_to_string(told.join(kind)).unwrap();
            let expected =
                if kind == "createContainer" { bundle.rootfs() } else { bundle.path.clone() };
            assert_eq!(place.trim(), expected.to_str().unwrap(), "{kind}");
        }
    });
}

#[test]
fn hooks_run_though_the_bundle_is_gone() {
    as_root(|bed| {
        if bed.is_peer("runc and crun run no hook then") {
            return;
        }
        let told = bed.directory.join("told");
        let hook =
            json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("pwd > {}", told.display())]}]);
        let bundle = bed.bundle().with("/hooks/poststop", hook).sh("sleep 100");
        let container = bed.start(&bundle);
        fs::rename(&bundle.path, bed.directory.join("moved")).unwrap();
        container.delete();
        assert_eq!(fs::read_to_string(told).unwrap(), "/\n");
    });
}

#[test]
fn an_error_that_cannot_be_written_has_its_exit_code() {
    as_both(|bed| {
        if bed.is_peer("runc and crun have other codes") {
            return;
        }
        let container = bed.start(&bed.bundle().sh("sleep 100"));
        for broken in ["exec 2>/dev/full", "exec 2>&-", "exec 2>/dev/full >/dev/full"] {
            for (arguments, code) in [
                (&["delete", "nobody"][..], 1),
                (&["run"], 1),
                (&["no-such-command"], 3),
                (&["exec", &container.id, "/no/such/program"], 255),
                (&["--log", "/no/such/directory/log", "state", &container.id], 1),
            ] {
                assert_eq!(by_shell(bed, broken, arguments).output().code, code, "{arguments:?}");
            }
        }
        for arguments in [&["--version"][..], &["state", &container.id], &["list"], &["features"]] {
            let output = by_shell(bed, "exec >/dev/full", arguments).output();
            assert_eq!(output.code, 1, "{arguments:?}: {output}");
        }
    });
}

#[test]
fn a_signal_that_ends_programs_ends_a_created_container() {
    as_both(|bed| {
        if bed.is_peer("crun 1.8 waits on") {
            return;
        }
        for signal in ["TERM", "INT", "HUP", "QUIT", "KILL"] {
            let container = bed.create(&bed.bundle().sh("sleep 100"));
            container.kill(signal);
            eventually(&format!("{signal} ends it"), || container.status() == "stopped");
        }
        // The program has its own actions.
        let script = "trap 'echo caught' TERM; echo up; while :; do sleep 0.1; done";
        let container = bed.start(&bed.bundle().sh(script));
        container.prints("up");
        container.kill("TERM");
        container.prints("caught");
    });
}

#[test]
fn a_created_container_holds_no_descriptor_of_the_caller() {
    as_both(|bed| {
        if bed.is_peer("runc and crun close them at start") {
            return;
        }
        let fifo = bed.make_directory("fifos", 0o777).join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
        if let Some(user) = bed.user() {
            std::os::unix::fs::chown(&fifo, Some(user), Some(user)).unwrap();
        }
        let path = fifo.clone();
        let reader = std::thread::spawn(move || {
            File::open(path).unwrap().read_to_end(&mut Vec::new()).unwrap()
        });
        let bundle = bed.bundle().sh("sleep 100");
        let (id, path) = (bed.id(), bundle.save().path.clone());
        let first = format!("exec 9>{}", fifo.display());
        let arguments = ["create", "--bundle", path.to_str().unwrap(), &id];
        let call = by_shell(bed, &first, &arguments);
        let container = integration::Container::create(bed, &id, call);
        within(Duration::from_secs(5), "the pipe ends", || reader.is_finished());
        container.start();
    });
}

/// An exec on a terminal whose output goes to a pipe that is not read.
fn exec_into_pipe(
    bed: &Bed,
    id: &str,
) -> (std::process::Child, std::process::ChildStdout, Terminal) {
    let (terminal, other) = Terminal::open();
    let mut child = Command::new(&runtime().program)
        .arg("--root")
        .arg(bed.root())
        .args(["exec", "--tty", id, "/bin/busybox", "yes"])
        .stdin(other)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let stdout = child.stdout.take().unwrap();
    (child, stdout, terminal)
}

#[test]
fn exec_ends_though_nobody_reads_its_output() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 write without a look") {
            return;
        }
        let container = bed.start(&bed.bundle().sh("sleep 100"));
        let yes = || container.sh("busybox ps | grep -c '[y]es$'").stdout.trim() == "1";
        let (mut child, stdout, _terminal) = exec_into_pipe(bed, &container.id);
        eventually("the program runs", yes);
        std::thread::sleep(Duration::from_millis(300));
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(child.id() as i32),
            nix::sys::signal::Signal::SIGTERM,
        )
        .unwrap();
        eventually("the signal ends the program", || !yes());
        drop(stdout);
        eventually("the call ends", || child.try_wait().unwrap().is_some());

        let (mut child, mut stdout, _terminal) = exec_into_pipe(bed, &container.id);
        stdout.read_exact(&mut [0; 10]).unwrap();
        drop(stdout);
        eventually("the call ends without a reader", || child.try_wait().unwrap().is_some());
        eventually("and the program too", || !yes());
    });
}

/// As a service that systemd lets have no addresses of the internet.
#[test]
fn the_loopback_interface_is_raised_without_sockets_of_the_internet() {
    const EAFNOSUPPORT: u32 = 97;
    as_root(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 cannot run inside of this container") {
            return;
        }
        let config = integration::config(integration::Caller::User(1000), "/none");
        let inner = integration::Bundle { config, ..bed.bundle() };
        let inner = inner.sh("grep -c 127.0.0.1 /proc/net/fib_trie; sleep 0.1").save().clone();
        let program = bed.make_directory("runtime", 0o755);
        integration::copy_program(&runtime().program, &program.join("ferrun"));
        let outer = |family: u32| {
            bed.bundle()
                .mount("/inner", "bind", inner.path.to_str().unwrap(), &["rbind"])
                .mount("/opt", "bind", program.to_str().unwrap(), &["bind", "ro"])
                .with("/process/user", json!({"uid": 1000, "gid": 1000}))
                // Without it nobody may map root of his user namespace (user_namespaces(7)).
                .capable(&["CAP_SETFCAP"])
                .with(
                    "/linux/seccomp",
                    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{
                        "names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": EAFNOSUPPORT,
                        "args": [{"index": 0, "value": family, "op": "SCMP_CMP_EQ"}]}]}),
                )
                .args(["/opt/ferrun", "--root", "/tmp/root", "run", "--bundle", "/inner", "x"])
        };
        let families = [nix::libc::AF_INET as u32, nix::libc::AF_APPLETALK as u32];
        for family in families {
            let output = bed.run(&outer(family));
            let lines: u32 = output.success().trim().parse().unwrap();
            assert!(lines > 0, "{family}: {output}");
        }
    });
}

/// Images write to /dev/stdout by its path, and engines hand pipes over.
#[test]
fn a_pipe_as_stdout_can_be_opened_again_in_a_user_namespace() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 give some of them") {
            return;
        }
        const WRITE: &str = "echo one > /dev/stdout && echo two > /proc/self/fd/2";
        for uid in [0, 1000] {
            let user = json!({"uid": uid, "gid": uid});
            let bundle = bed.bundle().in_user_namespace(65_536).with("/process/user", user);
            let path = bundle.clone().sh(WRITE).save().path.clone();
            let piped = |arguments: &[&str]| {
                let call = bed.program("/bin/sh".as_ref()).args(["-c", "\"$@\" 2>&1 | cat", "sh"]);
                let call = call.arg(runtime().for_others(&bed.directory));
                call.arg("--root").arg(bed.root()).args(arguments)
            };
            let output = piped(&["run", "--bundle", path.to_str().unwrap(), &bed.id()]).output();
            assert_eq!(output.success(), "one\ntwo", "uid {uid}: {output}");
            let container = bed.start(&bundle.sh("sleep 100"));
            let output = piped(&["exec", &container.id, "/bin/sh", "-c", WRITE]).output();
            assert_eq!(output.success(), "one\ntwo", "exec, uid {uid}: {output}");
        }
    });
}

/// What a device is given as stdio is the host's, and others use it.
#[test]
fn a_device_as_stdio_stays_as_it_was() {
    use std::os::unix::fs::MetadataExt as _;
    as_root(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 give it away") {
            return;
        }
        // A node of the bed's own, of the device that the host has too.
        let node = bed.directory.join("zero");
        let kind = nix::sys::stat::SFlag::S_IFCHR;
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
        nix::sys::stat::mknod(&node, kind, mode, nix::sys::stat::makedev(1, 5)).unwrap();
        let bundle = bed.bundle().with("/process/user", json!({"uid": 1000, "gid": 1000}));
        bed.run_call(&bundle.sh("true")).stdin(File::open(&node).unwrap()).output().success();
        assert_eq!(fs::metadata(&node).unwrap().uid(), 0);
    });
}

/// Kernels since 6.14 kill a process that is cloned from such a group into another one.
#[test]
fn a_caller_whose_group_was_killed_once_has_containers() {
    in_views(|bed| {
        if bed.view == View::V1 {
            return;
        }
        let own = bed.cgroup_file(&bed.bundle(), "cgroup.kill");
        let group = own.ancestors().nth(3).unwrap().join(format!("{}-caller", bed.name));
        fs::create_dir(&group).unwrap();
        fs::write(group.join("cgroup.kill"), "1").unwrap();
        let look = || bed.bundle().args(["/bin/grep", "0::", "/proc/self/cgroup"]);
        let place = |bundle: &integration::Bundle| {
            format!("0::{}", bundle.config["linux"]["cgroupsPath"].as_str().unwrap())
        };
        let own_cgroups = look().with_namespace("cgroup", None);
        for (bundle, is_root) in
            [(look(), false), (look().in_user_namespace(10), false), (own_cgroups, true)]
        {
            let seen = if is_root { "0::/".to_owned() } else { place(&bundle) };
            assert_eq!(bed.run_call(&bundle).in_cgroup(&group).output().success(), seen);
        }
        let hooks = bed.write("hooks", "");
        let hook = |name: &str| {
            let script = format!("echo {name} >> {}", hooks.display());
            json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
        };
        let bundle = bed
            .bundle()
            .with("/hooks/createRuntime", hook("made"))
            .with("/hooks/poststop", hook("gone"))
            .sh("sleep 100");
        let id = bed.id();
        let container =
            Container::create(bed, &id, bed.create_call(&bundle, &id).in_cgroup(&group));
        let called = || fs::read_to_string(&hooks).unwrap();
        assert_eq!(called(), "made\n", "what was made again has not stopped");
        container.start();
        let call = bed.call().args(["exec", &id, "/bin/grep", "0::", "/proc/self/cgroup"]);
        assert_eq!(call.in_cgroup(&group).output().success(), place(&bundle));
        container.delete();
        assert_eq!(called(), "made\ngone\n");
        fs::remove_dir(group).unwrap();
    });
}
