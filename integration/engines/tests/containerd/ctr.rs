//! Containers by containerd's own client.

use std::fs;

use crate::daemon::with_containerd;

#[test]
fn a_container_runs_in_the_foreground() {
    with_containerd(|daemon| {
        daemon.run("--rm", "one echo hello").prints("hello");
        daemon.run("--rm", "one sh -c 'echo oh >&2; exit 7'").fails(7, "oh");
        daemon
            .run("--rm --env WORD=given --cwd /tmp", "one sh -c 'echo $WORD $PWD'")
            .prints("given /tmp");
        daemon.run("--rm --read-only", "one touch /file").fails(1, "Read-only file system");
    });
}

#[test]
fn a_program_that_is_not_there_is_told_as_containerd_tells_it() {
    with_containerd(|daemon| {
        let text = r#"exec: "no-such-program": executable file not found in $PATH"#;
        daemon.run("--rm", "one no-such-program").fails(1, text);
        daemon.ctr("task ls -q").prints("");
        // It is all undone: the ID is free.
        daemon.run("--rm", "one echo again").prints("again");
    });
}

#[test]
fn a_detached_container_is_watched_stopped_and_removed() {
    with_containerd(|daemon| {
        let status = |id: &str| {
            let output = daemon.ctr("task ls").output;
            let mut lines = output.success().lines().map(str::split_whitespace);
            let line = lines.find_map(|mut words| (words.next() == Some(id)).then_some(words));
            line.and_then(Iterator::last).unwrap_or_default().to_owned()
        };
        let becomes = |state: &str| daemon.place.claim(state, status("two") == state);
        daemon.run("-d", "two sleep 100").succeeds();
        becomes("RUNNING");

        let exec =
            |id: &str, line: &str| daemon.ctr(&format!("task exec --exec-id {id} two {line}"));
        exec("e1", "sh -c 'echo inside; exit 3'").exits(3);
        // Who prints stays for a moment: runc's shim closes a pipe that nobody has opened yet.
        exec("e2", "sh -c 'echo inside; sleep 0.5'").prints("inside");
        exec("e3", "no-such-program").fails(1, "executable file not found in $PATH");

        daemon.ctr("task pause two").succeeds();
        becomes("PAUSED");
        daemon.ctr("task resume two").succeeds();
        becomes("RUNNING");

        let memory = daemon.place.bed.by_version("memory.usage_in_bytes", "memory.usage");
        daemon.ctr("task metrics two").mentions(memory).mentions("pids.current");
        let output = daemon.ctr("task ps two").output;
        let pids: Vec<u32> = output
            .success()
            .lines()
            .filter_map(|line| line.split_whitespace().next()?.parse().ok())
            .collect();
        daemon.place.claim("one process", pids.len() == 1);
        let line = fs::read_to_string(format!("/proc/{}/cmdline", pids[0])).unwrap();
        daemon.place.claim("it is the program", line == "sleep\x00100\x00");

        daemon.ctr("task kill --signal KILL two").succeeds();
        daemon.place.eventually("the task has stopped", || status("two") == "STOPPED");
        daemon.ctr("task rm two").succeeds();
        daemon.ctr("container rm two").succeeds();
        daemon.ctr("container ls -q").prints("");
    });
}

#[test]
fn limits_and_the_filter_are_those_that_were_asked_for() {
    with_containerd(|daemon| {
        let file = daemon.place.bed.directory.join("pid");
        let options = format!("-d --memory-limit 67108864 --seccomp --pid-file {}", file.display());
        daemon.run(&options, "three sleep 100").succeeds();
        let pid = fs::read_to_string(&file).unwrap();
        let status = fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap();
        daemon.place.claim("it has a filter", status.contains("Seccomp:\t2"));
        let file = daemon.place.bed.by_version("memory.limit_in_bytes", "memory.max");
        let limit = daemon.place.cgroup_file("three", file);
        daemon.place.claim("it has the limit", limit == "67108864");
        daemon.ctr("task rm --force three").output.success();
        daemon.ctr("container rm three").succeeds();
        let group = daemon.place.cgroup("memory", "three");
        daemon.place.claim("its cgroup has gone", !group.exists());
    });
}

#[test]
fn a_container_has_the_terminal_that_containerd_wants() {
    with_containerd(|daemon| {
        let line = daemon.line(&daemon.run_line("--rm --tty", "four sh"));
        let shell = daemon.place.on_terminal(&line).shows("# ").types("tty; echo $((40 + 2))");
        shell.shows("/dev/pts/0").shows("42").types("exit 5").ends(5);
    });
}
