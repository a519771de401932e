//! Docker, from the tutorials that most people start with to what they find later.

use std::fs;

use engines::docker::{Docker, PROGRAMS, with_docker};
use engines::{cpu_weight, in_place, is_current, runtime_name};
use integration::runtime;
use nix::sys::signal::Signal;
use serde_json::json;

#[test]
fn the_tutorial_of_hello_world_and_alpine() {
    with_docker(&json!({}), |docker| {
        docker.sh("docker pull alpine").mentions("Downloaded newer image for alpine:latest");
        docker.sh("docker images").mentions("alpine");
        docker.sh("docker run hello-world").mentions("Hello from a container");
        docker.sh("docker run alpine ls -l").mentions("drwxr-xr-x").mentions("etc");
        docker.sh("docker run alpine echo \"hello from alpine\"").prints("hello from alpine");
        docker.sh("docker run alpine /bin/sh").prints("");

        let shell = docker
            .place
            .on_terminal("docker run -it alpine /bin/sh")
            .shows("/ # ")
            .types("tty")
            .shows("/dev/pts/0")
            .gets_size(24, 80);
        let shell = shell.resizes(120, 40).gets_size(40, 120);
        shell.types("ls -l /etc/alpine-release; exit 3").shows("/etc/alpine-release").ends(3);

        // A stand-in: bash, coreutils and their libraries of this machine's distribution.
        let shell = docker
            .place
            .on_terminal("docker run -it ubuntu bash")
            .shows("# ")
            .types("echo ${BASH_VERSION%%.*}-$((40 + 2))")
            .shows("5-42");
        shell.types("exit").ends(0);

        docker.sh("docker ps").lacks("alpine");
        docker.sh("docker ps -a").mentions("hello-world").mentions("alpine").mentions("Exited (3)");
        docker.sh("docker info --format '{{.DefaultRuntime}}'").prints(runtime_name());
        docker.sh("docker info").mentions("Cgroup Driver: cgroupfs");
    });
}

#[test]
fn the_tutorial_of_containers_that_stay() {
    with_docker(&json!({}), |docker| {
        // Isolation: a file of one is not in another one of the same image, and stays in its own.
        docker
            .sh("docker run --name isolated alpine sh -c 'echo mine > hello.txt; ls'")
            .mentions("hello.txt");
        docker.sh("docker run --rm alpine ls").lacks("hello.txt");
        docker.sh("docker diff isolated").mentions("A /hello.txt");

        docker.sh("docker create --name again -it alpine /bin/sh").succeeds();
        docker.sh("docker start again").prints("again");
        docker.sh("docker ps").mentions("again").mentions("Up ");
        docker
            .sh("docker exec again sh -c 'echo \"inside\" > hello.txt; ls'")
            .mentions("hello.txt");
        docker.sh("docker exec again cat hello.txt").prints("inside");
        docker.sh("docker stop -t 1 $(docker ps -aq)").succeeds();
        docker.sh("docker ps -q").prints("");
        docker.sh("docker start again && docker exec again cat hello.txt").prints("again\ninside");

        docker.sh("docker run -d --name web -p 80:8080 web").succeeds();
        docker.place.eventually("the published port answers", || {
            let page = docker.place.get("127.0.0.1:80", "/");
            page.is_some_and(|page| page.contains("served from a container"))
        });
        let address = docker.inspect("web", ".NetworkSettings.IPAddress");
        let page = docker.place.get(&format!("{address}:8080"), "/");
        docker.place.claim("its own address answers", page.is_some());
        docker.sh("docker port web").mentions("8080/tcp -> 0.0.0.0:80");
        docker.sh("docker inspect web").mentions("\"Status\": \"running\"");
        docker.sh("docker inspect --format '{{.HostConfig.Runtime}}' web").prints(runtime_name());
        docker.sh("docker rm web").fails(1, "running");
        docker.sh("docker rm -f web").prints("web");
        let page = docker.place.get("127.0.0.1:80", "/");
        docker.place.claim("the port is closed", page.is_none());

        docker.sh("docker rm -f again isolated").succeeds();
        docker.sh("docker rmi alpine").mentions("Untagged: alpine:latest");
        docker.sh("docker images -q alpine").prints("");
    });
}

