//! `hooks`: the six kinds, their order and namespaces, what they get, and what
//! happens when they fail.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use integration::{Bed, Bundle, Container, as_both, as_root, eventually};
use serde_json::{Value, json};

const KINDS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// A hook of the shell, with the host's or the container's busybox.
fn hook(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]})
}

/// A bundle whose hooks write to the file `log` of the bed, which the container
/// has at /log.
fn logged(
    bed: &Bed,
    kinds: &[&str],
    script: &dyn Fn(&str) -> String,
) -> (Bundle, std::path::PathBuf) {
    let log = bed.write(&format!("log-{}", bed.next()), "");
    let mut bundle = bed.bundle().mount("/log", "bind", log.to_str().unwrap(), &["bind"]);
    for kind in kinds {
        // startContainer hooks run in the container, createContainer ones have its
        // namespaces but the runtime's files.
        let place = if *kind == "startContainer" { Path::new("/log") } else { &log };
        let script = script(kind).replace("LOG", place.to_str().unwrap());
        bundle = bundle.with(&format!("/hooks/{kind}/-"), hook(&script));
    }
    (bundle, log)
}

fn lines(log: &Path) -> Vec<String> {
    fs::read_to_string(log).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn the_six_kinds_are_called_in_order() {
    as_both(|bed| {
        if bed.is_peer("crun 1.8 dies when a hook does not read its stdin") {
            return;
        }
        let (bundle, log) = logged(bed, &KINDS, &|kind| format!("echo {kind} >> LOG"));
        let bundle = bundle
            .with("/hooks/prestart/-", hook(&format!("echo second >> {}", log.display())))
            .sh("echo program >> /log");
        let container = bed.create(&bundle);
        if bed.is_peer("runc 1.1 calls poststart and create hooks in one go") {
            return;
        }
        assert_eq!(lines(&log), ["prestart", "second", "createRuntime", "createContainer"]);
        container.start();
        container.ended();
        container.call("delete").success();
        let all = lines(&log);
        assert_eq!(all[4], "startContainer", "{all:?}");
        // The program and poststart hooks run at the same time.
        let mut both = all[5..7].to_vec();
        both.sort();
        assert_eq!(both, ["poststart", "program"], "{all:?}");
        assert_eq!(all[7..], ["poststop"], "{all:?}");
    });
}

#[test]
fn each_hook_finds_the_state_on_stdin() {
    as_root(|bed| {
        if bed.is_peer("crun 1.8 gives / as the bundle inside") {
            return;
        }
        let (bundle, log) = logged(bed, &KINDS, &|_| "tr -d '\\n' >> LOG; echo >> LOG".to_owned());
        let bundle =
            bundle.with("/annotations", json!({"a.b": "c"})).sh("sleep 100").save().clone();
        let container = bed.start(&bundle);
        let pid = container.pid();
        container.kill("KILL");
        container.ended();
        container.call("delete").success();
        let states: Vec<Value> =
            lines(&log).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let statuses = ["created", "created", "created", "created", "running", "stopped"];
        for ((state, kind), status) in states.iter().zip(KINDS).zip(statuses) {
            assert_eq!(state["id"], json!(container_id(&states)), "{kind}");
            assert_eq!(state["bundle"], json!(bundle.path), "{kind}");
            assert!(state["ociVersion"].is_string(), "{kind}");
            assert_eq!(state["annotations"]["a.b"], "c", "{kind}");
            if bed.is_peer("runc 1.1 and crun 1.8 say creating before the end of create") {
                continue;
            }
            assert_eq!(state["status"], status, "{kind}");
            let pid = match kind {
                "createContainer" | "startContainer" => json!(1),
                "poststop" => state["pid"].clone(),
                _ => json!(pid),
            };
            assert_eq!(state["pid"], pid, "{kind}: as it is seen there");
        }
        assert_eq!(states.len(), 6);
    });
}

fn container_id(states: &[Value]) -> &str {
    states[0]["id"].as_str().unwrap()
}

#[test]
fn hooks_run_in_the_namespaces_of_the_spec() {
    as_root(|bed| {
        let (bundle, log) = logged(bed, &KINDS, &|kind| {
            let script =
                "for n in uts net mnt pid; do readlink /proc/self/ns/$n; done | tr '\\n' ' '";
            format!("echo {kind} $({script}) >> LOG")
        });
        let container = bed.start(&bundle.sh("sleep 100"));
        let namespaces = |of: &str| -> Vec<String> {
            ["uts", "net", "mnt", "pid"]
                .map(|kind| fs::read_link(format!("/proc/{of}/ns/{kind}")).unwrap())
                .map(|link| link.to_str().unwrap().to_owned())
                .to_vec()
        };
        let inside = namespaces(&container.pid().to_string());
        let outside = namespaces("thread-self");
        container.kill("KILL");
        container.ended();
        container.call("delete").success();
        let lines = lines(&log);
        assert_eq!(lines.len(), KINDS.len(), "{lines:?}");
        for line in lines {
            let (kind, found) = line.split_once(' ').unwrap();
            let found: Vec<_> = found.split(' ').map(str::to_owned).collect();
            let expected = if ["createContainer", "startContainer"].contains(&kind) {
                &inside
            } else {
                &outside
            };
            assert_eq!(&found, expected, "{kind}");
        }
    });
}

#[test]
fn a_hook_has_its_own_arguments_and_environment_or_the_callers() {
    as_root(|bed| {
        let log = bed.write("log", "");
        let own = json!({
            "path": "/bin/sh",
            "args": ["the name", "-c", format!("echo $0 $A $B >> {}", log.display())],
            "env": ["A=1", "B=x y=z"],
        });
        let show = |from: &str| {
            let script = format!("echo {from} ${{FROM-nobody}} >> {}", log.display());
            json!({"path": "/bin/sh", "args": ["sh", "-c", script]})
        };
        let mut bare = show("bare");
        bare["env"] = json!([]);
        let bundle = bed
            .bundle()
            .with("/hooks/createRuntime", json!([own, bare]))
            .with("/hooks/prestart", json!([show("prestart")]));
        bed.run_call(&bundle).env("FROM", "caller").output().success();
        assert_eq!(lines(&log), ["prestart caller", "the name 1 x y=z", "bare nobody"]);
    });
}

/// It runs in the container, which knows nothing of the caller.
#[test]
fn a_start_container_hook_has_the_environment_of_the_program() {
    as_both(|bed| {
        let hook = |name: &str| {
            let script = format!("echo ${{FROM-nobody}} > /tmp/{name}");
            json!({"path": "/bin/sh", "args": ["sh", "-c", script]})
        };
        let (inherits, mut bare, mut own) = (hook("inherits"), hook("bare"), hook("own"));
        bare["env"] = json!([]);
        own["env"] = json!(["FROM=itself"]);
        let bundle = bed
            .bundle()
            .with("/process/env", json!(["PATH=/bin", "FROM=program"]))
            .with("/hooks/startContainer", json!([inherits, bare, own]))
            .sh("cd /tmp; cat inherits bare own");
        let output = bed.run_call(&bundle).env("FROM", "caller").output();
        assert_eq!(output.success(), "program\nnobody\nitself");
    });
}

#[test]
fn a_hook_need_not_read_its_stdin() {
    as_root(|bed| {
        let bundle = bed
            .bundle()
            .with("/annotations/large", "x".repeat(200_000))
            .with("/hooks/createRuntime", json!([hook("exec <&-; exit 0")]))
            .with("/hooks/poststart", json!([hook("exec <&-; sleep 0.2")]))
            .sh("echo ran");
        assert_eq!(bed.run(&bundle).success(), "ran");
    });
}

/// The state is larger than a pipe, and the hook neither reads it nor ends.
#[test]
fn the_time_of_a_hook_counts_while_its_stdin_is_written() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 writes first, crun 1.8 has no bound for each kind") {
            return;
        }
        for kind in ["prestart", "createRuntime", "createContainer", "startContainer"] {
            let mut hook = hook("sleep 60");
            hook["timeout"] = json!(1);
            let bundle = bed
                .bundle()
                .with("/annotations/large", "x".repeat(200_000))
                .with(&format!("/hooks/{kind}"), json!([hook]));
            let began = Instant::now();
            let output = bed.run(&bundle);
            let line = output.failure(1);
            assert!(line.contains(&format!("hooks.{kind}[0]")), "{output}");
            assert!(line.contains("timed out after 1 s"), "{output}");
            assert!(began.elapsed() < Duration::from_secs(20), "{kind}: {:?}", began.elapsed());
        }
        // What a hook leaves behind with its stdin is not waited for.
        let script = "sleep 60 <&0 >/dev/null 2>&1 & echo $! >PIDS; exit 0";
        let pids = bed.write("pids", "");
        let bundle = bed
            .bundle()
            .with("/annotations/large", "x".repeat(200_000))
            .with(
                "/hooks/createRuntime",
                json!([hook(&script.replace("PIDS", pids.to_str().unwrap()))]),
            )
            .sh("echo ran");
        let began = Instant::now();
        assert_eq!(bed.run(&bundle).success(), "ran");
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        let left = fs::read_to_string(pids).unwrap().trim().parse().unwrap();
        kill(Pid::from_raw(left), Signal::SIGKILL).unwrap();
    });
}

