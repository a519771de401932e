//! `SCMP_ACT_NOTIFY`: a container's calls are answered by an agent, which gets the
//! listener and the state of the process over `linux.seccomp.listenerPath`.

use std::path::Path;
use std::time::{Duration, Instant};

use integration::agent::{Agent, Answer, Idle};
use integration::{Bed, Bundle, Caller, Container, as_both, as_root, eventually};
use serde_json::{Value, json};

/// mkdir(2), which younger architectures do without.
const SYS_MKDIR: libc::c_long = if cfg!(target_arch = "x86_64") { 83 } else { libc::c_long::MAX };

/// A filter that lets an agent answer these calls, and allows all others.
fn notifying(bundle: &Bundle, agent: &Agent, names: &[&str]) -> Bundle {
    notifying_at(bundle, &agent.path, names)
}

fn notifying_at(bundle: &Bundle, path: &Path, names: &[&str]) -> Bundle {
    let filter = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": path,
        "listenerMetadata": "some words, \"quoted\"",
        "syscalls": [{"names": names, "action": "SCMP_ACT_NOTIFY"}],
    });
    bundle.clone().with("/linux/seccomp", filter)
}

/// The same with no_new_privs and without.
fn both_ways(bundle: &Bundle) -> [Bundle; 2] {
    [true, false].map(|wanted| bundle.clone().with("/process/noNewPrivileges", wanted))
}

/// Refuses mkdir(2) with an errno that nothing else gives, and lets the rest be.
fn no_directories(number: i64) -> Answer {
    match number {
        SYS_MKDIR | libc::SYS_mkdirat => Answer::Errno(libc::EL2NSYNC),
        _ => Answer::Continue,
    }
}

fn all_may_be(_: i64) -> Answer {
    Answer::Continue
}

const DIRECTORIES: &[&str] = &["mkdir", "mkdirat"];
const MKDIR: &str = "mkdir /tmp/made 2>&1; ls /tmp; echo \"and $(cat /etc/word)\"";
const REFUSED: &str = "Level 2 not synchronized";

/// A bundle that tries to make a directory, and says that it goes on.
fn bundle(bed: &Bed) -> Bundle {
    let bundle = bed.bundle().sh(MKDIR);
    bundle.write("/etc/word", "on");
    bundle
}

/// Asserts what the state of a process says (config-linux.md#the-container-process-state).
#[track_caller]
fn assert_state(state: &Value, id: &str, bundle: &Bundle, status: &str) {
    assert_eq!(state["fds"], json!(["seccompFd"]), "{state:#}");
    assert_eq!(state["metadata"], "some words, \"quoted\"", "{state:#}");
    assert!(state["ociVersion"].as_str().is_some_and(|text| text.starts_with("1.")), "{state:#}");
    assert!(state["pid"].as_i64().is_some_and(|pid| pid > 0), "{state:#}");
    let inner = &state["state"];
    assert_eq!(inner["id"], id, "{state:#}");
    assert_eq!(inner["status"], status, "{state:#}");
    assert_eq!(inner["bundle"], bundle.path.to_str().unwrap(), "{state:#}");
    assert!(inner["pid"].as_i64().is_some_and(|pid| pid > 0), "{state:#}");
    assert!(inner["ociVersion"].is_string(), "{state:#}");
}

#[test]
fn an_agent_refuses_a_call_with_an_errno() {
    as_both(|bed| {
        for bundle in both_ways(&bundle(bed)) {
            let agent = Agent::listen(bed, no_directories);
            let output = bed.run(&notifying(&bundle, &agent, DIRECTORIES));
            assert!(output.success().contains(REFUSED), "{output}");
            assert!(output.stdout.ends_with("and on\n"), "{output}");
            assert!(!bundle.rootfs().join("tmp/made").exists());
            assert_eq!(agent.count(SYS_MKDIR) + agent.count(libc::SYS_mkdirat), 1);
            assert_eq!(agent.states().len(), 1);
        }
        bed.assert_nothing_left();
    });
}

#[test]
fn an_agent_lets_a_call_be_carried_out() {
    as_both(|bed| {
        for bundle in both_ways(&bundle(bed)) {
            let agent = Agent::listen(bed, all_may_be);
            let output = bed.run(&notifying(&bundle, &agent, DIRECTORIES));
            assert_eq!(output.success(), "made\nand on");
            assert_eq!(agent.count(SYS_MKDIR) + agent.count(libc::SYS_mkdirat), 1);
            std::fs::remove_dir(bundle.rootfs().join("tmp/made")).unwrap();
        }
    });
}

