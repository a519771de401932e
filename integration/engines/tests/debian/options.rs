//! Options that few know and somebody uses: what they ask for is what the program finds.

use engines::docker::with_docker;
use engines::{cpu_weight, is_current};
use integration::View;
use serde_json::json;

#[test]
fn resources() {
    with_docker(&json!({}), |docker| {
        let options = "--memory 64m --memory-reservation 32m --memory-swappiness 10 --kernel-memory 0 \
             --cpu-period 50000 --cpu-quota 20000 --cpu-shares 300 --cpuset-cpus 0 --cpuset-mems 0 \
             --pids-limit 44 --oom-kill-disable --oom-score-adj 500 \
             --device-cgroup-rule 'c 10:200 rwm' --device-write-bps /dev/null:1mb";
        let create = format!("docker run -d --name one {options} alpine sleep 1000");
        docker.sh(&create.replace(" --device-write-bps /dev/null:1mb", "")).succeeds();
        let id = docker.inspect("one", ".Id");
        let bed = docker.place.bed;
        let limits = bed.by_version(
            vec![
                ("memory.limit_in_bytes", "67108864"),
                ("memory.soft_limit_in_bytes", "33554432"),
                ("cpu.cfs_period_us", "50000"),
                ("cpu.cfs_quota_us", "20000"),
                ("cpu.shares", "300"),
                ("cpuset.cpus", "0"),
                ("cpuset.mems", "0"),
                ("pids.max", "44"),
            ],
            vec![
                ("memory.max", "67108864"),
                ("memory.low", "33554432"),
                ("cpu.max", "20000 50000"),
                ("cpu.weight", cpu_weight("39", "12")),
                ("cpuset.cpus", "0"),
                ("cpuset.mems", "0"),
                ("pids.max", "44"),
            ],
        );
        for (file, value) in limits {
            let found = docker.place.cgroup_file(&id, file);
            docker.place.claim(&format!("{file} is {value}, not {found}"), found == value);
        }
        if bed.view != View::V2 {
            // Neither can be asked of version 2, and of the latter the rules can't be read.
            let control = docker.place.cgroup_file(&id, "memory.oom_control");
            docker.place.claim("it is not killed", control.contains("oom_kill_disable 1"));
            let rules = docker.place.cgroup_file(&id, "devices.list");
            docker.place.claim("the rule is there", rules.contains("c 10:200 rwm"));
            docker.place.claim("not every device is allowed", !rules.starts_with("a *:*"));
        }
        docker.sh("docker exec one cat /proc/1/oom_score_adj").prints("500");
        let opens = |device: &str| {
            docker.sh(&format!("docker exec one sh -c 'mknod /tmp/$$ c {device} && : < /tmp/$$'"))
        };
        opens("10 200").succeeds();
        opens("10 229").fails(1, "Operation not permitted");
        docker.sh("docker update --cpuset-cpus 1 --cpu-quota 30000 one").succeeds();
        docker
            .place
            .claim("another processor", docker.place.cgroup_file(&id, "cpuset.cpus") == "1");
        docker
            .sh("docker exec one grep Cpus_allowed_list /proc/self/status")
            .prints("Cpus_allowed_list:\t1");
        docker.sh("docker exec --detach one sh -c ': > /tmp/began; sleep 500'").succeeds();
        docker.place.eventually("the program is counted", || {
            docker.place.cgroup_file(&id, "pids.current") != "1"
        });
        docker.sh("docker run --rm --pids-limit 3 alpine sh -c 'sleep 1 & sleep 1 & sleep 1 & sleep 1'")
            .exits(2);
    });
}

#[test]
fn mounts() {
    with_docker(&json!({}), |docker| {
        let run = |options: &str, script: &str| {
            docker.sh(&format!("docker run --rm {options} alpine sh -c '{script}'"))
        };
        docker.sh("mkdir -p ~/data/sub && echo here > ~/data/file && mkdir ~/empty").succeeds();
        docker.sh("mount -t tmpfs none ~/data/sub && echo below > ~/data/sub/file").succeeds();
        run("-v ~/data:/data", "cat /data/file /data/sub/file; echo new > /data/new")
            .prints("here\nbelow");
        docker.sh("cat ~/data/new").prints("new");
        run("-v ~/data:/data:ro", "touch /data/new").fails(1, "Read-only");
        run(
            "--mount type=bind,source=$HOME/data,target=/data,bind-nonrecursive=true",
            "ls /data/sub",
        )
        .prints("");
        run("-v ~/data/file:/etc/motd", "cat /etc/motd").prints("here");
        run("-v ~/data/file:/new/file", "cat /new/file").prints("here");
        run("--tmpfs /scratch:size=1m,mode=700,noexec", "grep \" /scratch \" /proc/mounts")
            .mentions("noexec")
            .mentions("size=1024k")
            .mentions("mode=700");
        run("--mount type=tmpfs,target=/scratch,tmpfs-size=2m", "df -k /scratch | tail -1")
            .mentions("2048");
        run("-v volume:/etc/apk", "ls /etc/apk/world").prints("/etc/apk/world");
        docker.sh("docker volume rm volume").prints("volume");
        run("-v /var/run/docker.sock:/docker.sock", "test -S /docker.sock && echo socket")
            .prints("socket");
        run("-v ~/empty:/a:rshared", "true").fails(125, "not a shared mount");
        docker
            .sh("mkdir ~/shared && mount -t tmpfs none ~/shared && mount --make-shared ~/shared")
            .succeeds();
        docker.sh("docker run -d --name slave -v ~/shared:/a:rslave alpine sleep 1000").succeeds();
        docker.sh("docker run -d --name private -v ~/shared:/a alpine sleep 1000").succeeds();
        run("-v ~/shared:/a:rshared", "grep -o \" /a .* shared:\" /proc/self/mountinfo")
            .mentions("shared");
        docker.sh("mkdir ~/shared/later && mount -t tmpfs later ~/shared/later").succeeds();
        docker.sh("docker exec slave grep -c ^later /proc/mounts").prints("1");
        docker.sh("docker exec private grep -c ^later /proc/mounts").exits(1);
        docker.sh("docker rm -f slave private && umount -R ~/shared").succeeds();
        run("--workdir /not/there/yet", "pwd").prints("/not/there/yet");
        run(
            "--device /dev/kmsg:/dev/nothing:r",
            "test -c /dev/nothing && echo more > /dev/nothing",
        )
        .fails(1, "Operation not permitted");
        run("--ipc private", "ls -A /dev/shm; grep -c /dev/mqueue /proc/mounts").prints("1");
        run("--add-host other:10.1.2.3 --dns 10.9.8.7", "cat /etc/hosts /etc/resolv.conf")
            .mentions("10.1.2.3\tother")
            .mentions("nameserver 10.9.8.7");
        // mount(8) has a directory of its own in /run.
        docker.sh("umount ~/data/sub && rm -rf /run/mount").succeeds();
    });
}