#[test]
fn hooks_find_no_signal_blocked_or_ignored() {
    as_both(|bed| {
        if bed.is_peer("crun 1.8 holds all signals back") {
            return;
        }
        let found = bed.make_directory("found", 0o777);
        let mut bundle = bed.bundle().mount("/found", "bind", found.to_str().unwrap(), &["bind"]);
        for kind in KINDS {
            let place = if kind == "startContainer" { Path::new("/found") } else { &found };
            // No shell, which would set its signals right by itself.
            let output = format!("of={}", place.join(kind).display());
            let hook = json!({
                "path": "/bin/busybox", "args": ["dd", "if=/proc/self/status", output],
            });
            bundle = bundle.with(&format!("/hooks/{kind}"), json!([hook]));
        }
        bed.run(&bundle).success();
        for kind in KINDS {
            let status = fs::read_to_string(found.join(kind)).unwrap();
            for name in ["SigBlk", "SigIgn"] {
                let mask = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:\t")));
                let mask = u64::from_str_radix(mask.unwrap(), 16).unwrap();
                // The two that libc keeps for itself are out of its callers' reach.
                assert_eq!(mask & !0x1_8000_0000, 0, "{kind}, {name}: {mask:x}");
            }
        }
    });
}

/// The bundle's poststop hook says here that it was called.
fn with_witness(bed: &Bed, bundle: Bundle) -> (Bundle, std::path::PathBuf) {
    let log = bed.write(&format!("poststop-{}", bed.next()), "");
    let script = format!("echo poststop >> {}", log.display());
    (bundle.with("/hooks/poststop/-", hook(&script)), log)
}

