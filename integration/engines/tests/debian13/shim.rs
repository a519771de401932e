//! containerd 1.7 and Docker with our shim, which takes systemd's driver where the group is named
//! as a unit.

use engines::debian13::{Machine, on_debian_13_with_shim};

const ALPINE: &str = "127.0.0.1:5000/library/alpine:latest";

/// What stays of containers is a shim.
fn shims(debian: &Machine<'_>) -> usize {
    let line = "pgrep --full --list-full '^/usr/bin/containerd-shim-ferrun-v2 ' | wc -l";
    debian.sh(line).text().trim().parse().expect("a number")
}

#[test]
fn containers_by_ctr() {
    on_debian_13_with_shim(|debian| {
        debian.sh(&format!("ctr image pull --plain-http {ALPINE}")).succeeds();
        debian.write("/etc/ferrun-shim.toml", "# where containers are\nRoot = '/run/elsewhere'\n");
        let run = |options: &str, id: &str, command: &str| {
            debian.sh(&format!(
                "ctr run --runtime io.containerd.ferrun.v2 --cpu-shares 0 \
                 --cgroup system.slice:ctr:{id} {options} {ALPINE} {id} {command}"
            ))
        };
        let ctr = |line: &str| debian.sh(&format!("ctr {line}"));
        run("--rm", "one", "sed -n s/^0:://p /proc/self/cgroup")
            .prints("/system.slice/ctr-one.scope");
        run("--rm", "one", "sh -c 'echo oh >&2; exit 7'").fails(7, "oh");
        run("--rm", "one", "no-such-program").fails(1, "executable file not found in $PATH");

        let options = "--detach --runtime-config-path /etc/ferrun-shim.toml";
        run(options, "two", "sleep 1000").succeeds();
        debian.claim("its own shim", shims(debian) == 1);
        debian.sh("systemctl is-active ctr-two.scope").prints("active");
        debian.sh("$RUNTIME --root /run/elsewhere/default list --quiet").prints("two");
        ctr("task exec --exec-id e1 two sh -c 'echo inside; exit 3'").exits(3);
        ctr("task exec --exec-id e2 two sed -n s/^0:://p /proc/self/cgroup")
            .prints("/system.slice/ctr-two.scope");
        ctr("task pause two && ctr task ls").mentions("PAUSED");
        ctr("task resume two && ctr task ls").mentions("RUNNING");
        ctr("task ps two").succeeds();
        debian.sh("systemctl daemon-reload && systemctl restart containerd").succeeds();
        ctr("task ls").mentions("RUNNING");
        ctr("task exec --exec-id e3 two echo inside").prints("inside");
        debian.sh("systemctl kill --signal KILL ctr-two.scope").succeeds();
        debian.eventually("the task has stopped", || {
            ctr("task ls").output.stdout.contains("STOPPED")
        });
        ctr("task rm two; ctr container rm two && ctr container ls -q").prints("");
        debian.eventually("its shim has ended", || shims(debian) == 0);

        run("--detach", "three", "sleep 1000").succeeds();
        debian.sh("pkill --signal KILL --full '^/usr/bin/containerd-shim-ferrun-v2 '").succeeds();
        debian.eventually("it is gone", || !ctr("task ls").output.stdout.contains("three"));
        ctr("container rm three").succeeds();
    });
}

#[test]
fn containers_by_docker() {
    on_debian_13_with_shim(|debian| {
        debian
            .sh("docker info --format '{{.CgroupDriver}} {{.DefaultRuntime}}'")
            .prints("systemd shim");
        let docker = |line: &str| debian.sh(&format!("docker {line}"));
        docker("run --rm alpine echo hello").prints("hello");
        docker("run --rm alpine sh -c 'exit 7'").exits(7);
        docker("run --rm alpine no-such-program").fails(127, "executable file not found in $PATH");
        let id = docker("run -d --init --name one alpine sleep 1000").succeeds().text().to_owned();
        debian.claim("its own shim", shims(debian) == 1);
        debian.sh(&format!("systemctl is-active docker-{id}.scope")).prints("active");
        docker("exec one echo inside").prints("inside");
        docker("exec one sh -c 'exit 3'").exits(3);
        docker("top one").mentions("sleep 1000");
        docker("pause one && docker unpause one").succeeds();
        docker("stats --no-stream one").mentions("one");
        debian.sh("systemctl daemon-reload").succeeds();
        docker("exec one sh -c 'echo x > /dev/null && echo works'").prints("works");
        let shell = debian.on_terminal("docker run --rm -it alpine sh").shows("# ");
        shell
            .types("tty; echo $((40 + 2))")
            .shows("/dev/pts/0")
            .shows("42")
            .types("exit 5")
            .ends(5);
        docker("run -d --name web -p 80:8080 web").succeeds();
        debian.serves("127.0.0.1:80");
        docker("restart -t 1 web").prints("web");
        debian.serves("127.0.0.1:80");
        docker("stop -t 1 one").prints("one");
        docker("start one").prints("one");
        debian
            .sh(&format!("systemctl kill --signal KILL docker-{id}.scope && docker wait one"))
            .prints("137");
        docker("rm --force one web").succeeds();
        debian.eventually("all shims have ended", || shims(debian) == 0);
        docker("ps --all --quiet").prints("");
    });
}
