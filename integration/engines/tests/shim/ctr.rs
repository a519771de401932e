//! The whole task service by containerd's own client.

use std::fs;

use crate::daemon::with_shims;

#[test]
fn a_container_runs_in_the_foreground() {
    with_shims(|daemon| {
        daemon.run("--rm", "one echo hello").prints("hello");
        daemon.run("--rm", "one sh -c 'echo oh >&2; exit 7'").fails(7, "oh");
        // A process cannot kill the first one of its own pid namespace.
        let killed = "one sh -c 'sleep 1000 & kill -9 $!; wait $!'";
        daemon.run("--rm", killed).exits(137);
        let options = "--rm --env WORD=given --cwd /tmp";
        daemon.run(options, "one sh -c 'echo $WORD $PWD'").prints("given /tmp");
        daemon.run("--rm --read-only", "one touch /file").fails(1, "Read-only file system");
        // A process that is gone before its start was told.
        for _ in 0..10 {
            daemon.run("--rm", "one true").succeeds();
        }
    });
}

#[test]
fn what_fails_is_told_as_containerd_tells_it_and_undone() {
    with_shims(|daemon| {
        let text = r#"exec: "no-such-program": executable file not found in $PATH"#;
        daemon.run("--rm", "one no-such-program").fails(1, text);
        daemon.ctr("task ls -q").prints("");
        daemon.run("--rm", "one echo again").prints("again");
        let mount = "--mount type=bind,src=/no/such/source,dst=/data,options=rbind";
        daemon.run(&format!("--rm {mount}"), "one true").fails(1, "/no/such/source");
        daemon.run("--rm", "one echo again").prints("again");
        daemon.run("-d", "two sleep 100").succeeds();
        daemon.exec("two", "no-such-program").fails(1, "executable file not found in $PATH");
        daemon.exec("two", "echo again").prints("again");
        daemon.remove("two");
    });
}

#[test]
fn a_detached_container_is_watched_paused_stopped_and_removed() {
    with_shims(|daemon| {
        daemon.run("-d", "two sleep 100").succeeds();
        daemon.becomes("two", "RUNNING");
        daemon.exec("two", "sh -c 'echo inside; exit 3'").exits(3);
        daemon.ctr("task pause two").succeeds();
        daemon.becomes("two", "PAUSED");
        daemon.ctr("task resume two").succeeds();
        daemon.becomes("two", "RUNNING");
        let memory = daemon.place.bed.by_version("memory.usage_in_bytes", "memory.usage");
        daemon.ctr("task metrics two").mentions(memory).mentions("pids.current");

        let output = daemon.ctr("task ps two").output;
        let mut pids: Vec<u32> = Vec::new();
        for line in output.success().lines() {
            pids.extend(line.split_whitespace().next().and_then(|word| word.parse::<u32>().ok()));
        }
        daemon.place.claim("one process", pids.len() == 1);
        let line = fs::read_to_string(format!("/proc/{}/cmdline", pids[0])).unwrap();
        daemon.place.claim("it is the program", line == "sleep\x00100\x00");

        daemon.ctr("task kill --signal KILL two").succeeds();
        daemon.becomes("two", "STOPPED");
        daemon.ctr("task kill two").fails(1, "not found");
        daemon.exec("two", "true").fails(1, "");
        daemon.remove_ended("two", 137);
    });
}

#[test]
fn limits_are_those_that_were_asked_for_and_those_of_an_update() {
    with_shims(|daemon| {
        daemon.run("-d --memory-limit 67108864 --seccomp", "three sleep 100").succeeds();
        let file = daemon.place.bed.by_version("memory.limit_in_bytes", "memory.max");
        let limit = || daemon.place.cgroup_file("three", file);
        daemon.place.claim("it has the limit", limit() == "67108864");
        daemon.exec("three", "grep Seccomp: /proc/1/status").mentions("2");
        daemon.remove("three");
        let group = daemon.place.cgroup("memory", "three");
        daemon.place.claim("its cgroup has gone", !group.exists());
    });
}

#[test]
fn signals_reach_one_process_or_all() {
    with_shims(|daemon| {
        daemon
            .run("-d", "four sh -c 'trap \"exit 9\" TERM; while :; do sleep 0.1; done'")
            .succeeds();
        daemon.exec_beside("four", "beside").succeeds();
        let running = || daemon.exec("four", "ps").output.success().contains("sleep 1000");
        daemon.place.claim("it runs beside", running());
        daemon.ctr("task kill --exec-id beside --signal KILL four").succeeds();
        daemon.place.eventually("it has ended alone", || !running());
        daemon.ctr("task kill --signal TERM four").succeeds();
        daemon.becomes("four", "STOPPED");
        daemon.remove_ended("four", 9);

        daemon.run("-d", "five sh -c 'sleep 1000 & sleep 1000 & wait'").succeeds();
        daemon.ctr("task kill --all --signal KILL five").succeeds();
        daemon.becomes("five", "STOPPED");
        daemon.remove_ended("five", 137);
    });
}

#[test]
fn many_programs_run_at_once_in_one_container() {
    with_shims(|daemon| {
        daemon.run("-d", "six sleep 1000").succeeds();
        let each = daemon.line("task exec --exec-id many$i six sh -c \"echo $i; exit 0\"");
        let line = format!("for i in $(seq 24); do {each} & done; wait");
        let output = daemon.place.sh(&line).output;
        let mut told: Vec<u32> =
            output.success().lines().filter_map(|line| line.trim().parse().ok()).collect();
        told.sort_unstable();
        daemon.place.claim("each has told its number", told == (1..=24).collect::<Vec<_>>());
        daemon.remove("six");
    });
}

#[test]
fn a_terminal_is_what_containerd_wants_it_to_be() {
    with_shims(|daemon| {
        let line = daemon.line(&daemon.run_line("--rm --tty", "seven sh"));
        let shell = daemon.place.on_terminal(&line).shows("# ").types("tty; echo $((40 + 2))");
        let shell = shell.shows("/dev/pts/0").shows("42").gets_size(24, 80);
        let shell = shell.resizes(100, 50).gets_size(50, 100);
        shell.types("exit 5").ends(5);

        daemon.run("-d", "eight sleep 1000").succeeds();
        let line = daemon.line("task exec --tty --exec-id shell eight sh");
        let shell = daemon.place.on_terminal(&line).shows("# ").types("tty").shows("/dev/pts/");
        shell.types("exit 6").ends(6);
        daemon.remove("eight");
    });
}