#[test]
fn a_failing_hook_of_create_ends_the_container() {
    as_both(|bed| {
        for kind in ["prestart", "createRuntime", "createContainer"] {
            let bundle = bed.bundle().with(
                &format!("/hooks/{kind}"),
                json!([hook("echo first; echo the reason >&2; exit 7")]),
            );
            let (bundle, log) = with_witness(bed, bundle);
            let id = bed.id();
            let output = bed.create_call(&bundle, &id).output();
            assert!(output.code != 0, "{kind}: {output}");
            bed.runtime(["state", &id]).failure(1);
            bed.assert_nothing_left();
            if bed.is_peer("runc 1.1 and crun 1.8 neither name the field nor call poststop") {
                continue;
            }
            let message = output.failure(1).lines().last().unwrap_or_default();
            for part in [&format!("hooks.{kind}[0]"), "/bin/sh", "7", "the reason"] {
                assert!(message.contains(part), "{kind}: {part:?} is not in {message:?}");
            }
            assert_eq!(lines(&log), ["poststop"], "{kind}");
        }
    });
}

#[test]
fn a_failing_hook_of_start_ends_the_container() {
    as_both(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 do not end it at poststart") {
            return;
        }
        for kind in ["startContainer", "poststart"] {
            let bundle = bed
                .bundle()
                .sh("sleep 100")
                .with(&format!("/hooks/{kind}"), json!([hook("echo the reason >&2; exit 7")]));
            let (bundle, log) = with_witness(bed, bundle);
            let container = bed.create(&bundle);
            let output = container.call("start");
            let message = output.failure(1).lines().last().unwrap_or_default();
            for part in [&format!("hooks.{kind}[0]"), "/bin/sh", "7", "the reason"] {
                assert!(message.contains(part), "{kind}: {part:?} is not in {message:?}");
            }
            container.call("state").failure(1);
            bed.assert_nothing_left();
            assert_eq!(lines(&log), ["poststop"], "{kind}");
        }
    });
}