#[test]
fn a_created_container_sends_its_listener_while_it_is_created() {
    as_both(|bed| {
        for bundle in both_ways(&bundle(bed)) {
            let agent = Agent::listen(bed, no_directories);
            let bundle = notifying(&bundle, &agent, DIRECTORIES);
            let container = bed.create(&bundle);
            eventually("the agent has the listener", || !agent.states().is_empty());
            let states = agent.states();
            assert_state(&states[0], &container.id, &bundle, "creating");
            assert_eq!(states[0]["pid"], container.pid());
            container.start();
            let printed = container.ended();
            assert!(printed.contains(REFUSED) && printed.ends_with("and on\n"), "{printed}");
            assert_eq!(agent.states().len(), 1);
            container.delete();
        }
        bed.assert_nothing_left();
    });
}

#[test]
fn an_agent_may_take_its_time() {
    as_both(|bed| {
        for bundle in both_ways(&bundle(bed)) {
            let agent = Agent::listen(bed, |number| {
                std::thread::sleep(Duration::from_millis(500));
                no_directories(number)
            });
            let output = bed.run(&notifying(&bundle, &agent, DIRECTORIES));
            assert!(output.success().contains(REFUSED), "{output}");
        }
    });
}

#[test]
fn an_agent_may_look_only_when_the_program_runs() {
    as_both(|bed| {
        for names in [DIRECTORIES, &["mkdir", "mkdirat", "prctl"]] {
            let hears_us = names.len() > DIRECTORIES.len();
            if hears_us && bed.is_peer("runc and crun load the filter during create") {
                continue;
            }
            for bundle in both_ways(&bundle(bed)) {
                let idle = Idle::listen(bed);
                let container = bed.create(&notifying_at(&bundle, &idle.path, names));
                container.start();
                assert_eq!(container.status(), "running");
                assert_eq!(container.printed(), "", "its call waits");
                let agent = idle.serve(no_directories);
                let printed = container.ended();
                assert!(printed.contains(REFUSED) && printed.ends_with("and on\n"), "{printed}");
                assert_eq!(agent.states().len(), 1);
                container.delete();
            }
        }
        bed.assert_nothing_left();
    });
}

/// seccomp_unotify(2): without anybody at the other end a call is one that does not exist.
#[test]
fn an_agent_that_dies_leaves_nobody_waiting() {
    as_both(|bed| {
        for bundle in both_ways(&bundle(bed)) {
            let agent = Agent::listen(bed, |_| Answer::None);
            let output = bed.run(&notifying(&bundle, &agent, DIRECTORIES));
            assert!(output.success().contains("Function not implemented"), "{output}");
            assert!(output.stdout.ends_with("and on\n"), "{output}");
        }
        bed.assert_nothing_left();
    });
}

/// Where the runtime's own last calls would have to wait for an agent that may itself wait
/// for `start`.
#[test]
fn a_listener_that_would_hear_the_runtime_is_sent_at_start() {
    as_both(|bed| {
        if bed.is_peer("runc and crun load the filter during create") {
            return;
        }
        // Who carries it out is a thread, which TSYNC would put under the filter too.
        let flags = [json!([]), json!(["SECCOMP_FILTER_FLAG_TSYNC"])];
        for (bundle, flags) in both_ways(&bundle(bed)).into_iter().zip(flags) {
            let agent = Agent::listen(bed, no_directories);
            let bundle = notifying(&bundle, &agent, &["mkdir", "mkdirat", "prctl"])
                .with("/linux/seccomp/flags", flags);
            let container = bed.create(&bundle);
            assert!(container.warnings.contains("at start: the filter does not let all"));
            assert_eq!(agent.states(), Vec::<Value>::new(), "there is no filter yet");
            let pid = container.pid();
            container.start();
            let printed = container.ended();
            assert!(printed.contains(REFUSED) && printed.ends_with("and on\n"), "{printed}");
            let states = agent.states();
            assert_eq!(states.len(), 1, "{states:#?}");
            assert_state(&states[0], &container.id, &bundle, "created");
            assert_eq!(states[0]["pid"], pid);
            assert_eq!(states[0]["state"]["pid"], pid);
            container.delete();
        }
        bed.assert_nothing_left();
    });
}

#[test]
fn annotations_are_part_of_the_state_and_absent_metadata_is_not() {
    as_root(|bed| {
        let agent = Agent::listen(bed, all_may_be);
        let bundle = notifying(&bundle(bed), &agent, DIRECTORIES)
            .with("/annotations", json!({"a.key": "its value"}))
            .without("/linux/seccomp/listenerMetadata");
        bed.run(&bundle).success();
        let state = agent.states().remove(0);
        assert_eq!(state["state"]["annotations"], json!({"a.key": "its value"}), "{state:#}");
        assert!(state.get("metadata").is_none_or(|metadata| metadata == ""), "{state:#}");
    });
}

