//! containerd 1.7 by its own client.

use engines::debian13::on_debian_13;

const ALPINE: &str = "127.0.0.1:5000/library/alpine:latest";

#[test]
fn containers_by_ctr() {
    on_debian_13(|debian| {
        debian.sh(&format!("ctr image pull --plain-http {ALPINE}")).succeeds();
        let program = debian.by_runtime("$RUNTIME", "runc");
        let run = |options: &str, id: &str, command: &str| {
            debian.sh(&format!(
                "ctr run --runc-binary {program} --runc-systemd-cgroup --cpu-shares 0 \
                 --cgroup system.slice:ctr:{id} {options} {ALPINE} {id} {command}"
            ))
        };
        let ctr = |line: &str| debian.sh(&format!("ctr {line}"));
        run("--rm", "one", "sed -n s/^0:://p /proc/self/cgroup")
            .prints("/system.slice/ctr-one.scope");
        run("--rm", "one", "sh -c 'echo oh >&2; exit 7'").fails(7, "oh");
        run("--rm --env WORD=given --cwd /tmp", "one", "sh -c 'echo $WORD $PWD'")
            .prints("given /tmp");
        run("--rm", "one", "no-such-program").fails(1, "executable file not found in $PATH");
        run("--rm --read-only", "one", "touch /file").fails(1, "Read-only file system");

        run("--detach", "two", "sleep 1000").succeeds();
        debian.sh("systemctl is-active ctr-two.scope").prints("active");
        ctr("task exec --exec-id e1 two sh -c 'echo inside; exit 3'").exits(3);
        // Who prints stays for a moment: runc's shim closes a pipe that nobody has opened yet.
        ctr("task exec --exec-id e2 two sh -c 'echo inside; sleep 0.5'").prints("inside");
        ctr("task pause two && ctr task ls").mentions("PAUSED");
        ctr("task resume two && ctr task ls").mentions("RUNNING");
        ctr("task ps two").succeeds();
        debian.sh("systemctl kill --signal KILL ctr-two.scope").succeeds();
        debian.eventually("the task has stopped", || {
            ctr("task ls").output.stdout.contains("STOPPED")
        });
        ctr("task rm two; ctr container rm two && ctr container ls -q").prints("");

        let line = format!(
            "ctr run --rm --tty --runc-binary {program} --runc-systemd-cgroup --cpu-shares 0 \
             --cgroup system.slice:ctr:four {ALPINE} four sh"
        );
        let shell = debian.on_terminal(&line).shows("# ").types("tty; echo $((40 + 2))");
        shell.shows("/dev/pts/0").shows("42").types("exit 5").ends(5);

        // With the driver as without: what this machine has no controller for is refused.
        let refused = debian.by_runtime(
            "linux.resources.cpu.shares: no cgroup tree of this machine has the cpu controller",
            "ctr-five.scope/cpu.weight: no such file or directory",
        );
        debian
            .sh(&format!(
                "ctr run --rm --runc-binary {program} --runc-systemd-cgroup \
                 --cgroup system.slice:ctr:five {ALPINE} five true"
            ))
            .fails(1, refused);
    });
}