#[test]
fn a_failing_poststop_hook_is_a_warning_and_the_next_one_is_called() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 does not call the next one, crun 1.8 does not warn") {
            return;
        }
        let log = bed.write("log", "");
        let bundle = bed.bundle().with(
            "/hooks/poststop",
            json!([
                hook("echo the reason; exit 3"),
                hook(&format!("echo next >> {}", log.display()))
            ]),
        );
        let container = bed.create(&bundle);
        let output = container.call("delete");
        output.success();
        bed.assert_nothing_left();
        assert_eq!(lines(&log), ["next"]);
        assert!(output.stderr.contains("hooks.poststop[0]"), "{output}");
        assert!(output.stderr.contains("the reason"), "{output}");
    });
}

#[test]
fn a_hook_that_takes_too_long_is_killed_and_fails() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 waits for what the hook has started") {
            return;
        }
        for kind in ["createRuntime", "createContainer"] {
            let mut slow = hook("sleep 95 & sleep 95");
            slow["timeout"] = json!(1);
            let bundle = bed.bundle().with(&format!("/hooks/{kind}"), json!([slow]));
            let started = std::time::Instant::now();
            let output = bed.create_call(&bundle, &bed.id()).output();
            assert!(output.code != 0, "{output}");
            assert!(started.elapsed().as_secs() < 10, "{kind}: {:?}", started.elapsed());
            bed.assert_nothing_left();
        }
    });
}

#[test]
fn a_missing_hook_is_an_error_that_names_it() {
    as_root(|bed| {
        let bundle = bed.bundle().with("/hooks/createRuntime", json!([{"path": "/no/such/hook"}]));
        let output = bed.create_call(&bundle, &bed.id()).output();
        assert!(output.code != 0 && output.stderr.contains("/no/such/hook"), "{output}");
        bed.assert_nothing_left();
    });
}