#[test]
fn each_process_of_exec_has_a_listener_of_its_own() {
    as_both(|bed| {
        if bed
            .is_peer("runc cannot fetch the listener of an ordinary user's exec, crun tells no pid")
        {
            return;
        }
        for bundle in both_ways(&bundle(bed)) {
            let agent = Agent::listen(bed, no_directories);
            let bundle = notifying(&bundle, &agent, DIRECTORIES).sh("sleep 100");
            let container = bed.start(&bundle);
            let init = container.pid();
            for number in 2..=3 {
                let output = container.sh(MKDIR);
                assert!(output.success().contains(REFUSED), "{output}");
                let states = agent.states();
                assert_eq!(states.len(), number, "{states:#?}");
                let state = &states[number - 1];
                assert_state(state, &container.id, &bundle, "running");
                assert_eq!(state["state"]["pid"], init);
                assert_ne!(state["pid"], init);
            }
            container.delete();
        }
        bed.assert_nothing_left();
    });
}

/// The calls that hand the listener over and that run the program may be notified
/// themselves: nobody may wait for an answer that the agent cannot give yet.
#[test]
fn the_calls_of_the_handing_over_may_be_notified_themselves() {
    as_both(|bed| {
        if bed.is_rootless() && bed.is_peer("crun 1.8 fails to enter a user namespace at times") {
            return;
        }
        if bed.is_peer("runc refuses write, and waits for ever on others") {
            return;
        }
        let names: &[&str] = &[
            "execve",
            "execveat",
            "sendmsg",
            "sendto",
            "write",
            "close",
            "mmap",
            "munmap",
            "futex",
            "capset",
            "prctl",
            "exit_group",
            "ioctl",
            "rt_sigaction",
            "rt_sigprocmask",
        ];
        for bundle in both_ways(&bundle(bed)) {
            let agent = Agent::listen(bed, all_may_be);
            let bundle = notifying(&bundle, &agent, names);
            let output = bed.run(&bundle);
            assert_eq!(output.success(), "made\nand on");
            assert!(agent.count(libc::SYS_execve) >= 1, "the first execve is notified");
            assert!(agent.count(libc::SYS_write) >= 1);
            let container = bed.start(&bundle.clone().sh("sleep 100"));
            assert_eq!(container.sh("echo inside").success(), "inside");
            container.delete();
            std::fs::remove_dir(bundle.rootfs().join("tmp/made")).unwrap();
        }
        bed.assert_nothing_left();
    });
}

#[test]
fn an_agent_may_refuse_the_program_itself() {
    fn no_program(number: i64) -> Answer {
        if number == libc::SYS_execve { Answer::Errno(libc::EACCES) } else { Answer::Continue }
    }
    as_both(|bed| {
        if bed.is_peer("they tell it in other words") {
            return;
        }
        for bundle in both_ways(&bundle(bed)) {
            let agent = Agent::listen(bed, no_program);
            let output = bed.run(&notifying(&bundle, &agent, &["execve"]));
            assert!(output.failure(1).contains("permission denied"), "{output}");
            bed.assert_nothing_left();
        }
    });
}

#[test]
fn without_an_agent_create_fails_and_nothing_is_left() {
    as_both(|bed| {
        if bed.is_peer("runc and crun load the filter during create") {
            return;
        }
        let agent = Agent::listen(bed, all_may_be);
        let gone = bed.directory.join("nobody");
        let file = bed.write("no-socket", "");
        for path in [&gone, &file] {
            for bundle in both_ways(&bundle(bed)) {
                let bundle = notifying(&bundle, &agent, DIRECTORIES)
                    .with("/linux/seccomp/listenerPath", path.to_str());
                let output = bed.run(&bundle);
                assert_ne!(output.code, 0, "{output}");
                assert!(output.stdout.is_empty(), "{output}");
                bed.assert_nothing_left();
                let output = bed.create_call(&bundle, &bed.id()).output();
                assert!(output.failure(1).contains("listenerPath"), "{output}");
                assert!(output.stderr.contains(path.to_str().unwrap()), "{output}");
                bed.assert_nothing_left();
            }
        }
        assert_eq!(agent.states().len(), 0);
    });
}

#[test]
fn an_exec_without_an_agent_fails_and_leaves_the_container() {
    as_both(|bed| {
        let agent = Agent::listen(bed, all_may_be);
        let container = bed.start(&notifying(&bundle(bed), &agent, DIRECTORIES).sh("sleep 100"));
        std::fs::remove_file(&agent.path).unwrap();
        let output = container.sh("echo inside");
        assert_ne!(output.code, 0, "{output}");
        assert!(output.stdout.is_empty(), "{output}");
        assert_eq!(container.status(), "running");
        assert_processes(&container, 1);
    });
}