#[test]
fn what_is_run_in_a_running_container() {
    with_docker(&json!({}), |docker| {
        docker.sh("docker run -d --name one -e WORD=given alpine sleep 1000").succeeds();
        docker
            .sh("docker exec one sh -c 'echo out; echo error >&2; exit 5'")
            .exits(5)
            .fails(5, "error");
        docker.sh("docker exec -e MORE=too one sh -c 'echo $WORD $MORE'").prints("given too");
        docker.sh("docker exec -w /tmp one pwd").prints("/tmp");
        docker.sh("docker exec -u 1000:50 one id").prints("uid=1000 gid=50 groups=50");
        docker.sh("docker exec -u nobody one id -un").prints("nobody");
        docker.sh("echo typed | docker exec -i one cat").prints("typed");
        docker.sh("docker exec -d one sh -c 'echo later > /later'").succeeds();
        docker.place.eventually("the detached program has run", || {
            docker.sh("docker exec one cat /later").output.stdout == "later\n"
        });
        docker.sh("docker exec one kill -9 $$").output.failure(1);
        docker.sh("docker exec one sh -c 'kill -9 $$'").exits(137);

        let shell = docker
            .place
            .on_terminal("docker exec -it one sh")
            .shows("/ # ")
            .types("tty")
            .shows("/dev/pts/0")
            .gets_size(24, 80);
        let shell = shell.resizes(100, 30).gets_size(30, 100);
        shell.types("exit 4").ends(4);
        // A second one has a terminal of its own, and ^C ends what is at work on it.
        let line = docker.place.on_terminal("docker exec -it one sh -c 'echo at work; sleep 99'");
        line.shows("at work").types("\x03").ends(130);

        // Newer daemons have the client say so on stdout, and exit as for `docker run`.
        let (missing, unknown) = if is_current() { (127, 1) } else { (126, 126) };
        let exec = |line: &str| docker.sh(&format!("docker exec {line} >&2"));
        exec("one no-such-program").fails(missing, "executable file not found in $PATH");
        exec("one /etc/passwd").fails(126, "permission denied");
        exec("one /etc").exits(126);
        exec("-w /nowhere one pwd").fails(missing, "/nowhere");
        exec("-u stranger one id").fails(unknown, "stranger");
        docker.sh("docker exec one id -u").prints("0");
    });
}

#[test]
fn a_running_container_is_watched_and_changed() {
    with_docker(&json!({}), |docker| {
        let id =
            docker.sh("docker run -d --name one -m 64m alpine sh -c 'echo began; exec sleep 1000'");
        let id = id.succeeds().text().to_owned();
        docker.sh("docker logs one").prints("began");
        docker.sh("docker top one").mentions("sleep 1000");
        docker.sh("docker top one -o pid,args").mentions("sleep 1000");
        docker
            .sh("docker stats --no-stream --format '{{.Name}} {{.PIDs}} {{.MemUsage}}' one")
            .mentions("one 1 ")
            .mentions("/ 64MiB");

        docker.sh("docker pause one").prints("one");
        let bed = docker.place.bed;
        let (file, [frozen, thawed]) =
            bed.by_version(("freezer.state", ["FROZEN", "THAWED"]), ("cgroup.freeze", ["1", "0"]));
        docker.place.claim("it is frozen", docker.place.cgroup_file(&id, file) == frozen);
        docker.sh("docker ps").mentions("(Paused)");
        docker.sh("docker exec one true").fails(1, "is paused");
        docker.sh("docker unpause one").prints("one");
        docker.place.claim("it is thawed", docker.place.cgroup_file(&id, file) == thawed);
        docker.sh("docker exec one echo alive").prints("alive");

        docker.sh("docker update --memory 96m --memory-swap -1 --cpus 0.5 --cpu-shares 512 --pids-limit 77 one")
            .prints("one");
        for (file, value) in bed.by_version(
            [
                ("memory.limit_in_bytes", "100663296"),
                ("cpu.cfs_quota_us", "50000"),
                ("cpu.shares", "512"),
                ("pids.max", "77"),
            ],
            [
                ("memory.max", "100663296"),
                ("cpu.max", "50000 100000"),
                ("cpu.weight", cpu_weight("59", "20")),
                ("pids.max", "77"),
            ],
        ) {
            let found = docker.place.cgroup_file(&id, file);
            docker.place.claim(&format!("{file} is {value}, not {found}"), found == value);
        }

        docker.sh("echo copied > ~/file && docker cp ~/file one:/tmp/file").succeeds();
        docker.sh("docker exec one cat /tmp/file").prints("copied");
        docker.sh("docker cp one:/etc/alpine-release - | tar -xO").mentions("3.");
        docker.sh("docker kill one").prints("one");
        docker.becomes("one", ".State.ExitCode", "137");
        docker.sh("docker start one && docker restart -t 1 one").prints("one\none");
        docker.sh("docker stop -t 1 one").prints("one");
        docker.becomes("one", ".State.Status", "exited");
        docker.sh("docker logs one").prints("began\nbegan\nbegan");
        docker.sh("docker rename one two && docker wait two").prints("137");

        // One that heeds signals.
        let script = "trap \"exit 6\" TERM; trap \"echo heard\" USR1; while :; do sleep 0.1; done";
        docker.sh(&format!("docker run -d --name heeds alpine sh -c '{script}'")).succeeds();
        docker.sh("docker kill -s USR1 heeds").prints("heeds");
        docker.place.eventually("it has heard the signal", || {
            docker.sh("docker logs heeds").output.stdout == "heard\n"
        });
        docker.sh("docker stop heeds && docker wait heeds").prints("heeds\n6");
        docker.sh("echo over | docker run --rm -i alpine cat").prints("over");
        docker.sh("docker run --name attached -dit alpine").succeeds();
        let shell = docker.place.on_terminal("docker attach attached");
        shell.types("echo $((40 + 2))").shows("42").types("exit 8").ends(8);
    });
}