#[test]
fn a_start_container_hook_runs_under_the_programs_limits() {
    as_root(|bed| {
        if bed.is_peer("they differ in what they have set by then") {
            return;
        }
        let log = bed.write("log", "");
        fs::set_permissions(&log, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        let bundle = bed
            .bundle()
            .mount("/log", "bind", log.to_str().unwrap(), &["bind"])
            .with("/process/user", json!({"uid": 33, "gid": 34}))
            .with(
                "/hooks/startContainer",
                json!([hook("grep -E '^(Uid|CapEff|NoNewPrivs):' /proc/self/status | tr '\\t\\n' '  ' >> /log")]),
            );
        bed.run(&bundle).success();
        let found = fs::read_to_string(&log).unwrap();
        assert_eq!(found.trim(), "Uid: 33 33 33 33 CapEff: 0000000000000000 NoNewPrivs: 1");
    });
}

#[test]
fn a_start_container_hook_runs_under_the_programs_filter() {
    as_both(|bed| {
        if bed.is_peer("crun 1.8 filters after these hooks") {
            return;
        }
        let rule =
            json!({"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95});
        let filter = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
        for wanted in [true, false] {
            let script = "mkdir /tmp/made 2> /tmp/found; test ! -d /tmp/made";
            let bundle = bed
                .bundle()
                .with("/process/noNewPrivileges", wanted)
                .with("/linux/seccomp", filter.clone())
                .with("/hooks/startContainer", json!([hook(script)]))
                .sh("cat /tmp/found");
            let output = bed.run(&bundle);
            assert!(output.success().contains("not supported"), "{output}");
        }
    });
}

#[test]
fn a_start_container_hook_that_the_filter_does_not_let_run_fails() {
    as_root(|bed| {
        if bed.is_peer("they take the end of the channel for success") {
            return;
        }
        for action in ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS"] {
            let bundle = bed
                .bundle()
                .with("/linux/seccomp", json!({"defaultAction": action}))
                .with("/hooks/startContainer", json!([hook("true")]));
            let output = bed.create(&bundle).call("start");
            assert!(output.failure(1).contains("hooks.startContainer[0]"), "{output}");
            bed.assert_nothing_left();
        }
    });
}

/// As hooks for GPUs find it, which enter the mount namespace and look below the root.
#[test]
fn hooks_of_create_find_the_devices_in_their_places() {
    as_root(|bed| {
        let log = bed.write("log", "");
        let bundle = bed.bundle();
        let device = bundle.rootfs().join("dev/null");
        let script = format!(
            "pid=$(tr -d '\\n' | sed 's/.*\"pid\":[ ]*\\([0-9]*\\).*/\\1/'); \
             stat -c '%F' /proc/$pid/root{0} >> {1}; ls /proc/$pid/root{0}",
            device.display(),
            log.display()
        );
        let bundle = bundle.with("/hooks/createRuntime", json!([hook(&script)]));
        bed.run(&bundle).success();
        assert_eq!(lines(&log), ["character special file"]);
    });
}

#[test]
fn a_hook_may_ask_for_the_state() {
    as_root(|bed| {
        if bed.is_peer("runc 1.1 and crun 1.8 cannot say anything during create") {
            return;
        }
        let id = bed.id();
        let log = bed.write("log", "");
        let ask = format!(
            "{} --root {} state {id} >> {} 2>&1",
            integration::runtime().program.display(),
            bed.root().display(),
            log.display()
        );
        let bundle = bed
            .bundle()
            .sh("sleep 100")
            .with("/hooks/createRuntime", json!([hook(&ask)]))
            .with("/hooks/poststart", json!([hook(&ask)]));
        let container = Container::create(bed, &id, bed.create_call(&bundle, &id));
        let status = || {
            let text = fs::read_to_string(&log).unwrap();
            let all = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
            all.map(|state| state.unwrap()["status"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(status(), ["creating"]);
        container.start();
        assert_eq!(status(), ["creating", "running"]);
    });
}

#[test]
fn a_prestart_hook_finds_the_network_namespace_by_the_pid() {
    as_root(|bed| {
        // What Docker's libnetwork-setkey does.
        let log = bed.write("log", "");
        let script = format!(
            "pid=$(tr -d '\\n' | sed 's/.*\"pid\":[ ]*\\([0-9]*\\).*/\\1/'); \
             readlink /proc/$pid/ns/net >> {}",
            log.display()
        );
        let bundle = bed.bundle().with("/hooks/prestart", json!([hook(&script)])).sh("sleep 100");
        let container = bed.start(&bundle);
        let expected = fs::read_link(format!("/proc/{}/ns/net", container.pid())).unwrap();
        eventually("the hook has written", || !lines(&log).is_empty());
        assert_eq!(lines(&log), [expected.to_str().unwrap()]);
    });
}