/// The number of processes in a container, zombies too.
#[track_caller]
fn processes(container: &Container<'_>) -> usize {
    stats(container).len()
}

/// What /proc/PID/stat says of each process in a container.
#[track_caller]
fn stats(container: &Container<'_>) -> Vec<String> {
    let pids = format!("/proc/{}/root/proc", container.pid());
    let entries = std::fs::read_dir(pids).expect("the container's /proc").flatten();
    let pids = entries.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok());
    pids.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok()).collect()
}

/// Waits until a container has this many processes.
///
/// # Panics
/// After two seconds, with what they are.
#[track_caller]
fn assert_processes(container: &Container<'_>, number: usize) {
    let deadline = Instant::now() + Duration::from_secs(2);
    while processes(container) != number {
        let found = stats(container);
        assert!(Instant::now() < deadline, "{number} are due: {found:#?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn whoever_carried_the_listener_is_not_left_in_the_container() {
    as_both(|bed| {
        if bed.is_peer("runc cannot fetch the listener of an ordinary user's exec") {
            return;
        }
        for bundle in both_ways(&bundle(bed)) {
            let agent = Agent::listen(bed, no_directories);
            // It looks at once, and its children are its own.
            let script = "ps -o pid,ppid,stat,args; trap : CHLD; sleep 100";
            let bundle = notifying(&bundle, &agent, DIRECTORIES).sh(script);
            let container = bed.start(&bundle);
            eventually("ps has ended", || {
                container.printed().lines().count() >= 3 && processes(&container) == 2
            });
            let printed = container.printed();
            // The heading, the shell, ps: no zombie, and nobody else.
            assert_eq!(printed.lines().count(), 3, "{printed}");
            assert!(!printed.contains('Z'), "{printed}");
            // The program finds SIGCHLD as every program does: its children wait for it.
            let output = container.sh("(exit 3) & wait $!; echo $?; ps -o pid,args");
            assert!(output.success().starts_with("3\n"), "{output}");
            container.delete();
        }
    });
}

#[test]
fn no_zombie_is_left_where_the_program_reaps_nobody() {
    as_both(|bed| {
        if bed.is_peer("runc cannot fetch the listener of an ordinary user's exec") {
            return;
        }
        for bundle in both_ways(&bed.bundle().args(["/bin/sleep", "100"])) {
            let agent = Agent::listen(bed, no_directories);
            let bundle = notifying(&bundle, &agent, DIRECTORIES);
            for _ in 0..10 {
                let container = bed.start(&bundle);
                assert_processes(&container, 1);
                container.exec(&["/bin/true"]).success();
                assert_processes(&container, 1);
                container.delete();
            }
        }
    });
}

#[test]
fn nobody_of_the_runtime_is_needed_afterwards() {
    as_root(|bed| {
        let agent = Agent::listen(bed, no_directories);
        let script =
            "while ! test -e /tmp/go; do sleep 0.02; done; mkdir /tmp/made 2>&1; sleep 100";
        let container = bed.start(&notifying(&bundle(bed), &agent, DIRECTORIES).sh(script));
        let call = container.exec_call(&["--detach"], &["/bin/sh", "-c", "sleep 100"]);
        call.output().success();
        assert_eq!(agent.count(SYS_MKDIR) + agent.count(libc::SYS_mkdirat), 0);
        container.sh("touch /tmp/go").success();
        container.prints(REFUSED);
        // Of the program, of exec --detach and of exec.
        eventually("all have an agent", || agent.states().len() == 3);
    });
}

#[test]
fn a_notifying_filter_without_a_place_to_send_it_is_refused() {
    as_root(|bed| {
        if bed.is_peer("they name no field") {
            return;
        }
        let agent = Agent::listen(bed, all_may_be);
        let bundle = notifying(&bundle(bed), &agent, DIRECTORIES)
            .without("/linux/seccomp/listenerPath")
            .without("/linux/seccomp/listenerMetadata");
        let output = bed.run(&bundle);
        assert!(output.failure(1).contains("linux.seccomp.listenerPath"), "{output}");
        bed.assert_nothing_left();
    });
}

#[test]
fn an_ordinary_user_has_an_agent_of_his_own() {
    integration::as_user(|bed| {
        if bed.is_peer("runc and crun load the filter during create") {
            return;
        }
        assert!(matches!(bed.caller, Caller::User(_)));
        let agent = Agent::listen(bed, no_directories);
        let bundle = notifying(&bundle(bed), &agent, DIRECTORIES);
        let container = bed.start(&bundle);
        let printed = container.ended();
        assert!(printed.contains(REFUSED), "{printed}");
        assert_state(&agent.states()[0], &container.id, &bundle, "creating");
    });
}