#[test]
fn security() {
    with_docker(&json!({}), |docker| {
        let run = |options: &str, script: &str| {
            docker.sh(&format!("docker run --rm {options} alpine sh -c '{script}'"))
        };
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]});
        docker.place.write(
            &format!("{}/home/profile.json", docker.place.bed.directory.display()),
            &profile.to_string(),
        );
        run("--security-opt seccomp=$HOME/profile.json", "touch /file && mkdir /directory")
            .fails(1, "Not supported");
        docker.sh("docker run -d --name one --security-opt seccomp=$HOME/profile.json alpine sleep 1000")
            .succeeds();
        docker.sh("docker exec one mkdir /directory").fails(1, "Not supported");
        run("--security-opt systempaths=unconfined", "grep -c \" /proc/[a-z]\" /proc/mounts")
            .exits(1);
        run("", "test $(grep -c \" /proc/[a-z]\" /proc/mounts) -ge 5 && echo masked")
            .prints("masked");
        run("--user nobody", "grep CapEff /proc/self/status").prints("CapEff:\t0000000000000000");
        run("--user 1234:5678 --group-add 9 --group-add audio", "id -G").prints("5678 9 18");
        // Newer daemons ask for what the host has alone, and this one may lack a capability.
        let all = if is_current() { "ALL" } else { "ALL --cap-drop SYS_RESOURCE" };
        run(&format!("--cap-add {all}"), "unshare -m true && echo unshared").prints("unshared");
        run("--cap-add NET_ADMIN", "ip link add two type bridge && ip link show two | grep -c two")
            .prints("1");
        run("", "ip link add two type bridge").exits(2);
        run("--cgroupns private", "grep -v :/$ /proc/self/cgroup").exits(1);
        run(
            "--ulimit core=0 --ulimit nproc=100:200 --ulimit stack=1048576",
            "ulimit -c; ulimit -s",
        )
        .prints("0\n1024");
        run(
            "--sysctl kernel.msgmax=4096 --sysctl net.core.somaxconn=77",
            "cat /proc/sys/kernel/msgmax /proc/sys/net/core/somaxconn",
        )
        .prints("4096\n77");
        docker.sh("docker run --rm --entrypoint /bin/ls alpine -d /etc").prints("/etc");
        run(
            "--network none --hostname box --domainname example.org",
            "cat /proc/sys/kernel/domainname",
        )
        .prints("example.org");
    });
}

#[test]
fn signals_and_outputs() {
    with_docker(&json!({}), |docker| {
        docker.sh("docker run -d --name one --stop-signal USR1 alpine \
                   sh -c 'trap \"echo heard; exit 9\" USR1; echo ready; while :; do sleep 0.1; done'").succeeds();
        docker
            .place
            .eventually("it is ready", || docker.sh("docker logs one").output.stdout == "ready\n");
        docker
            .sh("docker stop one && docker wait one && docker logs one")
            .prints("one\n9\nready\nheard");
        // The client passes on what it is sent.
        let line = "docker run --rm alpine sh -c 'trap \"exit 7\" TERM; echo ready; while :; do sleep 0.1; done'";
        let running = docker.place.begin(&format!("exec {line}"));
        docker.place.eventually("it is ready", || running.printed() == "ready\n");
        running.signal(nix::sys::signal::Signal::SIGTERM);
        let output = running.wait();
        docker.place.claim(&format!("it ends with 7: {output}"), output.code == 7);
        // A terminal without stdin, stdin without a terminal, one output of two.
        docker
            .sh("docker run --rm -t alpine sh -c 'test -t 1 && echo terminal'")
            .mentions("terminal");
        docker.sh("docker run --rm -a stderr alpine sh -c 'echo out; echo error >&2'").prints("");
        docker.sh("head -c 3000000 /dev/zero | docker run --rm -i alpine wc -c").prints("3000000");
        docker.sh("docker run --rm alpine head -c 3000000 /dev/zero | wc -c").prints("3000000");
        docker.sh("docker run --rm alpine sh -c 'kill -SEGV $$; sleep 1; exit 3'").exits(3);
        docker.sh("docker run --rm --init alpine sh -c 'kill -SEGV $$; exit 3'").exits(139);
    });
}