#[test]
fn policies_and_checks() {
    with_docker(&json!({}), |docker| {
        docker.sh("docker run -d --name thrice --restart on-failure:2 alpine sh -c 'echo try; exit 3'")
            .succeeds();
        docker.sh("docker run -d --name always --restart always alpine sleep 1000").succeeds();
        docker
            .sh("docker run -d --name healthy --health-cmd 'test -e /ok' --health-interval 500ms \
                   --health-retries 1 alpine sleep 1000")
            .succeeds();
        docker.becomes("healthy", ".State.Health.Status", "unhealthy");
        docker.sh("docker exec healthy touch /ok").succeeds();
        docker.becomes("healthy", ".State.Health.Status", "healthy");

        let first = docker.inspect("always", ".State.Pid");
        docker.sh(&format!("kill -9 {first}")).succeeds();
        docker.becomes("always", ".RestartCount", "1");
        docker.becomes("always", ".State.Running", "true");
        docker
            .place
            .claim("it is another process", docker.inspect("always", ".State.Pid") != first);

        docker.becomes("thrice", ".RestartCount", "2");
        docker.becomes("thrice", ".State.Status", "exited");
        docker.sh("docker logs thrice").prints("try\ntry\ntry");

        docker
            .sh("docker run --name hungry -m 16m --memory-swap 16m alpine \
                   sh -c 'x=x; while :; do x=$x$x; done'")
            .exits(137);
        docker.becomes("hungry", ".State.OOMKilled", "true");
        docker.becomes("hungry", ".State.ExitCode", "137");
    });
}

#[test]
fn what_confines_a_container() {
    with_docker(&json!({}), |docker| {
        let run = |options: &str, script: &str| {
            docker.sh(&format!("docker run --rm {options} alpine sh -c '{script}'"))
        };
        run("", "grep -E \"^(Seccomp|NoNewPrivs):\" /proc/1/status")
            .prints("NoNewPrivs:\t0\nSeccomp:\t2");
        run("", "grep CapEff /proc/1/status").prints("CapEff:\t00000000a80425fb");
        run("", "mount -t tmpfs none /mnt").exits(1);
        run("", "echo 1 > /proc/sysrq-trigger").exits(1);
        run("", "ls -A /proc/acpi /sys/firmware; cat /proc/kcore | head -c 1")
            .mentions("/proc/acpi:");
        run(
            "--read-only --tmpfs /scratch --cap-drop ALL --security-opt no-new-privileges",
            "touch /file; touch /scratch/file && grep -E \"^(CapEff|NoNewPrivs)\" /proc/1/status",
        )
        .prints("CapEff:\t0000000000000000\nNoNewPrivs:\t1");
        run("--cap-drop ALL --cap-add CHOWN", "chown 1:1 /tmp && stat -c %u:%g /tmp").prints("1:1");
        run("--user 1000:1000 --group-add 50", "id; touch /file").fails(1, "Permission denied");
        run("--security-opt seccomp=unconfined", "grep Seccomp: /proc/1/status")
            .prints("Seccomp:\t0");
        run("--ulimit nofile=100:200", "ulimit -n; ulimit -Hn").prints("100\n200");
        run(
            "--sysctl net.ipv4.ip_forward=0 --hostname box",
            "cat /proc/sys/net/ipv4/ip_forward; hostname",
        )
        .prints("0\nbox");
        run("--init", "ps -o pid,args | grep -c [d]ocker-init").prints("1");
        run("--init", "exit 9").exits(9);
        run("--shm-size 1m", "df -k /dev/shm | tail -1").mentions("1024");
        run("--device /dev/fuse", "ls -l /dev/fuse").mentions("crw");
        run("--cpuset-cpus 0", "grep Cpus_allowed_list /proc/1/status")
            .prints("Cpus_allowed_list:\t0");
        run("-v /etc/hostname:/data:ro", "cat /data > /dev/null && touch /data")
            .fails(1, "Read-only");
        run("--mount type=volume,source=kept,target=/kept", "echo kept > /kept/file").succeeds();
        run("--mount type=volume,source=kept,target=/kept", "cat /kept/file").prints("kept");
        docker.sh("docker volume rm kept").prints("kept");
        run("--network none", "ls /sys/class/net").prints("lo");
        run("--network host", "ls /sys/class/net").mentions("docker0");
        run("--uts host", "hostname").prints(docker.sh("hostname").text());
        run("--pid host", "ps -o args | grep -c [d]ockerd").succeeds();

        docker.sh("docker run -d --name one --ipc shareable alpine sleep 1000").succeeds();
        run("--pid container:one", "ps -o pid,args | grep [s]leep").prints("1 sleep 1000");
        run("--network container:one --ipc container:one", "hostname")
            .prints(&docker.inspect("one", ".Config.Hostname"));
        docker.sh("docker run -d --name sharer --pid container:one alpine sleep 2000").succeeds();
        docker
            .sh("docker stop -t 0 sharer && docker inspect --format '{{.State.Running}}' one")
            .prints("sharer\ntrue");
    });
}

#[test]
fn privileged_containers() {
    with_docker(&json!({}), |docker| {
        let runc = "runc fails where it may not grant a capability: unable to apply caps";
        if docker.place.lacks_capabilities() && docker.place.bed.is_peer(runc) {
            return;
        }
        docker.sh("docker run --rm --privileged alpine sh -c 'mount -t tmpfs none /mnt && echo mounted'")
            .prints("mounted");
        docker.sh("docker run --rm --privileged alpine ls /dev/kmsg").prints("/dev/kmsg");
        docker
            .sh("docker run --rm --privileged alpine grep Seccomp: /proc/1/status")
            .prints("Seccomp:\t0");
        docker.sh("docker run -d --name one alpine sleep 1000").succeeds();
        docker
            .sh("docker exec one grep CapEff /proc/self/status")
            .prints("CapEff:\t00000000a80425fb");
        // The filter stays the container's own, so that mount(2) is still refused.
        let answer =
            docker.sh("docker exec --privileged one awk '/CapEff/ {print $2}' /proc/self/status");
        let granted = u64::from_str_radix(answer.text(), 16).unwrap();
        docker.place.claim("it has CAP_SYS_ADMIN", granted & 1 << 21 != 0);
    });
}

#[test]
fn what_cannot_be_run() {
    with_docker(&json!({}), |docker| {
        docker
            .sh("docker run --rm alpine no-such-program")
            .fails(127, "exec: \"no-such-program\": executable file not found in $PATH");
        docker
            .sh("docker run --rm alpine /no/such/program")
            .fails(127, "no such file or directory");
        docker.sh("docker run --rm alpine /etc/passwd").fails(126, "permission denied");
        docker.sh("docker run --rm alpine /etc").exits(126);
        docker.sh("docker run --rm --no-such-flag alpine true").fails(125, "unknown flag");
        docker.sh("docker run --rm --user stranger alpine true").fails(125, "stranger");
        docker.sh("docker run --rm -v /etc/passwd:/bin alpine true").fails(125, "not a directory");
        docker.sh("docker run --name left --device /dev/null:/dev/null:q alpine true").exits(125);
        docker.sh("docker run --rm alpine true").succeeds();
        // What failed is there to be removed.
        docker.sh("docker run --name failed alpine no-such-program").exits(127);
        docker
            .sh("docker inspect --format '{{.State.ExitCode}} {{.State.Status}}' failed")
            .prints("127 created");
        docker.sh("docker rm failed").prints("failed");
    });
}

#[test]
fn users_are_mapped() {
    in_place(&PROGRAMS, |place| {
        place.write("/etc/subuid", "dockremap:100000:65536\n");
        place.write("/etc/subgid", "dockremap:100000:65536\n");
        place.sh("echo dockremap:x:990:990::/:/bin/false >> /etc/passwd").succeeds();
        place.sh("echo dockremap:x:990: >> /etc/group").succeeds();
        let docker = Docker::start(place, &json!({"userns-remap": "dockremap"}));
        let before = place.inventory();
        docker.sh("docker run --rm alpine cat /proc/self/uid_map").mentions("100000");
        docker
            .sh("docker run --rm alpine sh -c 'touch /file; stat -c %u /file; id -u'")
            .prints("0\n0");
        docker.sh("docker run -d --name one -p 81:8080 web").succeeds();
        let pid = docker.inspect("one", ".State.Pid");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        place.claim("its root is the user 100000", status.contains("Uid:\t100000\t100000"));
        place.eventually("the published port answers", || place.get("127.0.0.1:81", "/").is_some());
        docker.sh("docker exec one sh -c 'echo >/file && echo written'").prints("written");
        docker
            .sh("docker run --rm --userns host alpine cat /proc/self/uid_map")
            .mentions("4294967295");
        docker.clear();
        place.claim_nothing_since(&before);
    });
}

#[test]
fn images_are_built() {
    with_docker(&json!({}), |docker| {
        let place = docker.place;
        let context = place.bed.make_directory("context", 0o755);
        let context = context.display();
        place.write(&format!("{context}/file"), "from the context\n");
        place.write(
            &format!("{context}/Dockerfile"),
            "FROM alpine\nARG WORD=none\nENV WORD=$WORD\nCOPY file /file\n\
             RUN echo built as $(id -un) > /built && cat /file >> /built\n\
             USER nobody\nRUN id -un > /tmp/user\nCMD cat /built /tmp/user; echo $WORD\n",
        );
        docker
            .sh(&format!("docker build -t built --build-arg WORD=given {context}"))
            .mentions("Successfully tagged built:latest");
        docker.sh("docker run --rm built").prints("built as root\nfrom the context\nnobody\ngiven");
        place.write(&format!("{context}/Dockerfile"), "FROM alpine\nRUN exit 3\n");
        docker.sh(&format!("docker build {context}")).fails(3, "returned a non-zero code: 3");
        docker.sh("docker run --name changed alpine touch /changed && docker commit changed committed")
            .mentions("sha256:");
        docker.sh("docker run --rm committed ls /changed").prints("/changed");
    });
}

#[test]
fn a_daemon_comes_back() {
    with_docker(&json!({"live-restore": true}), |docker| {
        docker.sh("docker run -d --name kept alpine sh -c 'sleep 3; exec sleep 1000'").succeeds();
        let pid = docker.inspect("kept", ".State.Pid");
        docker.restart(Signal::SIGTERM);
        docker.becomes("kept", ".State.Pid", &pid);
        docker.sh("docker exec kept echo still there").prints("still there");
        docker.restart(Signal::SIGKILL);
        docker.becomes("kept", ".State.Pid", &pid);
        docker.sh("docker exec kept echo still there").prints("still there");
        docker.sh("docker stop -t 1 kept").prints("kept");
    });
    with_docker(&json!({}), |docker| {
        docker.sh("docker run -d --name again --restart always alpine sleep 1000").succeeds();
        let pid = docker.inspect("again", ".State.Pid");
        docker.restart(Signal::SIGKILL);
        docker.becomes("again", ".State.Running", "true");
        docker.place.claim("it was started again", docker.inspect("again", ".State.Pid") != pid);
    });
}

#[test]
fn builds_with_buildkit_call_what_is_named_runc() {
    in_place(&PROGRAMS, |place| {
        let docker = Docker::start(place, &json!({}));
        // BuildKit in this daemon does not ask which runtime is the default one.
        let link = place.bed.directory.join("bin/runc");
        std::os::unix::fs::symlink(&runtime().program, link).unwrap();
        let context = place.bed.make_directory("context", 0o755);
        let context = context.display();
        place.write(
            &format!("{context}/Dockerfile"),
            "FROM alpine\nRUN echo built > /built\nRUN --mount=type=tmpfs,target=/scratch \
             grep -q /scratch /proc/mounts && cat /proc/self/cgroup > /groups\n",
        );
        // The client of docker.io: a newer one wants its plugin buildx.
        let line = format!("DOCKER_BUILDKIT=1 /usr/bin/docker build -t built {context}");
        docker.sh(&line).succeeds();
        docker.sh("docker run --rm built cat /built").prints("built");
        // The first build makes a cgroup that all later ones share.
        let before = place.inventory();
        docker.sh(&line.replace("build ", "build --no-cache ")).succeeds();
        place.claim_nothing_since(&before);
        place.remove_group("buildkit");
    });
}
